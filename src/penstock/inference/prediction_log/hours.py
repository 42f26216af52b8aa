"""The prediction log as Parquet by hour; every row is seen once, whoever dies when.

``parquet/<environment>/<model>/`` of the home holds

``fresh/<segment>.<hour>.parquet``
    The rows of one segment that arrived in one hour. They count as soon as
    ``fresh/<segment>.done`` is there, or the segment is gone; until then the segment counts.
``date=2026-11-30/hour=22/<first segment>.parquet``
    The rows of an hour that is over, from many fresh files; late ones get a file more. It names
    in its footer the fresh files that it holds: those count no more, though they may still be
    there. Where the operator set ``serving.log_url``, these files lie there instead.

So each move of rows is one rename, of the marker or of the hour's file, and what a crash leaves
half done is done again. Readers hold a lock while they read, so that nothing is taken away under
them; only taking away, and the marker, wait for it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.inference.prediction_log import missing
from penstock.inference.prediction_log.hour_store import HourStore
from penstock.inference.prediction_log.missing import Missing
from penstock.inference.prediction_log.records import Entry, Gap
from penstock.inference.prediction_log.segments import (
    SUFFIX,
    closed_segments,
    is_closed,
    read_segment,
    segments,
)
from penstock.inference.prediction_log.table import Of, SignatureOf, table_of

HOUR = timedelta(hours=1)
SETTLED = timedelta(minutes=3)
"""An hour's rows are in closed segments by then: a segment's age, and the longest request."""
_PARTS = b"penstock.parts"
_FORMAT = {b"penstock.format": b"2"}
_ROWS = 100_000
"""Of one row group, at least, where an hour has so many."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """Files that together hold every row of a span of time once, and rows outside of it."""

    files: list[str]
    filesystem: Any
    """An fsspec file system that opens those of them that are addresses; None where all are
    paths."""
    missing: Missing
    """What the files lack."""


class Excess(NamedTuple):
    """What has to go, so that the log keeps within its bound."""

    files: missing.Files
    hours: int
    rows: int
    until: datetime
    """Everything before it goes."""


@dataclass(frozen=True, slots=True)
class Hours:
    """The log of one model in one environment.

    Parameters
    ----------
    segments
        Folder of its segments.
    folder
        Of its Parquet.
    """

    of: Of
    segments: Path
    folder: Path
    store: HourStore
    reached: Callable[[str], None] = field(default=lambda _point: None)
    """Told of every point at which a crash must do no harm."""

    # ---- converting ------------------------------------------------------------------------

    def convert(self, signature_of: SignatureOf) -> int:
        """Turn every closed segment into fresh files; return how many were turned."""
        done = 0
        with self._alone():
            for segment in closed_segments(self.segments):
                if not self._marker(segment.stem).exists():
                    read = table_of(read_segment(segment), self.of, signature_of)
                    self._add(segment.stem, read, list(missing.gaps_in(segment)))
                    done += 1
        return done

    def adopt(self, files: Iterable[Path]) -> None:
        """Take over the Parquet of a release that kept one flat file a segment."""
        with self._alone():
            for file in files:
                if not file.stem.endswith("-open"):
                    self._add(file.stem, pq.read_table(file))
                file.unlink()

    def _add(self, stem: str, rows: pa.Table, gaps: Sequence[Gap] = ()) -> None:
        if gaps:
            missing.write_gaps(self._fresh / f"{stem}{missing.SUFFIX}", gaps)
        parts: list[tuple[Path, Path]] = []
        for hour, part in _by_hour(rows):
            target = self._fresh / f"{stem}.{hour:%Y%m%d%H}.parquet"
            hidden = target.with_suffix(".tmp")
            with pq.ParquetWriter(hidden, _described(part.schema, []), compression="zstd") as to:
                to.write_table(part)
            _sync(hidden)
            parts.append((hidden, target))
        self.reached("log/part:written")
        with self._locked(fcntl.LOCK_EX):
            for hidden, target in parts:
                hidden.replace(target)
                self.reached("log/part:there")
            _sync(self._fresh)
            self._marker(stem).touch()
            _sync(self._fresh)
        self.reached("log/part:counts")

    # ---- one file an hour ------------------------------------------------------------------

    def compact(self, now: datetime) -> int:
        """Put the rows of each hour that is over into one file; return how many hours."""
        done = 0
        with self._alone():
            if any(not self._marker(one.stem).exists() for one in closed_segments(self.segments)):
                return 0  # they may hold rows of the same hours: better one file than two
            for hour, parts in self._parts().items():
                if hour + HOUR + SETTLED <= now:
                    self._gather(hour, parts)
                    done += 1
        return done

    def _gather(self, hour: datetime, parts: Sequence[Path]) -> None:
        moved = self._held(self.store.names(self._place(hour)))
        left = [part for part in parts if part.name not in moved]
        if left:
            hidden = self._fresh / f"{hour:%Y%m%d%H}.tmp"
            _write_hour(hidden, left)
            self.reached("log/hour:written")
            first = left[0].name.partition(".")[0]
            self.store.put(hidden, f"{self._place(hour)}/{first}.parquet")
            hidden.unlink()
        self.reached("log/hour:counts")
        with self._locked(fcntl.LOCK_EX):
            for part in parts:
                part.unlink(missing_ok=True)
                self.reached("log/hour:one gone")

    def _held(self, names: Iterable[str]) -> set[str]:
        """Return the fresh files whose rows these files of an hour hold."""
        return {
            part
            for name in names
            for part in json.loads(self.store.footer(name).get(_PARTS, b"[]"))
        }

    # ---- deleting --------------------------------------------------------------------------

    def forget(self, before: datetime) -> None:
        """Delete converted segments that nobody wrote to since a time, and their markers."""
        with self._alone(), self._locked(fcntl.LOCK_EX):
            for segment in segments(self.segments):
                marker = self._marker(segment.stem)
                if marker.exists() and segment.stat().st_mtime < before.timestamp():
                    segment.unlink()
                    self.reached("log/segment:gone")
            for marker in self._fresh.glob("*.done"):
                if not (self.segments / f"{marker.stem}{SUFFIX}").exists():
                    marker.unlink()
            for told in self._fresh.glob(f"*{missing.SUFFIX}"):
                if told.stat().st_mtime < (before - missing.KEPT).timestamp():
                    told.unlink()

    def excess(self, most_bytes: int) -> Excess | None:
        """Return the oldest hours, which must go so that the log takes no more than so many bytes.

        What is fresh stays: the hour that is not over, and the last hour's segments.
        """
        size = _bytes(self._fresh, "*.parquet") + _bytes(self.segments, f"*{SUFFIX}")
        sizes = sorted(self.store.sizes(self._base).items())
        size += sum(of_file for _, of_file in sizes)
        names: list[str] = []
        while size > most_bytes and sizes:
            name, of_file = sizes.pop(0)
            names.append(name)
            size -= of_file
        if not names:
            return None
        hours = sorted({_hour_of(name.rpartition("/")[0]) for name in names})
        files = {name: self.store.rows(name) for name in names}
        rows = sum(sum(of.values()) for of in files.values())
        return Excess(files, len(hours), rows, hours[-1] + HOUR)

    def drop(self, files: missing.Files) -> None:
        """Delete files of hours, and remember what was in them."""
        with self._alone(), self._locked(fcntl.LOCK_EX):
            missing.say_dropped(self._fresh, files, max(map(missing.day_of, files)))
            for name in files:
                self.store.delete(name)
                self.reached("log/hour:dropped")

    # ---- reading ---------------------------------------------------------------------------

    @contextmanager
    def found(
        self,
        since: datetime,
        until: datetime,
        signature_of: SignatureOf,
        only: Callable[[Iterable[Entry]], Iterable[Entry]] = lambda entries: entries,
    ) -> Generator[Found]:
        """Give the files that hold all rows of ``[since, until)``, for as long as they are read.

        Parameters
        ----------
        only
            Chooses among the entries that are in segments alone; else all of them are converted.
        """
        scratch = tempfile.TemporaryDirectory(prefix="penstock-log-")
        with scratch as folder, self._locked(fcntl.LOCK_SH):
            # Looked at once: a file that comes while we read holds rows that we count as fresh.
            hours = self._hours()
            first = since.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
            files = [
                self.store.address(name)
                for hour, names in hours.items()
                if first <= hour < until
                for name in names
            ]
            for hour, parts in self._parts().items():
                if since < hour + HOUR and hour < until:
                    moved = self._held(hours.get(hour, []))
                    files += [str(part) for part in parts if part.name not in moved]
            raw = self._raw()
            if raw:
                target = Path(folder, "raw.parquet")
                entries = (entry for path in raw for entry in read_segment(path))
                pq.write_table(table_of(only(entries), self.of, signature_of), target)
                files.append(str(target))
            lacks = Missing(
                tuple(one for one in self._gaps(raw) if since <= one.until and one.since < until),
                {
                    name: of
                    for name, of in missing.dropped(self._fresh).items()
                    if first <= _hour_of(name.rpartition("/")[0]) < until
                },
            )
            yield Found(files, self.store.filesystem, lacks)

    def _gaps(self, raw: Iterable[Path]) -> Iterable[Gap]:
        for segment in raw:
            yield from missing.gaps_in(segment)
        for path in self._fresh.glob(f"*{missing.SUFFIX}"):
            if self._counts(path.stem):
                yield from missing.read_gaps(path)

    def _raw(self) -> list[Path]:
        """Return the segments whose rows are nowhere else."""
        return [one for one in segments(self.segments) if not self._marker(one.stem).exists()]

    def waiting(self) -> bool:
        """Whether there is something to convert, to put together or to delete."""
        paths = segments(self.segments)
        return any(map(is_closed, paths)) or any(self._fresh.glob("*.parquet"))

    def _hours(self) -> dict[datetime, list[str]]:
        """Return by hour the files of the hours that are over, in order."""
        found: defaultdict[datetime, list[str]] = defaultdict(list)
        for name in self.store.names(self._base):
            found[_hour_of(name.rpartition("/")[0])].append(name)
        return dict(found)

    def _parts(self) -> dict[datetime, list[Path]]:
        """Return by hour the fresh files that count, in the order of their segments."""
        found: defaultdict[datetime, list[Path]] = defaultdict(list)
        for path in sorted(self._fresh.glob("*.parquet")):
            stem, hour = path.name.split(".")[:2]
            if self._counts(stem):
                moment = datetime.strptime(hour, "%Y%m%d%H").replace(tzinfo=UTC)
                found[moment].append(path)
        return dict(sorted(found.items()))

    # ---- places and locks ------------------------------------------------------------------

    def _counts(self, stem: str) -> bool:
        """Whether a segment counts by what was made of it."""
        return self._marker(stem).exists() or not (self.segments / f"{stem}{SUFFIX}").exists()

    @property
    def _fresh(self) -> Path:
        return self.folder / "fresh"

    @property
    def _base(self) -> str:
        return f"{self.of.environment}/{self.of.model}"

    def _place(self, hour: datetime) -> str:
        return f"{self._base}/date={hour:%Y-%m-%d}/hour={hour:%H}"

    def _marker(self, stem: str) -> Path:
        return self._fresh / f"{stem}.done"

    @contextmanager
    def _locked(self, how: int, name: str = ".lock") -> Generator[None]:
        self._fresh.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._fresh / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Let one process at a time move rows; readers go on."""
        with self._locked(fcntl.LOCK_EX, ".moving"):
            for left in self._fresh.glob("*.tmp"):
                left.unlink()
            yield


