"""The prediction log: what was asked and answered, on disk before the caller hears of it.

Each model in each environment has a folder, ``log/<environment>/<model>/``, of segments that
are only appended to. A segment is a run of records, little-endian::

    header, 56 bytes: its checksum, checksum of the rest, figures, three lengths
    id | request body | reply body

One batch is one write, so a killed gateway leaves whole records and at most one torn at the end;
checksums find it. A record may also be a *watermark* (everything that arrived before a time has
ended, and is logged) or the *close* that ends a segment nobody will write to again. Segments are
named after the time they begin, in microseconds: their order is the order of their names.

Two gateways may write at once while one hands over to the other, each to segments of its own. A
writer holds a lock on the segment that it writes to, so that a segment without a close is known
to be at its end when its writer has died.

Write with `PredictionLog`; read with `read`, `count_arms`, `watermark`, `closed_segments`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from penstock.inference.prediction_log.disk import Disk

HEADER = struct.Struct("<IIBBBBHHIIIqqIII")
"""Header checksum, body checksum, record, role, outcome, kind, status, id length, number,
generation, rows, arrived, ended, request length, reply length, bucket + 1."""
SEGMENT_BYTES = 16 * 2**20
SEGMENT_S = 60.0
LATEST_END_US = 60_000_000
"""No request ends later than this after it arrived; far above every deadline."""

_FIELDS = range(16)
_HEADER_SUM, _BODY_SUM, _RECORD, _ROLE, _OUTCOME, _KIND, _STATUS, _ID_LENGTH = _FIELDS[:8]
_NUMBER, _GENERATION, _ROWS, _ARRIVED, _ENDED, _REQUEST_LENGTH, _REPLY_LENGTH = _FIELDS[8:15]
_BUCKET = _FIELDS[15]
_PREDICTION, _WATERMARK, _CLOSE = 1, 2, 3
"""What a record is."""
_SUFFIX = ".seg"
_ROLES = ("", "champion", "challenger", "previous", "warm", "explicit", "shadow")
_ROLE_CODES = {role: code for code, role in enumerate(_ROLES)}

_logger = logging.getLogger(__name__)


class Outcome(IntEnum):
    """What became of one attempt to have a request answered."""

    ANSWERED = 1
    """The caller got this arm's answer (a 4xx that is the caller's own fault included)."""
    FAILED = 2
    """An error of this arm: 5xx, dead, late, or refused what the champion accepted."""
    FALLBACK = 3
    """The champion's answer in the challenger's place. No arm's count has it: the request
    was drawn for the challenger and counts there, once."""
    DISMISSED = 4
    """The challenger refused it and so did the champion: counts, and is no error."""


class Position(NamedTuple):
    """Where reading goes on."""

    segment: str
    offset: int


class Entry(NamedTuple):
    """One attempt to have one request answered."""

    arrived_us: int
    """Microseconds since 1970, UTC."""
    ended_us: int
    number: int
    role: str
    """``champion``, ``challenger``, ``explicit`` for a request that named the version, or
    ``shadow`` for a copy, whose answer nobody got: its id is that of the request copied."""
    status: int
    """HTTP status of this attempt's own answer."""
    outcome: Outcome
    generation: int
    """Of the split under which the request was drawn."""
    rows: int
    kind: int
    """As in `frames`: Open Inference Protocol or ``/invocations``."""
    id: str
    request: bytes
    """Empty for a request that was shed, so that a flood cannot fill the disk."""
    reply: bytes
    position: Position = Position("", 0)
    """Just behind this entry; give it to `read` as `after` to go on."""
    bucket: int = -1
    """Where the request's key fell, 0 to 9999; -1 for a request that was drawn by itself."""


class ArmCount(NamedTuple):
    """The requests drawn for one arm, and how many of them were bad."""

    requests: int
    errors: int
    slow: int


