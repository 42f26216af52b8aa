from __future__ import annotations

import json
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path

import pytest

from penstock.deploy import approval, rollout, ways
from penstock.deploy.approval import Bound
from penstock.domain import Role, RolloutState, RunState
from penstock.errors import ConflictError, NotAllowedError, UsageError
from penstock.pipeline.acts import expired
from penstock.records import approvals, journal, rollouts, runs, tokens, watch
from penstock.records.runs import Push
from tests.unit.rollout_rig import HARMFUL, HEALTHY, QUIET, SILENT, House


@pytest.fixture
def house(tmp_path: Path) -> Generator[House]:
    made = House(tmp_path)
    yield made
    with made.database.read() as connection:
        journal.verify(connection)
    made.database.close()


def test_a_first_version_takes_all_traffic_without_a_canary(house: House) -> None:
    house.acts.approve("bob", house.asked(1), "fine")

    ended = house.begin()

    assert ended.state is RolloutState.FULL
    assert house.serving() == {Role.CHAMPION: (1, 100)}
    assert house.run(1).state is RunState.SUCCEEDED


def test_a_healthy_challenger_takes_its_steps_and_takes_over(house: House) -> None:
    house.live(1)
    house.acts.approve("bob", house.asked(2), "fine")

    assert house.begin().share == 25
    assert house.serving() == {
        Role.CHAMPION: (1, 50), Role.CHALLENGER: (2, 25), Role.CONTROL: (1, 25),
    }  # fmt: skip
    assert house.look(HEALTHY).share == 50
    assert house.serving() == {Role.CHAMPION: (1, 50), Role.CHALLENGER: (2, 50)}
    ended = house.look(HEALTHY, HEALTHY)

    assert ended.state is RolloutState.FULL
    assert house.serving() == {Role.CHAMPION: (2, 100), Role.PREVIOUS: (1, 0)}


def test_a_control_arm_that_does_not_come_is_told_and_the_champion_is_compared(
    house: House,
) -> None:
    house.live(1)
    house.acts.approve("bob", house.asked(2), "fine")
    with house.database.change("penstock") as change:
        (queued,) = rollouts.live(change.connection)
        started = rollout.begin(change, queued, QUIET)
    assert house.serving()[Role.CONTROL] == (1, 0)

    with house.database.change("penstock") as change:
        of = rollout.first_share(change, house.engine, started, no_control="there is no memory")

    assert house.serving() == {Role.CHAMPION: (1, 75), Role.CHALLENGER: (2, 25)}
    assert of.reason == (
        "25 % of the requests. There is no control arm: there is no memory. credit@1 itself is "
        "compared."
    )
    assert of.settings["control"] is False


def test_a_harmful_challenger_gives_all_traffic_back_at_the_first_look(house: House) -> None:
    house.live(1)
    house.acts.approve("bob", house.asked(2), "fine")
    house.begin()

    ended = house.look(HARMFUL)

    assert ended.state is RolloutState.ROLLED_BACK
    assert house.serving() == {Role.CHAMPION: (1, 100)}
    assert house.run(2).state is RunState.ROLLED_BACK


def test_without_traffic_a_canary_is_held_at_its_horizon_and_given_back_when_nobody_answers(
    house: House,
) -> None:
    house.live(1)
    house.acts.approve("bob", house.asked(2), "fine")
    house.begin()
    assert house.look(SILENT).state is RolloutState.CANARY

    house.now += timedelta(hours=25)
    held = house.look(SILENT)
    assert held.state is RolloutState.PAUSED
    assert "person" in held.reason
    assert house.serving()[Role.CHALLENGER] == (2, 25)
    house.now += timedelta(hours=25)
    expired(house.database, house.engine)

    assert house.serving() == {Role.CHAMPION: (1, 100)}
    assert house.run(2).state is RunState.ROLLED_BACK


def test_a_canary_that_is_resumed_after_its_window_has_a_whole_window_again(
    house: House,
) -> None:
    house.live(1)
    house.acts.approve("bob", house.asked(2), "fine")
    house.begin()
    house.now += timedelta(hours=25)
    assert house.look(SILENT).state is RolloutState.PAUSED
    house.acts.resume("bob", "credit")

    house.now += timedelta(hours=23)
    assert house.look(SILENT).state is RolloutState.CANARY
    house.now += timedelta(hours=2)
    assert house.look(SILENT).state is RolloutState.PAUSED


def test_a_person_can_hold_resume_and_promote_a_canary(house: House) -> None:
    house.live(1)
    house.acts.approve("bob", house.asked(2), "fine")
    house.begin()

    assert house.acts.pause("bob", "credit").state is RolloutState.PAUSED
    assert house.acts.resume("bob", "credit").state is RolloutState.CANARY
    assert house.acts.promote("bob", "credit", None).share == 50
    assert house.acts.promote("bob", "credit", 100).state is RolloutState.FULL


def test_from_full_traffic_one_command_goes_back_to_the_previous_version(house: House) -> None:
    house.live(1)
    house.acts.approve("bob", house.asked(2), "fine")
    house.begin()
    house.acts.promote("bob", "credit", 100)

    back = house.acts.roll_back("bob", "credit", None, "it smells")

    assert (back.kind, back.state) == ("rollback", RolloutState.FULL)
    assert house.serving() == {Role.CHAMPION: (1, 100), Role.PREVIOUS: (2, 0)}


def test_rolling_back_what_was_never_replaced_says_so(house: House) -> None:
    house.live(1)

    with pytest.raises(ConflictError, match="PS409 credit has no canary and no previous"):
        house.acts.roll_back("bob", "credit", None, "")