def _by_hour(rows: pa.Table) -> Iterable[tuple[datetime, pa.Table]]:
    if not rows.num_rows:
        return
    hours = pc.floor_temporal(rows["ts"], unit="hour")
    for hour in sorted(pc.unique(hours).to_pylist()):
        yield hour, rows.filter(pc.equal(hours, pa.scalar(hour, hours.type)))


def _write_hour(target: Path, parts: Sequence[Path]) -> None:
    """Write one file from many, a row group at a time."""
    schema = _common([pq.read_schema(part) for part in parts])
    waiting: list[pa.Table] = []
    described = _described(schema, [part.name for part in parts])
    with pq.ParquetWriter(target, described, compression="zstd") as writer:
        for part in parts:
            waiting.append(_as(pq.read_table(part), schema))
            if sum(table.num_rows for table in waiting) >= _ROWS:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting.clear()
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())
    _sync(target)


def _described(schema: pa.Schema, parts: Sequence[str]) -> pa.Schema:
    return schema.with_metadata({**_FORMAT, _PARTS: json.dumps(parts).encode()})


def _common(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return every column, each of a type that all its values fit in."""
    kinds: dict[str, pa.DataType] = {}
    for schema in schemas:
        for column in schema:
            known = kinds.setdefault(column.name, column.type)
            if known != column.type:
                numbers = {known, column.type} == {pa.int64(), pa.float64()}
                kinds[column.name] = pa.float64() if numbers else pa.string()
    return pa.schema(list(kinds.items()))


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns: list[Any] = []
    for column in schema:
        if column.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, column.type))
            continue
        values = table[column.name]
        if values.type != column.type and column.type == pa.string():
            texts = [None if value is None else str(value) for value in values.to_pylist()]
            columns.append(pa.array(texts, pa.string()))
        else:
            columns.append(values.cast(column.type))
    return pa.table(columns, schema=schema)


def _hour_of(place: str) -> datetime:
    """Return the hour that a folder is about.

    Examples
    --------
    >>> _hour_of("production/churn/date=2026-11-30/hour=22")
    datetime.datetime(2026, 11, 30, 22, 0, tzinfo=datetime.timezone.utc)
    """
    day, hour = place.split("/")[-2:]
    return datetime.strptime(f"{day} {hour}", "date=%Y-%m-%d hour=%H").replace(tzinfo=UTC)


def _bytes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
