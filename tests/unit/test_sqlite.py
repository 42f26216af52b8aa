"""The SQLite file stays whole, whoever writes, copies the log and dies; and damage is told."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from penstock import wiring
from penstock.adapters.dbos_engine import DbosEngine, durable_engine
from penstock.config import ServerSettings
from penstock.errors import IntegrityError
from penstock.records import sqlite
from penstock.records.database import Database

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FILL = "INSERT INTO written (who, number, filling) VALUES ('me', 1, randomblob(100000))"
TABLE = "CREATE TABLE written (who TEXT, number INTEGER, filling BLOB)"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    wiring.prepare(tmp_path, ServerSettings())
    return tmp_path / "penstock.db"


@pytest.fixture
def database(file: Path) -> Generator[Database]:
    made = Database(f"sqlite:///{file}", clock=lambda: NOW)
    with made.write() as connection:
        connection.exec_driver_sql(TABLE)
    yield made
    made.close()


def log_of(file: Path) -> Path:
    return file.with_name(file.name + "-wal")


def test_a_home_that_is_prepared_again_leaves_the_locks_of_an_open_database(
    file: Path, database: Database
) -> None:
    elsewhere = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version')"
    held = durable_engine(f"sqlite:///{file}")
    with held.begin() as connection:
        connection.exec_driver_sql(FILL)
    before = log_of(file).stat().st_ino

    wiring.prepare(file.parent, ServerSettings())
    # Were the locks gone, this one would think itself the last and remove the log under us.
    subprocess.run([sys.executable, "-c", elsewhere, str(file)], check=True)

    assert log_of(file).stat().st_ino == before
    held.dispose()


def test_a_log_that_has_grown_long_is_copied_and_started_anew(
    file: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PAUSE_S", 0.0)
    kept = durable_engine(f"sqlite:///{file}")
    sizes: list[int] = []
    with kept.connect() as connection:
        connection.exec_driver_sql("PRAGMA user_version")
        connection.rollback()

        for _ in range(100):
            with database.write() as writes:
                writes.exec_driver_sql(FILL)
            sizes.append(log_of(file).stat().st_size)

        assert max(sizes) < sqlite.LONG_BYTES + 500_000
        assert file.stat().st_size > 4_000_000
        assert min(sizes[50:]) < sqlite.KEPT_BYTES + 500_000
    kept.dispose()


def test_no_connection_copies_the_log_by_itself(file: Path, database: Database) -> None:
    kept = durable_engine(f"sqlite:///{file}")
    before = file.stat().st_size

    with kept.connect() as connection:
        for _ in range(60):
            connection.exec_driver_sql(FILL)
            connection.commit()

        assert log_of(file).stat().st_size > 6_000_000
        assert file.stat().st_size == before
    kept.dispose()


def test_nobody_commits_while_the_log_is_copied(
    file: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LONG_BYTES", 0)
    refused: list[str] = []
    with database.engine.connect() as holds, closing(sqlite3.connect(file, timeout=0)) as other:
        holds.exec_driver_sql("PRAGMA user_version")
        holds.rollback()
        with database.write() as connection:
            connection.exec_driver_sql(FILL)

        copied = 0

        def checked_out(connection: sqlite3.Connection, *_others: Any) -> None:
            nonlocal copied

            def traced(statement: str) -> None:
                nonlocal copied
                if "wal_checkpoint" in statement:
                    copied += 1
                    try:
                        other.execute("BEGIN IMMEDIATE")
                        other.rollback()
                    except sqlite3.OperationalError as error:
                        refused.append(str(error))

            connection.set_trace_callback(traced)

        event.listen(database.engine, "checkout", checked_out)
        log = sqlite.Log(database.engine)
        tried = log.shorten()
        again = log.shorten()

    assert (tried, copied, refused) == (True, 1, ["database is locked"])
    assert not again  # so soon


@pytest.mark.parametrize("kind", ["torn", "no database"])
def test_damage_is_told_by_its_name_to_reader_writer_and_engine(tmp_path: Path, kind: str) -> None:
    home = tmp_path
    database = wiring.database(home, ServerSettings())
    database.close()
    file = home / "penstock.db"
    size = file.stat().st_size
    with file.open("r+b") as raw:
        raw.seek(0 if kind == "no database" else 4096)
        raw.write(b"\xff" * (size - 8192))
    again = Database(f"sqlite:///{file}", clock=lambda: NOW)

    with pytest.raises(IntegrityError, match="PS102 The database file is damaged: ") as read:
        again.migrate()
    with pytest.raises(IntegrityError, match="PS102"), again.write() as connection:
        connection.execute(sa.text("DELETE FROM run"))
    with pytest.raises(IntegrityError, match="PS102"):
        DbosEngine(again.url, home=home, executor_id="one")

    assert "A damaged database" in read.value.hint
    assert sqlite.faults(file) != []


def test_a_whole_file_has_no_faults_while_others_use_it(file: Path, database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql(FILL)

        assert sqlite.faults(file) == []


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 1), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 0), False),
    ],
)
def test_which_releases_of_sqlite_have_the_reset_race(
    version: tuple[int, ...], expected: bool
) -> None:
    assert sqlite.has_reset_race(version) is expected


def test_writers_that_are_killed_at_any_moment_leave_a_whole_file_with_all_they_committed(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.sqlite_torture", str(tmp_path), "20", "11"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    left = json.loads(done.stdout)
    assert (left["faults"], left["lost"]) == (["ok"], [])
    assert left["committed"] > 20
