"""Votes that people hand to somebody else, for a time or for one question."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from penstock.domain import Approval
from penstock.errors import NotFoundError
from penstock.records.database import Change
from penstock.records.schema import delegation


@dataclass(frozen=True, slots=True)
class Delegation:
    """One person's vote in another's hands."""

    id: int
    giver: str
    taker: str
    approval_id: int | None
    """Only on this question; None: on all, or on all of `model`."""
    model: str | None
    until: datetime
    reason: str
    given_at: datetime
    ended_at: datetime | None

    def covers(self, of: Approval, now: datetime) -> bool:
        """Say whether it holds for a question now."""
        return (
            self.ended_at is None
            and now < self.until
            and self.approval_id in {None, of.id}
            and self.model in {None, of.model}
        )


@dataclass(frozen=True, slots=True)
class Handing:
    """What the actor hands over, to whom, and for how long."""

    taker: str
    until: datetime
    approval_id: int | None = None
    model: str | None = None
    reason: str = ""


def give(change: Change, handed: Handing) -> int:
    """Hand the actor's vote over; return the delegation's number."""
    made = change.connection.execute(
        delegation.insert()
        .values(
            giver=change.actor,
            taker=handed.taker,
            approval_id=handed.approval_id,
            model=handed.model,
            until=handed.until,
            reason=handed.reason,
            given_at=change.now,
        )
        .returning(delegation.c.id)
    ).scalar_one()
    told = {"delegation": made, "taker": handed.taker, "until": handed.until.isoformat()}
    where = {"approval": handed.approval_id, "model": handed.model, "reason": handed.reason}
    change.journal("delegation.given", told | where)
    return made


def end(change: Change, delegation_id: int) -> Delegation:
    """Take the actor's own vote back."""
    result = change.connection.execute(
        delegation.update()
        .where(
            delegation.c.id == delegation_id,
            delegation.c.giver == change.actor,
            delegation.c.ended_at.is_(None),
        )
        .values(ended_at=change.now)
    )
    if result.rowcount != 1:
        raise NotFoundError(
            "PS477",
            f"{change.actor} has handed over no vote under the number {delegation_id}.",
            hint="List them: penstock delegate.",
        )
    found = get(change.connection, delegation_id)
    told = {"delegation": delegation_id, "taker": found.taker, "model": found.model}
    change.journal("delegation.ended", told)
    return found


def get(connection: sa.Connection, delegation_id: int) -> Delegation:
    """Return one delegation, which must be there."""
    query = sa.select(delegation).where(delegation.c.id == delegation_id)
    return Delegation(**connection.execute(query).mappings().one())


def live(
    connection: sa.Connection, now: datetime, *, taker: str | None = None
) -> list[Delegation]:
    """Return the delegations that hold, oldest first; with `taker`, those to one person."""
    query = sa.select(delegation).where(delegation.c.ended_at.is_(None), delegation.c.until > now)
    if taker is not None:
        query = query.where(delegation.c.taker == taker)
    rows = connection.execute(query.order_by(delegation.c.id)).mappings()
    return [Delegation(**row) for row in rows]
