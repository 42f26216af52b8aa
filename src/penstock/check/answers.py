"""What a model answers, whatever its kind, and how it is asked.

Checks, quality, fairness and explanation see a model only through an `Ask`: rows in, answers
out. What stands behind it (the worker of a build, the endpoint of an environment, a fake in a
test) they do not know, so none of them can be fooled by code of the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_INTEGRAL = re.compile(r"-?(?:0|[1-9][0-9]*)\.0+")
_BOOLEANS = {"true": "1", "false": "0"}


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """A model's answers to n rows, in the order of the rows."""

    prediction: NDArray[Any]
    """Shape ``(n,)``: classes, or numbers for regression."""
    probability: NDArray[np.float64] | None = None
    """Shape ``(n, k)``, in the order of `classes`; None where the model offers none."""
    classes: tuple[object, ...] | None = None
    positive: object | None = None
    """The class that `score` speaks of; None means the second of two."""

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.prediction)

    @property
    def score(self) -> NDArray[np.float64] | None:
        """Probability of the positive class, shape ``(n,)``; None unless there are two classes.

        Examples
        --------
        >>> probability = np.array([[0.8, 0.2], [0.3, 0.7]])
        >>> Answers(np.array(["no", "yes"]), probability, ("no", "yes")).score
        array([0.2, 0.7])
        """
        if self.probability is None or self.classes is None or len(self.classes) != 2:
            return None
        column = 1 if self.positive is None else same_class(self.positive, self.classes)
        return None if column is None else self.probability[:, column]


def same_class(value: object, classes: tuple[object, ...]) -> int | None:
    """Find a class by value, else by spelling: a file may say ``1`` where a model says ``"1"``."""
    for index, one in enumerate(classes):
        if one == value:
            return index
    for index, one in enumerate(classes):
        if str(one) == str(value):
            return index
    return None


def class_text(value: object) -> str:
    """Spell a class so that 1, 1.0, True and "1" are one class.

    Labels come from files and over HTTP, answers from the model: the same class need not have
    the same type on both sides.

    Examples
    --------
    >>> [class_text(value) for value in (1, 1.0, True, "1", "1.0", "true", "yes", "01")]
    ['1', '1', '1', '1', '1', '1', 'yes', '01']
    """
    text = str(value)
    if _INTEGRAL.fullmatch(text):
        return text.partition(".")[0]
    return _BOOLEANS.get(text.lower(), text)


def class_texts(values: Iterable[Any]) -> list[str]:
    """Spell many classes; each distinct value once."""
    found = list(values)
    spelling = {value: class_text(value) for value in dict.fromkeys(found)}
    return [spelling[value] for value in found]


class AskError(Exception):
    """The model answered with an error instead of predictions."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        """As HTTP has it: 4xx blames the rows, 5xx the model."""
        self.message = message


Ask = Callable[[pa.Table], Answers]
"""Ask a model for its answers to some rows; raises `AskError` when it answers an error."""


def equal_answers(left: Answers, right: Answers, *, tolerance: float = 1e-6) -> NDArray[np.bool_]:
    """Say for each row whether two answers are the same, shape ``(n,)``.

    Numbers may differ by `tolerance`, absolute or relative: another batch size sums in another
    order. A class may differ only where two probabilities are that close.
    """
    if len(left) != len(right):
        return np.zeros(max(len(left), len(right)), dtype=np.bool_)
    if left.probability is not None and right.probability is not None:
        if left.probability.shape != right.probability.shape:
            return np.zeros(len(left), dtype=np.bool_)
        close = np.isclose(
            left.probability, right.probability, rtol=tolerance, atol=tolerance, equal_nan=True
        )
        return cast("NDArray[np.bool_]", close.all(axis=1))
    if numeric(left.prediction) and numeric(right.prediction):
        ours, theirs = left.prediction.astype(np.float64), right.prediction.astype(np.float64)
        return np.isclose(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)
    return cast("NDArray[np.bool_]", left.prediction.astype(str) == right.prediction.astype(str))


def numeric(values: NDArray[Any]) -> bool:
    """Say whether an array holds numbers; booleans are not numbers here."""
    return values.dtype.kind in "iuf"
