"""What callers send: from the document of one request to columns that a model can be asked.

Two dialects: Open Inference Protocol v2 and MLflow's ``/invocations``; requests.py reads the
bytes. Every fault is a `RequestError` whose sentence names the column, what was sent and what is
wanted. Pure, on the standard library of Python 3.9 alone: the worker loads this file inside the
model's environment, and the prediction log's table reads logged bodies with the same functions.
"""

from __future__ import annotations

import datetime as dt
import difflib
import json
import math
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

V2, INVOCATIONS = 1, 2
MAX_ROWS = 1000
DATE = re.compile(r"\d{4}-\d\d-\d\d([T ][0-2]\d:[0-5]\d(:[0-5]\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?")
LARGEST = sys.float_info.max
ID = re.compile(r"[!-~]{1,200}")  # it becomes a header's value and the key of a row
WANTED = {
    "FP64": "a number",
    "INT64": "a whole number",
    "BYTES": "text",
    "BOOL": "true or false",
    "": "a single value",
    "category": "text",
    "datetime": "a date such as 2026-01-31 or 2026-01-31T08:00:00",
}
DATATYPES = {
    "BOOL": "BOOL",
    "BYTES": "BYTES",
    **dict.fromkeys(("BF16", "FP16", "FP32", "FP64"), "FP64"),
    **{f"{sign}INT{bits}": "INT64" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
"""The protocol's words, each with the one of ours that it is read as."""
FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")  # of ``/invocations``
PYTHON = {"FP64": float, "INT64": int, "BYTES": str, "BOOL": bool}


class RequestError(Exception):
    """The caller's body cannot be answered; the text says why, in a sentence."""

    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.id = ""
        """The prediction id, once requests.py knows it."""


class Column(NamedTuple):
    """One input of the model."""

    name: str
    datatype: str
    """``FP64``, ``INT64``, ``BYTES``, ``BOOL``, or empty for mixed values."""
    optional: bool
    """Whether a value may be null."""
    shape: tuple[int, ...] = ()
    """Of a row's tensor; empty for a single value."""
    kind: str = ""
    """What a DataFrame makes of it: ``datetime``, ``category``, or what the datatype says."""


class Asked(NamedTuple):
    """The rows of one request, column by column."""

    columns: tuple[Column, ...]
    values: list[list[Any]]
    """One list per column; null is None, numbers of an FP64 column are floats, and a tensor is
    the flat list of its values, row by row."""
    rows: int


def decode(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`; RequestError when it holds none."""
    try:
        plain = body[:2] == b'{"'  # in UTF-8, then, with nothing before it
        text = str(body, "utf-8" if plain else json.detect_encoding(body), "surrogatepass")
        document, end = _DECODER.raw_decode(text) if plain else (None, -1)
        if end != len(text):  # what surrounds it is for the decoder's other half
            document = _DECODER.decode(text)
    except RecursionError:
        raise RequestError(400, "PS550", "The body is nested too deeply.") from None
    except ValueError as error:
        raise RequestError(400, "PS550", f"The body is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise RequestError(400, "PS550", f"The body is {_shown(document)}, not a JSON object.")
    return cast("dict[str, Any]", document)


def own_id(document: dict[str, Any], default: str) -> str:
    """Return the id that the caller gave, or `default` where there is none."""
    given = document.get("id")
    if given is None or given == "":
        return default
    if not isinstance(given, str) or not ID.fullmatch(given):
        raise RequestError(
            400, "PS550", f"id is {_shown(given)}; it must be 1 to 200 visible ASCII characters."
        )
    return given


def read(kind: int, document: dict[str, Any], columns: tuple[Column, ...] | None) -> Asked:
    """Return the rows of a request, checked against the signature's columns.

    Parameters
    ----------
    kind
        `V2` or `INVOCATIONS`.
    columns
        In the order of the model; None accepts any columns and infers their types.

    Raises
    ------
    RequestError
        The body does not follow its protocol, or its rows do not fit the columns.
    """
    return checked(sent(kind, document, columns))


def sent(kind: int, document: dict[str, Any], columns: tuple[Column, ...] | None) -> Asked:
    """Return the rows of a request as `read` does, whose values are not looked at yet.

    They are for `checked`, which may look at the rows of many requests at once.
    """
    if kind == V2:
        return arranged(*_v2(document, columns), columns)
    return arranged(_invocations(document, columns), {}, columns)


def checked(asked: Asked) -> Asked:
    """Return rows whose values fit their columns; RequestError where one does not.

    Each value is judged by itself, so that rows of several requests may be looked at together.
    """
    columns, values, rows = asked
    return Asked(columns, list(map(_checked, columns, values)), rows)


def arranged(
    sent: Mapping[str, Any],
    types: Mapping[str, Column],
    columns: tuple[Column, ...] | None,
) -> Asked:
    """Return the rows of columns that were sent, in the order of the signature's.

    Parameters
    ----------
    types
        Without a signature: what was said of the columns' types, by name.

    Raises
    ------
    RequestError
        The rows do not fit.
    """
    rows = max(map(len, sent.values()), default=0)
    for name, values in sent.items():
        if len(values) != rows:
            sentence = f"Column {name!r} has {len(values)} rows and another has {rows}."
            raise RequestError(400, "PS553", sentence)
    if rows == 0:
        raise RequestError(400, "PS553", "The request has no rows.")
    if rows > MAX_ROWS:
        sentence = f"The request has {rows} rows; at most {MAX_ROWS} fit in one request."
        raise RequestError(400, "PS553", sentence)
    if columns is None:
        columns = tuple(_inferred(name, values, types.get(name)) for name, values in sent.items())
    else:
        _same_names(sent, columns)
    absent = [None] * rows
    return Asked(columns, [sent.get(column.name, absent) for column in columns], rows)


def signature_columns(signature: Mapping[str, Any] | None) -> tuple[Column, ...] | None:
    """Return the columns of a version's signature; None where it has no signature."""
    if signature is None:
        return None
    return tuple(
        Column(
            str(c["name"]),
            str(c["datatype"]),
            bool(c.get("optional")),
            tuple(c.get("shape") or ()),
            str(c.get("kind") or ""),
        )
        for c in signature["columns"]
    )


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON value; send null for a missing number")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _bad(sentence: str) -> RequestError:
    return RequestError(400, "PS550", sentence)


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise _bad(f"{what} is {_shown(value)}; it must be a list.")
    return cast("list[Any]", value)


def _v2(
    document: dict[str, Any], columns: tuple[Column, ...] | None
) -> tuple[dict[str, Any], dict[str, Column]]:
    """Return the columns that were sent; without a signature, what was said of their types."""
    inputs = _list(document.get("inputs"), "inputs")
    names = None if columns is None else [column.name for column in columns]
    tensors = {column.name: column for column in columns or () if column.shape}
    sent: dict[str, Any] = {}
    types: dict[str, Column] = {}
    for position, tensor in enumerate(inputs):
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise _bad(f"inputs[{position}] must be an object with name, shape, datatype, data.")
        name, shape, flat, datatype = _tensor(cast("dict[str, Any]", tensor))
        takes = None
        if tensors or columns is None:
            takes = _tensor_column(name, shape, tensors, columns, len(inputs))
        if takes is None:
            found = _columns(name, shape, flat, names, alone=len(inputs) == 1)
        else:
            found = {takes.name: _by_row(name, shape, flat, takes)}
        for column, values in found.items():
            if column in sent:
                raise _bad(f"Input {name!r} is there twice.")
            sent[column] = values
            if columns is None:
                known = takes or Column(column, "", optional=False)
                types[column] = known._replace(datatype=datatype)
    return sent, types


def _columns(
    name: str, shape: list[int], flat: list[Any], names: list[str] | None, *, alone: bool
) -> dict[str, Any]:
    """Return the columns of an input that is a column, or the only matrix."""
    width = 1
    for size in shape[1:]:
        width *= size
    matrix = alone and len(shape) == 2 and name not in (names or ())
    if matrix and (width > 1 or (names is not None and len(names) == 1)):
        wanted = names or [str(index) for index in range(width)]
        if width != len(wanted):
            raise _bad(f"Input {name!r} has {width} columns, the model has {len(wanted)}.")
        return {column: flat[index::width] for index, column in enumerate(wanted)}
    if width != 1:
        raise _bad(f"Input {name!r} has shape {_shown(shape)}; a column has [n] or [n, 1].")
    return {name: flat}


def _tensor_column(
    name: str,
    shape: list[int],
    tensors: dict[str, Column],
    columns: tuple[Column, ...] | None,
    inputs: int,
) -> Column | None:
    """Return the column that takes an input as a tensor a row; None for any other input."""
    if columns is None:
        return Column(name, "", optional=False, shape=tuple(shape[1:])) if len(shape) > 2 else None
    if name in tensors or not tensors:
        return tensors.get(name)
    # As with a matrix, the only input of the only column may be called as one likes.
    return columns[0] if len(columns) == 1 and inputs == 1 else None


def _by_row(name: str, shape: list[int], flat: list[Any], column: Column) -> list[Any]:
    size = column_size(column)
    if tuple(shape[1:]) not in (column.shape, (size,)):
        wanted = _shown(["n", *column.shape])
        sentence = f"Input {name!r} has shape {_shown(shape)}; it must be {wanted}."
        raise RequestError(400, "PS553", sentence)
    return [flat[row * size : (row + 1) * size] for row in range(shape[0])]


def column_size(column: Column) -> int:
    """Return how many values one row of a column has."""
    size = 1
    for length in column.shape:
        size *= length
    return size


def _tensor(fields: dict[str, Any]) -> tuple[str, list[int], list[Any], str]:
    """Return an input's name, shape, values laid flat, and datatype."""
    name, shape = str(fields["name"]), _list(fields.get("shape"), f"shape of {fields['name']!r}")
    if not shape or not all(type(n) is int and n >= 0 for n in shape):
        raise _bad(f"Input {name!r} has shape {_shown(shape)}; it must be [n] or [n, k].")
    flat = _list(fields.get("data"), f"data of {name!r}")
    wanted = shape[0]
    for size in shape[1:]:
        wanted *= size
        if flat and all(type(row) is list for row in flat):
            flat = [value for row in flat for value in row]
    if len(flat) != wanted:
        sentence = f"Input {name!r} has shape {_shown(shape)} but {len(flat)} values."
        raise RequestError(400, "PS553", sentence)
    datatype = DATATYPES.get(str(fields.get("datatype")))
    if datatype is None:
        known = ", ".join(sorted(DATATYPES))
        raise _bad(f"Input {name!r} has datatype {_shown(fields.get('datatype'))}, not {known}.")
    return name, shape, flat, datatype


def _invocations(document: dict[str, Any], columns: tuple[Column, ...] | None) -> dict[str, Any]:
    names = None if columns is None else [column.name for column in columns]
    given = [form for form in FORMS if form in document]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise _bad(f"The body must have exactly one of {', '.join(FORMS)}; it has {found}.")
    form, content = given[0], document[given[0]]
    if form == "dataframe_split":
        if not isinstance(content, dict):
            raise _bad("dataframe_split must be an object with columns and data.")
        split = cast("dict[str, Any]", content)
        heads = _list(split.get("columns"), "dataframe_split.columns")
        if not all(isinstance(head, str) for head in heads) or len(set(heads)) != len(heads):
            raise _bad("dataframe_split.columns must be a list of different names.")
        return _from_rows(_list(split.get("data"), "dataframe_split.data"), heads)
    if form == "inputs" and isinstance(content, dict):
        named = cast("dict[str, Any]", content)
        return {name: _list(values, f"inputs.{name}") for name, values in named.items()}
    rows = _list(content, form)
    if rows and all(isinstance(row, dict) for row in rows):
        return _from_records(cast("list[dict[str, Any]]", rows))
    if form == "dataframe_records":
        raise _bad("dataframe_records must be a list of objects.")
    if columns is not None and len(columns) == 1:
        deep = len(columns[0].shape) + 1
        rows = [row if _depth(row) >= deep else [row] for row in rows]
    width = len(cast("list[Any]", rows[0])) if rows and isinstance(rows[0], list) else 0
    return _from_rows(rows, names or [str(index) for index in range(width)])


def _depth(value: Any) -> int:
    """Return how deep lists are nested, by their first values."""
    depth = 0
    while isinstance(value, list):
        depth += 1
        inner = cast("list[Any]", value)
        value = inner[0] if inner else None
    return depth


def _from_rows(rows: list[Any], names: list[str]) -> dict[str, Any]:
    if set(map(type, rows)) != {list} or set(map(len, rows)) != {len(names)}:
        _uneven(rows, names)
    return dict(zip(names, map(list, zip(*rows)))) if rows else {name: [] for name in names}


def _uneven(rows: list[Any], names: list[str]) -> None:
    """Say which row has another number of values than there are columns."""
    for position, row in enumerate(rows):
        count = len(cast("list[Any]", row)) if isinstance(row, list) else 0
        if count != len(names) or not isinstance(row, list):
            sentence = f"Row {position} has {count} values for {len(names)} columns."
            raise RequestError(400, "PS553", sentence)


def _from_records(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _same_names(sent: Mapping[str, Any], columns: tuple[Column, ...]) -> None:
    known = {column.name for column in columns}
    if set(sent) == known:
        return
    for name in sent:
        if name not in known:
            names = [column.name for column in columns]
            near = difflib.get_close_matches(name, [n for n in names if n not in sent], n=1)
            tail = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names[:20])}."
            raise RequestError(422, "PS551", f"The model has no column {name!r}; {tail}")
    for column in columns:
        if column.name not in sent and not column.optional:
            sentence = f"Column {column.name!r} is missing; it must be {WANTED[column.datatype]}."
            raise RequestError(422, "PS551", sentence)


def _inferred(name: str, values: list[Any], declared: Column | None) -> Column:
    if declared is not None and declared.shape:
        return declared._replace(optional=any(None in row for row in values))
    kinds: set[Any] = {type(value) for value in values if value is not None}
    inferred = ""
    if kinds <= {int, float}:
        inferred = "INT64" if kinds == {int} else "FP64"
    elif len(kinds) == 1:
        inferred = {bool: "BOOL", str: "BYTES"}.get(kinds.pop(), "")
    datatype = inferred if declared is None else declared.datatype
    return Column(name, datatype, None in values)


def _fits(datatype: str, value: Any) -> bool:
    kind = cast("type[Any]", type(value))
    if datatype == "FP64":  # comparing, not converting: a huge integer has no float
        return kind in (float, int) and -LARGEST <= value <= LARGEST
    if datatype == "INT64":
        whole = kind is int or (kind is float and value.is_integer())
        return whole and -(2**63) <= value < 2**63
    if datatype == "":
        return kind not in (list, dict)
    return kind is (str if datatype == "BYTES" else bool)


def _is_date(datatype: str, value: Any) -> bool:  # noqa: ARG001  in the place of `_fits`
    if type(value) is not str or not DATE.fullmatch(value):
        return False
    try:
        dt.date.fromisoformat(value[:10])
    except ValueError:
        return False
    return True


def _tensors(column: Column, values: list[Any]) -> list[Any]:
    """Return the values of a column of tensors, each laid flat and checked."""
    flat = [_laid_flat(column, row, value) for row, value in enumerate(values)]
    plain = column._replace(shape=())
    for row, cells in enumerate(flat):
        kinds = set(map(type, cells))
        numbers = kinds <= {float, int} and column.datatype == "FP64"
        if numbers and min(cells) >= -LARGEST and max(cells) <= LARGEST:
            # The usual case without a look at each value: there are thousands.
            flat[row] = cells if kinds == {float} else list(map(float, cells))
            continue
        try:
            flat[row] = _checked(plain, cells)
        except RequestError as error:
            sentence = str(error).replace("; row ", f"; in row {row} value ")
            raise RequestError(error.status, error.code, sentence) from None
    return flat


def _laid_flat(column: Column, row: int, value: Any) -> list[Any]:
    size = column_size(column)
    if value is None:
        return [None] * size
    flat = cast("list[Any]", value) if isinstance(value, list) else []
    for length in column.shape[1:]:
        if not all(type(part) is list and len(part) == length for part in flat):
            break
        flat = [cell for part in flat for cell in part]
    if len(flat) != size:
        sentence = (
            f"Column {column.name!r} must be a list of shape {_shown(list(column.shape))}; "
            f"row {row} has {_shown(value)}."
        )
        raise RequestError(422, "PS553", sentence)
    return flat


def _checked(column: Column, values: list[Any]) -> list[Any]:
    if column.shape:
        return _tensors(column, values)
    datatype = column.datatype
    if column.kind != "datetime" and _plainly(datatype, values):
        return values
    fits = _is_date if column.kind == "datetime" else _fits
    for row, value in enumerate(values):
        if (value is None and column.optional) or (value is not None and fits(datatype, value)):
            continue
        sentence = (
            f"Column {column.name!r} must be {WANTED[column.kind or datatype]}"
            f"{' or null' if column.optional else ''}; row {row} has {_shown(value)}."
        )
        raise RequestError(422, "PS552", sentence)
    if datatype in ("FP64", "INT64"):
        convert = float if datatype == "FP64" else int
        return [value if value is None else convert(value) for value in values]
    return values


def _plainly(datatype: str, values: list[Any]) -> bool:
    """Whether all values fit as they are, seen at once; False leaves it to a look at each."""
    wanted = PYTHON.get(datatype)
    if wanted is None or set(map(type, values)) != {wanted}:
        return False
    if wanted is float:  # a sum is finite only where each value is
        return math.isfinite(sum(values))
    return wanted is not int or (min(values) >= -(2**63) and max(values) < 2**63)
