"""The records' SQLite file: how it is opened, when its write-ahead log is copied into it, damage.

Three rules keep the file whole; docs/decisions tells how each was learned.

- Nobody opens it beside SQLite, not even to look: the close of any descriptor of a file drops
  all POSIX locks of the process on it, SQLite's too.
- Nobody checkpoints by himself. `Log.shorten` does it while it holds the write lock, so that no
  commit can start the log anew under a checkpoint: the race of SQLite before 3.51.3.
- A connection belongs to one thread at a time, and to one process for good.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

WRITES = "penstock_writes"
LONG_BYTES = 4 << 20
"""A write-ahead log of this size is copied into the file; reads get slower by its length."""
KEPT_BYTES = 1 << 20
"""What stays of the log's file when it is started anew."""
PAUSE_S = 1.0
"""A long reader keeps the log long; it is not tried more often than this."""
SETTINGS = (
    "busy_timeout=30000",
    "foreign_keys=ON",
    "journal_mode=WAL",
    "synchronous=FULL",
    "wal_autocheckpoint=0",
    f"journal_size_limit={KEPT_BYTES}",
)
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SOUND_SINCE = (3, 51, 3)
_SOUND_LINES = ((3, 44, 6), (3, 50, 7))
"""Older lines that got the correction, too."""


def connect(url: str) -> sa.Engine:
    """Return the engine of the records; a transaction that will write begins as one."""
    engine = sa.create_engine(url, poolclass=NullPool)

    def set_up(connection: sqlite3.Connection, _record: Any) -> None:
        # Transactions are begun by `begin` below, not by the driver.
        connection.isolation_level = None
        for setting in SETTINGS:
            connection.execute("PRAGMA " + setting)

    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get(WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", begin)
    return engine


class Log:
    """The write-ahead log beside an SQLite file.

    Parameters
    ----------
    engine
        From `connect`.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._path = Path(f"{engine.url.database}-wal")
        self._busy = threading.Lock()
        self._again_s = 0.0

    def shorten(self) -> bool:
        """Copy the log into the file when it has grown long; return whether that was tried."""
        if not self._is_long() or not self._busy.acquire(blocking=False):
            return False
        try:
            if time.monotonic() < self._again_s:
                return False
            # Locked for long, a full disk: it stays long. Damage is told by who reads or writes.
            with suppress(DatabaseError, sqlite3.DatabaseError):
                self._copy()
            self._again_s = time.monotonic() + PAUSE_S
            return True
        finally:
            self._busy.release()

    def _is_long(self) -> bool:
        try:
            return self._path.stat().st_size >= LONG_BYTES
        except OSError:
            return False

    def _copy(self) -> None:
        writes = self._engine.connect().execution_options(**{WRITES: True})
        with writes as guard, guard.begin() as transaction:
            with (
                closing(self._engine.raw_connection()) as other,
                closing(other.cursor()) as cursor,
            ):
                cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")
            transaction.rollback()


def is_damage(error: BaseException | None) -> bool:
    """Whether SQLite says that a file is not, or no more, a whole database."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF in _DAMAGED


def has_reset_race(version: tuple[int, ...]) -> bool:
    """Whether this SQLite can lose a commit that coincides with a checkpoint.

    References
    ----------
    https://www.sqlite.org/wal.html#walresetbug

    Examples
    --------
    >>> has_reset_race((3, 40, 1)), has_reset_race((3, 51, 3)), has_reset_race((3, 50, 7))
    (True, False, False)
    """
    backported = any(version[:2] == line[:2] and version >= line for line in _SOUND_LINES)
    return (3, 7) <= version < _SOUND_SINCE and not backported


def faults(path: Path) -> list[str]:
    """Return what SQLite finds wrong with a database file; empty where it is whole.

    Reads all of it: about a second for some hundred megabytes.
    """
    with closing(sqlite3.connect(path.as_uri() + "?mode=rw", uri=True, timeout=30)) as connection:
        try:
            found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            return [str(error)]
    return [] if found == ["ok"] else found
