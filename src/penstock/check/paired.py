"""The difference between two models on the same rows, with its error, for every measure.

    AUC                      DeLong's covariance
    accuracy                 Bonett and Price's adjusted interval
    means over rows, lists   the paired differences' own spread
    mean AUC of many classes the sum of what each row adds to its error
    any other                paired bootstrap: the same draws for both

Where rows belong together (`Terms.group`), whole groups are what was sampled: what their rows
add to the error is summed before it is squared, and the bootstrap draws groups. Never bootstrap
what has a formula: one replicate takes as long.

References: DeLong et al. 1988; Bonett and Price 2012; Obuchowski 1997 (areas of groups).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from penstock.check.measures import MEASURES, Measure
from penstock.check.rows import Floats, Rows, delong

Z = 1.6448536269514722
"""Quantile .95 of the normal law: one-sided bounds of 95 %."""
REPLICATES = 2000
CASES_MIN = 10
"""Rows of the rarer of two classes, below which nothing is said."""
GROUPS_MIN = 30
"""Fewer groups say too little about how groups differ: the bounds would be too narrow."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Challenger minus champion; more is better."""

    value: float
    se: float
    """Standard error."""
    low: float
    """The difference is above it with 95 % confidence."""
    high: float
    """The difference is below it with 95 % confidence."""

    @classmethod
    def normal(cls, value: float, variance: float) -> Difference:
        """Make one whose bounds follow from the standard error."""
        se = math.sqrt(max(variance, 0.0))
        return cls(value, se, value - Z * se, value + Z * se)


def auc_difference(labels: NDArray[Any], champion: Floats, challenger: Floats) -> Difference:
    """Difference of two AUCs on the same rows, by DeLong.

    Parameters
    ----------
    labels
        True for positive rows, shape ``(n,)``; at least two of each class.
    champion, challenger
        Scores, shape ``(n,)``.
    """
    areas, covariance = delong(labels, np.array([champion, challenger], dtype=np.float64))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return Difference.normal(float(areas[1] - areas[0]), float(variance))


def mean_difference(
    champion_losses: Floats, challenger_losses: Floats, group: NDArray[np.int64] | None = None
) -> Difference:
    """Difference of two mean losses over the same rows; positive when the challenger loses less.

    Parameters
    ----------
    champion_losses, challenger_losses
        Row by row, shape ``(n,)``, at least two rows.
    group
        Shape ``(n,)``; rows of one group are one observation.
    """
    gain = champion_losses - challenger_losses
    value = float(gain.mean())
    if group is None:
        return Difference.normal(value, float(gain.var(ddof=1)) / len(gain))
    return Difference.normal(value, variance_of_sum((gain - value) / len(gain), group))


def variance_of_sum(parts: Floats, group: NDArray[np.int64] | None) -> float:
    """Return the variance of a sum whose parts have the mean 0, one part a row.

    Parameters
    ----------
    group
        Shape ``(n,)``; parts of one group are one.
    """
    if group is not None:
        of_group = np.bincount(np.unique(group, return_inverse=True)[1], parts)
        parts = of_group.astype(np.float64)
    count = len(parts)
    return float(np.square(parts).sum()) * count / (count - 1) if count > 1 else math.inf


def proportion_difference(
    champion_right: NDArray[np.bool_], challenger_right: NDArray[np.bool_]
) -> Difference:
    """Difference of two proportions on the same rows, by Bonett and Price's adjusted interval.

    Its value is drawn a little towards zero: one row is added to each kind of disagreement.
    """
    n = len(champion_right) + 2
    won = (int((challenger_right & ~champion_right).sum()) + 1) / n
    lost = (int((champion_right & ~challenger_right).sum()) + 1) / n
    return Difference.normal(won - lost, (won + lost - (won - lost) ** 2) / n)


def mcnemar_mid_p(champion_right: NDArray[np.bool_], challenger_right: NDArray[np.bool_]) -> float:
    """Two-sided mid-p of McNemar's test of equality. Shown, never the verdict: no margin in it."""
    won = int((challenger_right & ~champion_right).sum())
    lost = int((champion_right & ~challenger_right).sum())
    if won + lost == 0:
        return 1.0
    fewer = min(won, lost)
    point = float(binom.pmf(fewer, won + lost, 0.5))
    if won == lost:
        return 1 - point / 2
    return 2 * float(binom.cdf(fewer, won + lost, 0.5)) - point


