"""Is the challenger at most `margin` worse than the champion, on the same rows?

    difference     challenger minus champion, turned so that more is better
    low, high      its bounds, each with 95 % confidence
    passed         low > -margin, and no slice is provably worse
    failed         high < -margin, or a slice is provably worse (Holm over the slices)
    undecided      otherwise: `needed_rows` says how many rows would do

"Higher wins" is never asked: with few rows it lets half of the equal and many of the worse
challengers pass. Start reading at `compare`.

References: DeLong et al. 1988 (AUC); Bonett and Price 2012 (paired proportions); Holm 1979.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm

from penstock.check.answers import Answers, class_text
from penstock.check.measures import MEASURES, Measure, Rows, delong
from penstock.check.quality import ROWS_MIN, Z, judged_rows, number
from penstock.domain import CheckResult, Verdict

REPLICATES = 2000
SLICE_ROWS_MIN, SLICE_CASES_MIN = 100, 10
"""Rows, and rows of each of two classes, below which a slice is not judged."""
_Z_POWER = 0.8416212335729143
"""Quantile .8 of the normal law: the chance to pass that `needed_rows` plans for."""


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


def auc_difference(
    labels: NDArray[Any], champion: NDArray[np.float64], challenger: NDArray[np.float64]
) -> Difference:
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
    champion_losses: NDArray[np.float64], challenger_losses: NDArray[np.float64]
) -> Difference:
    """Difference of two mean losses over the same rows; positive when the challenger loses less.

    Parameters
    ----------
    champion_losses, challenger_losses
        Row by row, shape ``(n,)``, at least two rows.
    """
    gain = champion_losses - challenger_losses
    return Difference.normal(float(gain.mean()), float(gain.var(ddof=1)) / len(gain))


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
    gain: Callable[[NDArray[np.int64]], float],
    rows: int,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Difference:
    """Difference of any other measure, by resampling rows: the same ones for both models.

    Parameters
    ----------
    gain
        Maps row numbers, shape ``(rows,)``, to challenger minus champion on them.
    rows
        How many there are.
    seed
        Fixed, so that the same answers give the same verdict.
    """
    draw = np.random.default_rng(seed)
    drawn = np.array([gain(draw.integers(0, rows, rows)) for _ in range(replicates)])
    known = drawn[~np.isnan(drawn)]
    value = gain(np.arange(rows))
    if len(known) < replicates / 2:
        return Difference(value, math.inf, -math.inf, math.inf)
    low, high = np.quantile(known, [0.05, 0.95])
    return Difference(value, float(known.std(ddof=1)), float(low), float(high))


def decide(difference: Difference, margin: float) -> Verdict:
    """Say passed when provably less than `margin` worse, failed when provably more."""
    if difference.low > -margin:
        return Verdict.PASSED
    return Verdict.FAILED if difference.high < -margin else Verdict.UNDECIDED


def needed_rows(rows: int, se: float, margin: float, *, assumed: float = 0.0) -> float:
    """Rows at which a challenger passes with a chance of 80 %.

    Parameters
    ----------
    rows, se
        The standard error that was seen, and on how many rows; it falls with their root.
    margin
        Of the gate.
    assumed
        The challenger's true difference.

    Returns
    -------
    float
        Infinite where the assumed difference lies on or beyond the margin.
    """
    if assumed <= -margin:
        return math.inf
    return rows * ((Z + _Z_POWER) * se / (margin + assumed)) ** 2


def chance_to_pass(se: float, margin: float, *, assumed: float = 0.0) -> float:
    """Chance that a challenger with a true difference of `assumed` passes."""
    return float(norm.cdf((margin + assumed) / se - Z))


def holm(p_values: Sequence[float], alpha: float = 0.05) -> list[bool]:
    """Say which hypotheses Holm's step-down procedure rejects.

    Examples
    --------
    >>> holm([0.04, 0.001, 0.02])
    [True, True, True]
    >>> holm([0.04, 0.001, 0.03])
    [False, True, False]
    """
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


# ---- the gate ------------------------------------------------------------------------------


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

    def gain(self, index: NDArray[Any]) -> float:
        """Return the difference on some rows; more is better."""
        champion, challenger = self.take(index).values()
        sign = 1 if self.measure.higher_is_better else -1
        return sign * (challenger - champion)

    def cases(self) -> int | None:
        """Count the rows of the rarer of two classes; None where there are not two."""
        if self.champion.n_classes != 2:
            return None
        positives = int(np.count_nonzero(self.champion.truth == 1))
        return min(positives, len(self.champion) - positives)

    def difference(self) -> Difference | None:
        """Return the difference with its bounds; None where the rows cannot give one."""
        losses, rows = self.measure.losses, len(self.champion)
        if self.metric == "roc_auc":
            if (self.cases() or 0) < 2:
                return None
            labels = self.champion.truth == 1
            return auc_difference(labels, self.champion.score, self.challenger.score)
        if rows < 2:
            return None
        if losses is None:
            found = bootstrap_difference(self.gain, rows)
            return None if math.isnan(found.value) else found
        of_champion, of_challenger = losses(self.champion), losses(self.challenger)
        if self.metric == "accuracy":
            return proportion_difference(of_champion == 1, of_challenger == 1)
        return mean_difference(of_champion, of_challenger)


def compare(
    metric: str,
    labels: NDArray[Any],
    champion: Answers,
    challenger: Answers,
    *,
    margin: float,
    slices: Mapping[str, NDArray[Any]] | None = None,
) -> CheckResult:
    """Ask whether the challenger is not worse than the champion on the same rows.

    Parameters
    ----------
    metric
        A name of `MEASURES`.
    labels
        Shape ``(n,)``, without nulls.
    champion, challenger
        Their answers to the same n rows.
    margin
        How much worse still passes, in the unit of the measure, >= 0.
    slices
        Column name to its values, shape ``(n,)``: no group may become provably worse. Groups
        with fewer than 100 rows, or fewer than 10 of either of two classes, are not judged.

    Returns
    -------
    CheckResult
        ``quality.not_worse``.

    Raises
    ------
    UsageError
        PS301 for an unknown measure, PS302 for one that does not fit these answers.
    """
    assert margin >= 0, "a margin below zero would ask for a proof of being better"
    pair = Pair(metric, *judged_rows(metric, labels, champion, challenger))
    difference = pair.difference()
    if difference is None:
        return _too_few(pair, margin)
    judged = _slices(pair, margin, slices or {})
    worse = [str(one["slice"]) for one in judged if one["verdict"] == Verdict.FAILED]
    verdict = Verdict.FAILED if worse else decide(difference, margin)
    before, now = pair.values()
    evidence = {
        "metric": metric,
        "value": now,
        "champion": before,
        "difference": difference.value,
        "low": _finite(difference.low),
        "high": _finite(difference.high),
        "limit": -margin,
        "margin": margin,
        "rows": len(labels),
        "needed_rows": _needed(difference, len(labels), margin),
        "reading": _reading(verdict, difference),
        "slices": judged,
        "question": "Is it better than what we use today?",
    }
    if metric == "accuracy":
        rights = [one.truth == one.prediction for one in (pair.champion, pair.challenger)]
        evidence["mcnemar_p"] = mcnemar_mid_p(*rights)
    summary = _sentence(pair, difference, margin, worse)
    return CheckResult("quality.not_worse", verdict, summary, evidence)


def _too_few(pair: Pair, margin: float) -> CheckResult:
    rows, cases = len(pair.champion), pair.cases()
    of_class = "" if cases is None else f", {cases} of them of the rarer class"
    evidence = {
        "metric": pair.metric,
        "margin": margin,
        "rows": rows,
        "reading": "too close",
        "question": "Is it better than what we use today?",
    }
    summary = f"{rows} rows{of_class}, cannot tell the champion's {pair.measure.word} from its own"
    return CheckResult("quality.not_worse", Verdict.UNDECIDED, summary, evidence)


def _slices(pair: Pair, margin: float, slices: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Judge each group that is large enough, and list the others as undecided."""
    judged: list[dict[str, Any]] = []
    p_values: list[tuple[int, float]] = []
    for column, values in slices.items():
        texts = np.array([class_text(value) for value in values.tolist()])
        for name in dict.fromkeys(sorted(texts.tolist())):
            part = pair.take(texts == name)
            found = _large_enough(part)
            if found is not None:
                p = float(norm.cdf((found.value + margin) / max(found.se, 1e-300)))
                p_values.append((len(judged), p))
            judged.append(
                {
                    "slice": f"{column} = {name}",
                    "rows": len(part.champion),
                    "difference": None if found is None else found.value,
                    "low": None if found is None else _finite(found.low),
                    "high": None if found is None else _finite(found.high),
                    "verdict": Verdict.UNDECIDED if found is None else decide(found, margin),
                }
            )
    for (index, _), rejected in zip(p_values, holm([p for _, p in p_values]), strict=True):
        if rejected:
            judged[index]["verdict"] = Verdict.FAILED
        elif judged[index]["verdict"] == Verdict.FAILED:
            # Worse by itself, but not once all slices that were looked at are counted.
            judged[index]["verdict"] = Verdict.UNDECIDED
    return [one | {"verdict": str(one["verdict"])} for one in judged]


