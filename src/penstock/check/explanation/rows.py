"""What each column adds to the answers: row by row, and in the mean size over the rows.

The rows that are shown one by one stand first and get more samples than the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from scipy import stats

from penstock.check.answers import Answers, AskError
from penstock.check.explanation import examples
from penstock.check.explanation.asking import Floats, OutOfTimeError, Target
from penstock.check.explanation.exact import Exact, held_against
from penstock.check.explanation.likeness import as_floats, kind_of
from penstock.check.explanation.shapley import Player, Sampler, Values, sampling
from penstock.check.explanation.work import Explaining, python_value
from penstock.domain import JSON

_Z = 1.959964
"""Quantile .975 of the normal law."""
_LEAST_EXACT_S = 2.0
_FEWEST_ROUNDS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """What was sampled of some rows."""

    target: Target
    values: Values
    players: Sequence[Player]
    rows: pa.Table
    background: pa.Table
    ended: str
    """Why it ended."""


def rows_one_by_one(
    work: Explaining, target: Target, answers: Answers, order: Sequence[str], *, chosen: Any
) -> Sampled | None:
    """Add ``shap`` and ``examples`` to the report and its columns; return what was sampled.

    Parameters
    ----------
    order
        Columns by their worth.
    chosen
        The rows' numbers in the evaluation data.
    """
    shown = examples.choose(target, answers, work.evaluation.label)
    sampled = _sample(work, target, order, [row for _, row in shown])
    if sampled is None:
        return None
    _add_values(work, sampled)
    if work.plan.shown:
        rows = [(why, row, int(chosen[row])) for why, row in shown]
        _add_examples(work, sampled, rows, answers)
    return sampled


def _sample(
    work: Explaining, target: Target, order: Sequence[str], first: list[int]
) -> Sampled | None:
    """Sample what there is time for; None where that is too little to tell anything."""
    what = "what each column adds to the answers"
    players = _players(work, order)
    if len(players) < 2:
        work.skip(what, "there is one column")
        return None
    most = min(work.plan.explained, work.rows.num_rows)
    count = work.meter.fitting(16 * (len(players) - 1), min(16, most), most)
    others = [row for row in range(work.rows.num_rows) if row not in first]
    explained = np.array([*first, *others][: max(count, len(first))])
    behind = min(work.plan.background, work.rows.num_rows)
    background = work.rows.slice(work.rows.num_rows - behind)
    with_log_odds = work.exact(target) is not None and target.unit == "probability"
    target = Target(target.unit, target.classes, log_odds=with_log_odds)
    try:
        rows = work.rows.take(pa.array(explained))
        sampler = Sampler(work.meter, target, (rows, background), players, work.random)
    except (OutOfTimeError, AskError) as error:
        work.skip(what, error)
        return None
    ended = _until_precise(work, sampler, target, (len(explained), len(first)))
    values = sampler.values()
    done = values.pairs > 0
    if done.sum() < min(len(explained), len(first) + 2):
        work.skip(what, ended)
        return None
    rows = work.rows.take(pa.array(explained[done]))
    return Sampled(target, _some(values, done), players, rows, background, ended)


def _players(work: Explaining, order: Sequence[str]) -> list[Player]:
    """Let the columns that matter most play by themselves, and the others as one."""
    names = work.rows.column_names
    alone = set([*order, *(n for n in names if n not in order)][: work.plan.players])
    if work.subject.only:
        alone = {name for name in work.subject.only if name in names}
    rest = tuple(name for name in names if name not in alone)
    if len(rest) == 1 and not work.subject.only:
        alone.add(rest[0])
        rest = ()
    players = [Player(name, (name,)) for name in names if name in alone]
    if rest:
        players.append(Player(f"the other {len(rest)} columns", rest))
        if not work.subject.only:
            work.skip(f"Shapley values of {len(rest)} columns, each by itself", "too many")
    return players


def _until_precise(
    work: Explaining, sampler: Sampler, target: Target, counts: tuple[int, int]
) -> str:
    """Sample until it is precise enough; return why it ended."""
    try:
        for number in sampling(sampler, *counts):
            if number < _FEWEST_ROUNDS:
                continue
            if _noise(target, sampler.values()) <= work.plan.precision:
                return "precise enough"
            if number >= work.plan.pairs:
                return f"{number} pairs of orders a row"
    except (OutOfTimeError, AskError) as error:
        if isinstance(error, AskError):
            work.skip("more samples", error)
        return str(error)
    raise AssertionError("sampling goes on until it is stopped")


def _noise(target: Target, values: Values) -> float:
    """Return the largest part of a column's mean effect that may be noise, as a share of all."""
    sizes = target.size(values.effects).mean(axis=0)
    total = float(sizes.sum())
    if total <= 0 or not math.isfinite(total):
        return 0.0
    error = target.size(values.error)
    over_rows = np.sqrt(np.square(error).mean(axis=0) / len(error))
    return float((_bias(target, values) + _Z * over_rows).max()) / total


