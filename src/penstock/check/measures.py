"""The measures of quality by name, each a function of `Rows`, with how its error is known.

    losses    a mean over rows: accuracy, log loss, Brier score, absolute error, cost
    lists     a mean over lists of rows: NDCG
    parts     no mean, but its error is a sum over rows: areas under ROC curves
    weighed   any other: computed from how often each row counts, which a bootstrap draws

A measure that the rows do not define (an AUC of one class) is NaN, and its user says undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.check.rows import Floats, Rows, area_parts, midranks

_LEAST_PROBABILITY = 1e-15
_BINS = 10
"""Of scores, for the calibration error."""
Weighed = Callable[[Floats], float]
"""The measure when row i counts ``weights[i]`` times, shape ``(n,)``."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure of quality; one of `losses`, `lists`, `area` and `weighed` computes it."""

    word: str
    """As it reads in a sentence."""
    higher_is_better: bool = True
    regression: bool = False
    binary: bool = False
    """Only defined for two classes."""
    multiclass: bool = False
    """Only meant for more than two classes."""
    probabilities: bool = False
    """Needs them; the class alone does not do."""
    priced: bool = False
    """Needs what mistakes cost."""
    losses: Callable[[Rows], Floats] | None = None
    """Row by row."""
    lists: Callable[[Rows], Floats] | None = None
    """List by list, NaN for a list that defines none; needs to know which rows are one."""
    area: Callable[[Rows], float] | None = None
    parts: Callable[[Rows], Floats | None] | None = None
    """What each row adds to the error of `area`, as `area_parts`; None where rows are too few."""
    weighed: Callable[[Rows], Weighed] | None = None

    def value(self, of: Rows) -> float:
        """Compute it."""
        if self.losses is not None:
            return float(self.losses(of).mean()) if len(of) else float("nan")
        if self.lists is not None:
            found = self.lists(of)
            known = found[~np.isnan(found)]
            return float(known.mean()) if len(known) else float("nan")
        if self.area is not None:
            return self.area(of)
        assert self.weighed is not None, f"{self.word} has no formula"
        return self.weighed(of)(np.ones(len(of)))

    def fits(
        self, n_classes: int, *, probabilities: bool, lists: bool = False, priced: bool = False
    ) -> bool:
        """Say whether the measure is defined for such answers."""
        if (self.priced and not priced) or (self.lists is not None and not lists):
            return False
        if self.lists is not None and n_classes == 0:
            return True
        if self.regression or n_classes == 0:
            return self.regression and n_classes == 0
        if self.binary and n_classes != 2:
            return False
        if self.multiclass and n_classes < 3:
            return False
        return probabilities or not self.probabilities


# ---- means over rows -----------------------------------------------------------------------


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


def _costs(of: Rows) -> Floats:
    assert of.cost is not None, "cost was asked without what mistakes cost"
    said, there = of.prediction == 1, of.truth == 1
    return of.cost.fp * (said & ~there) + of.cost.fn * (there & ~said)


# ---- areas under ROC curves ----------------------------------------------------------------

# The area and average precision are our own few lines, equal to scikit-learn's (a test holds
# them together): a paired bootstrap asks 4000 times, and there the checks of arguments dominate.


def _area(is_positive: NDArray[np.bool_], score: Floats) -> float:
    """Return the area under the ROC curve, by midranks; NaN of one class."""
    m = int(is_positive.sum())
    if not 0 < m < len(score):
        return float("nan")
    ranks = midranks(score[None, :])[0]
    return float((ranks[is_positive].sum() - m * (m + 1) / 2) / (m * (len(score) - m)))


def _roc_auc(of: Rows) -> float:
    return _area(of.truth == 1, of.score)


def _roc_auc_parts(of: Rows) -> Floats | None:
    cases = int(np.count_nonzero(of.truth == 1))
    return area_parts(of.truth == 1, of.score) if 2 <= cases <= len(of) - 2 else None


