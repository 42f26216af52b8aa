"""The promotion gate. Expected numbers come from the statistics page's reference programs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.check.answers import Answers
from penstock.check.comparison import Matched, chance_to_pass, decide, holm, needed_rows
from penstock.check.comparison import compare as compared
from penstock.check.paired import (
    Difference,
    auc_difference,
    bootstrap_difference,
    mcnemar_mid_p,
    mean_difference,
    proportion_difference,
)
from penstock.check.rows import delong
from penstock.domain import CheckResult, Verdict
from penstock.errors import UsageError

I = np.arange(400)  # noqa: E741  # row numbers, from which all fixed examples are made
LABELS = I * 7 % 10 < 3
CHAMPION = (I * 37 % 101) / 101 + 0.4 * LABELS
CHALLENGER = (I * 53 % 97) / 97 + 0.5 * LABELS
CLOSE = pytest.approx


def scored(score: NDArray[Any], *, cut: float = 0.5) -> Answers:
    """Make answers of a classifier with the classes "no" and "yes"."""
    score = np.clip(score, 0, 1).astype(np.float64)
    prediction = np.where(score > cut, "yes", "no")
    return Answers(prediction, np.column_stack([1 - score, score]), ("no", "yes"), "yes")


def compare(
    metric: str, labels: NDArray[Any], champion: Answers, challenger: Answers, **asked: Any
) -> CheckResult:
    return compared(metric, Matched(labels, champion, challenger), **asked)


def yes_no(labels: NDArray[Any]) -> NDArray[Any]:
    return np.where(labels, "yes", "no")


def test_auc_difference_equals_the_reference() -> None:
    found = auc_difference(LABELS, CHAMPION, CHALLENGER)

    assert found.value == CLOSE(0.06434523809523807, abs=1e-9)
    assert found.se == CLOSE(0.02748808913276067, abs=1e-9)


def test_delong_gives_the_areas_and_their_covariance() -> None:
    areas, covariance = delong(LABELS, np.array([CHAMPION, CHALLENGER]))

    assert areas.tolist() == CLOSE([0.816904761904762, 0.88125], abs=1e-9)
    assert covariance[0, 1] == CLOSE(1.25149661e-05, abs=1e-12)


def test_proportions_and_mcnemar_equal_the_reference() -> None:
    champion, challenger = I * 13 % 10 < 8, I * 11 % 20 < 17

    found = proportion_difference(champion, challenger)

    assert found.value == CLOSE(0.04975124378109452, abs=1e-9)
    assert found.se == CLOSE(0.029538685511735406, abs=1e-9)
    assert mcnemar_mid_p(champion, challenger) == CLOSE(0.09176922936810457, abs=1e-9)
    assert needed_rows(400, found.se, 0.01) == CLOSE(21577.964127273855, rel=1e-9)
    assert needed_rows(400, found.se, 0.01, assumed=0.005) == CLOSE(9590.20627878838, rel=1e-9)
    assert chance_to_pass(found.se, 0.01) == CLOSE(0.09572280942820227, abs=1e-9)


def test_mean_losses_equal_the_reference() -> None:
    found = mean_difference((I * 29 % 83) / 83, (I * 31 % 89) / 100)

    assert found.value == CLOSE(0.052869277108433727, abs=1e-9)
    assert found.se == CLOSE(0.018568017118703477, abs=1e-9)


def test_the_bootstrap_equals_the_reference() -> None:
    truth = I / 10
    champion, challenger = truth + (I * 37 % 101) / 50 - 1, truth + (I * 53 % 97) / 60 - 0.8

    def gain(weights: NDArray[np.float64]) -> float:
        before, now = (
            math.sqrt(np.average(np.square(truth - one), weights=weights))
            for one in (champion, challenger)
        )
        return before - now

    found = bootstrap_difference(gain, len(I), replicates=300, seed=5)

    expected = (0.11609614139267, 0.0877658281312431, 0.14464686700740517)
    assert (found.value, found.low, found.high) == CLOSE(expected, abs=1e-9)


def test_holm_stops_at_the_first_that_is_not_rejected() -> None:
    assert holm([0.04, 0.001, 0.03, 0.012]) == [False, True, False, True]


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (Difference(0.0, 0.001, -0.002, 0.002), Verdict.PASSED),
        (Difference(-0.004, 0.001, -0.006, -0.002), Verdict.UNDECIDED),
        (Difference(-0.02, 0.001, -0.022, -0.018), Verdict.FAILED),
    ],
)
def test_the_interval_against_the_margin_decides(difference: Difference, verdict: Verdict) -> None:
    assert decide(difference, 0.005) is verdict


def test_a_zero_difference_needs_no_rows_beyond_any_margin() -> None:
    assert needed_rows(100, 0.01, 0.005, assumed=-0.005) == math.inf


def test_a_better_challenger_passes_and_is_called_better() -> None:
    result = compare(
        "roc_auc",
        yes_no(LABELS),
        scored(CHAMPION / 1.5),
        scored(CHALLENGER / 1.6),
        margin=0.005,
    )

    assert result.check == "quality.not_worse"
    assert result.verdict is Verdict.PASSED
    assert result.evidence["reading"] == "better"
    assert result.evidence["champion"] == CLOSE(0.816904761904762)
    assert result.evidence["value"] == CLOSE(0.88125)
    assert result.evidence["rows"] == 400
    assert "higher than the champion's, provably better" in result.summary


def test_the_same_answers_are_not_worse() -> None:
    answers = scored(CHAMPION / 1.5)

    result = compare("roc_auc", yes_no(LABELS), answers, answers, margin=0.005)

    assert (result.verdict, result.evidence["reading"]) == (Verdict.PASSED, "not worse")
    assert "the same as the champion's" in result.summary


def test_a_worse_challenger_fails() -> None:
    result = compare(
        "roc_auc",
        yes_no(LABELS),
        scored(CHALLENGER / 1.6),
        scored((I * 31 % 89) / 89),
        margin=0.01,
    )

    assert (result.verdict, result.evidence["reading"]) == (Verdict.FAILED, "worse")
    assert result.evidence["high"] < -0.01


def test_too_few_rows_are_undecided_and_say_how_many_would_do() -> None:
    few = slice(0, 60)
    labels = yes_no(LABELS[few])
    champion, challenger = scored(CHALLENGER[few] / 1.6), scored(CHALLENGER[few][::-1] / 1.6)

    result = compare("accuracy", labels, champion, challenger, margin=0.01)

    assert result.verdict is not Verdict.PASSED
    even = compare("accuracy", labels, champion, scored(CHALLENGER[few] / 1.7), margin=0.01)
    assert (even.verdict, even.evidence["reading"]) == (Verdict.UNDECIDED, "too close")
    assert even.evidence["needed_rows"] > 60
    assert f"about {even.evidence['needed_rows']:,} would decide" in even.summary


def test_one_class_only_is_undecided() -> None:
    answers = scored(CHAMPION[:20] / 1.5)

    result = compare("roc_auc", np.array(["no"] * 20), answers, answers, margin=0.01)

    assert result.verdict is Verdict.UNDECIDED
    assert "20 rows, 0 of them of the rarer class of 10" in result.summary


def test_a_loss_counts_the_other_way_round() -> None:
    truth = I / 10
    good, bad = Answers(truth + 0.1), Answers(truth + 0.5 + 0.1 * (I % 3))

    better = compare("mae", truth, bad, good, margin=0.01)
    worse = compare("mae", truth, good, bad, margin=0.01)

    assert (better.verdict, better.evidence["reading"]) == (Verdict.PASSED, "better")
    assert (worse.verdict, worse.evidence["reading"]) == (Verdict.FAILED, "worse")
    assert worse.evidence["difference"] < 0 < worse.evidence["value"] - worse.evidence["champion"]
    assert worse.summary.startswith("mean absolute error 0.4997")
    assert "higher than the champion's" in worse.summary


@pytest.mark.parametrize("metric", ["f1", "average_precision", "log_loss", "brier", "recall"])
def test_every_measure_can_be_compared(metric: str) -> None:
    rows = slice(0, 100)

    result = compare(
        metric,
        yes_no(LABELS[rows]),
        scored(CHAMPION[rows] / 1.5),
        scored(CHALLENGER[rows] / 1.6),
        margin=0.01,
    )

    assert result.evidence["low"] <= result.evidence["difference"] <= result.evidence["high"]


def test_many_classes_are_compared_by_macro_f1_and_area() -> None:
    truth = I[:90] % 3
    right = np.eye(3)[truth] * 0.6 + 0.4 / 3
    other = np.eye(3)[(truth + (I[:90] % 5 == 0)) % 3] * 0.6 + 0.4 / 3
    classes = (0, 1, 2)
    good = Answers(truth, right, classes)
    bad = Answers(other.argmax(axis=1), other, classes)

    for metric in ("f1_macro", "roc_auc_ovr"):
        assert compare(metric, truth, good, bad, margin=0.01).verdict is Verdict.FAILED


def test_models_may_order_and_spell_their_classes_differently() -> None:
    score = np.clip(CHALLENGER / 1.6, 0, 1)
    one = Answers((score > 0.5).astype(int), np.column_stack([1 - score, score]), (0, 1), 1)
    other = Answers(
        np.where(score > 0.5, "1", "0"), np.column_stack([score, 1 - score]), ("1", "0"), "1"
    )

    result = compare("roc_auc", LABELS.astype(float), one, other, margin=0.005)

    assert result.evidence["difference"] == CLOSE(0, abs=1e-12)
    assert result.evidence["value"] == CLOSE(0.88125)


def test_a_slice_that_is_provably_worse_fails_the_gate() -> None:
    region = np.where(I % 2 == 0, "north", "south")
    labels = yes_no(LABELS)
    champion = scored(np.where(LABELS, 0.9, 0.1) + (I % 11) / 200)
    spoiled = np.where(region == "south", (I * 37 % 101) / 101, np.where(LABELS, 0.9, 0.1))

    result = compare(
        "roc_auc", labels, champion, scored(spoiled), margin=0.2, slices={"region": region}
    )

    by_name = {one["slice"]: one["verdict"] for one in result.evidence["slices"]}
    assert by_name == {"region = north": "passed", "region = south": "failed"}
    assert result.verdict is Verdict.FAILED
    assert "provably worse where region = south" in result.summary


def test_a_small_slice_is_listed_and_does_not_block() -> None:
    region = np.where(I < 50, "tiny", "rest")
    answers = scored(CHAMPION / 1.5)

    result = compare(
        "roc_auc", yes_no(LABELS), answers, answers, margin=0.01, slices={"region": region}
    )

    assert result.verdict is Verdict.PASSED
    tiny = next(one for one in result.evidence["slices"] if one["slice"] == "region = tiny")
    assert (tiny["verdict"], tiny["rows"], tiny["difference"]) == ("undecided", 50, None)


def test_a_measure_without_its_probabilities_is_refused_with_the_ones_that_fit() -> None:
    answers = Answers(yes_no(LABELS))

    with pytest.raises(UsageError, match=r"PS302.*no probabilities") as refused:
        compare("roc_auc", yes_no(LABELS), answers, answers, margin=0.01)

    assert "accuracy" in refused.value.hint


def test_a_challenger_at_the_margin_rarely_passes_and_an_equal_one_mostly_does() -> None:
    draw, trials, rows = np.random.default_rng(4), 300, 2000
    passed = {0.0: 0, 0.03: 0}
    for worse in passed:
        for _ in range(trials):
            champion = draw.random(rows) < 0.90
            # 4 % of the rows differ; of them the champion is right more often by `worse`.
            differs = draw.random(rows) < 0.06
            won = draw.random(rows) < 0.5 - worse / 0.12
            challenger = np.where(differs, won, champion)
            before = np.where(differs, ~won, champion)
            passed[worse] += decide(proportion_difference(before, challenger), 0.03) == "passed"

    assert passed[0.0] / trials > 0.95
    assert passed[0.03] / trials < 0.10
