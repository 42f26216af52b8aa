"""The measures of quality by name, on rows whose classes are counted from 0.

`rows` puts labels and answers into one form, whatever spelling a file or a model uses; each
measure of `MEASURES` is then a function of `Rows`. A measure that the rows do not define (an
AUC of one class) is NaN, and its user says undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from penstock.check.answers import Answers, class_text, class_texts

Floats = NDArray[np.float64]
_LEAST_PROBABILITY = 1e-15


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Labels and answers to n rows, in one form."""

    truth: NDArray[Any]
    """Shape ``(n,)``: class numbers, -1 for a class that the model does not know; or numbers."""
    prediction: NDArray[Any]
    probability: Floats | None
    """Shape ``(n, k)``, by class number; of two classes, 1 is the positive one."""
    n_classes: int
    """0 for regression."""

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.truth)

    @property
    def score(self) -> Floats:
        """Probability of class 1, shape ``(n,)``."""
        assert self.probability is not None, "a score was asked of answers without probabilities"
        return self.probability[:, 1]

    def take(self, index: NDArray[Any]) -> Rows:
        """Return some of the rows, by number or by mask."""
        probability = None if self.probability is None else self.probability[index]
        return Rows(self.truth[index], self.prediction[index], probability, self.n_classes)


def class_names(labels: NDArray[Any], *answers: Answers) -> tuple[str, ...]:
    """List the classes that models know, else those that were seen; the positive one last of two.

    Parameters
    ----------
    labels
        True classes, shape ``(n,)``.
    answers
        One or several models' answers to the same rows.
    """
    known = [class_texts(one.classes) for one in answers if one.classes is not None]
    if known:
        names = list(dict.fromkeys(name for classes in known for name in classes))
    else:
        seen = [labels, *(one.prediction for one in answers)]
        names = sorted({name for values in seen for name in class_texts(values.tolist())})
    positive = next((one.positive for one in answers if one.positive is not None), None)
    if len(names) == 2 and positive is not None and class_text(positive) == names[0]:
        names.reverse()
    return tuple(names)


def rows(labels: NDArray[Any], answers: Answers, *, names: tuple[str, ...]) -> Rows:
    """Bring labels and answers into one form.

    Parameters
    ----------
    labels
        Shape ``(n,)``, without nulls.
    names
        From `class_names`; empty for regression.
    """
    assert len(labels) == len(answers), "labels and answers of different lengths"
    if not names:
        truth, prediction = labels.astype(np.float64), answers.prediction.astype(np.float64)
        return Rows(truth, prediction, None, 0)
    number = {name: index for index, name in enumerate(names)}

    def numbers(values: NDArray[Any]) -> NDArray[np.int64]:
        found = [number.get(name, -1) for name in class_texts(values.tolist())]
        return np.array(found, dtype=np.int64)

    probability: Floats | None = None
    if answers.probability is not None and answers.classes is not None:
        probability = np.zeros((len(labels), len(names)))
        for column, name in enumerate(class_texts(answers.classes)):
            probability[:, number[name]] = answers.probability[:, column]
    # A prediction outside the classes must not equal a label outside them: -2 is never right.
    prediction = numbers(answers.prediction)
    return Rows(numbers(labels), np.where(prediction < 0, -2, prediction), probability, len(names))


# ---- AUC and its variance ------------------------------------------------------------------


def delong(labels: NDArray[Any], scores: Floats) -> tuple[Floats, Floats]:
    """Compute the AUCs of k scores on the same rows and their covariance.

    Parameters
    ----------
    labels
        True for positive rows, shape ``(n,)``; at least two rows of each class.
    scores
        Shape ``(k, n)``.

    Returns
    -------
    tuple
        AUCs, shape ``(k,)``, and their covariance, shape ``(k, k)``.

    References
    ----------
    .. [1] E. DeLong, D. DeLong, D. Clarke-Pearson, *Biometrics* 44, 1988.
    .. [2] X. Sun, W. Xu, *IEEE Signal Processing Letters* 21, 2014: by midranks.
    """
    is_positive = labels.astype(np.bool_)
    positive, negative = scores[:, is_positive], scores[:, ~is_positive]
    m, n = positive.shape[1], negative.shape[1]
    assert min(m, n) >= 2, "DeLong needs two rows of each class"
    ranks = _midranks(np.concatenate([positive, negative], axis=1))
    auc = ranks[:, :m].sum(axis=1) / (m * n) - (m + 1) / (2 * n)
    above = (ranks[:, :m] - _midranks(positive)) / n
    below = 1 - (ranks[:, m:] - _midranks(negative)) / m
    covariance = np.atleast_2d(np.cov(above) / m + np.cov(below) / n)
    return cast("Floats", auc), cast("Floats", covariance)


def _midranks(values: Floats) -> Floats:
    return cast("Floats", stats.rankdata(values, axis=1))


# ---- the measures --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure of quality."""

    word: str
    """As it reads in a sentence."""
    value: Callable[[Rows], float]
    higher_is_better: bool = True
    regression: bool = False
    binary: bool = False
    """Only defined for two classes."""
    multiclass: bool = False
    """Only meant for more than two classes."""
    probabilities: bool = False
    """Needs them; the class alone does not do."""
    losses: Callable[[Rows], Floats] | None = None
    """Row by row, for measures that are a mean over rows."""

    def fits(self, n_classes: int, *, probabilities: bool) -> bool:
        """Say whether the measure is defined for such answers."""
        if self.regression or n_classes == 0:
            return self.regression and n_classes == 0
        if self.binary and n_classes != 2:
            return False
        if self.multiclass and n_classes < 3:
            return False
        return probabilities or not self.probabilities


