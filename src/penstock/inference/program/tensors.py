"""Tensors as bytes, as the binary extension of the Open Inference Protocol has them.

Little-endian, row by row, nothing between the values; a BYTES value is its length in four bytes
and the bytes. What has no number, NaN, is read as null: a column says whether it may be missing.
Pure, on the standard library of Python 3.9 alone: worker and gateway both read with it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

LENGTH = struct.Struct("<I")
"""Of a BYTES value, and of the JSON in front of tensors."""
_FORMATS = {
    "BOOL": "B",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
    **{f"UINT{8 * 2**n}": "BHIQ"[n] for n in range(4)},
    **{f"INT{8 * 2**n}": "bhiq"[n] for n in range(4)},
}
_FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})


class TensorError(Exception):
    """The bytes are no such tensor; the text goes on after the tensor's name."""


class Split(NamedTuple):
    """A body of JSON with tensors behind it."""

    json: bytes
    tensors: bytes


def split(body: bytes) -> Split:
    """Take a body apart that says in its first four bytes how long its JSON is.

    Raises
    ------
    TensorError
        The body is shorter than it says.
    """
    if len(body) < LENGTH.size:
        raise TensorError(f"{len(body)} bytes, which hold no length of the JSON")
    (size,) = LENGTH.unpack_from(body)
    end = LENGTH.size + size
    if end > len(body):
        raise TensorError(f"{size} bytes of JSON in a body of {len(body) - LENGTH.size}")
    return Split(body[LENGTH.size : end], body[end:])


def join(document: bytes, tensors: bytes) -> bytes:
    """Return what `split` takes apart."""
    return LENGTH.pack(len(document)) + document + tensors


def decode(datatype: str, raw: bytes) -> list[Any]:
    """Return the values in `raw`, laid flat; NaN is None, BYTES are text.

    Raises
    ------
    TensorError
        The bytes are not a whole number of values, or are no text.

    Examples
    --------
    >>> decode("FP32", encode("FP32", [1.5, float("nan")]))
    [1.5, None]
    """
    if datatype == "BYTES":
        return _texts(raw)
    if datatype == "BF16":  # the upper half of an FP32
        raw, datatype = _widened(raw), "FP32"
    code = _FORMATS.get(datatype)
    if code is None:
        raise TensorError(f"datatype {datatype!r}, which has no binary form")
    size = struct.calcsize(code)
    count, rest = divmod(len(raw), size)
    if rest:
        raise TensorError(f"{len(raw)} bytes, which are no whole number of {datatype}")
    values: list[Any] = list(struct.unpack(f"<{count}{code}", raw))
    if datatype == "BOOL":
        return [value != 0 for value in values]
    total = sum(values) if datatype in _FLOATS else 0
    if total != total:  # noqa: PLR0124  only NaN differs from itself: the usual case has none
        return [value if value == value else None for value in values]  # noqa: PLR0124
    return values


def encode(datatype: str, values: list[Any]) -> bytes:
    """Return the bytes of values laid flat; `datatype` is one that `decode` knows.

    Raises
    ------
    struct.error, OverflowError
        A value does not fit into the datatype.
    """
    if datatype == "BYTES":
        texts = [v if isinstance(v, bytes) else str(v).encode() for v in values]
        return b"".join(LENGTH.pack(len(text)) + text for text in texts)
    if datatype == "BF16":
        wide = struct.pack(f"<{len(values)}f", *values)
        return b"".join(wide[at + 2 : at + 4] for at in range(0, len(wide), 4))
    return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)


def fill(inputs: list[Any], tensors: bytes) -> None:
    """Give each input of a request that says `binary_data_size` its values as `data`.

    Raises
    ------
    TensorError
        The sizes are not those of the bytes that were sent.
    """
    start = 0
    for given in inputs:
        fields = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
        size = _parameters(fields).get("binary_data_size")
        if size is None:
            continue
        name = fields.get("name")
        if type(size) is not int or size < 0:
            raise TensorError(f"binary_data_size {size!r} for input {name!r}")
        if start + size > len(tensors):
            missing = f"{size} bytes for input {name!r}, of which {len(tensors) - start}"
            raise TensorError(f"{missing} are there")
        try:
            fields["data"] = decode(str(fields.get("datatype")), tensors[start : start + size])
        except TensorError as error:
            raise TensorError(f"{error}, for input {name!r}") from None
        start += size
    if start != len(tensors):
        raise TensorError(f"{len(tensors)} bytes behind the JSON, whose inputs take {start}")


def _parameters(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    found = fields.get("parameters")
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def _texts(raw: bytes) -> list[Any]:
    texts: list[Any] = []
    at = 0
    while at < len(raw):
        if at + LENGTH.size > len(raw):
            raise TensorError(f"{len(raw)} bytes, which end within a length")
        (size,) = LENGTH.unpack_from(raw, at)
        at += LENGTH.size
        if at + size > len(raw):
            raise TensorError(f"a text of {size} bytes where {len(raw) - at} are left")
        try:
            texts.append(raw[at : at + size].decode())
        except UnicodeDecodeError:
            raise TensorError("a BYTES value that is not UTF-8 text") from None
        at += size
    return texts


def _widened(raw: bytes) -> bytes:
    if len(raw) % 2:
        raise TensorError(f"{len(raw)} bytes, which are no whole number of BF16")
    wide = bytearray(2 * len(raw))
    wide[2::4], wide[3::4] = raw[0::2], raw[1::2]
    return bytes(wide)
