"""Is the challenger slower than the champion, on the same machine at the same time?

Both are asked the same row, one right after the other, and who is first is drawn anew for each
pair. A pair is worth the log of the ratio of its two latencies, so what slows the machine down
for longer than a pair falls on both and drops out. What is left is still correlated from pair to
pair (a collection of garbage, a neighbour's burst), so pairs are not counted one by one: they are
cut into blocks in the order of time, each block is worth its median, and the interval is
Student's over the blocks.

    ratio = exp(mean over blocks of median over a block's pairs of log(challenger/champion))

With equal versions a pair's log ratio is symmetric about 0 whatever the latencies look like, and
so is the mean of the medians. The ratio is that of the typical request; `tail_ratio` compares the
slow ones.

Source: batch means, e.g. A. M. Law, *Simulation Modeling and Analysis*, chapter 9; the delete-one
jackknife of blocks, H. R. Künsch, *Annals of Statistics* 17, 1989.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from penstock.domain import CheckResult, Verdict

BLOCKS = 10
PAIRS_MIN = 200
"""Twenty a block: what remembers from pair to pair has mostly forgotten by the next block."""
MARGIN = 1.5
"""Times as long as the champion, up to which nobody needs to judge where no margin is stated."""
SMALL_MS = 1.0
"""A difference that no caller notices: never "slower", whatever the ratio."""
_ALPHA = 0.05
"""One-sided."""
_QUESTION = "Is it slower than what we use today?"


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long as the champion the challenger takes."""

    value: float
    low: float
    """The true ratio is above it with 95 % confidence, and below `high` too."""
    high: float
    se: float
    """Standard error of the log."""
    pairs: int


def typical_ratio(challenger: NDArray[np.float64], champion: NDArray[np.float64]) -> Ratio:
    """Compare typical latencies.

    Parameters
    ----------
    challenger, champion
        Shape ``(pairs,)``, positive, in the order of time; one unit. At least `PAIRS_MIN`.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> noise = rng.gamma(4, size=400)
    >>> found = typical_ratio(1.5 * noise * rng.lognormal(0, 0.1, 400), noise)
    >>> round(found.value, 2), found.low < 1.5 < found.high
    (1.5, True)
    """
    logs = np.log(challenger / champion)
    medians = np.array([np.median(block) for block in np.array_split(logs, BLOCKS)])
    return _ratio(float(medians.mean()), float(medians.std(ddof=1) / math.sqrt(BLOCKS)), len(logs))


def tail_ratio(
    challenger: NDArray[np.float64], champion: NDArray[np.float64], share: float = 0.95
) -> Ratio:
    """Compare a high percentile of the latencies, with a jackknife over the same blocks."""
    pairs = len(challenger)
    blocks = np.array_split(np.arange(pairs), BLOCKS)

    def log_ratio(kept: NDArray[np.intp]) -> float:
        of = [np.quantile(latencies[kept], share) for latencies in (challenger, champion)]
        return math.log(of[0] / of[1])

    whole = np.arange(pairs)
    without = np.array([log_ratio(np.delete(whole, block)) for block in blocks])
    variance = (BLOCKS - 1) / BLOCKS * float(np.square(without - without.mean()).sum())
    return _ratio(log_ratio(whole), math.sqrt(variance), pairs)


def not_slower(
    challenger: NDArray[np.float64], champion: NDArray[np.float64], *, margin: float
) -> CheckResult:
    """Judge the typical ratio against the margin; the tail's is told beside it.

    passed: high <= margin; failed: low > margin; else undecided, with the pairs that would do.

    Parameters
    ----------
    challenger, champion
        Shape ``(pairs,)``, milliseconds, in the order of time; pair by pair the same row.
    margin
        At least 1.
    """
    pairs = min(len(challenger), len(champion))
    evidence: dict[str, object] = {
        "question": _QUESTION,
        "unit": "times",
        "limit": margin,
        "rows": pairs,
    }
    if pairs < PAIRS_MIN:
        evidence |= {"reading": "few requests", "needed": PAIRS_MIN}
        summary = f"{pairs} pairs of requests, {PAIRS_MIN} needed"
        return CheckResult("speed.not_slower", Verdict.UNDECIDED, summary, evidence)
    found, tail = typical_ratio(challenger, champion), tail_ratio(challenger, champion)
    evidence |= {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "tail": {"share": 0.95, "value": tail.value, "low": tail.low, "high": tail.high},
    }
    if found.low > margin:
        verdict, reading = Verdict.FAILED, "slower"
    elif found.high <= margin:
        verdict, reading = Verdict.PASSED, "faster" if found.high < 1 else "not slower"
    else:
        verdict, reading = Verdict.UNDECIDED, "too close to the limit"
        evidence["needed"] = pairs_needed(found, margin)
    evidence["reading"] = reading
    summary = _sentence(found, tail, margin, verdict)
    if verdict is Verdict.UNDECIDED:
        needed = evidence["needed"]
        summary += "; no number of pairs decides" if needed is None else ""
        summary += f"; about {needed:,} pairs would decide" if needed is not None else ""
    return CheckResult("speed.not_slower", verdict, summary, evidence)


def judged(
    challenger: NDArray[np.float64],
    champion: NDArray[np.float64],
    *,
    margin: float | None,
    limited: bool,
) -> CheckResult:
    """Judge the ratio as the project wants it.

    Without a margin nobody has said how much is allowed: what takes more than `MARGIN` times as
    long is undecided, for a person to judge; where a limit in milliseconds says what is wanted,
    it is told and asks nobody.

    Parameters
    ----------
    challenger, champion
        As for `not_slower`.
    margin
        As stated; None for none.
    limited
        Whether the project states how fast a version has to be.
    """
    least = 1.0
    if len(champion):
        least = 1 + SMALL_MS / max(float(np.median(champion)), 1e-6)
    found = not_slower(challenger, champion, margin=max(margin or MARGIN, least))
    if margin is not None or found.verdict is Verdict.PASSED:
        return found
    summary, evidence = found.summary, {**found.evidence, "gate": not limited}
    if found.verdict is Verdict.FAILED:
        summary += "; [speed] margin does not say how much is allowed"
        evidence["reading"] = "slower; no margin stated"
    return CheckResult(found.check, Verdict.UNDECIDED, summary, evidence)


def pairs_needed(found: Ratio, margin: float) -> int | None:
    """Guess how many pairs would decide if the ratio stays where it is; None at the margin."""
    gap = abs(math.log(margin) - math.log(found.value))
    if gap < 1e-3:
        return None
    times = (float(t.ppf(1 - _ALPHA, BLOCKS - 1)) * found.se / gap) ** 2
    needed = math.ceil(found.pairs * max(times, 1.0) * 1.1)
    unit = 10 ** max(0, len(str(needed)) - 2)
    return -(-needed // unit) * unit


def _ratio(log_value: float, se: float, pairs: int) -> Ratio:
    reach = float(t.ppf(1 - _ALPHA, BLOCKS - 1)) * se
    value, low, high = (math.exp(log_value + of) for of in (0.0, -reach, reach))
    return Ratio(value, low, high, se, pairs)


def _sentence(found: Ratio, tail: Ratio, margin: float, verdict: Verdict) -> str:
    sign = {Verdict.PASSED: "<=", Verdict.FAILED: ">"}.get(verdict, "against")
    return (
        f"takes {found.value:.3g} times as long as the champion {sign} {margin:.3g} "
        f"({found.low:.3g} to {found.high:.3g}); one in twenty {tail.value:.3g} times "
        f"({tail.low:.3g} to {tail.high:.3g})"
    )
