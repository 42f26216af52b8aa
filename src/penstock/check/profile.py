"""Count profiles: what is kept of a column's values, and the cells that a test compares.

A number is counted in up to 256 bins between quantiles of the reference, a text by its name.
Bin i holds edge[i-1] < value <= edge[i]; the first lies below the reference and the last above
it, both empty there, so that a constant which moves is seen. Missing (null, NaN, infinite) is
a cell of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.domain import JSON

BINS, CELLS = 256, 20
NAMES_MAX, NEW_NAMES_MAX = 2000, 500
Floats = NDArray[np.float64]


def reference_profile(*periods: pa.Table) -> dict[str, Any]:
    """Count the columns of the reference.

    Parameters
    ----------
    periods
        The reference, as one table or as its periods, all with the same columns. Two and more
        let the test know how much periods differ by themselves.

    Returns
    -------
    dict
        Plain JSON. Columns that are neither numbers, truth values nor texts are named under
        ``left_out``: times always move on, and lists have no cells.
    """
    assert periods, "a reference of no table"
    table = pa.concat_tables(periods)
    columns: dict[str, Any] = {}
    left_out: list[str] = []
    for name in table.column_names:
        kind = _kind(table.schema.field(name).type)
        if kind is None:
            left_out.append(name)
            continue
        make = _numeric_profile if kind == "numeric" else _category_profile
        columns[name] = make([cast("Any", one.column(name)) for one in periods])
    return {
        "schema": 1,
        "rows": table.num_rows,
        "periods": len(periods),
        "columns": columns,
        "left_out": left_out,
    }


def _kind(of: pa.DataType) -> str | None:
    types = pa.types
    if types.is_dictionary(of):
        return _kind(cast("Any", of).value_type)
    numbers = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    if any(is_one(of) for is_one in numbers):
        return "numeric"
    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    return "category" if any(is_one(of) for is_one in texts) else None


def as_numbers(column: pa.ChunkedArray) -> Floats | None:
    """Read a column as floats, missing as NaN; None where it holds no numbers."""
    try:
        if pa.types.is_boolean(column.type):
            column = cast("Any", column).cast(pa.int8())
        numbers = cast("Any", column).cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return cast("Floats", numbers.to_numpy(zero_copy_only=False))


def as_names(column: pa.ChunkedArray) -> Counter[str | None]:
    """Count a column's values by their text; missing under None."""
    text = cast("Any", column)
    if pa.types.is_dictionary(column.type):
        text = text.cast(text.type.value_type)
    counted = text.cast(pa.string()).value_counts()
    names, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
    return Counter(dict(zip(names, counts, strict=True)))


# ---- numbers -------------------------------------------------------------------------------


def fit_edges(values: Floats, bins: int = BINS) -> Floats:
    """Choose the upper edges of the bins: quantiles, just below the least, and the greatest."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.empty(0)
    quantiles = np.quantile(finite, np.arange(1, bins) / bins, method="lower")
    least, greatest = float(finite.min()), float(finite.max())
    return np.unique(np.r_[np.nextafter(least, -np.inf), quantiles, greatest])


def count(values: Floats, edges: Floats) -> dict[str, Any]:
    """Count one block of values in the bins; what is not finite is missing."""
    finite = values[np.isfinite(values)]
    places = np.searchsorted(edges, finite, side="left")
    bins = np.bincount(places, minlength=len(edges) + 1)
    return {"bins": bins.tolist(), "missing": len(values) - len(finite)}


def _numeric_profile(periods: Sequence[pa.ChunkedArray]) -> dict[str, Any]:
    blocks = [as_numbers(one) for one in periods]
    known = [block for block in blocks if block is not None]
    assert len(known) == len(blocks), "a numeric column without numbers"
    edges = fit_edges(np.concatenate(known))
    return {
        "kind": "numeric",
        "edges": edges.tolist(),
        "periods": [count(block, edges) for block in known],
    }


def cell_of_bin(bins: Floats, cells: int = CELLS) -> NDArray[np.int64]:
    """Give each bin a cell number, by the reference's cumulated share at the bin's middle."""
    total = np.cumsum(bins)
    if not total[-1]:
        return np.zeros(len(bins), dtype=np.int64)
    middle = (total - bins / 2) / total[-1]
    cell = np.minimum((middle * cells).astype(np.int64), cells - 1)
    return np.unique(cell, return_inverse=True)[1]


def _numeric_cells(of: JSON, column: pa.ChunkedArray) -> tuple[Floats, Floats] | None:
    values = as_numbers(column)
    if values is None:
        return None
    edges = np.array(of["edges"], dtype=np.float64)
    blocks: list[JSON] = [*of["periods"], count(values, edges)]
    bins = np.array([block["bins"] for block in blocks], dtype=np.float64)
    cell = cell_of_bin(bins[:-1].sum(axis=0))
    counts = np.array(
        [
            [*np.bincount(cell, weights=one), block["missing"]]
            for one, block in zip(bins, blocks, strict=True)
        ]
    )
    return counts[:-1], counts[-1]


# ---- names ---------------------------------------------------------------------------------


def _category_profile(periods: Sequence[pa.ChunkedArray]) -> dict[str, Any]:
    counted = [as_names(one) for one in periods]
    total = Counter[str | None]()
    for one in counted:
        total.update(one)
    total.pop(None, None)
    # By count, then by name, so that the same reference gives the same profile.
    ordered = sorted(total, key=lambda name: (-total[name], str(name)))
    kept = set(ordered[:NAMES_MAX])
    return {
        "kind": "category",
        "complete": len(ordered) <= NAMES_MAX,
        "periods": [_named(one, kept) for one in counted],
    }


def _named(counted: Counter[str | None], kept: set[str | None]) -> dict[str, Any]:
    names = {str(name): n for name, n in sorted_names(counted) if name in kept}
    missing = counted.get(None, 0)
    rest = sum(counted.values()) - sum(names.values()) - missing
    return {"names": names, "rest": rest, "missing": missing}


def sorted_names(counted: Mapping[str | None, int]) -> list[tuple[str, int]]:
    """List names and counts by name; missing is left out."""
    return sorted((name, n) for name, n in counted.items() if name is not None)


def _category_cells(of: JSON, column: pa.ChunkedArray) -> tuple[Floats, Floats]:
    counted = as_names(column)
    known: set[str | None] = {name for block in of["periods"] for name in block["names"]}
    new = [name for name in counted if name is not None and name not in known]
    if of["complete"]:
        new.sort(key=lambda name: (-counted[name], name))
        known |= set(new[:NEW_NAMES_MAX])
    blocks: list[JSON] = [*of["periods"], _named(counted, known)]
    names = sorted(str(name) for name in known)
    counts = np.array(
        [
            [*(block["names"].get(name, 0) for name in names), block["rest"], block["missing"]]
            for block in blocks
        ],
        dtype=np.float64,
    )
    return counts[:-1], counts[-1]


def column_cells(of: JSON, period: pa.Table, name: str) -> tuple[Floats, Floats] | None:
    """Count a column's cells on both sides.

    Parameters
    ----------
    of
        The column's entry in a profile.
    period, name
        The period's rows, and the column to look at.

    Returns
    -------
    tuple or None
        Reference counts, shape ``(periods, K)``, and the period's, shape ``(K,)``; the last
        cell is missing. None where the period has no such column, or not of this kind.
    """
    if name not in period.column_names:
        return None
    column = cast("Any", period.column(name))
    if of["kind"] == "numeric":
        return _numeric_cells(of, column)
    return None if _kind(column.type) is None else _category_cells(of, column)
