"""Requests that are tables: comma separated, Parquet, or an Arrow IPC stream.

Each reader returns the columns by name, as lists of what JSON would have held: a cell without a
value is null, a date is text. Comma separated needs the standard library alone; the other two
need pyarrow where they are read. What a compressed table says of its size is believed no further
than `MAX_BYTES`: a megabyte of Parquet may hold a thousand of them.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import importlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, cast

from . import frames  # noqa: TID252  a worker imports it under another name

if TYPE_CHECKING:
    from .bodies import Column  # noqa: TID252

MAX_BYTES = 64 * 2**20
"""Of a table once it is unpacked."""
MEDIA = {frames.CSV: "text/csv", frames.PARQUET: "Parquet", frames.ARROW: "an Arrow stream"}

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d{1,40}")
_BOOLS = {"true": True, "false": False, "1": True, "0": False}
_INDEX = re.compile(r"__index_level_\d+__")
"""What pandas calls the index of a frame among the columns."""


class TableError(Exception):
    """The bytes are no such table; the text says why, in a sentence."""


class LibraryMissingError(Exception):
    """The environment has no pyarrow."""


def read(
    kind: int, body: bytes, columns: Sequence[Column] | None, *, max_rows: int
) -> dict[str, list[Any]]:
    """Return the columns of a table, in its order.

    Parameters
    ----------
    columns
        Of the signature: they say how the cells of a comma separated table are read. None
        leaves it to the cells: a column whose cells all look like numbers has numbers.
    max_rows
        A table with more is read no further than that it has more.

    Raises
    ------
    TableError, LibraryMissingError
    """
    if kind == frames.CSV:
        return _separated(body, columns)
    arrow = pyarrow()
    try:
        if kind == frames.PARQUET:
            table = _parquet(arrow, body, max_rows)
        else:
            table = stream(arrow, body, max_rows)
    except arrow.lib.ArrowException as error:  # broken, cut off, or of a type it does not know
        raise TableError(f"The body is not {MEDIA[kind]}: {_first_line(error)}") from None
    except (OSError, ValueError) as error:
        raise TableError(f"The body is not {MEDIA[kind]}: {_first_line(error)}") from None
    return _columns(arrow, table, columns)


def write(columns: Mapping[str, list[Any]], about: Mapping[str, str]) -> bytes:
    """Return an Arrow IPC stream of one batch.

    Parameters
    ----------
    about
        Goes into the metadata of the schema.
    """
    arrow = pyarrow()
    table = arrow.table(dict(columns)).replace_schema_metadata(dict(about))
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return cast("bytes", sink.getvalue().to_pybytes())


def pyarrow() -> Any:
    """Import pyarrow; LibraryMissingError where the environment lacks it."""
    try:
        arrow = importlib.import_module("pyarrow")
        importlib.import_module("pyarrow.ipc")
    except ImportError:
        raise LibraryMissingError from None
    return arrow


def _separated(body: bytes, columns: Sequence[Column] | None) -> dict[str, list[Any]]:
    try:
        text = body.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise TableError(f"The table is not UTF-8 text: byte {error.start}.") from None
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise TableError(f"The table is not comma separated: {error}.") from None
    if not lines:
        raise TableError("The table has no line with the names of its columns.")
    names, rows = lines[0], lines[1:]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise TableError(f"The table has column {twice!r} twice.")
    for position, row in enumerate(rows):
        if len(row) != len(names):
            counts = f"{len(row)} values for {len(names)} columns"
            raise TableError(f"Row {position} has {counts}.")
    cells = {name: [row[at] for row in rows] for at, name in enumerate(names)}
    if columns is None:
        return {name: _typed(texts) for name, texts in cells.items()}
    known = {column.name: column for column in columns}
    return {
        name: _read_as(known[name], texts) if name in known else texts
        for name, texts in cells.items()
    }


def _read_as(column: Column, texts: list[str]) -> list[Any]:
    """Read cells as a column's type; one that does not fit stays the text that it is."""
    datatype = "" if column.kind else column.datatype
    if datatype == "FP64" and "_" not in "".join(texts):
        with contextlib.suppress(ValueError):  # the usual case without a look at each cell
            numbers = list(map(float, texts))
            if not any(map(math.isnan, numbers)):
                return cast("list[Any]", numbers)
    convert = _CONVERT.get(datatype, _text)
    return [convert(text) for text in texts]


