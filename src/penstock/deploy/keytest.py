"""The e-test of a canary that draws customers and not requests.

A customer who has a bad day, or is always refused, is all on one arm. Counted by request he passes
for many independent events, and up to four in ten healthy canaries end in harm. But *customers*
are drawn independently of each other, so the wager here is one on each customer's arm, given what
he met. With `x` bad events where `m` would be usual and an assumed rate ratio r, the tilt

    s = x ln r - (x + 1/k) ln((1 + r mu k) / (1 + mu k)),    mu = m / (1 - w + w r)

is the negative-binomial log likelihood ratio "on the challenger" against "on the champion" (k, the
dispersion, says how much customers differ), and the wager, w being the chance of the challenger,

    e^s / (1 - w + w e^s)   if he is on the challenger,    1 / (1 - w + w e^s)   if not

has mean 1 over the draw, whatever s is, as long as s does not depend on the draw: that is so when
the version changes nothing for anybody. The law only steers the wagers. A claim that the rate is
at most c times the champion's is brought back to this case by counting 1/c for an event on the
challenger.

Exact at each fixed look for c = 1. In the limit of many customers only: other c, and all looks
together, because old customers are looked at again (`docs/how-a-canary-decides.md` has what was
simulated). Where customers are drawn anew each hour, an hour that has ended is not looked at again
and the wagers of the hours multiply: exact at all looks.

The *unit* is what is drawn by itself: a bucket of customers (`draws.Draw`). Wagers of units that
are drawn at different times multiply as well: one draw for each share of a rollout, over the
units that could still become the challenger's, and one for each hour where the draw is renewed.

References: R. A. Fisher, *The Design of Experiments*, 1935 (randomization); G. Shafer, *J. R.
Statist. Soc. A* 184, 2021 (testing by betting).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from scipy import special

from penstock.deploy.etest import (
    BELOW,
    BELOW_WEIGHTS,
    HARM_ODDS,
    SAFE_ODDS,
    Floats,
    log_sum,
    mixture,
)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

HARM, SAFE = 0, 1
CLAIMS = (HARM_ODDS, SAFE_ODDS)
"""Times the champion's rate: at most the first is no harm, at least the second is not safe."""
SPREAD = (1.0, 4.0, 16.0)
"""Multiples of the estimated dispersion: moments come out too small where few customers fail a
lot, so the wagers on all three are averaged."""
_POINTS = 12
GRIDS = (
    mixture(1.0, 20.0 / HARM_ODDS, 1.0, peak=0, points=_POINTS),
    mixture(0.2 / SAFE_ODDS, 1.0, 0.7, peak=-1, points=_POINTS),
)
"""Log ratios, relative to the claim, and log weights; for harm and for safe."""
WORST = 2
"""So many windows must harm be proven without: one stall of a worker is not its version's."""
_NONE = 1e-12


class Records(NamedTuple):
    """What customers met; row i stands for ``units[i]`` of them alike, each shape ``(rows,)``."""

    events: Floats
    """Of one of them; an event on the challenger counts 1/c."""
    expected: Floats
    units: Floats
    on: Floats
    """How many of them the challenger has."""

    @classmethod
    def of(cls, events: Floats, expected: Floats, on: Bools) -> Records:
        """Put those with the same record together; who met nothing is left out."""
        met = (expected > 0) | (events > 0)
        # Events that were taken away again leave dust behind.
        pairs = np.round(np.column_stack([events[met], expected[met]]), 12)
        alike, which = np.unique(pairs, axis=0, return_inverse=True)
        which = which.reshape(-1)
        units = np.bincount(which, minlength=len(alike)).astype(np.float64)
        its = np.bincount(which, on[met].astype(np.float64), minlength=len(alike))
        return cls(alike[:, 0], alike[:, 1], units, its.astype(np.float64))


def dispersion(of: Records) -> float:
    """Estimate by moments how much customers differ; 0 when requests are independent.

    Returns
    -------
    float
        1/k of the negative-binomial law, at least 0.
    """
    square = float(np.sum(of.units * of.expected**2))
    if square <= 0:
        return 0.0
    beyond = of.units * ((of.events - of.expected) ** 2 - of.expected)
    return max(0.0, float(np.sum(beyond)) / square)


def log_wagers(side: int, chance: float, kappa: float, of: Records) -> Floats:
    """Return the log of the product of the wagers.

    Parameters
    ----------
    side
        `HARM` or `SAFE`.
    chance
        Of a unit to be the challenger's, 0 to 1 exclusive.
    kappa
        The dispersion.

    Returns
    -------
    ndarray
        Shape ``(len(SPREAD), points)``.
    """
    log_ratio = GRIDS[side][0]
    ratio = np.exp(log_ratio)
    events, usual = of.events[:, None], of.expected[:, None] / (1 - chance + chance * ratio)
    log_off, log_on = math.log1p(-chance), math.log(chance)

    def product(k: float) -> Floats:
        tilt = events * log_ratio
        if k <= _NONE:
            tilt = tilt - (ratio - 1) * usual
        else:
            gap = np.log1p(ratio * usual * k) - np.log1p(usual * k)
            tilt = tilt - (events + 1 / k) * gap
        return of.on @ tilt - of.units @ np.logaddexp(log_off, log_on + tilt)

    if kappa <= _NONE:
        return np.tile(product(0.0), (len(SPREAD), 1))
    return np.array([product(factor * kappa) for factor in SPREAD])


