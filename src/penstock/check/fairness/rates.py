"""What is measured of a group, with its interval.

Every measure is a mean over some rows of a group: of right answers, of yes among the truly
positive, of errors. So one pass of counting gives all groups. Values equal those of
`fairlearn.metrics.MetricFrame`; the tests hold them against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.check.answers import Answers
from penstock.check.fairness.groups import MIN_ROWS, Grouping
from penstock.check.rows import class_names
from penstock.check.rows import rows as rows_of
from penstock.domain import JSON

Floats = NDArray[np.float64]
MIN_CASES = 10
Z = 1.959963984540054
"""Quantile .975 of the normal law: intervals of 95 %."""
MOST_CLASSES = 20
_BINS = 5


@dataclass(frozen=True, slots=True)
class Interval:
    """A value between two bounds, 95 %."""

    value: float
    low: float
    high: float

    def as_json(self) -> JSON:
        """Return it as plain JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Labels and answers in the form that one kind of task needs, each of shape ``(n,)``."""

    truth: Floats
    predicted: Floats
    """For classes 1 means this class; of two, the positive one."""
    score: Floats | None = None
    """Probability of this class."""
    of: str | None = None
    """The class, where there are more than two."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A mean over some rows of a group."""

    name: str
    value: Callable[[Rows], Floats]
    cases: Callable[[Rows], NDArray[np.bool_]]
    share: bool = True
    """Of rows, between 0 and 1; else a mean of any numbers."""
    positives: bool = False
    """A group needs rows of the positive class to be judged."""


def _every(rows: Rows) -> NDArray[np.bool_]:
    return np.ones(len(rows.truth), dtype=np.bool_)


def _miscalibrated(rows: Rows) -> Floats:
    assert rows.score is not None, "calibration was asked of answers without probabilities"
    return rows.truth - rows.score


SELECTION = Measure("selection_rate", lambda r: r.predicted, _every, positives=True)
TPR = Measure("tpr", lambda r: r.predicted, lambda r: r.truth == 1, positives=True)
FPR = Measure("fpr", lambda r: r.predicted, lambda r: r.truth == 0, positives=True)
PRECISION = Measure("precision", lambda r: r.truth, lambda r: r.predicted == 1)
ACCURACY = Measure("accuracy", lambda r: (r.truth == r.predicted) * 1.0, _every)
BASE = Measure("base_rate", lambda r: r.truth, _every)
CALIBRATION = Measure("calibration", _miscalibrated, _every, share=False)
ERROR = Measure("mean_error", lambda r: r.predicted - r.truth, _every, share=False)
SIZE = Measure("mean_absolute_error", lambda r: np.abs(r.predicted - r.truth), _every, share=False)
ANSWER = Measure("mean_answer", lambda r: r.predicted, _every, share=False)
TRUTH = Measure("mean_truth", lambda r: r.truth, _every, share=False)
OF_CLASSES = (SELECTION, TPR, FPR, PRECISION, ACCURACY, BASE)
OF_NUMBERS = (ERROR, SIZE, ANSWER, TRUTH)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What kind of answers there are, and every form in which they are measured."""

    kind: str
    """``binary``, ``multiclass`` or ``regression``."""
    forms: tuple[Rows, ...]
    """One; for more than two classes how often it is right, then one against the rest each."""
    positive: str | None = None
    skipped: tuple[str, ...] = ()
    """Classes beyond the most that are told apart."""

    def measured(self) -> Iterator[tuple[Measure, Rows]]:
        """Yield every measure with the rows that it is measured on."""
        for rows in self.forms:
            if self.kind == "regression":
                yield from ((measure, rows) for measure in OF_NUMBERS)
                continue
            if self.kind == "multiclass" and rows.of is None:
                yield ACCURACY, rows
                continue
            # Of many classes, how often an answer is right is asked once, over all of them.
            yield from ((m, rows) for m in OF_CLASSES if m is not ACCURACY or rows.of is None)
            if rows.score is not None:
                yield CALIBRATION, rows


def task_of(labels: NDArray[Any], answers: Answers, task: str) -> Task:
    """Bring labels and answers into every form that is measured."""
    names: tuple[str, ...] = () if task == "regression" else class_names(labels, answers)
    judged = rows_of(labels, answers, names=names)
    if not names:
        return Task("regression", (Rows(judged.truth, judged.prediction),))
    if judged.n_classes <= 2:
        # Of two classes, `rows_of` gives number 1 to the positive one.
        return Task("binary", (_against_the_rest(judged, 1, None),), names[-1])
    right = Rows(np.ones(len(judged)), (judged.truth == judged.prediction) * 1.0)
    often = np.bincount(judged.truth[judged.truth >= 0], minlength=len(names))
    kept: list[int] = np.sort(np.argsort(-often, kind="stable")[:MOST_CLASSES]).tolist()
    forms = [_against_the_rest(judged, number, names[number]) for number in kept]
    left = tuple(name for number, name in enumerate(names) if number not in kept)
    return Task("multiclass", (right, *forms), None, left)


def _against_the_rest(judged: Any, number: int, of: str | None) -> Rows:
    score = None if judged.probability is None else judged.probability[:, number]
    return Rows((judged.truth == number) * 1.0, (judged.prediction == number) * 1.0, score, of)


def key_of(measure: Measure, rows: Rows) -> str:
    """Name a measure, with the class it speaks of where there are several."""
    return measure.name if rows.of is None else f"{measure.name}:{rows.of}"


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One measure of every group; arrays of shape ``(groups,)``."""

    key: str
    measure: Measure
    of: str | None
    counts: Floats
    """Cases."""
    values: Floats
    """NaN where there is no case."""
    sd: Floats
    judged: NDArray[np.bool_]

    def bounds(self, z: float) -> tuple[Floats, Floats]:
        """Return the lower and upper bounds; NaN where there is no case."""
        counts = np.where(self.counts > 0, self.counts, np.nan)
        if not self.measure.share:
            half = z * self.sd / np.sqrt(counts)
            return self.values - half, self.values + half
        rate, z2 = self.values, z * z
        centre = (rate + z2 / (2 * counts)) / (1 + z2 / counts)
        spread = np.sqrt(rate * (1 - rate) / counts + (z / (2 * counts)) ** 2)
        half = z / (1 + z2 / counts) * spread
        return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)

    def interval(self, group: int, z: float = Z) -> Interval | None:
        """Return a group's value with its interval; None where it has too few cases for one."""
        if self.counts[group] < 2:
            return None
        low, high = self.bounds(z)
        return Interval(float(self.values[group]), float(low[group]), float(high[group]))