def _right(of: Rows) -> Floats:
    return (of.truth == of.prediction).astype(np.float64)


def _log_losses(of: Rows) -> Floats:
    assert of.probability is not None, "log loss was asked of answers without probabilities"
    of_truth = of.probability[np.arange(len(of)), np.maximum(of.truth, 0)]
    known = np.where(of.truth >= 0, of_truth, 0.0)
    return -np.log(np.clip(known, _LEAST_PROBABILITY, 1.0))


def _brier_losses(of: Rows) -> Floats:
    return np.square(of.score - (of.truth == 1))


def _errors(of: Rows) -> Floats:
    return np.abs(of.truth - of.prediction).astype(np.float64)


def _mean(losses: Callable[[Rows], Floats]) -> Callable[[Rows], float]:
    return lambda of: float(losses(of).mean()) if len(of) else float("nan")


def _both_classes(of: Rows) -> bool:
    positives = int(np.count_nonzero(of.truth == 1))
    return 0 < positives < len(of)


# The area and average precision are our own few lines, equal to scikit-learn's (a test holds
# them together): a paired bootstrap asks 4000 times, and there the checks of arguments dominate.


def _area(is_positive: NDArray[np.bool_], score: Floats) -> float:
    """Return the area under the ROC curve, by midranks."""
    m = int(is_positive.sum())
    ranks = _midranks(score[None, :])[0]
    return float((ranks[is_positive].sum() - m * (m + 1) / 2) / (m * (len(score) - m)))


def _roc_auc(of: Rows) -> float:
    if not _both_classes(of):
        return float("nan")
    return _area(of.truth == 1, of.score)


def _average_precision(of: Rows) -> float:
    if not _both_classes(of):
        return float("nan")
    order = np.argsort(-of.score, kind="stable")
    true = np.cumsum(of.truth[order] == 1)
    # Rows of one score are said positive together, so only the last of them is a point.
    last = np.append(np.diff(of.score[order]) != 0, True)
    precision = true[last] / (np.flatnonzero(last) + 1)
    return float((np.diff(true[last], prepend=0) * precision).sum() / true[-1])


def _roc_auc_ovr(of: Rows) -> float:
    """Mean over the classes of one against the rest; NaN unless every class is there."""
    assert of.probability is not None, "roc_auc_ovr was asked of answers without probabilities"
    counts = np.bincount(of.truth[of.truth >= 0], minlength=of.n_classes)
    if (counts == 0).any() or (counts == len(of)).any():
        return float("nan")
    areas = [
        _area(of.truth == number, of.probability[:, number]) for number in range(of.n_classes)
    ]
    return float(np.mean(areas))


def _hits(of: Rows, number: int) -> tuple[int, int, int]:
    """Count true positives, positives said and positives there, for one class."""
    said, there = of.prediction == number, of.truth == number
    return int((said & there).sum()), int(said.sum()), int(there.sum())


def _f1_of(of: Rows, number: int) -> float:
    true, said, there = _hits(of, number)
    return 2 * true / (said + there) if said + there else float("nan")


def _f1(of: Rows) -> float:
    score = _f1_of(of, 1)
    return 0.0 if np.isnan(score) else score


def _f1_macro(of: Rows) -> float:
    """Mean over the classes that were said or there."""
    scores = [_f1_of(of, number) for number in range(of.n_classes)]
    known = [score for score in scores if not np.isnan(score)]
    return float(np.mean(known)) if known else float("nan")


def _precision(of: Rows) -> float:
    true, said, _ = _hits(of, 1)
    return true / said if said else 0.0


def _recall(of: Rows) -> float:
    true, _, there = _hits(of, 1)
    return true / there if there else float("nan")


def _rmse(of: Rows) -> float:
    return float(np.sqrt(np.mean(np.square(of.truth - of.prediction))))


def _r2(of: Rows) -> float:
    spread = float(np.sum(np.square(of.truth - np.mean(of.truth))))
    left = float(np.sum(np.square(of.truth - of.prediction)))
    return 1 - left / spread if spread else float("nan")


MEASURES: Mapping[str, Measure] = {
    "roc_auc": Measure("AUC", _roc_auc, binary=True, probabilities=True),
    "average_precision": Measure(
        "average precision", _average_precision, binary=True, probabilities=True
    ),
    "roc_auc_ovr": Measure(
        "mean AUC, one against the rest", _roc_auc_ovr, multiclass=True, probabilities=True
    ),
    "accuracy": Measure("accuracy", _mean(_right), losses=_right),
    "precision": Measure("precision", _precision, binary=True),
    "recall": Measure("recall", _recall, binary=True),
    "f1": Measure("F1", _f1, binary=True),
    "f1_macro": Measure("macro F1", _f1_macro, multiclass=True),
    "log_loss": Measure(
        "log loss",
        _mean(_log_losses),
        higher_is_better=False,
        probabilities=True,
        losses=_log_losses,
    ),
    "brier": Measure(
        "Brier score",
        _mean(_brier_losses),
        higher_is_better=False,
        binary=True,
        probabilities=True,
        losses=_brier_losses,
    ),
    "mae": Measure(
        "mean absolute error",
        _mean(_errors),
        higher_is_better=False,
        regression=True,
        losses=_errors,
    ),
    "rmse": Measure("root mean squared error", _rmse, higher_is_better=False, regression=True),
    "r2": Measure("R²", _r2, regression=True),
}
