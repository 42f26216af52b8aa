from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from pathlib import Path

import pytest

from penstock.deploy import rollout
from penstock.domain import Role, Rollout, RolloutState
from penstock.errors import ConflictError
from penstock.pipeline.acts import cool
from penstock.records import journal, rollouts, served
from penstock.records.tokens import Caller
from tests.unit.rollout_rig import START, House

BLUE_GREEN = 'steps = []\n[rollback]\nwindow = "3 d"\nwarm = 1'


@pytest.fixture
def house(tmp_path: Path) -> Generator[House]:
    """@1 to @4 became champion a day after one another; a fourth day has passed."""
    made = House(tmp_path, BLUE_GREEN)
    for number in range(1, 5):
        made.live(number)
        made.now += timedelta(days=1)
    yield made
    with made.database.read() as connection:
        journal.verify(connection)
    made.database.close()


def loaded(house: House) -> dict[int, Role]:
    with house.database.read() as connection:
        found = rollouts.deployments(connection, model_name="credit")
    return {one.number: one.role for one in found if one.environment == "production"}


def test_the_version_before_and_some_inside_the_window_stay_loaded(house: House) -> None:
    assert loaded(house) == {4: Role.CHAMPION, 3: Role.PREVIOUS, 2: Role.WARM}


def test_a_loaded_version_takes_over_in_one_act(house: House) -> None:
    back = house.acts.roll_back("bob", "credit", 2, "it smells")

    assert back.state is RolloutState.FULL
    assert loaded(house) == {2: Role.CHAMPION, 4: Role.PREVIOUS, 3: Role.WARM}


def finish(house: House, error: str = "") -> Rollout:
    """What the stretch does once the version that was loaded is ready, or is not."""
    with house.database.change("penstock") as change:
        (of,) = rollouts.live(change.connection)
        if error:
            return rollout.give_back(change, house.engine, of, reason=error)
        return rollout.first_share(change, house.engine, of)


def test_a_version_inside_the_window_that_is_not_loaded_is_loaded_first(house: House) -> None:
    house.acts.roll_back("bob", "credit", 2, "")  # @1 served until three days ago
    house.now -= timedelta(hours=25)
    loading = house.acts.roll_back("bob", "credit", 1, "it smells")

    assert loading.state is RolloutState.STARTING
    assert loaded(house) == {2: Role.CHAMPION, 4: Role.PREVIOUS, 3: Role.WARM, 1: Role.WARM}
    stretch = f"rollout-{loading.id}-start"
    assert house.engine.states([stretch]) == {stretch: "waiting"}
    assert finish(house).state is RolloutState.FULL
    assert loaded(house) == {1: Role.CHAMPION, 2: Role.PREVIOUS, 4: Role.WARM}


def test_when_it_cannot_be_loaded_the_present_version_serves_on(house: House) -> None:
    house.now -= timedelta(hours=25)
    house.acts.roll_back("bob", "credit", 1, "")

    assert finish(house, "It does not start.").state is RolloutState.ROLLED_BACK
    assert loaded(house) == {4: Role.CHAMPION, 3: Role.PREVIOUS, 2: Role.WARM}


def test_what_served_too_long_ago_or_serves_now_is_no_way_back(house: House) -> None:
    with pytest.raises(ConflictError, match=r"PS453 credit@1 .* Inside it: @2, @3\."):
        house.acts.roll_back("bob", "credit", 1, "")
    with pytest.raises(ConflictError, match="PS404 credit@4 serves already"):
        house.acts.roll_back("bob", "credit", 4, "")


def test_a_warm_version_is_unloaded_when_its_window_is_over_and_the_one_before_stays(
    house: House,
) -> None:
    house.now = START + timedelta(days=5, minutes=-1)  # @2 served until the second day
    cool(house.database)
    assert 2 in loaded(house)

    house.now += timedelta(minutes=2)
    cool(house.database)
    cool(house.database)

    assert loaded(house) == {4: Role.CHAMPION, 3: Role.PREVIOUS}


def test_reigns_follow_one_another_without_a_gap(house: House) -> None:
    house.acts.roll_back("bob", "credit", 3, "it smells")

    with house.database.read() as connection:
        found = served.reigns(connection, "credit")
        split = served.split_at(connection, "credit", START + timedelta(days=2, hours=1))
        none = served.split_at(connection, "credit", START - timedelta(seconds=1))
    assert [one.number for one in found] == [3, 4, 3, 2, 1]
    assert [one.until for one in found] == [None, *[one.since for one in found[:-1]]]
    assert split is not None
    assert [one["number"] for one in split["split"] if one["share"]] == [3]
    assert none is None


@pytest.mark.parametrize(
    ("scope", "may"), [("rollback:*", True), ("operate:credit", True), ("read:*", False)]
)
def test_going_back_has_its_own_right_and_who_operates_has_it(scope: str, *, may: bool) -> None:
    assert Caller("bob", (scope,)).may("rollback", "credit") is may
    assert not Caller("bob", ("rollback:*",)).may("operate", "credit")
