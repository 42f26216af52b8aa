"""What a difference means in words of daily life: of 1,000 loans, how many more are found.

Counts of rows, by the versions' own yes or no, with the same bounds as every difference (each
with 95 % confidence). They explain the verdict and never make it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.check.paired import (
    GROUPS_MIN,
    Difference,
    Pair,
    mean_difference,
    proportion_difference,
)
from penstock.check.rows import Rows, Terms
from penstock.domain import JSON

_PER = (1_000, 10_000, 100_000, 1_000_000)
_READABLE = 5
"""Counts below it are told of more rows, as long as there are more."""


@dataclass(frozen=True, slots=True)
class _Count:
    """Something that happens to rows: more or fewer of it, and how it is said."""

    thing: str
    found: Difference
    """Per row, challenger minus champion."""


def lay(pair: Pair, terms: Terms) -> JSON | None:
    """Say what a difference means.

    Parameters
    ----------
    pair
        Of any measure; what is counted depends on what the models answer.
    terms
        What rows and positive rows are called.

    Returns
    -------
    JSON or None
        ``text``, a sentence without a full stop; ``per`` rows; ``counts``, each with ``thing``,
        ``value``, ``low``, ``high``. None where the rows are too few to say, and for lists.
    """
    groups = pair.groups()
    if len(pair.champion) < 2 or (groups is not None and groups < GROUPS_MIN):
        return None
    if pair.measure.lists is not None:
        return None
    if pair.measure.regression:
        return _nearer(pair)
    if pair.metric == "cost":
        return _cheaper(pair, terms)
    if _silent(pair):
        rows = f"{len(pair.champion):,} {terms.rows_are}"
        return {"text": f"neither says yes to any of {rows}", "per": 0, "counts": []}
    counts = _counts(pair.champion, pair.challenger, terms)
    per = _per(counts, len(pair.champion))
    told = [_more(one.thing, one.found, per) for one in counts]
    text = f"of {per:,} {terms.rows_are} {'; '.join(told)}"
    return {
        "text": text,
        "per": per,
        "counts": [
            {
                "thing": one.thing,
                "value": one.found.value * per,
                "low": one.found.low * per,
                "high": one.found.high * per,
            }
            for one in counts
        ],
    }


def _silent(pair: Pair) -> bool:
    """Say whether both answer no to every row, whatever their probabilities are."""
    both = (pair.champion, pair.challenger)
    return pair.champion.n_classes == 2 and not any((one.prediction == 1).any() for one in both)


def _counts(champion: Rows, challenger: Rows, terms: Terms) -> list[_Count]:
    if champion.n_classes != 2:
        right = [one.truth == one.prediction for one in (champion, challenger)]
        return [_Count("answered rightly", _share(right, champion.group))]
    there = champion.truth == 1
    said = [one.prediction == 1 for one in (champion, challenger)]
    found = _share([one & there for one in said], champion.group)
    false = _share([one & ~there for one in said], champion.group)
    return [_Count(f"{terms.positives_are} found", found), _Count("false alarms", false)]


def _share(happens: Sequence[NDArray[np.bool_]], group: NDArray[np.int64] | None) -> Difference:
    before, now = happens
    if group is None:
        return proportion_difference(before, now)
    return mean_difference(-before.astype(np.float64), -now.astype(np.float64), group)


def _per(counts: Sequence[_Count], rows: int) -> int:
    """Choose of how many rows to speak: never of many more than there were."""
    most = max(max(abs(one.found.low), abs(one.found.high)) for one in counts)
    known = [per for per in _PER if per <= max(rows, _PER[0])]
    return next((per for per in known if most * per >= _READABLE), known[-1])


def _more(thing: str, found: Difference, per: int) -> str:
    """Say how many more or fewer.

    Examples
    --------
    >>> _more("defaults found", Difference(0.012, 0.003, 0.008, 0.018), 1000)
    'about 12 more defaults found, between 8 and 18'
    >>> _more("false alarms", Difference(-0.012, 0.003, -0.018, -0.008), 1000)
    'about 12 fewer false alarms, between 8 and 18'
    >>> _more("false alarms", Difference(0.001, 0.003, -0.002, 0.004), 1000)
    'about as many false alarms, between 2 fewer and 4 more'
    """
    low, high = round(found.low * per), round(found.high * per)
    if found.low > 0 and low > 0:
        return f"about {round(found.value * per):,} more {thing}, between {low:,} and {high:,}"
    if found.high < 0 and high < 0:
        return f"about {-round(found.value * per):,} fewer {thing}, between {-high:,} and {-low:,}"
    return f"about as many {thing}, between {max(-low, 0):,} fewer and {max(high, 0):,} more"


def _nearer(pair: Pair) -> JSON:
    before, now = (np.abs(one.truth - one.prediction) for one in (pair.champion, pair.challenger))
    found = mean_difference(before, now, pair.champion.group)
    bounds = {"thing": "nearer to the truth", "value": found.value}
    told = _moved(found, "nearer to the truth", "farther from the truth", "as near to the truth")
    return {
        "text": f"an answer is on average {told}",
        "per": 1,
        "counts": [bounds | {"low": found.low, "high": found.high}],
    }


def _cheaper(pair: Pair, terms: Terms) -> JSON:
    losses = pair.measure.losses
    assert losses is not None, "cost is a mean over rows"
    per = _PER[0]
    found = mean_difference(
        losses(pair.champion) * per, losses(pair.challenger) * per, pair.champion.group
    )
    told = _moved(found, "less", "more", "as much")
    return {
        "text": f"the mistakes in {per:,} {terms.rows_are} cost {told}",
        "per": per,
        "counts": [
            {"thing": "less", "value": found.value, "low": found.low, "high": found.high},
        ],
    }


def _moved(found: Difference, better: str, worse: str, same: str) -> str:
    """Say by how much.

    Examples
    --------
    >>> _moved(Difference(1.234, 0.3, 0.8, 1.6), "less", "more", "as much")
    'about 1.2 less, between 0.8 and 1.6'
    >>> _moved(Difference(0.2, 0.3, -0.3, 0.7), "less", "more", "as much")
    'about as much, between 0.3 more and 0.7 less'
    """
    if found.low > 0:
        return (
            f"about {_two(found.value)} {better}, between {_two(found.low)} and {_two(found.high)}"
        )
    if found.high < 0:
        low, high = _two(-found.high), _two(-found.low)
        return f"about {_two(-found.value)} {worse}, between {low} and {high}"
    return f"about {same}, between {_two(-found.low)} {worse} and {_two(found.high)} {better}"


def _two(of: float) -> str:
    """Write two digits that count, and never an exponent."""
    text = f"{of:.2g}"
    return f"{float(text):,.0f}" if "e+" in text else f"{float(text):g}"
