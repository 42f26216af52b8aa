"""How far a running step is, and how long it will still take.

A step that can tell tells (explain its budget, check its checks). Of any other it is estimated
from the model's earlier runs, which is said wherever the estimate is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from penstock.domain import Step
from penstock.records.pace import usual_s
from penstock.web.words import duration

MOST_SHARE = 0.99
"""Nothing that runs is shown as done."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How far a running step is."""

    step: str
    """Such as ``build/train``."""
    share: float | None
    """From 0 to 0.99; None where nobody can say."""
    left_s: float | None
    """Seconds that it will still take; None where nobody can say."""
    estimated: bool
    """By how long earlier runs took, not told by the step itself."""
    text: str
    """The same as words."""


def pace(connection: sa.Connection, model: str, step: Step | None, now: datetime) -> Pace | None:
    """Return how far a step is; None for one that does not run."""
    if step is None or step.state != "running":
        return None
    name = f"{step.stage}/{step.name}"
    if step.progress is not None:
        share = min(max(step.progress, 0.0), MOST_SHARE)
        return Pace(name, share, step.left_s, estimated=False, text=_told(step, share))
    usual = usual_s(connection, model, (step.stage, step.name))
    if usual is None:
        return Pace(name, None, None, estimated=False, text=step.doing)
    return estimate(name, step.doing, (now - step.started_at).total_seconds(), usual)


def estimate(name: str, doing: str, spent_s: float, usual_s: float) -> Pace:
    """Estimate from how long the step took before.

    Parameters
    ----------
    spent_s, usual_s
        Seconds since it began, and that earlier runs took (the median of at most five).

    Examples
    --------
    >>> estimate("build/train", "trains", 30, 120).text
    'trains · about 1 min 30 s left, by earlier runs'
    >>> late = estimate("build/train", "", 150, 120)
    >>> late.share, late.left_s, late.text
    (0.99, None, 'longer than the 2 min of earlier runs')
    """
    share = min(spent_s / usual_s, MOST_SHARE) if usual_s > 0 else MOST_SHARE
    left_s = usual_s - spent_s if spent_s < usual_s else None
    if left_s is None:
        said = f"longer than the {duration(usual_s)} of earlier runs"
    else:
        said = f"about {duration(left_s)} left, by earlier runs"
    text = f"{doing} · {said}" if doing else said
    return Pace(name, max(share, 0.0), left_s, estimated=True, text=text)


def _told(step: Step, share: float) -> str:
    parts = [step.doing, f"{share:.0%}".replace("%", " %")]
    if step.left_s is not None:
        parts.append(f"at most {duration(step.left_s)} left")
    return " · ".join(part for part in parts if part)
