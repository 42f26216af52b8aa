from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import exc as sa_errors

from penstock.domain import CheckResult, Environment, Role, RolloutState, RunState, Verdict
from penstock.errors import ConflictError, IntegrityError, NotFoundError, UnreachableError
from penstock.records import journal, labels, rollouts, runs, tokens, watch
from penstock.records.database import Database
from penstock.records.labels import Label
from penstock.records.rollouts import Place, Plan
from penstock.records.runs import Push, Seal

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONFIG = {"model": {"owner": "ada", "team": "risk", "risk": "low"}}


@pytest.fixture
def database(tmp_path: Path) -> Generator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'penstock.db'}", clock=lambda: NOW)
    made.migrate()
    with made.change("ada") as change:
        runs.register_model(change, "credit")
    yield made
    made.close()


def push(number: int = 1, branch: str = "main") -> Push:
    return Push("credit", branch, f"{number:040x}", f"commit {number}", "ada", CONFIG)


def started(database: Database, number: int = 1, branch: str = "main") -> runs.Run:
    with database.change("ada") as change:
        return runs.start(change, push(number, branch))[0]


def sealed(database: Database, number: int) -> runs.Run:
    run = started(database, number)
    with database.change("penstock") as change:
        version = runs.version_of(change.connection, "credit", run.number)
        runs.seal(change, version, Seal(f"{number:064x}", "b" * 64, None, None, "full"))
    return run


def test_migrating_twice_changes_nothing(database: Database) -> None:
    database.migrate()

    with database.read() as connection:
        assert runs.known(connection, "credit")


