"""The journal: an audit log in which each line's hash covers the line before.

``hash = sha256(prev + json([seq, ts, actor, action, body]))``; the first ``prev`` is 64 zeros.
An edited line breaks the chain at that line. A cut tail does not: whoever must prove the
length keeps the head elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from penstock.domain import JSON, JournalEntry
from penstock.errors import IntegrityError
from penstock.records.schema import journal

FIRST = "0" * 64


def canonical(body: Any) -> str:
    """Write JSON in its one spelling: sorted keys, no spaces."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def chained(prev: str, seq: int, ts: str, actor: str, action: str, body: str) -> str:
    """Return the hash of an entry, 64 hex digits."""
    text = prev + canonical([seq, ts, actor, action, body])
    return hashlib.sha256(text.encode()).hexdigest()


def append(
    connection: sa.Connection, *, actor: str, action: str, body: JSON, now: datetime
) -> int:
    """Add an entry inside the caller's transaction and return its number."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('penstock-journal'))"))
    head = connection.execute(
        sa.select(journal.c.seq, journal.c.hash).order_by(journal.c.seq.desc()).limit(1)
    ).first()
    seq, prev = (head.seq + 1, head.hash) if head else (1, FIRST)
    ts = now.astimezone(UTC).isoformat(timespec="microseconds")
    text = canonical(body)
    connection.execute(
        journal.insert().values(
            seq=seq,
            ts=ts,
            actor=actor,
            action=action,
            body=text,
            prev=prev,
            hash=chained(prev, seq, ts, actor, action, text),
        )
    )
    return seq


def entries(
    connection: sa.Connection,
    *,
    before: int | None = None,
    model: str | None = None,
    action: str | None = None,
    most: int = 100,
) -> list[JournalEntry]:
    """Return entries, newest first; `before` is the cursor, `model` a filter on the body."""
    query = sa.select(journal).order_by(journal.c.seq.desc()).limit(most)
    if before is not None:
        query = query.where(journal.c.seq < before)
    if action is not None:
        query = query.where(journal.c.action == action)
    if model is not None:
        query = query.where(journal.c.body.contains(canonical({"model": model})[1:-1]))
    return [JournalEntry(**row) for row in connection.execute(query).mappings()]


def verify(connection: sa.Connection) -> int:
    """Walk the chain and return the number of entries.

    Raises
    ------
    IntegrityError
        At the first entry that does not follow from the one before.
    """
    prev, expected = FIRST, 1
    for row in connection.execute(sa.select(journal).order_by(journal.c.seq)):
        whole = chained(row.prev, row.seq, row.ts, row.actor, row.action, row.body)
        if (row.seq, row.prev, row.hash) != (expected, prev, whole):
            raise IntegrityError(
                "PS701",
                f"Journal entry {row.seq} does not follow from entry {expected - 1}.",
                hint="Compare with a backup; from this entry on the record is not proved.",
            )
        prev, expected = row.hash, expected + 1
    return expected - 1
