"""Throughput: where the knee lies, and what a rate at it proves."""

from __future__ import annotations

import pytest

from penstock.check.throughput import Level, knee, throughput_check
from penstock.domain import Verdict


def level(
    connections: int, *rates: float, p95_ms: float = 5.0, errors: int = 0, asking: float = 0.2
) -> Level:
    return Level(connections, rates, p95_ms, errors, asking)


RISING = (
    level(1, 100, 102, 98, 100),
    level(4, 390, 400, 410, 400),
    level(16, 405, 395, 400, 400),
    level(64, 300, 320, 310, 310),
)


def test_behind_the_knee_more_connections_give_no_more_answers() -> None:
    found = knee(RISING)

    assert (found.connections, found.rate, found.at_least) == (4, 400, False)
    assert 380 < found.low < 400 < found.high < 420


def test_a_rate_that_still_rose_at_the_last_is_a_lower_bound() -> None:
    assert knee(RISING[:2]).at_least


def test_a_rate_at_which_whoever_asks_was_busy_is_a_lower_bound() -> None:
    busy = level(4, 390, 400, 410, 400, asking=0.9)

    assert knee([RISING[0], busy, *RISING[2:]]).at_least


@pytest.mark.parametrize(
    ("min_rps", "verdict", "reading"),
    [
        (300, Verdict.PASSED, "within the limit"),
        (400, Verdict.UNDECIDED, "too close to the limit"),
        (500, Verdict.FAILED, "below the limit"),
        (None, Verdict.PASSED, "no limit"),
    ],
)
def test_the_limit_is_judged_by_the_interval(
    min_rps: float | None, verdict: Verdict, reading: str
) -> None:
    found = throughput_check(RISING, min_rps)

    assert (found.verdict, found.evidence["reading"]) == (verdict, reading)
    assert "400 requests/s at 4 connections" in found.summary


def test_a_lower_bound_is_never_too_low() -> None:
    found = throughput_check(RISING[:2], 500)

    assert found.verdict is Verdict.UNDECIDED
    assert found.summary.startswith("at least 400 requests/s")
    assert found.evidence["high"] is None


def test_one_window_alone_decides_nothing() -> None:
    assert throughput_check([level(1, 100), level(4, 101)], 1e4).verdict is Verdict.UNDECIDED


def test_the_champions_rate_stands_beside() -> None:
    assert throughput_check(RISING, None, champion=RISING[:1]).evidence["champion"] == 100
