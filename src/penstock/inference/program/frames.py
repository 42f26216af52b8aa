"""What gateway and worker say to each other over a Unix socket, as bytes.

One frame is one batch; both ways it has the same shape, little-endian::

    u32 size | u32 n | n x u32 length of a part | n parts
              `--------------- size bytes -----------------'

``payload`` below is what follows the first four bytes: read `HEADER`, then as many bytes as it
says. The parts of a reply stand in the order of the request. worker.py speaks the same format
without importing this module (it runs in the model's own environment); tests hold them together.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

METADATA = 0
"""Kind of a part that asks what the model is and whether it is ready; its body is empty."""
V2 = 1
"""Kind of a part with an Open Inference Protocol v2 request, all JSON."""
INVOCATIONS = 2
"""Kind of a part with an MLflow ``/invocations`` request in JSON."""
CSV, PARQUET, ARROW = 3, 4, 5
"""Kinds of parts whose body is a table: comma separated, Parquet, an Arrow IPC stream."""
V2_BINARY = 6
"""Kind of a part with an Open Inference Protocol v2 request with binary tensors: `WORD` bytes
of JSON, the JSON, the tensors."""

LOAD, UNLOAD, FORK, END = 32, 33, 34, 35
"""Kinds of parts with an order of the gateway's own; the bodies are JSON, see host.py."""

JSON_MEDIA, BINARY_MEDIA, ARROW_MEDIA = 0, 1, 2
"""What a body of a reply is, and what a request wants it to be: JSON; JSON with binary tensors
behind it (`WORD` bytes of JSON, the JSON, the tensors); an Arrow IPC stream."""

HEADER = struct.Struct("<I")
"""Size of the payload in bytes, the header not counted."""
WORD = struct.Struct("<I")
REQUEST_PART = struct.Struct("<BBBH")
"""Kind, length of the id, wanted media, slot; the id and the body follow."""
REPLY_PART = struct.Struct("<HBB")
"""HTTP status, length of the id, media; the id, `WORD` rows and the body follow."""

MAX_FRAME_BYTES = 1 << 30
"""Whoever announces more is broken: end the connection instead of reading on."""
MAX_ID_BYTES = 255


class FrameError(Exception):
    """The bytes are no frame; the connection cannot be used any more."""


class RequestPart(NamedTuple):
    """One caller's request."""

    kind: int
    """`METADATA`, `V2`, `INVOCATIONS`, ..."""
    id: bytes
    """The prediction id that the gateway made, at most 255 bytes of UTF-8."""
    body: bytes
    slot: int = 0
    """Which of the process's versions is asked."""
    wants: int = JSON_MEDIA
    """The media that the caller would like."""


class Reply(NamedTuple):
    """The answer to one caller."""

    status: int
    """HTTP status, 200 when the model answered."""
    id: str
    """The prediction id in use: the caller's own where the request had one."""
    rows: int
    """Rows predicted; 0 when the status is not 200."""
    body: bytes
    """Ready to be sent."""
    media: int = JSON_MEDIA
    """What the body is."""


def encode_request(parts: Sequence[RequestPart]) -> bytes:
    """Return the frame, header included, of some requests.

    Examples
    --------
    >>> frame = encode_request([RequestPart(V2, b"a1", b"{}")])
    >>> decode_request(memoryview(frame)[HEADER.size:])
    [RequestPart(kind=1, id=b'a1', body=b'{}', slot=0, wants=0)]
    """
    pack = REQUEST_PART.pack
    return _frame(
        [pack(kind, len(id_), wants, slot) + id_ + body for kind, id_, body, slot, wants in parts]
    )


def encode_reply(replies: Sequence[Reply]) -> bytes:
    """Return the frame, header included, of replies in the order of their requests."""
    parts: list[bytes] = []
    for status, name, rows, body, media in replies:
        id_ = name.encode()
        parts.append(REPLY_PART.pack(status, len(id_), media) + id_ + WORD.pack(rows) + body)
    return _frame(parts)


def decode_request(payload: memoryview) -> list[RequestPart]:
    """Return the parts of a request's payload; FrameError when it is none."""
    return [_request_part(part) for part in _parts(payload)]


def decode_reply(payload: memoryview) -> list[Reply]:
    """Return the parts of a reply's payload; FrameError when it is none."""
    return [_reply_part(part) for part in _parts(payload)]


def _frame(parts: Sequence[bytes]) -> bytes:
    lengths = [len(part) for part in parts]
    head = struct.pack(
        f"<II{len(parts)}I", 4 + 4 * len(parts) + sum(lengths), len(parts), *lengths
    )
    return b"".join((head, *parts))


def _parts(payload: memoryview) -> list[memoryview]:
    try:
        (count,) = WORD.unpack_from(payload)
        if count > len(payload):  # before a format of that many lengths is made
            raise FrameError(f"A frame of {len(payload)} bytes cannot hold {count} parts.")
        lengths = struct.unpack_from(f"<{count}I", payload, WORD.size)
    except struct.error as error:
        raise FrameError(f"A frame of {len(payload)} bytes ends in its head: {error}.") from None
    start = WORD.size * (1 + count)
    if start + sum(lengths) != len(payload):
        raise FrameError(
            f"The parts of a frame need {start + sum(lengths)} bytes, it has {len(payload)}."
        )
    parts: list[memoryview] = []
    for length in lengths:
        parts.append(payload[start : start + length])
        start += length
    return parts


def _request_part(part: memoryview) -> RequestPart:
    try:
        kind, length, wants, slot = REQUEST_PART.unpack_from(part)
    except struct.error:
        raise FrameError(f"A request part of {len(part)} bytes has no head.") from None
    end = REQUEST_PART.size + length
    if end > len(part):
        raise FrameError(f"A request part of {len(part)} bytes ends in its id.")
    name, body = bytes(part[REQUEST_PART.size : end]), bytes(part[end:])
    return RequestPart(kind, name, body, slot, wants)


def _reply_part(part: memoryview) -> Reply:
    try:
        status, length, media = REPLY_PART.unpack_from(part)
        end = REPLY_PART.size + length
        (rows,) = WORD.unpack_from(part, end)
        name = str(part[REPLY_PART.size : end], "utf-8")
    except (struct.error, UnicodeDecodeError) as error:
        raise FrameError(f"A reply part of {len(part)} bytes is broken: {error}.") from None
    return Reply(status, name, rows, bytes(part[end + WORD.size :]), media)
