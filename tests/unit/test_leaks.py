"""Leaks in columns: the numbers behind the suspicion, and what must not be suspected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.check import leaks
from penstock.check.leaks import Truth
from penstock.check.rows import delong
from penstock.domain import Verdict

ROWS = 500
DRAW = np.random.default_rng(4)
X = DRAW.normal(size=(ROWS, 6))
NOISE = DRAW.normal(size=ROWS)
NAMES = [f"x{place}" for place in range(6)]


def features(**more: Any) -> pa.Table:
    return pa.table({**{name: X[:, place] for place, name in enumerate(NAMES)}, **more})


def copied(label: np.ndarray[Any, Any], task: str, **more: Any) -> leaks.Finding:
    table = features(**more)
    return leaks.copies(table, table.column_names, Truth.of(label, task))


def suspected(label: np.ndarray[Any, Any], task: str, **more: Any) -> leaks.Finding:
    table = features(**more)
    found = leaks.strengths(table, table.column_names, Truth.of(label, task))
    return leaks.too_good(found, task, model=None)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_an_auc_by_counts_is_delongs_auc_and_error(seed: int, bins: int) -> None:
    draw = np.random.default_rng(seed)
    codes, positive = draw.integers(0, bins, 60), draw.random(60) < 0.4
    if not 2 <= positive.sum() <= 58:
        return
    scores = np.round(draw.random(bins), 1)  # some of them equal

    area, se = leaks.binned_auc(
        scores,
        np.bincount(codes[positive], minlength=bins),
        np.bincount(codes[~positive], minlength=bins),
    )

    areas, variance = delong(positive, scores[codes][np.newaxis])
    assert area == pytest.approx(areas[0], abs=1e-12)
    assert se == pytest.approx(np.sqrt(max(variance[0, 0], 0)), abs=1e-12)


CLASSES = np.where(X[:, 0] + NOISE > 0, "yes", "no").astype(object)
AMOUNTS = X[:, 0] * 10 + X[:, 1] * 5 + NOISE


@pytest.mark.parametrize(
    ("column", "what"),
    [
        (CLASSES, "the same words"),
        (np.where(CLASSES == "yes", 1, 0), "numbers for words"),
        (CLASSES == "yes", "truth values"),
        (np.where(CLASSES == "yes", DRAW.integers(0, 3, ROWS), 9), "several codes a class"),
    ],
)
def test_a_column_that_is_the_class_under_another_name_is_found(column: Any, what: str) -> None:
    found = copied(CLASSES, "classification", leak=column)

    assert found.verdict is Verdict.FAILED, what
    assert found.evidence["columns"] == ["leak"]


@pytest.mark.parametrize(
    ("leak", "what"),
    [
        (AMOUNTS, "the same"),
        (AMOUNTS * 1.19 - 3, "with tax"),
        (np.exp(AMOUNTS / 20), "on another scale"),
        (-AMOUNTS, "negative"),
    ],
)
def test_a_column_that_is_the_amount_on_another_scale_is_found(leak: Any, what: str) -> None:
    found = copied(AMOUNTS, "regression", leak=leak)

    assert found.verdict is Verdict.FAILED, what
    assert found.evidence["columns"] == ["leak"]


def test_parts_that_sum_up_to_the_amount_are_found_with_their_weights() -> None:
    casual, registered = DRAW.poisson(30, ROWS), DRAW.poisson(150, ROWS)

    found = copied(
        (casual + registered).astype(float), "regression", casual=casual, registered=registered
    )

    assert found.verdict is Verdict.FAILED
    assert found.summary == "the right answer is exactly registered + casual"


def test_an_amount_that_was_rounded_or_has_noise_is_no_sum_of_columns() -> None:
    for label in (np.round(X @ np.ones(6), 2), AMOUNTS):
        assert copied(label, "regression").verdict is Verdict.PASSED


@pytest.mark.parametrize("positives", [12, 60, 250])
def test_columns_that_say_nothing_are_no_copies_however_rare_the_class(positives: int) -> None:
    label = np.zeros(ROWS, dtype=np.int64)
    label[:positives] = 1
    label = np.random.default_rng(1).permutation(label)
    many = np.random.default_rng(2).integers(0, 200, ROWS).astype(str)
    constant = np.zeros(ROWS)

    found = copied(label, "classification", many=many, constant=constant)

    assert found.verdict is Verdict.PASSED


def test_too_few_rows_or_cases_are_undecided_about_copies() -> None:
    table = features().slice(0, 20)

    assert leaks.copies(table, NAMES, Truth.of(CLASSES[:20], "classification")).verdict is (
        Verdict.UNDECIDED
    )


def test_missing_values_that_give_the_class_away_are_suspected() -> None:
    """A date of cancellation, filled only for those who cancelled."""
    when = [None if one == "no" else float(place) for place, one in enumerate(CLASSES)]

    found = suspected(CLASSES, "classification", cancelled_at=when)

    assert found.verdict is Verdict.FAILED
    assert found.evidence["column"] == "cancelled_at"


def test_a_strong_column_among_strong_ones_is_normal() -> None:
    label = np.where(X[:, 0] + 0.9 * X[:, 1] + 0.5 * NOISE > 0, "yes", "no").astype(object)

    assert suspected(label, "classification").verdict is Verdict.PASSED


def test_a_column_that_is_not_monotone_is_measured_as_well() -> None:
    label = (np.abs(X[:, 2]) > 1).astype(np.int64)

    (best, *_) = leaks.strengths(features(), NAMES, Truth.of(label, "classification"))

    assert best.column == "x2"
    assert best.value > 0.95


def test_noise_alone_is_hardly_ever_far_ahead() -> None:
    flagged = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        label = draw.integers(0, 2, ROWS)
        flagged += suspected(label, "classification").verdict is not Verdict.PASSED

    assert flagged == 0


def test_many_classes_are_measured_one_against_the_rest() -> None:
    label = np.digitize(X[:, 3], [-1, 0, 1])

    (best, second, *_) = leaks.strengths(features(), NAMES, Truth.of(label, "classification"))

    assert best.column == "x3"
    assert best.value > 0.97
    assert second.value < 0.6


def test_sentences_and_lists_and_one_class_are_no_trouble() -> None:
    table = pa.table(
        {
            "text": [f"sentence number {place} of many" for place in range(ROWS)],
            "picture": pa.array(X[:, :2].tolist()),
            "nothing": pa.array([None] * ROWS, type=pa.float64()),
        }
    )
    names = table.column_names

    for label, task in ((CLASSES, "classification"), (AMOUNTS, "regression")):
        truth = Truth.of(label, task)
        found = leaks.strengths(table, names, truth)
        assert [one.column for one in found] == ["nothing"]
        assert leaks.too_good(found, task, model=None).verdict is Verdict.PASSED
        assert leaks.copies(table, names, truth).verdict is Verdict.PASSED
        assert leaks.row_numbers(table, names).verdict is Verdict.PASSED
    alone = Truth.of(np.zeros(ROWS, dtype=np.int64), "classification")
    assert leaks.strengths(features(), NAMES, alone) == []


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (np.arange(ROWS), True),
        (np.random.default_rng(0).choice(10_000, ROWS, replace=False), True),
        ([f"{place:08x}" for place in range(ROWS)], True),
        (np.arange(ROWS) // 2, False),
        (np.random.default_rng(0).lognormal(9, 1, ROWS).astype(int) * 997 % 10**9, False),
        (np.sort(np.random.default_rng(0).choice(4000, ROWS, replace=False)) ** 2, False),
        ([f"Person {place}" for place in range(ROWS)], False),
        (np.arange(ROWS) + 0.5, False),
    ],
)
def test_a_row_number_is_told_from_an_amount_and_a_name(values: Any, names: bool) -> None:
    column = pa.chunked_array([pa.array(values)])

    assert leaks.names_rows(column) is names
