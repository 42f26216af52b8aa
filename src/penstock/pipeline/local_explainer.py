"""The program that explains answers for the gateway; see inference/gateway/explaining.py.

    python -m penstock.pipeline.local_explainer <socket

It ends when the gateway's end of the socket closes. Nothing heavier than numpy and pyarrow is
imported: the first caller waits for it.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.check.answers import AskError
from penstock.check.explanation.local import MOST_ROWS, Local, NothingKnownError, explain_rows
from penstock.domain import JSON
from penstock.inference.asking import MAX_ROWS, chunks, merged, told_by
from penstock.inference.gateway.examples import example_request
from penstock.inference.gateway.explaining import HEAD, Answered, Asking, Explained, Wanted
from penstock.inference.program import bodies
from penstock.pipeline.answering import ask_through

BUDGET_MS = 1000.0
_NICE = 5
_TYPES = {"FP64": pa.float64(), "INT64": pa.int64(), "BOOL": pa.bool_(), "BYTES": pa.string()}
AskBack = Callable[[Asking], Answered]


class _RefusedError(Exception):
    """Why there is no explanation."""

    def __init__(self, status: int, code: str, what: str, hint: str) -> None:
        super().__init__(what)
        self.status, self.code, self.what, self.hint = status, code, what, hint


def explained(wanted: Wanted, ask_back: AskBack) -> Explained:
    """Explain what is wanted, or say why not."""
    try:
        return Explained(200, json.dumps(_explained(wanted, ask_back), allow_nan=False).encode())
    except bodies.RequestError as error:
        return _refused(error.status, error.code, str(error))
    except _RefusedError as error:
        return _refused(error.status, error.code, error.what, error.hint)


def _explained(wanted: Wanted, ask_back: AskBack) -> JSON:
    document = bodies.decode(wanted.body)
    budget_ms = _budget_ms(document, wanted.most_s * 1000)
    columns = bodies.signature_columns(wanted.signature)
    assert columns is not None, "the gateway sends signatures"
    rows = _table(bodies.read(bodies.V2, document, columns))
    if rows.num_rows > MOST_ROWS:
        what = f"{rows.num_rows} rows in one request; at most {MOST_ROWS} are explained at once."
        raise _RefusedError(422, "PS863", what, "Send them in parts.")
    background, kind = _background(wanted, columns, rows)
    ends_s = time.monotonic() + budget_ms / 1000

    def predict(table: pa.Table) -> Any:
        parts: list[Any] = []
        for _, body in chunks(table, wanted.signature, max_rows=MAX_ROWS):
            reply = ask_back(Asking(body, max(ends_s - time.monotonic(), 0.001)))
            parts.append(told_by(reply.status, reply.body))
        return merged(parts)

    ask = ask_through(predict, wanted.signature)
    local = Local(ask, rows, background, str(wanted.signature["task"]))
    try:
        found = explain_rows(local, budget_s=budget_ms / 1000)
    except NothingKnownError as error:
        raise _too_short(error, budget_ms) from error
    except AskError as error:
        what = f"The version fails on rows that mix values of rows: {error}"
        raise _RefusedError(500, "PS866", what, "Ask the model's owner.") from error
    said = {**found, "background": {"rows": found["background"], "of": kind}}
    return {"id": bodies.own_id(document, ""), "budget_ms": round(budget_ms, 3), **said}


def _budget_ms(document: JSON, most_ms: float) -> float:
    parameters = document.get("parameters")
    told: JSON = cast("JSON", parameters) if isinstance(parameters, dict) else {}
    given: Any = told.get("budget_ms", BUDGET_MS)
    plain = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not plain or not math.isfinite(given) or given <= 0:
        what = f"budget_ms is {json.dumps(given)[:60]}; it must be a number above 0."
        raise _RefusedError(422, "PS863", what, 'Send "parameters": {"budget_ms": 1000}.')
    return min(float(given), most_ms)


def _too_short(error: NothingKnownError, budget_ms: float) -> _RefusedError:
    if error.asked == 0:
        what = f"The version gave no answer in {budget_ms:g} ms: it is busy, or slow."
        return _RefusedError(503, "PS865", what, "Try again, or give it longer: budget_ms.")
    what = f"{budget_ms:g} ms were too short: {error.asked} rows were answered, more are needed."
    return _RefusedError(422, "PS864", what, "Give it longer: budget_ms in parameters.")


def _background(
    wanted: Wanted, columns: tuple[bodies.Column, ...], rows: pa.Table
) -> tuple[pa.Table, str]:
    """Return rows that say what is usual, and what they are."""
    if wanted.background is not None:
        kept = pq.read_table(Path(wanted.background)).select(rows.column_names)
        return kept.cast(rows.schema), "rows of the evaluation data"
    example: JSON = example_request(wanted.signature)
    return _table(bodies.read(bodies.V2, example, columns)), "a typical row"


def _table(asked: bodies.Asked) -> pa.Table:
    """Return a request's rows as a table of the signature's types."""
    made: dict[str, pa.Array] = {}
    for column, values in zip(asked.columns, asked.values, strict=True):
        kind = _TYPES.get(column.datatype, pa.string())
        size = math.prod(column.shape)
        if not column.shape:
            made[column.name] = pa.array(values, kind)
            continue
        flat = [each for row in values for each in (row if row is not None else [None] * size)]
        array: Any = pa.array(flat, kind)
        for width in reversed(column.shape):
            array = pa.FixedSizeListArray.from_arrays(array, width)
        made[column.name] = array
    return pa.table(made)


def _refused(status: int, code: str, what: str, hint: str | None = None) -> Explained:
    told = {"error": what, "code": code}
    return Explained(status, json.dumps(told | ({"hint": hint} if hint else {})).encode())


def serve(connection: socket.socket) -> None:
    """Answer one question after the other, until the other end closes."""
    wanted, answered = msgspec.msgpack.Decoder(Wanted), msgspec.msgpack.Decoder(Answered)

    def ask_back(asking: Asking) -> Answered:
        _send(connection, asking)
        payload = _receive(connection)
        if payload is None:
            raise EOFError
        return answered.decode(payload)

    while (payload := _receive(connection)) is not None:
        _send(connection, explained(wanted.decode(payload), ask_back))


def _send(connection: socket.socket, message: msgspec.Struct) -> None:
    payload = msgspec.msgpack.encode(message)
    connection.sendall(HEAD.pack(len(payload)) + payload)


def _receive(connection: socket.socket) -> bytes | None:
    head = _exactly(connection, HEAD.size)
    return None if head is None else _exactly(connection, *HEAD.unpack(head))


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    got = bytearray()
    while len(got) < size:
        more = connection.recv(size - len(got))
        if not more:
            return None
        got += more
    return bytes(got)


def main() -> None:
    """Run the program."""
    os.nice(_NICE)  # requests come first
    with socket.socket(fileno=os.dup(0)) as connection:
        try:
            serve(connection)
        except (ConnectionError, EOFError):
            return


if __name__ == "__main__":
    main()
