"""Keeping columns out of the prediction log: what must not be logged never reaches the disk.

The gateway calls `redacted` before it appends, for models that ask for it in ``[serving]
log_without``. A request is read as the worker reads it and written anew without those columns,
as an Open Inference Protocol document, whatever its kind was; of a reply only the answer stays.
An error keeps its code only, since its sentence may quote a value, so a table in Arrow or Parquet
is opened only once a worker, in its sandbox, has read and answered it.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import math
import re
import threading
from collections.abc import Collection, Mapping
from typing import Any, cast

from penstock.errors import StoppedError
from penstock.inference.prediction_log.records import Entry
from penstock.inference.program import bodies, frames, replies, requests, tables

TELLING_TEXT, TELLING_NUMBER = 4, 6
"""So many characters of a text, digits of a number, are no coincidence within an answer."""
_CODE = re.compile(r"PS[0-9]{3}")
_NUMBER = re.compile(r"[-+.0-9e]+")


def redacted(entry: Entry, names: Collection[str], signature: Mapping[str, Any] | None) -> Entry:
    """Return an entry without the values of some columns.

    Parameters
    ----------
    signature
        Of the version that was asked: it names the columns of a body that does not.
    """
    if entry.status != 200:
        code = error_code(entry) or ""
        return entry._replace(request=b"", reply=b"", code=code, without=True)
    columns = bodies.signature_columns(signature)
    try:
        asked = requests.understand(entry.kind, entry.request, columns).asked
        request, kept_out = _document(asked, names), _values(asked, names)
        reply = _reply(entry, kept_out, signature or {})
    except (bodies.RequestError, LookupError, TypeError, ValueError, AttributeError):
        request = reply = b""  # what cannot be read cannot be cleaned
    return entry._replace(request=request, reply=reply, media=frames.JSON_MEDIA, without=True)


@functools.cache
def prepare() -> threading.Thread:
    """Import what tables are read with, once, beside who answers requests meanwhile."""
    thread = threading.Thread(target=_import, name="redaction", daemon=True)
    thread.start()
    return thread


def _import() -> None:
    with contextlib.suppress(tables.LibraryMissingError):
        tables.pyarrow()


def require_known(names: Collection[str], signature: Mapping[str, Any]) -> None:
    """Stop at a column to be left out that no request has: it is a slip of the pen, mostly.

    Raises
    ------
    StoppedError
        PS686.
    """
    columns = [str(column["name"]) for column in signature["columns"]]
    for name in names:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1)
            tail = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(columns[:20])}."
            raise StoppedError(
                "PS686",
                f"[serving] log_without names {name!r}, and the model has no such input; {tail}",
                hint="Write the input's name as the evaluation data have it.",
            )


def error_code(entry: Entry) -> str | None:
    """Return the code of an entry's error, the gateway's or the worker's own."""
    if entry.code or entry.status < 400:
        return entry.code or None
    try:
        code = json.loads(entry.reply)["code"]
        return code if _CODE.fullmatch(code) else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _document(asked: bodies.Asked, names: Collection[str]) -> bytes:
    inputs: list[dict[str, Any]] = []
    for column, values in zip(asked.columns, asked.values, strict=True):
        if column.name in names:
            continue
        flat = [v for row in values for v in row] if column.shape else values
        inputs.append(
            {
                "name": column.name,
                "shape": [asked.rows, *column.shape],
                "datatype": column.datatype or "BYTES",
                "data": [
                    None if isinstance(v, float) and not math.isfinite(v) else v for v in flat
                ],
            }
        )
    return json.dumps({"inputs": inputs}, separators=(",", ":"), default=str).encode()


def _values(asked: bodies.Asked, names: Collection[str]) -> set[str]:
    """Return the values that are kept out, as text."""
    return {
        _text(value)
        for column, values in zip(asked.columns, asked.values, strict=True)
        if column.name in names
        for row in values
        for value in (cast("list[Any]", row) if isinstance(row, list) else [row])
        if value not in (None, "") and not isinstance(value, bool)
    }


def _reply(entry: Entry, kept_out: set[str], signature: Mapping[str, Any]) -> bytes:
    """Return what a reply answers, and nothing else that it may hold.

    An answer that is none of the version's classes and repeats what is kept out becomes null.
    """
    told = replies.told(entry.kind, entry.media, entry.reply)
    classes = told.classes or signature.get("classes") or ()
    prediction = told.prediction
    if prediction is not None:
        prediction = _without(prediction, classes, kept_out)
    document: dict[str, Any]
    if entry.kind not in (frames.V2, frames.V2_BINARY):
        document = {"predictions": prediction, "probabilities": told.probability}
    else:
        outputs: list[dict[str, Any]] = []
        if prediction is not None:
            outputs.append({"name": "prediction", "data": prediction})
        if told.probability is not None:
            shape = [len(told.probability), len(told.probability[0])]
            flat = [p for row in told.probability for p in row]
            outputs.append({"name": "probability", "shape": shape, "data": flat})
        document = {"outputs": outputs, "parameters": {"classes": told.classes}}
    return json.dumps(document, separators=(",", ":")).encode()


def _without(prediction: list[Any], classes: Collection[Any], kept_out: set[str]) -> list[Any]:
    """Put null in the place of answers that hold one of these values and are no class."""
    free = {
        at: value if isinstance(value, str) else _text(value)
        for at, value in enumerate(prediction)
        if value not in classes
    }
    everything = "\n".join(free.values())
    telling = [value for value in kept_out if _is_telling(value) and value in everything]
    left = list(prediction)
    for at, answer in free.items():
        whole = answer in (kept_out if isinstance(prediction[at], str) else telling)
        if whole or (isinstance(prediction[at], str) and any(v in answer for v in telling)):
            left[at] = None
    return left


def _is_telling(value: str) -> bool:
    if _NUMBER.fullmatch(value):
        return sum(map(str.isdigit, value)) >= TELLING_NUMBER
    return len(value) >= TELLING_TEXT


def _text(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)
