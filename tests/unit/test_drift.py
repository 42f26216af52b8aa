"""Drift. Expected numbers come from the statistics page's reference programs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from penstock.check.drift import (
    MARGINS,
    Shift,
    benjamini_hochberg,
    column_test,
    drift,
    levels,
    shares,
)
from penstock.check.profile import column_cells, reference_profile
from penstock.domain import CheckResult, Verdict

K = np.arange(2000)
UNIFORM = (K * 7919 % 10007) / 10007
OTHER = (K * 6151 % 9973) / 9973
SHIFTED = np.sqrt(OTHER[:900])


def one_column(values: object, *, kind: pa.DataType | None = None) -> pa.Table:
    return pa.table({"v": pa.array(values, kind)})


def shift(period: NDArray[Any] | list[Any], *reference: NDArray[Any] | list[Any]) -> Shift:
    profile = reference_profile(*(one_column(block) for block in reference))
    counts = column_cells(profile["columns"]["v"], one_column(period), "v")
    assert counts is not None
    return column_test(*counts)


def only(profile: dict[str, Any], period: pa.Table) -> CheckResult:
    (result,) = drift(profile, period)
    return result


def close_to(found: Shift, *, psi: float, low: float, high: float, cells: int) -> None:
    assert (found.psi, found.low, found.high) == pytest.approx((psi, low, high), abs=1e-9)
    assert found.cells == cells


def test_a_shifted_number_equals_the_reference() -> None:
    found = shift(SHIFTED, UNIFORM)

    close_to(
        found, psi=0.5018617135734657, low=0.3850673179104769, high=0.5694285552981126, cells=20
    )
    assert found.p_values is not None
    assert found.p_values["major"] == pytest.approx(2.231426693535849e-06, rel=1e-6)


def test_missing_values_are_a_cell_and_equal_the_reference() -> None:
    holes = SHIFTED.copy()
    holes[::4] = np.nan

    close_to(
        shift(holes, UNIFORM),
        psi=2.2821653166849507,
        low=2.0571121594435007,
        high=2.4547264866033225,
        cells=21,
    )


def test_no_drift_equals_the_reference() -> None:
    close_to(shift(OTHER, UNIFORM), psi=0.0014252826240702024, low=0, high=0, cells=20)


def test_names_equal_the_reference() -> None:
    names = [f"c{k * k % 37}" for k in range(2000)]
    period = [f"c{(k * k + (k % 9 == 0)) % 37}" for k in range(800)]

    close_to(
        shift(period, names),
        psi=0.29381874928923896,
        low=0.19454444484216935,
        high=0.3396754752191531,
        cells=20,
    )


def test_periods_that_differ_by_themselves_widen_the_interval_as_in_the_reference() -> None:
    parts = [
        UNIFORM[:500],
        UNIFORM[500:1000] ** 1.5,
        UNIFORM[1000:1500] ** 0.6,
        UNIFORM[1500:],
    ]

    found = shift(SHIFTED, *parts)

    close_to(
        found, psi=0.47522700893515346, low=0.22898764900319554, high=0.5503278657576576, cells=20
    )
    assert found.phi == pytest.approx(3.488155704599864, abs=1e-9)


def test_benjamini_hochberg_equals_the_reference() -> None:
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.9, 0.02]) == [True, True, True, False, True]
    assert benjamini_hochberg([]) == []


def test_a_column_that_cannot_be_tested_does_not_count_for_the_others() -> None:
    just = dict.fromkeys(MARGINS, 0.04)

    assert levels({"a": Shift(p_values=just), "b": Shift()}) == {"a": "major", "b": None}


def test_a_profile_is_plain_json_and_holds_no_rows() -> None:
    table = pa.table({"n": UNIFORM, "t": ["a", "b"] * 1000, "yes": K % 2 == 0, "l": [[1]] * 2000})

    profile = reference_profile(table)

    assert json.loads(json.dumps(profile)) == profile
    assert profile["left_out"] == ["l"]
    assert profile["rows"] == 2000
    assert max(len(one) for one in (profile["columns"]["n"]["edges"],)) <= 257


def test_a_shift_fails_and_the_sentence_has_the_numbers() -> None:
    result = only(reference_profile(one_column(UNIFORM)), one_column(SHIFTED))

    assert (result.check, result.verdict) == ("drift.v", Verdict.FAILED)
    assert result.summary == "PSI 0.5019, at least 0.3851 > 0.1"
    assert result.evidence["level"] == "major"
    assert result.evidence["spread_known"] is False


def test_no_shift_passes() -> None:
    result = only(reference_profile(one_column(UNIFORM)), one_column(OTHER))

    assert (result.verdict, result.evidence["reading"]) == (Verdict.PASSED, "alike")


def test_one_outlier_hides_nothing() -> None:
    spoiled = SHIFTED.copy()
    spoiled[0] = 1e9

    assert (
        only(reference_profile(one_column(UNIFORM)), one_column(spoiled)).verdict is Verdict.FAILED
    )


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_there_any_more_fail(missing: float | None) -> None:
    values = [missing if k % 5 < 2 else float(UNIFORM[k]) for k in range(2000)]

    assert (
        only(reference_profile(one_column(UNIFORM)), one_column(values)).verdict is Verdict.FAILED
    )


@pytest.mark.parametrize(("now", "verdict"), [(3.0, Verdict.PASSED), (2.0, Verdict.FAILED)])
def test_a_constant_passes_until_it_changes(now: float, verdict: Verdict) -> None:
    profile = reference_profile(one_column([3.0] * 500))

    assert only(profile, one_column([now] * 500)).verdict is verdict


def test_few_rows_are_undecided_and_say_how_many_would_do() -> None:
    result = only(reference_profile(one_column(UNIFORM)), one_column(SHIFTED[:150]))

    assert (result.verdict, result.summary) == (Verdict.UNDECIDED, "150 rows, 200 needed")


def test_a_column_that_is_gone_or_of_another_kind_is_undecided() -> None:
    profile = reference_profile(one_column(UNIFORM))

    for period in (pa.table({"w": UNIFORM}), one_column(["a"] * 500)):
        result = only(profile, period)
        assert (result.verdict, result.evidence["reading"]) == (
            Verdict.UNDECIDED,
            "not in the log",
        )


def test_a_column_without_any_value_is_seen_to_come_back() -> None:
    profile = reference_profile(one_column([None] * 500, kind=pa.float64()))

    assert only(profile, one_column([None] * 500, kind=pa.float64())).verdict is Verdict.PASSED
    assert only(profile, one_column(UNIFORM)).verdict is Verdict.FAILED


def test_truth_values_decimals_and_dictionaries_are_counted() -> None:
    often, seldom = K % 2 == 0, K % 20 == 0
    text = ["a" if one else "b" for one in often]
    before = {
        "bool": pa.array(often),
        "decimal": pa.array(UNIFORM).cast(pa.decimal128(20, 10)),
        "dictionary": pa.array(text).dictionary_encode(),
    }
    now = {
        "bool": pa.array(seldom),
        "decimal": pa.array(OTHER).cast(pa.decimal128(20, 10)),
        "dictionary": pa.array(["b"] * 2000),
    }

    found = {
        one.check: one.verdict for one in drift(reference_profile(pa.table(before)), pa.table(now))
    }

    assert found == {
        "drift.bool": Verdict.FAILED,
        "drift.decimal": Verdict.PASSED,
        "drift.dictionary": Verdict.FAILED,
    }


def test_many_rare_names_without_drift_are_no_drift() -> None:
    draw = np.random.default_rng(3)
    names = np.array([f"v{number}" for number in range(1000)])
    profile = reference_profile(one_column(draw.choice(names, 2000)))

    result = only(profile, one_column(draw.choice(names, 2000)))

    assert result.verdict is not Verdict.FAILED
    assert result.evidence["pooled"] > 0.5


def test_more_than_2000_names_are_kept_as_their_most_frequent_ones() -> None:
    names = [f"v{k}" for k in range(3000)] + ["often"] * 1000
    profile = reference_profile(one_column(names))

    (block,) = profile["columns"]["v"]["periods"]
    assert len(block["names"]) == 2000
    assert block["names"]["often"] == 1000
    assert block["rest"] == 1001
    gone = [f"w{k}" for k in range(4000)]
    assert only(profile, one_column(gone)).verdict is Verdict.FAILED


def test_shares_for_a_picture_sum_to_one() -> None:
    profile = reference_profile(one_column(UNIFORM))

    found = shares(profile, one_column(SHIFTED), "v")

    assert found is not None
    assert sum(before for before, _ in found) == pytest.approx(1)
    assert sum(now for _, now in found) == pytest.approx(1)
    assert shares(profile, pa.table({}), "v") is None


def test_twenty_columns_without_drift_rarely_fail_and_a_shift_at_the_margin_seldom() -> None:
    draw, failed_quiet, failed_margin, trials = np.random.default_rng(7), 0, 0, 60
    reference = pa.table({f"c{number}": draw.normal(size=4000) for number in range(5)})
    profile = reference_profile(reference)
    for _ in range(trials):
        quiet = pa.table({f"c{number}": draw.normal(size=1000) for number in range(5)})
        failed_quiet += any(one.verdict is Verdict.FAILED for one in drift(profile, quiet))
        # A normal column that moved by .316 standard deviations has the index .1.
        moved = pa.table({"c0": draw.normal(size=1000) + 0.316})
        of_first = {**profile, "columns": {"c0": profile["columns"]["c0"]}}
        failed_margin += only(of_first, moved).verdict is Verdict.FAILED

    assert failed_quiet == 0
    assert failed_margin / trials < 0.15
