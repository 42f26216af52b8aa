from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.inference.prediction_log.counting import ArmCount, Arms
from penstock.inference.prediction_log.records import HEAD, Entry, Outcome, encode
from penstock.inference.prediction_log.segments import (
    PredictionLog,
    closed_segments,
    read,
    read_segment,
)


class Clock:
    def __init__(self) -> None:
        self.us = 10_000

    def __call__(self) -> int:
        return self.us


def entry(number: int = 1, **changes: Any) -> Entry:
    made = Entry(
        arrived_us=1000,
        ended_us=3000,
        number=number,
        role="champion",
        status=200,
        outcome=Outcome.ANSWERED,
        generation=4,
        rows=2,
        kind=1,
        id="i-é",
        request=b'{"inputs":[]}',
        reply=b'{"outputs":[]}',
    )
    return made._replace(**changes)


_OTHER = """
import sys
from pathlib import Path
from penstock.inference.prediction_log.records import Entry, Outcome
from penstock.inference.prediction_log.segments import PredictionLog
log = PredictionLog(Path(sys.argv[1]), clock_us=lambda: 20_000)
for line in sys.stdin:
    what, number = line.split()
    if what == "mark":
        log.mark("production", "m", int(number))
    else:
        of = (1000, 3000, int(number), "champion", 200, Outcome.ANSWERED, 4, 2, 1, "a", b"", b"")
        log.append("production", "m", [Entry(*of)])
    print("done", flush=True)
"""


