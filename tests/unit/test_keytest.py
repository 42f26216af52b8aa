"""Wagers on customers. Expected numbers come from the statistics page's reference programs."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.deploy.canary import ArmCounts, Batch, judge
from penstock.deploy.customers import Customers
from penstock.deploy.draws import Draw, Met
from penstock.deploy.etest import BELOW_WEIGHTS, log_e_absolute, log_sum
from penstock.deploy.keytest import (
    HARM,
    SAFE,
    Evidence,
    Records,
    log_rare,
    log_wagers,
    routing_p,
    together,
)
from penstock.deploy.planning import LOG_HARM, events_needed
from penstock.domain import Verdict


def met(on: Any, requests: Any, events: Any) -> Met:
    """Make one batch of all units with requests, one metric."""
    on, n, x = (np.asarray(one) for one in (on, requests, events))
    unit = np.flatnonzero(n)
    return Met(unit, on[unit] > 0, on[unit] > 0, n[unit, None], x[unit, None])


def evidence(draw: Draw, p_max: float = 0.01) -> Evidence:
    return together([draw.wagers(0, p_max)])


EXPECTED = [
    (40, 0.1, 3, 2.0, 0.042967672442687954, -0.24530006257459736, 0.23024697438599526),
    (300, 0.25, 6, 1.0, 1.0703099196435375, -1.1203255892778405, 0.2619027037006208),
    (5, 0.5, 2, 3.0, 0.434832964301775, -0.31017140171802526, 1.0),
]


def test_the_reference_program_finds_the_same() -> None:
    rng = np.random.default_rng(5)
    for users, share, batches, scale, harm, safe, part in EXPECTED:
        on = rng.random(users) < share
        rate, activity = rng.beta(0.3, 3, users), rng.pareto(1.2, users) + 1
        draw = Draw.of(share, 1)
        for window in range(batches):
            n = rng.poisson(scale * activity)
            x = rng.binomial(n, np.where(on, np.minimum(1.5 * rate, 1), rate))
            draw.add(met(on, n, x), window=window)

        found = evidence(Draw.from_bytes(draw.to_bytes()))

        assert found.log_e_harm == pytest.approx(harm, abs=1e-9)
        assert found.log_e_safe == pytest.approx(safe, abs=1e-9)
        assert found.effective / found.usual == pytest.approx(part, abs=1e-9)


def mean_over_all_splits(
    claims: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> list[float]:
    """Enumerate who could have been drawn; the version changes nothing for anybody."""
    monkeypatch.setattr("penstock.deploy.draws.CLAIMS", claims)
    n = [[30, 1, 5, 0, 2, 8, 1, 3], [10, 0, 9, 4, 2, 8, 1, 0]]
    x = [[20, 0, 0, 0, 1, 3, 1, 0], [0, 0, 4, 0, 0, 8, 0, 0]]
    share, means = 0.3, np.zeros(3)
    for on in product((0, 1), repeat=8):
        draw = Draw.of(share, 1)
        for window in range(2):
            draw.add(met(on, n[window], x[window]), window=window)
        found = evidence(draw, p_max=48 / 96)
        likely = math.prod(share if one else 1 - share for one in on)
        each = (found.log_e_harm, found.log_e_safe, found.log_e_rare)
        means += likely * np.exp(each)
    return means.tolist()


def test_the_mean_over_all_draws_is_exactly_one(monkeypatch: pytest.MonkeyPatch) -> None:
    harm, safe, _ = mean_over_all_splits((1.0, 1.0), monkeypatch)

    assert harm == pytest.approx(1, abs=1e-12)
    assert safe == pytest.approx(1, abs=1e-12)


def test_with_the_margin_of_harm_an_equal_version_gains_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harm, *_ = mean_over_all_splits((1.1, 1.5), monkeypatch)

    assert harm < 1.01


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_rare_events_are_not_found_rare_when_customers_meet_them_at_the_limit(rate: float) -> None:
    requests = np.array([9, 1, 4, 3, 3, 1, 2, 7.0])
    events = np.array([9, 0, 0, 3, 0, 1, 0, 5.0]) * rate
    weight = np.minimum(requests, np.median(requests))
    limit = float(weight @ (events / requests) / weight.sum())
    share, mean = 0.4, 0.0

    for on in product((False, True), repeat=8):
        won = log_rare(events, requests, np.array(on), limit)
        likely = math.prod(share if one else 1 - share for one in on)
        mean += likely * float(np.exp(log_sum((BELOW_WEIGHTS + won)[None, :])[0]))

    assert 0.8 < mean <= 1


def test_one_request_a_customer_is_the_bound_by_request() -> None:
    events = np.array([1.0] * 3 + [0.0] * 800)
    found = log_rare(events, np.ones(803), np.ones(803, np.bool_), 0.01)

    by_request = log_e_absolute(np.array([3.0]), np.array([803.0]), 0.01)[0]
    assert log_sum((BELOW_WEIGHTS + found)[None, :])[0] == pytest.approx(by_request, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.05, 0.25, 0.5]))
def test_names_of_customers_and_where_batches_begin_do_not_matter(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    on = rng.random(30) < share
    n = rng.poisson(3, 30)
    x = rng.binomial(n, 0.3)
    plain, renamed, halves = Draw.of(share, 1), Draw.of(share, 1), Draw.of(share, 1)
    order = rng.permutation(30)

    plain.add(met(on, n, x), window=1)
    renamed.add(met(on[order], n[order], x[order]), window=1)
    # The same rate in both parts: then it does not matter that there are two.
    for _ in range(2):
        halves.add(met(on, n, x), window=1)
    plain.add(met(on, n, x), window=2)
    renamed.add(met(on[order], n[order], x[order]), window=7)

    one, same, two = (evidence(draw) for draw in (plain, renamed, halves))
    assert one.log_e_harm == pytest.approx(same.log_e_harm, abs=1e-9)
    assert one.log_e_harm_steady == pytest.approx(same.log_e_harm_steady, abs=1e-9)
    assert one.log_e_safe == pytest.approx(two.log_e_safe, abs=1e-9)
    assert one.log_e_rare == pytest.approx(two.log_e_rare, abs=1e-9)


@given(
    events=st.floats(0, 1e6),
    expected=st.floats(1e-6, 1e6),
    kappa=st.floats(0, 100),
    share=st.sampled_from([0.01, 0.1, 0.5]),
    on=st.booleans(),
)
def test_one_customer_is_worth_at_most_one_in_the_share(
    events: float, expected: float, kappa: float, share: float, on: bool
) -> None:
    he = Records(*(np.array([one]) for one in (events, expected, 1.0, float(on))))

    for side in (HARM, SAFE):
        won = log_wagers(side, share, kappa, he)
        assert won.max() <= math.log(1 / (share if on else 1 - share)) + 1e-9


def a_canary(
    seed: int, ratio: float, *, stall: int | None = None, excused: bool = False
) -> list[Evidence]:
    """Run 24 batches of 2,000 customers who differ; in one, half of the challenger's fail."""
    rng = np.random.default_rng(seed)
    on = rng.random(2000) < 0.1
    rate, activity = rng.beta(0.01 * 49, 0.99 * 49, 2000), rng.pareto(1.1, 2000) + 1
    draw, found = Draw.of(0.1, 1), list[Evidence]()
    for window in range(24):
        n = rng.poisson(np.asarray(36_000 * activity / activity.sum(), np.float64))
        p = np.where(on, np.minimum(ratio * rate, 1), rate)
        x = rng.binomial(n, np.where(on, 0.5, p) if window == stall else p)
        draw.add(met(on, n, x), window=window, excused=excused and window > 12)
        found.append(evidence(draw))
    return found


