"""A measurement beside production waits while production is slow."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.pipeline.guarding import LOOK_S, PATIENCE_S, Guard, ProductionSlowError


class Production:
    """A gateway's figures, and a clock that only sleeping moves."""

    def __init__(self) -> None:
        self.p95_ms = 10.0
        self.requests = 100
        self.calm_at_s = float("inf")
        self.now_s = 0.0
        self.known = 1000

    def workers(self) -> list[dict[str, Any]]:
        p95_ms = 10.0 if self.now_s >= self.calm_at_s else self.p95_ms
        figures = {
            "requests": self.known,
            "p95_ms": 10.0,
            "now": {"requests": self.requests, "p95_ms": p95_ms},
        }
        return [
            {"environment": "production", "model": "m", "number": 1, "figures": figures},
            {"environment": "test", "model": "m", "number": 2, "figures": {"requests": 0}},
        ]

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def production() -> Production:
    return Production()


@pytest.fixture
def guard(production: Production) -> Guard:
    found = Guard(production.workers, lambda: production.now_s, production.sleep)
    found.begin()
    return found


def test_while_production_is_as_fast_as_before_nothing_waits(
    production: Production, guard: Guard
) -> None:
    guard.wait()

    assert production.now_s == 0
    assert guard.told() == {"guarded": 1, "paused_s": 0.0, "pauses": []}


def test_it_waits_until_production_is_fast_again_and_says_so(
    production: Production, guard: Guard
) -> None:
    production.p95_ms, production.calm_at_s = 40.0, 12.0

    guard.wait()

    assert 12 <= production.now_s <= 12 + LOOK_S
    assert guard.told()["paused_s"] == pytest.approx(12)
    assert guard.told()["pauses"] == ["m@1 answered at p95 40 ms, 10 before"]


def test_production_that_stays_slow_ends_the_measurement(
    production: Production, guard: Guard
) -> None:
    production.p95_ms = 40.0

    with pytest.raises(ProductionSlowError, match="p95 40 ms"):
        guard.wait()

    assert production.now_s >= PATIENCE_S


@pytest.mark.parametrize(("requests", "p95_ms"), [(5, 90.0), (100, 14.0)])
def test_a_few_requests_or_a_little_slower_is_not_slow(
    production: Production, guard: Guard, requests: int, p95_ms: float
) -> None:
    production.requests, production.p95_ms = requests, p95_ms

    guard.wait()

    assert production.now_s == 0


def test_a_version_that_hardly_anybody_asks_is_not_guarded(production: Production) -> None:
    production.known, production.p95_ms = 10, 500.0
    guard = Guard(production.workers, lambda: production.now_s, production.sleep)
    guard.begin()

    guard.wait()

    assert guard.told()["guarded"] == 0


def test_it_looks_at_most_twice_a_second(production: Production, guard: Guard) -> None:
    guard.wait()
    production.p95_ms = 40.0
    production.calm_at_s = 9.0

    guard.wait()  # just looked: the figures are those of 5 s

    assert production.now_s == 0
    production.now_s = LOOK_S
    guard.wait()
    assert guard.told()["paused_s"] > 0
