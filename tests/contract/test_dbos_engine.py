"""What DBOS must do beyond the port's suite: outlive kill -9, refuse a second engine.

Run as a program, this file is an engine process that the tests kill:
``python test_dbos_engine.py HOME``.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from penstock.adapters.dbos_engine import DbosEngine, as_json, check_sqlite, cron, from_json
from penstock.errors import (
    ConfigurationError,
    ConflictError,
    Fault,
    PenstockError,
    StoppedError,
    UnreachableError,
)
from tests.engine_rigs import DbosRig, Diary, alive, diary_stretch, eventually
from tests.postgres import a_postgres

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dbos(tmp_path: Path) -> Generator[DbosRig]:
    made = DbosRig(tmp_path)
    yield made
    made.close()


class EngineProcess:
    """This file as a program: an engine that writes down what its steps do."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with (home / "engine.log").open("ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, __file__, str(home)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )

    def lines(self, name: str) -> list[str]:
        file = self.home / name
        return file.read_text().splitlines() if file.exists() else []

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()


@contextmanager
def engine_process(home: Path) -> Generator[EngineProcess]:
    process = EngineProcess(home)
    try:
        yield process
    finally:
        process.kill()


def enqueue(rig: DbosRig, name: str, id_: str, *, delay_s: float = 0) -> None:
    with rig.transaction() as transaction:
        rig.engine.enqueue(transaction, name, id_, id=id_, queue="build", delay_s=delay_s)


def test_a_killed_engine_repeats_no_step_that_was_done(dbos: DbosRig, tmp_path: Path) -> None:
    with engine_process(tmp_path) as process:
        enqueue(dbos, "work", "one")
        eventually(lambda: process.lines("effects") == ["first", "interrupted"])
        process.kill()
    (tmp_path / "go").touch()
    with engine_process(tmp_path) as process:
        state = dbos.finish("one")

    assert state == {"one": "done"}
    assert process.lines("effects") == ["first", "interrupted", "interrupted", "last"]
    # The error was raised before the kill and replayed after it.
    first, second = map(json.loads, process.lines("errors"))
    assert first == second
    assert first["class"] == "StoppedError"
    assert first["hint"] == "Write one."


