"""Predictors without their wrapping: trees as one (trees.py), linear models, LightGBM's boosters.

Each is a shallow copy of the fitted object whose inner sum is ours while what follows from it,
such as the link to probabilities, stays the framework's own. Where a predictor would check its
input, the same is checked here; what does not pass is left to the model's own call.
"""

from __future__ import annotations

import copy
import importlib
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from penstock.inference.program import trees
else:
    from penstock_worker import trees

Call = Callable[[Any], Any]


class _Strange(Exception):  # noqa: N818  the model's own call answers
    """A row that is not known for certain."""


def of(fitted: Any, method: str) -> Call | None:
    """Return a faster call of a predictor on an array; None where there is none.

    Parameters
    ----------
    method
        ``predict_proba`` or ``predict``.
    """
    module = type(fitted).__module__.split(".")[0]
    make = _MADE.get(type(fitted).__name__) if module in ("sklearn", "lightgbm") else None
    return None if make is None else make(fitted, method)


def histogram(fitted: Any, method: str) -> Call:
    """Return the call of a HistGradientBoosting model on an array after its own encoder."""
    leaves, first = trees.histogram(fitted), fitted._baseline_prediction[0]  # noqa: SLF001
    outputs = int(fitted.n_trees_per_iteration_)
    count = sum(map(len, fitted._predictors))  # noqa: SLF001
    numpy = importlib.import_module("numpy")
    encoded = copy.copy(fitted)
    encoded._preprocessor = None  # noqa: SLF001
    encoded.__dict__.pop("feature_names_in_", None)
    whole = getattr(encoded, method)
    quick = copy.copy(fitted)

    def raw(x: Any, **_: Any) -> Any:  # the framework's own takes its threads, too
        told = leaves(x)[..., 0].reshape(-1, outputs, len(x)).transpose(0, 2, 1)
        return trees.added(first, told)

    quick._raw_predict = raw  # noqa: SLF001
    fast = getattr(quick, method)

    def call(x: Any) -> Any:
        x = numpy.asarray(x, dtype="float64")
        if x.shape[1] != fitted.n_features_in_:
            raise _Strange
        return whole(x) if len(x) * count > trees.MOST_ROWS else fast(x)

    return call


def _forest(fitted: Any, method: str) -> Call | None:
    if fitted.n_outputs_ != 1:
        return None
    members = fitted.estimators_
    leaves, count = trees.plain(members), len(members)
    numpy = importlib.import_module("numpy")
    single = _single(numpy, fitted, members[0])
    whole = getattr(fitted, method)

    def call(x: Any) -> Any:
        x = single(x)
        if len(x) * count > trees.MOST_ROWS:
            return whole(x)
        told = trees.added(0.0, leaves(x)) / count
        return told if method == "predict_proba" else told[:, 0]

    return call


def _tree(fitted: Any, method: str) -> Call | None:
    if fitted.n_outputs_ != 1:
        return None
    numpy = importlib.import_module("numpy")
    single = _single(numpy, fitted, fitted)
    tree, proba = fitted.tree_, method == "predict_proba"
    return lambda x: tree.predict(single(x)) if proba else tree.predict(single(x))[:, 0]


def _boosted(fitted: Any, method: str) -> Call | None:
    """Return the call of a GradientBoosting model whose first guess is the same for all rows."""
    start = fitted.init_
    if start != "zero" and not type(start).__name__.startswith("Dummy"):
        return None
    members = [one for stage in fitted.estimators_ for one in stage]
    outputs, rate, count = fitted.estimators_.shape[1], fitted.learning_rate, len(members)
    leaves = trees.plain(members)
    numpy = importlib.import_module("numpy")
    single = _single(numpy, fitted, members[0])
    blank = numpy.zeros((1, fitted.n_features_in_), dtype="float32")
    first = fitted._raw_predict_init(blank)[0]  # noqa: SLF001
    whole = getattr(fitted, method)
    quick = copy.copy(fitted)

    def raw(x: Any) -> Any:
        told = leaves(x)[..., 0].reshape(-1, outputs, len(x)).transpose(0, 2, 1)
        return trees.added(first, rate * told)

    def decision(x: Any) -> Any:
        told = raw(x)
        return told.ravel() if outputs == 1 else told

    if method == "predict_proba":
        quick.decision_function = decision
        fast = quick.predict_proba
    else:
        fast = decision

    def call(x: Any) -> Any:
        x = single(x)
        return whole(x) if len(x) * count > trees.MOST_ROWS else fast(x)

    return call


