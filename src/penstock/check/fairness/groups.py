"""Who is in which group: values as they are, numbers in readable bands, columns crossed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.check.answers import numeric
from penstock.errors import StoppedError

MIN_ROWS = 100
"""A smaller group is listed, not judged."""
MOST_GROUPS = 50
"""The largest ones; how many more there are is said."""
MOST_INTERSECTIONS = 10
MISSING = "missing"
_MOST_VALUES = 10
"""A numeric column with more distinct values is cut into bands."""
_FEWEST_BANDS, _MOST_BANDS = 3, 8
_LARGEST_BAND = 0.5
"""Equal bands with more of the rows in one of them say little; quantiles are cut instead."""


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """The groups of one sensitive column, or of several crossed."""

    name: str
    of: tuple[str, ...]
    """The columns."""
    names: tuple[str, ...]
    """Of the groups, in the order of reading."""
    codes: NDArray[np.int64]
    """Which group each row is in, shape ``(n,)``; -1 for one beyond the largest groups."""
    beyond: int = 0
    """How many more groups there are."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each group."""
        inside = self.codes[self.codes >= 0]
        return np.bincount(inside, minlength=len(self.names)).astype(np.int64)


def grouping(name: str, column: pa.ChunkedArray, bands: Sequence[float] = ()) -> Grouping:
    """Group rows by one column.

    Many numbers become bands, null a group of its own. Lists are groups by what they hold.

    Parameters
    ----------
    bands
        Edges for a numeric column, rising; a band begins at its edge. Empty: chosen.

    Raises
    ------
    StoppedError
        PS351: bands are set for a column that holds no numbers.

    Examples
    --------
    >>> grouping("age", pa.chunked_array([list(range(18, 68))]), [30, 50]).names
    ('under 30', '30 to 49', '50 and over')
    """
    values = np.empty(len(column), dtype=object)
    values[:] = [_plain(value) for value in column.to_pylist()]
    missing = np.array([value is None for value in values], dtype=np.bool_)
    there: list[Any] = values[~missing].tolist()
    of_lists = any(isinstance(value, (list, tuple)) for value in there)
    numbers = np.array([] if of_lists else there)
    texts = np.full(len(values), MISSING, dtype=object)
    order: list[str] = []
    is_number = numeric(numbers) and len(numbers) > 0
    if bands and not is_number and there:
        raise StoppedError(
            "PS351",
            f'[fairness] bands names "{name}", which holds no numbers.',
            hint="Take it out of bands; the groups of such a column are its values.",
        )
    if is_number and (bands or len(np.unique(numbers)) > _MOST_VALUES):
        order, inside = _banded(numbers, tuple(bands) or _edges(numbers))
        texts[~missing] = inside
    else:
        spelled = [_spelled(value) for value in there]
        texts[~missing] = spelled
        order = _ordered(set(spelled), numbers if is_number else None)
        if MISSING in order:
            texts[missing] = "no value"
    order += [one for one in ("no value", MISSING) if one not in order and (texts == one).any()]
    place = {one: number for number, one in enumerate(order)}
    codes = np.array([place[one] for one in texts.tolist()], dtype=np.int64)
    return _largest(name, (name,), order, codes)


def crossed(groupings: Sequence[Grouping]) -> Grouping:
    """Group rows by several columns at once.

    Examples
    --------
    >>> sex = grouping("sex", pa.chunked_array([["f", "m", "f"]]))
    >>> old = grouping("old", pa.chunked_array([[True, False, False]]))
    >>> crossed([sex, old]).names
    ('f, False', 'f, True', 'm, False')
    """
    inside = np.all([one.codes >= 0 for one in groupings], axis=0)
    sizes = tuple(len(one.names) for one in groupings)
    cell = np.ravel_multi_index([one.codes[inside] for one in groupings], sizes)
    seen, codes_inside = np.unique(cell, return_inverse=True)
    codes = np.full(len(inside), -1, dtype=np.int64)
    codes[inside] = codes_inside
    places: list[list[int]] = np.column_stack(np.unravel_index(seen, sizes)).tolist()
    order = [
        ", ".join(one.names[at] for one, at in zip(groupings, place, strict=True))
        for place in places
    ]
    of = tuple(one.name for one in groupings)
    return _largest(" + ".join(of), of, order, codes)


