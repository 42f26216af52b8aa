"""What a model's endpoint says about itself, in the words of the Open Inference Protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from penstock.inference.gateway.routing import ModelRoutes


def model_metadata(routes: ModelRoutes, number: int | None) -> dict[str, Any]:
    """Describe a version's inputs and outputs by its signature; the champion's for None."""
    asked = routes.champion or routes.challenger
    if number is not None:
        asked = routes.running[number]
    signature: dict[str, Any] = {} if asked is None else dict(asked.signature or {})
    inputs = [
        {
            "name": column["name"],
            "datatype": column["datatype"],
            "shape": [-1, *column.get("shape", ())],
        }
        for column in signature.get("columns", [])
    ]
    classes: list[object] = signature.get("classes") or []
    outputs = [{"name": "prediction", "datatype": _datatype(classes), "shape": [-1]}]
    if classes:
        outputs.append({"name": "probability", "datatype": "FP64", "shape": [-1, len(classes)]})
    return {
        "name": routes.model,
        "versions": [str(running) for running in sorted(routes.running)],
        "platform": "penstock",
        "inputs": inputs,
        "outputs": outputs,
    }


def example_request(signature: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request of one row with a typical value in each column.

    The values are no row's own; tensors are zeros, and a column of which nothing typical is
    known has a neutral value.

    Examples
    --------
    >>> columns = [{"name": "age", "datatype": "FP64", "example": 41.5}]
    >>> example_request({"columns": columns})
    {'inputs': [{'name': 'age', 'shape': [1], 'datatype': 'FP64', 'data': [41.5]}]}
    """
    neutral: dict[str, Any] = {"FP64": 0.0, "INT64": 0, "BOOL": False, "BYTES": "…"}
    inputs: list[dict[str, Any]] = []
    for column in signature["columns"]:
        shape = [1, *column.get("shape", ())]
        value = column.get("example")
        value = neutral.get(column["datatype"], 0) if value is None else value
        inputs.append(
            {
                "name": column["name"],
                "shape": shape,
                "datatype": column["datatype"],
                "data": [value] * math.prod(shape),
            }
        )
    return {"inputs": inputs}


def _datatype(classes: list[object]) -> str:
    """Return the protocol's word for what a model predicts: a class, or else a number."""
    for kind, word in ((bool, "BOOL"), (int, "INT64"), (int | float, "FP64")):
        if all(isinstance(each, kind) for each in classes) and classes:
            return word
    return "BYTES" if classes else "FP64"
