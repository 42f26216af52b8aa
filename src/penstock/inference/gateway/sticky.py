"""Which arm a customer belongs to, for a rollout that draws customers and not requests.

A customer is the value of a key: of the header ``Penstock-Key``, else of a column of the body.
It is hashed with a salt of the rollout into one of `BUCKETS` buckets, and each bucket is drawn by
itself: another hash gives it a place from 0 to 1, and the challenger has the buckets below its
share. So a share that rises keeps the customers who are in already, another rollout draws them
anew, and so does another hour where the rollout asks for it.

The judgement of the canary rests on the draws being independent of each other: then a wager on
the arm of a bucket, given what its customers met, has mean 1 when the version changes nothing.
An arm of exactly so many buckets would not do: draws without replacement depend on each other.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any, cast

import msgspec

from penstock.domain import Deployment
from penstock.inference.program import tensors
from penstock.inference.program.frames import INVOCATIONS, V2, V2_BINARY

BUCKETS = 10_000
NO_BUCKET = -1
"""Of a request without a key: it is drawn by itself."""
HOUR_US = 3_600_000_000
READ_BYTES = 64 * 2**10
"""A greater body is not searched for a key."""
KEY_CHARS = 200
_NOT_THERE = (tensors.TensorError, LookupError, TypeError, ValueError, AttributeError)
"""What looking for a column in a document of any shape may raise; a broken one is a ValueError."""


def bucket_of(customer: str, of: Deployment) -> int:
    """Return the bucket of a customer in the rollout of a challenger.

    Examples
    --------
    >>> from penstock.domain import Environment, Role
    >>> of = Deployment("m", Environment.PRODUCTION, 2, Role.CHALLENGER, "", "", {}, 5, 1, None, 7)
    >>> bucket_of("1017", of), bucket_of("1018", of)
    (2906, 198)
    """
    return _hashed(_salt(of), customer.encode()) % BUCKETS


def place_of(bucket: int, of: Deployment, arrived_us: int) -> float:
    """Return where in ``[0, 1)`` a bucket was drawn, for a request that arrived at a time."""
    return _part(_hashed(_salt(of), b"%d@%d" % (bucket, draw_of(of, arrived_us))))


def places(of: Deployment, draw: int) -> list[float]:
    """Return the places of all buckets in one draw."""
    salt = _salt(of)
    return [_part(_hashed(salt, b"%d@%d" % (bucket, draw))) for bucket in range(BUCKETS)]


def draw_of(of: Deployment, arrived_us: int) -> int:
    """Return in which draw a request was that arrived at a time: the hour since 1970, or 0."""
    return arrived_us // HOUR_US if of.redraw else 0


def _salt(of: Deployment) -> bytes:
    return _digest(f"{of.environment.value}/{of.model}/{of.rollout_id}")


@lru_cache(maxsize=1024)
def _digest(salt: str) -> bytes:
    # A key has at most 64 bytes, and a model's name may be as long.
    return blake2b(salt.encode(), digest_size=32).digest()


def _part(hashed: int) -> float:
    return (hashed >> 11) / 2.0**53


def _hashed(salt: bytes, what: bytes) -> int:
    return int.from_bytes(blake2b(what, digest_size=8, key=salt).digest(), "big")


def customer_in(kind: int, body: bytes, column: str) -> str | None:
    """Return the one value that a body has in a column; None where it has none, or several.

    Only JSON is read, with tensors behind it or without, and a short one. A whole number and the
    same digits as text are one customer, so that header and column agree.

    Examples
    --------
    >>> customer_in(INVOCATIONS, b'{"dataframe_records": [{"id": 17, "x": 1}]}', "id")
    '17'
    """
    if len(body) > READ_BYTES or kind not in {V2, V2_BINARY, INVOCATIONS}:
        return None
    try:
        binary = tensors.split(body) if kind == V2_BINARY else tensors.Split(body, b"")
        document: Any = msgspec.json.decode(binary.json)
        if kind == V2_BINARY:
            tensors.fill(document["inputs"], binary.tensors)
        values = _invocations(document, column) if kind == INVOCATIONS else _v2(document, column)
    except _NOT_THERE:
        return None
    found = {customer(value) for value in values}
    return found.pop() if len(found) == 1 else None


def customer(value: object) -> str | None:
    """Return a key as text; None for what names nobody."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip()[:KEY_CHARS] or None


def _v2(document: Any, column: str) -> list[Any]:
    for tensor in document["inputs"]:
        if tensor["name"] == column:
            return _flat(tensor["data"])
    return []


def _invocations(document: Any, column: str) -> list[Any]:
    if (split := document.get("dataframe_split")) is not None:
        place = split["columns"].index(column)
        return [row[place] for row in split["data"]]
    records = document.get("dataframe_records", document.get("instances"))
    if records is not None:
        return [record[column] for record in records]
    return _flat(document["inputs"][column])


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        return [data]
    return [value for part in cast("list[Any]", data) for value in _flat(part)]
