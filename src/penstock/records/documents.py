"""The documents of a version: files by digest, each under a name of its own."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from penstock.domain import Document
from penstock.errors import NotFoundError
from penstock.records.schema import document, kept_step

PROOF = "path"
"""The signed statement of how a version answers."""
FIRST_ROWS = "first-rows"
"""The rows that each start must answer as the build saw."""
PRIVATE = frozenset({"background", FIRST_ROWS})
"""Rows of people, kept for the gateway alone: no page, no export and no API shows them."""


def add(connection: sa.Connection, of: Document) -> None:
    """Keep a document; one of the same name is replaced (its step was done again)."""
    connection.execute(document.delete().where(_key(of.model, of.number, of.name)))
    connection.execute(
        document.insert().values(
            model=of.model,
            number=of.number,
            name=of.name,
            media_type=of.media_type,
            digest=of.digest,
            bytes=of.bytes,
            created_at=of.created_at,
        )
    )


def documents(connection: sa.Connection, model: str, number: int) -> list[Document]:
    """Return a version's documents by name, those aside that stay on the server."""
    query = (
        sa.select(document)
        .where(document.c.model == model, document.c.number == number)
        .where(document.c.name.not_in(PRIVATE))
        .order_by(document.c.name)
    )
    return [Document(**row) for row in connection.execute(query).mappings()]


def found(connection: sa.Connection, model: str, number: int, name: str) -> Document | None:
    """Return one document; None where the version has none of this name."""
    query = sa.select(document).where(_key(model, number, name))
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else Document(**row)


def get(connection: sa.Connection, model: str, number: int, name: str) -> Document:
    """Return one document.

    Raises
    ------
    NotFoundError
        PS125, the version has none of this name.
    """
    known = found(connection, model, number, name)
    if known is None:
        there = ", ".join(one.name for one in documents(connection, model, number)) or "none"
        raise NotFoundError(
            "PS125",
            f'{model}@{number} has no document "{name}".',
            hint=f"It has {there}.",
        )
    return known


def keep_result(
    connection: sa.Connection,
    key: str,
    of: tuple[str, int, str],
    result: dict[str, Any],
    *,
    now: datetime,
) -> None:
    """Keep a step's result under the digest of its inputs.

    Parameters
    ----------
    of
        Model, version number, step.
    """
    connection.execute(kept_step.delete().where(kept_step.c.key == key))
    connection.execute(
        kept_step.insert().values(
            key=key, model=of[0], number=of[1], step=of[2], result=result, created_at=now
        )
    )


def kept_result(connection: sa.Connection, key: str) -> tuple[int, dict[str, Any]] | None:
    """Return the version number and the result that was kept under a digest; None without."""
    row = connection.execute(sa.select(kept_step).where(kept_step.c.key == key)).one_or_none()
    return None if row is None else (row.number, dict(row.result))


def _key(model: str, number: int, name: str) -> sa.ColumnElement[bool]:
    return (document.c.model == model) & (document.c.number == number) & (document.c.name == name)
