"""A few rows explained while their caller waits: what does each column add to the answer?

The same Shapley values as in the report of a version, sampled until they are precise enough or
the time is over. The error of each stands beside it, so that a short budget is seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa

from penstock.check.answers import Answers, Ask, AskError
from penstock.check.explanation.asking import Meter, OutOfTimeError, Target, plain, target_of
from penstock.check.explanation.shapley import Player, Sampler, Values
from penstock.check.explanation.words import listed
from penstock.domain import JSON

MOST_ROWS = 5
MOST_PLAYERS = 48
"""More columns than that are taken in groups of neighbours."""
MOST_PAIRS = 512
FEWEST_PAIRS = 4
PRECISION = 0.02
"""Half-width of an interval that is good enough, as a share of all that moves the answer."""
BATCH_S = 0.025
"""A request to the same version may have to wait for one batch of ours."""
_FIRST = 16
_BACKGROUND_SHARE = 0.3
_Z = 1.959964
_LATE = (503, 504)
"""The version had no time for a question."""


class NothingKnownError(Exception):
    """The time was over before anything could be told."""

    def __init__(self, asked: int) -> None:
        super().__init__()
        self.asked = asked
        """Rows that were answered."""


@dataclass(frozen=True, slots=True)
class Local:
    """What is explained, and against what."""

    ask: Ask
    rows: pa.Table
    """At most `MOST_ROWS`."""
    background: pa.Table
    """With the same columns; what is usual."""
    task: str
    """``classification`` or ``regression``."""


def explain_rows(
    of: Local,
    *,
    budget_s: float,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> JSON:
    """Explain rows within a budget of time.

    Parameters
    ----------
    budget_s
        Kept to within one batch, a fortieth of a second, or one answer of a slower model.
    clock
        Seconds.

    Returns
    -------
    JSON
        ``unit`` (``probability``, ``class`` or ``number``); ``rows``, each with ``prediction``,
        ``of`` (the class that is explained), ``answer``, ``base``, ``contributions`` by falling
        size (``column``, ``value``, ``effect``, ``se``; the effects sum to answer less base) and
        ``text``; ``background`` (rows), ``pairs``, ``precision`` (the widest half-interval as a
        share of all effects), ``ended``, ``asked`` (rows), ``took_ms``, ``exact``.

    Raises
    ------
    NothingKnownError
        The time was too short for one pair of orders, or the version too busy.
    AskError
        The version failed on a row.
    """
    began = clock()
    meter = Meter(of.ask, budget_s, clock, batch_s=BATCH_S)
    with meter.part("rows"):
        answers, target, sampler, ended = _sampled(of, meter, np.random.default_rng(seed))
    values, players = sampler.values(), sampler.players
    told = {
        "unit": target.unit,
        "rows": [
            _row(of.rows, answers, target, values, players, at) for at in range(len(answers))
        ],
        "background": sampler.background_rows,
        "pairs": int(values.pairs.min()),
        "precision": _precision(target, values),
        "ended": ended,
        "asked": meter.spent["rows"].rows,
        "took_ms": (clock() - began) * 1000,
        "exact": len(players) < 2,
    }
    return cast("JSON", plain(told))


def _sampled(
    of: Local, meter: Meter, random: np.random.Generator
) -> tuple[Answers, Target, Sampler, str]:
    try:
        count = of.rows.num_rows
        few = pa.concat_tables([of.rows, of.background.slice(0, _FIRST)]).combine_chunks()
        first = meter.answers(few)
        target = target_of(first, of.task)
        fit = _BACKGROUND_SHARE * meter.left_s / max(meter.cost_s, 1e-9)
        behind = int(min(of.background.num_rows, max(fit, _FIRST)))
        tables = (of.rows, of.background.slice(0, behind))
        sampler = Sampler(meter, target, tables, _players(of.rows.column_names), random)
    except (OutOfTimeError, AskError) as error:
        if isinstance(error, AskError) and error.status not in _LATE:
            raise
        raise NothingKnownError(meter.spent["rows"].rows) from error
    ended = _until_precise(meter, sampler, target, np.arange(count))
    return _head(first, count), target, sampler, ended


def _until_precise(meter: Meter, sampler: Sampler, target: Target, rows: Any) -> str:
    ended = f"{MOST_PAIRS} pairs of orders"
    try:
        for pairs in range(1, MOST_PAIRS + 1):
            sampler.round(rows)
            enough = pairs >= FEWEST_PAIRS or len(sampler.players) < 2
            if enough and _precision(target, sampler.values()) <= PRECISION:
                return "precise enough"
    except (OutOfTimeError, AskError) as error:
        if isinstance(error, AskError) and error.status not in _LATE:
            raise
        ended = str(OutOfTimeError())
    if sampler.values().pairs.min() == 0:
        raise NothingKnownError(meter.spent["rows"].rows)
    return ended


def _players(names: Sequence[str]) -> list[Player]:
    """Let each column play by itself, or groups of neighbours where there are too many."""
    if len(names) <= MOST_PLAYERS:
        return [Player(name, (name,)) for name in names]
    groups = np.array_split(np.arange(len(names)), MOST_PLAYERS)
    found: list[Player] = []
    for group in groups:
        columns = tuple(names[int(at)] for at in group)
        name = columns[0] if len(columns) == 1 else f"{columns[0]} to {columns[-1]}"
        found.append(Player(name, columns))
    return found


def _precision(target: Target, values: Values) -> float:
    """Return the widest half-interval of a column's effect, as a share of all effects."""
    size = target.size(values.effects).sum(axis=1)
    error = target.size(np.nan_to_num(values.error)).max(axis=1) if size.size else size
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(size > 0, _Z * error / size, 0.0)
    return float(share.max())


