"""One caller's request, from its bytes to what the model is asked and what the caller gets.

`read` knows every kind of frames.py that a caller may send; bodies.py has the documents,
tensors.py the binary tensors, tables.py the tables. Standard library of Python 3.9; the worker
loads it in the model's environment, and the prediction log reads what was logged with it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from . import bodies, frames, tables, tensors  # noqa: TID252  also imported as penstock_worker
from .bodies import Asked, Column, RequestError  # noqa: TID252

OUTPUTS = ("prediction", "probability")
"""What a model answers, by the names that a caller may ask for."""


class Request(NamedTuple):
    """One request, understood."""

    kind: int
    id: str
    """The caller's own, else the one that came with it."""
    asked: Asked
    outputs: Mapping[str, bool]
    """The outputs wanted, in the caller's order, and whether as binary tensors; empty for all."""
    binary: bool
    """Whether outputs go as binary tensors where nothing is said of them by name."""
    media: int


def understand(
    kind: int,
    body: bytes,
    columns: tuple[Column, ...] | None,
    *,
    id: str = "",  # noqa: A002  the protocol's word
    wants: int = frames.JSON_MEDIA,
) -> Request:
    """Read a request, and check each of its values; the rest is as `read` has it."""
    request = read(kind, body, columns, id=id, wants=wants)
    try:
        return request._replace(asked=bodies.checked(request.asked))
    except RequestError as error:
        error.id = request.id
        raise


def read(
    kind: int,
    body: bytes,
    columns: tuple[Column, ...] | None,
    *,
    id: str = "",  # noqa: A002  the protocol's word
    wants: int = frames.JSON_MEDIA,
) -> Request:
    """Read a request, whose values are left to `bodies.checked`.

    Parameters
    ----------
    kind, wants
        As in `frames.RequestPart`.
    columns
        Of the version's signature; None accepts any columns and infers their types.
    id
        The prediction id, unless the caller brings one.

    Raises
    ------
    RequestError
        It does not follow its protocol or does not fit the columns; the error has the id.
    """
    try:
        if kind in tables.MEDIA:
            asked = _table(kind, body, columns)
            return Request(kind, id, asked, {}, binary=False, media=wants)
        document = _document(kind, body)
        id = bodies.own_id(document, id)  # noqa: A001
        plain = bodies.V2 if kind == frames.V2_BINARY else kind
        outputs, binary = _outputs(document, wants) if plain == bodies.V2 else ({}, False)
        asked = None
        if plain == bodies.V2 and columns is not None:
            asked = _in_order(document.get("inputs"), columns)
        elif plain == bodies.INVOCATIONS and columns:
            asked = _split_in_order(document, columns)
        asked = asked or bodies.sent(plain, document, columns)
    except RequestError as error:
        error.id = id
        raise
    return Request(kind, id, asked, outputs, binary, wants)


_NAME = operator.itemgetter(0)  # of a column: faster than its attribute
_FORMS = frozenset(bodies.FORMS)


def _split_in_order(document: dict[str, Any], columns: tuple[Column, ...]) -> Asked | None:
    """Read a DataFrame split whose columns are the model's, in its order; None leaves the rest."""
    split = document.get("dataframe_split")
    if type(split) is not dict or len(_FORMS & document.keys()) != 1:
        return None
    fields = cast("dict[str, Any]", split)
    sent: Any = fields.get("data")
    if type(sent) is not list or fields.get("columns") != list(map(_NAME, columns)):
        return None
    rows = cast("list[list[Any]]", sent)
    if not 0 < len(rows) <= bodies.MAX_ROWS or set(map(type, rows)) != {list}:
        return None
    if set(map(len, rows)) != {len(columns)}:
        return None
    return Asked(columns, list(map(list, zip(*rows))), len(rows))


_FIELDS = operator.itemgetter("name", "shape", "datatype", "data")


def _in_order(inputs: Any, columns: tuple[Column, ...]) -> Asked | None:
    """Read what most callers send: one flat input for each column, in the model's order.

    None leaves everything else, and what is to be said of it, to bodies.py.
    """
    if type(inputs) is not list or len(cast("list[Any]", inputs)) != len(columns):
        return None
    values: list[list[Any]] = []
    rows = 0
    try:
        for fields, (column, _, _, of_row, _) in zip(cast("list[Any]", inputs), columns):
            name, shape, datatype, data = _FIELDS(fields)
            (size,) = shape
            if (
                name != column
                or of_row
                or datatype not in bodies.DATATYPES
                or type(size) is not int
            ):
                return None
            rows = rows or size
            if type(data) is not list or type(shape) is not list or size != rows:
                return None
            values.append(cast("list[Any]", data))
    except (KeyError, TypeError, ValueError):
        return None
    fits = 0 < rows <= bodies.MAX_ROWS and set(map(len, values)) == {rows}
    return Asked(columns, values, rows) if fits else None


def _document(kind: int, body: bytes) -> dict[str, Any]:
    if kind != frames.V2_BINARY:
        return bodies.decode(body)
    try:
        parts = tensors.split(body)
        document = bodies.decode(parts.json)
        inputs = document.get("inputs")
        if isinstance(inputs, list):
            tensors.fill(cast("list[Any]", inputs), parts.tensors)
    except tensors.TensorError as error:
        raise RequestError(400, "PS535", f"The request has {error}.") from None
    return document


def _table(kind: int, body: bytes, columns: tuple[Column, ...] | None) -> Asked:
    try:
        sent = tables.read(kind, body, columns, max_rows=bodies.MAX_ROWS)
    except tables.TableError as error:
        raise RequestError(400, "PS534", str(error)) from None
    except tables.LibraryMissingError:
        sentence = f"{tables.MEDIA[kind]} needs pyarrow, which the model's environment lacks."
        raise RequestError(415, "PS533", sentence[0].upper() + sentence[1:]) from None
    return bodies.arranged(sent, {}, columns)


def _outputs(document: dict[str, Any], wants: int) -> tuple[dict[str, bool], bool]:
    """Return what is said of the outputs, and whether they are binary by default."""
    binary = wants == frames.BINARY_MEDIA
    binary = _flag(document, "binary_data_output", "the request", default=binary)
    asked = document.get("outputs")
    if asked is None:
        return {}, binary
    outputs: dict[str, bool] = {}
    if not isinstance(asked, list):
        raise RequestError(400, "PS550", "outputs must be a list of objects with a name.")
    for place, output in enumerate(cast("list[Any]", asked)):
        fields = cast("dict[str, Any]", output) if isinstance(output, dict) else {}
        name = fields.get("name")
        if not isinstance(name, str):
            raise RequestError(400, "PS550", f"outputs[{place}] must be an object with a name.")
        if name not in OUTPUTS:
            known = " and ".join(OUTPUTS)
            raise RequestError(400, "PS536", f"There is no output {name[:80]!r}; {known} exist.")
        outputs[name] = _flag(fields, "binary_data", f"output {name!r}", default=binary)
    return outputs, binary


def _flag(fields: Mapping[str, Any], name: str, of: str, *, default: bool) -> bool:
    parameters = fields.get("parameters")
    if parameters is None:
        return default
    if not isinstance(parameters, dict):
        raise RequestError(400, "PS550", f"parameters of {of} must be an object.")
    value = cast("dict[str, Any]", parameters).get(name, default)
    if type(value) is not bool:
        raise RequestError(400, "PS550", f"{name} of {of} must be true or false.")
    return value