def test_the_migrated_schema_is_the_one_that_the_code_means(database: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    from penstock.records.schema import metadata

    with database.read() as connection:

        def ours(name: str | None, kind: str, _parents: object) -> bool:
            return kind != "table" or name in metadata.tables

        context = MigrationContext.configure(connection, opts={"include_name": ours})
        assert compare_metadata(context, metadata) == []


def test_a_database_of_a_later_release_is_refused(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(ConflictError, match="PS103 The database has schema 9999"):
        database.migrate()


def test_the_same_push_twice_is_one_run(database: Database) -> None:
    with database.change("ada") as change:
        first, new = runs.start(change, push())
    with database.change("ada") as change:
        second, again = runs.start(change, push())

    assert (first.id, new, again) == (second.id, True, False)


def test_runs_are_numbered_in_order_and_other_branches_do_not_release(database: Database) -> None:
    first, second = started(database, 1), started(database, 2, "try-it")

    assert (first.number, second.number) == (1, 2)
    assert (first.releases, second.releases) == (True, False)
    assert second.trigger == "branch-try-it"


def test_a_run_moves_only_where_its_state_allows(database: Database) -> None:
    run = started(database)

    with pytest.raises(ConflictError, match="is queued; it cannot become succeeded"):
        with database.change("penstock") as change:
            runs.move(change, run, RunState.SUCCEEDED, reason="")


def test_of_two_who_move_a_run_at_once_one_wins(database: Database) -> None:
    run = started(database)
    with database.change("one") as change:
        runs.move(change, run, RunState.BUILDING, reason="one")

    with pytest.raises(ConflictError, match="changed by somebody else"):
        with database.change("two") as change:
            runs.move(change, run, RunState.BUILDING, reason="two")


def test_a_sealed_version_is_frozen(database: Database) -> None:
    sealed(database, 1)
    with database.read() as connection:
        version = runs.version_of(connection, "credit", 1)

    with pytest.raises(ConflictError, match="sealed already"):
        with database.change("penstock") as change:
            runs.seal(change, version, Seal("c" * 64, "b" * 64, None, None, "full"))


def test_a_change_without_a_journal_entry_is_refused(database: Database) -> None:
    with pytest.raises(AssertionError, match="left no journal entry"):
        with database.change("ada") as change:
            change.connection.execute(sa.text("UPDATE model SET owner = 'eve'"))

    with database.read() as connection:
        assert runs.model_of(connection, "credit").owner != "eve"


def test_the_journal_verifies_and_an_edit_is_found_at_its_entry(database: Database) -> None:
    started(database)
    with database.read() as connection:
        assert journal.verify(connection) == 2

    with database.write() as connection:
        connection.execute(sa.text("DROP TRIGGER journal_no_update"))
        connection.execute(sa.text("UPDATE journal SET actor = 'eve' WHERE seq = 2"))
    with database.read() as connection, pytest.raises(IntegrityError, match="entry 2 does not"):
        journal.verify(connection)


@pytest.mark.parametrize("statement", ["UPDATE journal SET actor='eve'", "DELETE FROM journal"])
def test_the_journal_cannot_be_changed(database: Database, statement: str) -> None:
    with pytest.raises(sa_errors.IntegrityError, match="never changed"):
        with database.write() as connection:
            connection.execute(sa.text(statement))


def test_an_unknown_model_names_those_that_are_there(database: Database) -> None:
    with database.read() as connection, pytest.raises(NotFoundError, match="known: credit"):
        runs.model_of(connection, "kredit")


def test_a_split_replaces_the_one_before_and_stands_whole_in_the_journal(
    database: Database,
) -> None:
    sealed(database, 1)
    sealed(database, 2)
    production = Environment.PRODUCTION
    with database.change("penstock") as change:
        rollouts.split(change, "credit", production, [Place(1, Role.CHAMPION, 100)], reason="")
    places = [Place(1, Role.CHAMPION, 90), Place(2, Role.CHALLENGER, 10)]
    with database.change("penstock") as change:
        generation = rollouts.split(change, "credit", production, places, reason="canary")

    with database.read() as connection:
        found = rollouts.deployments(connection, model_name="credit")
        entry = journal.entries(connection, model="credit")[0]
    assert generation == 2
    assert [(d.number, d.role, d.share, d.generation) for d in found] == [
        (1, Role.CHAMPION, 90, 2),
        (2, Role.CHALLENGER, 10, 2),
    ]
    assert '"split":[{"number":1,"role":"champion","share":90}' in entry.body


def test_a_model_has_at_most_one_champion(database: Database) -> None:
    sealed(database, 1)
    sealed(database, 2)
    places = [Place(1, Role.CHAMPION, 50), Place(2, Role.CHAMPION, 50)]

    with pytest.raises(sa_errors.IntegrityError):
        with database.change("penstock") as change:
            rollouts.split(change, "credit", Environment.PRODUCTION, places, reason="")


def test_a_model_has_at_most_one_live_rollout(database: Database) -> None:
    sealed(database, 1)
    plan = Plan("credit", Environment.PRODUCTION, None, "release", 1, None, (50,), {})
    with database.change("penstock") as change:
        rollouts.queue(change, plan)

    with pytest.raises(ConflictError, match="still going on"):
        with database.change("penstock") as change:
            rollouts.queue(change, plan)


def test_a_rollout_moves_only_where_its_state_allows(database: Database) -> None:
    sealed(database, 1)
    plan = Plan("credit", Environment.PRODUCTION, None, "release", 1, None, (50,), {})
    with database.change("penstock") as change:
        made = rollouts.queue(change, plan)

    with pytest.raises(ConflictError, match="cannot become full"):
        with database.change("penstock") as change:
            rollouts.move(change, made, RolloutState.FULL, reason="")


def test_check_results_of_one_occasion_replace_each_other(database: Database) -> None:
    first = CheckResult("smoke.loads", Verdict.FAILED, "no")
    with database.write() as connection:
        runs.add_results(connection, ("credit", 1), "run:1:1", [first], now=NOW)
        again = CheckResult("smoke.loads", Verdict.PASSED, "yes", {"rows": 3})
        runs.add_results(connection, ("credit", 1), "run:1:1", [again], now=NOW)

    with database.read() as connection:
        assert runs.results(connection, "run:1:1") == [again]


def test_a_token_is_kept_as_a_hash_and_ends_when_revoked(database: Database) -> None:
    with database.change("root") as change:
        text = tokens.create(change, "ada", ["push:credit*"])
    with database.read() as connection:
        caller = tokens.caller(connection, text, now=NOW)
        kept = connection.execute(sa.text("SELECT * FROM token")).one()
    assert caller is not None
    assert (caller.may("push", "credit-eu"), caller.may("push", "fraud")) == (True, False)
    assert text.split("_")[2] not in str(kept)

    with database.read() as connection:
        assert tokens.caller(connection, text + "0", now=NOW) is None
        late = NOW + timedelta(days=91)
        assert tokens.caller(connection, text, now=late) is None
    with database.change("root") as change:
        tokens.revoke(change, text.split("_")[1])
    with database.read() as connection:
        assert tokens.caller(connection, text, now=NOW) is None


def test_a_message_is_told_once_and_tried_until_it_is_sent(database: Database) -> None:
    with database.write() as connection:
        watch.tell(connection, "rollout:1", {"subject": "x"}, now=NOW)
        watch.tell(connection, "rollout:1", {"subject": "x"}, now=NOW)
        ((message_id, _),) = watch.unsent(connection)
        watch.tried(connection, message_id, sent_at=None)
        assert len(watch.unsent(connection)) == 1
        watch.tried(connection, message_id, sent_at=NOW)
        assert watch.unsent(connection) == []


def test_a_later_label_replaces_an_earlier_one_and_is_remembered(database: Database) -> None:
    def given(**values: str) -> list[Label]:
        return [Label(name, value) for name, value in values.items()]

    with database.write() as connection:
        first = labels.keep(connection, "credit", given(a="0", b="1"), now=NOW)
        second = labels.keep(connection, "credit", given(a="0", b="0", c="1"), now=NOW)
        late = Label("c", "0", NOW - timedelta(days=1))
        third = labels.keep(connection, "credit", [late], now=NOW)

        assert (first.new, second.new, second.same) == (2, 1, 1)
        assert second.corrected == [("b", "1", "0")]
        assert (third.older, third.corrected) == (1, [])
        assert watch.labels_of(connection, "credit") == {"a": "0", "b": "0", "c": "1"}
        assert [value for value, _ in labels.history(connection, "credit", "b")] == ["1"]


def test_one_call_may_hold_a_prediction_twice(database: Database) -> None:
    with database.write() as connection:
        both = [Label("a", "0"), Label("a", "1"), Label("a", "1")]
        fates = labels.keep(connection, "credit", both, now=NOW)

        assert (fates.new, len(fates.corrected), fates.same) == (1, 1, 1)
        assert watch.labels_of(connection, "credit") == {"a": "1"}


def test_a_monitor_is_advanced_by_one_of_two_ticks(database: Database) -> None:
    with database.change("penstock") as change:
        watch.set_monitor(change, "credit", "day", due=NOW, settings={"checks": ["drift"]})
    with database.read() as connection:
        (monitor,) = watch.due(connection, NOW)

    with database.write() as connection:
        first = watch.advance(connection, monitor, NOW + timedelta(days=1))
        second = watch.advance(connection, monitor, NOW + timedelta(days=1))
    assert (first, second) == (True, False)


def test_a_database_that_does_not_answer_is_said_in_a_sentence(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'no' / 'penstock.db'}", clock=lambda: NOW)

    with pytest.raises(UnreachableError, match="PS101 The database does not answer"):
        database.migrate()
