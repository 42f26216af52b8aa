"""How long a canary will take, and what one that is undecided still needs.

A mean over the law of the events, plus what the mixtures of `etest` cost: a guide, usually long,
not a bound.
"""

from __future__ import annotations

import math

import numpy as np

from penstock.deploy.etest import HARM_ODDS, SAFE_ODDS, Counts, log_e_absolute

ALPHA = 0.05
METRICS = ("errors", "slow")
LOG_HARM = math.log(len(METRICS) / ALPHA)
"""Any metric may prove harm, so alpha is divided by their number."""
LOG_SAFE = math.log(2 / ALPHA)
"""Every metric must be safe, so alpha is not divided by their number; but each has two tests."""
STEP_REQUESTS_MIN = 100


def requests_needed(counts: Counts, p_max: float) -> int | None:
    """Challenger requests still needed to be safe, by the shorter of the two ways."""
    events, requests = int(counts.x.sum()), int(counts.n_c.sum())
    ways = [requests_by_bound(events, requests, p_max), _requests_by_odds(counts)]
    known = [way for way in ways if way is not None]
    return min(known) if known else None


def requests_by_bound(
    events: int, requests: int, p_max: float, *, rate: float | None = None
) -> int | None:
    """Count the requests until the absolute bound is reached at `rate`; None = never.

    Without a rate, the one that was seen goes on.
    """
    if rate is None:
        rate = events / requests if requests else 0.0
    more = np.unique(np.geomspace(1, 1e7, 400).astype(np.int64)).astype(np.float64)
    reached = log_e_absolute(events + rate * more, requests + more, p_max) >= LOG_SAFE
    return int(more[np.argmax(reached)]) if reached.any() else None


def _requests_by_odds(counts: Counts) -> int | None:
    """Count the requests until the odds test is reached at equal odds; None without events."""
    n_c, everything = int(counts.n_c.sum()), int((counts.n_c + counts.n_b).sum())
    events = int(counts.events[(counts.n_c > 0) & (counts.n_b > 0)].sum())
    if not events or n_c in (0, everything):
        return None
    share, rate = n_c / everything, min(events / everything, 0.999)
    per_request = rate * _divergence(share, rate, 1.0, SAFE_ODDS)
    needed = share * (LOG_SAFE + _MIXTURE_COST) / per_request
    # Never "none": the plan is a mean, and while nothing is proven something is missing.
    return max(math.ceil(needed - n_c), STEP_REQUESTS_MIN)


def events_needed(share: float, ratio: float = 1.0) -> float:
    """Count the independent events of both arms that decide where customers are drawn.

    Parameters
    ----------
    share
        The challenger's, 0 to 1 exclusive.
    ratio
        Of the challenger's rate to the champion's: up to 1 it passes, from 2 on it fails.
    """
    null, reached = (SAFE_ODDS, LOG_SAFE) if ratio < SAFE_ODDS else (HARM_ODDS, LOG_HARM)
    theta, under = (share * r / (share * r + 1 - share) for r in (ratio, null))
    nats = theta * math.log(theta / under) + (1 - theta) * math.log((1 - theta) / (1 - under))
    return (reached + _MIXTURE_COST) / nats


_MIXTURE_COST = 2.0
"""Nats that the mixture over odds ratios costs, about."""


def _challenger_part(share: float, rate: float, odds: float) -> tuple[float, float]:
    """Return the challenger's part of the events, and the rate over both arms."""
    tilted = rate / (1 - rate) * odds
    its = share * tilted / (1 + tilted)
    both = its + (1 - share) * rate
    return its / both, both


def _divergence(share: float, rate: float, odds: float, null: float) -> float:
    """Nats that one event is worth against the null, when `odds` is the truth."""
    theta, _ = _challenger_part(share, rate, odds)
    under, _ = _challenger_part(share, rate, null)
    return theta * math.log(theta / under) + (1 - theta) * math.log((1 - theta) / (1 - under))


def plan_minutes(
    requests_per_s: float,
    share: float,
    rate: float,
    odds: float,
    *,
    safe_at: float = 2 / ALPHA,
) -> tuple[float | None, float | None]:
    """Expect the minutes until harm is proven, and until safety is, by comparing the arms.

    A guide, usually long, not a bound.

    Parameters
    ----------
    requests_per_s
        Of both arms.
    share
        The challenger's part of them, 0 to 1 exclusive.
    rate
        The champion's rate of events, 0 to 1 exclusive.
    odds
        The true odds ratio that is assumed.
    safe_at
        The e-value that proves safety.

    Returns
    -------
    tuple
        None where it cannot be proven at these odds.
    """
    _, both = _challenger_part(share, rate, odds)
    per_minute = requests_per_s * 60 * both

    def minutes(null: float, reached_at: float) -> float:
        nats = math.log(reached_at) + _MIXTURE_COST
        return nats / (per_minute * _divergence(share, rate, odds, null))

    failed = minutes(HARM_ODDS, len(METRICS) / ALPHA) if odds > HARM_ODDS else None
    passed = minutes(SAFE_ODDS, safe_at) if odds < SAFE_ODDS else None
    return failed, passed


def minutes_to_pass(
    requests_per_s: float,
    share: float,
    *,
    error_rate: float = 0.0,
    slow_rate: float = 0.05,
    p_max: tuple[float, float] = (0.01, 0.10),
) -> float | None:
    """Expect the minutes until a challenger like the champion passes; None = by no way.

    Parameters
    ----------
    requests_per_s, share
        Of both arms, and the challenger's part, 0 to 1 exclusive.
    error_rate, slow_rate
        Of both versions.
    p_max
        Of errors and of slow requests.
    """
    worst = 0.0
    for rate, limit in zip((error_rate, slow_rate), p_max, strict=True):
        ways: list[float] = []
        bound = requests_by_bound(0, 0, limit, rate=rate)
        if bound is not None:
            ways.append(bound / (requests_per_s * share * 60))
        by_odds = plan_minutes(requests_per_s, share, rate, 1.0)[1] if 0 < rate < 1 else None
        if by_odds is not None:
            ways.append(by_odds)
        if not ways:
            return None
        worst = max(worst, min(ways))
    return worst
