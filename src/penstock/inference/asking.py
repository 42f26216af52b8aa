"""Asking a version from outside its environment: tables in, answers out.

    with Worker(Program(process), socket) as worker:
        told = worker.predict(table, signature)

`Worker` asks a running worker program over its socket, as the gateway does; endpoint.py asks the
same through the gateway. Tables become Open Inference Protocol bodies here, so checks see just
what callers see.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypedDict, cast

import pyarrow as pa

from penstock.domain import JSON
from penstock.errors import StoppedError
from penstock.inference.program import frames
from penstock.inference.programs import Connection, Running

PROGRAM = Path(__file__).with_name("program") / "worker.py"
"""The worker program; start it as ``python -I PROGRAM --folder DIR --socket PATH``."""
PROGRAM_FILES = tuple(
    PROGRAM.with_name(f"{name}.py")
    for name in (
        *("worker", "host", "orders", "own_modules", "frames"),
        *("bodies", "rows", "requests", "replies", "tables", "tensors"),
        *("formats", "mlflow_model", "boosting", "onnx_session"),
        *("accelerated", "encodings", "predictors", "trees"),
    )
)
"""What the program is made of: a sandbox must show all of these, under their own paths."""
MAX_ROWS = 1000
MAX_BODY_BYTES = 900_000
"""Below the gateway's limit of 1 MiB."""


class WorkerAnswerError(Exception):
    """The worker answered rows with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        """As HTTP has it: 4xx blames the rows, 5xx the model."""
        self.message = message


class Told(TypedDict):
    """What a version answered to n rows, in their order."""

    prediction: list[Any]
    probability: list[list[float]] | None
    """n x classes; None where the model offers none."""
    classes: list[Any] | None
    """The order of `probability`'s columns."""
    ids: list[str]
    """The prediction id of each row."""


