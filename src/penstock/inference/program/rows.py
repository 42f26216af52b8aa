"""Between requests and models: what a model is given, and how its answer is read.

`frame`, `matrix` and `stack` turn the columns of a request into what frameworks take, `told`
turns what they return into an `Answer`. The type of a column hangs on the signature, never on
the values: a batch must answer as its rows do alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, cast

if TYPE_CHECKING:
    from penstock.inference.program.bodies import Asked, Column

NUMERIC = frozenset({"FP64", "INT64", "BOOL"})
_REQUIRED = {"FP64": "float64", "INT64": "int64", "BOOL": "bool"}
_OPTIONAL = {"FP64": "float64", "INT64": "float64"}

Make = Callable[[Any, "list[Any]"], Any]
"""Makes a column of a DataFrame from pandas and the column's values."""


class AnswerError(Exception):
    """The model answered something that is no answer to what it was asked."""


class Answer(NamedTuple):
    """What the model said of some rows."""

    prediction: list[Any]
    probability: list[list[float]] | None
    """Rows x classes."""


class Stated(NamedTuple):
    """What is known of a version's answers before it gives any."""

    task: str | None
    classes: list[Any] | None
    positive: Any


def optional(name: str) -> Any:
    """Import a module; None where the environment lacks it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def frame(pandas: Any, asked: Asked, made: Mapping[str, Make] | None = None) -> Any:
    """Return a DataFrame, or where there is no pandas a dict of columns.

    Parameters
    ----------
    made
        How the columns that need a type of their own are made.
    """
    pairs = zip(asked.columns, asked.values)
    if pandas is None:
        return {c.name: stack(c, values) if c.shape else values for c, values in pairs}
    if not made:
        return pandas.DataFrame({c.name: _series(pandas, c, values) for c, values in pairs})
    return pandas.DataFrame(
        {
            c.name: made[c.name](pandas, values) if c.name in made else _series(pandas, c, values)
            for c, values in pairs
        }
    )


def matrix(asked: Asked) -> Any:
    """Return an array of shape ``(rows, columns)``; a tensor is laid flat."""
    numpy = importlib.import_module("numpy")
    if any(column.shape for column in asked.columns):
        parts = [
            stack(column, values).reshape(asked.rows, -1)
            for column, values in zip(asked.columns, asked.values)
        ]
        return parts[0] if len(parts) == 1 else numpy.hstack(parts)
    numeric = all(column.datatype in NUMERIC for column in asked.columns)
    rows = [[float("nan") if v is None else v for v in row] for row in zip(*asked.values)]
    return numpy.array(rows, dtype="float64" if numeric else "object")


def stack(column: Column, values: list[Any]) -> Any:
    """Return a column as one array of shape ``(rows, *shape)``; nested lists without numpy."""
    numpy = optional("numpy")
    if numpy is None:
        return [_nested(row, column.shape) for row in values] if column.shape else values
    flat = [v for row in values for v in row] if column.shape else values
    if column.optional:
        flat = [float("nan") if v is None else v for v in flat]
    array = numpy.array(flat, dtype=_dtype(column))
    return array.reshape(len(values), *column.shape)


def _nested(flat: list[Any], shape: tuple[int, ...]) -> list[Any]:
    if len(shape) < 2:
        return flat
    step = len(flat) // shape[0]
    return [_nested(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def _dtype(column: Column) -> str:
    return (_OPTIONAL if column.optional else _REQUIRED).get(column.datatype, "object")


def _series(pandas: Any, column: Column, values: list[Any]) -> Any:
    if column.shape or column.kind:
        return _special(pandas, column, values)
    if column.datatype == "BYTES" and int(pandas.__version__.split(".")[0]) >= 3:
        return pandas.array(values, dtype="str")
    numpy = importlib.import_module("numpy")
    return numpy.array([float("nan") if v is None else v for v in values], dtype=_dtype(column))


def _special(pandas: Any, column: Column, values: list[Any]) -> Any:
    if column.kind == "datetime":
        return pandas.to_datetime(pandas.Series(values, dtype="object"))
    if column.kind == "category":
        return pandas.Categorical(values)
    cells = importlib.import_module("numpy").empty(len(values), dtype="object")
    for row, cell in enumerate(stack(column, values)):
        cells[row] = cell  # at once, numpy would read the arrays as further dimensions
    return cells


def plain(value: Any) -> Any:
    """Turn arrays, frames and tuples into lists of Python values."""
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in cast("list[Any]", value)]
    return value


def most_probable(probability: list[list[float]], classes: list[Any] | None) -> Answer:
    """Answer with the class of the greatest probability; its index where none are known."""
    if classes is not None:
        for count in set(map(len, probability)) - {len(classes)}:
            raise AnswerError(f"{count} probabilities for {len(classes)} classes")
    best = [row.index(max(row)) for row in probability]
    return Answer(best if classes is None else [classes[index] for index in best], probability)


def told(answers: Any, stated: Stated) -> Answer:
    """Read what a model returned that says nothing of itself: classes, numbers, probabilities.

    A single number between 0 and 1 is, where there are two classes, the probability of the
    positive one.
    """
    if not isinstance(answers, list):
        raise AnswerError(f"{type(answers).__name__}, not one answer a row")
    rows = cast("list[Any]", answers)
    if rows and all(isinstance(row, list) for row in rows):
        if all(len(row) == 1 for row in rows):
            rows = [row[0] for row in rows]
        elif stated.task == "regression":
            raise AnswerError(f"{len(rows[0])} values a row, not one number")
        else:
            return most_probable(cast("list[list[float]]", rows), stated.classes)
    classes = stated.classes
    is_float = bool(rows) and all(type(row) is float for row in rows)
    if stated.task != "classification" or classes is None or len(classes) != 2 or not is_float:
        return Answer(rows, None)
    for row in rows:
        if not 0 <= row <= 1:
            raise AnswerError(f"{row}, which is neither a class nor a probability")
    return of_positive(rows, stated)


def of_positive(shares: list[float], stated: Stated) -> Answer:
    """Answer for two classes from the probability of the positive one, by default the second."""
    classes = stated.classes
    first = classes is not None and stated.positive is not None and stated.positive == classes[0]
    return most_probable([[p, 1 - p] if first else [1 - p, p] for p in shares], classes)
