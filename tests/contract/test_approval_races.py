"""Decisions at the same moment: in both databases exactly one ends a question."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from penstock.config import ServerSettings, parse, resolve
from penstock.deploy import approval
from penstock.deploy.approval import Answer, Bound
from penstock.domain import RunState
from penstock.errors import PenstockError
from penstock.pipeline.acts import Acts, expired
from penstock.pipeline.approving import remind
from penstock.records import approvals, journal, rollouts, runs, tokens
from penstock.records.database import Database
from penstock.records.runs import Push, Seal
from penstock.records.schema import outbox
from tests.fakes import MemoryStore
from tests.postgres import Postgres, a_postgres
from tests.replay_engine import ReplayEngine

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PEOPLE = ("ben", "cara", "dan", "eve", "finn", "gail")
YES = Answer(yes=True)
NO = Answer(yes=False, reason="not yet")


class House:
    """Records with a question that people may answer, over a database of either kind."""

    def __init__(self, url: str, folder: Path) -> None:
        self.now = NOW
        self.database = Database(url, clock=lambda: self.now)
        self.database.migrate()
        self.engine = ReplayEngine()
        for name in ("build", "test", "start", "look", "monitor"):
            self.engine.register(name, _nothing)
        self.acts = Acts(self.database, self.engine, ServerSettings(), folder, MemoryStore())

    def asked(self, model: str, needed: int) -> int:
        toml = f'[model]\nname = "{model}"\n'
        self.acts.register_model("ada", model)
        config = resolve(parse(toml), None).model_dump(mode="json")
        run = self.acts.start_run("ada", Push(model, "main", "a" * 40, "a change", "ada", config))
        with self.database.change("penstock") as change:
            version = runs.version_of(change.connection, model, run.number)
            runs.seal(change, version, Seal("c" * 64, "b" * 64, None, None, "full"))
            run = runs.move(change, run, RunState.BUILDING, reason="")
            run = runs.move(change, run, RunState.TESTING, reason="")
            version = runs.version_of(change.connection, model, run.number)
            made = approval.ask(change, run, version, {}, Bound("d" * 64), needed=needed)
        return made.id


async def _nothing(_argument: str) -> None: ...


@pytest.fixture(scope="module")
def server() -> Generator[Postgres]:
    with a_postgres() as made:
        yield made


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def home(
    request: pytest.FixtureRequest, server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Generator[House]:
    folder = tmp_path_factory.mktemp("races")
    url = f"sqlite:///{folder / 'penstock.db'}" if request.param == "sqlite" else server.url
    made = House(url, folder)
    with made.database.change("admin") as change:
        for person in PEOPLE:
            tokens.create(change, person, ["approve:*"])
    yield made
    made.database.close()


def at_once(*does: Callable[[], object]) -> Counter[str]:
    """Do everything at the same moment; count what came of it."""
    start = threading.Barrier(len(does))
    outcomes: list[str] = []

    def one(do: Callable[[], object]) -> None:
        start.wait()
        try:
            do()
        except PenstockError as error:
            outcomes.append(error.code)
        else:
            outcomes.append("done")

    threads = [threading.Thread(target=one, args=(do,)) for do in does]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Counter(outcomes)


def ended(home: House, model: str, number: int) -> tuple[str, list[str], int, RunState]:
    with home.database.read() as connection:
        told = [
            one.action.removeprefix("approval.")
            for one in journal.entries(connection, model=model)
            if one.action in {"approval.granted", "approval.refused", "approval.void"}
        ]
        asked = approvals.get(connection, number)
        state = runs.get(connection, asked.run_id).state
        journal.verify(connection)
        return asked.state, told, len(rollouts.live(connection, model)), state


def answers(home: House, number: int, said: Sequence[Answer]) -> list[Callable[[], object]]:
    def one(person: str, answer: Answer) -> Callable[[], object]:
        return lambda: home.acts.approving.answer(person, number, answer)

    return [one(person, answer) for person, answer in zip(PEOPLE, said, strict=False)]


def test_of_six_people_at_once_exactly_one_ends_the_question(home: House) -> None:
    number = home.asked("six", 1)

    outcomes = at_once(*answers(home, number, [YES, NO, YES, NO, YES, NO]))

    assert outcomes == {"done": 1, "PS406": 5}
    state, told, going, run = ended(home, "six", number)
    assert told == [state]
    granted = state == "granted"
    assert (going, run) == ((1, RunState.ROLLING_OUT) if granted else (0, RunState.REJECTED))


def test_two_yeses_at_once_are_two_where_two_are_needed(home: House) -> None:
    number = home.asked("two", 2)

    assert at_once(*answers(home, number, [YES, YES])) == {"done": 2}

    assert ended(home, "two", number) == ("granted", ["granted"], 1, RunState.ROLLING_OUT)


def test_one_person_at_two_screens_has_one_vote(home: House) -> None:
    number = home.asked("screens", 3)

    def again() -> None:
        home.acts.approving.answer("ben", number, YES)

    assert at_once(again, again, again) == {"done": 1, "PS401": 2}

    with home.database.read() as connection:
        assert len(approvals.votes(connection, number)) == 1


def test_a_yes_races_with_the_end_of_its_run_and_one_of_them_wins(home: House) -> None:
    number = home.asked("ended", 1)
    with home.database.read() as connection:
        run = approvals.get(connection, number).run_id

    outcomes = at_once(
        lambda: home.acts.approving.answer("ben", number, YES),
        lambda: home.acts.abort("ada", run, "not now"),
    )

    state, _, going, _ = ended(home, "ended", number)
    if state == "granted":  # then the run was rolling out, and was given back or could not be
        assert set(outcomes) <= {"done", "PS104", "PS108"}
    else:
        assert (state, going, outcomes["done"]) == ("void", 0, 1)


def test_a_withdrawn_yes_is_not_counted_by_the_yes_that_comes_at_that_moment(home: House) -> None:
    number = home.asked("withdrawn", 2)
    home.acts.approving.answer("ben", number, YES)

    outcomes = at_once(
        lambda: home.acts.approving.withdraw("ben", number, "wrong report"),
        lambda: home.acts.approving.answer("cara", number, YES),
    )

    with home.database.read() as connection:
        said = {one.actor for one in approvals.votes(connection, number)}
        state = approvals.get(connection, number).state
    assert (state, said) in [("granted", {"ben", "cara"}), ("asked", {"cara"})]
    assert outcomes["done"] == (1 if state == "granted" else 2)


def test_a_question_expires_once_while_somebody_answers(home: House) -> None:
    number = home.asked("late", 1)
    home.now = NOW + timedelta(days=14) - timedelta(microseconds=1)
    late = threading.Event()

    def answer() -> None:
        late.wait()
        home.acts.approving.answer("ben", number, YES)

    def close() -> None:
        home.now = NOW + timedelta(days=14)
        late.set()
        expired(home.database, home.engine)

    outcomes = at_once(answer, close)
    home.now = NOW

    assert ended(home, "late", number)[0] == "expired"
    assert outcomes in ({"done": 1, "PS406": 1}, {"done": 1, "PS471": 1})


def test_reminders_are_kept_once_whatever_is_killed_between(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'penstock.db'}"
    home = House(url, tmp_path)
    for model in ("one", "other"):
        home.asked(model, 1)
    died = subprocess.run(
        [sys.executable, "-c", _KILLED, url, (NOW + timedelta(days=8)).isoformat()],
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert died.returncode == -signal.SIGKILL

    assert _reminded(home) == []
    home.now = NOW + timedelta(days=8)
    remind(home.database)
    remind(home.database)

    assert _reminded(home) == ["approval:1:half", "approval:2:half"]
    home.database.close()


def _reminded(home: House) -> list[str]:
    with home.database.read() as connection:
        keys = connection.scalars(outbox.select().with_only_columns(outbox.c.key)).all()
    return sorted(key for key in keys if not key.endswith("asked"))


_KILLED = f"""
import os, sys
from datetime import datetime
from penstock.pipeline.approving import remind
from penstock.records import watch
from penstock.records.database import Database

told, before = [], watch.tell
def tell(connection, key, message, *, now):
    before(connection, key, message, now=now)
    told.append(key)
    if len(told) == 1:
        os.kill(os.getpid(), {int(signal.SIGKILL)})
watch.tell = tell
at = datetime.fromisoformat(sys.argv[2])
remind(Database(sys.argv[1], clock=lambda: at))
"""
