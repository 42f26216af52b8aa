"""One database, two ways in: `Database.read` and `Database.change`.

SQLite runs in WAL mode with ``synchronous=FULL``: an acknowledged decision outlives a power
cut. A change begins with BEGIN IMMEDIATE, because a transaction that reads first and writes
later fails at once when somebody else wrote in between.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import alembic.runtime.migration
import alembic.script
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from penstock.domain import JSON
from penstock.errors import ConflictError, UnreachableError
from penstock.ports import Clock
from penstock.records import journal

_MIGRATIONS = Path(__file__).parent / "migrations"
_WRITES = "penstock_writes"
CONNECT_S = 5
"""A database server that does not answer a connection by then is away."""


@dataclass
class Change:
    """One transaction that changes what matters. It must leave at least one journal entry."""

    connection: sa.Connection
    actor: str
    now: datetime
    entries: int = field(default=0, init=False)

    def journal(self, action: str, body: JSON) -> int:
        """Append to the audit log and return the entry's number."""
        self.entries += 1
        return journal.append(
            self.connection, actor=self.actor, action=action, body=body, now=self.now
        )


class Database:
    """Penstock's records in SQLite or PostgreSQL.

    Parameters
    ----------
    url
        SQLAlchemy's: ``sqlite:////var/lib/penstock/penstock.db`` or ``postgresql+psycopg://…``.
    clock
        Says what time it is; every row's time comes from here.
    """

    def __init__(self, url: str, *, clock: Clock) -> None:
        self.url = url
        self.clock = clock
        self.engine = _sqlite(url) if url.startswith("sqlite") else _server(url)

    def migrate(self) -> None:
        """Bring the schema to this release; refuse a database from a later one."""
        config = alembic.config.Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        newest = alembic.script.ScriptDirectory.from_config(config)
        with _sentences(), self.engine.connect() as connection:
            found = alembic.runtime.migration.MigrationContext.configure(
                connection
            ).get_current_revision()
            if found is not None and found not in {s.revision for s in newest.walk_revisions()}:
                raise ConflictError(
                    "PS103",
                    f"The database has schema {found}, which this release does not know.",
                    hint="Install the Penstock release that wrote it, or a later one.",
                )
            connection.rollback()
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
            connection.commit()

    @contextmanager
    def read(self) -> Generator[sa.Connection]:
        """Give a connection that sees one moment of the database."""
        with _sentences(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Generator[sa.Connection]:
        """Give a transaction for what needs no journal: steps, labels, messages sent."""
        with (
            _sentences(),
            self.engine.connect().execution_options(**{_WRITES: True}) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def change(self, actor: str) -> Generator[Change]:
        """Give a transaction that decides something, done by `actor`."""
        with self.write() as connection:
            change = Change(connection, actor, self.clock())
            yield change
            assert change.entries, "a change that left no journal entry"

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()


def _server(url: str) -> sa.Engine:
    # Connections that a restart of the server broke are made anew before they are used.
    limits = {"connect_timeout": CONNECT_S}
    return sa.create_engine(url, pool_pre_ping=True, connect_args=limits)


def _sqlite(url: str) -> sa.Engine:
    engine = sa.create_engine(url, poolclass=NullPool)

    def set_up(connection: sqlite3.Connection, _record: Any) -> None:
        # Transactions are begun by `begin` below, not by the driver.
        connection.isolation_level = None
        for setting in (
            "busy_timeout=30000",
            "foreign_keys=ON",
            "journal_mode=WAL",
            "synchronous=FULL",
        ):
            connection.execute("PRAGMA " + setting)

    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", begin)
    return engine


@contextmanager
def _sentences() -> Generator[None]:
    """Turn a database that does not answer into our own error."""
    try:
        yield
    except OperationalError as error:
        raise UnreachableError(
            "PS101",
            f"The database does not answer: {error.orig}.",
            hint="Look for a full disk or a lost server (penstock doctor); nothing was changed.",
        ) from error


def moved(result: sa.CursorResult[Any], what: str) -> None:
    """Raise ConflictError unless the compare-and-set changed its one row."""
    if result.rowcount != 1:
        raise ConflictError(
            "PS104",
            f"{what} was changed by somebody else, or its state does not allow this.",
            hint="Look at it again (penstock status) and repeat what is still wanted.",
        )
