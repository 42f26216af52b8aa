"""What the log lacks is said: by the log, by each period that rests on it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.domain import Environment, Verdict
from penstock.inference.prediction_log import missing, records
from penstock.inference.prediction_log.hours import Hours
from penstock.inference.prediction_log.records import Entry, Gap
from penstock.inference.prediction_log.segments import PredictionLog, read, segments
from penstock.inference.prediction_log.table import Of
from penstock.monitor.period import run_period
from penstock.monitor.tables import Missing, PredictionTable
from penstock.pipeline.prediction_logs import PredictionLogs
from tests.unit.log_rig import ALWAYS, BEGIN, Crash, House, entry, signature_of
from tests.unit.test_monitor_period import LABELS, PROFILE, SETTINGS, Log, by_name, sources
from tests.unit.test_monitor_period import table_in as rows_in
from tests.unit.web_rig import house as a_server


class Disk:
    """A disk that can be full."""

    def __init__(self) -> None:
        self.full = False

    def write(self, fd: int, payload: bytes) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, payload)


class Full(House):
    """A log on a disk that can be full."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.log.close()
        self.disk = Disk()
        self.log = PredictionLog(
            root / "log", clock_us=lambda: int(self.now.timestamp() * 1e6), write=self.disk.write
        )

    def lose(self, *entries: Entry) -> None:
        self.disk.full = True
        assert not self.log.append("production", "m", entries)
        self.disk.full = False

    def told(self) -> list[Gap]:
        with self.hours.found(*ALWAYS, signature_of) as found:
            return sorted(found.missing.gaps)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Full]:
    made = Full(tmp_path)
    yield made
    made.log.close()


def us(of: House, ago_s: float = 0) -> int:
    return int((of.now - timedelta(seconds=ago_s)).timestamp() * 1e6)


def test_the_log_tells_of_what_a_full_disk_did_not_take(house: Full) -> None:
    house.answer(2)
    one = entry("lost", house.now)
    house.lose(one, one._replace(number=2, rows=3), one._replace(role="shadow"))
    house.lose(entry("lost too", house.now - timedelta(seconds=30)))
    assert house.told() == []
    house.answer(1)

    at = us(house)
    assert house.told() == [
        Gap(1, us(house, 30), at, answers=2, rows=2),
        Gap(2, at, at, answers=1, rows=3),
    ]
    assert house.all_once()
    assert len(list(read(house.root / "log" / "production" / "m"))) == 3


def test_a_gap_is_told_once_and_hour_by_hour(house: Full) -> None:
    for _ in range(3):
        house.lose(entry("lost", house.now))
        house.now += timedelta(minutes=20)
    house.answer()
    house.answer()

    assert [gap.answers for gap in house.told()] == [1, 2]


@pytest.mark.parametrize("by", ["a mark", "the end"])
def test_a_gap_is_told_though_no_more_requests_come(house: Full, by: str) -> None:
    house.lose(entry("lost", house.now))
    if by == "a mark":
        house.log.mark("production", "m", us(house))
    else:
        house.log.close()

    assert [gap.answers for gap in house.told()] == [1]


def test_a_damaged_gap_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.seg"
    whole = records.gap(Gap(1, 2, 3, 4, 5))
    path.write_bytes(whole)
    assert list(missing.gaps_in(path)) == [Gap(1, 2, 3, 4, 5)]

    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert list(missing.gaps_in(path)) == [], at
        path.write_bytes(whole[:at])
        assert list(missing.gaps_in(path)) == [], at


def test_a_gap_is_told_once_whatever_crashes_while_rows_move(tmp_path: Path) -> None:
    crashed = 0
    for crash_at in range(1, 30):
        house = Full(tmp_path / str(crash_at))
        house.answer(2)
        house.lose(entry("lost", house.now))
        house.answer(1)
        house.later(hours=2)
        house.crash_at, ended = crash_at, False
        with contextlib.suppress(Crash):
            house.keep()
            ended = True
        crashed += not ended
        house.crash_at = 0
        assert [gap.answers for gap in house.told()] == [1], house.points[-1]
        house.keep()
        assert [gap.answers for gap in house.told()] == [1]
        assert segments(house.root / "log" / "production" / "m") == []
        house.log.close()
        if ended:
            break
    assert crashed > 4


def test_only_gaps_of_the_span_are_told(house: Full) -> None:
    house.lose(entry("lost", house.now))
    house.answer()

    for since, gaps in ((BEGIN - timedelta(hours=1), 1), (BEGIN + timedelta(seconds=1), 0)):
        with house.hours.found(since, since + timedelta(hours=2), signature_of) as found:
            assert len(found.missing.gaps) == gaps


