"""Work that the engine does not take is said in its log."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.pipeline.standing import STANDS_S, Standing
from penstock.pipeline.stretches import Pipeline
from penstock.records import runs
from penstock.records.runs import Push
from tests.unit.test_rollout import House

CONFIG = {"model": {"owner": "ada", "team": "risk", "risk": "low"}}


class Waiting:
    """An engine in which everything waits."""

    def __init__(self) -> None:
        self.state = "waiting"

    def states(self, ids: list[str]) -> dict[str, str]:
        return dict.fromkeys(ids, self.state)


class Remembering(Waiting):
    """One that knows what was enqueued."""

    def __init__(self) -> None:
        super().__init__()
        self.enqueued: list[str] = []

    def enqueue(self, *_call: Any, **how: Any) -> None:
        self.enqueued.append(how["id"])

    def states(self, ids: list[str]) -> dict[str, str]:
        return {one: "waiting" for one in ids if one in self.enqueued}


@pytest.fixture
def house(tmp_path: Path) -> Generator[House]:
    made = House(tmp_path)
    yield made
    made.database.close()


def standing(house: House, engine: Waiting) -> Standing:
    tools: Any = SimpleNamespace(database=house.database, engine=engine)
    return Standing(tools, builds=2)


def test_a_run_that_could_begin_and_does_not_is_named_once_with_every_thread(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = house.tested(1)
    watch = standing(house, Waiting())

    early = [*watch.look(0), *watch.look(STANDS_S - 1)]
    late, again = watch.look(STANDS_S), watch.look(STANDS_S + 60)
    with (tmp_path / "engine.log").open("w") as log:
        watch.tell(late, log)

    assert (early, [one.id for one in late], again) == ([], [run.id], [])
    assert f"run {run.id} of credit could begin (testing)" in caplog.text
    assert "in tell" in (tmp_path / "engine.log").read_text()


def test_a_run_that_is_being_done_does_not_stand(house: House) -> None:
    run = house.tested(1)
    watch = standing(house, Waiting())
    found: list[Any] = []

    async def stage(argument: str) -> None:
        found.extend([*watch.look(0), *watch.look(STANDS_S)])

    async def do() -> None:
        await watch.seen(stage)(str(run.id))

    asyncio.run(do())
    watch.look(STANDS_S)

    assert found == []
    assert [one.id for one in watch.look(2 * STANDS_S)] == [run.id]


def test_a_run_whose_work_has_ended_does_not_stand(house: House) -> None:
    house.tested(1)
    engine = Waiting()
    engine.state = "done"
    watch = standing(house, engine)

    assert [*watch.look(0), *watch.look(STANDS_S)] == []


def test_every_live_run_is_healed_and_watched_however_many_are_newer(house: House) -> None:
    engine = Remembering()
    tools: Any = SimpleNamespace(database=house.database, engine=engine)
    for number in range(120):
        with house.database.change("ada") as change:
            runs.register_model(change, f"m{number}")
            runs.start(change, Push(f"m{number}", "main", "a" * 40, "first", "ada", CONFIG))
    with house.database.write() as connection:  # what has ended lies in between and stays
        connection.exec_driver_sql("UPDATE run SET state = 'failed' WHERE model = 'm60'")

    Pipeline(tools).heal()
    before = list(engine.enqueued)
    Pipeline(tools).heal()
    watch = standing(house, engine)

    assert len(before) == 119
    assert engine.enqueued == before
    assert [*watch.look(0), len(watch.look(STANDS_S))] == [119]
