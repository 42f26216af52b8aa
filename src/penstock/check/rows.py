"""Labels and answers in one form, whatever spelling a file or a model uses; and the area by ranks.

`rows` makes `Rows`, whose classes are counted from 0; each measure of `measures` is a function of
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from penstock.check.answers import Answers, class_text, class_texts

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cost:
    """What mistakes cost, in a unit of the project's own."""

    fp: float
    """A row said positive that is not."""
    fn: float
    """A positive row that was not said so."""


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What a project says about its rows besides the label."""

    group: NDArray[Any] | None = None
    """Shape ``(n,)``: rows with the same value belong together, and are resampled together."""
    cost: Cost | None = None
    rows_are: str = "rows"
    """What a row is, in the plural."""
    positives_are: str = "positives"
    """What a positive row is, in the plural."""


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
    group: NDArray[np.int64] | None = None
    """Shape ``(n,)``: whom a row speaks of, or to which list it belongs; None: each its own."""
    cost: Cost | None = None

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
        group = None if self.group is None else self.group[index]
        return Rows(
            self.truth[index],
            self.prediction[index],
            probability,
            self.n_classes,
            group,
            self.cost,
        )


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


def rows(
    labels: NDArray[Any],
    answers: Answers,
    *,
    names: tuple[str, ...],
    terms: Terms | None = None,
) -> Rows:
    """Bring labels and answers into one form.

    Parameters
    ----------
    labels
        Shape ``(n,)``, without nulls.
    names
        From `class_names`; empty for regression.
    """
    assert len(labels) == len(answers), "labels and answers of different lengths"
    terms = terms or Terms()
    group = None
    if terms.group is not None:
        assert len(terms.group) == len(labels), "labels and groups of different lengths"
        group = np.unique(terms.group.astype(str), return_inverse=True)[1].astype(np.int64)
    if not names:
        truth, prediction = labels.astype(np.float64), answers.prediction.astype(np.float64)
        return Rows(truth, prediction, None, 0, group, terms.cost)
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
    said = np.where(prediction < 0, -2, prediction)
    return Rows(numbers(labels), said, probability, len(names), group, terms.cost)


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
    auc, above, below = _placements(is_positive, scores)
    m, n = above.shape[1], below.shape[1]
    covariance = np.atleast_2d(np.cov(above) / m + np.cov(below) / n)
    return auc, cast("Floats", covariance)


def area_parts(labels: NDArray[Any], score: Floats) -> Floats:
    """Return what each row adds to the error of one AUC, shape ``(n,)``; they sum to 0.

    Their squares sum to DeLong's variance, but for its division by one row less of each class;
    summed by group first, to that of rows which belong together.

    References
    ----------
    .. [1] N. Obuchowski, *Biometrics* 53, 1997: areas of clustered rows.
    """
    is_positive = labels.astype(np.bool_)
    auc, above, below = _placements(is_positive, score[None, :])
    parts = np.empty(len(score))
    parts[is_positive] = (above[0] - auc[0]) / above.shape[1]
    parts[~is_positive] = (below[0] - auc[0]) / below.shape[1]
    return parts


def _placements(is_positive: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats, Floats]:
    """Return AUCs, shape ``(k,)``, and each positive's and each negative's share of wins."""
    positive, negative = scores[:, is_positive], scores[:, ~is_positive]
    m, n = positive.shape[1], negative.shape[1]
    assert min(m, n) >= 2, "an area's error needs two rows of each class"
    ranks = midranks(np.concatenate([positive, negative], axis=1))
    auc = ranks[:, :m].sum(axis=1) / (m * n) - (m + 1) / (2 * n)
    above = (ranks[:, :m] - midranks(positive)) / n
    below = 1 - (ranks[:, m:] - midranks(negative)) / m
    return cast("Floats", auc), above, below


def midranks(values: Floats) -> Floats:
    """Rank each row of values from 1, equal ones by the mean of their ranks."""
    return cast("Floats", stats.rankdata(values, axis=1))