def bootstrap_difference(
    gain: Callable[[Floats], float],
    rows: int,
    *,
    group: NDArray[np.int64] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Difference:
    """Difference of any other measure, by resampling rows: the same ones for both models.

    Parameters
    ----------
    gain
        Maps how often each row counts, shape ``(rows,)``, to challenger minus champion.
    rows
        How many there are.
    group
        Shape ``(rows,)``; whole groups are drawn, as many as there are.
    seed
        Fixed, so that the same answers give the same verdict.
    """
    drawn = resampled(gain, rows, group=group, replicates=replicates, seed=seed)
    known = drawn[~np.isnan(drawn)]
    value = gain(np.ones(rows))
    if len(known) < replicates / 2:
        return Difference(value, math.inf, -math.inf, math.inf)
    low, high = np.quantile(known, [0.05, 0.95])
    return Difference(value, float(known.std(ddof=1)), float(low), float(high))


def resampled(
    value: Callable[[Floats], float],
    rows: int,
    *,
    group: NDArray[np.int64] | None,
    replicates: int,
    seed: int,
) -> Floats:
    """Return a value of each bootstrap sample, shape ``(replicates,)``; NaN where it has none."""
    draw = np.random.default_rng(seed)
    members = None if group is None else np.unique(group, return_inverse=True)[1]
    units = rows if members is None else int(members.max()) + 1
    found = np.empty(replicates)
    for replicate in range(replicates):
        counts = np.bincount(draw.integers(0, units, units), minlength=units).astype(np.float64)
        found[replicate] = value(counts if members is None else counts[members])
    return found


@dataclass(frozen=True, slots=True)
class Pair:
    """Both models' answers to the same rows, and how they are compared."""

    metric: str
    champion: Rows
    challenger: Rows

    @property
    def measure(self) -> Measure:
        """The measure of `metric`."""
        return MEASURES[self.metric]

    def take(self, index: NDArray[Any]) -> Pair:
        """Return some of the rows."""
        return Pair(self.metric, self.champion.take(index), self.challenger.take(index))

    def values(self) -> tuple[float, float]:
        """Return the champion's and the challenger's measure."""
        return self.measure.value(self.champion), self.measure.value(self.challenger)

    def cases(self) -> int | None:
        """Count the rows of the rarer of two classes; None where there are not two."""
        if self.champion.n_classes != 2:
            return None
        positives = int(np.count_nonzero(self.champion.truth == 1))
        return min(positives, len(self.champion) - positives)

    def groups(self) -> int | None:
        """Count the groups; None where each row is its own."""
        group = self.champion.group
        return None if group is None else len(np.unique(group))

    def difference(self, replicates: int = REPLICATES) -> Difference | None:
        """Return the difference with its bounds; None where the rows cannot give one."""
        groups = self.groups()
        if len(self.champion) < 2 or (groups is not None and groups < GROUPS_MIN):
            return None
        cases = self.cases()
        if cases is not None and cases < CASES_MIN:
            return None
        measure = self.measure
        if measure.lists is not None:
            return self._by_list()
        if measure.area is not None:
            return self._by_area()
        if measure.losses is not None:
            return self._by_mean()
        return self._by_bootstrap(replicates)

    def _by_list(self) -> Difference | None:
        assert self.measure.lists is not None, f"{self.metric} has no lists"
        before, now = self.measure.lists(self.champion), self.measure.lists(self.challenger)
        known = ~np.isnan(before) & ~np.isnan(now)
        return mean_difference(-before[known], -now[known]) if known.sum() >= 2 else None

    def _by_area(self) -> Difference | None:
        group = self.champion.group
        if self.metric == "roc_auc" and group is None:
            labels = self.champion.truth == 1
            return auc_difference(labels, self.champion.score, self.challenger.score)
        assert self.measure.parts is not None, f"{self.metric} has no parts"
        before, now = self.measure.parts(self.champion), self.measure.parts(self.challenger)
        if before is None or now is None:
            return None
        of_champion, of_challenger = self.values()
        return Difference.normal(of_challenger - of_champion, variance_of_sum(now - before, group))

    def _by_mean(self) -> Difference:
        losses, group = self.measure.losses, self.champion.group
        assert losses is not None, f"{self.metric} has no losses"
        before, now = losses(self.champion), losses(self.challenger)
        if self.metric == "accuracy" and group is None:
            return proportion_difference(before == 1, now == 1)
        sign = -1 if self.measure.higher_is_better else 1
        return mean_difference(sign * before, sign * now, group)

    def _by_bootstrap(self, replicates: int) -> Difference | None:
        assert self.measure.weighed is not None, f"{self.metric} cannot be resampled"
        before, now = self.measure.weighed(self.champion), self.measure.weighed(self.challenger)
        sign = 1 if self.measure.higher_is_better else -1

        def gain(weights: Floats) -> float:
            return sign * (now(weights) - before(weights))

        rows, group = len(self.champion), self.champion.group
        found = bootstrap_difference(gain, rows, group=group, replicates=replicates)
        return None if math.isnan(found.value) else found
