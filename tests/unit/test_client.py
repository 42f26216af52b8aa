"""The Python client against a real HTTP server on the loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from typing import Any

import pytest

import penstock
from penstock.client import Client
from penstock.errors import (
    ConflictError,
    IntegrityError,
    NotAllowedError,
    NotFoundError,
    PenstockError,
    StoppedError,
    UnreachableError,
    UsageError,
)
from tests.unit.penstock_server import Answer, FakeServer, serving


@pytest.fixture
def server() -> Generator[FakeServer]:
    with serving() as fake:
        yield fake


CALLS: list[tuple[Callable[[Client], Any], str, Any]] = [
    (lambda c: c.health(), "GET /api/health", None),
    (lambda c: c.status(), "GET /api/models", None),
    (lambda c: c.status("a/b"), "GET /api/models/a%2Fb", None),
    (lambda c: c.list("cr", after="x"), "GET /api/models?q=cr&after=x", None),
    (lambda c: c.history("m"), "GET /api/models/m/history", None),
    (lambda c: c.run(7), "GET /api/runs/7", None),
    (lambda c: c.runs("m"), "GET /api/runs?model=m", None),
    (lambda c: c.rollout(3), "GET /api/rollouts/3", None),
    (lambda c: c.journal(after=9), "GET /api/journal?after=9", None),
    (lambda c: c.log(7, step="train"), "GET /api/runs/7/log?step=train&after=0", None),
    (lambda c: c.approvals(), "GET /api/approvals", None),
    (lambda c: c.approval(4), "GET /api/approvals/4", None),
    (lambda c: c.approve(4, "good"), "POST /api/approvals/4/approve", {"reason": "good"}),
    (lambda c: c.reject(4, "bad"), "POST /api/approvals/4/reject", {"reason": "bad"}),
    (lambda c: c.abort(7), "POST /api/runs/7/abort", {"reason": ""}),
    (lambda c: c.retry(7), "POST /api/runs/7/retry", {}),
    (lambda c: c.promote("m", to=25), "POST /api/models/m/promote", {"to": 25, "reason": ""}),
    (lambda c: c.pause("m", "lunch"), "POST /api/models/m/pause", {"reason": "lunch"}),
    (lambda c: c.resume("m"), "POST /api/models/m/resume", {"reason": ""}),
    (lambda c: c.rollback("m", to=3), "POST /api/models/m/rollback", {"to": 3, "reason": ""}),
    (
        lambda c: c.label("m", {"p1": 1}),
        "POST /api/models/m/labels",
        {"labels": [{"id": "p1", "value": 1}]},
    ),
    (
        lambda c: c.label("m", [{"id": "p1", "value": "yes"}]),
        "POST /api/models/m/labels",
        {"labels": [{"id": "p1", "value": "yes"}]},
    ),
    (lambda c: c.monitor("m"), "GET /api/models/m/monitor", None),
    (lambda c: c.monitor("m", run="day"), "POST /api/models/m/monitor", {"run": "day"}),
]


@pytest.mark.parametrize(("call", "what", "body"), CALLS, ids=[what for _, what, _ in CALLS])
def test_each_method_is_one_request(
    server: FakeServer, call: Callable[[Client], Any], what: str, body: Any
) -> None:
    server.tell(what, {"is": "told"})

    answer = call(Client(server.url))

    assert answer == {"is": "told"}
    assert len(server.asked) == 1
    assert body is None or server.asked[0].json == body


def test_a_token_travels_in_the_header(server: FakeServer) -> None:
    server.tell("GET /api/health", {})

    Client(server.url, "pst_1_x").health()

    assert server.asked[0].headers["authorization"] == "Bearer pst_1_x"


def test_a_redirect_is_not_followed_so_the_token_stays_here(server: FakeServer) -> None:
    server.answers["GET /api/health"] = Answer(b"", 302, headers={"Location": "/api/models"})

    with pytest.raises(UnreachableError, match="PS802"):
        Client(server.url, "pst_1_x").health()

    assert [asked.path for asked in server.asked] == ["/api/health"]


def test_labels_can_be_a_csv_file(server: FakeServer) -> None:
    server.tell("POST /api/models/m/labels", {"kept": 1, "new": 1})

    Client(server.url).label("m", b"id,value\np1,1\n")

    assert server.asked[0].headers["content-type"] == "text/csv"
    assert server.asked[0].body == b"id,value\np1,1\n"


def test_lines_of_a_run_come_one_by_one(server: FakeServer) -> None:
    server.lines("GET /api/runs/7/stream", "building\n\u2713 train\nexit 0\n")

    assert list(Client(server.url).logs(7)) == ["building", "✓ train", "exit 0"]


def test_predict_speaks_the_inference_protocol(server: FakeServer) -> None:
    server.answers["POST /v2/models/m/infer"] = Answer(b'{"outputs": []}')
    client = Client(server.url, predict_url=server.url)

    answer = client.predict(
        "m", {"age": [1, None], "pay": [1.5, 2], "sex": ["f", "m"], "ok": [True, False]}
    )

    assert answer == {"outputs": []}
    inputs = server.asked[0].json["inputs"]
    assert [one["datatype"] for one in inputs] == ["INT64", "FP64", "BYTES", "BOOL"]
    assert inputs[0] == {"name": "age", "shape": [2], "datatype": "INT64", "data": [1, None]}


def test_what_json_cannot_say_is_refused_before_it_is_sent(server: FakeServer) -> None:
    client = Client(server.url, predict_url=server.url)

    with pytest.raises(UsageError, match="PS805"):
        client.predict("m", {"x": [float("nan")]})

    assert server.asked == []


def test_predictions_are_asked_at_the_next_port() -> None:
    assert Client("http://ml.example:8420").predict_url == "http://ml.example:8421"
    assert Client("http://[::1]:8420").predict_url == "http://[::1]:8421"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, UsageError),
        (401, NotAllowedError),
        (403, NotAllowedError),
        (404, NotFoundError),
        (409, ConflictError),
        (422, StoppedError),
        (500, PenstockError),
        (503, UnreachableError),
    ],
)
def test_an_error_arrives_as_the_class_that_the_server_raised(
    server: FakeServer, status: int, kind: type[PenstockError]
) -> None:
    error = {"code": "PS999", "message": "It broke.", "cause": "Rust.", "next": ["do a", "do b"]}
    server.refuse("GET /api/health", status, error)

    with pytest.raises(PenstockError) as caught:
        Client(server.url).health()

    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.what) == ("PS999", "It broke. Rust.")
    assert caught.value.hint == "do a   do b"


def test_a_broken_journal_keeps_its_own_exit_code(server: FakeServer) -> None:
    server.refuse("GET /api/journal?after=0", 500, {"code": "PS701", "message": "x", "next": []})

    with pytest.raises(IntegrityError):
        Client(server.url).journal()


def test_the_gateways_flat_error_is_understood(server: FakeServer) -> None:
    flat = b'{"error": "No column agee.", "code": "PS551", "hint": "Did you mean age?"}'
    server.answers["POST /v2/models/m/infer"] = Answer(flat, 400)

    with pytest.raises(UsageError, match=r"PS551 No column agee\.\n  -> Did you mean age\?"):
        Client(server.url, predict_url=server.url).predict("m", {"agee": [1]})


def test_a_proxys_refusal_asks_for_a_token(server: FakeServer) -> None:
    server.answers["GET /api/health"] = Answer(b"<html>", 401, "text/html")

    with pytest.raises(NotAllowedError, match="PS803"):
        Client(server.url).health()


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[]", b'{"hello": 1}'])
def test_another_program_at_the_port_is_named_as_such(server: FakeServer, body: bytes) -> None:
    server.answers["GET /api/health"] = Answer(body)

    with pytest.raises(UnreachableError, match="PS802"):
        Client(server.url).health()


def test_a_server_that_is_not_there_is_said_in_one_sentence() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

    with pytest.raises(UnreachableError) as caught:
        Client(url).status()

    assert (caught.value.code, caught.value.exit_code) == ("PS801", 8)
    assert caught.value.what == f"Cannot reach {url} (connection refused)."


def test_a_server_that_never_answers_is_left_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05)

        with pytest.raises(UnreachableError, match="no answer in time"):
            client.health()


@pytest.mark.parametrize(
    "url", ["ml.example:8420", "ftp://x", "http://", "http://u:p@x", "http://x?y=1", "http://x:a"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="PS804"):
        Client(url)


def test_the_package_offers_the_client_and_costs_nothing_to_import() -> None:
    code = (
        "import sys, penstock; assert 'urllib.request' not in sys.modules;"
        "print(penstock.Client.__module__)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert (done.stdout.strip(), done.stderr) == ("penstock.client", "")
    assert penstock.Client is Client
    with pytest.raises(AttributeError, match="Clint"):
        _ = penstock.Clint
