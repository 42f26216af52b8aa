"""The prediction log as a table: one row per predicted row.

Columns, version 2: ``prediction_id`` (the request's id, or ``id.row`` where it had several rows),
``row``, ``request_id``, ``ts``, ``model``, ``number``, ``role``, ``environment``, ``protocol``,
``status``, ``code`` of an error, ``outcome``, ``latency_ms``, ``generation`` and ``bucket`` of the
draw, ``prediction`` as text, ``score``, ``probabilities`` in the order of ``classes``, and
``x_<name>`` for each input of the model, for a tensor the flat list of its values.

A request without an answer is one row without inputs and prediction. NaN and infinity are never
written, they are null: engines that trust a file's statistics lose NaN.

The bodies are read with the worker's own functions, so a row holds what the model saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import pyarrow as pa

from penstock.domain import JSON, Environment
from penstock.inference.prediction_log.records import Entry
from penstock.inference.prediction_log.redaction import error_code
from penstock.inference.program import bodies, frames, replies, requests

SignatureOf = Callable[[int], JSON | None]
"""Returns the signature of the model's version with this number."""

FIXED = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("row", pa.int32()),
        ("request_id", pa.string()),
        ("ts", pa.timestamp("us", tz="UTC")),
        ("model", pa.string()),
        ("number", pa.int32()),
        ("role", pa.string()),
        ("environment", pa.string()),
        ("protocol", pa.string()),
        ("status", pa.int32()),
        ("code", pa.string()),
        ("outcome", pa.string()),
        ("latency_ms", pa.float64()),
        ("generation", pa.int64()),
        ("bucket", pa.int32()),
        ("prediction", pa.string()),
        ("score", pa.float64()),
        ("probabilities", pa.list_(pa.float64())),
        ("classes", pa.list_(pa.string())),
    ]
)
PROTOCOLS = {
    frames.V2: "v2",
    frames.INVOCATIONS: "invocations",
    frames.CSV: "csv",
    frames.PARQUET: "parquet",
    frames.ARROW: "arrow",
    frames.V2_BINARY: "v2 binary",
}
_TYPES = {"FP64": pa.float64(), "INT64": pa.int64(), "BOOL": pa.bool_()}


class Answered(NamedTuple):
    """One request that was answered, row by row."""

    asked: bodies.Asked
    predictions: list[Any]
    probability: list[list[float]] | None
    classes: list[Any] | None
    scores: list[float | None]


class Known(NamedTuple):
    """What is known of a version."""

    signature: JSON | None
    columns: tuple[bodies.Column, ...] | None


class Of(NamedTuple):
    """Whose log it is."""

    environment: Environment
    model: str


def table_of(entries: Iterable[Entry], of: Of, signature_of: SignatureOf) -> pa.Table:
    """Return the rows of some entries, in their order."""
    rows = Rows(of)
    known: dict[int, Known] = {}
    for entry in entries:
        if entry.number not in known:
            signature = signature_of(entry.number)
            known[entry.number] = Known(signature, bodies.signature_columns(signature))
            for column in known[entry.number].columns or ():
                rows.declare(column)
        rows.add(entry, answered(entry, known[entry.number]))
    return rows.table()


def answered(entry: Entry, known: Known) -> Answered | None:
    """Return what was asked and answered; None when there was no answer, or none in order."""
    if entry.status != 200:
        return None
    asked = _asked(entry, known.columns)
    signature = known.signature or {}
    try:
        told = replies.told(entry.kind, entry.media, entry.reply)
        predictions = told.prediction or [None] * asked.rows
        classes = told.classes or signature.get("classes")
        if len(predictions) != asked.rows:
            return None
        probability = told.probability
        if probability is not None:
            if len(probability) != asked.rows:
                return None
            probability = [[_number(p) for p in row] for row in probability]
        scores = _scores(predictions, probability, classes, signature)
    except (LookupError, TypeError, ValueError, AttributeError):
        return None  # the worker is the model's, and so is what it answers
    return Answered(asked, predictions, probability, classes, scores)


def _asked(entry: Entry, columns: tuple[bodies.Column, ...] | None) -> bodies.Asked:
    """Return what was asked; no inputs where the log holds none, or none that can be read."""
    try:
        kind = entry.kind
        if entry.without:
            kind = frames.V2
            kept = {str(one["name"]) for one in bodies.decode(entry.request)["inputs"]}
            if columns is not None:
                columns = tuple(column for column in columns if column.name in kept)
        return requests.understand(kind, entry.request, columns).asked
    except (bodies.RequestError, LookupError, TypeError, ValueError):
        return bodies.Asked((), [], min(entry.rows, bodies.MAX_ROWS))


