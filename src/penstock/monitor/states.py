"""The one word that the fleet page shows for a model in production."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum


class FleetState(StrEnum):
    """How a model is doing, worst first."""

    DEGRADED = "Degraded"
    """Its answers are worse than allowed, or it does not answer as it should."""
    DRIFTING = "Drifting"
    """Requests or answers have moved; whether its answers suffer is not known."""
    OVERDUE = "Check overdue"
    """Nobody knows: a check did not run, or had no data to look at."""
    HEALTHY = "Healthy"


def fleet_state(
    open_kinds: Collection[str],
    *,
    next_due: datetime | None,
    last_decided: datetime | None,
    period: timedelta,
    now: datetime,
) -> FleetState:
    """Say how a model is doing.

    Parameters
    ----------
    open_kinds
        The kinds of its open alerts.
    next_due
        When its next check has to run; None without a monitor.
    last_decided
        End of the last period in which a check passed or failed, or the version's release
        where that is later: a new version is not overdue before its first period. None: never.
    period
        Length of the monitor's period.
    now
        The present.

    Returns
    -------
    FleetState
        A check is overdue once it is a whole period late, or three periods found no data.
    """
    if {"quality", "service"} & set(open_kinds):
        return FleetState.DEGRADED
    if "drift" in open_kinds:
        return FleetState.DRIFTING
    if "overdue" in open_kinds or next_due is None or last_decided is None:
        return FleetState.OVERDUE
    late = now - next_due >= period
    blind = now - last_decided > 3 * period
    return FleetState.OVERDUE if late or blind else FleetState.HEALTHY
