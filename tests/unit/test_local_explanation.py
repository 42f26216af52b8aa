"""Rows explained while a caller waits, with models that are written down here."""

from __future__ import annotations

from statistics import fmean
from typing import cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.check.answers import Answers, AskError
from penstock.check.explanation.local import Local, NothingKnownError, explain_rows


class Clock:
    """Time that passes only when rows are asked."""

    def __init__(self, row_s: float) -> None:
        self.now, self.row_s, self.rows = 0.0, row_s, 0

    def __call__(self) -> float:
        return self.now

    def numbers(self, table: pa.Table) -> Answers:
        self.now += self.row_s * table.num_rows
        self.rows += table.num_rows
        found = np.zeros(table.num_rows)
        for place, name in enumerate(table.column_names, 1):
            found += place * np.array(cast("list[float]", table.column(name).to_pylist()))
        return Answers(found)


def table(columns: int, rows: int, seed: int = 1) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table({f"x{n}": random.normal(size=rows) for n in range(columns)})


def test_a_sum_is_explained_exactly_by_its_terms() -> None:
    clock, row, behind = Clock(0.0001), table(4, 1), table(4, 50, seed=2)

    told = explain_rows(Local(clock.numbers, row, behind, "regression"), budget_s=5, clock=clock)

    (one,) = told["rows"]
    for part in one["contributions"]:
        number = int(part["column"][1:])
        usual = fmean(behind.column(number).to_pylist())
        expected = (number + 1) * (row.column(number)[0].as_py() - usual)
        assert part["effect"] == pytest.approx(expected, abs=4 * part["se"] + 1e-9)
    assert told["ended"] in ("precise enough", "512 pairs of orders")
    assert told["asked"] == clock.rows


@given(
    columns=st.integers(1, 60),
    rows=st.integers(1, 5),
    behind=st.integers(1, 30),
    row_s=st.floats(1e-5, 0.2),
    budget_s=st.floats(0.05, 3),
)
@settings(max_examples=40, deadline=None)
def test_any_budget_is_kept_and_the_effects_always_sum_to_the_answer(
    columns: int, rows: int, behind: int, row_s: float, budget_s: float
) -> None:
    clock = Clock(row_s)
    local = Local(clock.numbers, table(columns, rows), table(columns, behind, 2), "regression")

    try:
        told = explain_rows(local, budget_s=budget_s, clock=clock)
    except NothingKnownError:
        assert clock.now > 0
    else:
        for row in told["rows"]:
            total = sum(part["effect"] for part in row["contributions"])
            assert total == pytest.approx(row["answer"] - row["base"], rel=1e-5, abs=1e-6)

    first_batch_s = 50 * row_s  # what a row costs is not known before
    assert clock.now <= budget_s + max(first_batch_s, row_s, 0.025) + 1e-6


def test_many_columns_are_taken_in_groups_of_neighbours() -> None:
    clock = Clock(0.00001)
    local = Local(clock.numbers, table(200, 1), table(200, 20, 2), "regression")

    told = explain_rows(local, budget_s=2, clock=clock)

    names = [part["column"] for part in told["rows"][0]["contributions"]]
    assert len(names) == 48
    assert "x0 to x4" in names


def test_the_class_that_is_likeliest_is_explained() -> None:
    def ask(asked: pa.Table) -> Answers:
        x = np.array(asked.column("x0").to_pylist())
        shares = np.array([[0.1, 0.2, 0.7] if one > 0 else [0.1, 0.3, 0.6] for one in x])
        return Answers(np.array(["c"] * len(x)), shares, ("a", "b", "c"))

    told = explain_rows(Local(ask, table(2, 2), table(2, 30, 2), "classification"), budget_s=5)

    assert told["unit"] == "probability"
    assert [row["of"] for row in told["rows"]] == ["c", "c"]
    assert "The probability of c is" in told["rows"][0]["text"]


def test_a_model_that_fails_on_a_row_is_not_taken_for_a_slow_one() -> None:
    def ask(_: pa.Table) -> Answers:
        raise AskError(500, "no such luck")

    with pytest.raises(AskError):
        explain_rows(Local(ask, table(2, 1), table(2, 5), "regression"), budget_s=1)
