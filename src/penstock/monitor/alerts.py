"""Which alerts open, go on and close: a pure decision, one alert a model and cause.

A failed check of quality or service opens its alert at once, and so does a column that drifted.
An alert closes after the first period in which every check that it is about passed. Undecided
changes nothing: no data neither wakes people nor tells them that all is well.

This is the simplest true form: a period is judged by itself. Seven-day sums, two days in a row
before drift opens, and joining columns to an open drift come later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from penstock.domain import CheckResult, Verdict

KINDS = ("quality", "drift", "service")


class Move(StrEnum):
    """What becomes of an alert."""

    OPEN = "open"
    CONTINUE = "continue"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Change:
    """What a period means for the alert of one kind."""

    kind: str
    move: Move
    summary: str
    checks: frozenset[str]
    """What the alert is about from now on: names of checks. Keep them until the next period."""


def decide(
    results: Sequence[CheckResult], open_alerts: Mapping[str, frozenset[str]]
) -> list[Change]:
    """Say what a period's results change.

    Parameters
    ----------
    results
        Of the period, all kinds.
    open_alerts
        By kind, the checks that the open alert is about; an empty set where that is not known,
        and then every check of the kind has to pass before it closes.

    Returns
    -------
    list
        At most one change a kind, in the order of `KINDS`.
    """
    changes = [_change(kind, results, open_alerts.get(kind)) for kind in KINDS]
    return [change for change in changes if change is not None]


def _change(
    kind: str, results: Sequence[CheckResult], about: frozenset[str] | None
) -> Change | None:
    of_kind = [one for one in results if one.check.partition(".")[0] == kind]
    failed = [one for one in of_kind if one.verdict is Verdict.FAILED]
    passed = frozenset(one.check for one in of_kind if one.verdict is Verdict.PASSED)
    if failed:
        checks = frozenset(one.check for one in failed) | ((about or frozenset()) - passed)
        move = Move.OPEN if about is None else Move.CONTINUE
        return Change(kind, move, _sentence(failed), checks)
    if about is None or not of_kind:
        return None
    waiting_for = about or frozenset(one.check for one in of_kind)
    if waiting_for <= passed:
        names = ", ".join(sorted(waiting_for))
        return Change(kind, Move.CLOSE, f"passed again: {names}", frozenset())
    return None


def _sentence(failed: Sequence[CheckResult], *, most: int = 3) -> str:
    """Name the failed checks, the first few with what they found."""
    told = "; ".join(f"{one.check.partition('.')[2]}: {one.summary}" for one in failed[:most])
    rest = len(failed) - most
    return f"{told}; and {rest} more" if rest > 0 else told