class Worker:
    """A worker program of ours, asked over its socket. A context manager that also ends it.

    Parameters
    ----------
    program
        Just started, or running.
    path
        The socket at which it listens, or will.
    start_timeout_s, answer_timeout_s
        How long loading, and one answer to at most 1000 rows, may take.
    """

    def __init__(
        self,
        program: Running,
        path: Path,
        *,
        start_timeout_s: float = 120,
        answer_timeout_s: float = 60,
    ) -> None:
        self._program = program
        self._path = path
        self._start_timeout_s = start_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._connection: Connection | None = None
        self._asked = 0

    def __enter__(self) -> Self:
        """Wait until it listens; StoppedError PS556 when it ends first, PS557 when it is late."""
        try:
            self._connection = Connection(
                self._program, self._path, start_timeout_s=self._start_timeout_s
            )
        except BaseException:
            self._program.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the program, whatever it does."""
        self.disconnect()
        self._program.end()

    def disconnect(self) -> None:
        """Free the worker for another connection; it serves one at a time."""
        if self._connection is not None:
            self._connection.close()

    def load(self, folder: Path, *, path: str = "own", slot: int = 0) -> JSON:
        """Load a version's folder in place of what a slot holds, and return what it is.

        Parameters
        ----------
        path
            Which call of the model answers; see program/accelerated.py.

        Returns
        -------
        JSON
            ``{"ok": True, "format", "feature_names", "n_features", "classes", "task", ...}``, or
            ``{"ok": False, "error", "code", "hint", "traceback"}`` for a model that does not
            load.

        Raises
        ------
        StoppedError
            PS556 when the program ended without a word, PS557 when it took too long.
        """
        order = json.dumps({"slot": slot, "folder": str(folder), "path": path}).encode()
        try:
            reply = self._ask(frames.LOAD, b"load", order, timeout_s=self._start_timeout_s)
        except StoppedError as error:
            if error.code != "PS557":
                raise
            raise StoppedError(
                "PS557",
                f"The model was not loaded after {self._start_timeout_s:g} s.",
                hint="Make loading cheaper: do what takes long in training.",
            ) from None
        return cast("JSON", json.loads(reply.body))

    def metadata(self) -> JSON:
        """Return what `load` returns of the version, and ``rss_bytes``, the memory in use."""
        reply = self._ask(frames.METADATA, b"metadata", b"", timeout_s=self._answer_timeout_s)
        return cast("JSON", json.loads(reply.body))

    def answer(self, body: bytes, *, slot: int = 0) -> tuple[int, bytes]:
        """Return status and body of the answer to an Open Inference Protocol body."""
        reply = self._ask(frames.V2, b"ask", body, timeout_s=self._answer_timeout_s, slot=slot)
        return reply.status, reply.body

    def predict(self, table: pa.Table, signature: JSON | None) -> Told:
        """Ask for the answers to every row of `table`.

        Raises
        ------
        WorkerAnswerError
            The rows were refused, or the model failed on them.
        StoppedError
            PS556 when the process ended, PS557 when it did not answer in time.
        """
        parts: list[Told] = []
        for _, body in chunks(table, signature, max_rows=MAX_ROWS):
            self._asked += 1
            name = b"ask-%d" % self._asked
            reply = self._ask(frames.V2, name, body, timeout_s=self._answer_timeout_s)
            parts.append(told_by(reply.status, reply.body))
        return merged(parts)

    def _ask(
        self, kind: int, name: bytes, body: bytes, *, timeout_s: float, slot: int = 0
    ) -> frames.Reply:
        assert self._connection is not None, "not entered"
        try:
            part = frames.RequestPart(kind, name, body, slot)
            return self._connection.ask(part, timeout_s=timeout_s)[0]
        except TimeoutError:
            raise StoppedError(
                "PS557",
                f"The model did not answer within {timeout_s:g} s.",
                hint="Look at its log; a prediction must take milliseconds.",
            ) from None
        except OSError:
            raise self._await_end() from None

    def _await_end(self) -> StoppedError:
        """Say why the program ended; one that lives on without its socket is ended here."""
        ended = self._program.ended(1)
        if ended is None:
            self._program.end()
            ended = self._program.ended(0)
        assert ended is not None, "it was waited for"
        return ended.error()


def to_v2(table: pa.Table, signature_columns: Sequence[JSON]) -> bytes:
    """Return the Open Inference Protocol body that asks for the rows of `table`.

    Columns that the table lacks are left out. Null, NaN and infinity become null, dates and
    whatever else JSON does not know become text.

    Examples
    --------
    >>> table = pa.table({"age": [40.0, float("nan")]})
    >>> to_v2(table, [{"name": "age", "datatype": "FP64"}])
    b'{"inputs":[{"name":"age","shape":[2],"datatype":"FP64","data":[40.0,null]}]}'
    """
    inputs: list[JSON] = []
    present = {name: place for place, name in enumerate(table.column_names)}
    for column in signature_columns:
        name, datatype = str(column["name"]), str(column["datatype"])
        if name not in present:
            continue
        values = table.column(present[name])
        sizes = [int(size) for size in column.get("shape") or ()]
        flat = _tensor_values(values, sizes) if sizes else values
        inputs.append(
            {
                "name": name,
                "shape": [table.num_rows, *sizes],
                "datatype": datatype,
                "data": _values(flat, datatype),
            }
        )
    document = {"inputs": inputs}
    return json.dumps(document, allow_nan=False, separators=(",", ":"), default=str).encode()


def columns_of(table: pa.Table) -> list[JSON]:
    """Return the signature's columns that a table would have, in its order.

    Examples
    --------
    >>> columns_of(pa.table({"age": [40, None]}))
    [{'name': 'age', 'datatype': 'INT64', 'optional': True}]
    """
    columns: list[JSON] = []
    for name in table.column_names:
        column = table.column(name)
        shape = tensor_shape(column.type)
        flat = _tensor_values(column, shape) if shape else column
        datatype = _datatype(flat.type)
        told: dict[str, Any] = {
            "name": name,
            "datatype": datatype,
            "optional": None in _values(flat, datatype),
        }
        columns.append({**told, "shape": shape} if shape else told)
    return columns


def tensor_shape(kind: pa.DataType) -> list[int]:
    """Return the shape of a row of a column of fixed-size lists; empty for any other column.

    Examples
    --------
    >>> tensor_shape(pa.list_(pa.list_(pa.float64(), 28), 28)), tensor_shape(pa.float64())
    ([28, 28], [])
    """
    shape: list[int] = []
    while pa.types.is_fixed_size_list(kind):
        fixed = cast("Any", kind)
        shape.append(int(fixed.list_size))
        kind = fixed.value_type
    return shape


def _tensor_values(column: pa.ChunkedArray, shape: Sequence[int]) -> pa.ChunkedArray:
    """Lay a column of tensors flat; a row without a value becomes one of nulls."""
    size = math.prod(shape)
    chunks: list[pa.Array] = []
    kind = column.type
    for chunk in column.chunks:
        flat: Any = chunk
        while pa.types.is_fixed_size_list(flat.type) or pa.types.is_list(flat.type):
            flat = flat.flatten()
        kind = flat.type
        if chunk.null_count:
            places = iter(range(len(flat)))
            indices = [
                next(places) if row else None
                for row in chunk.is_valid().to_pylist()
                for _ in range(size)
            ]
            flat = flat.take(pa.array(indices, pa.int64()))
        chunks.append(flat)
    return pa.chunked_array(chunks, kind)


def chunks(
    table: pa.Table, signature: JSON | None, *, max_rows: int
) -> Iterator[tuple[int, bytes]]:
    """Cut a table into bodies that fit in one request; yield each with its rows."""
    columns = columns_of(table) if signature is None else signature["columns"]
    start = 0
    rows = max_rows
    while start < table.num_rows:
        part = table.slice(start, rows)
        body = to_v2(part, columns)
        if len(body) > MAX_BODY_BYTES and part.num_rows > 1:
            rows = part.num_rows // 2
            continue
        yield part.num_rows, body
        start += part.num_rows


def told_by(status: int, body: bytes) -> Told:
    """Read a version's answer; WorkerAnswerError when it is an error."""
    try:
        document = json.loads(body)
    except ValueError:
        raise WorkerAnswerError(status, body[:200].decode(errors="replace")) from None
    if status != 200:
        raise WorkerAnswerError(status, str(document.get("error", document)))
    outputs = {output["name"]: output for output in document["outputs"]}
    prediction = outputs["prediction"]["data"]
    rows = len(prediction)
    probability: list[list[float]] | None = None
    if "probability" in outputs:
        flat, width = outputs["probability"]["data"], outputs["probability"]["shape"][1]
        probability = [flat[row * width : (row + 1) * width] for row in range(rows)]
    name = str(document.get("id", ""))  # none while the log's disk is full
    return Told(
        prediction=prediction,
        probability=probability,
        classes=document.get("parameters", {}).get("classes"),
        ids=[name] if rows == 1 else [f"{name}.{row}" for row in range(rows)],
    )


