"""How the answer moves with one column.

Partial dependence: the column is set to each value in turn for the same rows, and answers are
averaged. Where a column goes together with others, that asks about rows that do not exist (a
small flat with nine rooms); there the accumulated local effects are drawn: within each small
interval only its own rows are moved, from one end to the other, and the steps are added up.

References
----------
J. Friedman, *Greedy Function Approximation*, 2001 (partial dependence). A. Goldstein et al.,
*Peeking Inside the Black Box*, 2015 (single rows). D. Apley and J. Zhu, *Visualizing the Effects
of Predictor Variables in Black Box Supervised Learning Models*, 2020 (ALE).
"""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import numpy as np
import pyarrow as pa

from penstock.check.explanation.asking import Floats, Meter, Target
from penstock.check.explanation.likeness import as_floats, kind_of, names_of
from penstock.domain import JSON

GRID = 16
NAMES = 12
_LINES = 8
"""Single rows that are drawn."""
_Z = 1.959964
"""Quantile .975 of the normal law."""


def partial(meter: Meter, target: Target, rows: pa.Table, name: str) -> JSON | None:
    """Draw the partial dependence on a number or a category; None for a constant column.

    Returns
    -------
    JSON
        ``x`` (numbers, or names), ``y``, ``low``, ``high``: the mean answer with a 95 % band of
        its shape, that is after each row's own level is taken out; ``lines``: the answers of a
        few single rows; ``counts``: rows at or around each value; ``of``: the class that the
        curve speaks of, the one that moves most.
    """
    column = rows.column(name)
    kind = kind_of(column)
    places = _numbers(column) if kind == "number" else _names(column)
    if len(places) < 2:
        return None
    found = np.stack(
        [meter.numbers(_with(rows, name, value), target) for value, _ in places], axis=1
    )  # rows x places x width
    at, of = _moving_most(found.mean(axis=0), target)
    answers = found[:, :, at]
    mean = answers.mean(axis=0)
    shape = answers - answers.mean(axis=1, keepdims=True)
    half = _Z * shape.std(axis=0, ddof=1) / np.sqrt(len(answers))
    lines = np.linspace(0, len(answers) - 1, min(_LINES, len(answers))).astype(int)
    return {
        "column": name,
        "kind": kind,
        "method": "partial dependence",
        "of": of,
        "rows": rows.num_rows,
        "x": [value for value, _ in places],
        "counts": [count for _, count in places],
        "y": mean.tolist(),
        "low": (mean - half).tolist(),
        "high": (mean + half).tolist(),
        "lines": answers[lines].tolist(),
    }


def accumulated(meter: Meter, target: Target, rows: pa.Table, name: str) -> JSON | None:
    """Draw the accumulated local effects of a number column; None for a constant one.

    Returns
    -------
    JSON
        As of `partial`, with ``y`` around the mean answer of the rows, a band by the spread of
        the steps within each interval, and no ``lines``.
    """
    values = as_floats(rows.column(name))
    known = np.flatnonzero(np.isfinite(values))
    edges = _edges(values[known])
    if len(edges) < 2:
        return None
    rows, values = rows.take(pa.array(known)), values[known]
    # Interval i holds edge[i] < value <= edge[i + 1]; the first one its lower edge, too.
    place = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, len(edges) - 2)
    lower = meter.numbers(_moved(rows, name, edges[place]), target)
    upper = meter.numbers(_moved(rows, name, edges[place + 1]), target)
    counts = np.bincount(place, minlength=len(edges) - 1)
    steps = np.zeros((len(edges) - 1, lower.shape[1]))
    spread = np.zeros_like(steps)
    for one in np.flatnonzero(counts):
        moved = (upper - lower)[place == one]
        steps[one] = moved.mean(axis=0)
        spread[one] = moved.var(axis=0, ddof=1) / len(moved) if len(moved) > 1 else moved[0] ** 2
    at, of = _moving_most(np.cumsum(steps, axis=0), target)
    curve, half = _centred(steps[:, at], spread[:, at], counts)
    curve += float((lower[:, at] + upper[:, at]).mean() / 2)
    return {
        "column": name,
        "kind": "number",
        "method": "accumulated local effects",
        "of": of,
        "rows": rows.num_rows,
        "x": edges.tolist(),
        "counts": [int(counts[0]), *counts.tolist()],
        "y": curve.tolist(),
        "low": (curve - half).tolist(),
        "high": (curve + half).tolist(),
        "lines": [],
    }


def _centred(steps: Floats, spread: Floats, counts: Any) -> tuple[Floats, Floats]:
    """Add steps up around a mean of 0 over the rows; return the curve and half its band."""
    size = len(steps)
    summed = np.vstack([np.zeros(size), np.tril(np.ones((size, size)))])
    # A row of interval i is taken halfway between the interval's ends.
    middle = (summed[:-1] + summed[1:]) / 2
    centred = summed - (counts / counts.sum()) @ middle
    return centred @ steps, _Z * np.sqrt(np.square(centred) @ spread)


def _moving_most(curves: Floats, target: Target) -> tuple[int, str | None]:
    """Return which number of the answer moves most, and its class."""
    at = int(np.argmax(np.ptp(curves[:, : target.width], axis=0)))
    return at, target.classes[at] if target.classes else None


def _numbers(column: pa.ChunkedArray) -> list[tuple[Any, int]]:
    values = as_floats(column)
    values = values[np.isfinite(values)]
    edges = _edges(values)
    if len(edges) < 2:
        return []
    near = np.abs(values[:, None] - edges[None, :]).argmin(axis=1)
    counts = np.bincount(near, minlength=len(edges))
    return list(zip(edges.tolist(), counts.tolist(), strict=True))


def _edges(values: Floats) -> Floats:
    """Return values to ask about: all of few, else quantiles without the outermost percents."""
    distinct = np.unique(values)
    if len(distinct) <= GRID:
        return distinct
    shares = np.linspace(0.02, 0.98, GRID)
    found = np.unique(np.quantile(values, shares, method="nearest"))
    # One value may hold most rows; the tail that it hides is looked at by itself.
    beyond = distinct[distinct > found[-1]] if len(found) < GRID // 2 else distinct[:0]
    if len(beyond):
        rest = np.quantile(beyond, np.linspace(0, 0.95, GRID // 2), method="nearest")
        found = np.unique(np.concatenate([found, rest]))
    return found


def _names(column: pa.ChunkedArray) -> list[tuple[Any, int]]:
    counted = Counter(map(str, names_of(column)))
    ordered = sorted(counted.items(), key=lambda one: (-one[1], one[0]))
    return ordered[:NAMES]


def _with(rows: pa.Table, name: str, value: object) -> pa.Table:
    """Set a column to one value in every row."""
    at = rows.column_names.index(name)
    kind = rows.column(name).type
    if pa.types.is_integer(kind):
        # A quantile of whole numbers is one of them.
        value = int(cast("float", value))
    elif pa.types.is_boolean(kind):
        value = None if value == "missing" else value == "True"
    elif value == "missing" and rows.column(name).null_count:
        value = None
    return rows.set_column(at, name, pa.repeat(pa.scalar(value, kind), rows.num_rows))


def _moved(rows: pa.Table, name: str, values: Floats) -> pa.Table:
    at = rows.column_names.index(name)
    kind = rows.column(name).type
    return rows.set_column(at, name, pa.array(values).cast(kind, safe=False))
