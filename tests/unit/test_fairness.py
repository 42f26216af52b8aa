from __future__ import annotations

import math
from typing import Any

import fairlearn.metrics as fm
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from penstock.check.answers import Answers
from penstock.check.evaluation import Evaluation
from penstock.check.fairness.gaps import four_fifths, rate_ratio
from penstock.check.fairness.groups import grouping
from penstock.check.fairness.rates import wilson
from penstock.check.fairness.report import FairnessReport, fairness
from penstock.config import Fairness
from penstock.domain import Verdict
from penstock.errors import StoppedError

CLASSES = ("no", "yes")
TENTH = Fairness(max=0.1)


def evaluation(labels: NDArray[Any], **sensitive: Any) -> Evaluation:
    table = pa.table({name: pa.array(values) for name, values in sensitive.items()})
    return Evaluation(table, labels, None, None, table, "d" * 64)


def people(
    *sizes: tuple[str, int, float], base_rate: float = 0.5, seed: int = 0
) -> tuple[Evaluation, NDArray[Any], Answers]:
    """Make groups of ``(name, rows, selection rate)``; labels do not depend on the group."""
    random = np.random.default_rng(seed)
    group = np.concatenate([np.full(rows, name, dtype=object) for name, rows, _ in sizes])
    labels = np.where(random.random(len(group)) < base_rate, "yes", "no").astype(object)
    said = np.concatenate(
        [np.arange(rows) < round(rows * rate) for _, rows, rate in sizes]
    )  # exactly the rate
    answers = Answers(np.where(said, "yes", "no").astype(object), None, CLASSES, "yes")
    return evaluation(labels, sex=group), labels, answers


def judged(
    *sizes: tuple[str, int, float], maximum: float | None = 0.1, seed: int = 0
) -> FairnessReport:
    found, labels, answers = people(*sizes, seed=seed)
    return fairness(found, labels, answers, task="classification", settings=Fairness(max=maximum))


def test_values_are_fairlearns() -> None:
    found, labels, answers = people(("a", 500, 0.5), ("b", 400, 0.4), ("c", 300, 0.45))
    truth, said = labels == "yes", answers.prediction == "yes"
    group = found.sensitive.column("sex").to_pylist()

    report = fairness(found, labels, answers, task="classification")
    differences = report.report["columns"][0]["differences"]
    ratio = report.results[1].evidence["value"]

    parity = fm.demographic_parity_difference(truth, said, sensitive_features=group)
    odds = fm.equalized_odds_difference(truth, said, sensitive_features=group)
    assert differences["demographic_parity"]["value"] == pytest.approx(parity)
    assert differences["equalized_odds"]["value"] == pytest.approx(odds)
    assert ratio == pytest.approx(
        fm.demographic_parity_ratio(truth, said, sensitive_features=group)
    )


@pytest.mark.parametrize(
    ("rate", "verdict", "reading"),
    [
        (0.50, Verdict.PASSED, "within the limit"),
        (0.41, Verdict.UNDECIDED, "too close to the limit"),
        (0.30, Verdict.FAILED, "over the limit"),
    ],
)
def test_a_limit_is_judged_by_the_interval(rate: float, verdict: Verdict, reading: str) -> None:
    result = judged(("a", 2000, 0.5), ("b", 2000, rate)).results[0]

    assert result.check == "fairness.demographic_parity.sex"
    assert result.verdict is verdict
    assert result.evidence["reading"] == reading
    assert result.evidence["low"] <= result.evidence["value"] <= result.evidence["high"]


def test_the_same_difference_is_undecided_with_fewer_rows() -> None:
    many = judged(("a", 2000, 0.5), ("b", 2000, 0.3)).results[0]
    few = judged(("a", 110, 0.5), ("b", 110, 0.3)).results[0]

    assert many.verdict is Verdict.FAILED
    assert few.verdict is Verdict.UNDECIDED


def test_without_a_limit_a_report_never_fails() -> None:
    results = judged(("a", 2000, 0.9), ("b", 2000, 0.1), maximum=None).results

    assert [result.verdict for result in results] == [Verdict.PASSED, Verdict.PASSED]
    assert [result.evidence["reading"] for result in results] == ["reported", "reported"]
    assert results[1].evidence["four_fifths"] == "failed"
    assert "provably under four fifths" in results[1].summary


