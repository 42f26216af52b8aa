"""What a version told over its socket or endpoint, as the checks read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.check.answers import Answers, Ask, AskError
from penstock.domain import JSON
from penstock.inference.asking import Told, WorkerAnswerError


def answers_of(told: Told, signature: JSON | None) -> Answers:
    """Turn what a version told into what checks read."""
    classes = told["classes"]
    probability = told["probability"]
    return Answers(
        prediction=_array(told["prediction"]),
        probability=None if probability is None else np.asarray(probability, dtype=np.float64),
        classes=None if classes is None else tuple(classes),
        positive=None if signature is None else signature.get("positive"),
    )


def ask_through(predict: Callable[[pa.Table], Told], signature: JSON | None) -> Ask:
    """Return an `Ask` over anything that predicts tables."""

    def ask(table: pa.Table) -> Answers:
        try:
            return answers_of(predict(table), signature)
        except WorkerAnswerError as error:
            raise AskError(error.status, error.message) from error

    return ask


def _array(values: list[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    array = np.asarray(values)
    return array if array.dtype.kind in "iufb" else np.asarray(values, dtype=object)
