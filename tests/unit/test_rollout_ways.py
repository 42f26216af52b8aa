from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path

import pytest

from penstock.deploy import rollout, ways
from penstock.deploy.canary import ArmCounts, Batch
from penstock.deploy.ways import Traffic
from penstock.domain import Role, RolloutState, RunState, Verdict
from penstock.errors import ConflictError, UsageError
from penstock.records import journal, rollouts
from tests.unit.rollout_rig import HARMFUL, HEALTHY, SILENT, House

Make = Callable[[str], House]
MORE = Batch(ArmCounts(500, 0, 0), ArmCounts(1500, 0, 0))


@pytest.fixture
def house(tmp_path: Path) -> Generator[Make]:
    """Make a house whose champion is @1 and whose @2 waits to begin, with this block [canary]."""
    made: list[House] = []

    def make(canary: str) -> House:
        house = House(tmp_path, canary)
        made.append(house)
        house.live(1)
        house.acts.approve("bob", house.asked(2), "")
        return house

    yield make
    for one in made:
        with one.database.read() as connection:
            journal.verify(connection)
        one.database.close()


def shadow_look(house: House, verdict: Verdict = Verdict.UNDECIDED) -> RolloutState:
    with house.database.change("penstock") as change:
        (of,) = rollouts.live(change.connection)
        return rollout.decide_shadow(change, house.engine, of, verdict, "As it was.").state


def test_without_steps_a_loaded_version_gets_all_requests_and_the_old_one_stays_warm(
    house: Make,
) -> None:
    here = house("steps = []")

    assert here.begin().state is RolloutState.FULL
    assert here.serving() == {Role.CHAMPION: (2, 100), Role.PREVIOUS: (1, 0)}


def test_a_shadow_first_gets_copies_and_then_its_first_share(house: Make) -> None:
    here = house('steps = [25, 50]\nshadow_first = "30 min"')

    assert here.begin().state is RolloutState.SHADOW
    assert here.serving() == {Role.CHAMPION: (1, 100), Role.SHADOW: (2, 100)}
    here.now += timedelta(minutes=29)
    assert shadow_look(here) is RolloutState.SHADOW
    here.now += timedelta(minutes=1)
    assert shadow_look(here) is RolloutState.CANARY

    assert here.serving()[Role.CHALLENGER] == (2, 25)


def test_a_shadow_that_does_harm_is_given_back(house: Make) -> None:
    here = house('shadow_first = "30 min"')
    here.begin()

    assert shadow_look(here, Verdict.FAILED) is RolloutState.ROLLED_BACK
    assert here.serving() == {Role.CHAMPION: (1, 100)}


def test_a_shadow_only_waits_at_its_end_for_a_person_who_may_let_it_take_over(
    house: Make,
) -> None:
    here = house('only = "shadow"\nlasts = "2 h"\nsteps = [25, 50]')
    here.begin()
    here.now += timedelta(hours=2)

    assert shadow_look(here) is RolloutState.PAUSED
    assert here.serving() == {Role.CHAMPION: (1, 100), Role.SHADOW: (2, 100)}
    assert here.acts.resume("bob", "credit").state is RolloutState.SHADOW
    assert here.acts.pause("bob", "credit").state is RolloutState.PAUSED
    after = here.acts.promote("bob", "credit", None)

    assert (after.state, after.share, ways.of(after)) == (RolloutState.CANARY, 25, "canary")
    assert here.look(HEALTHY).share == 50


def test_an_ab_comparison_keeps_its_share_for_its_time_and_then_a_person_decides(
    house: Make,
) -> None:
    here = house('only = "ab"\nlasts = "2 d"')

    assert here.begin().share == 50
    here.now += timedelta(hours=47)
    assert here.look(HEALTHY, HEALTHY, HEALTHY).share == 50
    here.now += timedelta(hours=1)
    held = here.look(HEALTHY, HEALTHY, HEALTHY)

    assert (held.state, held.share) == (RolloutState.PAUSED, 50)
    assert "A person decides" in held.reason
    assert here.acts.promote("bob", "credit", None).state is RolloutState.FULL


def test_an_ab_comparison_stops_at_harm(house: Make) -> None:
    here = house('only = "ab"')
    here.begin()

    assert here.look(HARMFUL).state is RolloutState.ROLLED_BACK


def test_a_step_waits_for_its_requests_its_time_and_its_labels(house: Make) -> None:
    here = house('steps = [25, 50]\nmin_requests = 500\nmin_time = "10 min"\nmin_labels = 20')
    here.begin()

    here.now += timedelta(minutes=9)
    assert here.look(MORE, labels=20).share == 25  # a minute is missing
    here.now += timedelta(minutes=1)
    assert here.look(HEALTHY, labels=20).share == 25  # a hundred requests are missing
    assert here.look(MORE, labels=19).share == 25  # a label is missing

    assert here.look(MORE, labels=20).share == 50


def test_a_person_takes_a_canary_to_any_share_up_and_down_and_it_goes_on_from_there(
    house: Make,
) -> None:
    here = house("steps = [5, 25, 50]")
    here.begin()

    assert here.acts.promote("bob", "credit", 50).step == 2
    down = here.acts.promote("bob", "credit", 10, "errors in the mail")
    assert (down.share, down.step) == (10, 0)
    assert down.reason == "By bob: errors in the mail"
    assert here.serving()[Role.CHALLENGER] == (2, 10)
    assert here.look(HEALTHY).share == 25
    with pytest.raises(UsageError, match="PS450"):
        here.acts.promote("bob", "credit", 101)


def test_what_has_not_begun_cannot_be_paused_or_promoted(house: Make) -> None:
    here = house("")

    with pytest.raises(ConflictError, match="PS405"):
        here.acts.pause("bob", "credit")
    with pytest.raises(ConflictError, match="PS405"):
        here.acts.promote("bob", "credit", 100)


def test_little_traffic_widens_the_batches_unless_their_length_is_stated(house: Make) -> None:
    here = house("steps = [50]")
    here.begin()

    def batch_s() -> float:
        with here.database.read() as connection:
            return float(rollouts.live(connection)[0].settings["batch_s"])

    assert batch_s() == 300
    here.look(SILENT, requests_per_s=6)
    assert batch_s() == 60
    here.look(SILENT, requests_per_s=5)
    assert batch_s() == 300
    stated = ways.first_settings({"batch_s": 10, "batch_by_traffic": False}, Traffic(0, 20))
    assert stated["batch_s"] == 10


def test_with_too_few_requests_the_share_rises_or_a_person_is_asked_as_configured(
    house: Make,
) -> None:
    here = house('steps = [5, 50]\nlow_traffic = "raise"\nhorizon = "9 h"')
    here.begin()
    here.now += timedelta(hours=2, minutes=59)
    assert here.look(SILENT).share == 5
    here.now += timedelta(minutes=1)
    raised = here.look(SILENT)
    assert (raised.share, raised.state) == (50, RolloutState.CANARY)
    assert raised.reason.startswith("Too few requests at 5 %")
    assert here.look(HARMFUL).state is RolloutState.ROLLED_BACK

    here.canary = 'steps = [5, 50]\nlow_traffic = "ask"\nhorizon = "9 h"'
    here.acts.approve("bob", here.asked(3), "")
    here.begin()
    here.now += timedelta(hours=3)
    assert here.look(SILENT).state is RolloutState.PAUSED
    assert here.run(3).state is RunState.ROLLING_OUT
