"""Work that the engine does not take is said in its log."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.pipeline.standing import STANDS_S, Standing
from tests.unit.test_rollout import House


class Waiting:
    """An engine in which everything waits."""

    def __init__(self) -> None:
        self.state = "waiting"

    def states(self, ids: list[str]) -> dict[str, str]:
        return dict.fromkeys(ids, self.state)


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
