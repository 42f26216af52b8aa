"""A prediction log that is written, and the hours that are made of it, with crashes at will."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.domain import JSON, Environment
from penstock.inference.prediction_log.hour_store import HourStore
from penstock.inference.prediction_log.hours import HOUR, Hours
from penstock.inference.prediction_log.records import Entry, Outcome
from penstock.inference.prediction_log.segments import PredictionLog
from penstock.inference.prediction_log.table import Of
from penstock.inference.program.frames import INVOCATIONS

BEGIN = datetime(2026, 11, 30, 22, 50, tzinfo=UTC)
ALWAYS = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
SIGNATURE: JSON = {
    "columns": [{"name": "x", "datatype": "FP64", "optional": True}],
    "task": "regression",
    "classes": None,
    "positive": None,
}


def us(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6)


def entry(name: str, at: datetime, x: float = 1.5) -> Entry:
    return Entry(
        arrived_us=us(at),
        ended_us=us(at) + 2000,
        number=1,
        role="champion",
        status=200,
        outcome=Outcome.ANSWERED,
        generation=1,
        rows=1,
        kind=INVOCATIONS,
        id=name,
        request=json.dumps({"inputs": {"x": [x]}}).encode(),
        reply=b'{"predictions": [2.5]}',
    )


def signature_of(_number: int) -> JSON | None:
    return SIGNATURE


class Crash(BaseException):
    """As a kill -9 at a point."""


class House:
    """A log that is written, and the hours that are made of it."""

    def __init__(self, root: Path, url: str | None = None) -> None:
        self.root = root
        self.url = url or str(root / "parquet")
        self.now = BEGIN
        self.count = 0
        self.log = PredictionLog(root / "log", clock_us=lambda: us(self.now))
        self.crash_at = 0
        self.points: list[str] = []

    def reached(self, point: str) -> None:
        self.points.append(point)
        if len(self.points) == self.crash_at:
            raise Crash

    @property
    def hours(self) -> Hours:
        return Hours(
            Of(Environment.PRODUCTION, "m"),
            self.root / "log" / "production" / "m",
            self.root / "parquet" / "production" / "m",
            HourStore(self.url),
            self.reached,
        )

    def answer(self, rows: int = 1, *, ago_s: float = 0) -> None:
        """Log some requests that arrived a while ago."""
        at = self.now - timedelta(seconds=ago_s)
        batch = [entry(f"r{self.count + k}", at) for k in range(rows)]
        self.count += rows
        assert self.log.append("production", "m", batch)

    def later(self, **by: float) -> None:
        self.now += timedelta(**by)
        self.log.close_old()

    def keep(self) -> None:
        """Do what the engine does each minute."""
        self.hours.convert(signature_of)
        self.hours.compact(self.now)
        self.hours.forget(datetime.fromtimestamp(time.time(), UTC) + HOUR)

    def rows(self) -> Counter[str]:
        with self.hours.found(*ALWAYS, signature_of) as found:
            names: Counter[str] = Counter()
            for file in found.files:
                fs: Any = found.filesystem if "://" in file else fsspec.filesystem("file")
                content = cast("bytes", fs.cat_file(file))
                table = pq.read_table(pa.BufferReader(content))
                names.update(table["request_id"].to_pylist())
            return names

    def all_once(self) -> bool:
        return self.rows() == Counter({f"r{k}": 1 for k in range(self.count)})

    def files(self) -> list[str]:
        return HourStore(self.url).names("production/m")


def two_hours(of: House) -> None:
    """Log over the turn of an hour, in several segments, one of which spans it."""
    of.answer(3)
    of.later(minutes=5)
    of.answer(2)
    of.later(minutes=4, seconds=50)
    of.answer(2)
    of.later(seconds=20)
    of.answer(1, ago_s=15)
    of.answer(2)
    of.later(minutes=2)
    of.answer(1)


KEEP = """
import os, signal, sys
from datetime import datetime, UTC
from pathlib import Path
from penstock.domain import Environment
from penstock.inference.prediction_log.hour_store import HourStore
from penstock.inference.prediction_log.hours import Hours
from penstock.inference.prediction_log.table import Of
root = Path(sys.argv[1])
def reached(point):
    if point == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
hours = Hours(
    Of(Environment.PRODUCTION, "m"),
    root / "log" / "production" / "m",
    root / "parquet" / "production" / "m",
    HourStore(sys.argv[3]),
    reached,
)
hours.convert(lambda number: None)
hours.compact(datetime(2026, 12, 1, 2, tzinfo=UTC))
"""
"""Moves rows and kills itself at a point: root, point, address of the store."""
