"""The prediction log: what was asked and answered, on disk before the caller hears of it.

Each model in each environment has a folder, ``log/<environment>/<model>/``, of segments that
are only appended to: a run of the records of records.py. One batch is one write, so a killed
gateway leaves whole batches and at most one torn at the end, whose callers were not answered.

A segment is called after the microsecond in which it begins and the writer whose it is:
``01790000000000000-9f3c1a.seg``. As long as its writer lives it holds a lock on it, so that two
gateways can write side by side, and what a killed one left counts as closed at once.

Write with `PredictionLog`; read with `read`, `closed_segments` and counting.py.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from penstock.inference.prediction_log import records
from penstock.inference.prediction_log.disk import Disk
from penstock.inference.prediction_log.records import CLOSE, HEAD, WATERMARK, Entry, Gap, Outcome

__all__ = ["Entry", "Outcome", "PredictionLog", "closed_segments", "read", "segments"]

SEGMENT_BYTES = 16 * 2**20
SEGMENT_S = 60.0
SUFFIX = ".seg"

SHADOW = "shadow"

_MARKED_LATELY_US = 1_000_000
_HOUR_US = 3_600_000_000
_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Segment:
    path: Path
    fd: int
    opened_us: int
    size: int = 0
    entries: int = 0
    marked_us: int = 0
    """The last watermark, and when it was said."""
    marked_at_us: int = 0


class PredictionLog:
    """Appends to the logs of all models, from one thread; a second one syncs them to disk.

    A disk that refuses a write costs log entries, never predictions: what could not be written
    is counted in `drops` and said once, and the log itself tells of the gap when it goes on.
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
        self.dropped_us: dict[tuple[str, str], int] = {}
        """When the last one was."""
        self._root = root
        self._clock_us = clock_us
        self._write = write
        self._segment_bytes = segment_bytes
        self._segment_us = int(segment_s * 1e6)
        self._segments: dict[tuple[str, str], _Segment] = {}
        self._gaps: defaultdict[tuple[str, str], dict[tuple[int, int], Gap]]
        self._gaps = defaultdict(dict)
        """What is still to be told, by version and hour."""
        self._writer = secrets.token_hex(4)
        self._last_name_us = 0
        self._refused = False
        self._disk = Disk()

    def append(self, environment: str, model: str, entries: Sequence[Entry]) -> bool:
        """Log one batch in one write; say whether it is on disk."""
        key = (environment, model)
        if self._put(key, records.encode(entries), entries=len(entries)) is not None:
            self._refused = False
            return True
        self.drops[key] += len(entries)
        self.dropped_us[key] = self._clock_us()
        self._miss(self._gaps[key], entries)
        return False

    def mark(self, environment: str, model: str, before_us: int) -> None:
        """Say that everything that arrived before a time has ended and is logged."""
        segment = self._put((environment, model), records.mark(WATERMARK, before_us))
        if segment is not None:
            segment.marked_us, segment.marked_at_us = before_us, self._clock_us()

    def close_old(self) -> None:
        """Close the segments that have reached their age, so that they can be converted.

        To be called each second or so: no append looks at the clock.
        """
        now_us = self._clock_us()
        for key, segment in list(self._segments.items()):
            if segment.entries and now_us - segment.opened_us >= self._segment_us:
                # Where somebody waits for watermarks, this writer must not seem to be gone.
                if now_us - segment.marked_at_us < _MARKED_LATELY_US:
                    with suppress(OSError):
                        self._follow(key, now_us)
                else:
                    self._retire(self._segments.pop(key))

    def close(self) -> None:
        """Close every segment and wait for the disk."""
        for key in list(self._gaps):
            self._put(key, b"")
        for key in list(self._segments):
            self._retire(self._segments.pop(key))
        self._disk.stop()

    def _put(self, key: tuple[str, str], payload: bytes, *, entries: int = 0) -> _Segment | None:
        gaps = self._gaps.get(key)
        if gaps:
            payload = b"".join((*map(records.gap, gaps.values()), payload))
            entries += len(gaps)
        try:
            segment = self._segment(key, len(payload))
            written = self._write(segment.fd, payload)
        except OSError as error:
            self._refuse(key, error)
            return None
        if written != len(payload):
            self._refuse(key, OSError(f"only {written} of {len(payload)} bytes were written"))
            return None
        if gaps:
            del self._gaps[key]
        segment.size += written
        segment.entries += entries
        self._disk.touch(segment.fd)
        return segment

    @staticmethod
    def _miss(gaps: dict[tuple[int, int], Gap], entries: Sequence[Entry]) -> None:
        """Count answers that are not logged; what is only a copy counts nowhere."""
        for entry in entries:
            if entry.role == SHADOW:
                continue
            at = entry.arrived_us
            hour = (entry.number, at // _HOUR_US)
            known = gaps.get(hour) or Gap(entry.number, at, at, 0, 0)
            gaps[hour] = Gap(
                entry.number,
                min(known.since_us, at),
                max(known.until_us, at),
                known.answers + 1,
                known.rows + max(entry.rows, 1),
            )

    def _segment(self, key: tuple[str, str], coming_bytes: int) -> _Segment:
        segment = self._segments.get(key)
        if segment is None:
            return self._open(key, self._clock_us())
        if segment.size and segment.size + coming_bytes > self._segment_bytes:
            return self._follow(key, self._clock_us())
        return segment

    def _follow(self, key: tuple[str, str], now_us: int) -> _Segment:
        """Open the next segment, with the last watermark in it, and then close the one before."""
        before = self._segments[key]
        segment = self._open(key, now_us)
        if before.marked_us:
            segment.marked_us, segment.marked_at_us = before.marked_us, before.marked_at_us
            with suppress(OSError):
                segment.size = self._write(segment.fd, records.mark(WATERMARK, before.marked_us))
        self._retire(before)
        return segment

    def _open(self, key: tuple[str, str], now_us: int) -> _Segment:
        folder = self._root.joinpath(*key)
        folder.mkdir(parents=True, exist_ok=True)
        newest = max((began_us(path) for path in segments(folder)), default=0)
        # A clock that went back must not put new records before old ones.
        name_us = self._last_name_us = max(now_us, newest + 1, self._last_name_us + 1)
        path = folder / f"{name_us:017d}-{self._writer}{SUFFIX}"
        hidden = path.with_suffix(".new")
        fd = os.open(hidden, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before anybody can see it
            hidden.rename(path)
        except OSError:
            os.close(fd)
            raise
        self._disk.opened(folder)
        segment = self._segments[key] = _Segment(path, fd, now_us)
        return segment

    def _retire(self, segment: _Segment) -> None:
        with suppress(OSError):  # unclosed, it counts as closed once the lock is gone
            self._write(segment.fd, records.mark(CLOSE, self._clock_us()))
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


def read(folder: Path) -> Iterator[Entry]:
    """Read a model's entries, segment by segment, in the order in which they were logged."""
    for path in segments(folder):
        yield from read_segment(path)


def read_segment(path: Path) -> Iterator[Entry]:
    """Read the entries of one segment; a torn end and a damaged batch are passed over.

    Read, not mapped: the writer cuts off what a full disk took half of, and a mapped page that
    is gone kills its reader.
    """
    try:
        whole = path.read_bytes()
    except FileNotFoundError:  # converted and deleted meanwhile
        return

    def at(offset: int, size: int) -> bytes:
        return whole[offset : offset + size]

    for found in records.walk(at, len(whole)):
        if found.record == records.BATCH:
            yield from records.entries(found, at)


def segments(folder: Path) -> list[Path]:
    """Return a model's segments, oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def closed_segments(folder: Path) -> list[Path]:
    """Return the segments that nobody will write to again, oldest first."""
    return [path for path in segments(folder) if is_closed(path)]


def is_closed(path: Path) -> bool:
    """Return whether its writer has closed it, or is gone."""
    try:
        with path.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - HEAD.size, 0))
            tail = file.read()
            last = next(records.walk(lambda at, size: tail[at : at + size], len(tail)), None)
            if last is not None and last.record == CLOSE:
                return True
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def began_us(path: Path) -> int:
    """Return when a segment begins."""
    return int(path.name.partition("-")[0].removesuffix(SUFFIX))


def writer_of(path: Path) -> str:
    """Return which gateway's log a segment is part of."""
    return path.name.partition("-")[2].removesuffix(SUFFIX)
