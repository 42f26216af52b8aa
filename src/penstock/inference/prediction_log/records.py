"""The bytes of the prediction log: one record is one batch, and is whole or is not there.

A record, little-endian::

    head, 32 bytes | one line of figures for each entry | id, request, reply of each entry
                     `------- checked by the head ------' `--- checked by a second checksum --'

What counts entries reads figures and skips bodies. A record may also be a *watermark* (everything
that arrived before a time has ended, and is logged), the *close* that ends a segment, or a
*gap*: so many answers were given before it that could not be logged.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import NamedTuple

FORMAT = 2
"""Of the records; a segment of another format is left alone."""
HEAD = struct.Struct("<IIBBHIqQ")
"""Checksum of the rest of the head and of the figures, checksum of the bodies, record, format,
number of entries, zero, time, bytes of the bodies."""
FIGURES = struct.Struct("<qIIIIIIHHhBBBBBB")
"""Arrived, took, number, generation, rows, length of request, of reply, status, code, bucket,
length of the id, role, outcome, kind, media, flags."""
BATCH, WATERMARK, CLOSE, GAP = 1, 2, 3, 4
"""What a record is."""
ROLES = ("", "champion", "challenger", "previous", "warm", "explicit", "shadow", "control")
"""By code: a role keeps its place."""

_SUM, _TAIL = struct.Struct("<I"), struct.Struct("<" + HEAD.format[2:])
"""The head's first field, and the rest."""
_pack, _crc32 = FIGURES.pack, zlib.crc32
_GAP = struct.Struct("<IqqII")
_CODES = {role: code for code, role in enumerate(ROLES)}
_WITHOUT = 1
_MOST_US = 2**32 - 1


class Outcome(IntEnum):
    """What became of one attempt to have a request answered."""

    ANSWERED = 1
    """The caller got this arm's answer (a 4xx that is the caller's own fault included)."""
    FAILED = 2
    """An error of this arm: 5xx, dead, late, or refused what the champion accepted."""
    FALLBACK = 3
    """The champion's answer in an arm's place. No arm's count has it: the request was drawn
    for the challenger, or the control arm, and counts there, once."""
    DISMISSED = 4
    """The arm refused it and so did the champion: counts, and is no error."""


class Entry(NamedTuple):
    """One attempt to have one request answered."""

    arrived_us: int
    """Microseconds since 1970, UTC."""
    ended_us: int
    number: int
    role: str
    """``champion``, ``challenger``, ``control``, ``shadow``, or ``explicit`` for a request that
    named the version."""
    status: int
    """HTTP status of this attempt's own answer."""
    outcome: Outcome
    generation: int
    """Of the split under which the request was drawn."""
    rows: int
    kind: int
    """As in `frames`: Open Inference Protocol, ``/invocations``, ..."""
    id: str
    request: bytes
    """Empty for a request that was shed, so that a flood cannot fill the disk."""
    reply: bytes
    media: int = 0
    """Of the reply, as in `frames`."""
    code: str = ""
    """Of the error, such as ``PS504``; empty where the reply has its own."""
    bucket: int = -1
    """Where a key put the request, of 10,000; -1 when it was drawn without one."""
    without: bool = False
    """Whether columns were left out of `request`; see redaction.py."""


class Gap(NamedTuple):
    """Answers of one version that could not be logged."""

    number: int
    since_us: int
    until_us: int
    answers: int
    rows: int
    """That the log would have of them."""

    @property
    def since(self) -> datetime:
        """When the first of them arrived."""
        return datetime.fromtimestamp(self.since_us / 1e6, UTC)

    @property
    def until(self) -> datetime:
        """When the last of them arrived."""
        return datetime.fromtimestamp(self.until_us / 1e6, UTC)


class Record(NamedTuple):
    """One record as its head tells it."""

    record: int
    time_us: int
    """Of a watermark: the time that it says."""
    figures: bytes
    """`FIGURES` of each entry; empty for a mark."""
    body: int
    """Where the bodies begin."""
    body_bytes: int
    body_sum: int

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.body + self.body_bytes


