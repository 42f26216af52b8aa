from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from penstock.domain import CheckResult, Verdict
from penstock.monitor.alerts import Move, decide

PASSED, FAILED, UNDECIDED = Verdict.PASSED, Verdict.FAILED, Verdict.UNDECIDED
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def result(check: str, verdict: Verdict) -> CheckResult:
    return CheckResult(check, verdict, f"{verdict} it")


@pytest.mark.parametrize("check", ["quality.roc_auc", "drift.age", "service.errors"])
def test_a_failed_check_opens_the_alert_of_its_kind(check: str) -> None:
    (change,) = decide([result(check, FAILED), result("quality.brier", PASSED)], {})

    assert (change.kind, change.move) == (check.partition(".")[0], Move.OPEN)
    assert change.checks == {check}
    assert change.summary == f"{check.partition('.')[2]}: failed it"


@pytest.mark.parametrize("verdict", [PASSED, UNDECIDED])
def test_without_a_failure_nothing_opens(verdict: Verdict) -> None:
    assert decide([result("drift.age", verdict)], {}) == []


def test_one_alert_a_kind_names_the_first_columns_and_counts_the_rest() -> None:
    results = [result(f"drift.c{number}", FAILED) for number in range(5)]

    (change,) = decide(results, {})

    assert change.summary == "c0: failed it; c1: failed it; c2: failed it; and 2 more"
    assert len(change.checks) == 5


def test_a_failure_that_goes_on_continues_and_keeps_what_has_not_passed() -> None:
    results = [
        result("drift.a", FAILED),
        result("drift.b", UNDECIDED),
        result("drift.c", PASSED),
    ]

    (change,) = decide(results, {"drift": frozenset({"drift.b", "drift.c"})})

    assert change.move is Move.CONTINUE
    assert change.checks == {"drift.a", "drift.b"}


def test_undecided_changes_nothing() -> None:
    open_alerts = {"drift": frozenset({"drift.a"})}

    assert decide([result("drift.a", UNDECIDED), result("drift.b", PASSED)], open_alerts) == []
    assert decide([], open_alerts) == []


def test_it_closes_when_all_that_it_is_about_passed() -> None:
    results = [result("drift.a", PASSED), result("drift.other", UNDECIDED)]

    (change,) = decide(results, {"drift": frozenset({"drift.a"})})

    assert (change.move, change.summary) == (Move.CLOSE, "passed again: drift.a")


def test_an_alert_about_unknown_checks_closes_when_all_of_its_kind_passed() -> None:
    some = [result("service.errors", PASSED), result("service.p95", UNDECIDED)]
    every = [result("service.errors", PASSED), result("service.p95", PASSED)]
    unknown = {"service": frozenset[str]()}

    assert decide(some, unknown) == []
    assert [change.move for change in decide(every, unknown)] == [Move.CLOSE]