def test_a_challenger_keeps_its_traffic_only_while_its_lease_is_renewed(house: House) -> None:
    house.live(1)
    house.acts.approve("bob", house.asked(2), "fine")
    house.begin()

    with house.database.read() as connection:
        found = rollouts.in_role(connection, "credit", Role.CHALLENGER)
    assert found is not None
    assert found.lease_until == house.now + timedelta(seconds=180)
    house.now += timedelta(seconds=60)
    house.look(SILENT)
    with house.database.read() as connection:
        found = rollouts.in_role(connection, "credit", Role.CHALLENGER)
    assert found is not None
    assert found.lease_until == house.now + timedelta(seconds=180)


def test_the_author_approves_alone_only_without_accounts_and_it_is_recorded(
    house: House,
) -> None:
    first = house.asked(1)
    house.acts.approve("ada", first, "")
    with house.database.read() as connection:
        (vote,) = approvals.votes(connection, first)
    assert vote.reason == "approved by its author"
    house.begin()

    second = house.asked(2)
    with house.database.change("root") as change:
        tokens.create(change, "bob", ["approve:*"])
    with pytest.raises(NotAllowedError, match="PS408 ada pushed credit@2"):
        house.acts.approve("ada", second, "")


def test_to_say_no_needs_a_reason_and_ends_the_run(house: House) -> None:
    asked = house.asked(1)

    with pytest.raises(UsageError, match="A reason is needed"):
        house.acts.reject("bob", asked, " ")
    house.acts.reject("bob", asked, "too early")

    assert house.run(1).state is RunState.REJECTED
    with pytest.raises(ConflictError, match="nobody is asked any more"):
        house.acts.approve("bob", asked, "")


def test_two_people_are_needed_where_the_policy_says_so(house: House) -> None:
    with house.database.change("root") as change:
        tokens.create(change, "bob", ["approve:*"])
    run = house.tested(1, "high")
    with house.database.change("penstock") as change:
        version = runs.version_of(change.connection, "credit", 1)
        asked = approval.ask(change, run, version, {}, Bound("d" * 64), needed=2)

    house.acts.approve("bob", asked.id, "")
    assert house.run(1).state is RunState.AWAITING_APPROVAL
    with pytest.raises(ConflictError, match="already voted"):
        house.acts.approve("bob", asked.id, "")
    house.acts.approve("carol", asked.id, "")

    assert house.run(1).state is RunState.ROLLING_OUT


def test_an_approval_that_nobody_answers_expires(house: House) -> None:
    house.asked(1)

    house.now += timedelta(days=15)
    expired(house.database, house.engine)

    assert house.run(1).state is RunState.EXPIRED


def test_a_newer_run_that_asks_itself_supersedes_the_one_that_waits(house: House) -> None:
    old = house.asked(1)

    house.asked(2)

    assert house.run(1).state is RunState.SUPERSEDED
    with pytest.raises(ConflictError):
        house.acts.approve("bob", old, "")


def test_a_new_champion_sends_what_was_judged_against_the_old_one_back_to_the_test(
    house: House,
) -> None:
    house.live(1)
    house.acts.approve("bob", house.asked(2), "")
    asked = house.asked(3)
    house.begin()

    house.acts.promote("bob", "credit", 100)

    assert house.run(3).state is RunState.TESTING
    with house.database.read() as connection:
        assert approvals.get(connection, asked).state == "void"


def test_aborting_a_canary_gives_the_traffic_back_and_ends_the_run_as_aborted(
    house: House,
) -> None:
    house.live(1)
    house.acts.approve("bob", house.asked(2), "")
    house.begin()

    run = house.acts.abort("bob", house.run(2).id, "wrong data")

    assert run.state is RunState.ABORTED
    assert house.serving() == {Role.CHAMPION: (1, 100)}


@pytest.mark.parametrize("state", ["queued", "testing", "awaiting_approval"])
def test_a_run_can_be_aborted_wherever_it_stands(house: House, state: str) -> None:
    if state == "queued":
        config = house.config("low")
        house.acts.start_run("ada", Push("credit", "main", "a" * 40, "", "ada", config))
    elif state == "testing":
        house.tested(1)
    else:
        house.asked(1)

    assert house.acts.abort("bob", house.run(1).id, "").state is RunState.ABORTED


def test_only_a_failed_run_can_be_tried_again(house: House) -> None:
    run = house.tested(1)

    with pytest.raises(ConflictError):
        house.acts.retry("bob", run.id)
    with house.database.change("penstock") as change:
        runs.move(change, run, RunState.FAILED, reason="no disk", ended_by="error")
    again = house.acts.retry("bob", run.id)

    assert (again.state, again.attempt) == (RunState.QUEUED, 2)


def test_a_release_sets_the_monitors_and_tells_people(house: House) -> None:
    house.live(1)

    with house.database.read() as connection:
        (monitor,) = watch.monitors(connection, "credit")
        told = [message["kind"] for _, message in watch.unsent(connection)]
    assert (monitor.name, monitor.next_due) == ("day", house.now + timedelta(days=1))
    assert told == ["approval.asked", "rollout.full"]


def test_the_more_traffic_the_more_careful_are_the_default_steps() -> None:
    assert ways.default_shares(200_000) == (1, 5, 25, 50)
    assert ways.default_shares(20_000) == (5, 25, 50)
    assert ways.default_shares(100) == (50,)


def test_every_change_of_what_is_served_stands_in_the_journal(house: House) -> None:
    house.live(1)
    house.acts.approve("bob", house.asked(2), "")
    house.begin()
    house.look(HARMFUL)

    with house.database.read() as connection:
        splits = [
            json.loads(entry.body)
            for entry in journal.entries(connection, model="credit")
            if entry.action == "traffic.split"
        ]
    production = [one for one in splits if one["environment"] == "production"]
    assert [one["generation"] for one in production] == list(range(len(production), 0, -1))