def _typed(texts: list[str]) -> list[Any]:
    for convert in (_whole, _number):
        values = [convert(text) for text in texts]
        if not any(isinstance(value, str) for value in values):
            return values
    present = {text.lower() for text in texts if text}
    if present <= {"true", "false"}:
        return [_truth(text) for text in texts]
    return [_text(text) for text in texts]


def _text(text: str) -> str | None:
    return text or None


def _number(text: str) -> float | str | None:
    bare = text.strip()
    if not bare or bare.lower() == "nan":
        return None
    return float(bare) if _NUMBER.fullmatch(bare) else text


def _whole(text: str) -> float | str | None:
    bare = text.strip()
    return int(bare) if _WHOLE.fullmatch(bare) else _number(text)


def _truth(text: str) -> bool | str | None:
    bare = text.strip().lower()
    return _BOOLS.get(bare, text) if bare else None


_CONVERT: dict[str, Callable[[str], Any]] = {
    "FP64": _number,
    "INT64": _whole,
    "BOOL": _truth,
}


def _parquet(arrow: Any, body: bytes, max_rows: int) -> Any:
    parquet = importlib.import_module("pyarrow.parquet")
    file = parquet.ParquetFile(arrow.BufferReader(body))
    facts = file.metadata
    _bounded(facts.num_rows, max_rows)
    groups = [facts.row_group(at).total_byte_size for at in range(facts.num_row_groups)]
    if sum(groups) > MAX_BYTES:
        raise TableError(f"The table has {sum(groups)} bytes unpacked; {MAX_BYTES} are read.")
    return file.read(use_threads=False)


def stream(arrow: Any, body: bytes, max_rows: int) -> Any:
    """Return the table in an Arrow stream that nobody vouches for.

    Raises
    ------
    TableError, pyarrow.ArrowException, OSError, ValueError
    """
    batches: list[Any] = []
    rows = size = 0
    with arrow.ipc.open_stream(arrow.BufferReader(body)) as stream:
        for batch in stream:
            batch.validate(full=True)  # offsets that a caller made up read foreign memory
            batches.append(batch)
            rows += batch.num_rows
            size += batch.nbytes
            _bounded(rows, max_rows)
            if size > MAX_BYTES:
                raise TableError(f"The table has over {MAX_BYTES} bytes unpacked.")
        return arrow.Table.from_batches(batches, stream.schema)


def _bounded(rows: int, max_rows: int) -> None:
    if rows > max_rows:
        raise TableError(f"The table has {rows} rows or more; at most {max_rows} fit.")


def _columns(arrow: Any, table: Any, columns: Sequence[Column] | None) -> dict[str, list[Any]]:
    names: list[str] = table.column_names
    wanted = {column.name: column for column in columns or ()}
    read: dict[str, list[Any]] = {}
    for at, name in enumerate(names):
        if name in read:
            raise TableError(f"The table has column {name!r} twice.")
        if _INDEX.fullmatch(name) and name not in wanted:
            continue
        column = table.column(at)
        kind = column.type
        if arrow.types.is_timestamp(kind) and kind.unit == "ns":
            column = column.cast(arrow.timestamp("us", tz=kind.tz), safe=False)
        datatype = wanted[name].datatype if name in wanted else ""
        read[name] = [_cell(value, datatype) for value in column.to_pylist()]
    return read


def _cell(value: Any, datatype: str) -> Any:
    """Return what JSON would have held."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, list):
        return [_cell(part, datatype) for part in cast("list[Any]", value)]
    if value is None or isinstance(value, (str, int, dict)):
        return cast("Any", value)
    return _converted(value, datatype)


def _converted(value: Any, datatype: str) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if hasattr(value, "item"):  # a float of 16 bits
        return _cell(value.item(), datatype)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if datatype == "FP64" and hasattr(value, "as_tuple"):
        return float(value)  # a decimal
    return str(value)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0][:200]
    return line if line.endswith(".") else line + "."