def test_a_report_asks_no_question_that_passed_would_answer_with_yes() -> None:
    reported = judged(("a", 2000, 0.9), ("b", 2000, 0.1), maximum=None).results
    held = judged(("a", 2000, 0.5), ("b", 2000, 0.5)).results

    assert all(result.evidence["question"].startswith("How ") for result in reported)
    assert held[0].evidence["question"] == "Do groups get a yes equally often?"


def test_a_small_group_is_listed_and_not_judged() -> None:
    report = judged(("a", 500, 0.5), ("b", 500, 0.5), ("tiny", 99, 1.0))
    groups = {one["group"]: one for one in report.report["columns"][0]["groups"]}

    assert report.results[0].verdict is not Verdict.FAILED
    assert report.results[0].evidence["value"] == pytest.approx(0)
    assert report.results[0].evidence["not_judged"] == ["tiny"]
    assert "too few to judge: tiny" in report.results[0].summary
    assert groups["tiny"]["judged"] is False
    assert groups["tiny"]["selection_rate"]["value"] == 1.0
    assert groups["a"]["judged"] is True


def test_a_group_with_few_positives_is_not_judged() -> None:
    found, labels, answers = people(("a", 500, 0.5), ("b", 500, 0.5))
    of_b = np.array(found.sensitive.column("sex").to_pylist()) == "b"
    labels[of_b] = "no"

    result = fairness(found, labels, answers, task="classification", settings=TENTH).results[0]

    assert result.verdict is Verdict.UNDECIDED
    assert result.evidence["not_judged"] == ["b"]
    assert result.evidence["reading"] == "few cases"


def test_no_two_large_groups_are_undecided_even_as_a_report() -> None:
    results = judged(("a", 99, 0.5), ("b", 99, 0.1), maximum=None).results

    assert {result.verdict for result in results} == {Verdict.UNDECIDED}


def test_equalized_odds_sees_errors_that_parity_does_not() -> None:
    """Both groups get as many yes; in b they go to the wrong people."""
    group = np.repeat(["a", "b"], 1000).astype(object)
    labels = np.tile(["yes", "no"], 1000).astype(object)
    said = np.where(group == "a", labels, np.where(labels == "yes", "no", "yes"))
    answers = Answers(said, None, CLASSES, "yes")
    found = evaluation(labels, sex=group)

    def verdict(metric: Any) -> Verdict:
        report = fairness(
            found,
            labels,
            answers,
            task="classification",
            settings=Fairness(metric=metric, max=0.1),
        )
        return report.results[0].verdict

    assert verdict("demographic_parity_difference") is Verdict.PASSED
    assert verdict("equalized_odds_difference") is Verdict.FAILED


def test_labels_and_answers_may_spell_a_class_differently() -> None:
    found, labels, answers = people(("a", 500, 0.5), ("b", 500, 0.5))
    numbers = Answers((answers.prediction == "yes").astype(float), None, (0, 1), 1)

    as_text = fairness(found, labels, answers, task="classification").results[0]
    as_numbers = fairness(found, labels == "yes", numbers, task="classification").results[0]

    assert as_numbers.evidence["value"] == as_text.evidence["value"]


def test_more_than_two_classes_compare_how_often_a_group_is_answered_rightly() -> None:
    group = np.repeat(["a", "b"], 600).astype(object)
    labels = np.tile([0, 1, 2], 400)
    wrong = (group == "b") & (np.arange(1200) % 4 == 0)
    answers = Answers(np.where(wrong, (labels + 1) % 3, labels), None, (0, 1, 2))

    report = fairness(
        evaluation(labels, sex=group),
        labels,
        answers,
        task="classification",
        settings=TENTH,
    )

    assert [result.check for result in report.results] == ["fairness.accuracy.sex"]
    assert report.results[0].verdict is Verdict.FAILED
    assert report.results[0].evidence["value"] == pytest.approx(0.25)


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, Verdict.PASSED), (5.0, Verdict.FAILED)])
def test_regression_compares_mean_errors(shift: float, verdict: Verdict) -> None:
    random = np.random.default_rng(0)
    group = np.repeat([1, 2], 300)
    labels = random.normal(100, 20, 600)
    answers = Answers(labels + random.normal(size=600) + shift * (group == 2))

    report = fairness(
        evaluation(labels, sex=group),
        labels,
        answers,
        task="regression",
        settings=Fairness(max=1.0),
    )

    assert [result.check for result in report.results] == ["fairness.mean_error.sex"]
    assert report.results[0].verdict is verdict
    assert report.results[0].evidence["value"] == pytest.approx(shift, abs=0.4)


