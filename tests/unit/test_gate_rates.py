"""How often the gate is wrong, in a small setting; the whole tables: bench/statistics/gate.py."""

from __future__ import annotations

import numpy as np
import pytest

from bench.statistics.gate import MARGIN, drawn, grouped, pair_of, slices
from penstock.check.comparison import decide, needed_rows
from penstock.check.paired import Difference


def test_a_challenger_at_the_margin_seldom_passes_and_seldom_fails() -> None:
    draw = np.random.default_rng(1)

    verdicts = [str(decide(drawn(draw, 2000, -MARGIN), MARGIN)) for _ in range(300)]

    # 5 % each, and a standard error of 1.3 %.
    assert verdicts.count("passed") / 300 < 0.10
    assert verdicts.count("failed") / 300 < 0.10


def test_an_equal_challenger_is_not_called_worse_and_seldom_better() -> None:
    draw = np.random.default_rng(2)

    found = [drawn(draw, 2000, 0.0) for _ in range(300)]

    assert sum(str(decide(one, MARGIN)) == "failed" for one in found) <= 3
    assert sum(one.low > 0 for one in found) / 300 < 0.10


def test_the_rows_that_are_named_let_four_of_five_equal_versions_pass() -> None:
    draw = np.random.default_rng(3)
    first = pair_of(draw, "log_loss", 3000).difference()
    assert first is not None
    rows = round(needed_rows(3000, first.se, 0.02))

    found = [pair_of(draw, "log_loss", rows).difference() for _ in range(200)]

    passed = sum(one is not None and str(decide(one, 0.02)) == "passed" for one in found)
    assert 0.65 < passed / 200 < 0.93


def test_looking_at_ten_slices_does_not_raise_false_alarms() -> None:
    (equal, at_margin, *_) = slices(60, 4)

    assert equal["any_failed"] <= 0.05
    assert at_margin["any_failed"] <= 0.12
    assert at_margin["any_failed_without_holm"] > 0.25


@pytest.mark.parametrize("metric", ["accuracy", "roc_auc"])
def test_rows_that_belong_together_are_counted_by_group(metric: str) -> None:
    draw = np.random.default_rng(5)

    def missed(*, by_group: bool) -> float:
        found: list[Difference | None] = [
            grouped(draw, metric, 60, by_group=by_group) for _ in range(150)
        ]
        assert None not in found
        return sum(one.low > 0 or one.high < 0 for one in found if one is not None) / 150

    assert missed(by_group=True) < 0.20  # 10 % are right
    assert missed(by_group=False) > 0.22
