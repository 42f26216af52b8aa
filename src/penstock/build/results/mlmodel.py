"""What an MLflow model says of itself: its file ``MLmodel``, read without MLflow.

The worker shall load the native object where it can: that gives probabilities, and costs
neither the memory nor the start of MLflow. So what it must know is read here, when the model is
packed, and stands in penstock.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

import yaml

from penstock.domain import JSON
from penstock.errors import StoppedError

FILE = "MLmodel"
_MAX_BYTES = 4 * 2**20
_LOADERS = {
    "mlflow.sklearn": ("sklearn", "sklearn_version"),
    "mlflow.xgboost": ("xgboost", "xgb_version"),
    "mlflow.lightgbm": ("lightgbm", "lgb_version"),
    "mlflow.catboost": ("catboost", "catboost_version"),
    "mlflow.onnx": ("onnx", "onnx_version"),
}
"""Loaders whose object the worker can load by itself: their flavour, and where that has the
version of its framework."""
_TYPES = {
    "boolean": ("BOOL", "bool"),
    "integer": ("INT64", "int32"),
    "long": ("INT64", "int64"),
    "float": ("FP64", "float32"),
    "double": ("FP64", "float64"),
    "string": ("BYTES", None),
    "binary": ("BYTES", "bytes"),
    "datetime": ("BYTES", "datetime64[ns]"),
}
"""MLflow's words for the types of columns: ours, and the one that MLflow wants to get."""
_KINDS = {"f": "FP64", "i": "INT64", "u": "INT64", "b": "BOOL"}


def read(folder: Path) -> JSON:
    """Return what the worker must know of the MLflow model in a folder.

    Returns
    -------
    JSON
        ``flavor`` (``pyfunc`` when the model has a loader of its own), ``kind`` (the format of
        ``file``), ``code`` (folders of Python files), ``inputs`` (as the worker describes a
        model's own, with ``dtype``; None without a signature) and ``trained_with`` (versions by
        module).

    Raises
    ------
    StoppedError
        PS577, the file is not an MLmodel or wants what cannot be served.
    """
    path = folder / FILE
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _not_understood("it is larger than 4 MiB")
        told: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise _not_understood(str(error).splitlines()[0]) from error
    flavors = _mapping(_mapping(told).get("flavors"))
    pyfunc = _mapping(flavors.get("python_function"))
    found = _native(flavors, pyfunc)
    return {**found, "inputs": _inputs(folder, _mapping(told))}


def _native(flavors: Mapping[str, Any], pyfunc: Mapping[str, Any]) -> JSON:
    name, version = _LOADERS.get(str(pyfunc.get("loader_module")), (None, None))
    if name is None and not pyfunc:
        name, version = next((one for one in _LOADERS.values() if one[0] in flavors), (None, None))
    flavor = _mapping(flavors.get(name or ""))
    file = flavor.get("pickled_model") or flavor.get("data") or flavor.get("model_path")
    code = flavor.get("code") if name is not None else None
    folders = [_inside(one) for one in (code, pyfunc.get("code")) if isinstance(one, str)]
    found: dict[str, Any] = {"code": sorted(set(folders)), "trained_with": {}}
    if name is not None and version is not None and isinstance(flavor.get(version), str):
        found["trained_with"] = {name: flavor[version]}
    if name is None or not isinstance(file, str):
        if not pyfunc:
            known = ", ".join(map(str, flavors)) or "none"
            raise _not_understood(f"it has no flavour that can be served ({known})")
        return {**found, "flavor": "pyfunc", "file": None, "kind": None}
    return {**found, "flavor": name, "file": _inside(file), "kind": _kind(name, file, flavor)}


def _kind(name: str, file: str, flavor: Mapping[str, Any]) -> str:
    suffix = PurePosixPath(file).suffix
    if suffix == ".skops":
        return "skops"
    if name == "sklearn" or suffix in (".pkl", ".pickle", ".joblib"):
        return "skops" if flavor.get("serialization_format") == "skops" else "joblib"
    return name


def _inputs(folder: Path, told: Mapping[str, Any]) -> list[JSON] | None:
    signature = _mapping(told.get("signature"))
    columns: Any = signature.get("inputs")
    try:
        if isinstance(columns, str):
            columns = json.loads(columns)
        if not isinstance(columns, list) or not columns:
            return _of_example(folder, told)
        return [_input(_mapping(one)) for one in cast("list[Any]", columns)]
    except (ValueError, TypeError) as error:
        raise _not_understood(f"its signature is not readable: {error}") from error


def _input(told: Mapping[str, Any]) -> JSON:
    name = told.get("name")
    kind = str(told.get("type"))
    if kind == "tensor":
        return _tensor(name, _mapping(told.get("tensor-spec")))
    if kind not in _TYPES:
        raise _not_understood(f'its column "{name}" is of type {kind}, which no request can carry')
    datatype, dtype = _TYPES[kind]
    found: dict[str, Any] = {"name": name, "datatype": datatype, "dtype": dtype}
    if told.get("required") is False or told.get("optional") is True:
        found["optional"] = True
    elif datatype in ("INT64", "BOOL"):
        found["optional"] = False  # MLflow refuses a missing whole number
    return found


def _tensor(name: Any, spec: Mapping[str, Any]) -> JSON:
    dtype = str(spec.get("dtype"))
    shape = cast("Sequence[Any]", spec.get("shape") or [])
    sizes = [int(size) for size in shape]
    letter = "b" if dtype == "bool" else dtype[:1]
    datatype = _KINDS.get(letter, "BYTES")
    dtype = dtype if letter in _KINDS else "object"
    return {"name": name, "datatype": datatype, "dtype": dtype, "shape": sizes[1:]}


def _of_example(folder: Path, told: Mapping[str, Any]) -> list[JSON] | None:
    """Take the names, and no types, from the input example of a model without a signature."""
    example = _mapping(told.get("saved_input_example_info"))
    name = example.get("artifact_path")
    if example.get("type") != "dataframe" or not isinstance(name, str):
        return None
    path = folder / _inside(name)
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        return None
    columns: Any = _mapping(json.loads(path.read_text(encoding="utf-8"))).get("columns")
    if not isinstance(columns, list):
        return None
    return [{"name": str(one), "datatype": None} for one in cast("list[Any]", columns)]


def _inside(path: str) -> str:
    """Refuse a path that leaves the model's folder."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise _not_understood(f"it names {path}, outside of its folder")
    return pure.as_posix()


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _not_understood(why: str) -> StoppedError:
    return StoppedError(
        "PS577",
        f"The file MLmodel of the model is not understood: {why}.",
        hint="Log the model again with mlflow, or set [build] predict to an adapter.",
    )
