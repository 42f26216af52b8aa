"""The log as Parquet by hour: each row is seen once, wherever it is and whoever was killed."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from penstock.domain import JSON
from penstock.errors import IntegrityError, UnreachableError
from penstock.inference.prediction_log.hour_store import HourStore
from penstock.inference.prediction_log.segments import segments
from penstock.monitor.tables import PredictionTable
from tests.unit.log_rig import (
    ALWAYS,
    BEGIN,
    KEEP,
    SIGNATURE,
    Crash,
    House,
    entry,
    signature_of,
    two_hours,
)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.log.close()


def test_rows_are_there_at_once_and_end_in_one_file_an_hour(house: House) -> None:
    two_hours(house)
    assert house.all_once()

    house.keep()
    assert house.files() == []  # the hour is over since two minutes: some may still come
    assert house.all_once()

    house.later(minutes=2)
    house.keep()
    (file,) = house.files()
    assert file.startswith("production/m/date=2026-11-30/hour=22/")
    assert house.all_once()

    house.later(hours=1)
    house.keep()
    assert len(house.files()) == 2
    assert house.all_once()
    assert segments(house.root / "log" / "production" / "m") == []
    fresh = house.root / "parquet" / "production" / "m" / "fresh"
    assert [path.name for path in fresh.iterdir() if path.suffix] == []


def test_a_row_that_comes_late_goes_to_its_own_hour(house: House) -> None:
    house.answer(2)
    house.later(minutes=20)
    house.keep()
    house.answer(1, ago_s=1500)
    house.later(minutes=2)
    house.keep()

    assert [file.rpartition("/")[0][-7:] for file in house.files()] == ["hour=22", "hour=22"]
    assert house.all_once()


def test_a_crash_at_any_point_neither_loses_nor_doubles_a_row(tmp_path: Path) -> None:
    crashed, points = 0, set[str]()
    for crash_at in range(1, 200):
        house = House(tmp_path / str(crash_at))
        two_hours(house)
        house.later(hours=2)
        house.crash_at = crash_at
        try:
            house.keep()
        except Crash:
            crashed += 1
        house.crash_at = 0
        assert house.all_once(), (crash_at, house.points[-1])
        house.keep()
        assert house.all_once(), (crash_at, house.points[-1])
        assert len(house.files()) == 2
        house.log.close()
        points.update(house.points)
        if len(house.points) < crash_at:
            break
    assert crashed > 15
    assert len(points) == 7, points


@pytest.mark.parametrize("point", ["log/part:there", "log/hour:one gone"])
def test_who_is_killed_while_moving_rows_is_followed_by_one_who_ends_it(
    house: House, point: str
) -> None:
    two_hours(house)
    house.later(hours=2)
    argv = [sys.executable, "-c", KEEP, str(house.root), point, house.url]
    killed = subprocess.run(argv, check=False)

    assert killed.returncode == -9
    assert house.all_once()
    house.keep()
    assert house.all_once()
    assert len(house.files()) == 2


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_in_whatever_order_each_row_is_there_once(
    house: House, seed: int
) -> None:
    draws = random.Random(seed)
    acts: list[Callable[[], object]] = [
        lambda: house.answer(draws.randint(1, 3), ago_s=draws.choice([0, 0, 30, 4000])),
        lambda: house.later(minutes=draws.choice([0.5, 1, 2, 30, 70])),
        lambda: house.hours.convert(signature_of),
        lambda: house.hours.compact(house.now),
        lambda: house.hours.forget(datetime(2030, 1, 1, tzinfo=UTC)),
    ]
    for _ in range(60):
        house.crash_at = len(house.points) + draws.randint(1, 12)
        with contextlib.suppress(Crash):
            draws.choice(acts)()
        if draws.random() < 0.2:
            assert house.all_once()
    house.crash_at = 0
    house.later(hours=3)
    house.keep()
    assert house.all_once()


def test_an_hour_that_comes_while_a_reader_looks_counts_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_hours(house)
    house.later(hours=2)
    looked, there, turn = HourStore.names, threading.Event(), threading.Lock()

    def reached(point: str) -> None:
        if point.endswith("counts"):
            there.set()

    monkeypatch.setattr(house, "reached", reached)
    keeper = threading.Thread(target=house.keep)

    def then_it_comes(store: HourStore, below: str) -> list[str]:
        seen = looked(store, below)
        if threading.current_thread() is threading.main_thread() and turn.acquire(blocking=False):
            there.clear()
            keeper.start()
            assert there.wait(20)
        return seen

    house.hours.convert(signature_of)
    monkeypatch.setattr(HourStore, "names", then_it_comes)

    assert house.all_once()
    keeper.join()
    assert turn.locked()
    assert house.all_once()


def test_readers_see_each_row_once_while_rows_move(house: House) -> None:
    two_hours(house)
    house.later(hours=2)
    wrong: list[Counter[str]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if not house.all_once():
                wrong.append(house.rows())

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    house.keep()
    done.set()
    for reader in readers:
        reader.join()

    assert wrong == []


def test_a_reader_by_glob_sees_only_whole_hours_and_each_row_once(house: House) -> None:
    two_hours(house)
    house.later(minutes=30)
    house.keep()

    with duckdb.connect() as connection:
        found = connection.sql(
            "select date, hour, count(*), count(distinct prediction_id) from "
            f"read_parquet('{house.root}/parquet/production/m/*/*/*.parquet') group by all"
        ).fetchall()
    assert [(str(row[0]), int(row[1]), *row[2:]) for row in found] == [("2026-11-30", 22, 8, 8)]


def test_the_queries_of_the_documentation_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "prediction-log.md").read_text("utf-8")
    queries = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    house = House(tmp_path)
    two_hours(house)
    refused = entry(f"r{house.count}", house.now)._replace(status=422, code="PS551")
    house.log.append("production", "m", [refused])
    house.later(hours=2)
    house.keep()
    house.log.close()
    monkeypatch.chdir(tmp_path)

    with duckdb.connect() as connection:
        found = [
            connection.sql(query.replace("/churn/", "/m/").strip().rstrip(";")).fetchall()
            for query in queries
        ]
    assert len(found) == 4
    assert found[0] == [(1, "champion", 12, 2.0, 2.0)]
    assert [(int(row[1]), row[2]) for row in found[1]] == [(22, 8), (23, 3)]
    assert [row[:3] for row in found[2]] == [("PS551", 422, 1)]
    assert [(str(row[0]), *row[1:]) for row in found[3]] == [("2026-11-30", 0.0)]


def test_hours_go_to_a_store_and_are_read_from_there(tmp_path: Path) -> None:
    """The memory file system stands for any that fsspec speaks to, such as s3."""
    house = House(tmp_path, "memory://lake/predictions")
    two_hours(house)
    house.later(hours=2)
    house.keep()

    assert len(house.files()) == 2
    assert not list((tmp_path / "parquet" / "production" / "m").glob("date=*"))
    assert house.all_once()
    with house.hours.found(*ALWAYS, signature_of) as found:
        assert found.files[0].startswith("memory://")
        assert PredictionTable(found.files, found.filesystem)
    house.log.close()
    fsspec.filesystem("memory").rm("/lake", recursive=True)


@pytest.mark.parametrize("fault", ["refuses", "garbles"])
def test_rows_stay_here_until_the_store_has_them(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, "memory://lake/faulty")
    two_hours(house)
    house.later(hours=2)
    house.hours.convert(signature_of)
    memory: Any = fsspec.filesystem("memory")
    with monkeypatch.context() as patched:

        def put(_fs: object, source: str, target: str) -> None:
            if fault == "refuses":
                raise PermissionError("Access Denied")
            memory.pipe_file(target, Path(source).read_bytes()[:-1])

        patched.setattr(MemoryFileSystem, "put_file", put)
        expected = UnreachableError if fault == "refuses" else IntegrityError
        with pytest.raises(expected, match=r"PS68[12]"):
            house.hours.compact(house.now)
    assert house.files() == []
    assert house.all_once()

    house.keep()
    assert len(house.files()) == 2
    assert house.all_once()
    house.log.close()
    memory.rm("/lake", recursive=True)


def test_what_is_above_the_bound_goes_oldest_hour_first(house: House) -> None:
    for _ in range(4):
        house.answer(50)
        house.later(hours=1)
    house.later(hours=1)
    house.keep()
    sizes = HourStore(house.url).sizes("production/m")
    assert len(sizes) == 4
    newest_two = sum(sorted(sizes.items())[2][1:]) + sum(sorted(sizes.items())[3][1:])

    assert house.hours.excess(10**9) is None
    excess = house.hours.excess(newest_two + 100)
    assert excess is not None
    house.crash_at = len(house.points) + 1
    with pytest.raises(Crash):
        house.hours.drop(excess.files)
    again = house.hours.excess(newest_two + 100)
    assert again is not None
    house.hours.drop(again.files)

    assert (excess.hours, excess.rows, excess.until.hour) == (2, 100, 0)
    assert set(house.rows()) == {f"r{k}" for k in range(100, 200)}


def test_the_flat_files_of_an_earlier_release_are_taken_over_once(house: House) -> None:
    two_hours(house)
    house.log.close()
    with house.hours.found(*ALWAYS, signature_of) as found:
        rows = pq.read_table(found.files[0]).drop_columns(["model", "code", "probabilities"])
    for path in segments(house.root / "log" / "production" / "m"):
        path.unlink()
    before = house.root / "parquet" / "m"
    before.mkdir(parents=True)
    for name, of in (("01790000000000000", rows), ("01790000000000000-open", rows.slice(0, 1))):
        pq.write_table(of, before / f"{name}.parquet")

    house.crash_at = 2
    with pytest.raises(Crash):
        house.hours.adopt(sorted(before.iterdir()))
    house.crash_at = 0
    house.hours.adopt(sorted(before.iterdir()))
    house.hours.compact(house.now + timedelta(hours=2))

    assert list(before.iterdir()) == []
    assert house.all_once()
    assert len(house.files()) == 2


def test_only_the_files_of_the_hours_that_are_asked_for_are_read(house: House) -> None:
    for _ in range(5):
        house.answer()
        house.later(hours=1)
    house.later(hours=1)
    house.keep()

    at = BEGIN + timedelta(hours=1)
    with house.hours.found(at, at + timedelta(minutes=1), signature_of) as found:
        assert [file.rpartition("/")[0][-7:] for file in found.files] == ["hour=23"]


def test_two_versions_with_different_inputs_share_an_hour(house: House) -> None:
    kinds = {1: "FP64", 2: "INT64", 3: "BYTES"}

    def signature(number: int) -> JSON | None:
        column = {"name": "x", "datatype": kinds[number], "optional": False}
        return {**SIGNATURE, "columns": [column]}

    for number, value in ((1, 1.5), (2, 7), (3, "a")):
        request = json.dumps({"inputs": {"x": [value]}}).encode()
        one = entry(f"r{number}", house.now)._replace(number=number, request=request)
        house.log.append("production", "m", [one])
        house.later(minutes=2)
    house.later(hours=2)
    house.hours.convert(signature)
    house.hours.compact(house.now)

    (file,) = house.files()
    table = pq.read_table(f"{house.url}/{file}", partitioning=None)
    assert table["x_x"].to_pylist() == ["1.5", "7", "a"]
