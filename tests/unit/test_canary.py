"""The judge of a canary. Expected numbers come from the statistics page's reference programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import Any, cast

import numpy as np
import pytest
from scipy.stats import nchypergeom_fisher

from penstock.deploy.canary import (
    ArmCounts,
    Batch,
    Judgement,
    judge,
    may_step,
)
from penstock.deploy.etest import Counts, log_e_absolute
from penstock.deploy.planning import LOG_HARM, LOG_SAFE, minutes_to_pass, plan_minutes
from penstock.domain import Verdict


def batch(
    challenger: tuple[int, int], champion: tuple[int, int], *, slow: tuple[int, int] = (0, 0)
) -> Batch:
    """Make one from (errors, requests) of each arm."""
    return Batch(
        ArmCounts(challenger[1], challenger[0], slow[0]),
        ArmCounts(champion[1], champion[0], slow[1]),
    )


def traffic(
    seed: int, *, requests: int, share: float, errors: tuple[float, float], slow: float = 0.05
) -> Iterator[Batch]:
    """Draw batches of about `requests`; `errors` are the rates of challenger and champion."""
    draw = np.random.default_rng(seed)
    while True:
        arms: list[ArmCounts] = []
        for part, rate in zip((share, 1 - share), errors, strict=True):
            n = int(draw.poisson(requests * part))
            arms.append(ArmCounts(n, int(draw.binomial(n, rate)), int(draw.binomial(n, slow))))
        yield Batch(arms[0], arms[1])


def run(batches: Iterator[Batch], *, most: int) -> tuple[Judgement, int]:
    """Look after every batch until it is decided."""
    seen: list[Batch] = []
    for look in range(1, most + 1):
        seen.append(next(batches))
        judgement = judge(seen)
        if judgement.verdict is not Verdict.UNDECIDED:
            return judgement, look
    return judge(seen), most


EXAMPLE = [
    batch((2, 60), (7, 540)),
    batch((0, 40), (3, 560)),
    batch((5, 75), (1, 525)),
    batch((0, 50), (0, 450)),
    batch((1, 30), (29, 90)),
    batch((4, 200), (3, 200)),
]


@pytest.mark.parametrize(
    ("batches", "log_e_harm", "log_e_safe"),
    [
        (1, 0.2658261638276569, -0.4982519606083353),
        (2, 0.01764855715431679, -0.40822440193730625),
        (3, 3.568454556424869, -1.530409677964253),
        (4, 3.568454556424869, -1.530409677964253),
        (5, -1.5238635114087504, 0.8506026553458796),
        (6, -1.5153074952842398, 0.6448649766022316),
    ],
)
def test_the_evidence_equals_the_reference(
    batches: int, log_e_harm: float, log_e_safe: float
) -> None:
    found = judge(EXAMPLE[:batches]).metrics["errors"]

    assert found.log_e_harm == pytest.approx(log_e_harm, abs=1e-9)
    assert found.log_e_safe == pytest.approx(log_e_safe, abs=1e-9)


def test_at_the_edge_of_a_null_the_expected_evidence_is_one() -> None:
    n_c, n_b, events = 12, 30, 9
    x = range(events + 1)
    each = [Counts(*(np.array([count]) for count in (k, events, n_c, n_b))).log_e() for k in x]

    for number, odds in enumerate((1.1, 1.5)):
        law = cast("Any", nchypergeom_fisher)(n_c + n_b, n_c, events, odds)
        mean = sum(law.pmf(k) * math.exp(each[k][number][0]) for k in x)
        assert mean == pytest.approx(1)


def test_at_the_bound_the_expected_evidence_of_the_absolute_test_is_one() -> None:
    n, p_max = 40, 0.1
    events = np.arange(n + 1)
    chance = [math.comb(n, k) * p_max**k * (1 - p_max) ** (n - k) for k in events.tolist()]

    log_e = log_e_absolute(events.astype(float), np.full(n + 1, float(n)), p_max)

    assert sum(chance * np.exp(log_e)) == pytest.approx(1)


def test_nothing_seen_is_undecided_and_says_what_is_missing() -> None:
    found = judge([])

    assert found.verdict is Verdict.UNDECIDED
    assert found.needs == "About 600 more challenger requests would decide."


@pytest.mark.parametrize(
    "silent",
    [
        batch((0, 0), (50, 500)),
        batch((0, 100), (0, 0)),
        batch((0, 0), (0, 0)),
    ],
)
def test_a_batch_with_an_empty_arm_is_no_evidence_between_the_arms(silent: Batch) -> None:
    one, other = judge(EXAMPLE).metrics["errors"], judge([*EXAMPLE, silent]).metrics["errors"]

    assert other.log_e_harm == pytest.approx(one.log_e_harm, abs=1e-12)
    assert other.log_e_safe == pytest.approx(one.log_e_safe, abs=1e-12)


def test_no_traffic_is_never_a_failure() -> None:
    assert judge([batch((0, 0), (100, 1000))] * 50).verdict is Verdict.UNDECIDED


@pytest.mark.parametrize(("p_max", "least", "most"), [(0.01, 550, 650), (0.02, 270, 310)])
def test_without_any_event_the_absolute_bound_passes(p_max: float, least: int, most: int) -> None:
    looks = [
        judge([batch((0, 10), (0, 90))] * count, p_max_errors=p_max).verdict
        for count in range(1, 80)
    ]

    assert least <= 10 * (1 + looks.index(Verdict.PASSED)) <= most


def test_harm_is_found_and_named() -> None:
    found = judge([batch((10, 100), (9, 900))] * 3)

    assert found.verdict is Verdict.FAILED
    assert found.metrics["errors"].verdict is Verdict.FAILED
    assert found.metrics["slow"].verdict is not Verdict.FAILED
    assert found.sentence == (
        "After 300 challenger requests: 30 errors where 5.7 would be expected at equal rates and "
        "0 slow requests where 0.0 would be expected at equal rates. "
        "More errors than the champion is proven: harm."
    )
    assert found.needs == ""


def test_slow_requests_are_harm_too() -> None:
    found = judge([batch((0, 100), (0, 900), slow=(40, 45))] * 3)

    assert found.verdict is Verdict.FAILED
    assert "More slow requests" in found.sentence


def test_every_metric_has_to_be_safe() -> None:
    found = judge([batch((0, 1000), (0, 1000), slow=(100, 95))])

    assert found.metrics["errors"].verdict is Verdict.PASSED
    assert found.metrics["slow"].verdict is Verdict.UNDECIDED
    assert found.verdict is Verdict.UNDECIDED


def test_a_champion_with_many_errors_of_its_own_can_be_followed() -> None:
    found = judge([batch((30, 500), (31, 500))] * 12)

    assert found.metrics["errors"].log_e_absolute < 0
    assert found.verdict is Verdict.PASSED


def test_both_verdicts_latch_and_harm_wins_later() -> None:
    harmed = [batch((10, 100), (9, 900))] * 3
    safe = [batch((0, 1000), (0, 1000))]

    assert judge([*harmed, *(batch((0, 500), (20, 500)),) * 40]).verdict is Verdict.FAILED
    assert judge([*safe, batch((20, 1000), (0, 50))]).verdict is Verdict.PASSED
    assert judge(safe + harmed).verdict is Verdict.FAILED


def test_the_same_batches_give_the_same_judgement() -> None:
    assert judge(EXAMPLE) == judge(list(EXAMPLE))


def test_what_is_missing_shrinks_as_requests_come() -> None:
    missing = [
        judge([batch((0, 10), (0, 90))] * count).metrics["errors"].needs_requests
        for count in (5, 20, 50)
    ]

    assert missing == sorted(missing, key=lambda one: -(one or 0))
    assert missing[0] == pytest.approx(530, rel=0.1)


def test_a_lone_challenger_with_errors_cannot_be_judged_by_waiting() -> None:
    found = judge([batch((5, 100), (0, 0))])

    assert found.metrics["errors"].needs_requests is None
    assert found.needs.startswith("5 % of its requests are errors")


def test_the_results_are_checks_with_both_rates() -> None:
    errors, slow = judge(EXAMPLE).results()

    assert (errors.check, slow.check) == ("canary.errors", "canary.slow")
    assert errors.verdict is Verdict.UNDECIDED
    assert errors.evidence["reading"] == "too early"
    assert errors.evidence["value"] == pytest.approx(12 / 455)
    assert errors.evidence["champion"] == pytest.approx(43 / 2365)
    assert (errors.evidence["harm_at"], errors.evidence["safe_at"]) == (LOG_HARM, LOG_SAFE)


def test_the_evidence_is_plain_json_with_both_metrics() -> None:
    found = judge(EXAMPLE).evidence()

    assert found["verdict"] == "undecided"
    assert sorted(found["metrics"]) == ["errors", "slow"]


@pytest.mark.parametrize(
    ("batches", "may"),
    [([], False), ([(99, 0)], False), ([(60, 1), (40, 0)], True), ([(100, 0)], True)],
)
def test_a_step_needs_a_hundred_requests_at_its_share(
    batches: list[tuple[int, int]], may: bool
) -> None:
    assert may_step([batch((errors, n), (0, 900)) for n, errors in batches]) is may


def test_impossible_counts_are_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="impossible counts"):
        ArmCounts(requests=3, errors=4, slow=0)


def test_the_plan_equals_the_reference() -> None:
    assert plan_minutes(50, 0.1, 0.01, 2.0) == (pytest.approx(7.663877679717146), None)
    assert plan_minutes(50, 0.25, 0.02, 1.0, safe_at=20) == (
        None,
        pytest.approx(5.337815850498873),
    )
    both = plan_minutes(5, 0.05, 0.002, 1.3, safe_at=20)
    assert both == pytest.approx((11782.63655199036, 12899.943677344227))


def test_the_time_to_pass_takes_the_shorter_way_for_the_slower_metric() -> None:
    healthy = minutes_to_pass(200, 0.25)
    erring = minutes_to_pass(200, 0.25, error_rate=0.02)

    assert healthy is not None
    assert erring is not None
    assert healthy == pytest.approx(590 / (200 * 0.25 * 60), rel=0.05)
    assert erring == plan_minutes(200, 0.25, 0.02, 1.0)[1]
    assert minutes_to_pass(1, 0.5, error_rate=1.0) is None


@pytest.mark.parametrize("p_max", [0.0, 1.0])
def test_a_bound_of_nothing_or_everything_is_a_mistake_of_ours(p_max: float) -> None:
    with pytest.raises(AssertionError, match="p_max of errors"):
        judge([], p_max_errors=p_max)


def test_a_healthy_canary_rarely_fails_and_mostly_passes() -> None:
    verdicts = [
        run(traffic(seed, requests=400, share=0.25, errors=(0.0, 0.0)), most=40)[0].verdict
        for seed in range(40)
    ]

    assert verdicts.count(Verdict.FAILED) <= 2
    assert verdicts.count(Verdict.PASSED) >= 30


def test_a_canary_with_errors_is_found_within_few_batches() -> None:
    ends = [
        run(traffic(seed, requests=400, share=0.05, errors=(0.10, 0.0)), most=20)
        for seed in range(30)
    ]

    assert {judgement.verdict for judgement, _ in ends} == {Verdict.FAILED}
    assert np.median([look for _, look in ends]) <= 3


def test_an_increase_by_half_rarely_passes() -> None:
    # With a champion at 2 % the bound at 1 % says nothing, so only the odds can pass.
    verdicts = [
        run(traffic(seed, requests=400, share=0.5, errors=(0.03, 0.02), slow=0.0), most=40)[
            0
        ].verdict
        for seed in range(40)
    ]

    assert verdicts.count(Verdict.PASSED) <= 4


def test_evidence_grows_with_the_challengers_part_of_the_events() -> None:
    each = [judge([batch((x, 100), (10 - x, 100))]).metrics["errors"] for x in range(11)]

    for fewer, more in combinations_with_replacement(range(11), 2):
        assert each[fewer].log_e_harm <= each[more].log_e_harm
        assert each[fewer].log_e_safe >= each[more].log_e_safe