def hours_of(house: House, hours: int) -> Hours:
    """Let some hours become files, of 50 rows each."""
    for _ in range(hours):
        house.answer(50)
        house.later(hours=1)
    house.later(hours=1)
    house.keep()
    return house.hours


def test_what_was_dropped_is_remembered_by_version(house: Full) -> None:
    hours = hours_of(house, 3)
    house.log.append("production", "m", [entry("two", BEGIN)._replace(number=2)])
    house.later(minutes=2)
    house.keep()
    excess = hours.excess(1)
    assert excess is not None
    house.crash_at = len(house.points) + 2
    with pytest.raises(Crash):
        hours.drop(excess.files)
    house.crash_at = 0
    again = hours.excess(1)
    assert again is not None
    assert again.files != excess.files
    hours.drop(again.files)

    with hours.found(BEGIN, BEGIN + timedelta(hours=1), signature_of) as found:
        kept = sorted(found.missing.dropped.values(), key=str)
    assert kept == [{1: 50}, {1: 50}, {2: 1}]
    with hours.found(BEGIN + timedelta(hours=5), ALWAYS[1], signature_of) as found:
        assert found.missing.dropped == {}


def test_what_is_older_than_any_period_is_forgotten(tmp_path: Path) -> None:
    days = "2026-01-01", "2026-11-30"
    old, new = (f"production/m/date={day}/hour=22/a.parquet" for day in days)
    missing.say_dropped(tmp_path, {old: {1: 5}}, BEGIN - timedelta(days=300))
    assert missing.dropped(tmp_path) == {old: {1: 5}}

    missing.say_dropped(tmp_path, {new: {1: 6}}, BEGIN)

    assert missing.dropped(tmp_path) == {new: {1: 6}}


def test_a_period_hears_of_both(tmp_path: Path) -> None:
    of = a_server(tmp_path)
    of.seal(of.push("m"))
    house = Full(tmp_path)
    hours_of(house, 3)
    house.lose(entry("lost", house.now)._replace(rows=4))
    house.answer(1)
    logs = PredictionLogs(tmp_path, of.database, most_bytes=1)
    excess = house.hours.excess(1)
    assert excess is not None
    house.hours.drop(excess.files)

    with logs.table(Of(Environment.PRODUCTION, "m"), *ALWAYS) as table:
        assert table.missing == {1: Missing(answers=1, rows=4 + 150, hours=3)}
    house.log.close()


# ---- what a period makes of it -----------------------------------------------------------------


def period(folder: Path, lacks: Missing | None, **log: Any) -> dict[str, Any]:
    Log(**log).write(folder)
    told = sources(folder)
    files = [str(path) for path in sorted(folder.glob("*.parquet"))]
    table = PredictionTable(files, missing={} if lacks is None else {12: lacks, 11: Missing(9, 9)})
    assert rows_in(folder).missing == {}
    found = run_period(SETTINGS, type(told)(table, PROFILE, LABELS))
    return by_name(found.results)


def test_nothing_has_passed_where_too_much_is_missing(tmp_path: Path) -> None:
    whole = period(tmp_path / "a", None)
    lacking = period(tmp_path / "b", Missing(answers=7, rows=250, hours=3))

    assert {one.verdict for name, one in whole.items() if name.startswith("service")} == {
        Verdict.PASSED
    }
    assert {one.verdict for one in lacking.values()} == {Verdict.UNDECIDED}
    told = lacking["service.errors"]
    assert told.summary.endswith(
        "; 7 answers were not logged and 3 hours were dropped, 20.0% of its rows"
    )
    assert told.evidence["reading"] == "too much is missing"
    assert told.evidence["missing"] == 250


def test_what_fails_on_what_was_seen_has_failed(tmp_path: Path) -> None:
    lacking = period(tmp_path / "a", Missing(rows=500, hours=1), failed=300)

    assert lacking["service.errors"].verdict is Verdict.FAILED
    assert "1 hour was dropped" in lacking["service.errors"].summary


def test_a_little_that_is_missing_is_said_and_decides_nothing(tmp_path: Path) -> None:
    whole = period(tmp_path / "a", None)
    lacking = period(tmp_path / "b", Missing(answers=1, rows=1))

    assert {n: one.verdict for n, one in lacking.items()} == {
        n: one.verdict for n, one in whole.items()
    }
    assert all("1 answer was not logged, 0.1% of" in one.summary for one in lacking.values())