def merged(parts: Sequence[Told]) -> Told:
    """Join answers to consecutive rows."""
    whole = Told(prediction=[], probability=None, classes=None, ids=[])
    for part in parts:
        whole["prediction"].extend(part["prediction"])
        whole["ids"].extend(part["ids"])
        whole["classes"] = part["classes"]
        if part["probability"] is not None:
            probability = whole["probability"] = whole["probability"] or []
            probability.extend(part["probability"])
    return whole


def _values(column: pa.ChunkedArray, datatype: str) -> list[Any]:
    values: list[Any] = column.to_pylist()
    values = [None if isinstance(v, float) and not math.isfinite(v) else v for v in values]
    if datatype == "BYTES":
        return [None if value is None else _text(value) for value in values]
    if datatype in ("FP64", "INT64") and pa.types.is_boolean(column.type):
        return [None if value is None else int(value) for value in values]
    if datatype == "FP64" and pa.types.is_decimal(_plain_type(column.type)):
        return [None if value is None else float(value) for value in values]
    return values


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if isinstance(kind, pa.DictionaryType) else kind


def _datatype(kind: pa.DataType) -> str:
    kind = _plain_type(kind)
    if pa.types.is_boolean(kind):
        return "BOOL"
    if pa.types.is_integer(kind):
        return "INT64"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return "FP64"
    return "BYTES"