def test_a_stretch_put_off_before_the_crash_starts_after_it(dbos: DbosRig, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    enqueue(dbos, "work", "early", delay_s=0.1)
    with engine_process(tmp_path) as process:
        dbos.finish("early")
        enqueue(dbos, "work", "late", delay_s=1)
        process.kill()
    with engine_process(tmp_path) as process:
        state = dbos.finish("late")

    assert state == {"late": "done"}
    assert process.lines("effects").count("last") == 2


def test_a_command_dies_with_a_killed_engine_and_starts_again(
    dbos: DbosRig, tmp_path: Path
) -> None:
    with engine_process(tmp_path) as process:
        enqueue(dbos, "train", "one")
        eventually(lambda: len(process.lines("pids")) == 1)
        process.kill()
        eventually(lambda: not alive(int(process.lines("pids")[0])), within_s=5)
    (tmp_path / "go").touch()
    with engine_process(tmp_path) as process:
        state = dbos.finish("one")

    assert state == {"one": "done"}
    assert len(process.lines("pids")) == 2
    assert process.lines("exits") == ["0"]


def test_cancelling_a_running_command_kills_its_whole_group(dbos: DbosRig, tmp_path: Path) -> None:
    log = tmp_path / "build-train.log"

    async def work(argument: str) -> None:
        await dbos.engine.command(
            "run",
            lambda: (["/bin/sh", "-c", "echo $$; sleep 1000 & echo $!; wait"], {}),
            log=log,
            timeout_s=100,
        )

    dbos.engine.register("work", work)
    dbos.start()
    enqueue(dbos, "work", "one")
    eventually(lambda: log.exists() and len(log.read_text().split()) == 2)
    pids = [int(word) for word in log.read_text().split()]
    assert all(alive(pid) for pid in pids)

    dbos.engine.cancel("one")

    eventually(lambda: not any(alive(pid) for pid in pids), within_s=5)
    assert dbos.finish("one") == {"one": "cancelled"}


def test_closing_kills_a_command_and_leaves_its_stretch_to_the_next_engine(
    dbos: DbosRig, tmp_path: Path
) -> None:
    log = tmp_path / "build-train.log"

    def script() -> tuple[list[str], dict[str, str]]:
        wait = "exit 0" if (tmp_path / "go").exists() else "sleep 1000"
        return ["/bin/sh", "-c", f"echo $$; {wait}"], {"PATH": os.environ["PATH"]}

    async def work(argument: str) -> None:
        await engine.command("run", script, log=log, timeout_s=100)

    engine = dbos.engine
    engine.register("work", work)
    dbos.start()
    enqueue(dbos, "work", "one")
    eventually(lambda: log.exists() and bool(log.read_text()))

    engine.close()
    killed = not alive(int(log.read_text()))
    (tmp_path / "go").touch()
    dbos.engine = engine = dbos.other()
    engine.register("work", work)
    dbos.start()

    assert killed
    assert dbos.finish("one") == {"one": "done"}


# ------------------------------------------------------------------------------- DBOS alone


def test_a_second_engine_is_refused_until_the_first_is_dead(dbos: DbosRig, tmp_path: Path) -> None:
    with engine_process(tmp_path) as process:
        eventually(lambda: process.lines("engine.lock") != [])

        with pytest.raises(ConflictError, match=f"PS150 .* process {process.child.pid},"):
            dbos.start()

    dbos.start()

    assert (tmp_path / "engine.lock").read_text() == str(os.getpid())


def test_nothing_in_the_database_is_pickled(dbos: DbosRig, tmp_path: Path) -> None:
    async def work(argument: str) -> None:
        await dbos.engine.step("one", lambda: {"rows": 3})
        raise StoppedError("PS203", "No model was written.", hint="Write one.")

    dbos.engine.register("work", work)
    dbos.engine.every(60, "work")
    dbos.start()
    enqueue(dbos, "work", "one")
    dbos.finish("one")
    dbos.engine.close()

    with closing(sqlite3.connect(tmp_path / "penstock.db")) as database:
        formats = [
            row
            for table in ("workflow_status", "operation_outputs")
            for row in database.execute(f"SELECT DISTINCT serialization FROM {table}")
        ]
        dump = "\n".join(database.iterdump())
    assert set(formats) == {("portable_json",)}
    assert "No model was written." in dump
    # The first characters of every pickle since protocol 4, in base64.
    assert "'gAS" not in dump


def test_a_look_that_was_put_off_starts_within_half_a_second_of_its_time(dbos: DbosRig) -> None:
    medians_s: list[float] = []
    late_s: list[float] = []
    enqueued_s = time.monotonic()

    async def look(name: str) -> None:
        late_s.append(time.monotonic() - enqueued_s - float(name.partition(" ")[0]))

    dbos.engine.register("look", look)
    dbos.start()

    # The best of a few rounds, because the machine may stand still during one of them.
    while len(medians_s) < 5 and min(medians_s, default=1) >= 0.5:
        names = [f"{0.5 + tenth / 10:.1f} {len(medians_s)}" for tenth in range(10)]
        late_s.clear()
        with dbos.transaction() as transaction:
            enqueued_s = time.monotonic()
            for name in names:
                delay_s = float(name.partition(" ")[0])
                dbos.engine.enqueue(transaction, "look", name, id=name, delay_s=delay_s)
        dbos.finish(*names)
        medians_s.append(sorted(late_s)[5])

    assert min(medians_s) < 0.5


def test_a_tick_runs_again_and_again_with_its_due_time(dbos: DbosRig) -> None:
    diary = Diary()

    async def tick(due: str) -> None:
        diary.write(due)

    dbos.engine.register("tick", tick)
    dbos.engine.every(1, "tick")
    dbos.start()
    eventually(lambda: len(diary.lines) >= 3)

    dues = [datetime.fromisoformat(line) for line in diary.lines]
    assert dues == sorted(set(dues))
    assert abs(datetime.fromtimestamp(time.time(), UTC) - dues[-1]) < timedelta(seconds=10)


@pytest.mark.parametrize("seconds", [0, -5, 7, 90, 3600])
def test_a_period_that_a_clock_face_cannot_show_is_refused(seconds: int) -> None:
    with pytest.raises(ValueError, match=f"{seconds} s"):
        cron(seconds)


def test_ended_stretches_can_be_forgotten(dbos: DbosRig) -> None:
    diary = Diary()
    diary_stretch(dbos, diary)
    dbos.start()
    enqueue(dbos, "work", "ended")
    enqueue(dbos, "work", "waits", delay_s=1000)
    dbos.finish("ended")

    early = dbos.engine.forget(datetime.fromtimestamp(time.time(), UTC) - timedelta(hours=1))
    late = dbos.engine.forget(datetime.fromtimestamp(time.time(), UTC) + timedelta(hours=1))

    assert (early, late) == (0, 1)
    assert dbos.engine.states(["ended", "waits"]) == {"waits": "waiting"}


def test_an_sqlite_without_milliseconds_is_refused_where_they_are_needed() -> None:
    check_sqlite((3, 11), (3, 40, 1))
    check_sqlite((3, 12), (3, 42, 0))

    with pytest.raises(PenstockError, match=r"PS151 Python 3\.12 here has SQLite 3\.40\.1"):
        check_sqlite((3, 12), (3, 40, 1))


def test_a_database_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "penstock.db").mkdir()

    with pytest.raises(UnreachableError, match=r"PS152 .*unable to open database file"):
        DbosEngine(f"sqlite:///{tmp_path}/penstock.db", home=tmp_path, executor_id="test-1")


