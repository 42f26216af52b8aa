"""The words and the looks of states and verdicts, the same on pages and in lines of text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from penstock.domain import RolloutState, RunState, Verdict


class Look(NamedTuple):
    """How a state is shown: never by colour alone."""

    kind: str
    """CSS class and shape: fail, wait, warn, idle, run or ok."""
    word: str
    icon: str | None = None
    """Another shape than the kind's own."""


RUN_LOOKS: Mapping[str, Look] = {
    RunState.QUEUED: Look("idle", "Queued"),
    RunState.BUILDING: Look("run", "Building"),
    RunState.TESTING: Look("run", "Testing"),
    RunState.AWAITING_APPROVAL: Look("wait", "Approval"),
    RunState.ROLLING_OUT: Look("run", "Canary", "can"),
    RunState.ABORTING: Look("idle", "Aborting"),
    RunState.SUCCEEDED: Look("ok", "Done"),
    RunState.FAILED: Look("fail", "Failed"),
    RunState.REJECTED: Look("idle", "Rejected"),
    RunState.EXPIRED: Look("idle", "Expired"),
    RunState.SUPERSEDED: Look("idle", "Superseded"),
    RunState.ROLLED_BACK: Look("fail", "Rolled back"),
    RunState.ABORTED: Look("idle", "Aborted"),
}
ROLLOUT_LOOKS: Mapping[str, Look] = {
    RolloutState.QUEUED: Look("idle", "Queued"),
    RolloutState.STARTING: Look("run", "Starting"),
    RolloutState.SHADOW: Look("run", "Shadow", "can"),
    RolloutState.CANARY: Look("run", "Canary", "can"),
    RolloutState.PAUSED: Look("wait", "Paused"),
    RolloutState.PROMOTING: Look("run", "Promoting"),
    RolloutState.ROLLING_BACK: Look("run", "Rolling back"),
    RolloutState.FULL: Look("ok", "Full traffic"),
    RolloutState.ROLLED_BACK: Look("fail", "Rolled back"),
}
MODEL_LOOKS: Mapping[str, Look] = {
    "Degraded": Look("fail", "Degraded"),
    "Failed": Look("fail", "Failed"),
    "Rolled back": Look("fail", "Rolled back"),
    "Approval": Look("wait", "Approval"),
    "Paused": Look("wait", "Paused"),
    "Drifting": Look("warn", "Drifting"),
    "Check overdue": Look("idle", "Check overdue"),
    "Queued": Look("idle", "Queued"),
    "Building": Look("run", "Building"),
    "Testing": Look("run", "Testing"),
    "Canary": Look("run", "Canary", "can"),
    "Healthy": Look("ok", "Healthy"),
    "Not in production": Look("idle", "Not in production"),
}
APPROVAL_LOOKS: Mapping[str, Look] = {
    "asked": Look("wait", "Waiting"),
    "granted": Look("ok", "Approved"),
    "refused": Look("idle", "Rejected"),
    "void": Look("idle", "Void"),
    "expired": Look("idle", "Expired"),
}
STEP_LOOKS: Mapping[str, Look] = {
    "running": Look("run", "Running"),
    "passed": Look("ok", "Passed"),
    "failed": Look("fail", "Failed"),
    "undecided": Look("warn", "Undecided"),
    "skipped": Look("idle", "Skipped"),
    "to come": Look("idle", "To come"),
}
MARKS: Mapping[str, str] = {
    "passed": "ok",
    "failed": "FAIL",
    "undecided": "?",
    "running": "*",
    "skipped": "-",
}
"""What stands before a line of text; every terminal can show it."""
_MORE_DATA = {"too early", "not enough labels", "not enough data"}
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def verdict_look(verdict: str, reading: object = None) -> Look:
    """Say how a verdict looks; undecided is never green.

    Examples
    --------
    >>> verdict_look("undecided", "too early").icon, verdict_look("undecided").kind
    ('can', 'warn')
    """
    if verdict == Verdict.PASSED:
        return Look("ok", "Passed")
    if verdict == Verdict.FAILED:
        return Look("fail", "Failed")
    return Look("run", "Undecided", "can") if reading in _MORE_DATA else Look("warn", "Undecided")


def duration(seconds: float) -> str:
    """Write a duration with its two largest units.

    Examples
    --------
    >>> duration(0.4), duration(48), duration(168), duration(5400), duration(90_000)
    ('0.4 s', '48 s', '2 min 48 s', '1 h 30 min', '1 d 1 h')
    """
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    parts: list[str] = []
    for size, unit in (*_UNITS, (1, "s")):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def ago(moment: datetime, now: datetime) -> str:
    """Write a moment: relative within a day, absolute beyond."""
    seconds = (now - moment).total_seconds()
    if 0 <= seconds < 60:
        return "just now"
    if abs(seconds) < 86_400:
        size, unit = (3_600, "h") if abs(seconds) >= 3_600 else (60, "min")
        told = f"{abs(seconds) / size:.0f} {unit}"
        return f"{told} ago" if seconds > 0 else f"in {told}"
    return f"{moment.day} {moment:%B %Y}"


def number(value: Any) -> str:
    """Write a value as people read it: digits that count, a true minus, thin grouping.

    Examples
    --------
    >>> number(0.81239), number(9.2), number(386195.0), number(0.0001), number(None)
    ('0.812', '9.20', '386\u202f195', '0.0001', '')
    """
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return "–"
        text = _float_text(value)
    else:
        text = f"{value:,}"
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "−")


def _float_text(value: float) -> str:
    """Write three digits that count, and no exponent where it can be helped."""
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.001:
        return f"{value:.1g}" if size < 0.0001 else f"{value:.4f}"
    decimals = next((d for at, d in ((100, 0), (10, 1), (1, 2)) if size >= at), 3)
    return f"{value:,.{decimals}f}"


def marked(text: str, looked_for: str) -> Iterator[tuple[str, bool]]:
    """Cut a text where it holds what was looked for, and say of each part whether it is it.

    Examples
    --------
    >>> list(marked("Loss 0.4, loss 0.3", "loss"))
    [('Loss', True), (' 0.4, ', False), ('loss', True), (' 0.3', False)]
    """
    parts = re.split(f"({re.escape(looked_for)})", text, flags=re.IGNORECASE)
    for number, part in enumerate(parts):
        if part:
            yield part, number % 2 == 1


def quality_of(found: Mapping[str, Any]) -> str:
    """Name a measured quality in few characters: ``AUC 0.829``."""
    metric = str(found.get("metric") or "")
    word = {"roc_auc": "AUC", "mae": "MAE", "rmse": "RMSE", "r2": "R²", "f1": "F1"}.get(
        metric, metric.replace("_", " ")
    )
    return f"{word} {number(found.get('value'))}".strip()
