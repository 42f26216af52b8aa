"""Drift: has a column moved by provably more than a margin?

The effect is the population stability index over the cells of one column,

    PSI = sum (p - q) ln(p / q),   p = (a + 1/2) / (n + K/2),  q likewise,

with counts a (reference, n rows) and b (period, m rows) in K cells. If the true index is d,
N PSI follows the noncentral chi-square law with K - 1 degrees of freedom and noncentrality N d,
N = n m / (n + m) / phi. phi says how much more the reference's own periods differ than rows
drawn at random would. So a column fails when "the index is at most the margin" is rejected,
with Benjamini-Hochberg over the columns, and never because n is large.

The reference is kept as counts (`reference_profile`), not as rows: a reader of the profile
learns no row, and months of periods add up. Start reading at `drift`.

References: B. Yurdakul, *Statistical Properties of the Population Stability Index*, 2018;
Y. Benjamini, Y. Hochberg, *J. R. Statist. Soc. B* 57, 1995.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import optimize
from scipy.stats import chi2, ncx2

from penstock.check.profile import column_cells, reference_profile
from penstock.check.quality import number
from penstock.domain import JSON, CheckResult, Verdict

__all__ = ["MARGINS", "Shift", "column_test", "drift", "psi", "reference_profile"]

MARGINS: Mapping[str, float] = {"notice": 0.02, "drift": 0.1, "major": 0.25}
"""By level, in nats. Of a normal column .1 is a shift of .32 standard deviations."""
ROWS_MIN = 200
"""On either side; fewer decide nothing."""
EXPECTED_MIN, CELLS_MAX = 5, 50
FALSE_DISCOVERY_RATE = 0.05
Counts = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shift:
    """What the test of one column found. `psi` is None where it cannot be told."""

    psi: float | None = None
    low: float | None = None
    """The index is above it with 95 % confidence."""
    high: float | None = None
    """The index is below it with 95 % confidence."""
    p_values: Mapping[str, float] | None = None
    """By level: of the hypothesis that the index is at most that margin."""
    cells: int = 0
    phi: float | None = None
    pooled: float = 0.0
    """Share of the rows in the cell that rare values share."""


def psi(a: Counts, b: Counts) -> float:
    """Compute the population stability index of two counts over the same K cells, in nats."""
    k = len(a)
    p, q = (a + 0.5) / (a.sum() + 0.5 * k), (b + 0.5) / (b.sum() + 0.5 * k)
    return float(((p - q) * np.log(p / q)).sum())


def column_test(reference: Counts, period: Counts) -> Shift:
    """Compare a period with the reference, cell by cell.

    Parameters
    ----------
    reference
        Counts by reference period and cell, shape ``(periods, K)``.
    period
        Counts, shape ``(K,)``.

    Returns
    -------
    Shift
        Without an index when either side has fewer than 200 rows, or all rows are in one cell
        once rare cells are pooled. A constant that stayed constant has the index 0.
    """
    total = reference.sum(axis=0)
    if min(total.sum(), period.sum()) < ROWS_MIN:
        return Shift()
    if np.count_nonzero(total + period) == 1:
        return Shift(0.0, 0.0, 0.0, dict.fromkeys(MARGINS, 1.0), 1)
    group = _groups(total, period)
    if group.max() < 1:
        return Shift()
    pooled_reference, a, b = (_pooled(counts, group) for counts in (reference, total, period))
    phi = _dispersion(pooled_reference[pooled_reference.sum(axis=1) >= ROWS_MIN])
    n, df = float(a.sum() * b.sum() / (a.sum() + b.sum()) / phi), len(a) - 1
    index = psi(a, b)
    p_values = {name: float(ncx2.sf(n * index, df, n * limit)) for name, limit in MARGINS.items()}
    low, high = (_bound(index, n, df, level) for level in (0.95, 0.05))
    rare = float((a + b)[-1] / (a + b).sum()) if (group == len(a) - 1).sum() > 1 else 0.0
    return Shift(index, low, high, p_values, len(a), phi, rare)


def _groups(a: Counts, b: Counts) -> NDArray[np.int64]:
    """Give each cell a group number: the largest that expect 5 rows, then the pooled rest.

    A cell that is empty on both sides gets -1: it would count as a degree of freedom.
    """
    n, m = a.sum(), b.sum()
    expected = (a + b) / (n + m) * min(n, m)
    kept = np.argsort(-(a + b), kind="stable")[:CELLS_MAX]
    kept = np.sort(kept[expected[kept] >= EXPECTED_MIN])
    group = np.where(a + b > 0, len(kept), -1).astype(np.int64)
    group[kept] = np.arange(len(kept))
    return group


def _pooled(counts: Counts, group: NDArray[np.int64]) -> Counts:
    """Sum counts by group along the last axis."""
    parts = [counts[..., group == one].sum(axis=-1) for one in range(int(group.max()) + 1)]
    return np.stack(parts, axis=-1)


def _dispersion(periods: Counts) -> float:
    """phi, from each reference period against all others; 1 where it is unknown."""
    if len(periods) < 2 or periods.shape[1] < 2:
        return 1.0
    total = periods.sum(axis=0)
    statistics: list[float] = []
    for period in periods:
        others = total - period
        rows = others.sum() * period.sum() / (others.sum() + period.sum())
        statistics.append(float(rows) * psi(others, period))
    return max(1.0, float(np.mean(statistics)) / (periods.shape[1] - 1))


def _bound(index: float, n: float, df: int, level: float) -> float:
    """Return the true index under which so small a statistic has probability `level`."""
    statistic = n * index
    if float(chi2.cdf(statistic, df)) <= level:
        return 0.0

    def excess(true: float) -> float:
        return float(ncx2.cdf(statistic, df, n * true)) - level

    return float(cast("float", optimize.brentq(excess, 0, 10 * index + 50 / n + 1)))


def benjamini_hochberg(p_values: Sequence[float], q: float = FALSE_DISCOVERY_RATE) -> list[bool]:
    """Say which hypotheses are rejected at the false discovery rate `q`.

    Examples
    --------
    >>> benjamini_hochberg([0.01, 0.04, 0.03, 0.9])
    [True, False, False, False]
    >>> benjamini_hochberg([0.01, 0.03, 0.03])
    [True, True, True]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    last = -1
    for rank, index in enumerate(order):
        if p_values[index] <= q * (rank + 1) / len(p_values):
            last = rank
    rejected = set(order[: last + 1])
    return [index in rejected for index in range(len(p_values))]


