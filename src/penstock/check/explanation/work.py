"""What the parts of an explanation share: the subject, the plan, and the report under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa

from penstock.check.answers import Ask, AskError
from penstock.check.evaluation import Evaluation
from penstock.check.explanation.asking import Meter, Target
from penstock.check.explanation.exact import Exact
from penstock.domain import JSON


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything there is; what the budget does not allow is left out and named."""

    max_rows: int = 10_000
    """Shuffled rows."""
    repeats: int = 5
    seed: int = 0
    metric: str | None = None
    """A measure of quality; None = the task's main one."""
    clock: Callable[[], float] = time.monotonic
    """Seconds."""
    explained: int = 200
    """Rows that get Shapley values."""
    background: int = 100
    pairs: int = 64
    """Most pairs of orders a row."""
    precision: float = 0.02
    """Noise that is good enough: of a column's mean effect, as a share of the sum of all."""
    players: int = 40
    """Columns that are told apart by Shapley values; the rest is one."""
    curves: int = 6
    curve_rows: int = 200
    shown: bool = True
    """Whether single rows are shown."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is explained."""

    ask: Ask
    evaluation: Evaluation
    columns: Sequence[str]
    """What the version wants, in its order."""
    task: str
    """``classification`` or ``regression``."""
    only: Sequence[str] = ()
    """Columns to explain, when not all."""
    exact: Exact | None = None
    """The exact explainer of the model's environment, where there is one."""
    told: Callable[[float, float], None] = lambda _share, _left_s: None
    """Told how far it is: a share, and the seconds that are left at most."""


@dataclass(slots=True)
class Explaining:
    """The work on one report, part by part."""

    subject: Subject
    plan: Plan
    meter: Meter
    random: np.random.Generator
    evaluation: Evaluation
    rows: pa.Table
    report: dict[str, Any]
    skipped: list[JSON] = field(default_factory=list[JSON])

    def exact(self, target: Target) -> Exact | None:
        """Return the exact explainer where it can speak of the same numbers."""
        return self.subject.exact if target.width == 1 and target.unit != "class" else None

    def skip(self, what: str, why: object) -> None:
        """Note what is left out, and why: a sentence or an exception."""
        if isinstance(why, AskError):
            why = f"it answered {why.status}: {why.message}"
        self.skipped.append({"what": what, "why": str(why)})


def python_value(value: Any) -> Any:
    """Return a number of numpy's as one of Python's."""
    return cast("Any", value).item() if isinstance(value, np.generic) else value
