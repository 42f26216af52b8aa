"""The prediction log as a table: closed segments become Parquet, one row per predicted row.

Columns: ``prediction_id`` (the request's id, or ``id.row`` where it had several rows), ``row``,
``request_id``, ``ts``, ``number``, ``role``, ``environment``, ``status``, ``outcome``,
``latency_ms``, ``prediction`` as text, ``score``, and ``x_<name>`` for each input of the model,
for a tensor the flat list of its values.
A request without an answer is one row without inputs and prediction. NaN is never written:
engines that trust a file's statistics lose it.

The bodies are read with the worker's own functions, so a row holds what the model saw.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.domain import JSON, Environment
from penstock.inference.prediction_log.segments import Entry, closed_segments, read_segment
from penstock.inference.program import bodies, frames, replies, requests

SignatureOf = Callable[[int], JSON | None]
"""Returns the signature of the model's version with this number."""

FIXED = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("row", pa.int32()),
        ("request_id", pa.string()),
        ("ts", pa.timestamp("us", tz="UTC")),
        ("number", pa.int32()),
        ("role", pa.string()),
        ("environment", pa.string()),
        ("status", pa.int32()),
        ("outcome", pa.string()),
        ("latency_ms", pa.float64()),
        ("prediction", pa.string()),
        ("score", pa.float64()),
    ]
)
_TYPES = {"FP64": pa.float64(), "INT64": pa.int64(), "BOOL": pa.bool_()}


class Answered(NamedTuple):
    """One request that was answered, row by row."""

    asked: bodies.Asked
    predictions: list[Any]
    scores: list[float | None]


def convert_closed(
    log_folder: Path,
    parquet_folder: Path,
    *,
    environment: Environment,
    signature_of: SignatureOf,
) -> list[Path]:
    """Convert every closed segment of a model; return those that now need no keeping."""
    done: list[Path] = []
    for segment in closed_segments(log_folder):
        convert(segment, parquet_folder, environment=environment, signature_of=signature_of)
        done.append(segment)
    return done


def convert(
    segment: Path,
    parquet_folder: Path,
    *,
    environment: Environment,
    signature_of: SignatureOf,
) -> Path:
    """Write ``<parquet_folder>/<segment>.parquet``, whole or not at all, unless it is there."""
    target = parquet_folder / f"{segment.stem}.parquet"
    if target.exists():
        return target
    parquet_folder.mkdir(parents=True, exist_ok=True)
    written = parquet_folder / f"{segment.stem}.{os.getpid()}.tmp"
    table = table_of(read_segment(segment), environment=environment, signature_of=signature_of)
    with written.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    written.replace(target)
    return target


def table_of(
    entries: Iterator[Entry], *, environment: Environment, signature_of: SignatureOf
) -> pa.Table:
    """Return the rows of some entries, in their order."""
    rows = _Rows(environment)
    known: dict[int, tuple[JSON | None, tuple[bodies.Column, ...] | None]] = {}
    for entry in entries:
        if entry.number not in known:
            signature = signature_of(entry.number)
            known[entry.number] = (signature, bodies.signature_columns(signature))
            for column in known[entry.number][1] or ():
                rows.declare(column)
        signature, columns = known[entry.number]
        rows.add(entry, answered(entry, signature, columns))
    return rows.table()


def answered(
    entry: Entry, signature: JSON | None, columns: tuple[bodies.Column, ...] | None
) -> Answered | None:
    """Return what was asked and answered; None when there was no answer, or none in order."""
    if entry.status != 200 or not entry.request:
        return None
    try:
        asked = requests.understand(entry.kind, entry.request, columns).asked
        told = replies.told(entry.kind, frames.JSON_MEDIA, entry.reply)
        predictions = told.prediction or [None] * asked.rows
        if len(predictions) != asked.rows:
            return None
        scores = _scores(predictions, told.probability, told.classes, signature or {})
    except (bodies.RequestError, LookupError, TypeError, ValueError):
        return None  # the worker is the model's, and so is what it answers
    return Answered(asked, predictions, scores)


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
    order: list[Any] | None = classes or signature.get("classes")
    if order is None or len(order) != 2:
        return [_finite(max(row)) for row in probability]
    positive = signature.get("positive")
    column = order.index(positive) if positive in order else 1
    return [_finite(row[column]) for row in probability]


def _finite(value: Any) -> float | None:
    is_number = type(value) in (int, float) and math.isfinite(value)
    return float(value) if is_number else None


class _Rows:
    """Gathers rows column by column; a feature that is new gets nulls for the rows before."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
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
            "number": entry.number,
            "role": entry.role,
            "environment": self._environment.value,
            "status": entry.status,
            "outcome": entry.outcome.name.lower(),
            "latency_ms": (entry.ended_us - entry.arrived_us) / 1000,
        }
        for name, value in shared.items():
            self._fixed[name].extend([value] * rows)
        self._fixed["row"].extend(range(rows))
        ids = [entry.id] if rows == 1 else [f"{entry.id}.{row}" for row in range(rows)]
        self._fixed["prediction_id"].extend(ids)
        predictions = (
            [None] if answer is None else [p if p is None else str(p) for p in answer.predictions]
        )
        self._fixed["prediction"].extend(predictions)
        self._fixed["score"].extend([None] if answer is None else answer.scores)
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
        table = pa.table(self._fixed, schema=FIXED)
        for name, values in self._features.items():
            datatype = self._datatypes[name]
            kind = _TYPES.get(datatype)
            if name in self._tensors:
                array = pa.array(values, pa.list_(kind or pa.string()))
            elif kind is None:
                array = pa.array([None if v is None else str(v) for v in values], pa.string())
            else:
                array = pa.array(values, kind)
            table = table.append_column(f"x_{name}", array)
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