def levels(tested: Mapping[str, Shift]) -> dict[str, str | None]:
    """Name for each column the highest level that it provably exceeds, or None."""
    judged = {name: one.p_values for name, one in tested.items() if one.p_values is not None}
    found: dict[str, str | None] = dict.fromkeys(tested)
    for level in MARGINS:  # ascending, so a higher level overwrites
        rejected = benjamini_hochberg([p_values[level] for p_values in judged.values()])
        found |= {name: level for name, yes in zip(judged, rejected, strict=True) if yes}
    return found


def drift(profile: JSON, period: pa.Table) -> list[CheckResult]:
    """Compare a period's columns with the reference's counts.

    Parameters
    ----------
    profile
        From `reference_profile`.
    period
        Rows of the period, with the columns of the reference.

    Returns
    -------
    list
        One result a column of the reference, ``drift.<column>``. Failed: the index is provably
        above .1 (``level`` is drift, or major above .25). Passed: it is provably below .1.
        Undecided: neither, or fewer than 200 rows on a side, or no such column in the period.
    """
    cells = {name: column_cells(of, period, name) for name, of in profile["columns"].items()}
    tested = {
        name: Shift() if counts is None else column_test(*counts) for name, counts in cells.items()
    }
    level = levels(tested)
    return [
        _result(name, tested[name], level[name], _Facts.of(cells[name], profile, period))
        for name in tested
    ]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a column's result says beside its test."""

    rows: int
    reference_rows: int
    periods: int
    in_period: bool

    @classmethod
    def of(cls, cells: object | None, profile: JSON, period: pa.Table) -> _Facts:
        return cls(period.num_rows, profile["rows"], profile["periods"], cells is not None)


def _result(name: str, tested: Shift, level: str | None, facts: _Facts) -> CheckResult:
    verdict = _verdict(tested, level)
    reading, summary = _words(tested, verdict, level, facts)
    evidence = {
        "value": tested.psi,
        "limit": MARGINS["drift"],
        "low": tested.low,
        "high": tested.high,
        "level": level,
        "rows": facts.rows,
        "reference_rows": facts.reference_rows,
        "cells": tested.cells,
        "pooled": tested.pooled,
        "phi": tested.phi,
        "spread_known": facts.periods > 1,
        "reading": reading,
        "question": "Do today's requests still look like the data it was judged on?",
    }
    return CheckResult(f"drift.{name}", verdict, summary, evidence)


def _verdict(tested: Shift, level: str | None) -> Verdict:
    if level in ("drift", "major"):
        return Verdict.FAILED
    if tested.high is None or tested.high >= MARGINS["drift"]:
        return Verdict.UNDECIDED
    return Verdict.PASSED


def _words(tested: Shift, verdict: Verdict, level: str | None, facts: _Facts) -> tuple[str, str]:
    """Return the reading and the sentence."""
    limit = number(MARGINS["drift"])
    if not facts.in_period:
        return "not in the log", "the period has no such column of this kind"
    if tested.psi is None or tested.low is None or tested.high is None:
        rows = min(facts.rows, facts.reference_rows)
        if rows < ROWS_MIN:
            return "not enough data", f"{rows} rows, {ROWS_MIN} needed"
        return "not enough data", "too few different values to tell"
    index = f"PSI {number(tested.psi)}"
    if verdict is Verdict.FAILED:
        return f"{level}", f"{index}, at least {number(tested.low)} > {limit}"
    if verdict is Verdict.UNDECIDED:
        return "too close", f"{index}, could be {number(tested.high)} >= {limit}"
    unknown = "" if facts.periods > 1 else "; spread between periods unknown"
    reading = "moved a little" if level == "notice" else "alike"
    assert math.isfinite(tested.high)
    return reading, f"{index}, at most {number(tested.high)} < {limit}{unknown}"


def shares(profile: JSON, period: pa.Table, name: str) -> list[tuple[float, float]] | None:
    """Return each cell's share of the reference and of the period, for a picture."""
    counts = column_cells(profile["columns"][name], period, name)
    if counts is None:
        return None
    reference, now = counts[0].sum(axis=0), counts[1]
    both: list[tuple[Any, Any]] = list(
        zip(
            (reference / max(reference.sum(), 1)).tolist(),
            (now / max(now.sum(), 1)).tolist(),
            strict=True,
        )
    )
    return [(float(before), float(after)) for before, after in both]
