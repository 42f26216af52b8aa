"""The e-test of a canary: evidence that may be looked at after every batch.

In one batch the challenger answered n_c requests, the champion n_b, and x of the E bad ones
were the challenger's. Given these margins x has Fisher's noncentral hypergeometric law, whose
only parameter is the odds ratio rho; the rate itself, which may change from batch to batch,
drops out. Against a null rho0 a batch is worth the likelihood ratio

    (rho / rho0)^x Z(rho0) / Z(rho),   Z(rho) = sum over x of C(n_c, x) C(n_b, E - x) rho^x,

factors multiply over batches, and a fixed mixture over rho of the products is an e-process:
under the null its expectation never exceeds 1, so the chance that it *ever* reaches 1/alpha is
at most alpha (Ville). It holds where each request is drawn for itself; with sticky routing it
does not. A batch without events, or with one arm empty, is no evidence: its factor is 1.
For customers there is `keytest`.

References: R. A. Fisher, *J. R. Statist. Soc.* 98, 1935; A. Ramdas et al., *Statistical
Science* 38, 2023 (e-processes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

HARM_ODDS, SAFE_ODDS = 1.1, 1.5
"""The nulls: at most the first is no harm, at least the second is not safe."""
_POINTS = 24


def log_sum(values: Floats) -> Floats:
    """Return the log of the sum of the exponentials along the last axis."""
    most = values.max(axis=-1, keepdims=True)
    summed = np.exp(values - most).sum(axis=-1)
    return cast("Floats", np.log(summed) + most[..., 0])


def mixture(
    low: float, high: float, sd: float, *, peak: int, points: int = _POINTS
) -> tuple[Floats, Floats]:
    """Lay midpoints of log (low, high) and log weights that fall off from the null's end.

    `peak` is 0 where the null lies at the low end and -1 where at the high. The weights sum to
    1 and never change: that they are fixed beforehand is what makes the mixture valid.
    """
    span = math.log(high) - math.log(low)
    logs = math.log(low) + (np.arange(points) + 0.5) / points * span
    weights = -np.square(logs - logs[peak]) / (2 * sd**2)
    return logs, weights - log_sum(weights)


_HARM, _HARM_WEIGHTS = mixture(HARM_ODDS, 20.0, 1.0, peak=0)
_SAFE, _SAFE_WEIGHTS = mixture(0.2, SAFE_ODDS, 0.7, peak=-1)
BELOW, BELOW_WEIGHTS = mixture(0.05, 1.0, 1.0, peak=-1)
"""Alternatives of the absolute bound, as a fraction of p_max."""
_ABOVE, _ABOVE_WEIGHTS = mixture(1.0, 20.0, 1.0, peak=0)
_LOG_HARM_NULL, _LOG_SAFE_NULL = math.log(HARM_ODDS), math.log(SAFE_ODDS)
_LOG_RHO = np.r_[_LOG_HARM_NULL, _LOG_SAFE_NULL, _HARM, _SAFE]


def _log_choose(n: int, k: Floats) -> Floats:
    return cast(
        "Floats", special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    )


@lru_cache(maxsize=16384)
def _normalisers(n_c: int, n_b: int, events: int) -> Floats:
    """Return log Z at every point of the grids, minus its null's, harm first.

    Cached: a look judges all batches so far, and only the newest are new.
    """
    x = np.arange(max(0, events - n_b), min(n_c, events) + 1, dtype=np.float64)
    log_weight = _log_choose(n_c, x) + _log_choose(n_b, events - x)
    log_weight -= log_weight.max()
    log_z = log_sum(log_weight[None, :] + _LOG_RHO[:, None] * x[None, :])
    return np.r_[log_z[2 : 2 + _POINTS] - log_z[0], log_z[2 + _POINTS :] - log_z[1]]


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """One metric, batch by batch, shape ``(batches,)`` each."""

    x: NDArray[np.int64]
    events: NDArray[np.int64]
    n_c: NDArray[np.int64]
    n_b: NDArray[np.int64]

    def log_e(self) -> tuple[Floats, Floats]:
        """Return log e of harm and of safe after each batch, shape ``(batches,)``."""
        telling = np.flatnonzero((self.events > 0) & (self.n_c > 0) & (self.n_b > 0))
        log_z = np.zeros((len(self.x), 2 * _POINTS))
        for batch in telling.tolist():
            log_z[batch] = _normalisers(
                int(self.n_c[batch]), int(self.n_b[batch]), int(self.events[batch])
            )
        x = np.zeros((len(self.x), 1))
        x[telling, 0] = self.x[telling]
        steps = np.r_[_HARM - _LOG_HARM_NULL, _SAFE - _LOG_SAFE_NULL] * x - log_z
        summed = np.cumsum(steps, axis=0)
        harm = log_sum(_HARM_WEIGHTS + summed[:, :_POINTS])
        return harm, log_sum(_SAFE_WEIGHTS + summed[:, _POINTS:])

    def expected(self) -> float:
        """Sum what the challenger's part of the events would be at equal odds."""
        requests = np.maximum(self.n_c + self.n_b, 1)
        return float((self.events * self.n_c / requests).sum())


def log_e_absolute(events: Floats, requests: Floats, p_max: float) -> Floats:
    """Return log e against "the rate is at least `p_max`", for each pair of totals."""
    p = p_max * np.exp(BELOW)
    bad, good = np.log(p / p_max), np.log((1 - p) / (1 - p_max))
    gains = events[:, None] * bad + (requests - events)[:, None] * good
    return log_sum(BELOW_WEIGHTS + gains)


def log_e_above(events: Floats, requests: Floats, p_max: float) -> Floats:
    """Return log e against "the rate is at most `p_max`", for each pair of totals."""
    p = np.minimum(p_max * np.exp(_ABOVE), 1 - 1e-9)
    bad, good = np.log(p / p_max), np.log((1 - p) / (1 - p_max))
    gains = events[:, None] * bad + (requests - events)[:, None] * good
    return log_sum(_ABOVE_WEIGHTS + gains)
