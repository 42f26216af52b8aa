"""MLflow models: their native object where it is of a format of ours, else `mlflow.pyfunc`.

What MLmodel says was read when the version was packed (build/mlmodel.py) and stands in
penstock.json, so that the native object needs no MLflow.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.inference.program import formats, rows
    from penstock.inference.program.bodies import Asked
else:
    from penstock_worker import formats, rows


def load(source: formats.Source) -> formats.Model:
    """Load an MLflow model by the native object that it holds, where it is one of ours."""
    told: Mapping[str, Any] = source.manifest["mlflow"]
    for code in told.get("code") or ():
        sys.path.insert(0, str(source.path / code))
    flavor, file = told.get("flavor"), source.path / str(told.get("file"))
    kind = told.get("kind")
    if flavor == "pyfunc":
        model = _pyfunc(source, told)
    elif kind in ("joblib", "skops"):
        opened = formats.unpickled(file, str(kind))
        model = formats.estimator(opened, file.name, source.stated)
    else:
        model = formats.LOADERS[str(kind)](source._replace(path=file))
    model.inputs = told.get("inputs") or model.inputs
    model.warnings += _other_versions(told.get("trained_with") or {})
    return model


def _other_versions(trained: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    for module, was in trained.items():
        now = getattr(sys.modules.get(module), "__version__", None)
        if now is not None and was.split(".")[:2] != str(now).split(".")[:2]:
            found.append(f"trained with {formats.distribution(module)} {was}, served with {now}")
    return found


def _pyfunc(source: formats.Source, told: Mapping[str, Any]) -> formats.Model:
    # MLflow must find a place to write: it makes its folders on import and on load.
    scratch = tempfile.mkdtemp(prefix="mlflow-")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_TRACKING_URI", Path(scratch).as_uri())
    pyfunc = formats.need("mlflow.pyfunc", "MLmodel")
    try:
        model = pyfunc.load_model(str(source.path))
    except ModuleNotFoundError as error:
        raise formats.lacks_module("MLmodel", str(error.name)) from error
    except AttributeError as error:
        raise formats.lacks_class("MLmodel", error) from error
    except Exception as error:
        raise formats.unreadable("MLmodel", "an MLflow model", error) from error
    inputs: list[dict[str, Any]] = list(told.get("inputs") or [])
    pandas = formats.need("pandas", "MLmodel")
    made = {str(one["name"]): _of_type(str(one["dtype"])) for one in inputs if one.get("dtype")}
    tensors = [one for one in inputs if one.get("shape") is not None]

    def ask(asked: Asked) -> rows.Answer:
        if tensors and len(tensors) == len(inputs):
            given = _tensors(tensors, asked)
        else:
            given = rows.frame(pandas, asked, made)
        return rows.told(rows.plain(_prediction(model.predict(given))), source.stated)

    classes, task = source.stated.classes, source.stated.task
    return formats.Model(ask, framework="mlflow", classes=classes, task=task)


def _tensors(inputs: list[dict[str, Any]], asked: Asked) -> Any:
    if len(inputs) == 1 and not inputs[0].get("name"):
        column = asked.columns[0]
        array = rows.stack(column, asked.values[0]) if column.shape else rows.matrix(asked)
        return array.astype(inputs[0]["dtype"])
    places = {column.name: place for place, column in enumerate(asked.columns)}
    given: dict[str, Any] = {}
    for one in inputs:
        place = places[one["name"]]
        array = rows.stack(asked.columns[place], asked.values[place])
        given[one["name"]] = array.astype(one["dtype"])
    return given


def _of_type(dtype: str) -> rows.Make:
    def make(pandas: Any, values: list[Any]) -> Any:
        if dtype == "datetime64[ns]":
            return pandas.to_datetime(pandas.Series(values, dtype="object"))
        if dtype == "bytes":
            cells = [None if v is None else str(v).encode() for v in values]
            return pandas.Series(cells, dtype="object")
        if dtype in ("float32", "float64"):
            values = [float("nan") if v is None else v for v in values]
        return pandas.Series(values, dtype=dtype)

    return make


def _prediction(answers: Any) -> Any:
    """Choose among named answers, columns of a frame or keys of a dict, the prediction."""
    kind = type(answers).__name__
    is_dict = kind == "dict"
    names: list[Any] = list(answers) if is_dict or kind == "DataFrame" else []
    for wanted in ("prediction", "predictions", "label", "probabilities", "probability"):
        if len(names) > 1 and wanted in names:
            return answers[wanted]
    return answers[names[0]] if is_dict and names else answers
