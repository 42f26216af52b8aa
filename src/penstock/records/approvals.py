"""Questions to people, and their answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from penstock.domain import JSON, Approval, Run, Version, Vote
from penstock.errors import ConflictError, NotFoundError
from penstock.records import runs
from penstock.records.database import Change, moved
from penstock.records.schema import approval, approval_comment, approval_vote


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of people."""

    needed: int
    """Distinct persons who must say yes."""
    dossier: JSON
    dossier_digest: str
    expires_at: datetime
    evidence_digest: str | None = None
    authors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ballot:
    """One person's answer, as it is kept."""

    yes: bool
    reason: str = ""
    in_place_of: str | None = None


@dataclass(frozen=True, slots=True)
class Comment:
    """What somebody said about a question, without answering it."""

    id: int
    approval_id: int
    actor: str
    text: str
    ts: datetime


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
            evidence_digest=question.evidence_digest,
            authors=list(question.authors),
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
            "evidence": question.evidence_digest,
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
    return [
        Vote(row.actor, row.vote, row.reason, row.ts, row.in_place_of)
        for row in connection.execute(query)
    ]


def vote(change: Change, of: Approval, ballot: Ballot) -> int:
    """Record the actor's vote and return how many distinct persons have said yes.

    Whoever calls holds the run (`runs.hold`), so that of two who vote at once the second sees
    the first.
    """
    before = votes(change.connection, of.id)
    for person in filter(None, (change.actor, ballot.in_place_of)):
        if any(person in {v.actor, v.in_place_of} for v in before):
            raise ConflictError(
                "PS401",
                f"{person} has already voted on approval {of.id}.",
                hint="One person, one vote; ask a colleague for the next.",
            )
    word = "approve" if ballot.yes else "reject"
    change.connection.execute(
        approval_vote.insert().values(
            approval_id=of.id,
            actor=change.actor,
            vote=word,
            reason=ballot.reason,
            ts=change.now,
            in_place_of=ballot.in_place_of,
        )
    )
    told = {"artifact": of.artifact_digest, "dossier": of.dossier_digest, "reason": ballot.reason}
    if ballot.in_place_of is not None:
        told["in_place_of"] = ballot.in_place_of
    change.journal(f"approval.vote.{word}", {**_about(of), **told})
    return sum(v.vote == "approve" for v in before) + ballot.yes


def withdraw(change: Change, of: Approval, *, reason: str) -> bool:
    """Take the actor's own yes back; say whether there was one."""
    gone = change.connection.execute(
        approval_vote.delete().where(
            approval_vote.c.approval_id == of.id,
            approval_vote.c.actor == change.actor,
            approval_vote.c.vote == "approve",
        )
    )
    if gone.rowcount:
        change.journal("approval.vote.withdrawn", {**_about(of), "reason": reason})
    return bool(gone.rowcount)


def comment(change: Change, of: Approval, text: str) -> int:
    """Keep what somebody says about a question; return its number."""
    made = change.connection.execute(
        approval_comment.insert()
        .values(approval_id=of.id, actor=change.actor, text=text, ts=change.now)
        .returning(approval_comment.c.id)
    ).scalar_one()
    change.journal("approval.comment", {**_about(of), "comment": made, "reason": text})
    return made


def comments(connection: sa.Connection, approval_id: int) -> list[Comment]:
    """Return what was said about a question, in order."""
    query = (
        sa.select(approval_comment)
        .where(approval_comment.c.approval_id == approval_id)
        .order_by(approval_comment.c.id)
    )
    return [Comment(**row) for row in connection.execute(query).mappings()]


def close(change: Change, of: Approval, state: str, *, reason: str) -> None:
    """End a question: ``granted``, ``refused``, ``void`` or ``expired``."""
    runs.hold(change.connection, of.run_id)
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
    change.journal(f"approval.{state}", {**_about(of), "reason": reason})


def _about(of: Approval) -> dict[str, Any]:
    return {"model": of.model, "number": of.number, "approval": of.id}


def _approval(row: Any) -> Approval:
    fields: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 -- SQLAlchemy's public name
    del fields["gate"]
    fields["authors"] = tuple(fields["authors"] or ())
    return Approval(**fields)
