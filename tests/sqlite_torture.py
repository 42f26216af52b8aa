"""Three processes write into a home's database as parts of the server do, and are killed.

python -m tests.sqlite_torture HOME KILLS SEED prints what SQLite then finds wrong with the file,
which of the committed rows are not in it, and how many there were, as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import sqlalchemy as sa

from penstock import wiring
from penstock.adapters.dbos_engine import durable_engine
from penstock.config import ServerSettings
from penstock.records import sqlite
from penstock.records.database import Database

TABLE = (
    "CREATE TABLE written (who INTEGER, number INTEGER, filling BLOB, PRIMARY KEY (who, number))"
)
ROW = sa.text("INSERT INTO written (who, number, filling) VALUES (:who, :number, :filling)")
WRITERS = 3


def write(home: Path, who: int, said: int) -> None:
    """Write until killed, and say the number of each row once it is committed.

    One with an odd name keeps a connection open, as the engine does, and uses it for every
    second row; all other rows go in over a connection each, as the gateway and the records do.
    """
    sqlite.LONG_BYTES, sqlite.PAUSE_S = 100_000, 0.0  # the log is copied at every tenth row
    url = f"sqlite:///{home / 'penstock.db'}"
    kept = durable_engine(url)
    keeps = who % 2 == 1
    if keeps:
        with kept.connect():
            pass
        wiring.prepare(home, ServerSettings())
    database = Database(url, clock=wiring.clock)
    number = 0
    while True:
        number += 1
        row = {"who": who, "number": number, "filling": os.urandom(8000)}
        if keeps and number % 2:
            with kept.begin() as connection:
                connection.execute(ROW, row)
        else:
            with database.write() as connection:
                connection.execute(ROW, row)
        os.write(said, f"{number}\n".encode())


class Writer:
    """A process of ours, and what it said that it had committed."""

    def __init__(self, home: Path, who: int) -> None:
        self.who = who
        self._said, said = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._said)
                write(home, who, said)
            finally:
                os._exit(1)
        os.close(said)
        self._read = os.read(self._said, 1 << 16)
        """Waited for: it has committed, or it ended."""

    def kill(self) -> set[tuple[int, int]]:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while more := os.read(self._said, 1 << 16):
            self._read += more
        os.close(self._said)
        _, status = os.waitpid(self.pid, 0)
        assert os.WIFSIGNALED(status), f"writer {self.who} ended by itself"
        return {(self.who, int(number)) for number in self._read.decode().split()}


def torture(home: Path, *, kills: int, seed: int) -> dict[str, object]:
    """Let them write, copy the log and be killed; look at what is left."""
    draw = random.Random(seed)
    wiring.prepare(home, ServerSettings())
    database = Database(f"sqlite:///{home / 'penstock.db'}", clock=wiring.clock)
    with database.write() as connection:
        connection.exec_driver_sql(TABLE)
    database.close()  # a fork takes no connection along
    committed: set[tuple[int, int]] = set()
    writers = [Writer(home, number) for number in range(WRITERS)]
    for number in range(kills):
        time.sleep(draw.random() * 0.1)
        committed |= writers.pop(draw.randrange(WRITERS)).kill()
        writers.append(Writer(home, number + WRITERS))
    for writer in writers:
        committed |= writer.kill()
    with closing(sqlite3.connect(home / "penstock.db")) as file:
        faults = [str(row[0]) for row in file.execute("PRAGMA integrity_check")]
        found = set(file.execute("SELECT who, number FROM written"))
    return {
        "faults": faults,
        "lost": sorted(committed - found),
        "committed": len(committed),
    }


if __name__ == "__main__":
    left = torture(Path(sys.argv[1]), kills=int(sys.argv[2]), seed=int(sys.argv[3]))
    sys.stdout.write(json.dumps(left))
