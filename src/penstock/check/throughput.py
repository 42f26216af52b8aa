"""Throughput: how many requests a second does a version sustain, and from where on no more?

More and more connections ask at once, each as soon as it has its answer. While the version has
something in hand, twice the connections give about twice the answers; behind the *knee* they only
wait longer. The rate at the knee is what it sustains.

An interval comes from windows of time at the knee, Student's over their rates. Who asks runs on
the same machine, in one process: when it has no processor time left, the rate is a lower bound,
said as "at least", and is never called too low.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from penstock.domain import CheckResult, Verdict

CONNECTIONS = (1, 4, 16, 64)
GROWS = 1.1
"""A level that gives less than this many times the rate of the one before lies behind the knee."""
BUSY = 0.8
"""Part of a processor from which on whoever asks may be what limits."""
_ALPHA = 0.05
"""One-sided."""
_QUESTION = "How many requests a second does it answer?"


@dataclass(frozen=True, slots=True)
class Level:
    """What came of so many connections at once."""

    connections: int
    rates: tuple[float, ...]
    """Answers a second, by window."""
    p95_ms: float
    errors: int
    asking: float
    """Processor time of whoever asked, as a part of one processor."""


@dataclass(frozen=True, slots=True)
class Knee:
    """Where more connections give no more answers."""

    connections: int
    rate: float
    low: float
    """The rate lies above it with 95 % confidence, and below `high` too."""
    high: float
    p95_ms: float
    at_least: bool
    """Whether something else than the version set the limit."""


def knee(levels: Sequence[Level]) -> Knee:
    """Find the knee.

    Parameters
    ----------
    levels
        Rising in connections; at least one.

    Examples
    --------
    >>> def level(connections, rate):
    ...     return Level(connections, (rate - 2, rate, rate + 2), 5.0, 0, 0.2)
    >>> found = knee([level(1, 100), level(4, 380), level(16, 390), level(64, 385)])
    >>> found.connections, found.rate, found.at_least
    (4, 380.0, False)
    """
    place = 0
    while place + 1 < len(levels) and _mean(levels[place + 1]) >= GROWS * _mean(levels[place]):
        place += 1
    of = levels[place]
    rates = np.array(of.rates)
    reach = math.inf
    if len(rates) > 1:
        se = float(rates.std(ddof=1)) / math.sqrt(len(rates))
        reach = float(t.ppf(1 - _ALPHA, len(rates) - 1)) * se
    rate = _mean(of)
    at_least = place + 1 == len(levels) or of.asking >= BUSY
    return Knee(of.connections, rate, max(rate - reach, 0.0), rate + reach, of.p95_ms, at_least)


def throughput_check(
    levels: Sequence[Level], min_rps: float | None, *, champion: Sequence[Level] = ()
) -> CheckResult:
    """Judge the rate at the knee; without a limit it is told and passes."""
    found = knee(levels)
    before = knee(champion) if champion else None
    failures = sum(one.errors for one in levels)
    evidence: dict[str, object] = {
        "question": _QUESTION,
        "unit": "requests/s",
        "value": found.rate,
        "low": found.low,
        "high": found.high if math.isfinite(found.high) and not found.at_least else None,
        "limit": min_rps,
        "champion": None if before is None else before.rate,
        "connections": found.connections,
        "p95_ms": found.p95_ms,
        "at_least": found.at_least,
        "errors": failures,
        "levels": [
            {"connections": one.connections, "rate": _mean(one), "p95_ms": one.p95_ms}
            for one in levels
        ],
    }
    told = (
        f"{'at least ' if found.at_least else ''}{found.rate:,.0f} requests/s "
        f"at {found.connections} connection{'' if found.connections == 1 else 's'}"
    )
    if min_rps is None:
        evidence["reading"] = "no limit"
        return CheckResult("speed.throughput", Verdict.PASSED, f"{told}, no limit", evidence)
    if found.low >= min_rps:
        verdict, sign, reading = Verdict.PASSED, ">=", "within the limit"
    elif found.high < min_rps and not found.at_least:
        verdict, sign, reading = Verdict.FAILED, "<", "below the limit"
    else:
        verdict, sign, reading = Verdict.UNDECIDED, "against", "too close to the limit"
        if found.at_least:
            reading = "not known"
    evidence["reading"] = reading
    summary = f"{told} {sign} {min_rps:g} ({found.low:,.0f} and more)"
    if math.isfinite(found.high) and not found.at_least:
        summary = f"{told} {sign} {min_rps:g} ({found.low:,.0f} to {found.high:,.0f})"
    return CheckResult("speed.throughput", verdict, summary, evidence)


def _mean(level: Level) -> float:
    return float(np.mean(level.rates))