def ages(*values: Any, bands: tuple[float, ...] = ()) -> tuple[tuple[str, ...], list[str]]:
    found = grouping("age", pa.chunked_array([list(values)]), bands)
    return found.names, [found.names[code] for code in found.codes]


def test_ages_become_bands_at_round_numbers_and_null_a_group_of_its_own() -> None:
    names, of = ages(None, *(17 + n % 60 for n in range(6000)))

    assert names[:3] == ("under 20", "20 to 29", "30 to 39")
    assert names[-2:] == ("70 and over", "missing")
    assert of[0] == "missing"
    assert of[1:5] == ["under 20"] * 3 + ["20 to 29"]


def test_bands_at_the_ends_are_joined_where_few_rows_lie() -> None:
    names, of = ages(*([30] * 300 + [45] * 300 + [51] * 300), *range(18, 28), *range(70, 76))

    assert min(of.count(name) for name in names) >= 100
    assert names[0].startswith("under ")
    assert names[-1].endswith(" and over")


def test_bands_that_the_project_sets_are_its_own() -> None:
    names, of = ages(17.5, 18, 64, 65, *range(20, 40), bands=(18, 65))

    assert names == ("under 18", "18 to under 65", "65 and over")
    assert of[:4] == ["under 18", "18 to under 65", "18 to under 65", "65 and over"]


def test_bands_for_a_column_without_numbers_are_refused() -> None:
    with pytest.raises(StoppedError, match="holds no numbers") as caught:
        ages("f", "m", bands=(18,))

    assert caught.value.code == "PS351"


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([1, 2, 3, 10], ("1", "2", "3", "10")),
        ([1.0, 2.5, math.nan], ("1", "2.5", "missing")),
        (["m", "f"], ("f", "m")),
        ([True, False], ("False", "True")),
        ([["b", "a"], ["a"], ["a", "b"], []], ("a", "a and b", "none")),
        (["missing", None], ("missing", "no value")),
        ([None, None], ("missing",)),
    ],
)
def test_few_values_are_groups_as_they_are(values: list[Any], names: tuple[str, ...]) -> None:
    assert ages(*values)[0] == names


def test_a_heap_on_one_value_and_a_long_tail_still_make_groups() -> None:
    names, of = ages(*([0.0] * 800), *(float(one) for one in range(200)))

    assert len(names) >= 2
    assert sum(of.count(name) for name in names) == 1000


def test_of_very_many_groups_the_largest_are_kept_and_the_rest_is_counted() -> None:
    found = grouping("zip", pa.chunked_array([["big"] * 200 + [f"z{n}" for n in range(500)]]))

    assert len(found.names) == 50
    assert found.beyond == 451
    assert found.counts[found.names.index("big")] == 200
    assert int((found.codes == -1).sum()) == 451


def test_wilsons_interval_stays_within_zero_and_one() -> None:
    none, every = wilson(0, 20), wilson(20, 20)

    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.1611, abs=1e-3)
    assert (every.value, every.high) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("rate", "rows", "verdict"),
    [
        (0.50, 1000, Verdict.PASSED),
        (0.41, 200, Verdict.UNDECIDED),
        (0.20, 1000, Verdict.FAILED),
        (0.00, 1000, Verdict.FAILED),
    ],
)
def test_four_fifths_needs_proof_either_way(rate: float, rows: int, verdict: Verdict) -> None:
    ratio = rate_ratio("b", (rate, rows), (0.5, 1000))

    assert four_fifths([ratio]) is verdict
    assert ratio.share.low <= ratio.share.value <= ratio.share.high


def test_many_groups_make_one_chance_low_rate_less_damning() -> None:
    border = rate_ratio("b", (0.345, 500), (0.5, 1000))
    fine = rate_ratio("c", (0.5, 1000), (0.5, 1000))

    assert four_fifths([border]) is Verdict.FAILED
    assert four_fifths([border] + [fine] * 19) is Verdict.UNDECIDED


def test_equal_groups_are_rarely_called_unfair() -> None:
    random = np.random.default_rng(5)
    group = np.repeat(list("abcdef"), 150).astype(object)
    labels = np.where(random.random(900) < 0.5, "yes", "no").astype(object)
    found = evaluation(labels, sex=group)

    failed = 0
    for _ in range(40):
        said = np.where(random.random(900) < 0.5, "yes", "no").astype(object)
        answers = Answers(said, None, CLASSES, "yes")
        report = fairness(
            found, labels, answers, task="classification", settings=Fairness(max=0.0)
        )
        failed += report.results[0].verdict is Verdict.FAILED

    assert failed <= 4
