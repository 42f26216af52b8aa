"""Who gets which share of a model's requests while a rollout goes on, and after it.

A challenger's place carries a lease: with the engine gone for longer, its share ends.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from penstock.config.rollback import Rollback
from penstock.domain import Deployment, Environment, Role, Rollout
from penstock.records import rollouts, runs, served
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
    """Return the older versions that stay loaded: the one before, and some inside the window.

    The window and their number are the challenger's to say. Without `also` the version before
    becomes one of the others.
    """
    connection = change.connection
    kept = _rollback(connection, of)
    present = rollouts.deployments(connection, model_name=of.model, environment=of.environment)
    here = {d.number: d for d in present if d.number not in {of.challenger, of.champion}}
    before = [
        Place(d.number, Role.PREVIOUS, 0)
        for d in here.values()
        if d.role is Role.PREVIOUS and also is Role.PREVIOUS
    ]
    served_until = served.last_served(connection, of.model, of.environment)
    older: list[tuple[datetime, int]] = []
    for found in here.values():
        until = served_until.get(found.number)
        if found.role in {Role.PREVIOUS, Role.WARM} and until is not None:
            older.append((until + timedelta(seconds=kept.window_s), found.number))
    taken = {place.number for place in before}
    inside = [one for one in older if one[0] > change.now and one[1] not in taken]
    warm = sorted(inside, reverse=True)[: kept.warm]
    return before + [Place(number, Role.WARM, 0, lease_until=ends) for ends, number in warm]


def _rollback(connection: sa.Connection, of: Rollout) -> Rollback:
    config = runs.version_of(connection, of.model, of.challenger).config
    return Rollback.model_validate_json(json.dumps(config.get("rollback") or {}))


def of_present(present: Sequence[Deployment]) -> list[Place]:
    """Return the places that deployments are now."""
    return [Place(d.number, d.role, d.share, d.lease_until, d.rollout_id) for d in present]


def add_warm(change: Change, of: Rollout) -> None:
    """Load the version of a rollback beside those that are loaded."""
    present = rollouts.deployments(
        change.connection, model_name=of.model, environment=of.environment
    )
    places = [*of_present(present), Place(of.challenger, Role.WARM, 0, rollout_id=of.id)]
    rollouts.split(change, of.model, of.environment, places, reason=of.reason)


def cool(change: Change, model: str) -> None:
    """Unload the versions whose time in the rollback window is over, unless a rollout goes on."""
    present = rollouts.deployments(
        change.connection, model_name=model, environment=Environment.PRODUCTION
    )
    stays = [
        d
        for d in present
        if d.role is not Role.WARM or d.lease_until is None or d.lease_until > change.now
    ]
    gone = {d.number for d in present} - {d.number for d in stays}
    if not gone or rollouts.live(change.connection, model):
        change.journal("rollback.kept", {"model": model})
        return
    names = ", ".join(f"@{number}" for number in sorted(gone))
    reason = f"{names}: outside the rollback window"
    places = of_present(stays)
    rollouts.split(change, model, Environment.PRODUCTION, places, reason=reason)
