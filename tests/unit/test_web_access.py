"""Who may ask at all: every route, found by walking the application, keeps the same rules."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Mount

from tests.unit.web_rig import House, get, house, send

HOOK = {"Penstock-Hook": "a secret of the hooks"}


@pytest.fixture
def home(tmp_path: Path) -> House:
    return house(tmp_path)


def routes(home: House) -> Iterator[tuple[str, str]]:
    """Yield method and path of everything that the application answers."""
    app = cast("FastAPI", home.app.app)
    for path, methods in _paths(app.routes):
        filled = path.replace("{page:path}", "models")
        for name in ("name", "act", "run_id", "approval_id", "rollout_id"):
            filled = filled.replace("{" + name + "}", "1")
        for method in sorted(methods - {"HEAD", "OPTIONS"}):
            yield method, filled


def _paths(found: Any) -> Iterator[tuple[str, set[str]]]:
    for route in found:
        if isinstance(route, Mount):
            yield f"{route.path}/x", {"GET", "POST"}
        elif hasattr(route, "path"):
            yield route.path, set(route.methods or {"GET"})
        else:
            yield from _paths(route.original_router.routes)


def test_the_walk_finds_pages_api_git_and_hooks(home: House) -> None:
    found = set(routes(home))

    assert len(found) > 40
    assert {
        ("GET", "/"),
        ("POST", "/approvals/1"),
        ("POST", "/api/models/1/rollback"),
        ("POST", "/git/x"),
        ("POST", "/internal/git/received"),
        ("GET", "/api/runs/1/stream"),
    } <= found


def test_every_route_needs_a_token_once_one_exists(home: House) -> None:
    home.token("ines", "read:*")

    for method, path in routes(home):
        answer = send(home, method, path)

        assert answer.status_code == 401, (method, path)
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")


def test_every_route_refuses_a_foreign_host(home: House) -> None:
    for method, path in routes(home):
        answer = send(home, method, path, headers={"Host": "evil.example:8420", **HOOK})

        assert answer.status_code == 400, (method, path)
        assert "PS830" in answer.text


def test_every_route_that_changes_something_refuses_a_foreign_page(home: House) -> None:
    for method, path in routes(home):
        if method == "GET":
            continue
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            answer = send(home, method, path, headers={**headers, **HOOK})

            assert answer.status_code == 403, (method, path, headers)
            assert "PS831" in answer.text


@pytest.mark.parametrize(
    "host", ["localhost:8420", "127.0.0.1", "[::1]:8420", "ML.example", "penstock.example"]
)
def test_its_own_names_are_let_in(tmp_path: Path, host: str) -> None:
    home = house(tmp_path, allowed_hosts=["ml.example"], url="https://penstock.example")

    assert get(home, "/api/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["", "127.0.0.1.evil.example", "evil.example:8420", "[::2]:8420"])
def test_other_names_are_not_let_in(home: House, host: str) -> None:
    assert get(home, "/api/health", headers={"Host": host}).status_code == 400


def test_our_own_page_and_programs_may_change_things(home: House) -> None:
    for headers in (
        {"Origin": "http://127.0.0.1:8420"},
        {"Sec-Fetch-Site": "same-origin"},
        {},
    ):
        answer = send(home, "POST", "/api/models/none/pause", headers=headers)

        assert answer.status_code == 404, headers


def test_the_public_address_behind_a_proxy_is_our_own_page(tmp_path: Path) -> None:
    home = house(tmp_path, url="https://penstock.example")

    answer = send(
        home, "POST", "/api/models/none/pause", headers={"Origin": "https://penstock.example"}
    )

    assert answer.status_code == 404


def test_a_foreign_page_cannot_reach_a_repository_by_a_link(home: House) -> None:
    answer = get(
        home,
        "/git/spam/info/refs?service=git-receive-pack",
        headers={"Sec-Fetch-Site": "cross-site"},
    )

    assert answer.status_code == 403
    assert list(home.control.repositories.iterdir()) == []


def test_without_accounts_whoever_sits_at_the_machine_may_do_all(home: House) -> None:
    assert get(home, "/api/health").status_code == 200
    assert get(home, "/").status_code == 200


@pytest.mark.parametrize("form", ["bearer", "basic"])
def test_a_token_lets_in_as_bearer_and_as_password(home: House, form: str) -> None:
    token = home.token("ines", "read:*")
    pair = base64.b64encode(f"whatever:{token}".encode()).decode()
    header = f"Bearer {token}" if form == "bearer" else f"Basic {pair}"

    assert get(home, "/api/health", headers={"Authorization": header}).status_code == 200


@pytest.mark.parametrize(
    "header", ["", "Bearer ", "Bearer pst_00000000_ff", "Basic !!!", "Basic cGFzcw==", "Digest x"]
)
def test_other_words_let_nobody_in(home: House, header: str) -> None:
    home.token("ines", "read:*")

    assert get(home, "/api/health", headers={"Authorization": header}).status_code == 401


def test_a_token_that_has_ended_lets_nobody_in(home: House) -> None:
    token = home.token("ines", "read:*")
    headers = {"Authorization": f"Bearer {token}"}
    assert get(home, "/api/health", headers=headers).status_code == 200

    home.clock[0] += timedelta(days=91)

    assert get(home, "/api/health", headers=headers).status_code == 401


def test_a_token_does_only_what_its_scopes_say(home: House) -> None:
    run = home.push("fraud-card")
    home.push("churn")
    token = home.token("ines", "read:fraud-*")
    headers = {"Authorization": f"Bearer {token}"}

    def status(method: str, path: str) -> int:
        return send(home, method, path, headers=headers).status_code

    assert status("GET", "/api/models/fraud-card") == 200
    assert status("GET", f"/runs/{run.id}") == 200
    assert status("GET", "/api/models/churn") == 403
    assert status("GET", "/api/models") == 403
    assert status("POST", f"/api/runs/{run.id}/abort") == 403
    assert status("POST", "/api/models/fraud-card/rollback") == 403
    assert status("GET", "/git/churn/info/refs?service=git-upload-pack") == 403
    assert status("GET", "/git/fraud-card/info/refs?service=git-receive-pack") == 403


def test_the_hooks_secret_opens_nothing_else(home: House) -> None:
    home.token("ines", "read:*")

    assert get(home, "/api/health", headers=HOOK).status_code == 401
    wrong = {"Penstock-Hook": "a guess"}
    assert send(home, "POST", "/internal/git/check", headers=wrong).status_code == 401


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/runs", 200),
        ("/approvals", 200),
        ("/monitoring", 200),
        ("/audit", 200),
        ("/nothing", 404),
        ("/models/nobody", 404),
        ("/runs/99", 404),
        ("/static/app.css", 200),
        ("/api/health", 200),
    ],
)
def test_every_answer_carries_the_strict_policy(home: House, path: str, status: int) -> None:
    answer = get(home, path)

    assert answer.status_code == status
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_refusal_carries_it_too(home: House) -> None:
    answer = get(home, "/", headers={"Host": "evil.example"})

    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_fault_of_our_own_is_a_sentence_and_carries_it_too(home: House) -> None:
    home.control.database.engine.dispose()
    broken = home.control.home / "penstock.db"
    broken.rename(broken.with_suffix(".gone"))
    broken.mkdir()

    answer = get(home, "/api/health")

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "PS101"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_body_that_is_too_large_is_refused(home: House) -> None:
    home.push("spam")

    answer = send(home, "POST", "/api/models/spam/labels", content=b"x" * (17 * 2**20))

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "PS832"


def test_the_use_of_a_token_is_noted_at_most_once_a_minute(home: House) -> None:
    import asyncio

    from tests.unit.web_rig import client

    token = home.token("ines", "read:*")
    headers = {"Authorization": f"Bearer {token}"}

    async def ask() -> list[httpx.Response]:
        async with client(home, headers=headers) as asking:
            return [await asking.get("/api/health") for _ in range(3)]

    assert {one.status_code for one in asyncio.run(ask())} == {200}
    from penstock.records import tokens

    with home.database.read() as connection:
        assert tokens.listed(connection)[0]["last_used_at"] == home.now
