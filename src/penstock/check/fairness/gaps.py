"""How far apart groups are: the largest difference, the smallest ratio, all pairs at once.

Every pair of groups gets an interval that is right for all pairs at once (Bonferroni); the
largest lower and the largest upper bound then hold the largest true difference.

References: Newcombe 1998 (differences of proportions); Katz et al. 1978 (ratios); Holm 1979.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from penstock.check.fairness.rates import Interval, Table
from penstock.domain import JSON, Verdict

ALPHA = 0.05
FOUR_FIFTHS = 0.8
FAMILIES: dict[str, tuple[str, ...]] = {
    "demographic_parity": ("selection_rate",),
    "equalized_odds": ("tpr", "fpr"),
    "equal_opportunity": ("tpr",),
    "predictive_parity": ("precision",),
    "accuracy": ("accuracy",),
    "calibration": ("calibration",),
    "base_rate": ("base_rate",),
    "mean_error": ("mean_error",),
    "mean_absolute_error": ("mean_absolute_error",),
}
"""What a word for fairness compares."""


@dataclass(frozen=True, slots=True)
class Gap:
    """The largest difference, or the smallest ratio, and between whom."""

    found: Interval
    part: str
    """Key of the measure."""
    of: str | None
    most: int
    least: int
    """Numbers of the two groups; `most` has the higher value."""
    doubt: _Doubt | None = None

    def as_json(self, names: Sequence[str]) -> JSON:
        """Return it as plain JSON."""
        who = {"most": names[self.most], "least": names[self.least]}
        return {**self.found.as_json(), "part": self.part, **who}


@dataclass(frozen=True, slots=True)
class _Doubt:
    """What keeps the pair that decides from being decided."""

    value: float
    groups: tuple[int, int]
    halves: tuple[float, float]
    """What each of the two groups adds to the interval, before the root of the squares."""
    rows: tuple[float, float]


def difference(tables: Sequence[Table], *, limit: float | None, alpha: float) -> Gap | None:
    """Return the largest difference between two judged groups in any of some measures.

    None where no two groups can be judged.
    """
    at = [np.flatnonzero(one.judged) for one in tables]
    pairs = sum(len(one) * (len(one) - 1) // 2 for one in at)
    if not pairs:
        return None
    z = float(norm.isf(alpha / 2 / pairs))
    sides = [_sides(one, here, z) for one, here in zip(tables, at, strict=True) if len(here) > 1]
    used = [one for one, here in zip(tables, at, strict=True) if len(here) > 1]
    best = max(range(len(sides)), key=lambda number: float(sides[number].value.max()))
    widest = sides[best]
    first, second = np.unravel_index(int(widest.value.argmax()), widest.value.shape)
    found = Interval(
        float(widest.value.max()),
        max(float(one.low.max()) for one in sides),
        max(float(one.high.max()) for one in sides),
    )
    doubt = None if limit is None else _doubt(used, sides, limit, found.value)
    part = used[best]
    return Gap(found, part.key, part.of, int(widest.at[first]), int(widest.at[second]), doubt)


@dataclass(frozen=True, slots=True, eq=False)
class _Sides:
    """Newcombe's intervals of all ordered pairs ``[i, j]`` with value i at or above value j."""

    at: NDArray[np.intp]
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    down: NDArray[np.float64]
    """Value less lower bound, of each group."""
    up: NDArray[np.float64]


def _sides(one: Table, at: NDArray[np.intp], z: float) -> _Sides:
    low, high = one.bounds(z)
    values = one.values[at]
    down, up = values - low[at], high[at] - values
    value = values[:, None] - values[None, :]
    far_down = np.hypot(down[:, None], up[None, :])
    far_up = np.hypot(up[:, None], down[None, :])
    turned = value < 0
    lower = np.where(turned, -math.inf, np.maximum(value - far_down, 0.0))
    # The true difference may lie on the other side of zero, and further.
    upper = np.where(turned, -math.inf, value + np.maximum(far_up, far_down - 2 * value))
    np.fill_diagonal(lower, -math.inf)
    np.fill_diagonal(upper, -math.inf)
    np.fill_diagonal(value, -math.inf)
    return _Sides(at, np.where(turned, -math.inf, value), lower, upper, down, up)


def _doubt(tables: Sequence[Table], sides: Sequence[_Sides], limit: float, value: float) -> _Doubt:
    """Find the pair that decides: by its lower bound when over the limit, else by its upper."""
    over = value > limit
    bounds = [one.low if over else one.high for one in sides]
    number = max(range(len(sides)), key=lambda one: float(bounds[one].max()))
    one, of = sides[number], tables[number]
    first, second = np.unravel_index(int(bounds[number].argmax()), bounds[number].shape)
    halves = (one.down[first], one.up[second]) if over else (one.up[first], one.down[second])
    groups = int(one.at[first]), int(one.at[second])
    rows = float(of.counts[groups[0]]), float(of.counts[groups[1]])
    return _Doubt(
        float(one.value[first, second]), groups, (float(halves[0]), float(halves[1])), rows
    )


