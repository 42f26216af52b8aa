"""True answers by prediction id; what is corrected stays in the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from penstock.records.schema import label, label_before


@dataclass(frozen=True, slots=True)
class Label:
    """One true answer."""

    prediction_id: str
    value: str
    at: datetime | None = None
    """When it became known, as its sender says; None for now."""


@dataclass(slots=True)
class Fates:
    """What became of some labels; the counts sum to how many there were."""

    new: int = 0
    same: int = 0
    """They stood so already."""
    older: int = 0
    """A newer one of another value stands: it stays, this one is history."""
    corrected: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    """Prediction id, value before, value now."""


def keep(
    connection: sa.Connection, model: str, labels: Sequence[Label], *, now: datetime
) -> Fates:
    """Keep labels; of several of one prediction the newest, else the last, counts."""
    ids = list({one.prediction_id for one in labels})
    standing = _standing(connection, model, ids)
    before = dict(standing)
    fates = Fates()
    history: list[dict[str, object]] = []
    for one in labels:
        fresh = (one.value, one.at or now)
        known = standing.get(one.prediction_id)
        if known is None:
            fates.new += 1
        elif known[0] == one.value:
            fates.same += 1
            continue
        else:
            is_older = one.at is not None and one.at < known[1]
            value, at = fresh if is_older else known
            of = {"model": model, "prediction_id": one.prediction_id}
            history.append({**of, "value": value, "at": at, "replaced_at": now})
            if is_older:
                fates.older += 1
                continue
            fates.corrected.append((one.prediction_id, known[0], one.value))
        standing[one.prediction_id] = fresh
    _write(connection, model, before, standing)
    if history:
        connection.execute(label_before.insert(), history)
    return fates


def history(connection: sa.Connection, model: str, prediction_id: str) -> list[tuple[str, str]]:
    """Return what a label was before, oldest first: value, and when it was replaced."""
    query = (
        sa.select(label_before.c.value, label_before.c.replaced_at)
        .where(label_before.c.model == model, label_before.c.prediction_id == prediction_id)
        .order_by(label_before.c.id)
    )
    return [(row.value, row.replaced_at.isoformat()) for row in connection.execute(query)]


def newest(connection: sa.Connection, model: str, *, most: int) -> list[str]:
    """Return the prediction ids of the newest labels of a model."""
    query = (
        sa.select(label.c.prediction_id)
        .where(label.c.model == model)
        .order_by(label.c.at.desc(), label.c.prediction_id)
        .limit(most)
    )
    return list(connection.scalars(query))


def count(connection: sa.Connection, model: str) -> int:
    """Count the predictions of a model that have a label."""
    query = sa.select(sa.func.count()).select_from(label).where(label.c.model == model)
    return connection.scalar(query) or 0


_Standing = dict[str, tuple[str, datetime]]


def _standing(connection: sa.Connection, model: str, ids: Sequence[str]) -> _Standing:
    found: _Standing = {}
    for first in range(0, len(ids), 500):
        query = sa.select(label.c.prediction_id, label.c.value, label.c.at).where(
            label.c.model == model, label.c.prediction_id.in_(ids[first : first + 500])
        )
        found |= {row.prediction_id: (row.value, row.at) for row in connection.execute(query)}
    return found


def _write(connection: sa.Connection, model: str, before: _Standing, now: _Standing) -> None:
    changed = [(name, *one) for name, one in now.items() if before.get(name) != one]
    new = [
        {"model": model, "prediction_id": name, "value": value, "at": at}
        for name, value, at in changed
        if name not in before
    ]
    others = [
        {"of": name, "value": value, "at": at} for name, value, at in changed if name in before
    ]
    if new:
        connection.execute(label.insert(), new)
    if others:
        which = (label.c.model == model) & (label.c.prediction_id == sa.bindparam("of"))
        connection.execute(label.update().where(which), others)
