"""Alembic's way in: the connection is the caller's."""

from __future__ import annotations

from alembic import context

from penstock.records.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
)
context.run_migrations()