def _roc_auc_ovr(of: Rows) -> float:
    """Mean over the classes of one against the rest; NaN unless every class is there."""
    assert of.probability is not None, "roc_auc_ovr was asked of answers without probabilities"
    classes = range(of.n_classes)
    return float(np.mean([_area(of.truth == one, of.probability[:, one]) for one in classes]))


def _roc_auc_ovr_parts(of: Rows) -> Floats | None:
    assert of.probability is not None, "roc_auc_ovr was asked of answers without probabilities"
    counts = np.bincount(of.truth[of.truth >= 0], minlength=of.n_classes)
    if counts.min() < 2 or counts.max() > len(of) - 2:
        return None
    parts = [area_parts(of.truth == k, of.probability[:, k]) for k in range(of.n_classes)]
    return sum(parts, np.zeros(len(of))) / of.n_classes


# ---- from how often each row counts --------------------------------------------------------


def _by_sums(
    features: Callable[[Rows], Floats], of_sums: Callable[[Floats], float]
) -> Callable[[Rows], Weighed]:
    """Make a measure that is a function of sums over rows; features have the shape ``(n, m)``."""

    def weighed(of: Rows) -> Weighed:
        found = features(of)
        return lambda weights: of_sums(weights @ found)

    return weighed


def _hits(of: Rows) -> Floats:
    """Whether each row is truly positive and said so, said so, truly positive: ``(n, 3)``."""
    said, there = of.prediction == 1, of.truth == 1
    return np.column_stack([said & there, said, there]).astype(np.float64)


def _ratio(above: float, below: float, otherwise: float = 0.0) -> float:
    return float(above / below) if below else otherwise


def _hits_by_class(of: Rows) -> Floats:
    """As `_hits`, for each class behind the other: ``(n, 3 * k)``."""
    classes = np.arange(of.n_classes)
    said, there = of.prediction[:, None] == classes, of.truth[:, None] == classes
    return np.concatenate([said & there, said, there], axis=1).astype(np.float64)


def _macro_f1(sums: Floats) -> float:
    """Mean over the classes that were said or there."""
    true, said, there = sums.reshape(3, -1)
    asked = said + there > 0
    return float((2 * true[asked] / (said + there)[asked]).mean()) if asked.any() else float("nan")


def _squares(of: Rows) -> Floats:
    """Squared error, truth less its mean, its square, and one: ``(n, 4)``."""
    around: Floats = of.truth - float(np.mean(of.truth))
    squared: Floats = np.square(of.truth - of.prediction)
    return np.column_stack([squared, around, np.square(around), np.ones(len(of))])


def _r2(sums: Floats) -> float:
    left, total, squares, rows = sums
    spread = squares - total * total / rows
    return 1 - left / spread if spread > 0 else float("nan")


def _residuals(of: Rows) -> Floats:
    """Truth less probability in the column of its bin, and one: ``(n, 11)``.

    Of two classes the positive one's probability, of more that of the likeliest class.
    """
    assert of.probability is not None, "calibration was asked of answers without probabilities"
    if of.n_classes == 2:
        told, right = of.score, of.truth == 1
    else:
        told = of.probability.max(axis=1)
        right = of.truth == of.probability.argmax(axis=1)
    found = np.zeros((len(of), _BINS + 1))
    bins = np.clip((told * _BINS).astype(np.int64), 0, _BINS - 1)
    found[np.arange(len(of)), bins] = right - told
    found[:, _BINS] = 1
    return found


def _average_precision(of: Rows) -> Weighed:
    order = np.argsort(-of.score, kind="stable")
    positive, score = of.truth[order] == 1, of.score[order]
    # Rows of one score are said positive together, so only the last of them is a point.
    last = np.append(np.diff(score) != 0, True) if len(score) else np.empty(0, dtype=bool)

    def value(weights: Floats) -> float:
        counted = weights[order]
        true, said = np.cumsum(counted * positive)[last], np.cumsum(counted)[last]
        if not len(true) or not 0 < true[-1] < said[-1]:
            return float("nan")
        precision = true / np.maximum(said, 1e-300)
        return float((np.diff(true, prepend=0) * precision).sum() / true[-1])

    return value


