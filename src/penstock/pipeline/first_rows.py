"""The first rows of a version: what each start of it must answer as the build saw.

A few rows of its evaluation data, with the answer to them, kept as a document that no page shows.
The gateway asks them before the version is ready. Who answers otherwise runs on a machine, or in
an environment, that is not the one whose answers were checked.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.check import replies
from penstock.domain import JSON
from penstock.inference.asking import to_v2
from penstock.inference.gateway.placed import First

MEDIA_TYPE = "application/json"
TOLERANCE = 1e-9
"""Sums in another order, on another processor, are the same answer."""


def chosen(
    rows: pa.Table, columns: Sequence[JSON], count: int, without: Collection[str]
) -> bytes | None:
    """Return the body that asks for some of the rows, always the same of the same data.

    Parameters
    ----------
    rows
        Evaluation rows, with the columns of the signature.
    without
        Columns whose values must not be kept: a typical value stands for them.

    Returns
    -------
    bytes or None
        None where there is nothing to ask, or a column has no typical value.
    """
    if not count or not rows.num_rows:
        return None
    places = np.random.default_rng(0).permutation(rows.num_rows)[:count]
    few = rows.take(pa.array(places))
    for column in columns:
        name = str(column["name"])
        if name in without and name in few.column_names:
            if column.get("example") is None:
                return None
            same = pa.array([column["example"]] * few.num_rows)
            few = few.set_column(few.column_names.index(name), name, same)
    return to_v2(few, columns)


def written(asked: bytes, answered: bytes) -> bytes:
    """Return the document: the request, and the outputs of its answer."""
    outputs: Any = json.loads(answered)["outputs"]
    return json.dumps({"asked": json.loads(asked), "answered": {"outputs": outputs}}).encode()


def read(file: Path, tolerance: float) -> First:
    """Return what a document says must be answered, and how.

    Parameters
    ----------
    tolerance
        That the version's path was allowed; never less than `TOLERANCE` is allowed here.

    Raises
    ------
    ValueError, KeyError, TypeError
        It is no such document.
    """
    told: Any = json.loads(file.read_bytes())
    answered = json.dumps(told["answered"]).encode()
    replies.outputs(answered)
    allowed = max(tolerance, TOLERANCE)
    return First(json.dumps(told["asked"]).encode(), partial(_hindrance, answered, allowed))


def _hindrance(answered: bytes, allowed: float, status: int, body: bytes) -> str:
    if status != 200:
        return "PS562 It does not answer the rows that it answered at the build"
    distance, decisions = replies.apart(answered, body)
    if distance is None:
        why = "with other outputs"
    elif decisions:
        why = f"{decisions} values that are no numbers differ"
    elif distance > allowed:
        why = f"{distance:.3g} apart, {allowed:g} is allowed"
    else:
        return ""
    return (
        f"PS562 It answers otherwise than at the build: {why}. Look at what differs here: "
        "the processor, the clock, files that it reads; or push a new commit"
    )
