"""The rows of the prediction log, as the API, the pages and the terminal give them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from penstock.cli.commands import app
from penstock.domain import Environment
from penstock.inference.prediction_log.records import Entry, Outcome
from penstock.inference.prediction_log.segments import PredictionLog
from penstock.inference.prediction_log.table import Of
from penstock.inference.program.frames import INVOCATIONS
from penstock.pipeline.prediction_logs import PredictionLogs
from penstock.records import labels
from tests.unit.web_rig import House, get, house, listening

MODEL = "credit-default"


def logged(of: House, *, ago_s: float, **facts: Any) -> Entry:
    at = int((of.now - timedelta(seconds=ago_s)).timestamp() * 1e6)
    age = facts.pop("age", 40)
    made = Entry(
        arrived_us=at,
        ended_us=at + 2500,
        number=1,
        role="champion",
        status=200,
        outcome=Outcome.ANSWERED,
        generation=1,
        rows=1,
        kind=INVOCATIONS,
        id="r1",
        request=json.dumps({"inputs": {"age": [age]}}).encode(),
        reply=b'{"predictions": [1], "probabilities": [[0.25, 0.75]]}',
    )
    return made._replace(**facts)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    of = house(tmp_path_factory.mktemp("home"))
    for _ in range(2):
        of.seal(of.push())
    of.later(hours=3)
    logs = PredictionLogs(of.control.home, of.database)
    log = PredictionLog(of.control.home / "log", clock_us=lambda: int(of.now.timestamp() * 1e6))
    log.append("production", MODEL, [logged(of, ago_s=9000), logged(of, ago_s=8000, id="r2")])
    log.close()
    assert logs.tabulate(Of(Environment.PRODUCTION, MODEL), of.now) == 1
    log = PredictionLog(of.control.home / "log", clock_us=lambda: int(of.now.timestamp() * 1e6))
    failed = {"status": 504, "code": "PS504", "outcome": Outcome.FAILED, "reply": b""}
    rows = b'{"inputs": {"age": [50, 60]}}'
    log.append(
        "production",
        MODEL,
        [
            logged(of, ago_s=30, id="r3", number=2, role="challenger", **failed),
            logged(of, ago_s=20, id="=r4", request=rows, reply=b'{"predictions": [0, 1]}'),
            logged(of, ago_s=10, id="<b>r5", age=99),
        ],
    )
    with of.database.write() as connection:
        known = [labels.Label("r1", "0"), labels.Label("=r4.1", "1")]
        labels.keep(connection, MODEL, known, now=of.now)
    yield of
    log.close()


def rows(of: House, query: str = "") -> list[dict[str, Any]]:
    answer = get(of, f"/api/models/{MODEL}/predictions{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]["predictions"]


def ids(found: list[dict[str, Any]]) -> list[str]:
    return [one["prediction_id"] for one in found]


def test_rows_come_newest_first_with_inputs_answer_and_label(served: House) -> None:
    found = rows(served)

    assert ids(found) == ["<b>r5", "=r4.0", "=r4.1", "r3", "r2", "r1"]
    newest, oldest = found[0], found[-1]
    assert (newest["inputs"], newest["prediction"], newest["score"]) == ({"age": 99}, "1", 0.75)
    assert newest["probabilities"] == [0.25, 0.75]
    assert newest["ts"].endswith("+00:00")
    assert (oldest["label"], newest["label"]) == ("0", None)
    assert found[2]["label"] == "1"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?id=%3Dr4", ["=r4.0", "=r4.1"]),
        ("?id=%3Dr4.1", ["=r4.1"]),
        ("?id=r1", ["r1"]),
        ("?id=r", []),
        ("?version=2", ["r3"]),
        ("?arm=challenger", ["r3"]),
        ("?errors=1", ["r3"]),
        ("?limit=2", ["<b>r5", "=r4.0"]),
        ("?since=2026-11-23T14:00", ["<b>r5", "=r4.0", "=r4.1", "r3"]),
        ("?until=2026-11-23T14:00:00Z", ["r2", "r1"]),
        ("?environment=test", []),
    ],
)
def test_rows_are_chosen(served: House, query: str, expected: list[str]) -> None:
    assert ids(rows(served, query)) == expected


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("?since=yesterday", 400, "PS683"),
        ("?format=xml", 400, "PS684"),
        ("?limit=20000", 400, "PS684"),
        ("?limit=0", 400, "PS828"),
        ("?version=x", 400, "PS828"),
    ],
)
def test_what_cannot_be_asked_is_said(served: House, query: str, status: int, code: str) -> None:
    answer = get(served, f"/api/models/{MODEL}/predictions{query}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_model_that_is_not_there_has_no_rows(served: House) -> None:
    assert get(served, "/api/models/nobody/predictions").status_code == 404
    assert get(served, "/models/nobody/predictions").status_code == 404
    assert not (served.control.home / "parquet" / "production" / "nobody").exists()


def test_rows_are_had_as_a_file(served: House) -> None:
    text = get(served, f"/api/models/{MODEL}/predictions?format=csv").text
    content = get(served, f"/api/models/{MODEL}/predictions?format=parquet").content

    found = list(csv.DictReader(io.StringIO(text)))
    table = pq.read_table(pa.BufferReader(content))
    assert [one["prediction_id"] for one in found] == [
        *("<b>r5", "'=r4.0", "'=r4.1", "r3", "r2", "r1")  # no sheet takes an id for a formula
    ]
    assert found[0]["probabilities"] == "[0.25, 0.75]"
    assert table["prediction_id"].to_pylist()[1] == "=r4.0"
    assert table.num_rows == 6


def test_the_page_shows_rows_and_leads_to_each(served: House) -> None:
    page = get(served, f"/models/{MODEL}/predictions").text
    one = get(served, f"/models/{MODEL}/predictions?id=r1").text
    none = get(served, f"/models/{MODEL}/predictions?id=r9")
    empty = get(served, f"/models/{MODEL}/predictions?arm=warm").text

    assert "Error PS504" in page
    assert "?id=%3Cb%3Er5" in page
    assert "<b>r5" not in page
    assert "age" in one
    assert "0.750" in one
    assert (none.status_code, "PS685" in none.text) == (404, True)
    assert "No prediction that fits" in empty
    assert f'href="/models/{MODEL}/predictions"' in get(served, f"/models/{MODEL}").text


def test_rows_are_for_those_who_may_read_the_model(served: House, tmp_path: Path) -> None:
    of = house(tmp_path)
    of.seal(of.push())
    token = of.token("mia", "read:other")

    for path in (f"/api/models/{MODEL}/predictions", f"/models/{MODEL}/predictions"):
        refused = get(of, path, headers={"Authorization": f"Bearer {token}"})
        assert refused.status_code == 403


@pytest.fixture(scope="module")
def address(served: House) -> Generator[str]:
    with listening(served) as at:
        yield at


def terminal(address: str, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["--server", address, *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_terminal_prints_rows(address: str, tmp_path: Path) -> None:
    listed = terminal(address, "logs", MODEL, "--predictions", "--since", "2026-11-23")
    one = terminal(address, "logs", MODEL, "--predictions", "--id", "r1")
    of_version = terminal(address, "logs", f"{MODEL}@2", "--predictions")
    as_csv = terminal(address, "logs", MODEL, "--predictions", "--csv", "--errors")
    target = tmp_path / "rows.parquet"
    terminal(address, "logs", MODEL, "--predictions", "--parquet", str(target))
    as_json = json.loads(terminal(address, "--json", "logs", MODEL, "--predictions"))

    assert listed.count("v1 champion") == 5
    assert "error PS504" in of_version
    assert "input age" in one
    assert len(as_csv.splitlines()) == 2
    assert pq.read_table(target).num_rows == 6
    assert len(as_json["data"]["predictions"]) == 6


def test_options_of_predictions_without_them_are_refused(address: str) -> None:
    done = CliRunner().invoke(app, ["--server", address, "logs", MODEL, "--csv"])

    assert done.exit_code != 0
