"""One database, two ways in: `Database.read` and `Database.change`.

SQLite runs in WAL mode with ``synchronous=FULL``: an acknowledged decision outlives a power
cut. A change begins with BEGIN IMMEDIATE, because a transaction that reads first and writes
later fails at once when somebody else wrote in between. More of SQLite: `records.sqlite`.
"""

from __future__ import annotations

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
from sqlalchemy.exc import DatabaseError, OperationalError

from penstock.domain import JSON
from penstock.errors import ConflictError, UnreachableError, damaged_database
from penstock.ports import Clock
from penstock.records import journal, sqlite

_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x50656E73
"""Of PostgreSQL's advisory locks, ours while the schema is brought forward."""
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
        is_file = url.startswith("sqlite")
        self.engine = sqlite.connect(url) if is_file else _server(url)
        self._log = sqlite.Log(self.engine) if is_file else None

    def migrate(self) -> None:
        """Bring the schema to this release; refuse a database from a later one.

        One transaction for all of it, whose lock the parts of a server that start together take
        in turn: the first migrates, the others find it done.
        """
        config = alembic.config.Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        script = alembic.script.ScriptDirectory.from_config(config)
        with self.read() as connection:
            if self._revision(connection, script) == script.get_current_head():
                return
        with self.write() as connection:
            if not self.url.startswith("sqlite"):
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            self._revision(connection, script)
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")

    @staticmethod
    def _revision(connection: sa.Connection, script: alembic.script.ScriptDirectory) -> str | None:
        context = alembic.runtime.migration.MigrationContext.configure(connection)
        found = context.get_current_revision()
        if found is not None and found not in {one.revision for one in script.walk_revisions()}:
            raise ConflictError(
                "PS103",
                f"The database has schema {found}, which this release does not know.",
                hint="Install the Penstock release that wrote it, or a later one.",
            )
        return found

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
            self.engine.connect().execution_options(**{sqlite.WRITES: True}) as connection,
            connection.begin(),
        ):
            yield connection
        self.tidy()

    @contextmanager
    def change(self, actor: str) -> Generator[Change]:
        """Give a transaction that decides something, done by `actor`."""
        with self.write() as connection:
            change = Change(connection, actor, self.clock())
            yield change
            assert change.entries, "a change that left no journal entry"

    def tidy(self) -> None:
        """Copy a write-ahead log that has grown long into its file; nothing else to do."""
        if self._log is not None:
            self._log.shorten()

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()


def _server(url: str) -> sa.Engine:
    # Connections that a restart of the server broke are made anew before they are used.
    limits = {"connect_timeout": CONNECT_S}
    return sa.create_engine(url, pool_pre_ping=True, connect_args=limits)


@contextmanager
def _sentences() -> Generator[None]:
    """Turn a database that does not answer into our own error."""
    try:
        yield
    except DatabaseError as error:
        if sqlite.is_damage(error.orig):
            raise damaged_database(error.orig) from error
        if not isinstance(error, OperationalError):
            raise
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