@contextmanager
def another_gateway(root: Path) -> Generator[Callable[[str], None]]:
    """A second process that logs for the same model, until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        asked, told = process.stdin, process.stdout
        assert asked is not None
        assert told is not None

        def do(order: str) -> None:
            asked.write(f"{order}\n")
            asked.flush()
            assert told.readline() == "done\n"

        try:
            yield do
        finally:
            process.kill()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path, clock: Clock) -> Iterator[PredictionLog]:
    made = PredictionLog(tmp_path, clock_us=clock)
    yield made
    made.close()


def folder(root: Path) -> Path:
    return root / "production" / "m"


def numbers(root: Path) -> list[int]:
    return [found.number for found in read(folder(root))]


def test_what_was_logged_is_read_as_it_was(log: PredictionLog, tmp_path: Path) -> None:
    failed = entry(2, role="challenger", outcome=Outcome.FAILED, status=504, reply=b"")
    wanted = [
        entry(1, media=2, bucket=9999),
        failed._replace(code="PS504", id="x" * 255),
        entry(3, role="shadow", without=True, request=b""),
    ]

    log.append("production", "m", wanted)
    log.mark("production", "m", 9)

    found = list(read(folder(tmp_path)))
    assert found == wanted


def test_it_is_on_disk_as_soon_as_append_returns(log: PredictionLog, tmp_path: Path) -> None:
    log.append("production", "m", [entry()])

    (segment,) = folder(tmp_path).iterdir()
    assert segment.read_bytes() == encode([entry()])


def test_one_batch_is_one_write(tmp_path: Path, clock: Clock) -> None:
    writes: list[int] = []

    def counting(fd: int, payload: bytes) -> int:
        writes.append(len(payload))
        return os.write(fd, payload)

    log = PredictionLog(tmp_path, clock_us=clock, write=counting)
    log.append("production", "m", [entry(), entry(), entry()])
    log.close()

    assert writes == [len(encode([entry(), entry(), entry()])), HEAD.size]


def test_every_torn_end_is_skipped_and_nothing_before_it(
    log: PredictionLog, tmp_path: Path
) -> None:
    log.append("production", "m", [entry(1)])
    log.append("production", "m", [entry(2), entry(3)])
    (segment,) = folder(tmp_path).iterdir()
    whole = segment.read_bytes()
    first = len(encode([entry(1)]))

    for size in range(len(whole)):
        segment.write_bytes(whole[:size])
        assert numbers(tmp_path) == ([1] if size >= first else [])


def test_no_flipped_bit_is_read_as_an_entry(log: PredictionLog, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        log.append("production", "m", [entry(number)])
    (segment,) = folder(tmp_path).iterdir()
    whole = segment.read_bytes()
    size = len(whole) // 3
    figures = size - len("i-é".encode() + entry().request + entry().reply)

    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        segment.write_bytes(damaged)
        number, within = divmod(position, size)
        lost_for_good = within < figures  # where the next record begins is not known any more
        rest = [] if lost_for_good else list(range(number + 2, 4))
        assert numbers(tmp_path) == [*range(1, number + 1), *rest]


def test_a_new_gateway_starts_a_new_segment_behind_a_torn_one(
    log: PredictionLog, tmp_path: Path, clock: Clock
) -> None:
    log.append("production", "m", [entry(1)])
    log.append("production", "m", [entry(2)])
    (segment,) = folder(tmp_path).iterdir()
    os.truncate(segment, segment.stat().st_size - 3)

    clock.us -= 3_600_000_000
    other = PredictionLog(tmp_path, clock_us=clock)
    other.append("production", "m", [entry(3)])
    other.close()

    assert numbers(tmp_path) == [1, 3]


def test_a_full_segment_is_followed_by_another(tmp_path: Path, clock: Clock) -> None:
    log = PredictionLog(tmp_path, clock_us=clock, segment_bytes=3 * len(encode([entry()])))
    for number in range(1, 8):
        log.append("production", "m", [entry(number)])
    log.close()

    assert len(list(folder(tmp_path).iterdir())) == 3
    assert numbers(tmp_path) == list(range(1, 8))


def test_an_old_segment_closes_even_when_no_more_requests_come(
    log: PredictionLog, tmp_path: Path, clock: Clock
) -> None:
    log.append("production", "m", [entry(1)])
    log.close_old()
    open_still = closed_segments(folder(tmp_path))

    clock.us += 61_000_000
    log.close_old()
    closed = closed_segments(folder(tmp_path))
    log.append("production", "m", [entry(2)])

    assert open_still == []
    assert len(closed) == 1
    assert closed_segments(folder(tmp_path)) == closed
    assert numbers(tmp_path) == [1, 2]


@pytest.mark.parametrize("kept", [0, 10, None])
def test_a_full_disk_costs_entries_but_raises_nothing_and_tears_nothing(
    tmp_path: Path, clock: Clock, kept: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    full = False

    def write(fd: int, payload: bytes) -> int:
        if full and kept is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, payload[:kept] if full else payload)

    log = PredictionLog(tmp_path, clock_us=clock, write=write)
    log.append("production", "m", [entry(1)])
    full = True
    log.append("production", "m", [entry(2), entry(3)])
    log.append("production", "m", [entry(4)])
    full = False
    log.append("production", "m", [entry(5)])
    log.close()

    assert numbers(tmp_path) == [1, 5]
    assert log.drops == {("production", "m"): 3}
    assert len(caplog.records) == 1


def test_a_folder_that_cannot_be_made_costs_entries_only(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "production").write_text("in the way")
    log = PredictionLog(tmp_path, clock_us=clock)

    log.append("production", "m", [entry()])
    log.close()

    assert log.drops == {("production", "m"): 1}


def test_the_watermark_is_the_last_one_said(log: PredictionLog, tmp_path: Path) -> None:
    arms = Arms(folder(tmp_path))
    assert arms.watermark() is None

    log.mark("production", "m", 5)
    log.append("production", "m", [entry()])
    assert arms.watermark() == 5
    log.mark("production", "m", 7)

    assert arms.watermark() == 7


def test_the_watermark_outlives_its_segment(
    log: PredictionLog, tmp_path: Path, clock: Clock
) -> None:
    log.append("production", "m", [entry()])
    log.mark("production", "m", 5)
    clock.us += 61_000_000
    log.close_old()
    log.append("production", "m", [entry()])

    assert len(list(folder(tmp_path).iterdir())) == 2
    assert Arms(folder(tmp_path)).watermark() == 5


def test_arms_are_counted_by_draw(log: PredictionLog, tmp_path: Path) -> None:
    """A fallback belongs to no arm: its request was drawn for the challenger."""
    log.append(
        "production",
        "m",
        [
            entry(1),
            entry(1, ended_us=9000),
            entry(2, role="challenger", outcome=Outcome.FAILED, status=500),
            entry(1, outcome=Outcome.FALLBACK, ended_us=9000),
            entry(2, role="challenger", outcome=Outcome.DISMISSED, status=422),
            entry(1, outcome=Outcome.FALLBACK, status=422),
            entry(2, role="explicit"),
        ],
    )

    counts = Arms(folder(tmp_path)).count(since_us=0, until_us=2000, slow_ms=5)

    assert counts == {
        "champion": ArmCount(2, 0, 1),
        "challenger": ArmCount(2, 1, 0),
        "explicit": ArmCount(1, 0, 0),
    }


def test_arms_are_counted_by_arrival_and_generation(log: PredictionLog, tmp_path: Path) -> None:
    entries = [entry(arrived_us=us, generation=us % 2) for us in range(100)]
    log.append("production", "m", entries)

    window = Arms(folder(tmp_path)).count(since_us=10, until_us=20, slow_ms=5)
    odd = Arms(folder(tmp_path)).count(since_us=10, until_us=20, slow_ms=5, generations={1})

    assert window["champion"].requests == 10
    assert odd["champion"].requests == 5


def test_counting_over_many_segments_equals_counting_each_entry(
    tmp_path: Path, clock: Clock
) -> None:
    draws = random.Random(5)
    log = PredictionLog(tmp_path, clock_us=clock, segment_s=1)
    start_us = clock.us
    arrivals: list[int] = []
    for _ in range(400):
        clock.us += draws.randrange(50_000)
        arrivals.append(clock.us - draws.randrange(10_000_000))
        log.close_old()
        log.append("production", "m", [entry(arrived_us=arrivals[-1])])
    log.close()

    assert len(list(folder(tmp_path).iterdir())) > 5
    for _ in range(20):
        since_us = start_us + draws.randrange(-5_000_000, 10_000_000)
        until_us = since_us + draws.randrange(3_000_000)
        counts = Arms(folder(tmp_path)).count(since_us=since_us, until_us=until_us, slow_ms=1)
        expected = sum(since_us <= each < until_us for each in arrivals)
        assert counts.get("champion", ArmCount(0, 0, 0)).requests == expected


def test_counting_goes_on_where_it_was(tmp_path: Path, clock: Clock) -> None:
    log = PredictionLog(tmp_path, clock_us=clock, segment_s=1)
    arms = Arms(folder(tmp_path))
    for batch in range(1, 8):
        log.append("production", "m", [entry(arrived_us=clock.us)] * batch)
        counts = arms.count(since_us=clock.us, until_us=clock.us + 1, slow_ms=5)
        fresh = Arms(folder(tmp_path)).count(since_us=0, until_us=clock.us + 1, slow_ms=5)
        assert counts["champion"].requests == batch
        assert fresh["champion"].requests == sum(range(batch + 1))
        clock.us += 400_000
        log.close_old()
    again = arms.count(since_us=0, until_us=clock.us, slow_ms=5)
    log.close()

    assert again["champion"].requests == sum(range(8))


def test_counting_reads_figures_and_leaves_bodies_alone(
    log: PredictionLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        log.append("production", "m", [entry(reply=bytes(700_000))])
    (segment,) = folder(tmp_path).iterdir()
    reads: list[int] = []
    true_read = os.pread

    def counted(fd: int, size: int, offset: int) -> bytes:
        found = true_read(fd, size, offset)
        reads.append(len(found))
        return found

    monkeypatch.setattr(os, "pread", counted)
    arms = Arms(folder(tmp_path))

    assert arms.count(since_us=0, until_us=9999, slow_ms=5)["champion"].requests == 20
    assert sum(reads) < segment.stat().st_size / 10
    reads.clear()
    assert arms.count(since_us=0, until_us=9999, slow_ms=5)["champion"].requests == 20
    assert sum(reads) == 0


def test_two_gateways_hold_the_watermark_at_the_slower_one(tmp_path: Path, clock: Clock) -> None:
    """While one takes over from the other, a batch must not close before both have logged."""
    arms = Arms(folder(tmp_path))
    with another_gateway(tmp_path) as other:
        other("mark 7")
        log = PredictionLog(tmp_path, clock_us=clock)
        log.append("production", "m", [entry()])
        silent = arms.watermark()
        log.mark("production", "m", 9)
        both = arms.watermark()
        other("append 3")
        closed = closed_segments(folder(tmp_path))
    alone = arms.watermark()
    log.close()

    assert (silent, both, alone) == (None, 7, 9)
    assert closed == []
    assert len(closed_segments(folder(tmp_path))) == 2
    assert sorted(numbers(tmp_path)) == [1, 3]


def test_a_writer_that_somebody_waits_for_is_never_without_a_segment(
    tmp_path: Path, clock: Clock
) -> None:
    log = PredictionLog(tmp_path, clock_us=clock)
    log.append("production", "m", [entry()])
    clock.us += 61_000_000
    log.mark("production", "m", 5)
    log.close_old()

    # Another one's later mark would let a batch close, were this one taken for gone.
    assert len(closed_segments(folder(tmp_path))) == 1
    assert len(list(folder(tmp_path).iterdir())) == 2
    assert Arms(folder(tmp_path)).watermark() == 5
    log.close()


def test_a_batch_says_whether_it_is_on_disk(tmp_path: Path, clock: Clock) -> None:
    room = [True, False, True]

    def write(fd: int, payload: bytes) -> int:
        if not room.pop(0):
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, payload)

    log = PredictionLog(tmp_path, clock_us=clock, write=write)

    assert [log.append("production", "m", [entry(n)]) for n in (1, 2, 3)] == [True, False, True]
    assert log.dropped_us == {("production", "m"): clock.us}
    room.append(True)
    log.close()


def test_the_segments_of_two_writers_are_open_until_each_has_closed_its_own(
    log: PredictionLog, tmp_path: Path, clock: Clock
) -> None:
    newer = PredictionLog(tmp_path, clock_us=clock)
    log.append("production", "m", [entry(id="a")])
    newer.append("production", "m", [entry(id="b")])
    log.append("production", "m", [entry(id="c")])

    assert closed_segments(folder(tmp_path)) == []
    log.close()
    (closed,) = closed_segments(folder(tmp_path))
    assert [one.id for one in read_segment(closed)] == ["a", "c"]
    newer.close()
    assert len(closed_segments(folder(tmp_path))) == 2


def test_the_watermark_of_two_writers_is_the_earlier_until_its_writer_ends(
    log: PredictionLog, tmp_path: Path, clock: Clock
) -> None:
    newer = PredictionLog(tmp_path, clock_us=clock)
    log.mark("production", "m", 5)
    newer.mark("production", "m", 8)

    both = Arms(folder(tmp_path)).watermark()
    log.close()
    alone = Arms(folder(tmp_path)).watermark()
    newer.close()

    assert (both, alone, Arms(folder(tmp_path)).watermark()) == (5, 8, 8)


def test_a_writer_that_has_said_nothing_yet_holds_the_watermark(
    log: PredictionLog, tmp_path: Path, clock: Clock
) -> None:
    newer = PredictionLog(tmp_path, clock_us=clock)
    newer.append("production", "m", [entry(id="b")])
    log.mark("production", "m", 5)

    assert Arms(folder(tmp_path)).watermark() is None
    newer.close()


def test_a_new_segment_begins_with_its_writers_last_watermark(
    tmp_path: Path, clock: Clock
) -> None:
    log = PredictionLog(tmp_path, clock_us=clock, segment_bytes=1)
    log.append("production", "m", [entry(id="a")])
    log.mark("production", "m", 5)
    log.append("production", "m", [entry(id="b")])

    assert Arms(folder(tmp_path)).watermark() == 5
    assert [one.id for one in read(folder(tmp_path))] == ["a", "b"]
    log.close()


def test_a_segment_whose_writer_was_killed_is_closed(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys, time\n"
        "from penstock.inference.prediction_log.segments import PredictionLog\n"
        "log = PredictionLog(pathlib.Path(sys.argv[1]), clock_us=lambda: 7)\n"
        "log.mark('production', 'm', 5)\n"
        "print('marked', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        open_still = closed_segments(folder(tmp_path))
        writer.kill()
        writer.wait()

        assert open_still == []
        assert len(closed_segments(folder(tmp_path))) == 1
        assert Arms(folder(tmp_path)).watermark() == 5


def test_the_bucket_of_a_key_is_logged_and_shadows_are_no_arm_of_a_canary(
    log: PredictionLog, tmp_path: Path
) -> None:
    entries = [
        entry(id="a", role="challenger", bucket=0),
        entry(id="b", role="champion", bucket=9999),
        entry(id="b", role="shadow"),
    ]
    log.append("production", "m", entries)

    assert [one.bucket for one in read(folder(tmp_path))] == [0, 9999, -1]
    counts = Arms(folder(tmp_path)).count(since_us=0, until_us=2**60, slow_ms=1)
    assert {role: count.requests for role, count in counts.items()} == {
        "challenger": 1,
        "champion": 1,
        "shadow": 1,
    }