def encode(entry: Entry) -> bytes:
    """Return the bytes of one record."""
    name = entry.id.encode()
    body = b"".join((name, entry.request, entry.reply))
    figures = (
        zlib.crc32(body),
        _PREDICTION,
        _ROLE_CODES[entry.role],
        entry.outcome,
        entry.kind,
        entry.status,
        len(name),
        entry.number,
        entry.generation,
        entry.rows,
        entry.arrived_us,
        entry.ended_us,
        len(entry.request),
        len(entry.reply),
        entry.bucket + 1,
    )
    return _sealed(figures) + body


def _sealed(figures: Sequence[int]) -> bytes:
    header = HEADER.pack(0, *figures)
    return struct.pack("<I", zlib.crc32(header[4:])) + header[4:]


def _mark(record: int, time_us: int) -> bytes:
    return _sealed((0, record, 0, 0, 0, 0, 0, 0, 0, 0, time_us, time_us, 0, 0, 0))


@dataclass(slots=True)
class _Segment:
    path: Path
    fd: int
    opened_us: int
    size: int = 0
    entries: int = 0


class PredictionLog:
    """Appends to the logs of all models, from one thread; a second one syncs them to disk.

    A disk that refuses a write costs log entries, never predictions: what could not be written
    is counted in `drops` and said once.
    """

    def __init__(
        self,
        root: Path,
        *,
        clock_us: Callable[[], int],
        write: Callable[[int, bytes], int] = os.write,
        segment_bytes: int = SEGMENT_BYTES,
        segment_s: float = SEGMENT_S,
    ) -> None:
        self.drops: Counter[tuple[str, str]] = Counter()
        """Entries lost so far, by environment and model."""
        self._root = root
        self._clock_us = clock_us
        self._write = write
        self._segment_bytes = segment_bytes
        self._segment_us = int(segment_s * 1e6)
        self._segments: dict[tuple[str, str], _Segment] = {}
        self._marks: dict[tuple[str, str], int] = {}
        self._last_name_us = 0
        self._refused = False
        self._disk = Disk()

    def append(self, environment: str, model: str, entries: Sequence[Entry]) -> None:
        """Log one batch in one write."""
        key = (environment, model)
        payload = b"".join([encode(entry) for entry in entries])
        if self._put(key, payload, entries=len(entries)):
            self._refused = False
        else:
            self.drops[key] += len(entries)

    def mark(self, environment: str, model: str, before_us: int) -> None:
        """Say that everything that arrived before a time has ended and is logged."""
        self._marks[environment, model] = before_us
        self._put((environment, model), _mark(_WATERMARK, before_us), entries=0)

    def close_old(self) -> None:
        """Close the segments that have reached their age, so that they can be converted."""
        now_us = self._clock_us()
        for key, segment in list(self._segments.items()):
            if segment.entries and now_us - segment.opened_us >= self._segment_us:
                self._retire(key)

    def close(self) -> None:
        """Close every segment and wait for the disk."""
        for key in list(self._segments):
            self._retire(key)
        self._disk.stop()

    def _put(self, key: tuple[str, str], payload: bytes, *, entries: int) -> bool:
        try:
            segment = self._segment(key, len(payload))
            written = self._write(segment.fd, payload)
        except OSError as error:
            self._refuse(key, error)
            return False
        if written != len(payload):
            self._refuse(key, OSError(f"only {written} of {len(payload)} bytes were written"))
            return False
        segment.size += written
        segment.entries += entries
        self._disk.touch(segment.fd)
        return True

    def _segment(self, key: tuple[str, str], coming_bytes: int) -> _Segment:
        now_us = self._clock_us()
        segment = self._segments.get(key)
        if segment is not None:
            full = segment.size and segment.size + coming_bytes > self._segment_bytes
            old = segment.entries and now_us - segment.opened_us >= self._segment_us
            if not full and not old:
                return segment
            self._retire(key)
        return self._open(key, now_us)

    def _open(self, key: tuple[str, str], now_us: int) -> _Segment:
        folder = self._root.joinpath(*key)
        folder.mkdir(parents=True, exist_ok=True)
        newest = max((_began_us(path) for path in _segments(folder)), default=0)
        # A clock that went back must not put new records before old ones.
        name_us = max(now_us, newest + 1, self._last_name_us + 1)
        while (fd := _created(folder, name_us)) is None:  # another gateway was faster
            name_us += 1
        self._last_name_us = name_us
        self._disk.opened(folder)
        path = folder / f"{name_us:017d}{_SUFFIX}"
        segment = self._segments[key] = _Segment(path, fd, now_us)
        if key in self._marks:  # this writer's last word stands in what it still writes to
            segment.size += self._write(fd, _mark(_WATERMARK, self._marks[key]))
        return segment

    def _retire(self, key: tuple[str, str]) -> None:
        segment = self._segments.pop(key)
        with suppress(OSError):  # unclosed, it counts as closed once a newer one is there
            self._write(segment.fd, _mark(_CLOSE, self._clock_us()))
        self._disk.retire(segment.fd)

    def _refuse(self, key: tuple[str, str], error: OSError) -> None:
        segment = self._segments.get(key)
        if segment is not None:
            try:
                os.ftruncate(segment.fd, segment.size)
            except OSError:
                self._disk.retire(self._segments.pop(key).fd)
        if not self._refused:
            _logger.error("The prediction log of %s/%s cannot be written: %s.", *key, error)
        self._refused = True


