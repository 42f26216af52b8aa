"""Fairness: are groups of people treated alike?

Values come from `fairlearn.metrics`; intervals are our own. The largest difference between any
two groups is what the limit speaks of, and its interval looks at all pairs at once, so that many
small groups do not look unfair by chance. A group with fewer than 100 rows, or with too few
cases of a kind, is listed and not judged: undecided before failed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import fairlearn.metrics as fm
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import norm

from penstock.check.answers import Answers, numeric
from penstock.check.evaluation import Evaluation
from penstock.check.measures import class_names
from penstock.check.measures import rows as rows_of
from penstock.domain import JSON, CheckResult, Verdict

MIN_ROWS = 100
MIN_CASES = 10
FOUR_FIFTHS = 0.8
_MOST_VALUES = 10
"""A numeric column with more distinct values is cut at its quartiles."""
_ALPHA = 0.05

QUESTIONS = {
    "demographic_parity": "Do groups get a yes equally often?",
    "equalized_odds": "Are errors spread alike over groups?",
    "accuracy": "Is it right equally often for every group?",
    "mean_error": "Is it off by the same in every group?",
}
REPORT_QUESTIONS = {
    "demographic_parity": "How far apart are groups in getting a yes?",
    "equalized_odds": "How far apart are groups in getting errors?",
    "accuracy": "How far apart are groups in getting a right answer?",
    "mean_error": "How far apart are groups in their mean error?",
    "four_fifths": "How does each group's yes compare with the best group's?",
}
"""Asked where no limit is set: "passed" then only says that the answer is known."""


@dataclass(frozen=True, slots=True)
class FairnessReport:
    """What was found for every sensitive column."""

    results: list[CheckResult]
    """``fairness.<measure>.<column>``."""
    groups: JSON
    """``{"columns": [{"column", "groups": [...], "differences": {...}}]}``, for the page."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value between two bounds, 95 %."""

    value: float
    low: float
    high: float

    def as_json(self) -> JSON:
        """Return it as plain JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Ratio:
    """A group's selection rate over the highest group's."""

    group: str
    share: Interval
    p_fair: float
    """One-sided p-value of "it is at least four fifths"."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Labels and answers in the form that one kind of task needs, and who is in which group."""

    truth: NDArray[np.float64]
    predicted: NDArray[np.float64]
    """For two classes 1 means positive; for more, `truth` is 1 and this says right or wrong."""
    group: NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Measure:
    """One number per group: a rate, or a mean error."""

    name: str
    cases: Callable[[Rows], NDArray[np.bool_]]
    """Which rows count."""
    function: Callable[..., float]
    """As Fairlearn wants it: ``(y_true, y_pred) -> float``."""


def _every(rows: Rows) -> NDArray[np.bool_]:
    return np.ones(len(rows.truth), dtype=np.bool_)


def _mean_error(y_true: NDArray[np.float64], y_pred: NDArray[np.float64]) -> float:
    return float(np.mean(np.asarray(y_pred) - np.asarray(y_true)))


_SELECTED = _Measure("selection_rate", _every, cast("Callable[..., float]", fm.selection_rate))
_FOUND = _Measure(
    "tpr", lambda rows: rows.truth == 1, cast("Callable[..., float]", fm.true_positive_rate)
)
_ALARMED = _Measure(
    "fpr", lambda rows: rows.truth == 0, cast("Callable[..., float]", fm.false_positive_rate)
)
_RIGHT = _Measure("accuracy", _every, cast("Callable[..., float]", fm.selection_rate))
_ERROR = _Measure("mean_error", _every, _mean_error)


