"""The suite of the port `Engine`: DBOS on a real SQLite file, and the fake in memory.

What only real processes can show stands in test_dbos_engine.py.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import PenstockError, StoppedError, UnreachableError
from penstock.ports import Finished
from tests.engine_rigs import (
    DbosRig,
    Diary,
    MemoryRig,
    Rig,
    alive,
    diary_stretch,
    eventually,
)
from tests.replay_engine import Crash, ReplayEngine

RIGS: dict[str, Callable[[Path], Rig]] = {"memory": MemoryRig, "dbos": DbosRig}


@pytest.fixture(params=RIGS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Rig]:
    made = RIGS[request.param](tmp_path)
    yield made
    made.close()


def test_a_committed_stretch_runs_once(rig: Rig) -> None:
    diary = Diary()
    diary_stretch(rig, diary)
    rig.start()

    with rig.transaction() as transaction:
        rig.engine.enqueue(transaction, "work", "a", id="a-1")

    assert rig.finish("a-1") == {"a-1": "done"}
    assert diary.lines == ["a"]


def test_a_stretch_of_a_rolled_back_transaction_never_runs(rig: Rig) -> None:
    diary = Diary()
    diary_stretch(rig, diary)
    rig.start()

    with rig.transaction() as transaction:
        rig.engine.enqueue(transaction, "work", "undone", id="undone")
        transaction.rollback()
    with rig.transaction() as transaction:
        rig.engine.enqueue(transaction, "work", "kept", id="kept")

    assert rig.finish("undone", "kept") == {"kept": "done"}
    assert diary.lines == ["kept"]


def test_the_same_id_twice_is_one_stretch(rig: Rig) -> None:
    diary = Diary()
    diary_stretch(rig, diary)
    rig.start()

    for argument in ("first", "second"):
        with rig.transaction() as transaction:
            rig.engine.enqueue(transaction, "work", argument, id="one")
            rig.engine.enqueue(transaction, "work", argument, id="one")
        rig.finish("one")

    assert diary.lines == ["first"]


def test_a_stretch_that_is_put_off_waits_its_time(rig: Rig) -> None:
    started_s: list[float] = []

    async def work(argument: str) -> None:
        await rig.engine.step("write", lambda: started_s.append(rig.now_s()))

    rig.engine.register("work", work)
    rig.start()
    due_s = rig.now_s() + 1

    with rig.transaction() as transaction:
        rig.engine.enqueue(transaction, "work", "", id="later", delay_s=1)
    waiting = rig.engine.states(["later"])
    rig.finish("later")

    assert waiting == {"later": "waiting"}
    assert due_s - 0.01 <= started_s[0] < due_s + 15


def test_stretches_of_one_partition_run_one_after_another(rig: Rig) -> None:
    diary = Diary()

    def act(argument: str) -> None:
        diary.write(f"+{argument}")
        time.sleep(0.1)
        diary.write(f"-{argument}")

    async def work(argument: str) -> None:
        await rig.engine.step("act", lambda: act(argument))

    rig.engine.register("work", work)
    rig.start()
    ids = [f"s-{number}" for number in range(3)]

    with rig.transaction() as transaction:
        for id_ in ids:
            rig.engine.enqueue(transaction, "work", id_, id=id_, partition="model")
    rig.finish(*ids)

    pairs = zip(diary.lines[::2], diary.lines[1::2], strict=True)
    assert all(begin[1:] == end[1:] for begin, end in pairs)
    assert len(diary.lines) == 6


def test_a_step_answers_in_plain_json_from_the_first_run_on(rig: Rig) -> None:
    answers: list[Any] = []

    async def asynchronous() -> dict[str, Any]:
        return {"rows": (1, 2)}

    async def work(argument: str) -> None:
        answers.append(await rig.engine.step("plain", lambda: ("a", None)))
        answers.append(await rig.engine.step("async", asynchronous))

    rig.engine.register("work", work)
    rig.start()

    with rig.transaction() as transaction:
        rig.engine.enqueue(transaction, "work", "", id="one")
    rig.finish("one")

    assert answers == [["a", None], {"rows": [1, 2]}]


def test_an_error_of_ours_comes_through_a_step_as_itself(rig: Rig) -> None:
    caught: list[PenstockError] = []

    def refuse() -> None:
        raise StoppedError("PS203", "No model was written.", hint="Write one.")

    async def work(argument: str) -> None:
        try:
            await rig.engine.step("refuse", refuse)
        except StoppedError as error:
            caught.append(error)

    rig.engine.register("work", work)
    rig.start()

    with rig.transaction() as transaction:
        rig.engine.enqueue(transaction, "work", "", id="one")

    assert rig.finish("one") == {"one": "done"}
    assert [(e.code, e.what, e.hint) for e in caught] == [
        ("PS203", "No model was written.", "Write one.")
    ]


@pytest.mark.parametrize(("failures", "state"), [(3, "done"), (4, "failed")])
def test_a_step_whose_error_is_retryable_is_tried_four_times(
    rig: Rig, failures: int, state: str
) -> None:
    diary = Diary()

    def flicker() -> None:
        if len(diary.lines) < failures:
            diary.write("failed")
            raise UnreachableError("PS102", "The store is away.", hint="Wait.")

    async def work(argument: str) -> None:
        await rig.engine.step("flicker", flicker)

    rig.engine.register("work", work)
    rig.start()

    with rig.transaction() as transaction:
        rig.engine.enqueue(transaction, "work", "", id="one")

    assert rig.finish("one") == {"one": state}
    assert len(diary.lines) == failures


def test_a_stretch_that_raises_has_failed(rig: Rig) -> None:
    async def work(argument: str) -> None:
        await rig.engine.step("not json", object)

    rig.engine.register("work", work)
    rig.start()

    with rig.transaction() as transaction:
        rig.engine.enqueue(transaction, "work", "", id="one")

    assert rig.finish("one") == {"one": "failed"}


def test_a_cancelled_stretch_that_waits_never_runs(rig: Rig) -> None:
    diary = Diary()
    diary_stretch(rig, diary)
    rig.start()
    with rig.transaction() as transaction:
        rig.engine.enqueue(transaction, "work", "off", id="off", delay_s=1)

    rig.engine.cancel("off")
    with rig.transaction() as transaction:
        rig.engine.enqueue(transaction, "work", "on", id="on", delay_s=1.5)

    assert rig.finish("off", "on") == {"off": "cancelled", "on": "done"}
    assert diary.lines == ["on"]


def test_a_step_can_enqueue_the_next_stretch(rig: Rig) -> None:
    diary = Diary()

    def go_on(look: int) -> None:
        with rig.transaction() as transaction:
            diary.write(str(look))
            if look < 3:
                rig.engine.enqueue(
                    transaction, "look", str(look + 1), id=f"look-{look + 1}", partition="m"
                )

    async def work(argument: str) -> None:
        await rig.engine.step("close", lambda: go_on(int(argument)))

    rig.engine.register("look", work)
    rig.start()

    with rig.transaction() as transaction:
        rig.engine.enqueue(transaction, "look", "1", id="look-1", partition="m")
    for id_ in ("look-1", "look-2", "look-3"):
        if isinstance(rig, DbosRig):
            eventually(lambda known=id_: known in rig.engine.states([known]))
        rig.finish(id_)

    assert diary.lines == ["1", "2", "3"]


def shell(rig: Rig, script: str, log: Path, *, timeout_s: float = 20) -> Finished:
    """Run a shell script as the command of a stretch and return how it ended."""
    ends: list[Finished] = []

    async def work(argument: str) -> None:
        ends.append(
            await rig.engine.command(
                "run",
                lambda: (["/bin/sh", "-c", script], {"PATH": os.environ["PATH"], "WORD": "blue"}),
                log=log,
                timeout_s=timeout_s,
            )
        )

    rig.engine.register("work", work)
    rig.start()
    with rig.transaction() as transaction:
        rig.engine.enqueue(transaction, "work", "", id="one")
    assert rig.finish("one") == {"one": "done"}
    return ends[0]


def test_a_command_appends_to_its_log_and_tells_its_exit_code(rig: Rig, tmp_path: Path) -> None:
    log = tmp_path / "build-train.log"
    log.write_text("before\n")

    end = shell(rig, "echo $WORD; echo trouble >&2; exit 3", log)

    assert end == Finished(3)
    assert log.read_text() == "before\nblue\ntrouble\n"


def test_a_command_over_its_time_is_killed_with_its_whole_group(rig: Rig, tmp_path: Path) -> None:
    log = tmp_path / "build-train.log"

    end = shell(rig, "sleep 1000 & echo $!; wait", log, timeout_s=2)

    assert end == Finished(-signal.SIGKILL, timed_out=True)
    eventually(lambda: not alive(int(log.read_text())))


@pytest.mark.parametrize("lose_result", [False, True])
@pytest.mark.parametrize("crash_after", [1, 2, 3])
def test_the_fake_goes_on_behind_the_last_step_recorded(
    crash_after: int, lose_result: bool
) -> None:
    engine, diary = ReplayEngine(crash_after, lose_result=lose_result), Diary()

    async def work(argument: str) -> None:
        for name in ("a", "b", "c"):
            await engine.step(name, lambda name=name: diary.write(name))

    engine.register("work", work)
    engine.enqueue(None, "work", "", id="one")
    with pytest.raises(Crash):
        engine.drain()
    engine.drain()

    again = ["a", "b", "c"][crash_after - 1 : crash_after] if lose_result else []
    assert engine.states(["one"]) == {"one": "done"}
    assert diary.lines == sorted(["a", "b", "c", *again])