def test_a_doubled_rate_is_harm_and_one_stall_of_the_worker_is_not() -> None:
    doubled, stalled = a_canary(3, 2.0)[-1], a_canary(3, 1.0, stall=8)[-1]

    assert doubled.log_e_harm_steady > LOG_HARM
    assert stalled.log_e_harm > LOG_HARM
    assert stalled.log_e_harm_steady < 1


def test_after_the_rest_no_later_moment_is_excused() -> None:
    found = a_canary(3, 1.0, stall=16, excused=True)

    assert found[12].log_e_harm_steady < LOG_HARM < found[-1].log_e_harm_steady


def test_a_share_that_rises_multiplies_what_was_won_before() -> None:
    rng = np.random.default_rng(1)
    place = rng.random(3000)
    first, second = Draw.of(0.05, 1), Draw.of((0.25 - 0.05) / 0.95, 1)
    n: Any = rng.poisson(20, 3000)
    first.add(met(place < 0.05, n, rng.binomial(n, np.where(place < 0.05, 0.04, 0.01))), window=1)
    later = np.where(place >= 0.05, n, 0)
    second.add(
        met(place < 0.25, later, rng.binomial(later, np.where(place < 0.25, 0.04, 0.01))), window=2
    )

    apart = [draw.wagers(0, 0.01) for draw in (first, second)]
    both = together(apart)

    assert both.log_e_harm > max(together([one]).log_e_harm for one in apart)
    assert both.expected == pytest.approx(sum(one.expected for one in apart))


