"""A canary that draws customers: from rows of the log to the evidence of one look.

Reads nothing but what it is handed: the new rows, and what was kept of the rollout's draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from penstock.deploy.draws import Draw, Met
from penstock.deploy.keytest import Wagers, routing_p, together
from penstock.deploy.planning import METRICS
from penstock.domain import JSON, Deployment, Rollout
from penstock.inference.gateway.sticky import places
from penstock.inference.prediction_log.counting import CustomerCounts
from penstock.inference.prediction_log.records import ROLES
from penstock.records.draws import CustomerDraw

WINDOW_US = 300_000_000
"""A stall of a worker is looked for in windows of five minutes."""
_CHALLENGER = ROLES.index("challenger")
_ARMS = [ROLES.index(role) for role in ("challenger", "champion", "control")]


def take(
    of: Rollout,
    challenger: Deployment,
    rows: CustomerCounts,
    kept: Sequence[CustomerDraw],
    *,
    since_us: int,
) -> tuple[list[CustomerDraw], JSON]:
    """Add the rows of one look to a rollout's draws.

    Parameters
    ----------
    rows
        What arrived since the look before, at the rollout's present share.
    kept
        The draws as the look before left them.
    since_us
        When the look before ended.

    Returns
    -------
    tuple
        The draws that changed, and the evidence of all of them together as plain JSON.
    """
    known = {(one.hour, one.share): one for one in kept}
    changed: dict[tuple[int, int], CustomerDraw] = {}
    for hour in np.unique(rows.draw).tolist():
        key = (int(hour), of.share)
        before = known.get(key) or _begun(key, kept)
        if not before.low < of.share < before.high or (key in known and before.met is None):
            continue
        changed[key] = _added(of, challenger, rows, before, since_us // WINDOW_US)
    latest = max((hour for hour, _ in (known | changed)), default=0)
    for key, one in (known | changed).items():
        if one.met is not None and one.hour < latest:
            changed[key] = replace(one, met=None)
    return list(changed.values()), _evidence(list((known | changed).values()), challenger.redraw)


def _begun(key: tuple[int, int], kept: Sequence[CustomerDraw]) -> CustomerDraw:
    """Begin a draw among the customers whose place is not known by the shares of before."""
    hour, share = key
    shares = [one.share for one in kept if one.hour == hour]
    low = max((one for one in shares if one < share), default=0)
    high = min((one for one in shares if one > share), default=100)
    chance = (share - low) / (high - low)
    met = Draw.of(chance, len(METRICS)).to_bytes() if 0 < chance < 1 else None
    return CustomerDraw(hour, share, low, high, met, {})


def _added(
    of: Rollout, challenger: Deployment, rows: CustomerCounts, before: CustomerDraw, window: int
) -> CustomerDraw:
    assert before.met is not None
    draw = Draw.from_bytes(before.met)
    place = 100 * np.array(places(challenger, before.hour))
    mine = (rows.draw == before.hour) & np.isin(rows.role, _ARMS)
    mine &= (place[rows.bucket] >= before.low) & (place[rows.bucket] < before.high)
    bucket = rows.bucket[mine]
    unit, which = np.unique(bucket, return_inverse=True)

    def summed(column: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int]:
        return np.bincount(which, column[mine], minlength=len(unit)).astype(np.int64).tolist()

    requests = np.array([summed(rows.requests)] * len(METRICS), np.int64).T
    events = np.array([summed(rows.errors), summed(rows.slow)], np.int64).T
    answered = np.bincount(which, rows.role[mine] == _CHALLENGER, minlength=len(unit)) > 0
    # By the draw, not by who answered: a challenger that is away for a while must not
    # make its customers the champion's.
    on = place[unit] < before.share
    draw.add(
        Met(unit, on, answered, requests, events),
        window=window,
        excused=bool(of.settings.get("rested")),
    )
    limits = (float(of.settings["p_max_errors"]), float(of.settings["p_max_slow"]))
    won = {
        name: draw.wagers(place_of, limit).to_json()
        for place_of, (name, limit) in enumerate(zip(METRICS, limits, strict=True))
    }
    return replace(before, met=draw.to_bytes(), wagers=won)


def _evidence(draws: Sequence[CustomerDraw], redraw: bool) -> JSON:
    """Put the draws together."""
    draws = [one for one in draws if one.wagers]
    found: JSON = {}
    routed: list[tuple[float, int, int]] = []
    for name in METRICS:
        all_ = [Wagers.from_json(one.wagers[name]) for one in draws]
        over = [w for w, one in zip(all_, draws, strict=True) if one.met is None or not redraw]
        found[name] = asdict(together(all_, over))
        chances = [(one.share - one.low) / (one.high - one.low) for one in draws]
        routed = [(c, w.units, w.answered) for c, w in zip(chances, all_, strict=True)]
    return {
        "metrics": found,
        "units": max((units for _, units, _ in routed), default=0),
        "on": sum(on for _, _, on in routed),
        "routing_p": routing_p(routed),
        "redraw": redraw,
    }