def _bias(target: Target, values: Values) -> Floats:
    """Return by how much noise may raise each player's mean size, shape ``(p,)``.

    The size of an estimate with error s around 0 is s times the root of 2 / pi in the mean;
    far from 0 noise cancels. It is taken at the estimate, so it is itself an estimate.
    """
    size, error = target.size(values.effects), target.size(values.error)
    error = np.where(np.isfinite(error), error, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where(error > 0, size / error, np.inf)
    found = error * math.sqrt(2 / math.pi) * np.exp(-np.square(t) / 2)
    return cast("Floats", found.mean(axis=0))


def _some(values: Values, of: Any) -> Values:
    return Values(
        values.effects[of], values.error[of], values.answers[of], values.base, values.pairs[of]
    )


def _add_values(work: Explaining, of: Sampled) -> None:
    size = of.target.size(of.values.effects)
    mean, bias = size.mean(axis=0), _bias(of.target, of.values)
    error = size.std(axis=0, ddof=1) / math.sqrt(len(size))
    found: dict[str, JSON] = {}
    for at, player in enumerate(of.players):
        found[player.name] = {
            "mean": float(mean[at]),
            "se": float(error[at]),
            "low": float(max(mean[at] - _Z * error[at] - bias[at], 0.0)),
            "high": float(mean[at] + _Z * error[at]),
            **_direction(of.target, of.values.effects[:, at], of.rows, player),
        }
    by_name = {str(one["column"]): one for one in work.report["columns"]}
    for name, told in found.items():
        if name in by_name:
            by_name[name]["shap"] = told
    apart = [one for one in of.players if one.name not in by_name]
    work.report["shap"] = {
        "rows": len(size),
        "background": of.background.num_rows,
        "base": of.values.base[: of.target.width].tolist(),
        "pairs": int(np.median(of.values.pairs)),
        "noise": _noise(of.target, of.values),
        "ended": of.ended,
        "total": float(mean.sum()),
        "others": [{"column": one.name, **found[one.name]} for one in apart],
    }


def _direction(target: Target, effects: Floats, rows: pa.Table, player: Player) -> JSON:
    """Say whether higher values raise the answer: a rank correlation with its interval."""
    none: JSON = {"direction": None, "correlation": None}
    if target.width > 1 or len(player.columns) > 1:
        return none
    column = rows.column(player.name)
    if kind_of(column, rows_a_name=1) != "number":
        return none
    values = as_floats(column)
    known = np.isfinite(values)
    moved, at = effects[known, 0], values[known]
    if known.sum() < 10 or np.ptp(at) == 0 or np.ptp(moved) == 0:
        return none
    correlation = float(cast("Any", stats.spearmanr(at, moved)).statistic)
    held = math.atanh(max(-0.999999, min(0.999999, correlation)))
    half = _Z * 1.03 / math.sqrt(known.sum() - 3)
    low, high = math.tanh(held - half), math.tanh(held + half)
    direction = "up" if low > 0.3 else "down" if high < -0.3 else "mixed"
    return {"direction": direction, "correlation": correlation}


def _add_examples(
    work: Explaining, of: Sampled, shown: Sequence[tuple[str, int, int]], answers: Answers
) -> None:
    """Tell the rows that stand first among the explained ones."""
    values = of.values
    secret = set(work.evaluation.sensitive.column_names)
    classes = work.report["target"]["classes"]
    for place, (why, row, number) in enumerate(shown):
        at = int(values.answers[place, : len(classes) or 1].argmax())
        effects: list[dict[str, Any]] = [
            {
                "column": player.name,
                "value": _shown(work.rows, player, row, secret),
                "effect": float(values.effects[place, index, at]),
                "se": _finite(values.error[place, index, at]),
            }
            for index, player in enumerate(of.players)
        ]
        work.report["examples"].append(
            {
                "why": why,
                "row": number + 1,
                "of": classes[at] if classes else None,
                "answer": float(values.answers[place, at]),
                "base": float(values.base[at]),
                "prediction": _value(answers.prediction[row]),
                "truth": _value(work.evaluation.label[row]),
                "effects": sorted(effects, key=lambda one: -abs(one["effect"])),
            }
        )


def _shown(rows: pa.Table, player: Player, row: int, secret: set[str]) -> object:
    if len(player.columns) > 1:
        return None
    if player.name in secret:
        return "not shown: sensitive"
    return _value(rows.column(player.name)[row].as_py())


def _value(value: Any) -> object:
    value = python_value(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return f"{len(cast('list[Any]', value))} numbers"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def add_exact(work: Explaining, exact: Exact, of: Sampled) -> None:
    """Add ``exact`` to the report: values from the model's environment, if they agree."""
    if any(len(player.columns) > 1 for player in of.players):
        work.skip("exact values", "too many columns to hold them against")
        return
    left_s = work.meter.whole_left_s
    if left_s < _LEAST_EXACT_S:
        work.skip("exact values", "the budget of time")
        return
    told = exact(of.rows, of.background, left_s)
    found = held_against(told, of.values, of.target, [one.name for one in of.players])
    work.report["exact"] = found
    if not found["shown"]:
        work.skip("exact values", found["why"])


def _finite(number: Any) -> float | None:
    return float(number) if math.isfinite(number) else None