def _scores(
    predictions: list[Any],
    probability: list[list[float]] | None,
    classes: list[Any] | None,
    signature: JSON,
) -> list[float | None]:
    """Return one number a row.

    With two classes the probability of the positive one, with more the greatest probability,
    for regression the prediction; else nothing.
    """
    if probability is None:
        if signature.get("task") == "classification":
            return [None] * len(predictions)
        return [_finite(value) for value in predictions]
    if classes is None or len(classes) != 2:
        return [_finite(max(row)) for row in probability]
    positive = signature.get("positive")
    column = classes.index(positive) if positive in classes else 1
    return [_finite(row[column]) for row in probability]


def _texts(answer: Answered | None) -> list[str] | None:
    if answer is None or answer.probability is None or answer.classes is None:
        return None
    return [str(one) for one in answer.classes]


def _finite(value: Any) -> float | None:
    is_number = type(value) in (int, float) and math.isfinite(value)
    return float(value) if is_number else None


def _number(value: Any) -> float:
    """Return a probability; what is none spoils the answer."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


class Rows:
    """Gathers rows column by column; a feature that is new gets nulls for the rows before."""

    def __init__(self, of: Of) -> None:
        self._of = of
        self._fixed: dict[str, list[Any]] = {name: [] for name in FIXED.names}
        self._features: dict[str, list[Any]] = {}
        self._datatypes: dict[str, str] = {}
        self._tensors: set[str] = set()
        self._count = 0

    def add(self, entry: Entry, answer: Answered | None) -> None:
        """Append the rows of one request."""
        rows = 1 if answer is None else answer.asked.rows
        shared = {
            "request_id": entry.id,
            "ts": entry.arrived_us,
            "model": self._of.model,
            "number": entry.number,
            "role": entry.role,
            "environment": self._of.environment.value,
            "protocol": PROTOCOLS.get(entry.kind),
            "status": entry.status,
            "code": error_code(entry),
            "generation": entry.generation,
            "bucket": entry.bucket if entry.bucket >= 0 else None,
            "classes": _texts(answer),
            "outcome": entry.outcome.name.lower(),
            "latency_ms": (entry.ended_us - entry.arrived_us) / 1000,
        }
        for name, value in shared.items():
            self._fixed[name].extend([value] * rows)
        self._fixed["row"].extend(range(rows))
        ids = [entry.id] if rows == 1 else [f"{entry.id}.{row}" for row in range(rows)]
        self._fixed["prediction_id"].extend(ids)
        predictions = [None] if answer is None else answer.predictions
        self._fixed["prediction"].extend(predictions)
        self._fixed["score"].extend([None] if answer is None else answer.scores)
        none: list[Any] = [None] * rows
        self._fixed["probabilities"].extend(none if answer is None else answer.probability or none)
        if answer is not None:
            for column, values in zip(answer.asked.columns, answer.asked.values, strict=True):
                if column.name not in self._features:  # a version without a signature
                    self.declare(column)
                self._features[column.name].extend(values)
        self._count += rows
        for values in self._features.values():
            if len(values) < self._count:
                values.extend([None] * (self._count - len(values)))

    def table(self) -> pa.Table:
        """Return what was gathered."""
        columns = [_array(self._fixed[field.name], field.type) for field in FIXED]
        table = pa.table(columns, schema=FIXED)
        for name, values in self._features.items():
            _without_nan(values)
            kind = _TYPES.get(self._datatypes[name], pa.string())
            array = _array(values, pa.list_(kind) if name in self._tensors else kind)
            table = table.append_column(pa.field(_text(f"x_{name}"), array.type), array)
        return table

    def declare(self, column: bodies.Column) -> None:
        """Make a feature known; one of two versions with different types gets the wider."""
        if column.shape and column.name not in self._datatypes:
            self._tensors.add(column.name)
        known = self._datatypes.setdefault(column.name, column.datatype)
        if bool(column.shape) != (column.name in self._tensors):
            self._tensors.discard(column.name)  # a list in one version, a value in the other
            self._datatypes[column.name] = "BYTES"
        elif known != column.datatype:  # two versions in one segment, with different signatures
            numbers = {known, column.datatype} == {"INT64", "FP64"}
            self._datatypes[column.name] = "FP64" if numbers else "BYTES"
        if column.name not in self._features:
            self._features[column.name] = [None] * self._count


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Return a column; as text where a value does not fit, such as an integer beyond 64 bits."""
    if kind == pa.string():
        return pa.array([None if value is None else _text(value) for value in values], kind)
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
        return _array(values, pa.string())


def _text(value: Any) -> str:
    """Return a value as text that UTF-8 can hold: JSON may carry half a character."""
    text = str(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _without_nan(values: list[Any]) -> None:
    """Put null in the place of what is no number, in tensors too."""
    for place, value in enumerate(values):
        if type(value) is float and not math.isfinite(value):
            values[place] = None
        elif type(value) is list:
            _without_nan(cast("list[Any]", value))
