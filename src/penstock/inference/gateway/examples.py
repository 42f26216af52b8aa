"""A request for a version, made from its signature."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any


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


def first_rows(signature: Mapping[str, Any] | None) -> Iterable[tuple[bytes, bool]]:
    """Return requests that warm a version, and whether it has to be able to answer them.

    A column without a typical value gets a neutral one, which a model may rightly refuse.
    """
    columns: list[Mapping[str, Any]] = (signature or {}).get("columns") or []
    if signature and columns:
        sure = all(column.get("example") is not None for column in columns)
        yield json.dumps(example_request(signature)).encode(), sure
