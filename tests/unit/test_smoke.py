"""Each check meets a model that is sound, and one with the very bug that it is there to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.check import smoke
from penstock.check.answers import Answers, Ask, AskError
from penstock.check.evaluation import Evaluation
from penstock.domain import JSON, CheckResult, Verdict

ROWS = 300
X = np.random.default_rng(7).normal(size=ROWS)
NOISE = np.random.default_rng(8).normal(size=ROWS)
CLASSES = ("no", "yes")
SIGNATURE: JSON = {
    "columns": [
        {"name": "x", "datatype": "FP64", "optional": False},
        {"name": "extra", "datatype": "FP64", "optional": True},
    ],
    "task": "classification",
    "classes": list(CLASSES),
    "positive": "yes",
}
NUMBERS: JSON = {**SIGNATURE, "task": "regression", "classes": None, "positive": None}


def evaluation(label: np.ndarray[Any, Any] | None = None) -> Evaluation:
    features = pa.table({"x": X, "extra": [None, *X[1:].tolist()], "unused": [1] * ROWS})
    if label is None:
        label = np.where(X + NOISE > 0, "yes", "no").astype(object)
    return Evaluation(features, label, None, None, features.select([]), "d" * 64)


def column(rows: pa.Table, name: str = "x") -> np.ndarray[Any, Any]:
    if name == "x" and rows.column(name).null_count:
        raise AskError(422, 'column "x" must not be null')
    return np.array([0.0 if one is None else one for one in rows.column(name).to_pylist()])


def answered(x: np.ndarray[Any, Any]) -> Answers:
    yes = 1 / (1 + np.exp(-3 * x))
    shares = np.stack([1 - yes, yes], axis=1)
    return Answers(np.array(CLASSES)[shares.argmax(axis=1)], shares, CLASSES, "yes")


def sound(rows: pa.Table) -> Answers:
    return answered(column(rows))


def results(ask: Ask, signature: JSON = SIGNATURE) -> dict[str, CheckResult]:
    return {one.check: one for one in smoke.smoke_checks(ask, evaluation(), signature, None)}


def not_passed(ask: Ask, signature: JSON = SIGNATURE) -> dict[str, str]:
    found = results(ask, signature)
    return {name: one.summary for name, one in found.items() if one.verdict is Verdict.FAILED}


def test_a_sound_model_passes_every_check_in_the_documented_order() -> None:
    found = results(sound)

    assert ["smoke.loads", *found] == list(smoke.SMOKE_CHECKS)
    assert {one.verdict for one in found.values()} == {Verdict.PASSED}
    assert all(one.evidence["question"] for one in found.values())


def test_the_model_is_asked_with_its_own_columns_only() -> None:
    seen: set[tuple[str, ...]] = set()

    def ask(rows: pa.Table) -> Answers:
        seen.add(tuple(rows.column_names))
        return sound(rows)

    results(ask)

    assert seen == {("x", "extra")}


def test_a_model_that_does_not_answer_fails_once_and_leaves_the_rest_undecided() -> None:
    calls: list[int] = []

    def ask(rows: pa.Table) -> Answers:
        calls.append(rows.num_rows)
        raise AskError(500, "ValueError: no such layer")

    found = results(ask)

    assert found["smoke.predicts"].verdict is Verdict.FAILED
    assert "ValueError: no such layer" in found["smoke.predicts"].summary
    assert found["smoke.batch"].verdict is Verdict.UNDECIDED
    assert len(calls) == 1


def test_predicts_finds_lost_rows() -> None:
    def ask(rows: pa.Table) -> Answers:
        return answered(column(rows)[1:])

    assert not_passed(ask) == {"smoke.predicts": "199 answers to 200 rows"}


def strange_class(rows: pa.Table) -> Answers:
    return Answers(np.array(["maybe"] * rows.num_rows), None, CLASSES)


def too_many_shares(rows: pa.Table) -> Answers:
    return Answers(sound(rows).prediction, np.full((rows.num_rows, 3), 1 / 3), CLASSES)


def wrong_sum(rows: pa.Table) -> Answers:
    return Answers(sound(rows).prediction, np.full((rows.num_rows, 2), 0.6), CLASSES)


def logits(rows: pa.Table) -> Answers:
    x = column(rows)
    return Answers(sound(rows).prediction, np.stack([-x, x], axis=1), CLASSES)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (strange_class, "'maybe'"),
        (too_many_shares, "3 probabilities a row for 2 classes"),
        (wrong_sum, "do not sum to 1"),
        (logits, "outside 0 to 1"),
    ],
)
def test_signature_finds_answers_of_another_kind(ask: Ask, words: str) -> None:
    assert words in not_passed(ask)["smoke.signature"]


def test_signature_finds_text_where_numbers_are_declared() -> None:
    def ask(rows: pa.Table) -> Answers:
        return Answers(np.array([f"v{one:.3f}" for one in column(rows)]))

    found = smoke.answers_fit(smoke.Subject(ask, evaluation().features, X, NUMBERS))

    assert found.verdict is Verdict.FAILED
    assert "numbers are declared" in found.summary


def test_deterministic_finds_a_model_that_rolls_dice() -> None:
    random = np.random.default_rng(1)

    def ask(rows: pa.Table) -> Answers:
        return answered(column(rows) + random.normal(scale=1e-3, size=rows.num_rows))

    assert "smoke.deterministic" in not_passed(ask)


def test_batch_finds_a_model_that_scales_by_its_batch() -> None:
    def ask(rows: pa.Table) -> Answers:
        x = column(rows)
        return answered(x - x.mean())

    assert set(not_passed(ask)) == {"smoke.batch"}


def test_row_order_finds_a_model_that_looks_at_the_row_before() -> None:
    def ask(rows: pa.Table) -> Answers:
        x = column(rows)
        return answered(x + 0.1 * np.concatenate([[0.0], x[:-1]]))

    assert "smoke.row_order" in not_passed(ask)


def test_missing_finds_an_optional_column_that_is_refused() -> None:
    def ask(rows: pa.Table) -> Answers:
        if rows.num_rows == 3 and rows.column("extra").null_count:
            raise AskError(422, 'column "extra" must not be null')
        return sound(rows)

    assert 'null in the optional column "extra"' in not_passed(ask)["smoke.missing"]


def test_missing_finds_a_required_column_whose_null_is_swallowed() -> None:
    def ask(rows: pa.Table) -> Answers:
        return answered(np.array([one or 0.0 for one in rows.column("x").to_pylist()]))

    assert "was answered, not refused" in not_passed(ask)["smoke.missing"]


def test_missing_finds_a_null_that_breaks_the_model() -> None:
    def ask(rows: pa.Table) -> Answers:
        if rows.column("x").null_count:
            raise AskError(500, "TypeError: NoneType")
        return sound(rows)

    assert "instead of a refusal" in not_passed(ask)["smoke.missing"]


def test_finite_finds_a_nan_far_down_and_names_its_row() -> None:
    def ask(rows: pa.Table) -> Answers:
        x = column(rows)
        shares = answered(x).probability
        assert shares is not None
        shares[x == X[250]] = np.nan
        return Answers(np.array(CLASSES)[(x > 0).astype(int)], shares, CLASSES, "yes")

    assert "row 251" in not_passed(ask)["smoke.finite"]


def test_an_error_far_down_fails_one_check_alone() -> None:
    def ask(rows: pa.Table) -> Answers:
        if X[250] in column(rows):
            raise AskError(500, "The model answered NaN in row 51.")
        return sound(rows)

    found = results(ask)

    assert not_passed(ask) == {
        "smoke.finite": "not every row is answered: 500: The model answered NaN in row 51."
    }
    assert found["smoke.beats_dummy"].verdict is Verdict.UNDECIDED


def test_an_error_beyond_the_rows_that_were_asked_fails_the_same_check() -> None:
    sound_ones = list(results(sound).values())

    found = smoke.not_all_answered(sound_ones, 500, "The model raised KeyError: 7")

    assert [one.check for one in found] == [one.check for one in sound_ones]
    assert [one.summary for one in found if one.verdict is Verdict.FAILED] == [
        "not every row is answered: 500: The model raised KeyError: 7"
    ]


def test_finite_finds_an_infinite_number() -> None:
    def ask(rows: pa.Table) -> Answers:
        return Answers(np.where(column(rows) == X[10], np.inf, column(rows)))

    found = smoke.finite(smoke.Subject(ask, evaluation().features, X, NUMBERS))

    assert found.verdict is Verdict.FAILED
    assert found.evidence["value"] == 1


def test_an_error_in_one_check_fails_that_check_alone() -> None:
    def ask(rows: pa.Table) -> Answers:
        if rows.num_rows == 1:
            raise AskError(500, "IndexError: too few rows")
        return sound(rows)

    assert not_passed(ask) == {"smoke.batch": "answered 500: IndexError: too few rows"}


def dummy(answers: Answers, labels: np.ndarray[Any, Any], signature: JSON) -> CheckResult:
    rows = evaluation().features.slice(0, len(labels))
    return smoke.beats_dummy(smoke.Subject(lambda _: answers, rows, labels, signature))


def test_beats_dummy_fails_a_model_that_always_says_the_same() -> None:
    labels = evaluation().label
    answers = Answers(np.array(["yes"] * ROWS), np.full((ROWS, 2), 0.5), CLASSES, "yes")

    assert dummy(answers, labels, SIGNATURE).verdict is Verdict.FAILED


def test_beats_dummy_is_undecided_about_a_coin() -> None:
    labels = evaluation().label
    coin = answered(np.random.default_rng(3).normal(size=ROWS))

    found = dummy(coin, labels, SIGNATURE)

    assert found.verdict is Verdict.UNDECIDED
    assert found.evidence["reading"] == "too close"


def test_beats_dummy_fails_swapped_classes() -> None:
    found = dummy(answered(-X), evaluation().label, SIGNATURE)

    assert found.verdict is Verdict.FAILED
    assert found.evidence["auc"] < 0.5


def test_beats_dummy_passes_a_model_that_ranks_rare_positives_and_never_says_yes() -> None:
    labels = np.where(X + NOISE > 2.2, "yes", "no").astype(object)
    low = answered(X - 6)
    assert set(low.prediction) == {"no"}

    found = dummy(low, labels, SIGNATURE)

    assert found.verdict is Verdict.PASSED
    assert found.evidence["value"] == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    ("prediction", "verdict"),
    [
        (X, Verdict.PASSED),
        (NOISE * 0.01 + np.random.default_rng(4).normal(size=ROWS) * 0.01, Verdict.UNDECIDED),
        (-X, Verdict.FAILED),
        (np.full(ROWS, 1.0), Verdict.FAILED),
    ],
)
def test_beats_dummy_compares_numbers_with_the_mean(
    prediction: np.ndarray[Any, Any], verdict: Verdict
) -> None:
    truth = X + np.random.default_rng(9).normal(size=ROWS)

    assert dummy(Answers(prediction), truth, NUMBERS).verdict is verdict


def test_beats_dummy_rarely_passes_a_model_that_knows_nothing() -> None:
    random = np.random.default_rng(0)
    labels = evaluation().label

    passed = [
        dummy(answered(random.normal(size=ROWS)), labels, SIGNATURE).verdict is Verdict.PASSED
        for _ in range(200)
    ]

    assert np.mean(passed) <= 0.06


Change = Callable[[dict[str, Any]], object]


def signature(change: Change) -> JSON:
    copy: dict[str, Any] = {
        **SIGNATURE,
        "columns": [dict(one) for one in SIGNATURE["columns"]],
        "classes": list(CLASSES),
    }
    change(copy)
    return copy


BREAKING: list[tuple[Change, str]] = [
    (lambda s: s["columns"].pop(0), 'column "x" is gone'),
    (lambda s: s["columns"][0].update(name="z"), '"z" is new: was it renamed?'),
    (lambda s: s["columns"][0].update(datatype="BYTES"), "was FP64 and is BYTES now"),
    (lambda s: s["columns"][1].update(optional=False), "was optional and is required now"),
    (
        lambda s: s["columns"].append({"name": "n", "datatype": "BOOL", "optional": False}),
        'new required column "n"',
    ),
    (lambda s: s.update(task="regression", classes=None), "answers regression now"),
    (lambda s: s["classes"].append("maybe"), "'maybe' is new"),
    (lambda s: s["classes"].remove("no"), "'no' is gone"),
    (lambda s: s["classes"].reverse(), "another order"),
    (lambda s: s.update(positive="no"), "the positive class was 'yes'"),
]


@pytest.mark.parametrize(("change", "words"), BREAKING)
def test_compatible_fails_whatever_breaks_callers(change: Change, words: str) -> None:
    found = smoke.compatible(signature(change), SIGNATURE)

    assert found.verdict is Verdict.FAILED
    assert words in found.summary


HARMLESS: list[Change] = [
    lambda s: s["columns"].append({"name": "n", "datatype": "BOOL", "optional": True}),
    lambda s: s["columns"][0].update(optional=True),
    lambda s: s["columns"].reverse(),
]


@pytest.mark.parametrize("change", HARMLESS)
def test_compatible_passes_what_callers_need_not_know(
    change: Change,
) -> None:
    assert smoke.compatible(signature(change), SIGNATURE).verdict is Verdict.PASSED


def test_compatible_lets_whole_numbers_become_numbers_but_not_back() -> None:
    whole = signature(lambda s: s["columns"][0].update(datatype="INT64"))

    assert smoke.compatible(SIGNATURE, whole).verdict is Verdict.PASSED
    assert smoke.compatible(whole, SIGNATURE).verdict is Verdict.FAILED


def test_compatible_notes_a_new_optional_column() -> None:
    wider = signature(
        lambda s: s["columns"].append({"name": "n", "datatype": "BOOL", "optional": True})
    )

    assert smoke.compatible(wider, SIGNATURE).summary == 'new optional column "n"'


def test_loads_tells_the_models_own_error() -> None:
    good = smoke.loads({"ok": True, "format": "joblib", "load_s": 0.42, "python": "3.11.2"})
    bad = smoke.loads({"ok": False, "error": "ModuleNotFoundError: No module named 'yaml'"})

    assert (good.verdict, good.summary) == (
        Verdict.PASSED,
        "joblib loaded in 0.4 s by Python 3.11.2",
    )
    assert bad.verdict is Verdict.FAILED
    assert "No module named 'yaml'" in bad.summary
    assert smoke.loads({}).verdict is Verdict.FAILED