def needed(gap: Gap, limit: float, names: Sequence[str]) -> str:
    """Say how many more rows of which group would decide, if the difference stayed as it is."""
    doubt = gap.doubt
    if doubt is None:
        return ""
    far = abs(doubt.value - limit)
    larger = 0 if doubt.halves[0] >= doubt.halves[1] else 1
    most, other = doubt.halves[larger] ** 2, doubt.halves[1 - larger] ** 2
    if far * far > other * 1.05 and most > 0:
        more = doubt.rows[larger] * (most / (far * far - other) - 1)
        if more <= 20 * doubt.rows[larger]:
            count = _two_digits(max(more, 1.0))
            return f"needs about {count:,} more rows of {names[doubt.groups[larger]]}"
    times = (most + other) / (far * far) if far > 0 else math.inf
    if times > 100:
        return "lies so near the limit that more rows will hardly decide it"
    who = " and ".join(names[group] for group in doubt.groups)
    return f"needs about {_two_digits(times):g} times as many rows of {who}"


def _two_digits(value: float) -> int | float:
    rounded = float(f"{value:.2g}")
    return int(rounded) if rounded == int(rounded) else rounded


def smallest_ratio(tables: Sequence[Table], *, alpha: float) -> Gap | None:
    """Return the smallest ratio of a group's rate to the highest group's.

    None where no two groups can be judged, or the highest rate is 0.
    """
    at = [np.flatnonzero(one.judged) for one in tables]
    pairs = sum(len(one) * (len(one) - 1) // 2 for one in at)
    if not pairs:
        return None
    z = float(norm.isf(alpha / 2 / pairs))
    found: list[Gap] = []
    lows: list[float] = []
    highs: list[float] = []
    for one, here in zip(tables, at, strict=True):
        if len(here) < 2:
            continue
        best = int(here[one.values[here].argmax()])
        if one.values[best] == 0:
            continue
        for group in here.tolist():
            if group == best:
                continue
            own = float(one.values[group]), int(one.counts[group])
            most = float(one.values[best]), int(one.counts[best])
            share = rate_ratio("", own, most, z=z).share
            found.append(Gap(share, one.key, one.of, best, group))
            lows.append(share.low)
            highs.append(share.high)
    if not found:
        return None
    least = min(found, key=lambda gap: gap.found.value)
    bounds = Interval(least.found.value, min(lows), min(highs))
    return Gap(bounds, least.part, least.of, least.most, least.least)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A group's rate over the highest group's."""

    group: str
    share: Interval
    p_fair: float
    """One-sided p-value of "it is at least four fifths"."""


def rate_ratio(
    group: str, own: tuple[float, int], best: tuple[float, int], *, z: float = 1.96
) -> Ratio:
    """Compare two groups' ``(rate, rows)`` by the logarithm of their ratio (Katz).

    A rate of 0 has no logarithm: half a row stands in for none, and the lower bound is 0.
    """
    (rate, rows), (best_rate, best_rows) = own, best
    seen = max(rate, 0.5 / rows)
    variance = (1 - best_rate) / (best_rows * best_rate) + (1 - seen) / (rows * seen)
    centre, se = math.log(seen / best_rate), math.sqrt(variance)
    low = 0.0 if rate == 0 else math.exp(centre - z * se)
    share = Interval(rate / best_rate, low, math.exp(centre + z * se))
    far = (centre - math.log(FOUR_FIFTHS)) / se if se > 0 else math.inf
    return Ratio(group, share, float(norm.cdf(far)))


def ratios(one: Table, names: Sequence[str]) -> list[Ratio]:
    """Compare each judged group's rate with the highest group's."""
    at: list[int] = np.flatnonzero(one.judged).tolist()
    if len(at) < 2:
        return []
    best = max(at, key=lambda group: float(one.values[group]))
    if one.values[best] == 0:
        return []

    def rate(group: int) -> tuple[float, int]:
        return float(one.values[group]), int(one.counts[group])

    return [rate_ratio(names[group], rate(group), rate(best)) for group in at if group != best]


def four_fifths(found: Sequence[Ratio]) -> Verdict:
    """Judge all groups: failed when one is provably under (Holm), passed when all are clear."""
    # Holm's first step decides whether any group is under: the smallest p-value against alpha/m.
    if min(one.p_fair for one in found) < ALPHA / 2 / len(found):
        return Verdict.FAILED
    clear = all(one.share.low >= FOUR_FIFTHS for one in found)
    return Verdict.PASSED if clear else Verdict.UNDECIDED


def within(value: Interval, limit: float, *, least: bool) -> tuple[Verdict, str, str]:
    """Judge an interval by a limit: the verdict, the sign between them, and a word for it."""
    clear, broken = (value.low >= limit, value.high < limit)
    if not least:
        clear, broken = (value.high <= limit, value.low > limit)
    if clear:
        return Verdict.PASSED, ">=" if least else "<=", "within the limit"
    if broken:
        if least:
            return Verdict.FAILED, "<", "under the limit"
        return Verdict.FAILED, ">", "over the limit"
    return Verdict.UNDECIDED, "against", "too close to the limit"


def chosen(tables: Sequence[Table], family: str) -> list[Table]:
    """Return the tables that a word for fairness compares."""
    return [one for one in tables if one.measure.name in FAMILIES[family]]
