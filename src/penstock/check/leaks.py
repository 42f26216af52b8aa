"""Columns that know too much: copies of the answer, one too strong column, row numbers.

Everything is asked of the evaluation rows alone, whose columns are those that callers will send:
a column that gives the answer away there gives it away in training too. `copies` is about
certainty, `too_good` about suspicion, `row_numbers` about columns that name a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from penstock.check.answers import class_texts
from penstock.domain import JSON, Verdict

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

CERTAIN, SUSPICIOUS = 0.999, 0.98
"""Strength of one column, as a lower bound of its interval, that fails and that asks a person."""
ALONE = 1.75
"""A column that is this many times as strong as the next best asks a person, too ..."""
ALONE_LEAST = {"classification": 0.5, "regression": 0.9}
"""... if it is at least this strong (2 AUC - 1; R²) ..."""
ALONE_COLUMNS = 5
"""... among at least so many columns: of two columns one is always the better."""
_BINS, _FOLDS, _PRIOR_ROWS = 50, 5, 5
_MOST_CATEGORIES = 100
_MOST_CLASSES = 20
_MOST_ROWS, _LEAST_ROWS = 20_000, 1_000
_WORK = 50_000_000
"""Rows x columns x classes that are looked at; more columns are looked at on fewer rows."""
_COPY_ROWS, _COPY_CASES = 30, 10
_LINEAR_COLUMNS, _LINEAR_CANDIDATES, _LINEAR_ROWS = 6, 300, 5_000
_EXACT = 1e-9
_NAMES_ROWS = 100
_Z = 1.96


class Finding(NamedTuple):
    """What one question found out."""

    verdict: Verdict
    summary: str
    evidence: JSON


class Strength(NamedTuple):
    """How well one column alone predicts the label, on rows that it was not fitted on."""

    column: str
    value: float
    """Two classes: AUC; more: the mean of each class's AUC; numbers: R²."""
    low: float
    high: float

    def signal(self, task: str) -> float:
        """Return it on a scale from 0 (nothing) to 1 (everything)."""
        return 2 * self.value - 1 if task == "classification" else self.value


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The label as these questions need it."""

    task: str
    codes: Codes
    """Class numbers, shape ``(n,)``; all 0 for numbers."""
    numbers: Floats
    """The label as a number; the class number for classes."""
    classes: int

    @classmethod
    def of(cls, label: NDArray[Any], task: str) -> Truth:
        """Read a label column, shape ``(n,)``, without nulls."""
        if task == "regression":
            numbers = label.astype(np.float64)
            return cls(task, np.zeros(len(label), dtype=np.int64), numbers, 0)
        names, codes = np.unique(np.array(class_texts(label.tolist())), return_inverse=True)
        whole = codes.astype(np.int64)
        return cls(task, whole, whole.astype(np.float64), len(names))

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.codes)

    def take(self, rows: NDArray[np.intp]) -> Truth:
        """Return some of the rows."""
        return Truth(self.task, self.codes[rows], self.numbers[rows], self.classes)

    def cases(self) -> int:
        """Count the rows beside the most frequent class."""
        return len(self) - int(np.bincount(self.codes, minlength=1).max())


def readable(features: pa.Table, names: Sequence[str]) -> list[str]:
    """Return the columns that hold one number, text or truth value a row."""
    kinds = (pt.is_integer, pt.is_floating, pt.is_boolean, pt.is_string, pt.is_large_string)
    return [
        name for name in names if any(kind(features.schema.field(name).type) for kind in kinds)
    ]


# ---- certainty: the answer itself ------------------------------------------------------------


def copies(features: pa.Table, names: Sequence[str], truth: Truth) -> Finding:
    """Look for columns that are the label: equal, one to one, monotone, or summing up to it.

    Parameters
    ----------
    features, names
        The evaluation rows and the columns that the model gets.
    truth
        The label of the same rows.

    Returns
    -------
    Finding
        Failed when a column, or a weighted sum of few, gives the exact label of every row.
        ``evidence["columns"]`` names them.
    """
    looked = readable(features, names)
    if len(truth) < _COPY_ROWS or (truth.task == "classification" and truth.cases() < _COPY_CASES):
        return Finding(Verdict.UNDECIDED, "too few rows, or of one class only, to tell", {})
    found = [name for name in looked if _is_copy(features.column(name), truth)]
    evidence: dict[str, Any] = {"columns": found, "rows": len(truth), "looked_at": len(looked)}
    if found:
        shown = " and ".join(f'"{name}"' for name in found[:3])
        summary = f"{shown} gives the right answer away in every row"
        return Finding(Verdict.FAILED, summary, evidence)
    if truth.task == "regression":
        parts = _sum_of(features, looked, truth.numbers)
        if parts:
            evidence |= {"columns": [name for name, _ in parts], "weights": dict(parts)}
            return Finding(Verdict.FAILED, f"the right answer is exactly {_sum(parts)}", evidence)
    return Finding(Verdict.PASSED, f"none of {len(looked)} columns is the right answer", evidence)


def _is_copy(column: pa.ChunkedArray, truth: Truth) -> bool:
    if truth.task == "regression":
        numbers = _numbers(column)
        return numbers is not None and _monotone(numbers, truth.numbers)
    values = _exact_codes(column)
    counts = np.bincount(values)
    repeated = counts[values] >= 2
    if repeated.mean() < 0.95 or len(counts) > len(values) / 5:
        return False
    table = np.zeros((len(counts), truth.classes), dtype=np.int64)
    np.add.at(table, (values, truth.codes), 1)
    return int(table.max(axis=1).sum()) == len(values)


def _monotone(numbers: Floats, label: Floats) -> bool:
    """Say whether equal numbers have equal labels, and greater ones always greater (or less)."""
    if not np.isfinite(numbers).all():
        return False
    distinct, first, place = np.unique(numbers, return_index=True, return_inverse=True)
    values = label[first]
    if len(distinct) < 3 or not (values[place] == label).all():
        return False
    steps = np.diff(values)
    return bool((steps > 0).all() or (steps < 0).all())


def _sum_of(features: pa.Table, names: Sequence[str], label: Floats) -> list[tuple[str, float]]:
    """Return the few columns and weights that sum up to the label exactly, if there are such.

    Orthogonal matching pursuit: the column most correlated with what is left joins, until
    nothing is left or too many columns have joined.
    """
    rows = slice(0, _LINEAR_ROWS)
    columns: dict[str, Floats] = {}
    for name in names[:_LINEAR_CANDIDATES]:
        numbers = _numbers(features.column(name))
        if numbers is None or not np.isfinite(numbers[rows]).all() or np.ptp(numbers[rows]) == 0:
            continue
        columns[name] = numbers[rows]
    wanted = label[rows]
    spread = float(((wanted - wanted.mean()) ** 2).sum())
    if not columns or spread == 0:
        return []
    matrix = np.column_stack(list(columns.values()))
    scaled = (matrix - matrix.mean(axis=0)) / matrix.std(axis=0)
    chosen: list[int] = []
    left = wanted - wanted.mean()
    while len(chosen) < min(_LINEAR_COLUMNS, matrix.shape[1], len(wanted) // 5):
        chosen.append(int(np.argmax(np.abs(scaled.T @ left))))
        design = np.column_stack([matrix[:, chosen], np.ones(len(wanted))])
        weights, *_ = np.linalg.lstsq(design, wanted)
        left = wanted - design @ weights
        if float(left @ left) <= _EXACT * spread:
            heads = list(columns)
            return [
                (heads[index], float(weight))
                for index, weight in zip(chosen, weights[:-1], strict=True)
            ]
    return []


def _sum(parts: Sequence[tuple[str, float]]) -> str:
    def one(name: str, weight: float) -> str:
        return name if abs(weight - 1) < 1e-6 else f"{weight:.6g} × {name}"

    return " + ".join(one(name, weight) for name, weight in parts)


# ---- suspicion: one column alone -------------------------------------------------------------


def strengths(features: pa.Table, names: Sequence[str], truth: Truth) -> list[Strength]:
    """Measure each column alone, best first.

    A number is cut into up to 50 bins between quantiles, a text is its own bin, missing is one
    too; texts that hardly ever return (sentences, names) are left out. Each bin answers with its
    mean label in the other four fifths of the rows, drawn a little towards the mean of all.
    Intervals: DeLong for an AUC, the normal law for R².
    """
    looked = readable(features, names)
    classes = 1 if truth.classes <= 2 else min(truth.classes, _MOST_CLASSES)
    most = _WORK // max(len(looked) * classes, 1)
    rows = _some(len(truth), min(_MOST_ROWS, max(_LEAST_ROWS, most)))
    table, part = features.select(looked).take(rows), truth.take(rows)
    measure = _class_strength if truth.task == "classification" else _number_strength
    found: list[Strength] = []
    for name in looked:
        bins = _bins(table.column(name))
        measured = None if bins is None else measure(name, bins, part)
        if measured is not None:
            found.append(measured)
    return sorted(found, key=lambda one: one.value, reverse=True)


def too_good(
    found: Sequence[Strength], task: str, *, model: tuple[float, float] | None
) -> Finding:
    """Judge the strongest column.

    Parameters
    ----------
    found
        From `strengths`.
    model
        Lower and upper bound of the model itself by the same measure; None where unknown.

    Returns
    -------
    Finding
        Failed when the column alone is right practically always. Undecided (a person knows
        whether the value is there when the model is asked) from an AUC or R² of .98 on, when
        it is provably better than a model that learned something, or strong and far ahead of
        all others.
    """
    if not found:
        reading = {"reading": "not asked"}
        return Finding(Verdict.PASSED, "no column can be asked alone on these rows", reading)
    best, second = found[0], found[1] if len(found) > 1 else None
    word = "AUC" if task == "classification" else "R²"
    told = f'"{best.column}" alone reaches {word} {best.value:.3f}'
    told += f" ({best.low:.3f} to {best.high:.3f})"
    evidence: dict[str, Any] = {
        "column": best.column,
        "metric": word,
        "value": best.value,
        "low": best.low,
        "high": best.high,
        "limit": SUSPICIOUS,
        "next": None if second is None else {"column": second.column, "value": second.value},
        "model": None if model is None else {"low": model[0], "high": model[1]},
        "columns": [{"column": one.column, "value": one.value} for one in found[:10]],
    }
    if len(found) == 1:
        return Finding(Verdict.PASSED, f"{told}; it is the only column", evidence)
    if best.low >= CERTAIN:
        reading = {"reading": "gives the answer away"}
        return Finding(Verdict.FAILED, f"{told}: no model is needed", evidence | reading)
    why = _suspicion(best, second, len(found), task, model)
    if why:
        ask = "is it known when the model is asked?"
        return Finding(Verdict.UNDECIDED, f"{told}, {why}: {ask}", evidence | {"reading": why})
    return Finding(Verdict.PASSED, told, evidence)


def _suspicion(
    best: Strength,
    second: Strength | None,
    columns: int,
    task: str,
    model: tuple[float, float] | None,
) -> str:
    if best.low >= SUSPICIOUS:
        return "almost perfect"
    chance = 0.5 if task == "classification" else 0.0
    if model is not None and model[0] > chance and best.low > model[1]:
        return f"more than the whole model with {(model[0] + model[1]) / 2:.3f}"
    if second is None or columns < ALONE_COLUMNS or best.value == second.value:
        return ""
    reach = (best.value - best.low) * (2 if task == "classification" else 1)
    strong, rest = best.signal(task), max(second.signal(task), 0.0)
    if strong >= ALONE_LEAST[task] and strong - reach > ALONE * rest:
        return f'far ahead of the next best, "{second.column}" with {second.value:.3f}'
    return ""


def _class_strength(name: str, bins: Codes, truth: Truth) -> Strength | None:
    counts = np.bincount(truth.codes, minlength=truth.classes)
    judged = [
        number
        for number in np.argsort(-counts, kind="stable")[:_MOST_CLASSES].tolist()
        if 2 <= counts[number] <= len(truth) - 2
    ]
    if not judged:
        return None
    judged = judged[-1:] if truth.classes == 2 else judged
    cells, size = _cells(bins)
    rows = np.bincount(cells, minlength=_FOLDS * size)
    found = [
        binned_auc(_cell_means(rows, cases, size).ravel(), cases, rows - cases)
        for number in judged
        for cases in [np.bincount(cells[truth.codes == number], minlength=_FOLDS * size)]
    ]
    value, reach = (float(of) for of in np.mean(found, axis=0))
    reach *= _Z
    return Strength(name, value, max(value - reach, 0.0), min(value + reach, 1.0))


def binned_auc(scores: Floats, positive: Codes, negative: Codes) -> tuple[float, float]:
    """Compute an AUC and its standard error from counts, by DeLong.

    Parameters
    ----------
    scores
        Of each bin, shape ``(bins,)``; bins with equal scores are ties.
    positive, negative
        Rows of the two classes per bin, shape ``(bins,)``; at least two of each class.

    Examples
    --------
    >>> area, se = binned_auc(np.array([0.1, 0.9]), np.array([1, 9]), np.array([8, 2]))
    >>> round(area, 3), round(se, 3)
    (0.85, 0.083)
    """
    _, place = np.unique(scores, return_inverse=True)
    m, n = np.bincount(place, weights=positive), np.bincount(place, weights=negative)
    above = (np.cumsum(n) - n / 2) / n.sum()
    below = 1 - (np.cumsum(m) - m / 2) / m.sum()
    area = float(above @ m / m.sum())
    spread = float((above - area) ** 2 @ m / (m.sum() - 1) / m.sum())
    spread += float((below - area) ** 2 @ n / (n.sum() - 1) / n.sum())
    return area, math.sqrt(spread)


def _number_strength(name: str, bins: Codes, truth: Truth) -> Strength | None:
    label = truth.numbers
    spread = (label - label.mean()) ** 2
    if float(spread.mean()) == 0:
        return None
    cells, size = _cells(bins)
    rows = np.bincount(cells, minlength=_FOLDS * size)
    sums = np.bincount(cells, weights=label, minlength=_FOLDS * size)
    told = _cell_means(rows, sums, size).ravel()[cells]
    gain = (spread - (label - told) ** 2) / float(spread.mean())
    reach = _Z * float(gain.std(ddof=1)) / math.sqrt(len(gain))
    value = float(gain.mean())
    return Strength(name, value, value - reach, min(value + reach, 1.0))


def _cells(bins: Codes) -> tuple[Codes, int]:
    """Cross folds with bins: the cell of each row, and the bins of a fold."""
    fold = np.random.default_rng(0).permutation(len(bins)) % _FOLDS
    size = int(bins.max()) + 1
    return fold * size + bins, size


def _cell_means(rows: NDArray[Any], sums: NDArray[Any], size: int) -> Floats:
    """Predict each cell by the mean label of its bin in the other folds; ``(folds, bins)``."""
    rows, sums = rows.reshape(_FOLDS, size), sums.reshape(_FOLDS, size)
    others, total = rows.sum(axis=0) - rows, sums.sum(axis=0) - sums
    mean = total.sum(axis=1, keepdims=True) / np.maximum(others.sum(axis=1, keepdims=True), 1)
    return cast("Floats", (total + mean * _PRIOR_ROWS) / (others + _PRIOR_ROWS))


def _bins(column: pa.ChunkedArray) -> Codes | None:
    numbers = _numbers(column)
    if numbers is None:
        codes = _exact_codes(column)
        if int(codes.max()) >= len(codes) / 2:
            return None
        order = np.argsort(-np.bincount(codes), kind="stable")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return np.minimum(rank[codes], _MOST_CATEGORIES)
    known = np.isfinite(numbers)
    if not known.any():
        return np.zeros(len(numbers), dtype=np.int64)
    inner = np.linspace(0, 1, _BINS + 1)[1:-1]
    edges = np.unique(np.quantile(numbers[known], inner, method="lower"))
    codes = np.searchsorted(edges, numbers, side="left").astype(np.int64)
    codes[~known] = len(edges) + 1
    return codes


# ---- row numbers -----------------------------------------------------------------------------


def row_numbers(features: pa.Table, names: Sequence[str]) -> Finding:
    """Look for columns that name a row instead of saying something of it.

    Whole numbers, none of them twice and evenly spread as a counter's are, or short texts
    without a blank, none of them twice: such a column tells a model when and where a row was
    written down. A person is asked, since an amount can look so by chance.
    """
    rows = features.num_rows
    if rows < _NAMES_ROWS:
        summary = f"{rows} rows are too few to tell a row number; {_NAMES_ROWS} needed"
        return Finding(Verdict.PASSED, summary, {"rows": rows, "reading": "not asked"})
    found = [name for name in readable(features, names) if names_rows(features.column(name))]
    evidence = {"columns": found, "rows": rows}
    if found:
        shown = " and ".join(f'"{name}"' for name in found[:3])
        summary = f"{shown} names a row, as a counter or an id does; leave it out of training"
        return Finding(Verdict.UNDECIDED, summary, evidence)
    return Finding(Verdict.PASSED, "no column of the model is a row number or an id", evidence)


def names_rows(column: pa.ChunkedArray) -> bool:
    """Say whether a column names rows; see `row_numbers`."""
    rows, kind = len(column), column.type
    if not (pt.is_integer(kind) or pt.is_string(kind) or pt.is_large_string(kind)):
        return False
    if rows < _NAMES_ROWS or column.null_count or pc.count_distinct(column).as_py() != rows:
        return False
    if pt.is_integer(column.type):
        sorted_ = np.sort(cast("NDArray[np.int64]", column.to_numpy())).astype(np.float64)
        span = sorted_[-1] - sorted_[0]
        even = (sorted_ - sorted_[0]) / span
        expected = np.linspace(0, 1, rows)
        # 1.63 / sqrt(n) is the 1 % point of Kolmogorov's distance from even spread.
        return bool(span <= 100 * rows and np.abs(even - expected).max() < 1.63 / math.sqrt(rows))
    texts = cast("list[str]", column.slice(0, 2000).to_pylist())
    return all(0 < len(text) <= 64 and not any(map(str.isspace, text)) for text in texts)


# ---- columns as arrays -----------------------------------------------------------------------


def _numbers(column: pa.ChunkedArray) -> Floats | None:
    """Read a column of numbers or truth values, missing as NaN; None for text."""
    kind = column.type
    if pt.is_string(kind) or pt.is_large_string(kind):
        return None
    if pt.is_boolean(kind):
        column = column.cast(pa.int8())
    numbers = column.cast(pa.float64(), safe=False)
    return cast("Floats", numbers.to_numpy(zero_copy_only=False))


def _exact_codes(column: pa.ChunkedArray) -> Codes:
    """Give each value of a column a number; missing is a value of its own."""
    coded: Any = pc.dictionary_encode(column, null_encoding="encode")
    return cast("Codes", coded.combine_chunks().indices.to_numpy(zero_copy_only=False)).astype(
        np.int64
    )


def _some(count: int, most: int) -> NDArray[np.intp]:
    """Return the numbers of at most `most` of `count` rows, in order and always the same."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))
