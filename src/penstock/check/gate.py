"""A gate: one verdict of many checks."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.domain import CheckResult, Verdict


def gate(name: str, results: Sequence[CheckResult], *, risk: str) -> CheckResult:
    """Make one verdict: failed beats undecided beats passed.

    Parameters
    ----------
    name
        Of the stage or step; the result is named ``gate.<name>``.
    results
        A gate over nothing is undecided: what was not asked has not passed.
    risk
        Decides whether undecided stops the run.

    Examples
    --------
    >>> checks = [
    ...     CheckResult("smoke.predicts", Verdict.PASSED, ""),
    ...     CheckResult("quality.not_worse", Verdict.UNDECIDED, ""),
    ... ]
    >>> gate("test", checks, risk="high").summary
    '1 of 2 checks passed, 1 undecided: quality.not_worse; stops at risk high'
    """
    named = {
        verdict: [result.check for result in results if result.verdict is verdict]
        for verdict in Verdict
    }
    verdict = Verdict.PASSED if results else Verdict.UNDECIDED
    counted = {result.verdict for result in results if decides(result)}
    for worse in (Verdict.UNDECIDED, Verdict.FAILED):
        if worse in counted:
            verdict = worse
    stopped = stops(verdict, risk)
    evidence = {str(one): checks for one, checks in named.items()} | {
        "risk": risk,
        "stops": stopped,
        "question": "Did it pass the checks?",
    }
    summary = _sentence(named, len(results))
    if verdict is Verdict.UNDECIDED:
        summary += f"; stops at risk {risk}" if stopped else "; a person decides"
    return CheckResult(f"gate.{name}", verdict, summary, evidence)


def decides(result: CheckResult) -> bool:
    """Say whether a gate asks this check; a report (``gate`` is false) is only shown."""
    return result.evidence.get("gate") is not False


def stops(verdict: Verdict, risk: str) -> bool:
    """Say whether a run ends here: on failed, and at risk high on undecided too."""
    return verdict is Verdict.FAILED or (verdict is Verdict.UNDECIDED and risk == "high")


def _sentence(named: dict[Verdict, list[str]], asked: int) -> str:
    if not asked:
        return "no check was asked"
    told = f"{len(named[Verdict.PASSED])} of {asked} checks passed"
    for verdict in (Verdict.FAILED, Verdict.UNDECIDED):
        if named[verdict]:
            told += f", {len(named[verdict])} {verdict}: {', '.join(named[verdict])}"
    return told