def fairness(
    evaluation: Evaluation,
    labels: NDArray[Any],
    answers: Answers,
    *,
    task: str,
    metric: str = "demographic_parity_difference",
    maximum: float | None = None,
) -> FairnessReport:
    """Compare the groups of every sensitive column.

    Parameters
    ----------
    evaluation
        Its ``sensitive`` columns, in the same rows as `labels` and `answers`.
    task
        ``classification`` or ``regression``. With two classes rates of the positive one are
        compared; with more, how often each group is answered rightly; for numbers, the mean
        error, in units of the label.
    metric
        ``demographic_parity_difference`` or ``equalized_odds_difference``; for two classes only.
    maximum
        Greatest difference that passes. None makes a report: it can be undecided, never failed.
    """
    results: list[CheckResult] = []
    columns: list[JSON] = []
    for name in evaluation.sensitive.column_names:
        rows = _rows(labels, answers, group_names(evaluation.sensitive.column(name)), task)
        measures = _measures(labels, answers, task)
        found = _Column(name, rows, measures, _wanted(measures, metric), maximum)
        columns.append(found.as_json())
        results.append(found.difference_result())
        if _SELECTED in measures:
            results.append(found.four_fifths_result())
    return FairnessReport(results, {"columns": columns})


def group_names(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return each row's group as text; many numbers become quartiles, null ``missing``.

    Examples
    --------
    >>> sorted(set(group_names(pa.chunked_array([list(range(12))])).tolist()))
    ['0 to 2', '3 to 5', '6 to 8', '9 to 11']
    """
    values = np.array(column.to_pylist(), dtype=object)
    missing = np.array([value is None for value in values], dtype=np.bool_)
    names = np.full(len(values), "missing", dtype=object)
    present = values[~missing]
    numbers = np.array(present.tolist())
    if numeric(numbers) and len(np.unique(numbers)) > _MOST_VALUES:
        names[~missing] = _quartiles(numbers)
    else:
        names[~missing] = [str(value) for value in present]
    return names


def _quartiles(numbers: NDArray[Any]) -> list[str]:
    edges = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75]))
    part = np.searchsorted(edges, numbers, side="left")
    spans = {
        int(index): f"{numbers[part == index].min():g} to {numbers[part == index].max():g}"
        for index in np.unique(part)
    }
    return [spans[int(index)] for index in part]


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


def _rows(labels: NDArray[Any], answers: Answers, group: NDArray[Any], task: str) -> Rows:
    names = () if task == "regression" else class_names(labels, answers)
    judged = rows_of(labels, answers, names=names)
    if task == "regression":
        return Rows(judged.truth, judged.prediction, group)
    if judged.n_classes == 2:
        # Of two classes, `rows_of` gives number 1 to the positive one.
        return Rows((judged.truth == 1) * 1.0, (judged.prediction == 1) * 1.0, group)
    right = (judged.truth == judged.prediction) * 1.0
    return Rows(np.ones(len(judged)), right, group)


def _measures(labels: NDArray[Any], answers: Answers, task: str) -> tuple[_Measure, ...]:
    if task == "regression":
        return (_ERROR,)
    two = len(class_names(labels, answers)) == 2
    return (_SELECTED, _FOUND, _ALARMED) if two else (_RIGHT,)


def _wanted(measures: tuple[_Measure, ...], metric: str) -> str:
    if _SELECTED in measures:
        return metric.removesuffix("_difference")
    return measures[0].name


class _Column:
    """One sensitive column: its groups, their rates, and the differences between them."""

    def __init__(
        self,
        name: str,
        rows: Rows,
        measures: tuple[_Measure, ...],
        wanted: str,
        maximum: float | None,
    ) -> None:
        self.name, self.rows, self.wanted, self.maximum = name, rows, wanted, maximum
        self.groups = cast("list[str]", sorted(set(rows.group.tolist())))
        self.values = {measure.name: self._values(measure) for measure in measures}
        self.counts = {measure.name: self._counts(measure.cases(rows)) for measure in measures}
        self.judged = {measure.name: self._judged(measure) for measure in measures}

    def _values(self, measure: _Measure) -> Mapping[str, float]:
        counted = measure.cases(self.rows)
        if not counted.any():
            return {}
        frame = fm.MetricFrame(
            metrics=measure.function,
            y_true=self.rows.truth[counted],
            y_pred=self.rows.predicted[counted],
            sensitive_features=self.rows.group[counted],
        )
        by_group = cast("Mapping[str, float]", cast("Any", frame.by_group).to_dict())
        return {str(group): float(value) for group, value in by_group.items()}

    def _counts(self, counted: NDArray[np.bool_]) -> Mapping[str, int]:
        return {group: int((counted & (self.rows.group == group)).sum()) for group in self.groups}

    def _judged(self, measure: _Measure) -> list[str]:
        """Name the groups with enough rows, and enough cases of the kind that is counted."""
        everyone = self._counts(_every(self.rows))
        few = {group for group in self.groups if everyone[group] < MIN_ROWS}
        if measure in {_SELECTED, _FOUND, _ALARMED}:
            positives = self._counts(self.rows.truth == 1)
            few |= {group for group in self.groups if positives[group] < MIN_CASES}
        counts = self.counts[measure.name]
        return [group for group in self.groups if group not in few and counts[group] >= MIN_CASES]

    def _interval(self, measure: str, group: str, z: float) -> Interval:
        value, count = self.values[measure][group], self.counts[measure][group]
        if measure != "mean_error":
            return wilson(value * count, count, z)
        half = z * self._error_se(group)
        return Interval(value, value - half, value + half)

    def _error_se(self, group: str) -> float:
        inside = self.rows.group == group
        error = self.rows.predicted[inside] - self.rows.truth[inside]
        return float(error.std(ddof=1)) / math.sqrt(len(error))

    def difference(self, names: Sequence[str]) -> Interval | None:
        """Return the largest difference between two groups in any of some measures.

        Every pair of groups gets an interval that is right for all pairs at once
        (Bonferroni); the largest lower and the largest upper bound then hold the largest true
        difference. None where no two groups can be judged.
        """
        pairs = [
            (name, first, second)
            for name in names
            for first, second in itertools.combinations(self.judged[name], 2)
        ]
        if not pairs:
            return None
        z = float(norm.isf(_ALPHA / 2 / len(pairs)))
        found = [self._pair(name, first, second, z) for name, first, second in pairs]
        return Interval(
            max(one.value for one in found),
            max(one.low for one in found),
            max(one.high for one in found),
        )

    def _pair(self, name: str, first: str, second: str, z: float) -> Interval:
        """Newcombe's interval of a difference that is turned to be positive."""
        one, two = self._interval(name, first, z), self._interval(name, second, z)
        if one.value < two.value:
            one, two = two, one
        value = one.value - two.value
        down = math.hypot(one.value - one.low, two.high - two.value)
        up = math.hypot(one.high - one.value, two.value - two.low)
        return Interval(value, max(0.0, value - down), value + max(up, down - 2 * value))

    def ratios(self) -> list[Ratio]:
        """Compare each judged group's selection rate with the highest group's."""
        rates, counts = self.values["selection_rate"], self.counts["selection_rate"]
        ordered = sorted(self.judged["selection_rate"], key=lambda group: -rates[group])
        if len(ordered) < 2 or rates[ordered[0]] == 0:
            return []
        best = ordered[0]
        return [
            rate_ratio(group, (rates[group], counts[group]), (rates[best], counts[best]))
            for group in ordered[1:]
        ]

    def as_json(self) -> JSON:
        """Return what the page draws."""
        everyone = self._counts(_every(self.rows))
        differences = {name: self.difference(parts) for name, parts in self._families().items()}
        return {
            "column": self.name,
            "measure": self.wanted,
            "limit": self.maximum,
            "groups": [self._group_json(group, everyone[group]) for group in self.groups],
            "differences": {
                name: None if one is None else one.as_json() for name, one in differences.items()
            },
        }

    def _group_json(self, group: str, rows: int) -> JSON:
        judged = all(group in names for names in self.judged.values())
        return {
            "group": group,
            "rows": rows,
            "judged": judged,
            **{
                name: self._interval(name, group, 1.96).as_json()
                if self.counts[name][group] >= 2
                else None
                for name in self.values
            },
        }

    def _families(self) -> dict[str, tuple[str, ...]]:
        if "selection_rate" not in self.values:
            return {name: (name,) for name in self.values}
        return {"demographic_parity": ("selection_rate",), "equalized_odds": ("tpr", "fpr")}

    def _not_judged(self) -> list[str]:
        parts = self._families()[self.wanted]
        return [
            group for group in self.groups if any(group not in self.judged[part] for part in parts)
        ]

    def _evidence(self, measure: str) -> dict[str, Any]:
        asked = (
            QUESTIONS if self.maximum is not None and measure in QUESTIONS else REPORT_QUESTIONS
        )
        return {
            "question": asked[measure],
            "column": self.name,
            "rows": len(self.rows.truth),
            "not_judged": self._not_judged(),
        }

    def difference_result(self) -> CheckResult:
        """Judge the difference that the limit speaks of."""
        found = self.difference(self._families()[self.wanted])
        name, evidence = f"fairness.{self.wanted}.{self.name}", self._evidence(self.wanted)
        evidence |= {"limit": self.maximum, **self.as_json()}
        if found is None:
            needs = f"two groups with {MIN_ROWS} rows and {MIN_CASES} cases are needed"
            evidence["reading"] = "few cases"
            return CheckResult(name, Verdict.UNDECIDED, f"{self.name}: {needs}", evidence)
        verdict, sign, reading = self._judge(found)
        evidence |= {**found.as_json(), "reading": reading}
        limit = "" if self.maximum is None else f" {sign} {self.maximum:g}"
        summary = (
            f"{self.name}: largest difference {found.value:.3g}{limit}"
            f" (95 % {found.low:.3g} to {found.high:.3g})"
        )
        small = evidence["not_judged"]
        if small:
            summary += f"; too few to judge: {', '.join(small[:5])}"
        return CheckResult(name, verdict, summary, evidence)

    def _judge(self, found: Interval) -> tuple[Verdict, str, str]:
        if self.maximum is None:
            return Verdict.PASSED, "", "reported"
        if found.high <= self.maximum:
            return Verdict.PASSED, "<=", "within the limit"
        if found.low > self.maximum:
            return Verdict.FAILED, ">", "over the limit"
        return Verdict.UNDECIDED, "against", "too close to the limit"

    def four_fifths_result(self) -> CheckResult:
        """Report the lowest ratio to the best group; by custom 0.8 is asked, here nothing is."""
        name, evidence = f"fairness.four_fifths.{self.name}", self._evidence("four_fifths")
        ratios = self.ratios()
        if not ratios:
            evidence["reading"] = "few cases"
            summary = f"{self.name}: no two groups can be compared"
            return CheckResult(name, Verdict.UNDECIDED, summary, evidence)
        worst = min(ratios, key=lambda one: one.share.value)
        rule = four_fifths(ratios)
        evidence |= {**worst.share.as_json(), "group": worst.group, "reading": "reported"}
        evidence["four_fifths"] = rule.value
        words = {
            Verdict.PASSED: "at least four fifths",
            Verdict.FAILED: "provably under four fifths",
            Verdict.UNDECIDED: "four fifths can be neither shown nor excluded",
        }
        share = f"{worst.share.value:.2f} of the best group's rate"
        summary = f"{self.name}: {worst.group} has {share}; {words[rule]}"
        return CheckResult(name, Verdict.PASSED, summary, evidence)


def rate_ratio(group: str, own: tuple[float, int], best: tuple[float, int]) -> Ratio:
    """Compare two groups' ``(rate, rows)`` by the logarithm of their ratio (Katz).

    A rate of 0 has no logarithm: half a row stands in for none, and the lower bound is 0.
    """
    (rate, rows), (best_rate, best_rows) = own, best
    seen = max(rate, 0.5 / rows)
    variance = (1 - best_rate) / (best_rows * best_rate) + (1 - seen) / (rows * seen)
    centre, se = math.log(seen / best_rate), math.sqrt(variance)
    low = 0.0 if rate == 0 else math.exp(centre - 1.96 * se)
    share = Interval(rate / best_rate, low, math.exp(centre + 1.96 * se))
    far = (centre - math.log(FOUR_FIFTHS)) / se if se > 0 else math.inf
    return Ratio(group, share, float(norm.cdf(far)))


def four_fifths(ratios: Sequence[Ratio]) -> Verdict:
    """Judge all groups: failed when one is provably under (Holm), passed when all are clear."""
    # Holm's first step decides whether any group is under: the smallest p-value against alpha/m.
    if min(one.p_fair for one in ratios) < _ALPHA / 2 / len(ratios):
        return Verdict.FAILED
    clear = all(one.share.low >= FOUR_FIFTHS for one in ratios)
    return Verdict.PASSED if clear else Verdict.UNDECIDED
