"""The numbers that are explained, and asking for them within a budget of time.

`Target` turns answers into numbers, whatever the kind of model. `Meter` asks in batches of a
fraction of a second, so that a budget is kept to within one batch, and notes what was spent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.check.answers import Answers, Ask, AskError, class_text, class_texts
from penstock.domain import JSON

Floats = NDArray[np.float64]
BATCH_ROWS = 1000
"""As many as a worker takes in one body."""
BATCH_S = 0.5
_FIRST_ROWS = 50
_MOST_CLASSES = 20
_LEAST_SHARE = 1e-6
"""Log-odds of a probability of 0 or 1 are taken here."""


class OutOfTimeError(Exception):
    """The budget of time is spent."""

    def __str__(self) -> str:
        """Say it as a reason."""
        return "the budget of time"


@dataclass(frozen=True, slots=True)
class Target:
    """Which numbers of an answer are explained."""

    unit: str
    """``probability``, ``class`` (1 where it is the answer, else 0) or ``number``."""
    classes: tuple[str, ...] = ()
    """One number for each; empty for a number."""
    log_odds: bool = False
    """One number more, at the end: the log-odds of the only class."""

    @property
    def width(self) -> int:
        """Numbers an answer, `log_odds` aside."""
        return max(1, len(self.classes))

    def numbers(self, answers: Answers) -> Floats:
        """Return the numbers, shape ``(n, width)``, or one more with `log_odds`."""
        if self.unit == "number":
            return answers.prediction.astype(np.float64)[:, None]
        if self.unit == "class":
            said = np.array(class_texts(answers.prediction.tolist()), dtype=object)
            return np.stack([(said == one).astype(np.float64) for one in self.classes], axis=1)
        assert answers.probability is not None, "probabilities came, and come no more"
        known = [class_text(one) for one in answers.classes or ()]
        shares = answers.probability[:, [known.index(one) for one in self.classes]]
        if not self.log_odds:
            return shares
        held = np.clip(shares, _LEAST_SHARE, 1 - _LEAST_SHARE)
        return np.concatenate([shares, np.log(held / (1 - held))], axis=1)

    def size(self, effects: Floats) -> Floats:
        """Return how much an effect moves the answer; the last axis holds its numbers.

        With several classes it is the share of the probability that moves from class to class,
        half the sum of all changes; with two that is the change of one.
        """
        if self.width == 1:
            return cast("Floats", np.abs(effects[..., 0]))
        return cast("Floats", np.abs(effects[..., : self.width]).sum(axis=-1) / 2)


def target_of(answers: Answers, task: str) -> Target:
    """Choose what is explained of a model that answers so."""
    if task != "classification":
        return Target("number")
    if answers.probability is not None and answers.classes is not None:
        known = [class_text(one) for one in answers.classes]
        if len(known) == 2:
            positive = known[1] if answers.positive is None else class_text(answers.positive)
            return Target("probability", (positive if positive in known else known[1],))
        mean = answers.probability.mean(axis=0)
        most = np.sort(np.argsort(-mean, kind="stable")[:_MOST_CLASSES])
        return Target("probability", tuple(known[int(index)] for index in most))
    said, counts = np.unique(class_texts(answers.prediction.tolist()), return_counts=True)
    classes = [str(one) for one in said[np.argsort(-counts, kind="stable")][:_MOST_CLASSES]]
    if len(classes) <= 2:
        positive = class_text(answers.positive) if answers.positive is not None else max(classes)
        return Target("class", (positive,))
    return Target("class", tuple(classes))


@dataclass(slots=True)
class Spent:
    """What one part took."""

    seconds: float = 0.0
    rows: int = 0
    """That the model answered."""


def _silent(_share: float, _left_s: float) -> None: ...


@dataclass(slots=True)
class Meter:
    """Asks a model within a budget."""

    model: Ask
    budget_s: float
    clock: Callable[[], float]
    """Seconds."""
    told: Callable[[float, float], None] = _silent
    """Told the share of the budget that is spent and the seconds that are left."""
    batch_s: float = BATCH_S
    """How long one batch should take."""
    spent: dict[str, Spent] = field(default_factory=dict[str, Spent])
    """By part, in the order of the work."""
    cost_s: float = 0.0
    """Seconds a row, as last measured."""
    _began: float = 0.0
    _until: float = math.inf
    _part: Spent = field(default_factory=Spent)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def left_s(self) -> float:
        """Seconds until the present part, or the whole, must end."""
        return min(self._until, self._began + self.budget_s) - self.clock()

    @property
    def whole_left_s(self) -> float:
        """Seconds until the whole must end."""
        return self._began + self.budget_s - self.clock()

    @contextmanager
    def part(self, name: str, share: float = 1.0) -> Generator[None]:
        """Count what happens inside under `name`; it ends at a share of the whole budget."""
        began = self.clock()
        self._part = self.spent.setdefault(name, Spent())
        self._until = self._began + share * self.budget_s
        try:
            yield
        finally:
            self._part.seconds += self.clock() - began
            self._until = math.inf

    def fitting(self, rows_each: int, least: int, most: int) -> int:
        """Return how many of something fit in what is left, when each asks `rows_each` rows."""
        if self.cost_s <= 0:
            return most
        return max(least, min(most, int(self.left_s / (self.cost_s * max(rows_each, 1)))))

    def answers(self, table: pa.Table) -> Answers:
        """Ask for every row.

        Raises
        ------
        OutOfTimeError
            The part's time is over; what was answered of `table` is lost.
        AskError
            The model answered an error.
        """
        found: list[Answers] = []
        start = 0
        while start < table.num_rows:
            if self.left_s <= 0:
                raise OutOfTimeError
            part = table.slice(start, self.batch_rows())
            found.append(self._once(part))
            start += part.num_rows
        return _joined(found)

    def numbers(self, table: pa.Table, target: Target) -> Floats:
        """Ask for the target's numbers of every row; raises as `answers` does."""
        return target.numbers(self.answers(table))

    def batch_rows(self) -> int:
        """Return how many rows are asked at once now."""
        if self.cost_s <= 0:
            return BATCH_ROWS if any(one.rows for one in self.spent.values()) else _FIRST_ROWS
        return max(1, min(BATCH_ROWS, int(self.batch_s / self.cost_s)))

    def _once(self, part: pa.Table) -> Answers:
        began = self.clock()
        answers = self.model(part)
        if len(answers) != part.num_rows:
            raise AskError(500, f"{len(answers)} answers for {part.num_rows} rows")
        now = self.clock()
        self.cost_s = (now - began) / part.num_rows
        self._part.rows += part.num_rows
        self.told(min(1.0, (now - self._began) / self.budget_s), max(0.0, self.left_s))
        return answers

    def report(self) -> list[JSON]:
        """Say what was spent on what."""
        return [
            {"what": name, "seconds": round(one.seconds, 3), "rows": one.rows}
            for name, one in self.spent.items()
        ]


def _joined(parts: list[Answers]) -> Answers:
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    shares = [one.probability for one in parts if one.probability is not None]
    predictions: list[NDArray[Any]] = [one.prediction for one in parts]
    return Answers(
        np.concatenate(predictions),
        np.concatenate(shares) if len(shares) == len(parts) else None,
        first.classes,
        first.positive,
    )


def plain(value: Any) -> Any:
    """Return plain JSON: nine digits that count, no NaN, nothing of numpy's."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in cast("dict[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in cast("list[Any]", value)]
    if isinstance(value, np.generic):
        value = cast("Any", value).item()
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value
