"""A canary that draws customers, from entries of a real log to what is decided."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from penstock.deploy.canary import ArmCounts, Batch, judge
from penstock.deploy.customers import Customers
from penstock.deploy.keytest import Evidence
from penstock.domain import JSON, Deployment, Role, Rollout, RolloutState, Verdict
from penstock.inference.gateway.sticky import HOUR_US, bucket_of, place_of
from penstock.inference.prediction_log.counting import Arms
from penstock.inference.prediction_log.records import ROLES, Entry, Outcome
from penstock.inference.prediction_log.segments import PredictionLog
from penstock.pipeline import releasing
from penstock.records import draws, rollouts
from tests.replay_engine import ReplayEngine
from tests.unit.log_rig import us
from tests.unit.rollout_rig import House

CUSTOMERS = [str(n) for n in range(800)]


class Crash(BaseException):
    """As a kill -9 at a point."""


class Steps:
    """Does each step of a stretch, again and again where it is asked to."""

    def __init__(self, engine: ReplayEngine) -> None:
        self.enqueue = engine.enqueue

    async def step(self, name: str, action: Callable[[], JSON]) -> JSON:
        assert name
        return action()


class Keyed(House):
    """A house whose canary draws customers, with a log that a test fills as a gateway would."""

    now: datetime

    def __init__(self, folder: Path, canary: str) -> None:
        super().__init__(folder, f'{canary}\nbatch_s = 60\nkey = "id"')
        self.log = PredictionLog(folder / "log", clock_us=lambda: us(self.now))
        self.arms = Arms(folder / "log" / "production" / "credit")
        self.draw = np.random.default_rng(7)
        self.tools = cast(
            "Any",
            SimpleNamespace(
                database=self.database,
                arms=self.counted,
                engine=Steps(self.engine),
                clock=lambda: self.now,
                reached=self.reached,
            ),
        )
        self.crash_at = ""
        self.live(1)
        self.acts.approve("bob", self.asked(2), "fine")
        self.begin()

    def counted(self, model: str) -> Arms:
        assert model == "credit"
        return self.arms

    def reached(self, point: str) -> None:
        if point == self.crash_at:
            self.crash_at = ""
            raise Crash

    def of(self) -> Rollout:
        with self.database.read() as connection:
            (found,) = rollouts.of_model(connection, "credit", most=1)
        return found

    def challenger(self) -> Deployment:
        with self.database.read() as connection:
            found = rollouts.in_role(connection, "credit", Role.CHALLENGER)
        assert found is not None
        return found

    def ask(self, fails: dict[str, float], *, each: float = 2.0, worse: float = 0.01) -> None:
        """Log a minute of requests of all customers, and then look.

        `fails` are customers' own rates of errors; all others fail at the rate `worse` on the
        challenger and 0.01 on the champion.
        """
        challenger = self.challenger()
        entries: list[Entry] = []
        for customer in CUSTOMERS:
            bucket = bucket_of(customer, challenger)
            on = 100 * place_of(bucket, challenger, us(self.now)) < challenger.share
            for _ in range(int(self.draw.poisson(40 if customer in fails else each))):
                rate = fails.get(customer, worse if on else 0.01)
                failed = bool(self.draw.random() < rate)
                entries.append(an_entry(us(self.now), on, failed, bucket, challenger.generation))
        self.log.append("production", "credit", entries)
        self.now += timedelta(seconds=60)
        self.look_now()

    def look_now(self) -> None:
        self.log.mark("production", "credit", us(self.now))
        of = self.of()
        for point in ("production/count:after", "production/decide:after", ""):
            self.crash_at = point
            with contextlib.suppress(Crash):
                asyncio.run(releasing.look(self.tools, f"{of.id}:{of.look}"))


def an_entry(at: int, on: bool, failed: bool, bucket: int, generation: int) -> Entry:
    return Entry(
        at + 1000, at + 3000, 2 if on else 1, "challenger" if on else "champion",
        500 if failed else 200, Outcome.FAILED if failed else Outcome.ANSWERED, generation,
        1, 1, "a", b"", b"", bucket=bucket,
    )  # fmt: skip


@pytest.fixture
def keyed(tmp_path: Path) -> Generator[Keyed]:
    made = Keyed(tmp_path, "steps = [25]")
    yield made
    made.log.close()
    made.database.close()


def always_failing(keyed: Keyed, number: int) -> dict[str, float]:
    """Customers of the challenger who fail whatever the version is."""
    challenger = keyed.challenger()
    on = [c for c in CUSTOMERS if place_of(bucket_of(c, challenger), challenger, 0) < 0.25]
    return dict.fromkeys(on[:number], 0.9)


def test_customers_who_always_fail_are_no_harm_and_by_request_they_would_be(keyed: Keyed) -> None:
    fails = always_failing(keyed, 3)

    for _ in range(6):
        keyed.ask(fails)

    of = keyed.of()
    assert of.state is RolloutState.CANARY
    assert "requests of 198 customers" in of.reason
    with keyed.database.read() as connection:
        counts = [row["counts"] for row in rollouts.batches(connection, of.id)]
    arms = [[ArmCounts(**one[arm]) for arm in ("challenger", "champion")] for one in counts]
    by_request = [Batch(challenger, champion) for challenger, champion in arms]
    assert judge(by_request).verdict is Verdict.FAILED


def test_a_challenger_that_fails_everyone_rests_and_then_goes_back(keyed: Keyed) -> None:
    shares: list[int] = []
    for _ in range(12):
        keyed.ask({}, each=1.0, worse=0.3)
        shares.append(keyed.of().share)
        if keyed.of().state is RolloutState.ROLLED_BACK:
            break

    assert keyed.of().state is RolloutState.ROLLED_BACK
    assert shares[-1] == 0
    assert shares[-2] == 25
    assert 0 in shares[:-2]
    assert "harm" in keyed.of().reason


def test_a_look_that_is_killed_and_done_again_counts_customers_once(keyed: Keyed) -> None:
    keyed.ask({})
    keyed.ask({})

    of = keyed.of()
    with keyed.database.read() as connection:
        (kept,) = draws.of_rollout(connection, of.id)
        counts = [row["counts"] for row in rollouts.batches(connection, of.id)]
    assert (kept.share, kept.low, kept.high) == (25, 0, 100)
    requests = sum(one[arm]["requests"] for one in counts for arm in ("challenger", "champion"))
    assert requests == pytest.approx(3200, abs=250)
    assert kept.wagers["errors"]["units"] <= len(CUSTOMERS)
    assert counts[-1]["customers"]["routing_p"] > 0.001
    expected = sum(one["challenger"]["errors"] + one["champion"]["errors"] for one in counts)
    usual = kept.wagers["errors"]["usual"]
    assert 0.8 * expected < usual <= expected


def test_a_share_that_rises_begins_a_draw_over_the_others(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path, "steps = [10, 50]")
    keyed.ask({})
    keyed.ask({})
    keyed.ask({})

    with keyed.database.read() as connection:
        first, second = draws.of_rollout(connection, keyed.of().id)
    assert (first.share, first.low, first.high) == (10, 0, 100)
    assert (second.share, second.low, second.high) == (50, 10, 100)
    assert second.wagers["errors"]["units"] < 0.95 * len(CUSTOMERS)
    both = first.wagers["errors"]["on"] + second.wagers["errors"]["on"]
    assert both == pytest.approx(len(CUSTOMERS) / 2, abs=80)
    keyed.log.close()
    keyed.database.close()


def test_customers_who_are_drawn_anew_each_hour_are_counted_by_the_hour(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path, 'steps = [25]\nredraw = "hour"')
    keyed.ask({})
    keyed.now += timedelta(hours=1)
    keyed.ask({})

    with keyed.database.read() as connection:
        over, present = draws.of_rollout(connection, keyed.of().id)
    assert present.hour == over.hour + 1 == us(keyed.now) // HOUR_US
    assert over.met is None
    assert present.met is not None
    assert "drawn anew each hour" in keyed.of().reason
    keyed.log.close()
    keyed.database.close()


def test_the_log_is_counted_by_customer_and_who_has_none_apart(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, clock_us=lambda: 5)
    entries = [
        an_entry(0, True, True, 7, 1),
        an_entry(0, True, False, 7, 1),
        an_entry(0, False, True, 9, 1),
        an_entry(HOUR_US, False, False, 9, 1),
        an_entry(0, False, False, 9, 2),
        an_entry(0, False, True, -1, 1),
        an_entry(0, False, True, 9, 1)._replace(outcome=Outcome.FALLBACK),
    ]
    log.append("production", "m", entries)
    log.close()
    arms = Arms(tmp_path / "production" / "m")

    window: dict[str, Any] = {"since_us": 0, "until_us": 2 * HOUR_US, "slow_ms": 1.0}
    found = arms.customers(**window, generations=[1], draw_us=HOUR_US)
    alone = arms.count(**window, generations=[1], alone=True)

    rows = sorted(zip(*(one.tolist() for one in found), strict=True))
    champion, challenger = ROLES.index("champion"), ROLES.index("challenger")
    assert rows == [
        (0, 7, challenger, 2, 1, 2),
        (0, 9, champion, 1, 1, 1),
        (1, 9, champion, 1, 0, 1),
    ]
    assert {role: tuple(one) for role, one in alone.items()} == {"champion": (1, 1, 1)}


def test_after_a_burst_a_challenger_rests_once_and_a_second_time_is_harm(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.live(1)
    house.acts.approve("bob", house.asked(2), "fine")
    house.begin()
    none, arm = ArmCounts(0, 0, 0), ArmCounts(400, 9, 0)

    def seen(steady: float) -> Batch:
        found = Evidence(9, steady, 0, 0, 1, 9, 9, None)
        quiet = Evidence(0, 0, 0, 0, 0, 0, 0, None)
        told = Customers({"errors": found, "slow": quiet}, 900, 225, 1, False, none, none)
        return Batch(arm, arm, told)

    resting = house.look(seen(1))
    assert (resting.state, resting.share) == (RolloutState.CANARY, 0)
    assert house.serving()[Role.CHALLENGER] == (2, 0)
    assert resting.next_look_at == house.now + timedelta(minutes=10)

    house.now += timedelta(minutes=10)
    again = house.look(seen(1))
    assert (again.share, again.settings["rested"]) == (25, True)
    assert "resting" not in again.settings
    assert house.look(seen(1)).state is RolloutState.CANARY
    assert house.look(seen(9)).state is RolloutState.ROLLED_BACK
    house.database.close()


def test_a_challenger_that_is_held_while_it_rests_comes_back_to_its_share(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.live(1)
    house.acts.approve("bob", house.asked(2), "fine")
    house.begin()
    found = Evidence(9, 1, 0, 0, 1, 9, 9, None)
    none, arm = ArmCounts(0, 0, 0), ArmCounts(400, 9, 0)
    told = Customers({"errors": found, "slow": found}, 900, 225, 1, False, none, none)
    house.look(Batch(arm, arm, told))

    house.acts.pause("bob", "credit")

    assert house.acts.resume("bob", "credit").share == 25
    house.database.close()
