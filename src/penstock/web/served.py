"""`penstock history`: which version served when, who let it in, and on which evidence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from penstock.domain import Approval
from penstock.errors import NotFoundError, UsageError
from penstock.records import approvals, journal, runs, served
from penstock.records.served import Reign
from penstock.web import views
from penstock.web.control import Control

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def history(control: Control, name: str, at: str = "") -> dict[str, Any]:
    """Return a model's champions, versions and decisions, newest first.

    Parameters
    ----------
    at
        A moment or a day, ISO 8601; UTC where it names no zone. Then only who served in it, and
        the whole split at its end. Empty: everything.
    """
    span = _span(at, control.clock()) if at else None
    with control.database.read() as connection:
        runs.model_of(connection, name)
        reigns = served.reigns(connection, name)
        if span is not None:
            reigns = [one for one in reigns if _overlaps(one, *span)]
        told: dict[str, Any] = {"served": [_reign(connection, one) for one in reigns]}
        if span is not None:
            split = served.split_at(connection, name, span[1])
            if split is None:
                raise NotFoundError(
                    "PS451",
                    f"Nothing of {name} served in production at {at}.",
                    hint=f"See since when: penstock history {name}.",
                )
            return {"at": span[1], "split": split, **told, "versions": [], "entries": []}
        entries = journal.entries(connection, model=name, most=200)
        versions = runs.versions(connection, name)
    kept = ("number", "commit", "artifact_digest", "sandbox_level", "created_at")
    return {
        **told,
        "versions": [
            {"run": v.run_id, **{field: getattr(v, field) for field in kept}} for v in versions
        ],
        "entries": [views.entry_json(entry) for entry in entries],
    }


def champions(control: Control, name: str, *, most: int = 10) -> list[dict[str, Any]]:
    """Return the last champions for a page."""
    with control.database.read() as connection:
        return [_reign(connection, one) for one in served.reigns(connection, name)[:most]]


def _reign(connection: Any, of: Reign) -> dict[str, Any]:
    asked = None if of.approval_id is None else approvals.get(connection, of.approval_id)
    votes = [] if asked is None else approvals.votes(connection, asked.id)
    told: dict[str, Any] = {
        "number": of.number,
        "since": of.since,
        "until": of.until,
        "kind": of.kind,
        "rollout": of.rollout_id,
        "run": of.run_id,
        "reason": of.reason,
        "approval": of.approval_id,
        "let_in_by": [
            {"person": v.actor, "at": v.ts, "reason": v.reason}
            for v in votes
            if v.vote == "approve"
        ],
        "evidence": _evidence(asked),
    }
    return {**told, "text": _sentence(told)}


def _evidence(asked: Approval | None) -> dict[str, Any] | None:
    if asked is None:
        return None
    return {
        "dossier": asked.dossier_digest,
        "artifact": asked.artifact_digest,
        "lead": asked.dossier.get("lead"),
    }


def _sentence(told: dict[str, Any]) -> str:
    people: Sequence[dict[str, Any]] = told["let_in_by"]
    if told["kind"] == "rollback":
        return f"{told['reason']}"
    if not people:
        return f"Nobody had to approve. {told['reason']}"
    return f"Approved by {', '.join(one['person'] for one in people)}. {told['reason']}"


def _span(text: str, now: datetime) -> tuple[datetime, datetime]:
    try:
        began = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(
            "PS452", f'"{text}" is no date.', hint="Write 2026-11-30 or 2026-11-30T14:05."
        ) from None
    if began.tzinfo is None:
        began = began.replace(tzinfo=UTC)
    if _DAY.fullmatch(text.strip()) is None:
        return began, began
    return began, max(began, min(began + timedelta(days=1, microseconds=-1), now))


def _overlaps(one: Reign, began: datetime, ended: datetime) -> bool:
    return one.since <= ended and (one.until is None or one.until > began)
