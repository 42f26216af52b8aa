"""Models of XGBoost, LightGBM and CatBoost in their own files, and bare boosters.

A booster knows neither classes nor names of the answers: its objective says whether it gives
probabilities, and its classes are those of the labels in sorted order, as label encoders have
them. Where the file says that it was a classifier of the scikit-learn kind, that one is used.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from penstock.inference.program import formats, rows
    from penstock.inference.program.bodies import Asked
else:
    from penstock_worker import formats, rows

BINARY = ("binary:logistic", "binary", "cross_entropy", "xentropy")
"""Objectives that answer the probability of the second of two classes."""
RAW = ("binary:logitraw",)
"""Objectives that answer its log odds."""
MANY = ("multi:softprob", "multi:softmax", "multiclass", "multiclassova")


def load(module: str, source: formats.Source) -> formats.Model:
    """Load a framework's own file."""
    framework = formats.need(module, source.path.name)
    try:
        return _READERS[module](framework, source)
    except formats.LoadError:
        raise
    except Exception as error:
        raise formats.unreadable(source.path.name, module, error) from error


def _xgboost(xgboost: Any, source: formats.Source) -> formats.Model:
    found = xgboost.Booster()
    found.load_model(str(source.path))
    own = json.loads(found.attr("scikit_learn") or "{}")
    wrappers = {"classifier": "XGBClassifier", "regressor": "XGBRegressor"}
    wrapper = wrappers.get(str(own.get("_estimator_type")))
    if wrapper is None or rows.optional("sklearn") is None:
        return booster(found, "xgboost", source.stated)
    model = getattr(xgboost, wrapper)()
    model.load_model(str(source.path))
    return formats.estimator(model, source.path.name, source.stated)


def _lightgbm(lightgbm: Any, source: formats.Source) -> formats.Model:
    return booster(lightgbm.Booster(model_file=str(source.path)), "lightgbm", source.stated)


def _catboost(catboost: Any, source: formats.Source) -> formats.Model:
    model = catboost.CatBoost()
    model.load_model(str(source.path))
    named = rows.plain(getattr(model, "classes_", None))
    wrapper = catboost.CatBoostClassifier if named else catboost.CatBoostRegressor
    model = wrapper()
    model.load_model(str(source.path))
    return formats.estimator(model, source.path.name, source.stated)


_READERS: dict[str, Callable[[Any, formats.Source], formats.Model]] = {
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "catboost": _catboost,
}


def booster(model: Any, module: str, stated: rows.Stated) -> formats.Model:
    """Serve a bare booster by its objective."""
    objective, classes = _objective(model, module)
    names = formats.real_names(
        model.feature_names if module == "xgboost" else model.feature_name()
    )
    count = int(model.num_features() if module == "xgboost" else model.num_feature())
    made = categories(model, module)
    raw = _raw_asker(model, module, objective, made)
    probable = objective in BINARY or objective in RAW or objective in MANY

    def ask(asked: Asked) -> rows.Answer:
        answers: list[Any] = rows.plain(raw(asked))
        if not probable or stated.task == "regression":
            return rows.Answer(answers, None)
        if objective in RAW:
            answers = [_sigmoid(margin) for margin in answers]
        if objective in MANY:
            return rows.most_probable(answers, stated.classes)
        # A booster's number speaks of the second class, whichever was declared the positive.
        return rows.of_positive(answers, stated._replace(positive=None))

    task = "classification" if probable else "regression"
    return formats.Model(
        ask,
        framework=module,
        feature_names=names,
        n_features=count,
        classes=stated.classes,
        n_classes=classes if probable else None,
        task=stated.task or task,
    )


def _objective(model: Any, module: str) -> tuple[str, int]:
    """Return a booster's objective and the number of its classes."""
    if module == "xgboost":
        learner = json.loads(model.save_config())["learner"]
        classes = int(learner["learner_model_param"].get("num_class") or 0)
        return str(learner["objective"]["name"]), max(classes, 2)
    found = re.search(r"^objective=(\S+)", model.model_to_string(num_iteration=1), re.MULTILINE)
    classes = int(model.num_model_per_iteration())
    return (found.group(1) if found else ""), max(classes, 2)


def _raw_asker(
    model: Any, module: str, objective: str, made: dict[str, rows.Make] | None
) -> Callable[[Asked], Any]:
    pandas = formats.need("pandas", "a model with categories") if made else None
    if module == "lightgbm":
        return lambda asked: model.predict(
            rows.matrix(asked) if pandas is None else rows.frame(pandas, asked, made)
        )
    xgboost = formats.need("xgboost", "the booster")
    names, types = model.feature_names, model.feature_types
    many = objective in MANY

    def ask(asked: Asked) -> Any:
        if pandas is None:
            given = xgboost.DMatrix(rows.matrix(asked), feature_names=names, feature_types=types)
        else:
            frame = rows.frame(pandas, asked, made)
            given = xgboost.DMatrix(frame, enable_categorical=True)
        if not many:
            return model.predict(given)
        # Of `multi:softmax` the class alone would come: margins serve both.
        return [_softmax(row) for row in model.predict(given, output_margin=True).tolist()]

    return ask


def categories(model: Any, module: str) -> dict[str, rows.Make] | None:
    """Say how a booster's columns are made that were pandas categories in training.

    LightGBM keeps their names in the model and XGBoost does from 3.1 on, so that a category has
    the code that it had in training.
    """
    if module == "lightgbm":
        known = getattr(model, "pandas_categorical", None)
        if not known:
            return None
        text = model.model_to_string(num_iteration=1)
        found = re.search(r"^\[categorical_feature: ([\d,]+)\]", text, re.MULTILINE)
        places = [int(place) for place in found.group(1).split(",")] if found else []
        names = model.feature_name()
        return {names[place]: _category(values) for place, values in zip(places, known)}
    kinds: list[str] = model.feature_types or []
    chosen = [name for name, kind in zip(model.feature_names or [], kinds) if kind == "c"]
    if not chosen:
        return None
    if not hasattr(model, "get_categories"):
        raise formats.LoadError(
            "PS576",
            f"The model has categories ({', '.join(chosen[:3])}), whose names XGBoost before 3.1 "
            "does not keep.",
            "Use xgboost>=3.1, or encode them in a scikit-learn pipeline.",
        )
    return {name: _category(None) for name in chosen}


def _category(known: list[Any] | None) -> rows.Make:
    return lambda pandas, values: pandas.Categorical(values, categories=known)


def _sigmoid(margin: float) -> float:
    if margin >= 0:
        return 1 / (1 + math.exp(-margin))
    return math.exp(margin) / (1 + math.exp(margin))


def _softmax(margins: list[float]) -> list[float]:
    top = max(margins)
    powers = [math.exp(margin - top) for margin in margins]
    total = sum(powers)
    return [power / total for power in powers]
