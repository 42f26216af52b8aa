"""Keeping columns out of the prediction log: what must not be logged never reaches the disk.

The gateway calls `redacted` before it appends, for models that ask for it in ``[serving]
log_without``. A request is read as the worker reads it and written anew without those columns,
as an Open Inference Protocol document, whatever its kind was. Parquet and Arrow are not read
here, foreign binary formats have no place in the gateway: of these no input is logged at all. An
error keeps its code only, since its sentence may quote a value.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from penstock.errors import StoppedError
from penstock.inference.prediction_log.records import Entry
from penstock.inference.program import bodies, frames, requests

_OPAQUE = frozenset({frames.PARQUET, frames.ARROW})
_CODE = re.compile(r"PS[0-9]{3}")


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
    request = b""
    if entry.kind not in _OPAQUE and entry.request:
        try:
            columns = bodies.signature_columns(signature)
            asked = requests.understand(entry.kind, entry.request, columns).asked
            request = _document(asked, names)
        except (bodies.RequestError, LookupError, TypeError, ValueError):
            request = b""  # what cannot be read cannot be cleaned
    return entry._replace(request=request, without=True)


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
