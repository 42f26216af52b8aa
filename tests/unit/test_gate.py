from __future__ import annotations

import pytest

from penstock.check.gate import gate, stops
from penstock.domain import CheckResult, Verdict

PASSED, FAILED, UNDECIDED = Verdict.PASSED, Verdict.FAILED, Verdict.UNDECIDED


def results(*verdicts: Verdict) -> list[CheckResult]:
    return [CheckResult(f"check.{number}", one, "") for number, one in enumerate(verdicts)]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((PASSED, PASSED), PASSED),
        ((PASSED, UNDECIDED), UNDECIDED),
        ((UNDECIDED, FAILED, PASSED), FAILED),
        ((), UNDECIDED),
    ],
)
def test_the_worst_verdict_is_the_gates(verdicts: tuple[Verdict, ...], expected: Verdict) -> None:
    found = gate("test", results(*verdicts), risk="medium")

    assert (found.check, found.verdict) == ("gate.test", expected)


def test_the_gate_names_what_did_not_pass() -> None:
    found = gate("build", results(PASSED, FAILED, UNDECIDED), risk="low")

    assert found.summary == "1 of 3 checks passed, 1 failed: check.1, 1 undecided: check.2"
    assert found.evidence["failed"] == ["check.1"]
    assert found.evidence["undecided"] == ["check.2"]
    assert found.evidence["stops"] is True


def test_undecided_is_a_persons_to_end_below_risk_high() -> None:
    found = gate("test", results(UNDECIDED), risk="medium")

    assert found.summary.endswith("; a person decides")


@pytest.mark.parametrize("risk", ["low", "medium", "high"])
def test_failed_always_stops_and_undecided_only_at_risk_high(risk: str) -> None:
    assert stops(FAILED, risk)
    assert not stops(PASSED, risk)
    assert stops(UNDECIDED, risk) is (risk == "high")