def test_errors_survive_being_written_down() -> None:
    fault = Fault("PS011", "penstock.toml", 3, "quality.margin", "It is a text.", "Use a number.")

    again = from_json(json.loads(json.dumps(as_json(ConfigurationError([fault])))))

    assert isinstance(again, ConfigurationError)
    assert again.faults == (fault,)


@pytest.fixture
def postgres_url() -> Generator[str]:
    with a_postgres() as server:
        yield server.url


def test_postgresql_keeps_the_promises_of_transactions_delays_and_ticks(
    postgres_url: str, tmp_path: Path
) -> None:
    engine, diary = DbosEngine(postgres_url, home=tmp_path, executor_id="test-1"), Diary()

    async def work(argument: str) -> None:
        await engine.step("write", lambda: diary.write(argument))

    async def tick(due: str) -> None:
        diary.write("tick")

    engine.register("work", work)
    engine.register("tick", tick)
    engine.every(1, "tick")
    engine.launch()
    with closing(engine), closing_database(postgres_url) as database:
        with database.begin() as transaction:
            engine.enqueue(transaction, "work", "undone", id="undone")
            transaction.rollback()
        with database.begin() as transaction:
            engine.enqueue(transaction, "work", "later", id="later", delay_s=1)
            engine.enqueue(transaction, "work", "now", id="now")
            engine.enqueue(transaction, "work", "twice", id="now")
        eventually(lambda: {"tick", "now", "later"} <= set(diary.lines))
        states = engine.states(["undone", "now"])

    assert states == {"now": "done"}
    assert [line for line in diary.lines if line != "tick"] == ["now", "later"]


@contextmanager
def closing_database(url: str) -> Generator[sa.Engine]:
    database = sa.create_engine(url)
    try:
        yield database
    finally:
        database.dispose()


# ------------------------------------------------------------------------------ the program


def main(home: Path) -> None:
    """Serve until killed; a step waits for ever as long as there is no file ``go``."""
    engine = DbosEngine(f"sqlite:///{home}/penstock.db", home=home, executor_id="test-1")

    def note(file: str, line: str) -> None:
        with (home / file).open("a") as output:
            output.write(line + "\n")

    def refuse() -> None:
        raise StoppedError("PS203", "No model was written.", hint="Write one.")

    def interrupted() -> None:
        note("effects", "interrupted")
        if not (home / "go").exists():
            threading.Event().wait()

    async def work(argument: str) -> None:
        await engine.step("first", lambda: note("effects", "first"))
        try:
            await engine.step("refuse", refuse)
        except StoppedError as error:
            note("errors", json.dumps(as_json(error)))
        await engine.step("interrupted", interrupted)
        await engine.step("last", lambda: note("effects", "last"))

    def script() -> tuple[list[str], dict[str, str]]:
        wait = "exit 0" if (home / "go").exists() else "exec sleep 1000"
        return ["/bin/sh", "-c", f"echo $$ >> {home}/pids; {wait}"], {"PATH": os.environ["PATH"]}

    async def train(argument: str) -> None:
        end = await engine.command("train", script, log=home / "train.log", timeout_s=100)
        note("exits", str(end.returncode))

    engine.register("work", work)
    engine.register("train", train)
    engine.launch()
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