def test_safety_rests_on_hours_that_have_ended() -> None:
    rng = np.random.default_rng(1)
    on = rng.random(3000) < 0.5
    draw = Draw.of(0.5, 1)
    n = rng.poisson(20, 3000)
    draw.add(met(on, n, rng.binomial(n, 0.05)), window=1)
    won = draw.wagers(0, 0.1)

    assert together([won], [won]).log_e_safe > 3
    assert together([won], []).log_e_safe == pytest.approx(0, abs=1e-12)
    assert together([won], []).log_e_harm == together([won]).log_e_harm


def test_routing_is_found_broken_and_not_by_chance() -> None:
    assert routing_p([(0.1, 2000, 200)]) == pytest.approx(1, abs=0.1)
    assert routing_p([(0.1, 2000, 150)]) < 0.001
    assert routing_p([(0.05, 1000, 50), (0.2, 900, 400)]) < 1e-6
    rng = np.random.default_rng(2)
    false = np.mean([routing_p([(0.01, 80, int(k))]) < 0.05 for k in rng.binomial(80, 0.01, 4000)])
    assert false < 0.05


def test_events_needed_are_those_of_the_plan() -> None:
    # ln 20 + 2 over the divergence is 606 to pass and 214 to fail; here alpha is halved.
    assert events_needed(0.1) == pytest.approx(
        606 * (math.log(40) + 2) / (math.log(20) + 2), rel=0.01
    )
    assert events_needed(0.1, 2.0) == pytest.approx(
        214 * (math.log(40) + 2) / (math.log(20) + 2), rel=0.01
    )


NOBODY = ArmCounts(0, 0, 0)


def told(
    found: Evidence, *, p: float = 1.0, redraw: bool = False, units: int = 200
) -> list[Batch]:
    customers = Customers(
        {"errors": found, "slow": found}, units, units // 10, p, redraw, NOBODY, NOBODY
    )
    return [Batch(ArmCounts(1000, 10, 10), ArmCounts(9000, 90, 90), customers)]


WON = Evidence(0, 0, 5, 0, 10.0, 90.0, 100.0, 500.0)


def test_a_judgement_of_customers_says_how_many_requests_they_are_worth() -> None:
    judged = judge(told(WON))

    assert judged.verdict is Verdict.PASSED
    assert judged.sentence.startswith(
        "After 1,000 challenger requests of 20 customers, counted like 900 independent ones: "
        "10 errors where 10 would be expected at equal rates"
    )


@pytest.mark.parametrize(
    ("found", "more", "verdict", "words"),
    [
        (Evidence(9, 9, 0, 0, 1, 9, 9, None), {}, Verdict.FAILED, ""),
        (Evidence(9, 9, 0, 0, 1, 9, 9, None), {"p": 1e-6}, Verdict.FAILED, ""),
        (WON, {"p": 1e-6}, Verdict.UNDECIDED, "Routing is broken: 20 of 200 customers met"),
        (
            Evidence(0, 0, 1, 0, 10, 90, 100, 100),
            {},
            Verdict.UNDECIDED,
            "200 customers in all: a 10 % canary cannot decide about errors at any traffic",
        ),
        (
            Evidence(0, 0, 1, 0, 10, 90, 100, 100),
            {"redraw": True},
            Verdict.UNDECIDED,
            " of both count like 90 independent ones; about 690 would decide.",
        ),
        (
            Evidence(0, 0, 0, 1.0, 0, 0, 0, None),
            {},
            Verdict.UNDECIDED,
            " are rare, about 74 customers of the challenger's show; it has 20.",
        ),
    ],
)
def test_what_a_judgement_of_customers_says(
    found: Evidence, more: dict[str, Any], verdict: Verdict, words: str
) -> None:
    judged = judge(told(found, **more))

    assert judged.verdict is verdict
    assert words in judged.needs
    assert not judged.burst


def test_harm_only_with_the_worst_moments_is_a_burst() -> None:
    judged = judge(told(Evidence(9, 1, 0, 0, 1, 9, 9, None)))

    assert (judged.verdict, judged.burst) == (Verdict.UNDECIDED, True)


def test_who_has_no_key_is_drawn_by_request_and_counts_as_well() -> None:
    nothing = Evidence(0, 0, 0, 0, 0, 0, 0, None)
    customers = Customers(
        {"errors": nothing, "slow": nothing}, 0, 0, 1.0, False,
        ArmCounts(1000, 0, 20), ArmCounts(9000, 0, 180),
    )  # fmt: skip
    batches = [Batch(customers.challenger, customers.champion, customers)] * 3
    plain = [Batch(customers.challenger, customers.champion)] * 3

    keyed, by_request = judge(batches).metrics, judge(plain).metrics

    for name in ("errors", "slow"):
        assert keyed[name].log_e_safe == pytest.approx(by_request[name].log_e_safe)
        assert keyed[name].log_e_absolute == pytest.approx(by_request[name].log_e_absolute)