def table(measure: Measure, rows: Rows, groups: Grouping) -> Table:
    """Measure every group."""
    number = len(groups.names)
    counted = measure.cases(rows) & (groups.codes >= 0)
    codes, values = groups.codes[counted], measure.value(rows)[counted]
    counts = np.bincount(codes, minlength=number).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(codes, values, minlength=number) / counts
        squares = np.bincount(codes, np.square(values - means[codes]), minlength=number)
        sd = np.sqrt(squares / (counts - 1))
    judged = (groups.counts >= MIN_ROWS) & (counts >= MIN_CASES)
    if measure.positives:
        judged &= positives_of(rows, groups) >= MIN_CASES
    return Table(key_of(measure, rows), measure, rows.of, counts, means, sd, judged)


def positives_of(rows: Rows, groups: Grouping) -> NDArray[np.int64]:
    """Count the truly positive rows of each group."""
    inside = (rows.truth == 1) & (groups.codes >= 0)
    return np.bincount(groups.codes[inside], minlength=len(groups.names)).astype(np.int64)


def wilson(successes: float, rows: int, z: float = 1.96) -> Interval:
    """Return a rate with Wilson's interval.

    Examples
    --------
    >>> found = wilson(10, 100)
    >>> round(found.low, 4), round(found.high, 4)
    (0.0552, 0.1744)
    """
    rate = successes / rows
    centre = (rate + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(rate * (1 - rate) / rows + (z / (2 * rows)) ** 2)
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half))


def reliability(rows: Rows, groups: Grouping) -> list[list[JSON]]:
    """Hold expected shares against observed ones, in up to five bins of the probability.

    Bins are cut at the quantiles of all rows, so that each group is seen at the same places.

    Returns
    -------
    list
        For each group its bins: ``expected``, ``observed`` with ``low`` and ``high``, ``rows``.
    """
    if rows.score is None or not len(rows.score):
        return [[] for _ in groups.names]
    edges = np.unique(np.quantile(rows.score, np.arange(1, _BINS) / _BINS))
    part = np.searchsorted(edges, rows.score, side="right")
    found: list[list[JSON]] = [[] for _ in groups.names]
    bins = len(edges) + 1
    inside = groups.codes >= 0
    cell = groups.codes[inside] * bins + part[inside]
    size = len(groups.names) * bins
    counts = np.bincount(cell, minlength=size)
    expected = np.bincount(cell, rows.score[inside], minlength=size)
    observed = np.bincount(cell, rows.truth[inside], minlength=size)
    for at in np.flatnonzero(counts >= MIN_CASES).tolist():
        seen = wilson(float(observed[at]), int(counts[at]), Z)
        bounds = {"observed": seen.value, "low": seen.low, "high": seen.high}
        mean = float(expected[at] / counts[at])
        found[at // bins].append({"expected": mean, **bounds, "rows": int(counts[at])})
    return found
