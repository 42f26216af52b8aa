"""Which version served when: read from the rollouts that ended in full traffic, and the journal.

A version's *reign* begins when it becomes the champion and ends when the next one does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from penstock.domain import JSON, Environment, Role, RolloutState
from penstock.records.journal import canonical
from penstock.records.schema import deployment, journal, rollout


@dataclass(frozen=True, slots=True)
class Reign:
    """A span of time in which one version was the champion."""

    number: int
    since: datetime
    until: datetime | None
    """None: it still is."""
    rollout_id: int
    kind: str
    """``release`` or ``rollback``."""
    run_id: int | None
    approval_id: int | None
    reason: str
    """Why it took over."""


def reigns(
    connection: sa.Connection,
    model_name: str,
    environment: Environment = Environment.PRODUCTION,
) -> list[Reign]:
    """Return who was the champion when, newest first."""
    query = (
        sa.select(rollout)
        .where(
            rollout.c.model == model_name,
            rollout.c.environment == environment,
            rollout.c.state == RolloutState.FULL,
        )
        .order_by(rollout.c.ended_at.desc(), rollout.c.id.desc())
    )
    found: list[Reign] = []
    until: datetime | None = None
    for row in connection.execute(query).mappings():
        found.append(
            Reign(
                number=row["challenger"],
                since=row["ended_at"],
                until=until,
                rollout_id=row["id"],
                kind=row["kind"],
                run_id=row["run_id"],
                approval_id=row["approval_id"],
                reason=row["reason"],
            )
        )
        until = row["ended_at"]
    return found


def last_served(
    connection: sa.Connection,
    model_name: str,
    environment: Environment = Environment.PRODUCTION,
) -> dict[int, datetime | None]:
    """Return by number when a version was champion for the last time; None: it is now."""
    latest: dict[int, datetime | None] = {}
    for reign in reigns(connection, model_name, environment):
        latest.setdefault(reign.number, reign.until)
    return latest


def cooled(connection: sa.Connection, *, now: datetime) -> list[str]:
    """Return the models with a warm version whose time in the rollback window is over."""
    query = (
        sa.select(deployment.c.model)
        .where(
            deployment.c.environment == Environment.PRODUCTION,
            deployment.c.role == Role.WARM,
            deployment.c.lease_until <= now,
        )
        .distinct()
        .order_by(deployment.c.model)
    )
    return list(connection.scalars(query))


def split_at(
    connection: sa.Connection,
    model_name: str,
    at: datetime,
    environment: Environment = Environment.PRODUCTION,
) -> JSON | None:
    """Return the split that held at a moment, as the journal has it, with `at` and `actor`.

    None before the first one.
    """
    moment = at.astimezone(UTC).isoformat(timespec="microseconds")
    wanted = ({"model": model_name}, {"environment": str(environment)})
    query = (
        sa.select(journal.c.seq, journal.c.ts, journal.c.actor, journal.c.body)
        .where(
            journal.c.action == "traffic.split",
            journal.c.ts <= moment,
            *(journal.c.body.contains(canonical(one)[1:-1]) for one in wanted),
        )
        .order_by(journal.c.seq.desc())
        .limit(1)
    )
    row: Any = connection.execute(query).first()
    if row is None:
        return None
    body = json.loads(row.body)
    return {
        "seq": row.seq,
        "since": row.ts,
        "actor": row.actor,
        "reason": body["reason"],
        "split": body["split"],
    }
