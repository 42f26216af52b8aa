"""Permutation importance: a column is shuffled, and how much worse the measure gets is its worth.

Every column is shuffled once before any is shuffled a second time, so that a short budget costs
precision and not columns. Columns that tell the same are shuffled together as well: alone, none
of them would be missed.

References
----------
L. Breiman, *Random Forests*, Machine Learning 45, 2001; the error of the rows by the jackknife
over groups of rows, B. Efron and C. Stein, *The Jackknife Estimate of Variance*, 1981.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.check.answers import Answers, AskError
from penstock.check.explanation.asking import Meter, OutOfTimeError
from penstock.check.quality import higher_is_better, value
from penstock.domain import JSON

Unit = tuple[str, ...]
"""Columns that are shuffled with one and the same order."""
_GROUPS = 10
_T = 2.262157
"""Quantile .975 of Student's t with `_GROUPS` - 1 degrees of freedom."""


@dataclass(slots=True)
class Rises:
    """How much worse the measure got in each shuffle of a unit."""

    repeats: list[float] = field(default_factory=list[float])
    rows_error: float = math.nan
    """Standard error of the first, over the choice of rows and of the order."""

    def told(self) -> JSON:
        """Return mean, spread over the repeats and a 95 % interval."""
        mean, count = float(np.mean(self.repeats)), len(self.repeats)
        spread = float(np.std(self.repeats, ddof=1)) if count > 1 else None
        # The jackknife saw one order; the repeats say how much of its error was the order's.
        order = 0.0 if spread is None else spread**2
        error = math.sqrt(max(self.rows_error**2 - order, 0.0) + order / count)
        known = math.isfinite(error)
        return {
            "mean": mean,
            "sd": spread,
            "repeats": count,
            "se": error if known else None,
            "low": mean - _T * error if known else None,
            "high": mean + _T * error if known else None,
        }


@dataclass(slots=True)
class Shuffling:
    """Shuffles units of one table and asks again."""

    meter: Meter
    metric: str
    rows: pa.Table
    labels: NDArray[Any]
    plain: Answers
    random: np.random.Generator
    found: dict[Unit, Rises] = field(default_factory=dict[Unit, Rises])
    fault: str = ""
    """Why it ended early."""

    def loss(self, answers: Answers, of: NDArray[np.intp] | None = None) -> float:
        """Return the measure of all rows or some, turned so that lower is better."""
        labels = self.labels if of is None else self.labels[of]
        found = value(self.metric, labels, answers if of is None else _some(answers, of))
        return -found if higher_is_better(self.metric) else found

    def go_on(self, units: Sequence[Unit], repeats: int) -> None:
        """Shuffle every unit until each has `repeats`; stop at the deadline or at an error."""
        before = self.loss(self.plain)
        for number in range(repeats):
            for unit in units:
                rises = self.found.setdefault(unit, Rises())
                if len(rises.repeats) > number:
                    continue
                try:
                    after = self.meter.answers(self._shuffled(unit))
                except OutOfTimeError as error:
                    self.fault = str(error)
                    return
                except AskError as error:
                    self.fault = f"it answered {error.status}: {error.message}"
                    return
                rises.repeats.append(self.loss(after) - before)
                if number == 0:
                    rises.rows_error = self._error(after)

    def _shuffled(self, unit: Unit) -> pa.Table:
        order = pa.array(self.random.permutation(self.rows.num_rows))
        shuffled = self.rows
        for name in unit:
            at = shuffled.column_names.index(name)
            shuffled = shuffled.set_column(at, name, shuffled.column(name).take(order))
        return shuffled

    def _error(self, after: Answers) -> float:
        """Return the jackknife error of a rise: each group of rows is left out once."""
        rows = np.arange(self.rows.num_rows)
        if len(rows) < 2 * _GROUPS:
            return math.nan
        left = [rows[rows % _GROUPS != group] for group in range(_GROUPS)]
        rises = np.array([self.loss(after, of) - self.loss(self.plain, of) for of in left])
        return float(np.sqrt((_GROUPS - 1) * np.var(rises)))


def _some(answers: Answers, of: NDArray[np.intp]) -> Answers:
    shares = None if answers.probability is None else answers.probability[of]
    return Answers(answers.prediction[of], shares, answers.classes, answers.positive)
