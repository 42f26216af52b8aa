"""The ratio of two versions' latencies: its interval, and that noise cannot decide."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.check.gate import decides
from penstock.check.speed_ratio import (
    BLOCKS,
    PAIRS_MIN,
    Ratio,
    judged,
    not_slower,
    pairs_needed,
    tail_ratio,
    typical_ratio,
)
from penstock.domain import Verdict

Floats = NDArray[np.float64]


def ar(rng: np.random.Generator, count: int, rho: float, sd: float) -> Floats:
    """Draw noise that remembers: each value is `rho` times the one before, plus something new."""
    values = rng.normal(0, sd, count)
    for place in range(1, count):
        values[place] = rho * values[place - 1] + math.sqrt(1 - rho**2) * values[place]
    return values


def pairs(
    seed: int, ratio: float, *, count: int = PAIRS_MIN, machine: float = 0.4, own: float = 0.1
) -> tuple[Floats, Floats]:
    """Two versions on a noisy machine: rows differ, both remember, one answer in thirty stalls."""
    rng = np.random.default_rng(seed)
    shared = np.log(rng.gamma(8, size=count)) + ar(rng, count, 0.95, machine)

    def arm() -> Floats:
        stalls = (rng.random(count) < 1 / 30) * rng.exponential(1.5, count)
        return rng.normal(0, 0.15, count) + ar(rng, count, 0.8, own) + stalls

    return ratio * np.exp(shared + arm()), np.exp(shared + arm())


def test_equal_versions_are_not_slower_on_a_machine_that_slows_down_by_half() -> None:
    verdicts = [
        not_slower(*pairs(seed, 1.0, machine=0.7), margin=1.2).verdict for seed in range(60)
    ]

    assert verdicts.count(Verdict.FAILED) == 0
    assert verdicts.count(Verdict.PASSED) >= 57


def test_at_the_margin_both_verdicts_are_as_rare_as_promised() -> None:
    verdicts = [not_slower(*pairs(seed, 1.2, own=0.0), margin=1.2).verdict for seed in range(300)]

    # 5 % each is promised; three standard errors of 300 runs are 3.8 %.
    assert verdicts.count(Verdict.FAILED) / 300 <= 0.088
    assert verdicts.count(Verdict.PASSED) / 300 <= 0.088


def test_a_version_that_takes_twice_as_long_is_found() -> None:
    verdicts = [not_slower(*pairs(seed, 2.0), margin=1.2).verdict for seed in range(40)]

    assert verdicts == [Verdict.FAILED] * 40


def test_latencies_that_are_not_paired_would_not_do() -> None:
    challenger, champion = pairs(3, 1.0, machine=0.7)
    shuffled = np.random.default_rng(0).permutation(champion)

    assert typical_ratio(challenger, champion).se < typical_ratio(challenger, shuffled).se


def test_the_ratio_turns_over_with_its_arms() -> None:
    challenger, champion = pairs(4, 1.4)

    there, back = typical_ratio(challenger, champion), typical_ratio(champion, challenger)

    assert there.value == pytest.approx(1 / back.value)
    assert there.low == pytest.approx(1 / back.high)


def test_a_slower_tail_is_told_and_does_not_decide() -> None:
    challenger, champion = pairs(5, 1.0, count=2000)
    slow = np.arange(2000) % 10 == 0
    found = not_slower(np.where(slow, 4 * challenger, challenger), champion, margin=1.2)

    assert found.verdict is Verdict.PASSED
    assert found.evidence["tail"]["low"] > 1.5
    assert "one in twenty" in found.summary


def test_the_tail_of_equal_versions_holds_one() -> None:
    held = 0
    for seed in range(60):
        found = tail_ratio(*pairs(seed, 1.0, count=600))
        held += found.low <= 1 <= found.high

    assert held >= 48  # 90 % is promised


def test_too_few_pairs_decide_nothing() -> None:
    challenger, champion = pairs(6, 5.0)

    found = not_slower(challenger[: PAIRS_MIN - 1], champion[: PAIRS_MIN - 1], margin=1.2)

    assert found.verdict is Verdict.UNDECIDED
    assert found.summary == f"{PAIRS_MIN - 1} pairs of requests, {PAIRS_MIN} needed"


def test_undecided_says_how_many_pairs_would_decide() -> None:
    found = not_slower(*pairs(7, 1.17), margin=1.2)

    assert found.verdict is Verdict.UNDECIDED
    assert int(found.evidence["needed"]) > PAIRS_MIN
    assert "pairs would decide" in found.summary
    assert pairs_needed(Ratio(1.2, 1.1, 1.3, 0.05, 200), 1.2) is None


def test_every_pair_belongs_to_a_block() -> None:
    challenger, champion = pairs(8, 1.1, count=BLOCKS * 10 + 7)

    assert typical_ratio(challenger, champion).pairs == BLOCKS * 10 + 7


@pytest.mark.parametrize(
    ("margin", "limited", "verdict", "asks"),
    [
        (1.2, False, Verdict.FAILED, True),
        (1.2, True, Verdict.FAILED, True),
        (None, False, Verdict.UNDECIDED, True),
        (None, True, Verdict.UNDECIDED, False),
        (9.0, True, Verdict.PASSED, True),
    ],
)
def test_without_a_margin_a_person_judges_unless_a_limit_says_what_is_wanted(
    margin: float | None, limited: bool, verdict: Verdict, asks: bool
) -> None:
    challenger, champion = pairs(9, 3.0)

    found = judged(challenger, champion, margin=margin, limited=limited)

    assert found.verdict is verdict
    assert decides(found) is asks


def test_what_no_caller_notices_is_not_slower() -> None:
    challenger, champion = pairs(10, 3.0)
    scale = 0.4 / float(np.median(champion))

    found = judged(scale * challenger, scale * champion, margin=1.2, limited=False)

    assert found.verdict is Verdict.PASSED  # 1.2 ms and 0.4 ms