def intersections(
    groupings: Mapping[str, Grouping], wanted: Sequence[Sequence[str]] | None
) -> tuple[list[Grouping], list[tuple[str, str]]]:
    """Cross columns: those that the project names, else every pair with enough rows.

    Returns
    -------
    tuple
        The intersections, and what was left out with the reason.
    """
    if wanted is not None:
        return [crossed([groupings[name] for name in names]) for names in wanted], []
    found: list[Grouping] = []
    left: list[tuple[str, str]] = []
    whole = [name for name, one in groupings.items() if len(one.names) > 1]
    for pair in itertools.combinations(whole, 2):
        name = " + ".join(pair)
        if len(found) == MOST_INTERSECTIONS:
            why = f"{MOST_INTERSECTIONS} pairs at most; [fairness] intersections chooses"
            left.append((name, why))
            continue
        one = crossed([groupings[column] for column in pair])
        if int((one.counts >= MIN_ROWS).sum()) < 2:
            left.append((name, f"no two of its groups have {MIN_ROWS} rows"))
            continue
        found.append(one)
    return found, left


def _plain(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def _spelled(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        held = cast("Sequence[Any]", value)
        return " and ".join(sorted(_spelled(one) for one in held)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _ordered(names: set[str], numbers: NDArray[Any] | None) -> list[str]:
    if numbers is None:
        return sorted(names)
    return [_spelled(one) for one in sorted(set(numbers.tolist()))]


def _largest(
    name: str, of: tuple[str, ...], order: list[str], codes: NDArray[np.int64]
) -> Grouping:
    """Keep the largest groups, in the order of reading."""
    if len(order) <= MOST_GROUPS:
        return Grouping(name, of, tuple(order), codes)
    counts = np.bincount(codes[codes >= 0], minlength=len(order))
    kept: list[int] = np.sort(np.argsort(-counts, kind="stable")[:MOST_GROUPS]).tolist()
    renumbered = np.full(len(order) + 1, -1, dtype=np.int64)  # the last one is for -1
    renumbered[kept] = np.arange(MOST_GROUPS)
    names = tuple(order[number] for number in kept)
    return Grouping(name, of, names, renumbered[codes], len(order) - MOST_GROUPS)


# ---- bands of numbers ----------------------------------------------------------------------


def _banded(numbers: NDArray[Any], edges: Sequence[float]) -> tuple[list[str], list[str]]:
    part = np.searchsorted(np.array(edges), numbers, side="right")
    whole = bool((numbers == np.round(numbers)).all()) and all(e == round(e) for e in edges)
    names = _band_names(edges, whole=whole)
    return [names[index] for index in np.unique(part)], [names[index] for index in part]


def _band_names(edges: Sequence[float], *, whole: bool) -> list[str]:
    def between(low: float, high: float) -> str:
        if not whole:
            return f"{low:g} to under {high:g}"
        return f"{low:g}" if high - low == 1 else f"{low:g} to {high - 1:g}"

    inner = [between(low, high) for low, high in itertools.pairwise(edges)]
    return [f"under {edges[0]:g}", *inner, f"{edges[-1]:g} and over"]


def _edges(numbers: NDArray[Any]) -> tuple[float, ...]:
    """Choose edges at round numbers: bands of one width, else of about as many rows."""
    low, high = np.quantile(numbers, [0.02, 0.98])
    if high > low:
        step = _round_step((high - low) / (_MOST_BANDS - 1))
        first = math.ceil(low / step) * step
        edges = [first + number * step for number in range(int((high - first) / step + 1e-9) + 1)]
        edges = _merged(numbers, edges)
        part = np.searchsorted(np.array(edges), numbers, side="right")
        largest = np.bincount(part).max() / len(numbers)
        if len(edges) + 1 >= _FEWEST_BANDS and largest <= _LARGEST_BAND:
            return tuple(edges)
    rounded = [float(f"{edge:.2g}") for edge in np.quantile(numbers, [0.25, 0.5, 0.75])]
    inside = sorted({one for one in rounded if numbers.min() < one <= numbers.max()})
    return tuple(inside or [float(numbers.max())])


def _merged(numbers: NDArray[Any], edges: list[float]) -> list[float]:
    """Drop outer edges beyond which too few rows lie to be judged."""
    enough = min(MIN_ROWS, len(numbers) // _FEWEST_BANDS)
    while len(edges) > 1 and int((numbers < edges[0]).sum()) < enough:
        edges = edges[1:]
    while len(edges) > 1 and int((numbers >= edges[-1]).sum()) < enough:
        edges = edges[:-1]
    return edges


def _round_step(step: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten.

    Examples
    --------
    >>> _round_step(0.013), _round_step(7.0), _round_step(10.0)
    (0.02, 10.0, 10.0)
    """
    power = 10.0 ** math.floor(math.log10(step))
    return next(round(m * power, 12) for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))
