"""Sampled Shapley values against what they must be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock.check.answers import Answers
from penstock.check.explanation.asking import Meter, OutOfTimeError, Target
from penstock.check.explanation.shapley import Player, Sampler, Values, sampling

Floats = NDArray[np.float64]
Function = Callable[[Floats], Floats]
TARGET = Target("number")


def matrix(table: pa.Table) -> Floats:
    return np.stack([table.column(name).to_numpy() for name in table.column_names], axis=1)


def table(rows: Floats) -> pa.Table:
    return pa.table({f"c{at}": rows[:, at] for at in range(rows.shape[1])})


def meter(function: Function, asked: list[int] | None = None) -> Meter:
    def ask(rows: pa.Table) -> Answers:
        if asked is not None:
            asked.append(rows.num_rows)
        return Answers(function(matrix(rows)))

    return Meter(ask, math.inf, lambda: 0.0)


def sampled(
    function: Function, rows: Floats, behind: Floats, rounds: int, *, seed: int = 0
) -> Values:
    players = [Player(name, (name,)) for name in table(rows).column_names]
    with meter(function).part("rows"):
        pass
    sampler = Sampler(
        meter(function), TARGET, (table(rows), table(behind)), players, np.random.default_rng(seed)
    )
    for _ in range(rounds):
        sampler.round(np.arange(len(rows)))
    return sampler.values()


def exact(function: Function, row: Floats, behind: Floats) -> Floats:
    """The definition: a sum over all subsets, in the mean over the background."""
    count = len(row)

    def worth(subset: tuple[int, ...]) -> float:
        mixed = behind.copy()
        mixed[:, list(subset)] = row[list(subset)]
        return float(function(mixed).mean())

    found = np.zeros(count)
    for player in range(count):
        others = [other for other in range(count) if other != player]
        for size in range(count):
            weight = 1 / (count * math.comb(count - 1, size))
            for subset in itertools.combinations(others, size):
                found[player] += weight * (worth((*subset, player)) - worth(subset))
    return found


def crossed(rows: Floats) -> Floats:
    """Effects of one, of two and of three columns at once, and a column that does nothing."""
    a, b, c, d = rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3]
    return np.exp(0.5 * a) + b * c + 2.0 * (a > 0) * (b > 0) * (c > 0) + 0.0 * d


def test_many_samples_come_to_the_sum_over_all_subsets() -> None:
    random = np.random.default_rng(1)
    rows, behind = random.normal(size=(6, 5)), random.normal(size=(10, 5))

    values = sampled(crossed, rows, behind, 800)

    truth = np.stack([exact(crossed, row, behind) for row in rows])
    found, error = values.effects[:, :, 0], values.error[:, :, 0]
    assert np.abs(found - truth).max() < 0.08
    assert (np.abs(found - truth) <= 4 * error + 1e-12).all()
    assert (found[:, 3:] == 0).all()
    assert values.base == pytest.approx(crossed(behind).mean())


def test_a_linear_model_has_its_closed_form_when_every_background_row_was_met() -> None:
    random = np.random.default_rng(2)
    weights = np.array([2.0, -1.0, 0.5, 0.0])
    rows, behind = random.normal(size=(7, 4)), random.normal(size=(12, 4))

    values = sampled(lambda x: x @ weights, rows, behind, len(behind))

    assert values.effects[:, :, 0] == pytest.approx(weights * (rows - behind.mean(axis=0)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(2, 6),
    rounds=st.integers(0, 5),
    values=st.integers(1, 4),
)
def test_effects_sum_to_the_answer_less_the_base_after_any_number_of_samples(
    seed: int, count: int, rounds: int, values: int
) -> None:
    random = np.random.default_rng(seed)
    # Few distinct values: rows and background agree in many places.
    rows = random.integers(0, values, size=(4, count)).astype(float)
    behind = random.integers(0, values, size=(3, count)).astype(float)

    def function(x: Floats) -> Floats:
        return np.sin(x.sum(axis=1)) + x[:, 0] * x[:, -1]

    found = sampled(function, rows, behind, rounds, seed=seed)

    sums = found.effects.sum(axis=1)
    assert sums == pytest.approx(found.answers - found.base, abs=1e-9)


def test_the_stated_errors_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(3)
    rows, behind = random.normal(size=(40, 5)), random.normal(size=(8, 5))
    truth = np.stack([exact(crossed, row, behind) for row in rows])[:, :3]

    inside: list[Floats] = []
    for seed in range(5):
        values = sampled(crossed, rows, behind, 24, seed=seed)
        missed = np.abs(values.effects[:, :3, 0] - truth)
        inside.append((missed <= 2.07 * values.error[:, :3, 0]).astype(float))

    # The sum is made exact, which only lessens the error that is stated.
    assert float(np.mean(inside)) >= 0.93


def test_pairs_of_opposite_orders_leave_less_noise_than_as_many_single_ones() -> None:
    def product(x: Floats) -> Floats:
        return x[:, 0] * x[:, 1] * 3 + x[:, 2]

    random = np.random.default_rng(4)
    rows, behind = random.normal(size=(30, 3)), np.zeros((1, 3))
    truth = np.stack([exact(product, row, behind) for row in rows])

    values = sampled(product, rows, behind, 1)

    # Of effects of two columns, an order and its reverse give both halves.
    assert values.effects[:, :, 0] == pytest.approx(truth)


def test_a_state_that_nothing_moved_is_not_asked_again() -> None:
    asked: list[int] = []
    rows, behind = np.zeros((5, 6)), np.zeros((5, 6))
    rows[:, 0] = behind[:, 0] = 1.0
    rows[:, 1] = 2.0

    players = [Player(name, (name,)) for name in table(rows).column_names]
    ask = meter(lambda x: x.sum(axis=1), asked)
    sampler = Sampler(ask, TARGET, (table(rows), table(behind)), players, np.random.default_rng(0))
    before = sum(asked)
    sampler.round(np.arange(5))

    assert sum(asked) - before <= 10  # one state in each order, instead of five
    assert sampler.values().effects[:, :, 0] == pytest.approx(np.eye(6)[1] * 2 * np.ones((5, 1)))


def test_players_of_several_columns_move_together() -> None:
    random = np.random.default_rng(5)
    rows, behind = random.normal(size=(4, 3)), random.normal(size=(6, 3))
    players = [Player("first", ("c0",)), Player("the other 2 columns", ("c1", "c2"))]

    sampler = Sampler(
        meter(lambda x: x[:, 0] + x[:, 1] * x[:, 2]),
        TARGET,
        (table(rows), table(behind)),
        players,
        np.random.default_rng(0),
    )
    for _ in range(6):
        sampler.round(np.arange(4))
    effects = sampler.values().effects[:, :, 0]

    product = behind[:, 1] * behind[:, 2]
    assert effects[:, 0] == pytest.approx(rows[:, 0] - behind[:, 0].mean())
    assert effects[:, 1] == pytest.approx(rows[:, 1] * rows[:, 2] - product.mean())


def test_what_was_sampled_before_the_time_was_over_is_kept() -> None:
    now = [0.0]
    random = np.random.default_rng(6)
    rows, behind = random.normal(size=(300, 8)), random.normal(size=(20, 8))

    def ask(some: pa.Table) -> Answers:
        now[0] += some.num_rows * 1e-3
        return Answers(matrix(some).sum(axis=1))

    players = [Player(name, (name,)) for name in table(rows).column_names]
    limited = Meter(ask, 9.0, lambda: now[0])
    sampler = Sampler(
        limited, TARGET, (table(rows), table(behind)), players, np.random.default_rng(0)
    )
    with pytest.raises(OutOfTimeError):
        for _ in sampling(sampler, 300, 4):
            pass

    values = sampler.values()
    assert 9.0 <= now[0] <= 10.0
    assert values.pairs.min() >= 1
    assert values.pairs[:4].min() > values.pairs[4:].max()
    sums = values.effects.sum(axis=1)
    assert sums == pytest.approx(values.answers - values.base)


def test_any_kind_of_column_can_be_mixed() -> None:
    rows = pa.table(
        {
            "text": ["a", None, "b"],
            "flag": [True, None, False],
            "count": pa.array([1, None, 3], pa.int64()),
            "tensor": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float64(), 2)),
        }
    )

    def ask(some: pa.Table) -> Answers:
        found: list[Any] = some.to_pylist()
        return Answers(
            np.array(
                [
                    (one["text"] == "a") + 2.0 * bool(one["flag"]) + (one["count"] or 0)
                    + sum(one["tensor"])
                    for one in found
                ]
            )
        )  # fmt: skip

    players = [Player(name, (name,)) for name in rows.column_names]
    ask_meter = Meter(ask, math.inf, lambda: 0.0)
    sampler = Sampler(ask_meter, TARGET, (rows, rows), players, np.random.default_rng(0))
    for _ in range(3):
        sampler.round(np.arange(3))

    effects = sampler.values().effects[:, :, 0]
    assert effects[0] == pytest.approx([2 / 3, 2 * 2 / 3, 1 - 4 / 3, 3 - 7])
