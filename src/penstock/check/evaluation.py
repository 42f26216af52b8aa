"""The evaluation data: rows that training never sees, read once for every check.

A CSV is read as `pandas.read_csv` reads it in most training scripts (the same words mean
"missing", dates stay text), so that a model meets here what it met in training. Every column
ends as one of four types, or as a tensor of one of them (lists of one length, nested as deep as
the tensor has dimensions), and every NaN as a null: that is what callers will send.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pyarrow.types as pt
from numpy.typing import NDArray

from penstock.config.schema import Evaluate
from penstock.errors import PenstockError, StoppedError

MIN_ROWS = 20
"""Fewer rows say nothing about a model; even one wrong answer would be 5 %."""

_MOST_CLASSES = 20
"""Integer labels with more distinct values than this are amounts, not classes."""

MISSING_WORDS = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
"""What `pandas.read_csv` reads as missing."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Evaluation data, split by the role of its columns. All parts have the same rows."""

    features: pa.Table
    """Every column but label, id, time and group; sensitive ones too, a model may use them."""
    label: NDArray[Any]
    """Shape ``(n,)``, without missing values."""
    id: NDArray[Any] | None
    time: NDArray[Any] | None
    sensitive: pa.Table
    digest: str
    """SHA-256 of the file."""
    group: NDArray[Any] | None = None
    """Rows with the same value belong together."""

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.label)

    def for_columns(self, names: Sequence[str]) -> pa.Table:
        """Select the columns that a model wants, in its order.

        Raises
        ------
        StoppedError
            PS315, the data lacks one of them.
        """
        known = set(self.features.column_names)
        lacking = [name for name in names if name not in known]
        if lacking:
            raise lacks_columns(lacking, self.features.column_names)
        return self.features.select(list(names))

    def take(self, rows: NDArray[np.intp]) -> Evaluation:
        """Return the evaluation data of some rows, in the order of `rows`."""
        return Evaluation(
            features=self.features.take(rows),
            label=self.label[rows],
            id=None if self.id is None else self.id[rows],
            time=None if self.time is None else self.time[rows],
            sensitive=self.sensitive.take(rows),
            digest=self.digest,
            group=None if self.group is None else self.group[rows],
        )


def read_evaluation(path: Path, spec: Evaluate) -> Evaluation:
    """Read the file that ``[evaluate] data`` names.

    Raises
    ------
    StoppedError
        PS310 no such file, PS311 not a readable CSV or Parquet file, PS312 a column is not
        there, or one is there twice, PS313 fewer than `MIN_ROWS` rows, PS314 rows without a
        label, PS318 a column of a type that no request can carry, PS319 lists of different
        length.
    """
    if not path.is_file():
        raise StoppedError(
            "PS310",
            f"The evaluation data {spec.data} is not there.",
            hint="Add the file to the repository, or correct [evaluate] data in penstock.toml.",
        )
    table = read_table(path, spec.data)
    roles = {"label": spec.label, "id": spec.id, "time": spec.time, "group": spec.group}
    named = {role: name for role, name in roles.items() if name is not None}
    for role, name in [*named.items(), *(("sensitive", name) for name in spec.sensitive)]:
        _require_column(table, name, role=role, file=spec.data)
    if len(set(table.column_names)) < len(table.column_names):
        twice = next(n for n in table.column_names if table.column_names.count(n) > 1)
        _require_column(table, twice, role="data", file=spec.data)
    if table.num_rows < MIN_ROWS:
        raise StoppedError(
            "PS313",
            f"{spec.data} has {table.num_rows} rows; checks need at least {MIN_ROWS}.",
            hint="Keep more rows away from training, a few hundred or more.",
        )
    kept = [name for name in table.column_names if name not in named.values()]
    features = _features(table, kept)
    return Evaluation(
        features=features,
        label=_labels(table, spec),
        id=None if spec.id is None else _objects(table.column(spec.id)),
        time=None if spec.time is None else _objects(table.column(spec.time)),
        sensitive=features.select(list(spec.sensitive)),
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        group=None if spec.group is None else _objects(table.column(spec.group)),
    )