def _single(numpy: Any, fitted: Any, tree: Any) -> Call:
    """Return the change to single precision that trees ask for, and their checks."""
    features = int(fitted.n_features_in_)
    missing = bool(tree._support_missing_values(numpy.zeros((1, features))))  # noqa: SLF001

    def call(x: Any) -> Any:
        if type(x) is not numpy.ndarray or x.shape[1] != features or x.dtype.kind not in "fiub":
            raise _Strange
        with numpy.errstate(over="ignore"):
            x = numpy.ascontiguousarray(x, dtype="float32")
        if numpy.isinf(x).any() or (not missing and numpy.isnan(x).any()):
            raise _Strange
        return x

    return call


def _linear(fitted: Any, method: str) -> Call | None:
    """Return the call of a linear model; sparse rows are added in the order of their columns."""
    numpy = importlib.import_module("numpy")
    coefficients = fitted.coef_.T if fitted.coef_.ndim == 2 else fitted.coef_
    features = int(fitted.n_features_in_)

    def scores(x: Any) -> Any:
        values = x if type(x) is numpy.ndarray else x.data
        if x.shape[1] != features or values.dtype.kind != "f" or not numpy.isfinite(values).all():
            raise _Strange
        told = x @ coefficients + fitted.intercept_
        return told.reshape(-1) if told.ndim > 1 and told.shape[1] == 1 else told

    if method == "predict":
        return scores if fitted.coef_.ndim == 1 else None
    quick = copy.copy(fitted)
    quick.decision_function = scores
    return quick.predict_proba


def _light(fitted: Any, method: str) -> Call | None:
    """Return the call of LightGBM's own booster, in one thread.

    Its wrapper of the scikit-learn kind counts the processors at every call and starts as many
    threads; the sums over the trees of a row are the same in any number of them.
    """
    other = fitted._other_params  # noqa: SLF001  of the training, and some of the prediction
    if any("pred" in name or "raw" in name for name in other):
        return None
    if not isinstance(fitted.objective_, str):
        return None
    numpy = importlib.import_module("numpy")
    ask, features = fitted.booster_.predict, int(fitted.n_features_in_)
    two = method == "predict_proba" and int(fitted.n_classes_) == 2
    if method == "predict" and hasattr(fitted, "classes_"):
        return None

    def call(x: Any) -> Any:
        dense = type(x) is numpy.ndarray
        if x.shape[1] != features or (not dense and x.format != "csr"):
            raise _Strange
        if x.dtype.kind != "f":
            x = x.astype("float64")
        told = ask(x, num_threads=1)
        return numpy.vstack((1.0 - told, told)).transpose() if two else told

    return call


HISTOGRAMS = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")
_MADE: dict[str, Callable[[Any, str], Call | None]] = {
    **dict.fromkeys(HISTOGRAMS, histogram),
    "RandomForestClassifier": _forest,
    "RandomForestRegressor": _forest,
    "ExtraTreesClassifier": _forest,
    "ExtraTreesRegressor": _forest,
    "DecisionTreeClassifier": _tree,
    "DecisionTreeRegressor": _tree,
    "GradientBoostingClassifier": _boosted,
    "GradientBoostingRegressor": _boosted,
    "LGBMClassifier": _light,
    "LGBMRegressor": _light,
    "LogisticRegression": _linear,
    "LogisticRegressionCV": _linear,
    "LinearRegression": _linear,
    "Ridge": _linear,
    "RidgeCV": _linear,
    "Lasso": _linear,
    "LassoCV": _linear,
    "ElasticNet": _linear,
    "ElasticNetCV": _linear,
}