# ---- over lists ----------------------------------------------------------------------------


def _ndcg(of: Rows) -> Floats:
    """Compute the normalized discounted gain of each list, by score; equal scores share a place.

    NaN for a list in which nothing is relevant, and for all where a relevance is negative.

    References
    ----------
    .. [1] K. Järvelin, J. Kekäläinen, *ACM TOIS* 20, 2002.
    """
    assert of.group is not None, "NDCG was asked of rows that belong to no lists"
    score = of.prediction.astype(np.float64) if of.n_classes == 0 else of.score
    relevance = of.truth.astype(np.float64) if of.n_classes == 0 else (of.truth == 1) * 1.0
    names, lists = np.unique(of.group, return_inverse=True)
    if not len(of) or relevance.min() < 0:
        return np.full(len(names), np.nan)
    sizes = np.bincount(lists)
    starts = np.cumsum(sizes) - sizes

    def gains(key: Floats, *, shared: bool) -> NDArray[Any]:
        order = np.lexsort((-key, lists))
        of_list, gain = lists[order], relevance[order]
        discount = 1 / np.log2(np.arange(len(order)) - starts[of_list] + 2)
        if shared:
            begins = np.append(True, (np.diff(of_list) != 0) | (np.diff(key[order]) != 0))
            block = np.cumsum(begins) - 1
            gain = (np.bincount(block, gain) / np.bincount(block))[block]
        return np.bincount(of_list, gain * discount)

    ideal = gains(relevance, shared=False)
    found = gains(score, shared=True) / np.maximum(ideal, 1e-300)
    return np.where(ideal > 0, found, np.nan).astype(np.float64)


MEASURES: Mapping[str, Measure] = {
    "roc_auc": Measure(
        "AUC", binary=True, probabilities=True, area=_roc_auc, parts=_roc_auc_parts
    ),
    "average_precision": Measure(
        "average precision", binary=True, probabilities=True, weighed=_average_precision
    ),
    "roc_auc_ovr": Measure(
        "mean AUC, one against the rest",
        multiclass=True,
        probabilities=True,
        area=_roc_auc_ovr,
        parts=_roc_auc_ovr_parts,
    ),
    "ndcg": Measure("NDCG", binary=True, probabilities=True, lists=_ndcg),
    "accuracy": Measure("accuracy", losses=_right),
    "precision": Measure(
        "precision", binary=True, weighed=_by_sums(_hits, lambda s: _ratio(s[0], s[1]))
    ),
    "recall": Measure(
        "recall",
        binary=True,
        weighed=_by_sums(_hits, lambda s: _ratio(s[0], s[2], float("nan"))),
    ),
    "f1": Measure(
        "F1", binary=True, weighed=_by_sums(_hits, lambda s: _ratio(2 * s[0], s[1] + s[2]))
    ),
    "f1_macro": Measure("macro F1", multiclass=True, weighed=_by_sums(_hits_by_class, _macro_f1)),
    "log_loss": Measure(
        "log loss", higher_is_better=False, probabilities=True, losses=_log_losses
    ),
    "brier": Measure(
        "Brier score",
        higher_is_better=False,
        binary=True,
        probabilities=True,
        losses=_brier_losses,
    ),
    "ece": Measure(
        "calibration error",
        higher_is_better=False,
        probabilities=True,
        weighed=_by_sums(_residuals, lambda s: float(np.abs(s[:-1]).sum() / s[-1])),
    ),
    "cost": Measure("mean cost", higher_is_better=False, binary=True, priced=True, losses=_costs),
    "mae": Measure("mean absolute error", higher_is_better=False, regression=True, losses=_errors),
    "rmse": Measure(
        "root mean squared error",
        higher_is_better=False,
        regression=True,
        weighed=_by_sums(_squares, lambda s: float(np.sqrt(s[0] / s[3]))),
    ),
    "r2": Measure("R²", regression=True, weighed=_by_sums(_squares, _r2)),
}