def mixed(side: int, wagers: Floats) -> float:
    """Return log e: the mixture over the ratios, averaged over the dispersions."""
    return float(log_sum((GRIDS[side][1] + wagers).ravel()[None, :])[0] - math.log(len(SPREAD)))


def log_rare(events: Floats, requests: Floats, on: Bools, p_max: float) -> Floats:
    """Wager against "customers of the challenger meet a rate of at least `p_max`".

    A customer counts for at most as many requests as the middle one, else a single busy one would
    stand for all. With weight c and rate y he is worth ``1 + l c (p_max - y)``, which has mean at
    most 1 over the draw of customers when the claim is true; one request a customer is the bound
    of `etest.log_e_absolute`.

    Parameters
    ----------
    events, requests, on
        Of each unit of both arms, shape ``(units,)``.

    Returns
    -------
    ndarray
        Log of the product at each alternative, shape ``(24,)``; mixed by `etest.BELOW_WEIGHTS`.
    """
    active = requests > 0
    if not active.any():
        return np.zeros(len(BELOW))
    most = float(np.median(requests[active]))
    chosen = on & active
    weight = np.minimum(requests[chosen], most) / most
    gain = weight * (p_max - events[chosen] / requests[chosen]) / (1 - p_max)
    return cast("Floats", np.log1p(np.outer(1 - np.exp(BELOW), gain)).sum(axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class Wagers:
    """What the wagers of one draw on one metric have won, each in logs."""

    harm: Floats
    """Without none, one and two of the worst windows: ``(3, len(SPREAD), points)``."""
    safe: Floats
    """Shape ``(len(SPREAD), points)``."""
    rare: Floats
    """Shape ``(24,)``."""
    excess: Floats
    """Of the worst windows, falling; at most two."""
    expected: float
    """Events of the challenger at the champion's rate."""
    effective: float
    """Events of both arms, counted like independent ones."""
    usual: float
    """Events of both arms, an event on the challenger counting 1/c."""
    kappa: float
    units: int
    """Of both arms."""
    on: int
    answered: int
    """Units that the challenger did answer."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {name: np.asarray(getattr(self, name)).tolist() for name in self.__slots__}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Wagers:
        """Return what `to_json` was given."""
        arrays: dict[str, Any] = {
            name: np.array(told[name]) for name in ("harm", "safe", "rare", "excess")
        }
        return cls(**told | arrays)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence of all draws together on one metric."""

    log_e_harm: float
    log_e_harm_steady: float
    """Without the two worst windows of all: harm that lasts."""
    log_e_safe: float
    log_e_rare: float
    expected: float
    effective: float
    """Events of both arms, counted like independent ones."""
    usual: float
    """Events of both arms."""
    most: float | None
    """What `effective` cannot exceed with these customers, however long they are watched; None
    where it can exceed all, for they do not differ."""


def together(draws: Sequence[Wagers], settled: Sequence[Wagers] | None = None) -> Evidence:
    """Multiply the wagers of a rollout's draws on one metric.

    Parameters
    ----------
    draws
        Of each draw.
    settled
        Those that safety may rest on; all unless told: where customers are drawn anew each hour,
        the hours that have ended.
    """
    if settled is None:
        settled = draws
    none = np.zeros((len(SPREAD), _POINTS))
    harm = sum((cast("Floats", one.harm[0]) for one in draws), none)
    worst = sorted(((e, i) for i, one in enumerate(draws) for e in one.excess), reverse=True)
    gone = [sum(1 for _, at in worst[:WORST] if at == i) for i in range(len(draws))]
    steady = sum((cast("Floats", one.harm[gone[i]]) for i, one in enumerate(draws)), none)
    safe = sum((one.safe for one in settled), none)
    rare = sum((one.rare for one in settled), np.zeros(len(BELOW)))
    limits = [one.units / one.kappa for one in draws if one.kappa > _NONE]
    most = sum(limits) if len(limits) == len(draws) else None
    return Evidence(
        mixed(HARM, harm),
        mixed(HARM, steady),
        mixed(SAFE, safe),
        float(log_sum((BELOW_WEIGHTS + rare)[None, :])[0]),
        sum(one.expected for one in draws),
        sum(one.effective for one in draws),
        sum(one.usual for one in draws),
        most,
    )


def routing_p(draws: Sequence[tuple[float, int, int]]) -> float:
    """Return how likely so few or so many units on the challenger are, two-sided.

    Parameters
    ----------
    draws
        Chance, number of units, and how many of them the challenger answered, for each draw.

    Returns
    -------
    float
        By the binomial law with the mean chance: wider than the true one, so it errs towards 1.
    """
    units, on = sum(n for _, n, _ in draws), sum(k for _, _, k in draws)
    if not units:
        return 1.0
    chance = sum(w * n for w, n, _ in draws) / units
    tails = special.bdtr(on, units, chance), special.bdtrc(on - 1, units, chance)
    return min(1.0, 2 * float(min(tails)))
