"""Labels through the API: what becomes of each row, in every form they come in."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.inference.prediction_log.lookup import present
from penstock.inference.prediction_log.records import Entry, Outcome
from penstock.inference.prediction_log.segments import PredictionLog
from penstock.inference.program.frames import V2
from penstock.pipeline.acts import Acts
from penstock.pipeline.labelling import Given
from penstock.web.labels import Sent, rows_of
from tests.unit import web_seed
from tests.unit.web_rig import House, get, house, send

PATH = "/api/models/spam/labels"
AT_US = 1_700_000_000_000_000


@pytest.fixture
def home(tmp_path: Path) -> House:
    made = house(tmp_path)
    web_seed.build(made, made.push("spam"))
    log(made)
    return made


def log(home: House) -> None:
    """Log one request of one row and one of two."""
    kept = PredictionLog(home.control.home / "log", clock_us=lambda: AT_US)
    kept.append("production", "spam", [entry("one", 1), entry("two", 2)])
    kept.close()


def entry(name: str, rows: int) -> Entry:
    age = {"name": "age", "shape": [rows], "datatype": "FP64", "data": [40.0] * rows}
    said = {"name": "prediction", "shape": [rows], "datatype": "INT64", "data": [1] * rows}
    asked = json.dumps({"inputs": [age]}).encode()
    told = json.dumps({"id": name, "outputs": [said]}).encode()
    of = (AT_US, AT_US + 1, 1, "champion", 200, Outcome.ANSWERED, 1, rows, V2)
    return Entry(*of, name, asked, told)


def tell(home: House, *rows: dict[str, Any]) -> httpx.Response:
    return send(home, "POST", PATH, json={"labels": list(rows)})


def test_each_label_has_its_fate(home: House) -> None:
    first = tell(home, {"id": "one", "value": 0}, {"id": "two.1", "value": 1}).json()["data"]
    again = tell(
        home,
        {"prediction_id": "one", "label": 0},
        {"prediction_id": "two.1", "label": 0, "at": "2099-01-31T08:00"},
        {"prediction_id": "later", "label": 1},
        {"prediction_id": "p", "label": None},
        {"prediction_id": "p", "label": 1, "at": "soon"},
    ).json()["data"]

    assert (first["new"], first["matched"], first["unmatched"]) == (2, 2, 0)
    assert [again[key] for key in ("kept", "new", "same", "corrected", "bad")] == [3, 1, 1, 1, 2]
    assert again["examples"]["corrected"] == [{"id": "two.1", "before": "1", "now": "0"}]
    assert again["examples"]["unmatched"] == ["later"]
    assert [one["row"] for one in again["examples"]["bad"]] == [4, 5]
    assert "soon" in again["examples"]["bad"][1]["why"]


def test_a_label_that_came_before_its_prediction_is_matched_when_that_is_logged(
    home: House,
) -> None:
    tell(home, {"id": "late", "value": 1})
    waiting = get(home, PATH).json()["data"]
    kept = PredictionLog(home.control.home / "log", clock_us=lambda: AT_US + 10)
    kept.append("production", "spam", [entry("late", 1)])
    kept.close()

    matched = get(home, PATH).json()["data"]

    assert (waiting["unmatched"], waiting["ids"]) == (1, ["late"])
    assert (matched["labels"], matched["unmatched"]) == (1, 0)


def test_a_class_that_the_model_does_not_know_is_refused_and_named(home: House) -> None:
    answer = tell(home, {"id": "one", "value": "perhaps"})

    assert answer.status_code == 400
    assert 'row 1: its label "perhaps" is no class' in answer.json()["error"]["message"]


def test_the_same_rows_come_as_json_csv_and_parquet() -> None:
    made = io.BytesIO()
    pq.write_table(pa.table({"prediction_id": ["a", "b"], "label": ["1", "0"]}), made)
    made.seek(0)
    document = {"labels": [{"id": "a", "value": "1"}, {"id": "b", "value": "0"}]}
    forms = [
        Sent(io.BytesIO(json.dumps(document).encode()), "application/json"),
        Sent(io.BytesIO(b"label,prediction_id\n1,a\n0,b\n"), "text/csv"),
        Sent(made, "application/vnd.apache.parquet"),
    ]

    assert [list(rows_of(one)) for one in forms] == [[Given("a", "1"), Given("b", "0")]] * 3


def test_labels_are_matched_in_segments_and_in_parquet_alike(home: House) -> None:
    acts = home.control.acts
    assert isinstance(acts, Acts)
    log, signatures = acts.logs.of("spam"), acts.logs.signatures("spam")
    wanted = {"one", "two.0", "two.1", "two.2", "nobody"}

    before = present(wanted, log, signatures)
    log.convert(signatures)
    as_fresh = present(wanted, log, signatures)
    log.compact(datetime(2026, 12, 1, tzinfo=UTC))
    by_hour = present(wanted, log, signatures)

    assert before == as_fresh == by_hour == {"one", "two.0", "two.1"}
