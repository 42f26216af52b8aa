"""Verifications that somebody asked for: what is asked, how far it is, what was found."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from penstock.domain import JSON, Verification
from penstock.errors import NotFoundError
from penstock.records.database import Change
from penstock.records.schema import verification

ENDED = ("passed", "failed")


def ask(change: Change, model: str, number: int | None, settings: JSON) -> Verification:
    """Keep a question about a version, or about all versions of a model."""
    made = change.connection.execute(
        verification.insert()
        .values(
            model=model,
            number=number,
            settings=dict(settings),
            state="queued",
            doing="waits for its turn",
            asked_by=change.actor,
            asked_at=change.now,
        )
        .returning(verification.c.id)
    ).scalar_one()
    change.journal(
        "verification.asked", {"model": model, "number": number, "id": made, **settings}
    )
    return get(change.connection, made)


def get(connection: sa.Connection, verification_id: int) -> Verification:
    """Return one verification."""
    query = sa.select(verification).where(verification.c.id == verification_id)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFoundError(
            "PS140",
            f"There is no verification {verification_id}.",
            hint="Ask for one: penstock verify NAME@VERSION.",
        )
    return Verification(**row)


def note(connection: sa.Connection, verification_id: int, share: float, doing: str) -> None:
    """Note how far a verification is, from 0 to 1, and what is done now."""
    connection.execute(
        verification.update()
        .where(verification.c.id == verification_id, verification.c.state.not_in(ENDED))
        .values(state="running", progress=share, doing=doing)
    )


def end(change: Change, of: Verification, *, passed: bool, result: JSON) -> None:
    """Keep what was found; a second time it stays as it is."""
    state = "passed" if passed else "failed"
    ended = change.connection.execute(
        verification.update()
        .where(verification.c.id == of.id, verification.c.state.not_in(ENDED))
        .values(state=state, progress=1.0, doing="", result=dict(result), ended_at=change.now)
    )
    told: dict[str, Any] = {"model": of.model, "number": of.number, "id": of.id, "state": state}
    action = "verification.ended" if ended.rowcount else "verification.known"
    change.journal(action, {**told, "text": result.get("sentence", "")})


def newest(connection: sa.Connection, model: str, number: int) -> list[Verification]:
    """Return what was asked about a version, newest first."""
    query = (
        sa.select(verification)
        .where(verification.c.model == model, verification.c.number == number)
        .order_by(verification.c.id.desc())
        .limit(20)
    )
    return [Verification(**row) for row in connection.execute(query).mappings()]