def _large_enough(part: Pair) -> Difference | None:
    cases = part.cases()
    if len(part.champion) < SLICE_ROWS_MIN or (cases is not None and cases < SLICE_CASES_MIN):
        return None
    return part.difference()


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None


def _needed(difference: Difference, rows: int, margin: float) -> int | None:
    """Rows for a chance of 80 % if nothing has changed; None where no number would do."""
    found = needed_rows(rows, difference.se, margin)
    return max(ROWS_MIN, math.ceil(found)) if math.isfinite(found) else None


def _reading(verdict: Verdict, difference: Difference) -> str:
    if verdict is Verdict.PASSED:
        return "better" if difference.low > 0 else "not worse"
    return "worse" if verdict is Verdict.FAILED else "too close"


def _sentence(pair: Pair, difference: Difference, margin: float, worse: list[str]) -> str:
    word, better = pair.measure.word, pair.measure.higher_is_better
    up = (difference.value >= 0) == better
    size = number(abs(difference.value))
    told = f"{word} {size} {'higher' if up else 'lower'} than the champion's"
    if difference.value == 0:
        told = f"{word} the same as the champion's"
    bound = f"at the 95 % bound {number(max(-difference.low, 0.0))} worse"
    if worse:
        return f"{told}, but provably worse where {', '.join(worse)}"
    verdict = decide(difference, margin)
    if verdict is Verdict.PASSED and difference.low > 0:
        return f"{told}, provably better"
    if verdict is Verdict.PASSED:
        return f"{told} ({bound}); not worse than the allowed {number(margin)}"
    if verdict is Verdict.FAILED:
        return f"{told}; provably worse than the allowed {number(margin)}"
    rows = len(pair.champion)
    needed = _needed(difference, rows, margin)
    enough = f"; about {needed:,} would decide" if needed is not None and needed > rows else ""
    return (
        f"{told} ({bound}); {rows:,} rows cannot exclude more than the allowed "
        f"{number(margin)}{enough}"
    )
