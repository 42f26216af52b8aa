from __future__ import annotations

from typing import Any

import fairlearn.metrics as fm
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from penstock.check.answers import Answers
from penstock.check.evaluation import Evaluation
from penstock.check.fairness import (
    FairnessReport,
    fairness,
    four_fifths,
    group_names,
    rate_ratio,
    wilson,
)
from penstock.domain import Verdict

CLASSES = ("no", "yes")


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
    return fairness(found, labels, answers, task="classification", maximum=maximum)


def test_values_are_fairlearns() -> None:
    found, labels, answers = people(("a", 500, 0.5), ("b", 400, 0.4), ("c", 300, 0.45))
    truth, said = labels == "yes", answers.prediction == "yes"
    group = found.sensitive.column("sex").to_pylist()

    report = fairness(found, labels, answers, task="classification")
    differences = report.groups["columns"][0]["differences"]
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
    groups = {one["group"]: one for one in report.groups["columns"][0]["groups"]}

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

    result = fairness(found, labels, answers, task="classification", maximum=0.1).results[0]

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

    def verdict(metric: str) -> Verdict:
        report = fairness(
            found, labels, answers, task="classification", metric=metric, maximum=0.1
        )
        return report.results[0].verdict

    assert verdict("demographic_parity_difference") is Verdict.PASSED
    assert verdict("equalized_odds_difference") is Verdict.FAILED


def test_labels_and_answers_may_spell_a_class_differently() -> None:
    found, labels, answers = people(("a", 500, 0.5), ("b", 500, 0.5))
    numbers = Answers((answers.prediction == "yes").astype(float), None, (0, 1), 1)

    as_text = fairness(found, labels, answers, task="classification").results[0]
    as_numbers = fairness(found, labels == "yes", numbers, task="classification").results[0]

    assert as_numbers.evidence["groups"] == as_text.evidence["groups"]


def test_more_than_two_classes_compare_how_often_a_group_is_answered_rightly() -> None:
    group = np.repeat(["a", "b"], 600).astype(object)
    labels = np.tile([0, 1, 2], 400)
    wrong = (group == "b") & (np.arange(1200) % 4 == 0)
    answers = Answers(np.where(wrong, (labels + 1) % 3, labels), None, (0, 1, 2))

    report = fairness(
        evaluation(labels, sex=group), labels, answers, task="classification", maximum=0.1
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
        evaluation(labels, sex=group), labels, answers, task="regression", maximum=1.0
    )

    assert [result.check for result in report.results] == ["fairness.mean_error.sex"]
    assert report.results[0].verdict is verdict
    assert report.results[0].evidence["value"] == pytest.approx(shift, abs=0.4)


def test_many_numbers_become_quartiles_and_null_a_group_of_its_own() -> None:
    ages = [None, *range(18, 98)]

    names = group_names(pa.chunked_array([ages]))

    assert sorted(set(names.tolist())) == [
        "18 to 37",
        "38 to 57",
        "58 to 77",
        "78 to 97",
        "missing",
    ]
    assert names[0] == "missing"


@pytest.mark.parametrize("values", [[1, 2, 3] * 4, ["f", "m"] * 6, [True, False] * 6])
def test_few_values_are_groups_as_they_are(values: list[Any]) -> None:
    names = group_names(pa.chunked_array([values]))

    assert names.tolist() == [str(value) for value in values]


def test_quartiles_of_a_heap_on_one_value_do_not_overlap() -> None:
    names = group_names(pa.chunked_array([[0.0] * 80 + [float(one) for one in range(20)]]))

    assert set(names[:80]) == {"0 to 0"}
    assert len(set(names.tolist())) >= 2


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
        report = fairness(found, labels, answers, task="classification", maximum=0.0)
        failed += report.results[0].verdict is Verdict.FAILED

    assert failed <= 4
