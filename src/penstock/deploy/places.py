"""Who gets which share of a model's requests while a rollout goes on, and after it.

A challenger's place carries a lease: with the engine gone for longer, its share ends.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from penstock.domain import Role, Rollout
from penstock.records import rollouts
from penstock.records.database import Change
from penstock.records.rollouts import Place

LEASE_LOOKS = 3
"""A challenger's lease outlives this many looks; with the engine gone longer, it ends."""
LEASE_LEAST = timedelta(seconds=10)


def lease(now: datetime, of: Rollout) -> datetime:
    """Return when a challenger loses its share unless a look renews it."""
    return now + max(LEASE_LEAST, timedelta(seconds=LEASE_LOOKS * of.settings["batch_s"]))


def wants_control(of: Rollout) -> bool:
    """Whether a control arm is to run beside the challenger at some share.

    From one half of the requests on, what the champion has left is such an arm.
    """
    planned = of.champion is not None and of.settings.get("control", False) is not False
    return planned and any(2 * share < 100 for share in of.shares)


def split(change: Change, of: Rollout, *, share: int) -> None:
    """Give the challenger `share` percent, a control arm as much, and the champion the rest."""
    places = [
        Place(
            of.challenger,
            Role.CHALLENGER,
            share,
            lease_until=lease(change.now, of) if of.champion is not None else None,
            rollout_id=of.id,
        )
    ]
    if of.champion is not None:
        has_control = wants_control(of) and 2 * share < 100
        control = share if has_control else 0
        places.append(Place(of.champion, Role.CHAMPION, 100 - share - control))
        if has_control:
            places.append(Place(of.champion, Role.CONTROL, control, rollout_id=of.id))
    places += still_warm(change, of, also=Role.PREVIOUS)
    rollouts.split(change, of.model, of.environment, places, reason=of.reason)


def shadow(change: Change, of: Rollout) -> None:
    """Give the champion every request and the challenger a copy of each."""
    assert of.champion is not None, "a shadow has somebody to be the shadow of"
    places = [
        Place(of.champion, Role.CHAMPION, 100),
        Place(of.challenger, Role.SHADOW, 100, rollout_id=of.id),
        *still_warm(change, of, also=Role.PREVIOUS),
    ]
    rollouts.split(change, of.model, of.environment, places, reason=of.reason)


def release(change: Change, of: Rollout) -> None:
    """Make the challenger the champion; the old champion stays loaded."""
    places = [Place(of.challenger, Role.CHAMPION, 100)]
    if of.champion is not None:
        places.append(Place(of.champion, Role.PREVIOUS, 0))
    places += still_warm(change, of)
    reason = f"{of.model}@{of.challenger} is the champion"
    rollouts.split(change, of.model, of.environment, places, reason=reason)


def split_back(change: Change, of: Rollout) -> None:
    """Give the champion everything; the challenger is no longer among the loaded."""
    places = [] if of.champion is None else [Place(of.champion, Role.CHAMPION, 100)]
    places += still_warm(change, of, also=Role.PREVIOUS)
    rollouts.split(change, of.model, of.environment, places, reason=of.reason)


def still_warm(change: Change, of: Rollout, also: Role | None = None) -> list[Place]:
    """Return the older loaded versions; on release the previous becomes one of them."""
    present = rollouts.deployments(
        change.connection, model_name=of.model, environment=of.environment
    )
    older = [
        d
        for d in present
        if d.role in {Role.PREVIOUS, Role.WARM} and d.number not in {of.challenger, of.champion}
    ]
    newest = sorted(older, key=lambda d: d.number, reverse=True)[:1]
    return [Place(d.number, d.role if d.role is also else Role.WARM, 0) for d in newest]
