"""A step that asks for labels waits for them, from entries of a real log to the next share."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from penstock.domain import JSON, Role, Rollout
from penstock.inference.prediction_log.counting import Arms
from penstock.inference.prediction_log.segments import PredictionLog
from penstock.pipeline import releasing
from penstock.pipeline.prediction_logs import PredictionLogs
from penstock.records import labels, rollouts
from tests.unit.log_rig import entry, us
from tests.unit.rollout_rig import House


async def step(name: str, action: Any) -> JSON:
    assert name
    return cast("JSON", action())


def test_a_step_counts_only_labels_of_the_challengers_answers_at_this_share(
    tmp_path: Path,
) -> None:
    house = House(tmp_path, "steps = [25, 50]\nbatch_s = 60\nmin_labels = 20")
    log = PredictionLog(tmp_path / "log", clock_us=lambda: us(house.now))
    arms = Arms(tmp_path / "log" / "production" / "credit")
    tools: Any = SimpleNamespace(
        database=house.database,
        arms=lambda _model: arms,  # pyright: ignore[reportUnknownLambdaType]
        engine=SimpleNamespace(step=step, enqueue=house.engine.enqueue),
        clock=lambda: house.now,
        reached=lambda _point: None,  # pyright: ignore[reportUnknownLambdaType]
        logs=PredictionLogs(tmp_path, house.database),
    )
    house.live(1)
    house.acts.approve("bob", house.asked(2), "fine")
    house.begin()

    def of() -> Rollout:
        with house.database.read() as connection:
            (found,) = rollouts.of_model(connection, "credit", most=1)
        return found

    def minute() -> Rollout:
        with house.database.read() as connection:
            place = rollouts.in_role(connection, "credit", Role.CHALLENGER)
        assert place is not None
        at = house.now + timedelta(seconds=1)
        for number, role in ((1, "champion"), (2, "challenger")):
            log.append(
                "production",
                "credit",
                [
                    entry(f"{role}-{us(at)}-{n}", at)._replace(
                        number=number, role=role, generation=place.generation
                    )
                    for n in range(150)
                ],
            )
        house.now += timedelta(seconds=60)
        log.mark("production", "credit", us(house.now))
        asyncio.run(releasing.look(tools, f"{of().id}:{of().look}"))
        return of()

    def label(role: str, count: int) -> None:
        found = [f"{role}-{first}-{n}" for n in range(count)]
        with house.database.write() as connection:
            kept = [labels.Label(name, "1.0", None) for name in found]
            labels.keep(connection, "credit", kept, now=house.now)

    first = us(house.now + timedelta(seconds=1))
    assert minute().share == 25
    label("champion", 40)
    label("challenger", 19)
    assert minute().share == 25  # a label is missing: the champion's do not count
    label("challenger", 20)
    assert minute().share == 50
    log.close()
    house.database.close()
