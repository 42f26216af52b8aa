"""Approvals: who may say yes to what, what a yes is bound to, and what happens with time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from penstock.config import ServerSettings, parse, resolve
from penstock.deploy.approval import Answer
from penstock.deploy.promotion import promotion
from penstock.domain import Approval, CheckResult, RunState, Verdict
from penstock.errors import ConflictError, NotAllowedError, NotFoundError, UsageError
from penstock.pipeline.acts import expired
from penstock.pipeline.approving import Approving, remind
from penstock.records import approvals, conditions, delegations, journal, runs, tokens, watch
from penstock.records.delegations import Handing
from tests.unit import web_seed
from tests.unit.web_rig import House, house

YES = Answer(yes=True)


@pytest.fixture
def home(tmp_path: Path) -> House:
    made = house(tmp_path)
    for person in ("ben", "cara", "dan"):
        made.token(person, "read:*", "approve:*")
    made.token("ines", "read:*", "approve:*")
    made.token("vic", "read:*")
    return made


def asked(home: House, *, needed: int = 1, authors: tuple[str, ...] = ()) -> int:
    """A version that waits for people."""
    run = web_seed.check_in_test(home, web_seed.build(home, home.push("spam")))
    number = web_seed.ask(home, run)
    with home.database.write() as connection:
        table = approvals.approval
        connection.execute(
            table.update().where(table.c.id == number).values(needed=needed, authors=list(authors))
        )
    return number


def acts(home: House) -> Approving:
    return home.control.acts.approving


def found(home: House, number: int) -> Approval:
    with home.database.read() as connection:
        return approvals.get(connection, number)


def actions(home: House) -> list[str]:
    with home.database.read() as connection:
        return [one.action for one in reversed(journal.entries(connection, most=400))]


def outbox(home: House) -> list[str]:
    with home.database.read() as connection:
        return [message["kind"] for _, message in watch.unsent(connection)]


def until(home: House, days: float = 5) -> object:
    return home.now + timedelta(days=days)


def handing(home: House, taker: str, **more: object) -> Handing:
    return Handing(taker, **{"until": until(home), **more})  # pyright: ignore[reportArgumentType]


# ---- who ------------------------------------------------------------------------------------


def test_the_server_asks_for_at_least_its_own_number_of_people() -> None:
    config = resolve(parse('[model]\nname = "m"\n[approval]\npeople = 0\n'), None)
    settings = ServerSettings.model_validate({"approval": {"least": {"medium": 2}}})
    least = settings.approval.least.model_dump()["medium"]

    assert promotion(config, [], Verdict.PASSED).people == 0
    assert promotion(config, [], Verdict.PASSED, least=least).people == 2
    assert promotion(config, [], Verdict.UNDECIDED, least=least).people == 2


def test_at_risk_high_a_push_cannot_ask_for_nobody() -> None:
    assert ServerSettings().approval.least.high == 1


def test_one_person_with_two_tokens_has_one_vote(home: House) -> None:
    number = asked(home, needed=2)
    home.token("ben", "approve:spam")

    acts(home).answer("ben", number, YES)
    with pytest.raises(ConflictError, match="PS401 ben has already voted"):
        acts(home).answer("ben", number, YES)

    assert found(home, number).state == "asked"


@pytest.mark.parametrize("name", ["ben", "Ben", "  ben "])
def test_who_wrote_a_commit_of_it_cannot_approve_it_either(home: House, name: str) -> None:
    number = asked(home, authors=(name, "ben@example.org"))

    with pytest.raises(NotAllowedError, match="PS408 ben wrote a part of spam@1"):
        acts(home).answer("ben", number, YES)
    acts(home).answer("ben", number, Answer(yes=False, reason="I found a fault of mine"))

    assert found(home, number).state == "refused"


def test_a_right_for_a_team_holds_for_the_teams_models_only(home: House) -> None:
    home.push("spam", team="Credit Risk")
    home.push("fraud", team="Fraud")
    text = home.token("tess", "approve:@Credit Risk")

    with home.database.read() as connection:
        tess = tokens.caller(connection, text, now=home.now)
        assert tess is not None
        assert (tess.may("approve", "spam"), tess.may("approve", "fraud")) == (True, False)
        assert not tess.may("approve", "*")
        assert tokens.may(connection, "tess", "approve", "spam", now=home.now)
        assert not tokens.may(connection, "tess", "approve", "fraud", now=home.now)


# ---- votes that change hands ---------------------------------------------------------------


def test_a_vote_handed_over_counts_as_the_givers(home: House) -> None:
    number = asked(home, needed=2)
    acts(home).delegate("ben", handing(home, "vic", reason="on holiday"))

    assert acts(home).givers(number, "vic") == ["ben"]
    acts(home).answer("vic", number, replace(YES, in_place_of="ben"))

    with home.database.read() as connection:
        (vote,) = approvals.votes(connection, number)
    assert (vote.actor, vote.in_place_of) == ("vic", "ben")
    with pytest.raises(ConflictError, match="ben has already voted"):
        acts(home).answer("ben", number, YES)
    with pytest.raises(ConflictError, match="vic has already voted"):
        acts(home).answer("vic", number, YES)
    acts(home).answer("cara", number, YES)
    assert found(home, number).state == "granted"
    assert "delegation.given" in actions(home)


def test_a_vote_is_not_handed_on(home: House) -> None:
    number = asked(home)
    acts(home).delegate("ben", handing(home, "vic"))

    with pytest.raises(NotAllowedError, match="PS474 vic has no vote"):
        acts(home).delegate("vic", handing(home, "cara"))
    # dan hands his own vote to cara; what he holds of ben's stays with him.
    acts(home).delegate("ben", handing(home, "dan"))
    acts(home).delegate("dan", handing(home, "cara"))
    assert acts(home).givers(number, "cara") == ["dan"]


def test_the_author_gets_no_vote_and_gives_none(home: House) -> None:
    number = asked(home)

    with pytest.raises(UsageError, match="ines wrote the version"):
        acts(home).delegate("ben", handing(home, "ines", approval_id=number))
    acts(home).delegate("ben", handing(home, "ines"))
    with pytest.raises(NotAllowedError, match="PS408 ines pushed"):
        acts(home).answer("ines", number, replace(YES, in_place_of="ben"))
    acts(home).delegate("ines", handing(home, "cara"))
    with pytest.raises(NotAllowedError, match="nor can cara in their place"):
        acts(home).answer("cara", number, replace(YES, in_place_of="ines"))

    assert found(home, number).state == "asked"


def test_a_delegation_ends_by_time_by_word_and_with_the_givers_right(home: House) -> None:
    number = asked(home)
    first = acts(home).delegate("ben", handing(home, "vic", model="spam"))
    acts(home).delegate("cara", Handing("vic", home.now + timedelta(hours=1), number))
    assert acts(home).givers(number, "vic") == ["ben", "cara"]

    home.later(hours=2)
    assert acts(home).givers(number, "vic") == ["ben"]
    acts(home).take_back("ben", first.id)
    with pytest.raises(NotAllowedError, match="PS474 ben has not handed"):
        acts(home).answer("vic", number, replace(YES, in_place_of="ben"))
    with pytest.raises(NotFoundError, match="PS477"):
        acts(home).take_back("ben", first.id)

    acts(home).delegate("dan", handing(home, "vic"))
    with home.database.change("admin") as change:
        for one in tokens.listed(change.connection):
            if one["person"] == "dan":
                tokens.revoke(change, str(one["id"]))
    assert acts(home).givers(number, "vic") == []


@pytest.mark.parametrize(
    ("taker", "days", "why"),
    [
        ("ben", 5, "is yourself"),
        ("nobody-known", 5, "has no token here"),
        ("", 5, "has no token here"),
        ("vic", 0, "for at most 90 days"),
        ("vic", 91, "for at most 90 days"),
    ],
)
def test_a_vote_is_handed_to_a_known_person_for_a_while(
    home: House, taker: str, days: float, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        acts(home).delegate("ben", Handing(taker, home.now + timedelta(days=days)))

    with home.database.read() as connection:
        assert delegations.live(connection, home.now) == []


# ---- what it is bound to -------------------------------------------------------------------


def worse(home: House, number: int) -> None:
    """Let a check say something else than it did when people were asked."""
    with home.database.read() as connection:
        run = runs.get(connection, found(home, number).run_id)
    home.found(run, CheckResult("speed.p95", Verdict.FAILED, "p95 41 ms > 25 ms", {"value": 41}))


def test_a_yes_to_evidence_that_changed_is_refused_and_people_are_asked_anew(
    home: House,
) -> None:
    number = asked(home)
    read = found(home, number).dossier_digest
    worse(home, number)

    with pytest.raises(ConflictError, match=r"PS472 .*speed.p95: passed .*now failed .p95 41 ms"):
        acts(home).answer("ben", number, YES, read=read)

    assert found(home, number).state == "void"
    with home.database.read() as connection:
        assert approvals.votes(connection, number) == []
        assert runs.get(connection, found(home, number).run_id).state is RunState.TESTING
    with pytest.raises(ConflictError, match=r"PS470 .*is judged again"):
        acts(home).answer("ben", number, YES, read=read)


def test_a_page_that_was_open_while_people_were_asked_anew_decides_nothing(home: House) -> None:
    number = asked(home)
    read = found(home, number).dossier_digest
    worse(home, number)
    with pytest.raises(ConflictError):
        acts(home).answer("ben", number, YES)
    with home.database.read() as connection:
        run = runs.get(connection, found(home, number).run_id)
    newer = web_seed.ask(home, run, card="---\nbenefit: other words\n---\n")

    with pytest.raises(ConflictError, match=f"PS470 .*anew as {newer}, .*What you gain: About 41"):
        acts(home).answer("ben", number, YES, read=read)
    with pytest.raises(ConflictError, match="PS470 What you read is not"):
        acts(home).answer("ben", newer, YES, read=read)

    changed = {one.what for one in acts(home).changed(number, read)}
    assert changed == {"What you gain", "What it costs", "What could go wrong"}
    assert found(home, newer).state == "asked"


@pytest.mark.parametrize("column", ["lock_digest", "artifact_digest", "data_digest", "card"])
def test_a_version_that_is_not_what_was_judged_is_not_approved(home: House, column: str) -> None:
    number = asked(home)
    with home.database.write() as connection:
        table = runs.version
        connection.execute(table.update().values({column: "f" * 64}))

    with pytest.raises(ConflictError, match="PS472"):
        acts(home).answer("ben", number, YES)

    assert found(home, number).state == "void"


def test_a_dossier_that_somebody_altered_is_not_approved(home: House) -> None:
    number = asked(home)
    with home.database.write() as connection:
        table = approvals.approval
        altered = {**found(home, number).dossier, "lead": "All is well."}
        connection.execute(table.update().values(dossier=altered))

    with pytest.raises(ConflictError, match=r"PS472 .*the dossier: .*now altered"):
        acts(home).answer("ben", number, YES)


# ---- conditions, comments, withdrawing -----------------------------------------------------


def test_a_yes_with_a_condition_lets_it_in_and_the_condition_stays_until_it_is_met(
    home: House,
) -> None:
    number = asked(home)
    due = home.now + timedelta(days=30)

    acts(home).answer("ben", number, replace(YES, condition="Check under-25s", due=due))

    with home.database.read() as connection:
        (one,) = conditions.of_version(connection, "spam", 1)
        assert conditions.unmet(connection, "spam") == [one]
    assert (one.text, one.due, one.set_by) == ("Check under-25s", due, "ben")
    met = acts(home).meet("cara", one.id, "0.83 on 1,400 rows")
    assert (met.met_by, met.note) == ("cara", "0.83 on 1,400 rows")
    with pytest.raises(ConflictError, match=r"PS476 .*met already, says cara"):
        acts(home).meet("dan", one.id, "")
    with pytest.raises(NotFoundError, match="PS475"):
        acts(home).meet("dan", 99, "")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(yes=False, reason="no", condition="but"),
        Answer(yes=True, reason="x" * 4001),
        Answer(yes=True, condition="x" * 4001),
    ],
    ids=["a no with a condition", "a reason without end", "a condition without end"],
)
def test_an_answer_that_makes_no_sense_is_none(home: House, answer: Answer) -> None:
    number = asked(home)

    with pytest.raises(UsageError, match=r"PS47[39]"):
        acts(home).answer("ben", number, answer)

    assert found(home, number).state == "asked"


def test_a_yes_can_be_withdrawn_until_the_last_one_is_given(home: House) -> None:
    number = asked(home, needed=2)
    acts(home).answer("ben", number, replace(YES, condition="Look again in May"))

    acts(home).withdraw("ben", number, "I had the wrong report")
    acts(home).answer("cara", number, YES)
    assert found(home, number).state == "asked"
    with pytest.raises(ConflictError, match="PS478 dan has given no yes"):
        acts(home).withdraw("dan", number, "")
    acts(home).answer("ben", number, YES)

    assert found(home, number).state == "granted"
    with pytest.raises(ConflictError, match="PS406"):
        acts(home).withdraw("ben", number, "too late")
    with home.database.read() as connection:
        assert conditions.of_approval(connection, number) == []
    assert "approval.vote.withdrawn" in actions(home)


def test_a_comment_is_no_answer(home: House) -> None:
    number = asked(home)

    acts(home).comment("ines", number, "  The drop in May was a public holiday. ")
    with pytest.raises(UsageError, match="PS479"):
        acts(home).comment("ben", number, " ")

    with home.database.read() as connection:
        (said,) = approvals.comments(connection, number)
    assert (said.actor, said.text) == ("ines", "The drop in May was a public holiday.")
    assert found(home, number).state == "asked"


# ---- time ----------------------------------------------------------------------------------


def test_people_are_reminded_after_half_the_time_and_a_day_before_the_end_once_each(
    home: House,
) -> None:
    asked(home)

    for _ in range(14 * 4):
        remind(home.database)
        remind(home.database)
        home.later(hours=6)

    assert outbox(home) == ["approval.asked", "approval.reminder", "approval.reminder"]


def test_a_server_that_was_away_reminds_of_the_last_call_only(home: House) -> None:
    asked(home)
    home.later(days=13.5)

    remind(home.database)
    remind(home.database)

    assert outbox(home) == ["approval.asked", "approval.reminder"]


def test_a_condition_reminds_the_day_before_and_when_it_is_overdue(home: House) -> None:
    number = asked(home)
    due = home.now + timedelta(days=3)
    acts(home).answer("ben", number, replace(YES, condition="Look", due=due))

    for _ in range(10):
        remind(home.database)
        home.later(hours=12)

    assert outbox(home)[1:] == ["condition.due", "condition.overdue"]


def test_a_question_that_closed_takes_no_yes_even_before_the_tick_has_noticed(
    home: House,
) -> None:
    number = asked(home)
    home.later(days=14)

    with pytest.raises(ConflictError, match=r"PS471 .*closed at"):
        acts(home).answer("ben", number, YES)
    expired(home.database, home.engine)
    expired(home.database, home.engine)

    assert found(home, number).state == "expired"
    assert actions(home).count("approval.expired") == 1
