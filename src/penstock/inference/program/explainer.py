"""The explainer: exact values of a model of trees, read in the model's own environment.

    python -I explainer.py --folder DIR < question > answer

A program of its own beside the worker, in a sandbox of its own, standard library of Python 3.9 at
the rim. What it prints is not believed: `check.explanation.exact` holds it against the values that
were sampled from the worker's answers. A model or environment that it cannot read is answered with
``{"why": sentence}``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any, Callable

FORESTS = (
    "DecisionTreeClassifier",
    "DecisionTreeRegressor",
    "ExtraTreesClassifier",
    "ExtraTreesRegressor",
    "RandomForestClassifier",
    "RandomForestRegressor",
)
"""Their raw answer is the mean of their leaves: a probability, or the number itself."""
BOOSTED = ("GradientBoostingClassifier", "HistGradientBoostingClassifier")
BOOSTED_NUMBERS = ("GradientBoostingRegressor", "HistGradientBoostingRegressor")
LOG_ODDS = (
    *("binary:logistic", "reg:logistic"),
    *("binary", "cross_entropy"),
    *("Logloss", "CrossEntropy"),
)
NUMBERS = (
    *("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror"),
    *("regression", "regression_l1", "huber", "fair", "quantile", "mape"),
    *("RMSE", "MAE", "Quantile", "Huber"),
)


class UnreadableError(Exception):
    """No exact values can be read of this model here."""


def explain(folder: Path, question: dict[str, Any]) -> dict[str, Any]:
    """Return method, scale, columns, base and effects; see `check.explanation.exact`."""
    manifest: dict[str, Any] = json.loads((folder / "penstock.json").read_text("utf-8"))
    for place in (folder / "code" / "src", folder / "code"):
        sys.path.insert(0, str(place))
    model = _unwrapped(_loaded(folder / manifest["path"], manifest["format"]))
    name = str(model.__class__.__name__)
    library = str(model.__class__.__module__).partition(".")[0]
    readers: dict[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {
        "xgboost": _xgboost,
        "lightgbm": _lightgbm,
        "catboost": _catboost,
        "sklearn": _sklearn,
    }
    if library not in readers:
        raise UnreadableError(f"{name} is no model of trees that it can read")
    return {"columns": question["columns"], **readers[library](model, question)}


def _loaded(path: Path, kind: str) -> Any:
    if kind == "joblib":
        joblib = _optional("joblib")
        if joblib is not None:
            return joblib.load(path)
        with path.open("rb") as file:
            return pickle.load(file)  # noqa: S301  the model's own file, in its own sandbox
    if kind == "skops":
        skops = importlib.import_module("skops.io")
        # The types need no permission: what is loaded here can harm this sandbox only.
        return skops.load(path, trusted=skops.get_untrusted_types(file=path))
    if kind == "xgboost":
        return importlib.import_module("xgboost").Booster(model_file=str(path))
    if kind == "lightgbm":
        return importlib.import_module("lightgbm").Booster(model_file=str(path))
    if kind == "catboost":
        return importlib.import_module("catboost").CatBoost().load_model(str(path))
    raise UnreadableError(f"models of format {kind} are not read")


def _unwrapped(model: Any) -> Any:
    steps = getattr(model, "steps", None)
    if steps is None:
        return model
    if len(steps) > 1:
        raise UnreadableError("its steps before the trees change the columns")
    return steps[0][1]


def _xgboost(model: Any, question: dict[str, Any]) -> dict[str, Any]:
    xgboost = importlib.import_module("xgboost")
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    config = json.loads(booster.save_config())
    objective = config["learner"]["objective"]["name"]
    data = xgboost.DMatrix(_matrix(question["rows"]), feature_names=booster.feature_names)
    found = booster.predict(data, pred_contribs=True)
    return {"method": "xgboost pred_contribs", **_split(found, _scale(objective))}


def _lightgbm(model: Any, question: dict[str, Any]) -> dict[str, Any]:
    booster = getattr(model, "booster_", model)
    objective = str(booster.dump_model(num_iteration=1).get("objective", "")).split(" ")[0]
    found = booster.predict(_matrix(question["rows"]), pred_contrib=True)
    return {"method": "lightgbm pred_contrib", **_split(found, _scale(objective))}


def _catboost(model: Any, question: dict[str, Any]) -> dict[str, Any]:
    catboost = importlib.import_module("catboost")
    objective = str(model.get_all_params().get("loss_function", "")).partition(":")[0]
    text = model.get_cat_feature_indices()
    rows = question["rows"]
    data = catboost.Pool(rows if text else _matrix(rows), cat_features=text)
    found = model.get_feature_importance(data, type="ShapValues")
    return {"method": "catboost ShapValues", **_split(found, _scale(objective))}


def _sklearn(model: Any, question: dict[str, Any]) -> dict[str, Any]:
    name = type(model).__name__
    if name not in (*FORESTS, *BOOSTED, *BOOSTED_NUMBERS):
        raise UnreadableError(f"{name} is no model of trees that it can read")
    shap = _optional("shap")
    if shap is None:
        raise UnreadableError("shap is not installed in the model's environment")
    explainer = shap.TreeExplainer(
        model, data=_matrix(question["background"]), feature_perturbation="interventional"
    )
    found = explainer.shap_values(_matrix(question["rows"]), check_additivity=False)
    base = explainer.expected_value
    classes = getattr(model, "classes_", None)
    if classes is not None and len(classes) != 2:
        raise UnreadableError("there are more than two classes")
    scale = "log-odds" if name in BOOSTED else "number" if classes is None else "probability"
    if scale == "probability":
        base = base[1]
        # Before 0.45 shap gave a list of the classes.
        found = found[:, :, 1] if hasattr(found, "ndim") else found[1]
    if scale != "number" and classes is not None and str(classes[1]) != question["positive"]:
        found, base = -found, (1 - base if scale == "probability" else -base)
    base = float(base if not hasattr(base, "__len__") else base[0])
    method = f"shap.TreeExplainer {shap.__version__}"
    return {
        "method": method,
        "scale": scale,
        "same_game": True,
        "base": base,
        "effects": found.tolist(),
    }


def _scale(objective: str) -> str:
    if objective in LOG_ODDS:
        return "log-odds"
    if objective in NUMBERS:
        return "number"
    raise UnreadableError(f"the objective {objective or 'of the model'} is not known to it")


def _split(found: Any, scale: str) -> dict[str, Any]:
    """Part the effects from the base, which stands in the last column."""
    if found.ndim != 2:
        raise UnreadableError("there are more than two classes")
    return {"scale": scale, "base": found[:, -1].tolist(), "effects": found[:, :-1].tolist()}


def _matrix(rows: list[list[Any]]) -> Any:
    numpy = importlib.import_module("numpy")
    try:
        return numpy.array(
            [[float("nan") if v is None else float(v) for v in row] for row in rows]
        )
    except ValueError:
        raise UnreadableError("its columns are no numbers") from None


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Read exact values of a packed model of trees.")
    parser.add_argument("--folder", required=True, type=Path)
    folder = parser.parse_args().folder.resolve()
    sys.dont_write_bytecode = True  # the folder is what its digest says, and stays so
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not spoil the answer
    try:
        told = explain(folder, json.loads(sys.stdin.buffer.read()))
    except UnreadableError as error:
        told = {"why": str(error)}
    except Exception as error:  # noqa: BLE001  whatever a model raises is told, not died of
        told = {"why": f"{type(error).__name__}: {error}"[:300]}
    with os.fdopen(answer, "wb") as out:
        out.write(json.dumps(told).encode())


if __name__ == "__main__":
    main()
