"""Why a version answered so: the gateway, a real worker and the real explaining process."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.domain import Environment, Role
from penstock.inference.gateway.explaining import Answered, Asking, Wanted
from penstock.pipeline.local_explainer import explained
from tests.unit.explained_rig import Explained
from tests.unit.gateway_rig import a_rig, running, version

SIGNATURE = {
    "columns": [
        {"name": "age", "datatype": "FP64", "optional": False, "example": 40.0},
        {"name": "debt", "datatype": "FP64", "optional": False, "example": 5.0},
        {"name": "city", "datatype": "BYTES", "optional": True, "example": "Bern"},
    ],
    "task": "regression",
    "classes": None,
    "positive": None,
}
MODEL = """
import time

def load(folder):
    return None

def predict(model, frame):
    rows = list(zip(frame["age"], frame["debt"], frame["city"]))
    if any(debt == -1 for _, debt, _ in rows):
        raise ValueError("no debt is that small")
    if any(debt == -2 for _, debt, _ in rows):
        time.sleep(0.2)
    return [2.0 * age - debt + age * debt / 10 for age, debt, _ in rows]
"""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Generator[Explained]:
    """Serve versions 1 and 3 in production and 2 in test, for tests that change nothing."""
    folder = tmp_path_factory.mktemp("explained")
    with a_rig(folder, deadline_s=40.0) as made:
        explained = Explained(made.folder, made.settings, MODEL, SIGNATURE)
        explained.background = folder / "background.parquet"
        ages, debts = [20.0, 30.0, 40.0, 50.0], [0.0, 4.0, 2.0, 10.0]
        rows = pa.table({"age": ages, "debt": debts, "city": ["Bern", "Chur", None, "Bern"]})
        pq.write_table(rows, explained.background)
        testing = version(2, signature=SIGNATURE, environment=Environment.TEST)
        warm = version(3, Role.PREVIOUS, 0, signature=SIGNATURE)
        with running(explained):
            explained.serve_these([version(1, signature=SIGNATURE), testing, warm])
            assert explained.why(asked()).status_code == 200  # the process starts
            yield explained


@pytest.fixture
def typical(rig: Explained) -> Generator[None]:
    """Let there be no kept rows."""
    kept, rig.background = rig.background, None
    yield
    rig.background = kept


def asked(
    age: float = 60.0, debt: float = 20.0, rows: int = 1, **parameters: Any
) -> dict[str, Any]:
    columns = {"age": [age] * rows, "debt": [debt] * rows, "city": ["Chur"] * rows}
    types = {"age": "FP64", "debt": "FP64", "city": "BYTES"}
    inputs = [
        {"name": name, "shape": [rows], "datatype": types[name], "data": values}
        for name, values in columns.items()
    ]
    return {"inputs": inputs, "parameters": parameters}


def test_an_answer_is_explained_column_by_column(rig: Explained) -> None:
    answer = rig.why(asked(id="mine"))

    assert answer.status_code == 200, answer.text
    assert answer.headers["penstock-version"] == "m@1"
    told = answer.json()
    (row,) = told["rows"]
    effects = {one["column"]: one["effect"] for one in row["contributions"]}

    # By hand, over the four background rows: the game has two players that move anything.
    def value(age: float, debt: float) -> float:
        return 2 * age - debt + age * debt / 10

    behind = [(20.0, 0.0), (30.0, 4.0), (40.0, 2.0), (50.0, 10.0)]
    base = sum(value(a, d) for a, d in behind) / 4
    age = (
        sum((value(60, d) - value(a, d) + value(60, 20) - value(a, 20)) / 2 for a, d in behind) / 4
    )
    assert row["answer"] == row["prediction"] == value(60, 20)
    assert row["base"] == pytest.approx(base)
    assert effects["city"] == 0
    assert effects["age"] == pytest.approx(age, rel=0.15)
    assert sum(effects.values()) == pytest.approx(row["answer"] - base)
    assert told["background"] == {"rows": 4, "of": "rows of the evaluation data"}
    assert told["budget_ms"] == 1000
    assert told["exact"] is False
    assert "age = 60.0 adds" in row["text"]


def test_explaining_leaves_no_trace_in_the_prediction_log(rig: Explained) -> None:
    before = len(rig.log())
    told = rig.why(asked()).json()
    predicted = rig.post("/v2/models/m/infer", **asked())

    assert told["asked"] > 10
    assert predicted.status_code == 200
    assert len(rig.log()) == before + 1


def test_the_budget_is_kept_and_said(rig: Explained) -> None:
    rig.why(asked())  # the explainer starts
    began = time.monotonic()
    answer = rig.why(asked(debt=-2.0, budget_ms=700))
    took_s = time.monotonic() - began

    told = answer.json()
    assert answer.status_code == 200, told
    assert told["budget_ms"] == 700
    assert 0.2 <= told["took_ms"] / 1000 < 7
    assert took_s < 7
    assert told["ended"] == "the budget of time"


def test_a_version_that_gives_no_answer_in_the_budget_is_called_busy(rig: Explained) -> None:
    answer = rig.why(asked(debt=-2.0, budget_ms=1))

    assert (answer.status_code, answer.json()["code"]) == (503, "PS865")
    assert "budget_ms" in answer.json()["hint"]


def test_too_short_a_budget_is_refused_with_what_to_do() -> None:
    calls = 0

    def ask_back(asking: Asking) -> Answered:
        nonlocal calls
        calls += 1
        rows = json.loads(asking.body)["inputs"][0]["shape"][0]
        output = {"name": "prediction", "datatype": "FP64", "shape": [rows], "data": [1.0] * rows}
        told = {"id": "why", "outputs": [output]}
        return Answered(200 if calls == 1 else 504, json.dumps(told).encode())

    found = explained(Wanted(json.dumps(asked()).encode(), SIGNATURE, None, 9.0), ask_back)

    told = json.loads(found.body)
    assert (found.status, told["code"]) == (422, "PS864")
    assert "1000 ms were too short: 2 rows" in told["error"]


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (asked(rows=6), 422, "PS863", "6 rows"),
        (asked(budget_ms="long"), 422, "PS863", '"long"'),
        (asked(budget_ms=True), 422, "PS863", "true"),
        (asked(budget_ms=0), 422, "PS863", "is 0"),
        ({"inputs": []}, 400, "PS5", "rows"),
        (asked(debt=-1.0), 500, "PS866", "no debt is that small"),
    ],
)
def test_what_cannot_be_explained_is_said(
    rig: Explained, body: dict[str, Any], status: int, code: str, says: str
) -> None:
    answer = rig.why(body)

    told = answer.json()
    assert answer.status_code == status, told
    assert told["code"].startswith(code)
    assert says in told["error"]


@pytest.mark.usefixtures("typical")
def test_without_kept_rows_a_typical_row_is_what_is_usual(rig: Explained) -> None:
    told = rig.why(asked()).json()

    assert told["background"] == {"rows": 1, "of": "a typical row"}
    assert told["rows"][0]["base"] == 2 * 40 - 5 + 40 * 5 / 10
    assert told["precision"] <= 0.02


def test_five_rows_are_explained_each_by_itself(rig: Explained) -> None:
    body = asked(rows=5)
    body["inputs"][0]["data"] = [20.0, 30.0, 40.0, 50.0, 60.0]
    told = rig.why(body).json()

    assert [row["answer"] for row in told["rows"]] == [
        2 * age - 20 + 2 * age for age in (20, 30, 40, 50, 60)
    ]
    for row in told["rows"]:
        total = sum(one["effect"] for one in row["contributions"])
        assert math.isclose(total, row["answer"] - row["base"], rel_tol=1e-6)


def test_a_version_is_explained_by_its_number_and_in_the_test_environment(rig: Explained) -> None:
    by_number = rig.why(asked(), "/v2/models/m/versions/3/explain")
    in_test = rig.why(asked(), "/test/v2/models/m/explain")
    unknown = rig.why(asked(), "/v2/models/m/versions/9/explain")

    assert by_number.headers["penstock-version"] == "m@3"
    assert in_test.headers["penstock-version"] == "m@2"
    assert (unknown.status_code, unknown.json()["code"]) == (404, "PS502")


def test_an_explainer_that_died_is_started_anew(rig: Explained) -> None:
    assert rig.why(asked()).status_code == 200
    (first,) = rig.explainers()
    first.kill()
    first.wait()
    again = rig.why(asked())
    (second,) = rig.explainers()

    assert again.status_code == 200
    assert second.pid != first.pid


def test_an_explainer_that_never_speaks_is_ended_within_the_deadline(tmp_path: Path) -> None:
    with a_rig(tmp_path, deadline_s=0.6) as made:
        rig = Explained(made.folder, made.settings, MODEL, SIGNATURE)
        rig.argv = (sys.executable, "-c", "import time; time.sleep(60)")
        with running(rig):
            rig.serve_these([version(1, signature=SIGNATURE)])
            answer = rig.why(asked())
            left = rig.explainers()

    assert (answer.status_code, answer.json()["code"]) == (503, "PS862")
    assert left == []


def test_more_than_a_few_waiting_explanations_are_refused(rig: Explained) -> None:
    rig.why(asked())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(rig.why, [asked(debt=-2.0, budget_ms=900)] * 8))

    refused = [one for one in found if one.status_code == 503]
    served = [one for one in found if one not in refused]
    assert {one.json()["code"] for one in refused} == {"PS861"}
    assert all(one.headers["retry-after"] for one in refused)
    assert 1 <= len(refused) <= 3
    # On a machine that stands still, a budget can end before it explained anything.
    assert all(one.status_code == 200 or one.json()["code"] == "PS864" for one in served)


def test_requests_come_before_the_rows_of_an_explanation(rig: Explained) -> None:
    before = len(rig.log())
    rig.why(asked())
    with ThreadPoolExecutor(4) as pool:
        why = pool.submit(rig.why, asked(budget_ms=3000, age=61.0))
        slowest = 0.0
        for _ in range(30):
            began = time.monotonic()
            assert rig.post("/v2/models/m/infer", **asked()).status_code == 200
            slowest = max(slowest, time.monotonic() - began)
        assert why.result().status_code == 200

    assert slowest < 1.0
    assert len(rig.log()) == before + 30


def test_a_gateway_without_an_explainer_says_so(tmp_path: Path) -> None:
    with a_rig(tmp_path) as rig, running(rig):
        rig.serve_these([version(1)])
        answer = rig.post("/v2/models/m/explain", n=1)

    assert (answer.status_code, answer.json()["code"]) == (404, "PS860")