def _row(
    rows: pa.Table,
    answers: Answers,
    target: Target,
    values: Values,
    players: Sequence[Player],
    at: int,
) -> JSON:
    one = int(values.answers[at, : target.width].argmax())
    contributions: list[dict[str, Any]] = [
        {
            "column": player.name,
            "value": _shown(rows, player, at),
            "effect": float(values.effects[at, index, one]),
            "se": float(values.error[at, index, one]),
        }
        for index, player in enumerate(players)
    ]
    contributions.sort(key=lambda each: -abs(each["effect"]))
    told: JSON = {
        "prediction": answers.prediction[at],
        "of": target.classes[one] if target.classes else None,
        "answer": float(values.answers[at, one]),
        "base": float(values.base[one]),
        "contributions": contributions,
    }
    return {**told, "text": sentence(told, target.unit)}


def sentence(row: JSON, unit: str) -> str:
    """Say why in one sentence or two.

    Examples
    --------
    >>> effects = [{"column": "debt", "value": 9000, "effect": 0.3, "se": 0.01}]
    >>> row = {"of": "yes", "answer": 0.5, "base": 0.2, "contributions": effects}
    >>> sentence(row, "probability")
    'The probability of yes is 0.5, and 0.2 in the mean: debt = 9000 adds 0.3.'
    """
    things = {"probability": f"The probability of {row['of']}", "number": "The answer"}
    thing = things.get(unit, f"The answer as 1 for {row['of']} and 0 for others")
    head = f"{thing} is {row['answer']:.3g}, and {row['base']:.3g} in the mean"
    total = sum(abs(float(one["effect"])) for one in row["contributions"])
    large = [one for one in row["contributions"] if abs(one["effect"]) >= max(0.05 * total, 1e-12)]
    if not large:
        return f"{head}; no column moves it."
    parts: list[str] = []
    for word, sign in (("adds", 1), ("takes away", -1)):
        of_them = [one for one in large if one["effect"] * sign > 0][:3]
        if of_them:
            parts.append(
                listed([f"{_named(one)} {word} {abs(one['effect']):.2g}" for one in of_them])
            )
    return f"{head}: {'; '.join(parts)}."


def _named(one: JSON) -> str:
    value = one["value"]
    return str(one["column"]) if value is None else f"{one['column']} = {value}"


def _shown(rows: pa.Table, player: Player, at: int) -> object:
    if len(player.columns) > 1:
        return None
    value = rows.column(player.name)[at].as_py()
    if isinstance(value, list):
        return None
    if isinstance(value, str) and len(value) > 60:
        return f"{value[:57]}…"
    return "missing" if value is None else value


def _head(answers: Answers, count: int) -> Answers:
    shares = None if answers.probability is None else answers.probability[:count]
    return Answers(answers.prediction[:count], shares, answers.classes, answers.positive)
