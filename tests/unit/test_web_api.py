"""The API: what the records hold, in one form, and acts that answer with what was done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.client import Client
from penstock.domain import RunState
from penstock.errors import ConflictError, NotFoundError, StoppedError, UsageError
from penstock.records import fleet, runs, watch
from penstock.web.events import standing
from penstock.web.log_routes import log_piece
from tests.unit import web_seed
from tests.unit.web_rig import House, get, house, listening, send


@pytest.fixture
def home(tmp_path: Path) -> House:
    return house(tmp_path)


def data(home: House, path: str, **more: Any) -> Any:
    answer = get(home, path, **more)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["schema"].startswith("penstock.")
    return document["data"]


def error(home: House, method: str, path: str, **more: Any) -> tuple[int, str]:
    answer = send(home, method, path, **more)
    return answer.status_code, answer.json()["error"]["code"]


def states(of: House) -> dict[str, str]:
    return {row["name"]: row["state"] for row in data(of, "/api/models")["models"]}


def test_each_model_shows_the_worst_that_is_true_of_it() -> None:
    home, _ = web_seed.shared_town()

    assert states(home) == {
        "churn-telecom": "Degraded",
        "stock-level": "Failed",
        "price-elasticity-de": "Rolled back",
        "credit-default": "Approval",
        "claims-triage": "Drifting",
        "lead-scoring-sme": "Check overdue",
        "demand-forecast-fr": "Building",
        "fraud-card": "Canary",
    }


def test_the_worst_stands_first_and_pages_neither_lose_nor_repeat_a_model() -> None:
    home, _ = web_seed.shared_town()
    seen: list[str] = []
    after: str | None = None
    with home.database.read() as connection:
        while True:
            page = fleet.fleet(connection, now=home.now, after=after, most=3)
            seen += [row.state for row in page.rows]
            after = page.next
            if after is None:
                break

    assert page.total == 8
    assert seen == sorted(seen, key=fleet.STATES.index)
    assert len(seen) == 8


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("q=churn", ["churn-telecom"]),
        ("q=MARKETING", ["churn-telecom", "lead-scoring-sme"]),
        ("q=%25", []),
        ("team=Fraud", ["fraud-card"]),
        ("risk=high", []),
        ("state=Failed,Canary", ["stock-level", "fraud-card"]),
        ("state=Nonsense", []),
    ],
)
def test_filters_answer_in_the_database(query: str, names: list[str]) -> None:
    home, _ = web_seed.shared_town()

    told = data(home, f"/api/models?{query}")

    assert [row["name"] for row in told["models"]] == names
    assert told["total"] == len(names)


def test_a_cursor_that_is_none_is_refused(home: House) -> None:
    assert error(home, "GET", "/api/models?after=x") == (400, "PS124")


def test_a_model_that_serves_and_was_looked_at_is_healthy(home: House) -> None:
    web_seed.live(home, "spam")

    assert states(home) == {"spam": "Healthy"}


def test_a_model_in_production_that_nobody_looks_at_is_never_healthy(home: House) -> None:
    web_seed.live(home, "spam")
    home.later(hours=23)
    assert states(home) == {"spam": "Healthy"}

    home.later(hours=4)

    assert states(home) == {"spam": "Check overdue"}


def test_checks_that_decide_nothing_for_three_periods_are_no_better_than_none(home: House) -> None:
    from penstock.domain import CheckResult, Verdict

    web_seed.live(home, "spam")
    for _ in range(4):
        home.later(days=1)
        due = home.now.isoformat(timespec="microseconds")
        blind = CheckResult("service.errors", Verdict.UNDECIDED, "no requests")
        with home.database.write() as connection:
            occasion = f"monitor:spam:day:{due}"
            runs.add_results(connection, ("spam", 1), occasion, [blind], now=home.now)
    monitor = _monitor(home, "spam")
    with home.database.write() as connection:
        watch.advance(connection, monitor, home.later(hours=1))
    assert states(home) == {"spam": "Check overdue"}

    web_seed.period(home, "spam", 1)

    assert states(home) == {"spam": "Healthy"}


def _monitor(home: House, name: str) -> Any:
    with home.database.read() as connection:
        return watch.monitors(connection, name)[0]


def test_a_failed_run_on_a_try_out_branch_leaves_the_model_healthy(home: House) -> None:
    web_seed.live(home, "spam")
    tried = home.move(home.push("spam", branch="try"), RunState.BUILDING)
    home.move(tried, RunState.FAILED, "it broke", ended_by="check")

    assert states(home) == {"spam": "Healthy"}


def test_a_model_is_failed_until_a_newer_version_serves(home: House) -> None:
    failed = home.move(home.push("spam"), RunState.BUILDING)
    home.move(failed, RunState.FAILED, "it broke", ended_by="check")
    assert states(home) == {"spam": "Failed"}

    web_seed.live(home, "spam")

    assert states(home) == {"spam": "Healthy"}


def test_a_model_without_a_version_in_production_says_so(home: House) -> None:
    run = home.push("spam")
    assert states(home) == {"spam": "Queued"}

    home.control.acts.abort("ines", run.id, "a mistake")

    assert states(home) == {"spam": "Not in production"}


def test_a_held_rollout_is_paused_and_going_back_after_release_is_rolled_back(
    home: House,
) -> None:
    web_seed.live(home, "spam")
    run = web_seed.check_in_test(home, web_seed.build(home, home.push("spam")))
    web_seed.ask(home, run)
    going = web_seed.release(home, run)
    send(home, "POST", "/api/models/spam/pause")
    assert states(home) == {"spam": "Paused"}

    send(home, "POST", "/api/models/spam/promote", json={"to": 100})
    assert states(home) == {"spam": "Healthy"}
    told = send(home, "POST", "/api/models/spam/rollback", json={"reason": "complaints"}).json()

    assert told["data"]["text"] == "spam@1 gets all requests."
    assert states(home) == {"spam": "Rolled back"}
    assert data(home, f"/api/rollouts/{going.id}")["rollout"]["state"] == "full"


def test_the_client_reads_all_of_it() -> None:
    home, numbers = web_seed.shared_town()
    with listening(home) as url:
        client = Client(url)

        assert client.health()["models"]["Approval"] == 1
        assert client.status("credit-default")["champion"] == 1
        assert client.status("credit-default")["quality"] == "AUC 0.827"
        assert client.run(numbers["waiting"])["approval"] == numbers["approval"]
        assert client.runs("credit-default")["runs"][0]["id"] == numbers["waiting"]
        assert client.approvals()["approvals"][0]["id"] == numbers["approval"]
        approval = client.approval(numbers["approval"])
        assert approval["markdown"].startswith("# Put credit-default v2 into production?")
        assert client.rollout(numbers["canary"])["batches"][0]["counts"]["challenger"]
        entries = client.history("credit-default")["entries"]
        assert entries[0]["action"] == "approval.asked"
        assert "credit-default@2" in entries[0]["text"]
        first = client.journal()["entries"]
        assert [entry["seq"] for entry in first[:2]] == [1, 2]
        assert client.journal(after=first[-1]["seq"])["entries"][0]["seq"] == first[-1]["seq"] + 1
        assert client.monitor("churn-telecom")["periods"][0]["results"][0]["check"] == "drift.age"
        assert "epoch 1" in client.log(numbers["failed"])["text"]
        assert list(client.logs(numbers["waiting"]))[-1] == "exit 6"


def test_the_client_does_all_of_it(home: House) -> None:
    web_seed.live(home, "spam")
    run = web_seed.check_in_test(home, web_seed.build(home, home.push("spam")))
    asked = web_seed.ask(home, run)
    with listening(home) as url:
        client = Client(url)

        with pytest.raises(UsageError, match="PS407"):
            client.reject(asked, "")
        assert "rejected" in client.reject(asked, "not now")["text"]
        with pytest.raises(ConflictError, match="PS406"):
            client.approve(asked)
        assert client.label("spam", {"p1": 1, "p2": 0})["kept"] == 2
        assert client.label("spam", b"id,value\np2,1\np3,0\n")["new"] == 1
        assert client.monitor("spam", run="day")["occasion"].startswith("monitor:spam:day:")
        with pytest.raises(NotFoundError, match="PS610"):
            client.monitor("spam", run="hour")
        with pytest.raises(NotFoundError, match="PS105"):
            client.status("nobody")
        failed = home.move(home.push("spam"), RunState.BUILDING)
        home.move(failed, RunState.FAILED, "it broke", ended_by="error")
        assert "attempt 2" in client.retry(failed.id)["text"]
        assert "ends" in client.abort(failed.id, "enough")["text"]


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/api/approvals/1/approve", b"{", "PS828"),
        ("/api/approvals/1/approve", b'{"reason": 1}', "PS828"),
        ("/api/approvals/1/approve", b'{"resaon": "x"}', "PS828"),
        ("/api/models/spam/promote", b'{"to": "all"}', "PS828"),
        ("/api/models/spam/monitor", b"", "PS828"),
        ("/api/models/spam/labels", b"[]", "PS829"),
        ("/api/models/spam/labels", b'{"labels": [{"id": "p"}]}', "PS829"),
        ("/api/models/spam/labels", b'{"labels": [{"id": "p", "value": null}]}', "PS829"),
        ("/api/models/spam/labels", b'{"labels": [{"id": "p", "value": [1]}]}', "PS829"),
        ("/api/runs/x/retry", b"", "PS828"),
    ],
)
def test_what_is_not_understood_is_refused(home: House, path: str, body: bytes, code: str) -> None:
    home.push("spam")

    assert error(home, "POST", path, content=body) == (400, code)


@pytest.mark.parametrize("body", [b"name,value\np,1\n", b"\xff\xfe", b"id,value\np\n"])
def test_labels_that_are_no_csv_are_refused(home: House, body: bytes) -> None:
    home.push("spam")

    got = error(
        home,
        "POST",
        "/api/models/spam/labels",
        content=body,
        headers={"Content-Type": "text/csv"},
    )

    assert got == (400, "PS829")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/runs/9"),
        ("GET", "/api/runs/9/log"),
        ("GET", "/api/runs/9/stream"),
        ("GET", "/api/approvals/9"),
        ("GET", "/api/rollouts/9"),
        ("GET", "/api/models/nobody/history"),
        ("GET", "/api/models/nobody/monitor"),
        ("GET", "/api/runs?model=nobody"),
        ("POST", "/api/runs/9/abort"),
        ("POST", "/api/approvals/9/approve"),
        ("POST", "/api/models/nobody/labels"),
        ("POST", "/api/models/nobody/rollback"),
    ],
)
def test_what_is_not_there_is_not_found_with_a_hint(home: House, method: str, path: str) -> None:
    body: dict[str, Any] = {"json": {"labels": []}} if path.endswith("labels") else {}

    answer = send(home, method, path, **body)

    assert answer.status_code == 404
    assert answer.json()["error"]["next"][0]


def test_a_log_is_read_in_pieces_and_none_is_lost(home: House) -> None:
    run = home.move(home.push(), RunState.BUILDING)
    home.step(run, ("build", "train"), log="".join(f"line {n}\n" for n in range(9000)))
    home.step(run, ("build", "store"), log="stored\n")
    at = standing(home.control, run.id)
    text, after, more = "", 0, True
    while more:
        piece = log_piece(home.control, at, None, after)
        text, after, more = text + piece["text"], piece["next"], piece["more"]

    assert text.splitlines() == [*(f"line {n}" for n in range(9000)), "stored"]
    assert log_piece(home.control, at, "store", 0)["text"] == "stored\n"
    assert log_piece(home.control, at, "build/store", 0)["ended"] is False


def test_a_step_that_has_not_begun_has_no_log(home: House) -> None:
    run = home.push()

    assert error(home, "GET", f"/api/runs/{run.id}/log?step=train") == (404, "PS836")


def test_the_author_cannot_approve_where_there_are_accounts(home: House) -> None:
    run = web_seed.check_in_test(home, web_seed.build(home, home.push("spam", pusher="ines")))
    asked = web_seed.ask(home, run)
    author = home.token("ines", "read:*", "approve:*")
    other = home.token("maya", "read:*", "approve:*")
    path = f"/api/approvals/{asked}/approve"

    refused = error(home, "POST", path, headers={"Authorization": f"Bearer {author}"})
    approved = send(home, "POST", path, headers={"Authorization": f"Bearer {other}"})

    assert refused == (403, "PS408")
    assert approved.json()["data"]["text"] == "spam@1 is approved and goes to production."
    assert (
        data(home, f"/api/approvals/{asked}", headers={"Authorization": f"Bearer {other}"})[
            "votes"
        ][0]["actor"]
        == "maya"
    )


def test_errors_raised_by_the_server_reach_the_client_as_the_same_kind(home: House) -> None:
    run = home.push()
    with listening(home) as url:
        client = Client(url)

        with pytest.raises(ConflictError, match="PS108"):
            client.retry(run.id)
        home.push("spam")
        with pytest.raises(ConflictError, match="PS410"):
            client.pause("spam")


def test_a_refused_configuration_lists_its_faults(home: House) -> None:
    headers = {"Penstock-Hook": home.control.hook_secret}
    body = {"model": "spam", "ref": "refs/heads/main", "commit": "a" * 40, "config": "x = 1\n"}

    told = send(home, "POST", "/internal/git/check", json=body, headers=headers).json()["data"]

    assert told["ok"] is False
    assert any("PS012" in line for line in told["lines"])
    assert StoppedError.exit_code == 5


def test_ten_thousand_models_are_one_page_of_a_hundred(home: House) -> None:
    import time

    import sqlalchemy as sa

    from penstock.records.schema import model

    home.push("m-00001")
    with home.database.write() as connection:
        connection.execute(
            sa.insert(model),
            [{"name": f"x-{n:05}", "created_at": home.now} for n in range(9_999)],
        )
    began = time.process_time()

    told = data(home, "/api/models")

    assert (len(told["models"]), told["total"]) == (100, 10_000)
    assert time.process_time() - began < 5  # the bound that matters is measured in bench


# ---- experiments ----


def test_experiments_are_those_of_the_newest_build_that_has_ended_or_of_the_one_named(
    home: House,
) -> None:
    first = home.push("churn")
    second = home.push("churn")
    home.push("churn")
    for run, name in ((first, "a"), (second, "b")):
        report = home.control.home / "runs" / str(run.id) / "reports" / "tracking.json"
        report.parent.mkdir(parents=True)
        report.write_text(f'{{"runs": [{{"name": "{name}"}}], "models": []}}')

    newest = data(home, "/api/models/churn/experiments")
    named = data(home, "/api/models/churn/experiments?number=1")

    assert (newest["number"], newest["run"], newest["runs"]) == (2, second.id, [{"name": "b"}])
    assert (named["number"], named["runs"]) == (1, [{"name": "a"}])
    assert error(home, "GET", "/api/models/churn/experiments?number=3") == (404, "PS125")
    assert error(home, "GET", "/api/models/churn/experiments?number=9") == (404, "PS109")
    assert error(home, "GET", "/api/models/none/experiments") == (404, "PS105")
