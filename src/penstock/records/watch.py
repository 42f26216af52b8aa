"""What keeps an eye on production: monitors, alerts, labels, and messages to people."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from penstock.domain import JSON, Alert, Monitor
from penstock.records.database import Change
from penstock.records.schema import alert, label, monitor, outbox


def set_monitor(
    change: Change, model_name: str, name: str, *, due: datetime, settings: JSON
) -> None:
    """Make or change the monitor of a period; a known one keeps its next due time."""
    key = (monitor.c.model == model_name) & (monitor.c.name == name)
    if change.connection.scalar(sa.select(monitor.c.id).where(key)) is None:
        change.connection.execute(
            monitor.insert().values(
                model=model_name, name=name, next_due=due, enabled=True, settings=dict(settings)
            )
        )
    else:
        change.connection.execute(monitor.update().where(key).values(settings=dict(settings)))
    change.journal("monitor.set", {"model": model_name, "monitor": name, "due": due.isoformat()})


def monitors(connection: sa.Connection, model_name: str | None = None) -> list[Monitor]:
    """Return the monitors."""
    query = sa.select(monitor).order_by(monitor.c.model, monitor.c.name)
    if model_name is not None:
        query = query.where(monitor.c.model == model_name)
    return [Monitor(**row) for row in connection.execute(query).mappings()]


def due(connection: sa.Connection, now: datetime, *, most: int = 500) -> list[Monitor]:
    """Return the enabled monitors whose time has come, longest overdue first."""
    query = (
        sa.select(monitor)
        .where(monitor.c.enabled, monitor.c.next_due <= now)
        .order_by(monitor.c.next_due)
        .limit(most)
    )
    return [Monitor(**row) for row in connection.execute(query).mappings()]


def advance(connection: sa.Connection, of: Monitor, next_due: datetime) -> bool:
    """Set the next time, if nobody did since it was read; say whether this call did."""
    result = connection.execute(
        monitor.update()
        .where(monitor.c.id == of.id, monitor.c.next_due == of.next_due)
        .values(next_due=next_due)
    )
    return result.rowcount == 1


def open_alerts(connection: sa.Connection, model_name: str | None = None) -> list[Alert]:
    """Return the alerts that are not closed."""
    query = sa.select(alert).where(alert.c.state != "closed").order_by(alert.c.id)
    if model_name is not None:
        query = query.where(alert.c.model == model_name)
    return [_alert(row) for row in connection.execute(query).mappings()]


def alerts(connection: sa.Connection, model_name: str, *, most: int = 100) -> list[Alert]:
    """Return a model's alerts, newest first."""
    query = (
        sa.select(alert).where(alert.c.model == model_name).order_by(alert.c.id.desc()).limit(most)
    )
    return [_alert(row) for row in connection.execute(query).mappings()]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an alert is opened, or goes on."""

    due: datetime
    """End of the period that found it."""
    number: int
    """The version that served."""
    summary: str
    checks: Collection[str]
    """What has to pass before it closes."""


def open_alert(change: Change, model_name: str, kind: str, cause: Cause) -> int:
    """Open an alert; the journal says why."""
    made = change.connection.execute(
        alert.insert()
        .values(
            model=model_name,
            kind=kind,
            state="open",
            first_due=cause.due,
            last_due=cause.due,
            number=cause.number,
            summary=cause.summary,
            checks=sorted(cause.checks),
        )
        .returning(alert.c.id)
    ).scalar_one()
    body = {"model": model_name, "number": cause.number, "alert": made, "kind": kind}
    change.journal("alert.opened", {**body, "summary": cause.summary})
    return made


def continue_alert(change: Change, of: Alert, cause: Cause) -> None:
    """Note that an open alert's cause was seen again."""
    change.connection.execute(
        alert.update()
        .where(alert.c.id == of.id, alert.c.state != "closed")
        .values(
            last_due=cause.due,
            occurrences=alert.c.occurrences + 1,
            summary=cause.summary,
            checks=sorted(cause.checks),
        )
    )
    change.journal("alert.continued", {"model": of.model, "alert": of.id, "kind": of.kind})


def close_alert(change: Change, of: Alert, *, reason: str) -> None:
    """Close an alert."""
    change.connection.execute(
        alert.update().where(alert.c.id == of.id, alert.c.state != "closed").values(state="closed")
    )
    change.journal(
        "alert.closed", {"model": of.model, "alert": of.id, "kind": of.kind, "reason": reason}
    )


def of_predictions(
    connection: sa.Connection, model_name: str, prediction_ids: Sequence[str]
) -> dict[str, str]:
    """Return the labels of these predictions, as far as they have come."""
    found: dict[str, str] = {}
    for first in range(0, len(prediction_ids), 500):
        some = prediction_ids[first : first + 500]
        query = sa.select(label.c.prediction_id, label.c.value).where(
            label.c.model == model_name, label.c.prediction_id.in_(some)
        )
        found |= {row.prediction_id: row.value for row in connection.execute(query)}
    return found


def labels_of(connection: sa.Connection, model_name: str) -> dict[str, str]:
    """Return every label of a model."""
    query = sa.select(label.c.prediction_id, label.c.value).where(label.c.model == model_name)
    return {row.prediction_id: row.value for row in connection.execute(query)}


def tell(connection: sa.Connection, key: str, message: JSON, *, now: datetime) -> None:
    """Let people be told, once the transaction that causes it commits; the same key once."""
    if connection.scalar(sa.select(outbox.c.id).where(outbox.c.key == key)) is None:
        connection.execute(outbox.insert().values(key=key, message=dict(message), at=now))


def unsent(connection: sa.Connection, *, most: int = 100) -> list[tuple[int, dict[str, Any]]]:
    """Return messages that nobody has been told yet, oldest first."""
    query = (
        sa.select(outbox.c.id, outbox.c.message)
        .where(outbox.c.sent_at.is_(None), outbox.c.tries < 50)
        .order_by(outbox.c.id)
        .limit(most)
    )
    return [(row.id, row.message) for row in connection.execute(query)]


def tried(connection: sa.Connection, message_id: int, *, sent_at: datetime | None) -> None:
    """Note an attempt to send; `sent_at` is None when it failed and will be tried again."""
    connection.execute(
        outbox.update()
        .where(outbox.c.id == message_id)
        .values(tries=outbox.c.tries + 1, sent_at=sent_at)
    )


def _alert(row: Any) -> Alert:
    fields: dict[str, Any] = dict(row)
    fields["checks"] = tuple(fields["checks"])
    return Alert(**fields)