def _created(folder: Path, name_us: int) -> int | None:
    """Make a segment that is locked as soon as it has its name; None when the name is taken."""
    made = folder / f".{name_us:017d}.{os.getpid()}.{threading.get_ident()}"
    fd = os.open(made, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        (folder / f"{name_us:017d}{_SUFFIX}").hardlink_to(made)
    except FileExistsError:
        os.close(fd)
        return None
    finally:
        made.unlink(missing_ok=True)
    return fd


def read(folder: Path, *, after: Position | None = None) -> Iterator[Entry]:
    """Read a model's entries in the order in which they were logged.

    A torn end is skipped. What is behind the last entry is read next time: go on from its
    `position`, which stays good when older segments are deleted.
    """
    for path in _segments(folder):
        if after is not None and path.name < after.segment:
            continue
        offset = after.offset if after is not None and path.name == after.segment else 0
        yield from read_segment(path, offset)


def read_segment(path: Path, offset: int = 0) -> Iterator[Entry]:
    """Read the entries of one segment."""
    view = _bytes(path, offset)
    for start, figures in _records(view):
        if figures[_RECORD] != _PREDICTION:
            continue
        entry = _entry(view, start, figures)
        if entry is None:
            return
        yield entry._replace(position=Position(path.name, offset + entry.position.offset))


def closed_segments(folder: Path) -> list[Path]:
    """Return the segments that nobody will write to again, oldest first."""
    return [path for path in _segments(folder) if _is_closed(path)]


def open_segments(folder: Path) -> list[Path]:
    """Return the segments that may still grow: one for each gateway that writes."""
    return [path for path in _segments(folder) if not _is_closed(path)]


def watermark(folder: Path) -> int | None:
    """Return the time, in microseconds, before which every arrived request is in the log.

    Each gateway that still writes answers for its own requests, so the earliest of their words
    holds; one that has ended has none open. None where none has said so yet.
    """
    paths = _segments(folder)
    live = [path for path in paths if not _is_closed(path)]
    if live:
        said = [_last_mark(path) for path in live]
        known = [time_us for time_us in said if time_us is not None]
        return min(known) if len(known) == len(said) else None
    for path in reversed(paths):
        time_us = _last_mark(path)
        if time_us is not None:
            return time_us
    return None


def _last_mark(path: Path) -> int | None:
    marks = [f[_ARRIVED] for _, f in _records(_bytes(path)) if f[_RECORD] == _WATERMARK]
    return marks[-1] if marks else None


def count_arms(
    folder: Path,
    *,
    since_us: int,
    until_us: int,
    slow_ms: float,
    generations: Collection[int] | None = None,
) -> dict[str, ArmCount]:
    """Count by role the requests that arrived in ``[since_us, until_us)``, from headers alone.

    Parameters
    ----------
    slow_ms
        A request is slow when it took longer than this.
    generations
        Count only requests drawn under these splits; None counts all.
    """
    slow_us = slow_ms * 1000
    counts: dict[int, list[int]] = {}
    for path in _between(_segments(folder), since_us, until_us):
        for _, f in _records(_bytes(path)):
            if f[_RECORD] != _PREDICTION or f[_OUTCOME] == Outcome.FALLBACK:
                continue
            if not since_us <= f[_ARRIVED] < until_us:
                continue
            if generations is not None and f[_GENERATION] not in generations:
                continue
            count = counts.setdefault(f[_ROLE], [0, 0, 0])
            count[0] += 1
            count[1] += f[_OUTCOME] == Outcome.FAILED
            count[2] += f[_ENDED] - f[_ARRIVED] > slow_us
    return {_ROLES[role]: ArmCount(*count) for role, count in counts.items()}


def _segments(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{_SUFFIX}"))


def _began_us(path: Path) -> int:
    return int(path.name.removesuffix(_SUFFIX))


def _between(paths: Sequence[Path], since_us: int, until_us: int) -> Iterator[Path]:
    """Leave out segments that ended before the time, or began long after it."""
    for path in paths:
        if _began_us(path) >= until_us + LATEST_END_US:
            continue
        closed_us = _closed_us(path)
        if closed_us is None or closed_us > since_us:
            yield path


def _is_closed(path: Path) -> bool:
    """Say whether nobody will write to a segment again: it says so, or its writer is gone."""
    if _closed_us(path) is not None:
        return True
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _closed_us(path: Path) -> int | None:
    """Return when a segment was closed; None for one that was not."""
    try:
        tail = _bytes(path, max(path.stat().st_size - HEADER.size, 0))
    except FileNotFoundError:
        return None
    f = _figures(tail, 0)
    return f[_ARRIVED] if f is not None and f[_RECORD] == _CLOSE else None


def _bytes(path: Path, offset: int = 0) -> bytes:
    """Return what a segment holds now; nothing for one that was deleted meanwhile.

    Read, not mapped: the writer cuts off what a full disk took half of, and a mapped page that
    is gone kills its reader.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""


def _records(view: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Walk over the headers, up to the end or the first one that is not whole."""
    offset = 0
    while (f := _figures(view, offset)) is not None:
        yield offset, f
        offset += HEADER.size + _body_size(f)


def _figures(view: bytes, offset: int) -> tuple[int, ...] | None:
    end = offset + HEADER.size
    if end > len(view):
        return None
    f = HEADER.unpack_from(view, offset)
    whole = zlib.crc32(view[offset + 4 : end]) == f[_HEADER_SUM]
    return f if whole and end + _body_size(f) <= len(view) else None


def _body_size(f: tuple[int, ...]) -> int:
    return f[_ID_LENGTH] + f[_REQUEST_LENGTH] + f[_REPLY_LENGTH]


def _entry(view: bytes, start: int, f: tuple[int, ...]) -> Entry | None:
    """Return the entry behind a header; None when its body is damaged."""
    begin = start + HEADER.size
    request = begin + f[_ID_LENGTH]
    reply = request + f[_REQUEST_LENGTH]
    end = reply + f[_REPLY_LENGTH]
    if zlib.crc32(view[begin:end]) != f[_BODY_SUM]:
        return None
    return Entry(
        arrived_us=f[_ARRIVED],
        ended_us=f[_ENDED],
        number=f[_NUMBER],
        role=_ROLES[f[_ROLE]],
        status=f[_STATUS],
        outcome=Outcome(f[_OUTCOME]),
        generation=f[_GENERATION],
        rows=f[_ROWS],
        kind=f[_KIND],
        id=view[begin:request].decode(errors="replace"),
        request=view[request:reply],
        reply=view[reply:end],
        position=Position("", end),
        bucket=f[_BUCKET] - 1,
    )