At = Callable[[int, int], bytes]
"""Returns what stands at an offset, so many bytes or what there is."""


def encode(entries: Sequence[Entry]) -> bytes:
    """Return the record of a batch."""
    figures = bytearray()
    bodies: list[bytes] = []
    for (
        arrived, ended, number, role, status, outcome, generation, rows, kind, id_,
        request, reply, media, code, bucket, without,
    ) in entries:  # fmt: skip
        name = id_.encode()
        took = ended - arrived
        figures += _pack(
            arrived, took if 0 <= took <= _MOST_US else 0 if took < 0 else _MOST_US, number,
            generation, rows, len(request), len(reply), status, int(code[2:]) if code else 0,
            bucket, len(name), _CODES[role], outcome, kind, media, _WITHOUT if without else 0,
        )  # fmt: skip
        bodies += (name, request, reply)
    return _sealed(BATCH, len(entries), 0, figures, b"".join(bodies))


def mark(record: int, time_us: int) -> bytes:
    """Return a watermark or a close."""
    return _sealed(record, 0, time_us, b"", b"")


def gap(of: Gap) -> bytes:
    """Return the record of a gap."""
    return _sealed(GAP, 0, 0, b"", _GAP.pack(*of))


def gaps(found: Record, at: At) -> Iterator[Gap]:
    """Give the gap that a record tells of; none when it is damaged."""
    body = at(found.body, found.body_bytes)
    if zlib.crc32(body) == found.body_sum and len(body) == _GAP.size:
        yield Gap(*_GAP.unpack(body))


def _sealed(
    record: int, entries: int, time_us: int, figures: bytes | bytearray, body: bytes
) -> bytes:
    head = _TAIL.pack(_crc32(body), record, FORMAT, entries, 0, time_us, len(body))
    return b"".join((_SUM.pack(_crc32(figures, _crc32(head))), head, figures, body))


def walk(at: At, size: int, offset: int = 0) -> Iterator[Record]:
    """Give the records from an offset on, up to the end or the first one that is not whole."""
    while (found := _record(at, size, offset)) is not None:
        yield found
        offset = found.end


def _record(at: At, size: int, offset: int) -> Record | None:
    head = at(offset, HEAD.size)
    if len(head) < HEAD.size:
        return None
    checksum, body_sum, record, form, entries, _, time_us, body_bytes = HEAD.unpack(head)
    body = offset + HEAD.size + entries * FIGURES.size
    if form != FORMAT or body + body_bytes > size:
        return None
    figures = at(offset + HEAD.size, entries * FIGURES.size) if entries else b""
    if zlib.crc32(figures, zlib.crc32(head[4:])) != checksum:
        return None
    return Record(record, time_us, figures, body, body_bytes, body_sum)


def entries(found: Record, at: At) -> Iterator[Entry]:
    """Give the entries of a record; none when its bodies are damaged."""
    view = at(found.body, found.body_bytes)
    if zlib.crc32(view) != found.body_sum:
        return
    start = 0
    for (
        arrived, took, number, generation, rows, request_length, reply_length, status, code,
        bucket, id_length, role, outcome, kind, media, flags,
    ) in FIGURES.iter_unpack(found.figures):  # fmt: skip
        request = start + id_length
        reply = request + request_length
        end = reply + reply_length
        yield Entry(
            arrived_us=arrived,
            ended_us=arrived + took,
            number=number,
            role=ROLES[role],
            status=status,
            outcome=Outcome(outcome),
            generation=generation,
            rows=rows,
            kind=kind,
            id=view[start:request].decode(errors="replace"),
            request=view[request:reply],
            reply=view[reply:end],
            media=media,
            code=f"PS{code:03d}" if code else "",
            bucket=bucket,
            without=bool(flags & _WITHOUT),
        )
        start = end
