"""How far two answers of a version to the same rows are apart."""

from __future__ import annotations

import json
import operator
from typing import Any, cast

import numpy as np

from penstock.domain import JSON


def apart(ours: bytes, theirs: bytes) -> tuple[float | None, int]:
    """Return how far two answers are apart, and how many of their rows decide otherwise.

    Parameters
    ----------
    ours, theirs
        Answers of the Open Inference Protocol.

    Returns
    -------
    float or None, int
        The greatest distance of two numbers, relative where ours is greater than one; None where
        the answers do not have the same outputs of the same sizes.
    """
    left, right = outputs(ours), outputs(theirs)
    if left.keys() != right.keys() or any(len(left[n]) != len(right[n]) for n in left):
        return None, 0
    distance, decisions = 0.0, 0
    for name, values in left.items():
        others = right[name]
        if set(map(type, (*values, *others))) == {float}:  # whole numbers are classes
            distance = max(distance, _furthest(values, others))
        else:
            decisions += sum(map(operator.ne, values, others))
    return distance, decisions


def outputs(body: bytes) -> dict[str, list[Any]]:
    """Return an answer's values by output."""
    document = cast("JSON", json.loads(body))
    return {str(one["name"]): list(one["data"]) for one in document["outputs"]}


def _furthest(values: list[Any], others: list[Any]) -> float:
    ours, theirs = np.asarray(values, np.float64), np.asarray(others, np.float64)
    return float((np.abs(ours - theirs) / np.maximum(1.0, np.abs(ours))).max(initial=0.0))
