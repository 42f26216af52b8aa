"""Columns that tell the same: found by rank correlation, so that twins are shuffled together.

Shuffled alone, neither of two twins is missed: the model reads the other one. Text is put in
order by the mean answer of its categories, so that a code and its name are found to be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from numpy.typing import NDArray
from scipy import stats
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

Floats = NDArray[np.float64]
ALIKE = 0.7
"""Least mean rank correlation, by size, within a group."""
_ROWS_A_NAME = 10
"""A text column with fewer rows a distinct value orders nothing: it is a name or free text."""
_MOST_COLUMNS = 500


def kind_of(column: pa.ChunkedArray, *, rows_a_name: int = _ROWS_A_NAME) -> str:
    """Return ``number``, ``category``, ``text`` (names, free text) or ``other`` (a tensor)."""
    if pt.is_boolean(column.type):
        return "category"
    if pt.is_integer(column.type) or pt.is_floating(column.type):
        return "number"
    if not (pt.is_string(column.type) or pt.is_large_string(column.type)):
        return "other"
    distinct = len(column.unique())
    return "category" if distinct * rows_a_name <= len(column) else "text"


def as_floats(column: pa.ChunkedArray) -> Floats:
    """Return a number column as floats, missing as NaN."""
    return cast("Floats", cast("Any", column).cast(pa.float64()).to_numpy())


def names_of(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a category column's values as text; missing is ``missing``."""
    values = column.to_pylist()
    return np.array(["missing" if v is None else str(v) for v in values], dtype=object)


def alike(table: pa.Table, answers: Floats) -> list[tuple[tuple[str, ...], float]]:
    """Group columns whose ranks go together.

    Parameters
    ----------
    table
        The rows.
    answers
        One number a row, shape ``(n,)``; puts categories in an order.

    Returns
    -------
    list
        Groups of two and more columns in the table's order, each with the least absolute rank
        correlation between any two of its columns, from 0 to 1.
    """
    names, coded = _codes(table, answers)
    if len(names) < 2:
        return []
    ranks = np.stack([stats.rankdata(one) for one in coded])
    correlation = np.abs(np.corrcoef(ranks))
    distance = np.clip(1 - (correlation + correlation.T) / 2, 0.0, 1.0)
    np.fill_diagonal(distance, 0.0)
    linkage = cast("Any", hierarchy).linkage
    tree = linkage(squareform(distance, checks=False), method="average")
    number = hierarchy.fcluster(tree, t=1 - ALIKE, criterion="distance")
    groups: list[tuple[tuple[str, ...], float]] = []
    for one in dict.fromkeys(number.tolist()):
        at = np.flatnonzero(number == one)
        if len(at) > 1:
            least = float(correlation[np.ix_(at, at)].min())
            groups.append((tuple(names[index] for index in at), least))
    return groups


def _codes(table: pa.Table, answers: Floats) -> tuple[list[str], list[Floats]]:
    names: list[str] = []
    coded: list[Floats] = []
    for name in table.column_names[:_MOST_COLUMNS]:
        column = table.column(name)
        kind = kind_of(column)
        if kind == "number":
            values = as_floats(column)
            known = values[np.isfinite(values)]
            code = np.where(np.isfinite(values), values, np.median(known) if len(known) else 0.0)
        elif kind == "category":
            code = _by_answer(names_of(column), answers)
        else:
            continue
        if code.size and np.ptp(code) > 0:
            names.append(name)
            coded.append(code)
    return names, coded


def _by_answer(names: NDArray[Any], answers: Floats) -> Floats:
    _, place = np.unique(names.astype(str), return_inverse=True)
    mean = np.bincount(place, weights=answers) / np.bincount(place)
    return mean[place]


def grouped(groups: Sequence[tuple[tuple[str, ...], float]], column: str) -> int | None:
    """Return the number of the group that holds a column."""
    return next((n for n, (columns, _) in enumerate(groups) if column in columns), None)