def _features(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Bring columns to what requests carry; the schema keeps what a DataFrame made of them."""
    columns = [plain_column(table.column(name), name) for name in names]
    fields = [
        pa.field(name, column.type, metadata=_kind(table.schema.field(name).type))
        for name, column in zip(names, columns, strict=True)
    ]
    return pa.table(columns, schema=pa.schema(fields))


def _kind(kind: pa.DataType) -> dict[str, str] | None:
    """Say what pandas reads from a Parquet file where plain text would mean something else."""
    if pt.is_timestamp(kind):
        return {"kind": "datetime"}
    if pt.is_dictionary(kind) and pt.is_string(cast("Any", kind).value_type):
        return {"kind": "category"}
    return None


def label_task(labels: NDArray[Any]) -> str:
    """Tell classes from amounts: text, yes/no, and few distinct whole numbers are classes.

    Examples
    --------
    >>> label_task(np.array([0, 1, 1])), label_task(np.array([0.5, 1.25, 2.0]))
    ('classification', 'regression')
    """
    if labels.dtype.kind not in "iuf":
        return "classification"
    distinct = np.unique(labels)
    if labels.dtype.kind == "f":
        whole = bool((distinct == np.round(distinct)).all())
        return "classification" if whole and len(distinct) <= 2 else "regression"
    return "classification" if len(distinct) <= _MOST_CLASSES else "regression"


def datatype(column: pa.ChunkedArray) -> str:
    """Return the Open Inference Protocol's word for a column's type."""
    if pt.is_boolean(column.type):
        return "BOOL"
    if pt.is_integer(column.type):
        return "INT64"
    return "FP64" if pt.is_floating(column.type) else "BYTES"


def laid_flat(column: pa.ChunkedArray, name: str) -> tuple[pa.ChunkedArray, list[int]]:
    """Lay a column of lists flat; return its values and the shape of a row."""
    rows: Any = column.combine_chunks()
    there = rows.is_valid()
    values, shape = rows.drop_null(), list[int]()
    while pt.is_list(values.type) or pt.is_large_list(values.type) or (
        pt.is_fixed_size_list(values.type)
    ):  # fmt: skip
        lengths = sorted(set(values.value_lengths().to_pylist()), key=str)
        if len(lengths) != 1 or not lengths[0]:
            shown = " and ".join("nothing" if n is None else str(n) for n in lengths[:3])
            raise StoppedError(
                "PS319",
                f'Column "{name}" of the evaluation data holds lists of {shown or "no"} values.',
                hint="Give all its rows one length: a tensor has one shape.",
            )
        shape.append(lengths[0])
        values = values.flatten()
    if rows.null_count and shape:
        size = math.prod(shape)
        starts = np.where(there, np.cumsum(there) - 1, -1)
        indices = (starts[:, None] * size + np.arange(size)).ravel()
        values = values.take(pa.array(indices, mask=np.repeat(starts < 0, size)))
    return plain_column(pa.chunked_array([values]), name), shape


def _nested(flat: pa.ChunkedArray, shape: Sequence[int]) -> pa.ChunkedArray:
    values: Any = flat.combine_chunks()
    for size in reversed(shape):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return pa.chunked_array([values])


def tensor_shape(kind: pa.DataType) -> list[int]:
    """Return the shape of one row of a column of tensors; empty for single values."""
    shape: list[int] = []
    while pt.is_fixed_size_list(kind):
        fixed = cast("Any", kind)
        shape.append(int(fixed.list_size))
        kind = fixed.value_type
    return shape


def plain_column(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Bring a column to one of bool, int64, float64 or string, with null for every NaN.

    Lists become fixed-size lists of one of these, a missing list one of nulls.
    """
    kind = column.type
    if isinstance(kind, pa.FixedShapeTensorType):
        shape = [int(size) for size in kind.shape]
        stored = pa.chunked_array([one.storage for one in column.chunks])
        return _nested(laid_flat(stored, name)[0], shape)
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return _nested(*laid_flat(column, name))
    if pt.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pt.is_boolean(kind):
        return column
    if pt.is_integer(kind):
        # Not every uint64 is an int64; as floats the largest lose digits, as everywhere in JSON.
        return column.cast(pa.float64() if pt.is_uint64(kind) else pa.int64(), safe=False)
    if pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_null(kind):
        numbers = column.cast(pa.float64())
        # Through numpy: `pc.is_nan` and a null mask would need two passes and a fallback.
        return pa.chunked_array([pa.array(numbers.to_numpy(), from_pandas=True)], pa.float64())
    if pt.is_string(kind) or pt.is_large_string(kind) or pt.is_temporal(kind):
        return column.cast(pa.string())
    raise StoppedError(
        "PS318",
        f'Column "{name}" of the evaluation data has the type {kind}, which no request can carry.',
        hint="Give it numbers, text or true/false, or leave it out.",
    )


def read_table(path: Path, shown: str) -> pa.Table:
    """Read a CSV or Parquet file whole, its words for missing as nulls; PS311 when it is none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    try:
        if suffixes and suffixes[-1] in {".parquet", ".pq"}:
            return pq.read_table(path, partitioning=None)
        if suffixes[-1:] == [".csv"] or suffixes[-2:] == [".csv", ".gz"]:
            return _read_csv(path)
        reason = f'"{path.suffix or path.name}" is neither CSV nor Parquet'
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
    raise StoppedError(
        "PS311",
        f"The evaluation data {shown} cannot be read: {reason}.",
        hint="Write it as .csv or .parquet, for example with DataFrame.to_parquet.",
    )


def _read_csv(path: Path) -> pa.Table:
    def read(types: dict[str, Any]) -> pa.Table:
        words = {"null_values": list(MISSING_WORDS), "strings_can_be_null": True}
        return pacsv.read_csv(
            path,
            convert_options=pacsv.ConvertOptions(column_types=types, **words),
        )

    table = read({})
    dates = [field.name for field in table.schema if pt.is_temporal(field.type)]
    return read(dict.fromkeys(dates, pa.string())) if dates else table


def _require_column(table: pa.Table, name: str, *, role: str, file: str) -> None:
    count = table.column_names.count(name)
    if count == 1:
        return
    if count > 1:
        raise StoppedError(
            "PS312",
            f'{file} has {count} columns "{name}".',
            hint="Give each column a name of its own.",
        )
    raise StoppedError(
        "PS312",
        f'{file} has no column "{name}", which [evaluate] {role} names.',
        hint=f"{_did_you_mean(name, table.column_names)}Correct [evaluate] {role}.",
    )


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    lowered = {known.lower(): known for known in reversed(names)}
    near = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    if near:
        return f'Did you mean "{lowered[near[0]]}"? '
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"It has {shown}. "


def _labels(table: pa.Table, spec: Evaluate) -> NDArray[Any]:
    column = plain_column(table.column(spec.label), spec.label)
    if column.null_count:
        raise StoppedError(
            "PS314",
            f'{column.null_count} of {table.num_rows} rows of {spec.data} have no "{spec.label}".',
            hint="Leave those rows out: without the true answer they cannot judge a model.",
        )
    return cast("NDArray[Any]", column.to_numpy())


def _objects(column: pa.ChunkedArray) -> NDArray[Any]:
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()
    return values


def lacks_columns(lacking: Sequence[str], names: Sequence[str]) -> PenstockError:
    """Say which columns the model wants and the evaluation data lack."""
    shown = ", ".join(f'"{name}"' for name in lacking[:5]) + (", …" if len(lacking) > 5 else "")
    return StoppedError(
        "PS315",
        f"The model wants {shown}, which the evaluation data lack.",
        hint=f"{_did_you_mean(lacking[0], names)}"
        "Keep in [evaluate] data every column that training uses, before any encoding.",
    )
