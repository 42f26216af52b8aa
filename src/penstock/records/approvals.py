"""Questions to people, and their answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from penstock.domain import JSON, Approval, Run, Version, Vote
from penstock.errors import ConflictError, NotFoundError
from penstock.records.database import Change, moved
from penstock.records.schema import approval, approval_vote


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of people."""

    needed: int
    """Distinct persons who must say yes."""
    dossier: JSON
    dossier_digest: str
    expires_at: datetime


def ask(change: Change, of: Run, version: Version, question: Question) -> Approval:
    """Put a question to people, bound to the digests of what they will judge."""
    assert version.artifact_digest is not None, f"{version} is not sealed"
    made = change.connection.execute(
        approval.insert()
        .values(
            run_id=of.id,
            model=of.model,
            number=of.number,
            artifact_digest=version.artifact_digest,
            dossier_digest=question.dossier_digest,
            dossier=dict(question.dossier),
            needed=question.needed,
            state="asked",
            asked_at=change.now,
            expires_at=question.expires_at,
        )
        .returning(approval.c.id)
    ).scalar_one()
    change.journal(
        "approval.asked",
        {
            "model": of.model,
            "number": of.number,
            "run": of.id,
            "approval": made,
            "artifact": version.artifact_digest,
            "dossier": question.dossier_digest,
            "needed": question.needed,
        },
    )
    return get(change.connection, made)


def get(connection: sa.Connection, approval_id: int) -> Approval:
    """Return one approval."""
    row = connection.execute(sa.select(approval).where(approval.c.id == approval_id)).first()
    if row is None:
        raise NotFoundError(
            "PS120", f"There is no approval {approval_id}.", hint="List them: penstock status."
        )
    return _approval(row)


def asked(connection: sa.Connection, *, run_id: int | None = None) -> list[Approval]:
    """Return the approvals that wait for people, oldest first."""
    query = sa.select(approval).where(approval.c.state == "asked").order_by(approval.c.id)
    if run_id is not None:
        query = query.where(approval.c.run_id == run_id)
    return [_approval(row) for row in connection.execute(query)]


def of_run(connection: sa.Connection, run_id: int) -> list[Approval]:
    """Return every approval that a run ever asked for, newest first."""
    query = sa.select(approval).where(approval.c.run_id == run_id).order_by(approval.c.id.desc())
    return [_approval(row) for row in connection.execute(query)]


def votes(connection: sa.Connection, approval_id: int) -> list[Vote]:
    """Return who said what, in order."""
    query = (
        sa.select(approval_vote)
        .where(approval_vote.c.approval_id == approval_id)
        .order_by(approval_vote.c.ts)
    )
    return [Vote(row.actor, row.vote, row.reason, row.ts) for row in connection.execute(query)]


def vote(change: Change, of: Approval, *, yes: bool, reason: str) -> int:
    """Record the actor's vote and return how many distinct persons have said yes."""
    known = {v.actor for v in votes(change.connection, of.id)}
    if change.actor in known:
        raise ConflictError(
            "PS401",
            f"{change.actor} has already voted on approval {of.id}.",
            hint="One person, one vote; ask a colleague for the next.",
        )
    word = "approve" if yes else "reject"
    change.connection.execute(
        approval_vote.insert().values(
            approval_id=of.id, actor=change.actor, vote=word, reason=reason, ts=change.now
        )
    )
    change.journal(
        f"approval.vote.{word}",
        {
            "model": of.model,
            "number": of.number,
            "approval": of.id,
            "artifact": of.artifact_digest,
            "dossier": of.dossier_digest,
            "reason": reason,
        },
    )
    return sum(v.vote == "approve" for v in votes(change.connection, of.id))


def close(change: Change, of: Approval, state: str, *, reason: str) -> None:
    """End a question: ``granted``, ``refused``, ``void`` or ``expired``."""
    result = change.connection.execute(
        approval.update()
        .where(
            approval.c.id == of.id,
            approval.c.state == "asked",
            approval.c.state_version == of.state_version,
        )
        .values(state=state, state_version=of.state_version + 1)
    )
    moved(result, f"Approval {of.id}")
    change.journal(
        f"approval.{state}",
        {"model": of.model, "number": of.number, "approval": of.id, "reason": reason},
    )


def _approval(row: Any) -> Approval:
    fields: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 -- SQLAlchemy's public name
    del fields["gate"]
    return Approval(**fields)
