"""Speed: does a version answer fast enough, in little enough memory?

A percentile that was measured is not the percentile that callers will see. Its interval comes
from order statistics: how many of n requests lie below the true percentile is binomial, so two
of the sorted latencies hold it, whatever the shape of the latencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from penstock.domain import CheckResult, Verdict

MIN_REQUESTS = 50
_ALPHA = 0.05
"""One-sided: what is called too slow is so with 95 %, and what is called fast enough too."""

QUESTIONS = {
    "speed.p50": "Is it fast as a rule?",
    "speed.p95": "Is it fast and steady?",
    "speed.memory": "Does it fit in memory?",
    "speed.cold_start": "Is it ready soon after a start?",
}


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """How one version ran."""

    latencies_ms: NDArray[np.float64]
    """One per request of one row, as a caller sees them, in the order sent."""
    rss_mb: float | None = None
    """Most resident memory of its worker seen under the requests; None = not known."""
    cold_start_s: float | None = None
    """From the worker's start to its being ready; None = not known."""


@dataclass(frozen=True, slots=True)
class SpeedLimits:
    """Greatest values that pass; None = no limit."""

    p50_ms: float | None = None
    p95_ms: float | None = None
    memory_mb: float | None = None
    cold_start_s: float | None = None


def speed_checks(
    measured: Measured, limits: SpeedLimits, *, champion: Measured | None = None
) -> list[CheckResult]:
    """Judge p50, p95, memory and cold start; what has no limit is reported and passes.

    The champion's numbers are shown beside; `speed_ratio` judges them.
    """
    both = (measured, champion)
    return [
        _percentile("speed.p50", 0.50, both, limits.p50_ms),
        _percentile("speed.p95", 0.95, both, limits.p95_ms),
        _amount(
            "speed.memory",
            (measured.rss_mb, None if champion is None else champion.rss_mb),
            limits.memory_mb,
            "MB",
        ),
        _amount(
            "speed.cold_start",
            (measured.cold_start_s, None if champion is None else champion.cold_start_s),
            limits.cold_start_s,
            "s",
        ),
    ]


def percentile(values: NDArray[np.float64], share: float) -> tuple[float, float, float]:
    """Return a percentile with a lower and an upper 95 % bound, each one-sided.

    The upper bound is infinite where the largest of so few values does not reach it.

    Examples
    --------
    >>> percentile(np.arange(1.0, 201.0), 0.95)
    (190.0, 185.0, 196.0)
    >>> percentile(np.arange(1.0, 21.0), 0.95)
    (19.0, 17.0, inf)
    """
    ordered, n = np.sort(values), len(values)
    below = int(binom.ppf(_ALPHA, n, share))
    above = int(binom.ppf(1 - _ALPHA, n, share))
    value = float(ordered[max(math.ceil(share * n) - 1, 0)])
    low = float(ordered[below - 1]) if below > 0 else 0.0
    high = float(ordered[above]) if above < n else math.inf
    return value, low, high


def _percentile(
    name: str, share: float, both: tuple[Measured, Measured | None], limit: float | None
) -> CheckResult:
    measured, champion = both
    label, requests = name.removeprefix("speed."), len(measured.latencies_ms)
    evidence: dict[str, object] = {
        "question": QUESTIONS[name],
        "rows": requests,
        "limit": limit,
        "unit": "ms",
        "champion": _champion_percentile(champion, share),
    }
    if requests < MIN_REQUESTS:
        evidence["reading"] = "few requests"
        summary = f"{requests} requests, {MIN_REQUESTS} needed"
        return CheckResult(name, Verdict.UNDECIDED, summary, evidence)
    value, low, high = percentile(measured.latencies_ms, share)
    evidence |= {"value": value, "low": low, "high": high if math.isfinite(high) else None}
    if limit is None:
        evidence["reading"] = "no limit"
        return CheckResult(name, Verdict.PASSED, f"{label} {value:.3g} ms, no limit", evidence)
    if low > limit:
        verdict, sign, reading = Verdict.FAILED, ">", "over the limit"
    elif high <= limit:
        verdict, sign, reading = Verdict.PASSED, "<=", "within the limit"
    else:
        verdict, sign, reading = Verdict.UNDECIDED, "against", "too close to the limit"
    evidence["reading"] = reading
    span = f"{low:.3g} to {high:.3g}" if math.isfinite(high) else f"{low:.3g} and more"
    summary = f"{label} {value:.3g} ms {sign} {limit:g} ms ({span})"
    return CheckResult(name, verdict, summary, evidence)


def _champion_percentile(champion: Measured | None, share: float) -> float | None:
    if champion is None or len(champion.latencies_ms) < MIN_REQUESTS:
        return None
    return percentile(champion.latencies_ms, share)[0]


def _amount(
    name: str, pair: tuple[float | None, float | None], limit: float | None, unit: str
) -> CheckResult:
    value, champion = pair
    label = name.removeprefix("speed.").replace("_", " ")
    evidence: dict[str, object] = {
        "question": QUESTIONS[name],
        "value": value,
        "limit": limit,
        "unit": unit,
        "champion": champion,
    }
    if value is None:
        evidence["reading"] = "not measured"
        return CheckResult(name, Verdict.UNDECIDED, f"{label} was not measured", evidence)
    shown = f"{label} {value:.3g} {unit}" if value < 1000 else f"{label} {value:.0f} {unit}"
    if limit is None:
        evidence["reading"] = "no limit"
        return CheckResult(name, Verdict.PASSED, f"{shown}, no limit", evidence)
    kept = value <= limit
    evidence["reading"] = "within the limit" if kept else "over the limit"
    verdict = Verdict.PASSED if kept else Verdict.FAILED
    return CheckResult(
        name, verdict, f"{shown} {'<=' if kept else '>'} {limit:g} {unit}", evidence
    )
