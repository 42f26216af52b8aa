"""Conditions: what somebody asked for when they said yes, until somebody says it is met."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from penstock.domain import Approval
from penstock.errors import ConflictError, NotFoundError
from penstock.records.database import Change
from penstock.records.schema import approval, condition


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that has to happen, although the version may go to production."""

    id: int
    approval_id: int
    model: str
    number: int
    text: str
    due: datetime | None
    set_by: str
    set_at: datetime
    met_by: str | None
    met_at: datetime | None
    note: str
    """Said when it was met."""

    def overdue(self, now: datetime) -> bool:
        """Say whether its time has passed and nobody has met it."""
        return self.met_at is None and self.due is not None and self.due <= now


def add(change: Change, of: Approval, text: str, due: datetime | None) -> int:
    """Keep a condition of the actor's yes; return its number."""
    made = change.connection.execute(
        condition.insert()
        .values(
            approval_id=of.id,
            model=of.model,
            number=of.number,
            text=text,
            due=due,
            set_by=change.actor,
            set_at=change.now,
        )
        .returning(condition.c.id)
    ).scalar_one()
    told = {"model": of.model, "number": of.number, "approval": of.id, "condition": made}
    when = None if due is None else due.isoformat()
    change.journal("condition.set", {**told, "reason": text, "due": when})
    return made


def withdraw(change: Change, of: Approval) -> None:
    """Take out what the actor asked for with a yes that is withdrawn."""
    change.connection.execute(
        condition.delete().where(
            condition.c.approval_id == of.id, condition.c.set_by == change.actor
        )
    )


def meet(change: Change, condition_id: int, note: str) -> Condition:
    """Note that a condition is met."""
    found = get(change.connection, condition_id)
    result = change.connection.execute(
        condition.update()
        .where(condition.c.id == condition_id, condition.c.met_at.is_(None))
        .values(met_by=change.actor, met_at=change.now, note=note)
    )
    if result.rowcount != 1:
        raise ConflictError(
            "PS476",
            f"Condition {condition_id} of {found.model}@{found.number} is met already, "
            f"says {found.met_by}.",
            hint=f"See all of them: penstock conditions {found.model}.",
        )
    told = {"model": found.model, "number": found.number, "approval": found.approval_id}
    change.journal("condition.met", {**told, "condition": condition_id, "reason": note})
    return get(change.connection, condition_id)


def get(connection: sa.Connection, condition_id: int) -> Condition:
    """Return one condition."""
    query = sa.select(condition).where(condition.c.id == condition_id)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFoundError(
            "PS475",
            f"There is no condition {condition_id}.",
            hint="List them: penstock conditions.",
        )
    return Condition(**row)


def of_approval(connection: sa.Connection, approval_id: int) -> list[Condition]:
    """Return what was asked for with the yeses to one question."""
    return _found(connection, condition.c.approval_id == approval_id)


def of_version(connection: sa.Connection, model: str, number: int) -> list[Condition]:
    """Return the conditions under which a version was let into production."""
    return [
        one for one in _granted(connection, condition.c.model == model) if one.number == number
    ]


def unmet(connection: sa.Connection, model: str | None = None) -> list[Condition]:
    """Return what nobody has met yet, of every version that was let into production."""
    where = condition.c.met_at.is_(None)
    return _granted(connection, where if model is None else where & (condition.c.model == model))


def _granted(connection: sa.Connection, where: sa.ColumnElement[bool]) -> list[Condition]:
    asked = sa.select(approval.c.id).where(approval.c.state == "granted")
    return _found(connection, where & condition.c.approval_id.in_(asked))


def _found(connection: sa.Connection, where: sa.ColumnElement[bool]) -> list[Condition]:
    query = sa.select(condition).where(where).order_by(condition.c.id)
    return [Condition(**row) for row in connection.execute(query).mappings()]
