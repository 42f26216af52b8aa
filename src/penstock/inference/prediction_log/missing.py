"""What a log lacks: answers that a full disk did not take, and hours that its bound let go.

Both stand beside the fresh files of a log, so that a period that rests on the log can say what
it did not see: ``<segment>.gaps`` once the segment is converted, and ``dropped.json``. What is
older than any period is forgotten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from penstock.inference.prediction_log import records
from penstock.inference.prediction_log.records import Gap

KEPT = timedelta(days=62)
"""Far longer than a month, the longest period of a monitor."""
SUFFIX = ".gaps"
_DROPPED = "dropped.json"

Files = Mapping[str, Mapping[int, int]]
"""Rows by version, of each file of an hour."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What the rows of a span of time lack; it may be in the span, or just beside it."""

    gaps: tuple[Gap, ...]
    dropped: Files


def gaps_in(segment: Path) -> Iterator[Gap]:
    """Give the gaps that a segment tells of, without reading what was logged."""
    with segment.open("rb") as file:

        def at(offset: int, size: int) -> bytes:
            return os.pread(file.fileno(), size, offset)

        for found in records.walk(at, os.fstat(file.fileno()).st_size):
            if found.record == records.GAP:
                yield from records.gaps(found, at)


def write_gaps(target: Path, gaps: Iterable[Gap]) -> None:
    """Keep the gaps of a segment."""
    _write(target, [list(gap) for gap in gaps])


def read_gaps(path: Path) -> list[Gap]:
    """Return the gaps of a segment."""
    return [Gap(*values) for values in json.loads(path.read_text("utf-8"))]


def say_dropped(folder: Path, files: Files, now: datetime) -> None:
    """Remember what files are dropped that held so many rows of each version."""
    kept = {name: of for name, of in dropped(folder).items() if day_of(name) > now - KEPT}
    _write(folder / _DROPPED, {**kept, **files})


def dropped(folder: Path) -> dict[str, dict[int, int]]:
    """Return what was dropped."""
    path = folder / _DROPPED
    if not path.exists():
        return {}
    told = json.loads(path.read_text("utf-8"))
    return {name: {int(number): rows for number, rows in of.items()} for name, of in told.items()}


def day_of(name: str) -> datetime:
    """Return the day of a file of an hour.

    Examples
    --------
    >>> day_of("production/churn/date=2026-11-30/hour=22/a.parquet")
    datetime.datetime(2026, 11, 30, 0, 0, tzinfo=datetime.timezone.utc)
    """
    day = name.split("/")[-3]
    return datetime.strptime(day, "date=%Y-%m-%d").replace(tzinfo=UTC)


def _write(target: Path, told: object) -> None:
    hidden = target.with_name(f"{target.name}.tmp")
    with hidden.open("w", encoding="utf-8") as file:
        json.dump(told, file)
        file.flush()
        os.fsync(file.fileno())
    hidden.replace(target)
