from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from penstock.check.answers import Answers
from penstock.check.measures import MEASURES
from penstock.check.quality import (
    default_margin,
    higher_is_better,
    interval,
    limits,
    measure,
    primary_metric,
    value,
    wilson,
)
from penstock.check.rows import class_names, rows
from penstock.domain import Verdict
from penstock.errors import UsageError

I = np.arange(240)  # noqa: E741  # row numbers, from which the examples are made
TRUTH = I * 7 % 10 < 4
SCORE = np.round(np.clip((I * 37 % 101) / 140 + 0.25 * TRUTH, 0.01, 0.99) * 128) / 128
"""Fractions of 128, so that 1 - (1 - score) is the score; some are equal."""
BINARY = Answers(SCORE > 0.5, np.column_stack([1 - SCORE, SCORE]), (False, True), True)


def of_sklearn(name: str, *arguments: object, **options: object) -> float:
    return float(cast("float", getattr(metrics, name)(*arguments, **options)))


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("roc_auc", of_sklearn("roc_auc_score", TRUTH, SCORE)),
        ("average_precision", of_sklearn("average_precision_score", TRUTH, SCORE)),
        ("accuracy", of_sklearn("accuracy_score", TRUTH, SCORE > 0.5)),
        ("f1", of_sklearn("f1_score", TRUTH, SCORE > 0.5)),
        ("precision", of_sklearn("precision_score", TRUTH, SCORE > 0.5)),
        ("recall", of_sklearn("recall_score", TRUTH, SCORE > 0.5)),
        ("log_loss", of_sklearn("log_loss", TRUTH, SCORE)),
        ("brier", of_sklearn("brier_score_loss", TRUTH, SCORE)),
    ],
)
def test_binary_measures_equal_scikit_learn(metric: str, expected: float) -> None:
    assert value(metric, TRUTH, BINARY) == pytest.approx(expected, abs=1e-12)


def calibration_error(right: NDArray[Any], told: NDArray[Any]) -> float:
    """By a table of ten bins, as textbooks have it."""
    found = 0.0
    for low in range(10):
        inside = (told >= low / 10) & ((told < (low + 1) / 10) | (low == 9))
        if inside.any():
            found += inside.mean() * abs(right[inside].mean() - told[inside].mean())
    return float(found)


def test_multiclass_measures_equal_scikit_learn() -> None:
    truth = I % 4
    raw = (np.outer(I, [37, 41, 43, 47]) % 89 + 1.0) + 40 * np.eye(4)[truth]
    probability = raw / raw.sum(axis=1, keepdims=True)
    said = probability.argmax(axis=1)
    answers = Answers(said, probability, (0, 1, 2, 3))

    found = measure("classification", truth, answers)

    assert found == pytest.approx(
        {
            "accuracy": of_sklearn("accuracy_score", truth, said),
            "f1_macro": of_sklearn("f1_score", truth, said, average="macro"),
            "log_loss": of_sklearn("log_loss", truth, probability),
            "roc_auc_ovr": of_sklearn("roc_auc_score", truth, probability, multi_class="ovr"),
            "ece": calibration_error(truth == said, probability.max(axis=1)),
        }
    )


def test_regression_measures_equal_scikit_learn() -> None:
    truth, said = I / 10, I / 10 + (I * 37 % 101) / 50 - 1

    found = measure("regression", truth, Answers(said))

    assert found == pytest.approx(
        {
            "mae": of_sklearn("mean_absolute_error", truth, said),
            "rmse": math.sqrt(of_sklearn("mean_squared_error", truth, said)),
            "r2": of_sklearn("r2_score", truth, said),
        }
    )


def test_the_positive_class_may_be_the_first() -> None:
    flipped = Answers(BINARY.prediction, BINARY.probability, BINARY.classes, positive=False)

    assert value("recall", TRUTH, flipped) == pytest.approx(
        of_sklearn("recall_score", ~TRUTH, SCORE <= 0.5)
    )
    assert value("roc_auc", TRUTH, flipped) == pytest.approx(value("roc_auc", TRUTH, BINARY))


