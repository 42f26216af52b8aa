from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from penstock.check.speed import (
    Measured,
    SpeedLimits,
    percentile,
    speed_checks,
)
from penstock.domain import CheckResult, Verdict


def latencies(count: int = 200, *, scale: float = 10.0, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).gamma(4.0, scale / 4, count)


def checks(
    measured: Measured, limits: SpeedLimits | None = None, champion: Measured | None = None
) -> dict[str, CheckResult]:
    found = speed_checks(measured, limits or SpeedLimits(), champion=champion)
    return {one.check: one for one in found}


def test_what_has_no_limit_is_told_and_passes() -> None:
    found = checks(Measured(latencies(), rss_mb=123.4, cold_start_s=1.25))

    assert list(found) == ["speed.p50", "speed.p95", "speed.memory", "speed.cold_start"]
    assert {one.verdict for one in found.values()} == {Verdict.PASSED}
    assert {one.evidence["reading"] for one in found.values()} == {"no limit"}
    assert found["speed.memory"].summary == "memory 123 MB, no limit"


@pytest.mark.parametrize(
    ("limit", "verdict", "reading"),
    [
        (10.0, Verdict.FAILED, "over the limit"),
        (19.5, Verdict.UNDECIDED, "too close to the limit"),
        (40.0, Verdict.PASSED, "within the limit"),
    ],
)
def test_p95_is_judged_by_its_interval(limit: float, verdict: Verdict, reading: str) -> None:
    found = checks(Measured(latencies()), SpeedLimits(p95_ms=limit))["speed.p95"]

    assert found.verdict is verdict
    assert found.evidence["reading"] == reading
    assert found.evidence["low"] <= found.evidence["value"] <= found.evidence["high"]
    assert f"{limit:g} ms" in found.summary


@pytest.mark.parametrize("limit", [1.0, 1000.0, None])
def test_fewer_than_fifty_requests_decide_nothing(limit: float | None) -> None:
    found = checks(Measured(latencies(49)), SpeedLimits(p50_ms=limit, p95_ms=limit))

    assert found["speed.p50"].verdict is Verdict.UNDECIDED
    assert found["speed.p95"].verdict is Verdict.UNDECIDED
    assert found["speed.p95"].summary == "49 requests, 50 needed"


def test_fifty_requests_can_condemn_a_p95_and_cannot_clear_it() -> None:
    slow = checks(Measured(latencies(50)), SpeedLimits(p95_ms=1.0))["speed.p95"]
    quick = checks(Measured(latencies(50)), SpeedLimits(p95_ms=1000.0))["speed.p95"]

    assert slow.verdict is Verdict.FAILED
    assert quick.verdict is Verdict.UNDECIDED
    assert quick.evidence["high"] is None


@pytest.mark.parametrize(("share", "n"), [(0.5, 50), (0.5, 201), (0.95, 60), (0.95, 200)])
def test_bounds_hold_the_true_percentile_as_often_as_they_say(share: float, n: int) -> None:
    random = np.random.default_rng(11)
    true = -math.log(1 - share)

    found = [percentile(random.exponential(size=n), share) for _ in range(1500)]

    assert np.mean([low > true for _, low, _ in found]) <= 0.065
    assert np.mean([high < true for _, _, high in found]) <= 0.065


def test_bounds_are_not_wider_than_they_must_be() -> None:
    random = np.random.default_rng(12)
    true = math.log(2)

    found = [percentile(random.exponential(size=200), 0.5) for _ in range(1500)]

    assert np.mean([low > true for _, low, _ in found]) >= 0.02
    assert np.mean([high < true for _, _, high in found]) >= 0.02


@pytest.mark.parametrize(
    ("rss_mb", "cold_start_s", "verdict"),
    [
        (800.0, 5.0, Verdict.PASSED),
        (800.1, 5.1, Verdict.FAILED),
        (None, None, Verdict.UNDECIDED),
    ],
)
def test_memory_and_cold_start_are_held_against_their_limits(
    rss_mb: float | None, cold_start_s: float | None, verdict: Verdict
) -> None:
    measured = Measured(latencies(), rss_mb, cold_start_s)

    found = checks(measured, SpeedLimits(memory_mb=800, cold_start_s=5))

    assert found["speed.memory"].verdict is verdict
    assert found["speed.cold_start"].verdict is verdict


def test_the_champions_numbers_stand_beside_and_decide_nothing() -> None:
    mine, champion = Measured(latencies(), 100.0, 2.0), Measured(latencies(scale=1), 50.0, 1.0)

    alone, beside = checks(mine), checks(mine, champion=champion)

    assert [one.verdict for one in alone.values()] == [one.verdict for one in beside.values()]
    assert beside["speed.memory"].evidence["champion"] == 50.0
    assert beside["speed.cold_start"].evidence["champion"] == 1.0
    assert beside["speed.p95"].evidence["champion"] == percentile(champion.latencies_ms, 0.95)[0]
    assert alone["speed.p95"].evidence["champion"] is None
