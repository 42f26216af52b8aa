"""What changed in how a version decides, and which exact values are believed."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.check.answers import Answers
from penstock.check.evaluation import Evaluation
from penstock.check.explanation import change
from penstock.check.explanation.asking import Meter, Target
from penstock.check.explanation.exact import held_against
from penstock.check.explanation.report import Plan, Subject, explain
from penstock.check.explanation.shapley import Player, Sampler, Values
from penstock.domain import JSON, Verdict

COLUMNS = ("income", "age", "hours", "region")


@functools.cache
def report(weights: tuple[float, ...], data: int = 0, seed: int = 0, explained: int = 120) -> JSON:
    """Explain a logistic model of columns that go their own ways."""
    random = np.random.default_rng(data)
    names = COLUMNS[: len(weights)]
    features = pa.table({name: random.normal(size=600) for name in names})

    def ask(table: pa.Table) -> Answers:
        score = sum(
            weight * table.column(name).to_numpy()
            for name, weight in zip(names, weights, strict=True)
        )
        yes = 1 / (1 + np.exp(-np.asarray(score)))
        return Answers((yes > 0.5).astype(int), np.stack([1 - yes, yes], axis=1), (0, 1), 1)

    label = ask(features).prediction
    found = Evaluation(features, label, None, None, features.select([]), f"{data:064}")
    subject = Subject(ask, found, names, "classification")
    plan = Plan(seed=seed, explained=explained, pairs=10, repeats=1, curves=2)
    return explain(subject, plan=plan)


def compared(before: tuple[float, ...], now: tuple[float, ...], **data: int) -> JSON:
    return change.compare(report(before), report(now, **data), versions=(3, 4))


def told(found: JSON) -> dict[str, str]:
    return {one["column"]: one["change"] for one in found["columns"]}


BEFORE = (1.0, 0.6, 0.5, 0.0)


def test_what_is_planted_is_told_and_nothing_else() -> None:
    found = compared(BEFORE, (1.6, 0.0, -0.5, 0.4))

    words = {"region": "started", "age": "stopped", "hours": "turned", "income": "more"}
    assert told(found) == words
    assert found["text"] == (
        "Compared with v3, the version in use: region matters now and did not before. "
        "age no longer matters. The effect of hours turned: higher values lower the answer now "
        "and raised it before. income matters more than before."
    )


def test_an_unchanged_model_is_told_to_decide_as_before() -> None:
    found = compared(BEFORE, BEFORE, seed=1)

    assert set(told(found).values()) == {"same"}
    assert found["text"] == (
        "It decides as v3 does: no column's weight changed by more than chance."
    )
    assert change.result(found).verdict is Verdict.PASSED


def test_noise_is_hardly_ever_told_as_change() -> None:
    # So few rows that the effects of one and the same model differ by a fifth and more.
    few = [report(BEFORE, data=data, seed=data, explained=16) for data in range(16)]

    pairs = list(itertools.pairwise(few))
    apart = [
        one
        for before, now in pairs
        for one in change.compare(before, now, versions=(1, 2))["columns"]
        if abs(one["difference"]) > change.LARGE * max(one["before"], one["now"], 1e-9)
    ]
    alarms = [one for one in apart if one["change"] != "same"]
    assert len(apart) > 10
    assert len(alarms) <= 2, alarms  # of 15 comparisons, each wrong at most once in twenty


def test_differences_have_intervals_that_hold_zero_only_where_nothing_is_told() -> None:
    found = compared(BEFORE, (1.6, 0.6, 0.5, 0.0))

    (income,) = [one for one in found["columns"] if one["column"] == "income"]
    (region,) = [one for one in found["columns"] if one["column"] == "region"]
    assert 0 < income["low"] < income["difference"] < income["high"]
    assert (region["difference"], region["p"]) == (0.0, 1.0)
    assert (income["rank_before"], income["rank_now"]) == (1, 1)


def test_other_data_is_said_and_curves_of_both_stand_side_by_side() -> None:
    found = compared(BEFORE, BEFORE, data=1)

    assert not found["same_data"]
    assert "The two were explained on different evaluation data." in found["text"]
    assert {one["column"] for one in found["curves"]} <= set(COLUMNS)
    assert found["curves"]


def test_columns_that_only_one_of_them_has_are_named() -> None:
    found = compared(BEFORE, BEFORE[:3])
    other_way = compared(BEFORE[:3], BEFORE)

    assert told(found)["region"] == "gone"
    assert told(other_way)["region"] == "new"
    assert "region is a column that it has no longer." in found["text"]


@pytest.mark.parametrize(
    ("spoiled", "why"),
    [
        ({"schema": "penstock.explain/0"}, "the champion was explained by another release"),
        ({"shap": None}, "there are no values of the champion"),
        ({"target": {"unit": "number", "classes": []}}, "they answer in different ways"),
    ],
)
def test_what_cannot_be_compared_is_undecided_and_says_why(
    spoiled: dict[str, Any], why: str
) -> None:
    found = change.compare({**report(BEFORE), **spoiled}, report(BEFORE), versions=(3, 4))

    assert found["why"] == why
    assert why in found["text"]
    assert change.result(found).verdict is Verdict.UNDECIDED


# Exact values


def sampled() -> tuple[Values, pa.Table, pa.Table]:
    """Values of a linear model, whose exact ones are known."""
    random = np.random.default_rng(0)
    rows, behind = (
        pa.table({name: random.normal(size=count) for name in ("a", "b", "c")})
        for count in (60, 20)
    )

    def ask(table: pa.Table) -> Answers:
        a, b, c = (table.column(name).to_numpy() for name in ("a", "b", "c"))
        return Answers(2 * a - b + 0.2 * c + 0.3 * a * b)

    meter = Meter(ask, math.inf, lambda: 0.0)
    players = [Player(name, (name,)) for name in ("a", "b", "c")]
    sampler = Sampler(meter, Target("number"), (rows, behind), players, random)
    for _ in range(10):
        sampler.round(np.arange(60))
    return sampler.values(), rows, behind


def printed(values: Values, **changes: Any) -> dict[str, Any]:
    told = {
        "method": "a tree explainer",
        "scale": "number",
        "same_game": True,
        "columns": ["a", "b", "c"],
        "base": float(values.base[0]),
        "effects": values.effects[:, :, 0].tolist(),
    }
    return {**told, **changes}


def judged(values: Values, told: dict[str, Any]) -> JSON:
    return held_against(told, values, Target("number"), ["a", "b", "c"])


def test_exact_values_that_agree_are_shown_in_any_order_of_columns() -> None:
    values, _, _ = sampled()
    turned = values.effects[:, ::-1, 0].tolist()

    found = judged(values, printed(values, columns=["c", "b", "a"], effects=turned))

    assert found["shown"]
    assert found["agreement"] == pytest.approx(1)
    assert found["columns"]["a"] > found["columns"]["b"] > found["columns"]["c"]


def test_values_of_another_model_are_not_shown_though_they_sum_to_the_answers() -> None:
    values, _, _ = sampled()
    swapped = values.effects[:, [1, 0, 2], 0].tolist()

    same_game = judged(values, printed(values, effects=swapped))
    other_game = judged(values, printed(values, effects=swapped, same_game=False))

    assert "outside the sampling error" in same_game["why"]
    assert "disagrees with the sampled values" in other_game["why"]
    assert not same_game["shown"]
    assert not other_game["shown"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"base": 5.0}, "do not sum to the answers"),
        ({"effects": [[1.0, 2.0]]}, "cannot be read"),
        ({"effects": [[math.nan] * 3] * 60}, "cannot be read"),
        ({"columns": ["a", "b", "z"]}, "cannot be read"),
        ({"effects": None}, "cannot be read"),
        ({"scale": "log-odds"}, "it speaks of log-odds"),
        ({"scale": ["x"] * 99}, "it speaks of"),
        ({"why": "shap is not installed" * 99}, "shap is not installed"),
    ],
)
def test_whatever_else_the_program_prints_is_not_shown(changes: dict[str, Any], why: str) -> None:
    values, _, _ = sampled()

    found = judged(values, printed(values, **changes))

    assert not found["shown"]
    assert why in found["why"]
    assert len(found["why"]) <= 300