def test_a_label_that_the_model_does_not_know_is_never_right() -> None:
    answers = Answers(np.array(["a", "b", "c"]), np.eye(3)[:, :2] + 0.0, ("a", "b"))
    labels = np.array(["a", "b", "c"])

    judged = rows(labels, answers, names=class_names(labels, answers))

    assert judged.n_classes == 2
    assert MEASURES["accuracy"].value(judged) == pytest.approx(2 / 3)
    assert MEASURES["log_loss"].value(judged) > 10


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_a_measure_of_one_class_is_not_a_number(metric: str) -> None:
    assert math.isnan(value(metric, np.ones(len(I), dtype=bool), BINARY))
    assert metric not in measure("classification", np.ones(len(I), dtype=bool), BINARY)


def test_no_rows_measure_nothing() -> None:
    nothing = Answers(np.empty(0), np.empty((0, 2)), (0, 1))

    assert measure("classification", np.empty(0), nothing) == {}
    assert math.isnan(value("accuracy", np.empty(0), nothing))
    assert interval("log_loss", np.empty(0), nothing) is None


def test_defaults_follow_task_classes_and_probabilities() -> None:
    assert primary_metric("classification", 2, probabilities=False) == "accuracy"
    assert default_margin("accuracy", "medium", 0.9) == 0.005
    assert default_margin("log_loss", "low", 0.5) == pytest.approx(0.005)
    assert not higher_is_better("brier")


def test_an_unknown_measure_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="PS301") as refused:
        limits({}, {"roc_auk": (0.8, None)}, rows=100)

    assert refused.value.hint == 'Did you mean "roc_auc"?'


@pytest.mark.parametrize(
    ("known", "rows", "verdict", "summary"),
    [
        (0.85, 400, Verdict.PASSED, "AUC 0.85 >= 0.8"),
        (0.79, 400, Verdict.FAILED, "AUC 0.79 < 0.8"),
        (0.85, 40, Verdict.UNDECIDED, "AUC 0.85 >= 0.8, but on 40 rows of 50"),
        (0.79, 40, Verdict.FAILED, "AUC 0.79 < 0.8"),
        (None, 400, Verdict.UNDECIDED, "AUC is not defined by these 400 rows"),
    ],
)
def test_a_limit_decides(known: float | None, rows: int, verdict: Verdict, summary: str) -> None:
    values = {} if known is None else {"roc_auc": known}

    (result,) = limits(values, {"roc_auc": (0.8, None)}, rows=rows)

    assert (result.check, result.verdict) == ("quality.roc_auc", verdict)
    assert result.summary == summary


def test_a_greatest_value_is_a_limit_too() -> None:
    broken, kept = limits(
        {"log_loss": 0.5, "mae": 2.0}, {"log_loss": (None, 0.45), "mae": (1, 3)}, rows=100
    )

    assert (broken.verdict, broken.summary) == (Verdict.FAILED, "log loss 0.5 > 0.45")
    assert (kept.verdict, kept.evidence["limit"]) == (Verdict.PASSED, 1)


def test_evidence_shows_the_champion_and_the_interval() -> None:
    (result,) = limits(
        {"roc_auc": 0.85},
        {"roc_auc": (0.8, None)},
        rows=400,
        intervals={"roc_auc": (0.82, 0.88)},
        champion={"roc_auc": 0.84},
    )

    assert (result.evidence["low"], result.evidence["high"]) == (0.82, 0.88)
    assert result.evidence["champion"] == 0.84
    assert result.evidence["question"] == "Is its AUC good enough?"


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy", "log_loss", "f1"])
def test_the_interval_holds_the_value(metric: str) -> None:
    bounds = interval(metric, TRUTH, BINARY)

    assert bounds is not None
    low, high = bounds
    assert low < value(metric, TRUTH, BINARY) < high


def test_one_class_has_no_interval() -> None:
    assert interval("roc_auc", np.ones(len(I), dtype=bool), BINARY) is None


def test_the_interval_of_a_share_covers_it_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0).binomial(200, 0.1, size=2000)

    bounds = {events: wilson(int(events), 200) for events in set(draw.tolist())}

    covered = sum(bounds[events][0] <= 0.1 <= bounds[events][1] for events in draw.tolist())
    assert 0.87 < covered / 2000 < 0.94
