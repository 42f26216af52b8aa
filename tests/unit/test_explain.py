from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.check.answers import Answers, AskError
from penstock.check.evaluation import Evaluation
from penstock.check.explain import Plan, explain
from penstock.domain import JSON, CheckResult, Verdict

ROWS = 400
COLUMNS = ["strong", "weak", "unused"]


class Clock:
    """Time that passes only when a model is asked."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Model:
    """Adds up two of its three columns; costs time by the row."""

    def __init__(self, clock: Clock, *, row_s: float = 0.0, fail_at: int | None = None) -> None:
        self.clock, self.row_s, self.fail_at = clock, row_s, fail_at
        self.asked: list[pa.Table] = []

    def __call__(self, rows: pa.Table) -> Answers:
        self.asked.append(rows)
        self.clock.now_s += self.row_s * rows.num_rows
        if self.fail_at == len(self.asked):
            raise AskError(500, "MemoryError")
        columns = [np.array(rows.column(name).to_pylist()) for name in rows.column_names]
        return Answers(columns[0] + 0.2 * columns[1])


def evaluation(rows: int = ROWS) -> Evaluation:
    random = np.random.default_rng(0)
    features = pa.table({name: random.normal(size=rows) for name in [*COLUMNS, "other"]})
    label = np.array(features.column("strong").to_pylist()) + 0.2 * np.array(
        features.column("weak").to_pylist()
    )
    return Evaluation(features, label, None, None, features.select([]), "d" * 64)


def explained(model: Model, *, budget_s: float = 60.0, **plan: Any) -> tuple[JSON, CheckResult]:
    return explain(
        model,
        evaluation(),
        columns=COLUMNS,
        task="regression",
        budget_s=budget_s,
        plan=Plan(clock=model.clock, **plan),
    )


def test_columns_stand_in_the_order_of_their_worth() -> None:
    report, result = explained(Model(Clock()))

    strong, weak, unused = report["columns"]
    assert [one["column"] for one in report["columns"]] == ["strong", "weak", "unused"]
    assert strong["mean"] > weak["mean"] > 0
    assert (unused["mean"], unused["sd"], unused["repeats"]) == (0.0, 0.0, 5)
    assert (report["metric"], report["value"]) == ("mae", 0.0)
    assert report["skipped"] == []
    assert result.check == "explain.importance"
    assert result.verdict is Verdict.PASSED
    assert "strong, weak" in result.summary
    assert json.loads(json.dumps(report)) == report


def test_a_shuffle_moves_one_column_and_changes_no_value() -> None:
    model = Model(Clock())

    explained(model, repeats=1)

    plain, first, second, third = model.asked
    for index, shuffled in enumerate([first, second, third]):
        for name in COLUMNS:
            before, after = plain.column(name).to_pylist(), shuffled.column(name).to_pylist()
            assert (before != after) == (name == COLUMNS[index])
            assert sorted(before) == sorted(after)


def test_the_same_seed_gives_the_same_report_and_another_does_not() -> None:
    first, again = explained(Model(Clock()))[0], explained(Model(Clock()))[0]
    other = explained(Model(Clock()), seed=1)[0]

    assert first == again
    assert first["columns"][0]["mean"] != other["columns"][0]["mean"]


def test_a_short_budget_costs_repeats_before_columns() -> None:
    model = Model(Clock(), row_s=1 / ROWS)  # one second an ask

    report, result = explained(model, budget_s=6.5)

    assert [one["repeats"] for one in report["columns"]] == [2, 2, 2]
    assert report["skipped"] == [{"what": "repeats after 2 of 5", "why": "the budget of time"}]
    assert result.verdict is Verdict.PASSED
    assert "skipped repeats after 2 of 5: the budget of time" in result.summary
    assert model.clock.now_s <= 7.5


def test_a_budget_below_one_round_takes_fewer_rows() -> None:
    model = Model(Clock(), row_s=1 / ROWS)

    report, _ = explained(model, budget_s=3.0)

    assert report["rows"] == 266
    assert len(report["columns"]) == len(COLUMNS)
    assert report["skipped"][0] == {"what": "134 of 400 rows", "why": "the budget of time"}


def test_a_budget_for_nothing_names_the_columns_that_it_skipped() -> None:
    report, result = explained(Model(Clock(), row_s=1.0), budget_s=1.0)

    assert report["columns"] == []
    assert {"what": 'column "strong"', "why": "the budget of time"} in report["skipped"]
    assert result.verdict is Verdict.UNDECIDED
    assert "the budget of time" in result.summary


def test_no_more_rows_than_planned_are_asked() -> None:
    model = Model(Clock())

    report, _ = explained(model, max_rows=50, repeats=1)

    assert {rows.num_rows for rows in model.asked} == {50}
    assert report["skipped"] == [{"what": "350 of 400 rows", "why": "the limit of rows"}]


def test_a_model_that_does_not_answer_is_undecided_and_never_failed() -> None:
    report, result = explained(Model(Clock(), fail_at=1))

    assert report["columns"] == []
    assert result.verdict is Verdict.UNDECIDED
    assert "500: MemoryError" in result.summary


def test_an_error_on_the_way_keeps_what_was_measured() -> None:
    report, result = explained(Model(Clock(), fail_at=3))

    assert [one["column"] for one in report["columns"]] == ["strong"]
    assert {"what": 'column "weak"', "why": "it answered 500: MemoryError"} in report["skipped"]
    assert result.verdict is Verdict.PASSED


def classifier(shares: bool) -> Callable[[pa.Table], Answers]:
    def ask(rows: pa.Table) -> Answers:
        x = np.array(rows.column("strong").to_pylist())
        yes = 1 / (1 + np.exp(-x))
        probability = np.stack([1 - yes, yes], axis=1) if shares else None
        return Answers((x > 0).astype(int), probability, (0, 1), 1)

    return ask


@pytest.mark.parametrize(("shares", "metric"), [(True, "roc_auc"), (False, "accuracy")])
def test_classes_are_measured_by_what_the_model_offers(shares: bool, metric: str) -> None:
    numbers = evaluation()
    label = (np.array(numbers.features.column("strong").to_pylist()) > 0).astype(int)
    found = Evaluation(
        numbers.features, label, None, None, numbers.features.select([]), numbers.digest
    )

    report, _ = explain(classifier(shares), found, columns=COLUMNS, task="classification")

    assert (report["metric"], report["value"]) == (metric, 1.0)
    assert report["columns"][0]["column"] == "strong"
    assert report["columns"][0]["mean"] == pytest.approx(0.5, abs=0.05)
