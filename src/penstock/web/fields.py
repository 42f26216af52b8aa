"""A version's columns as the fields of a form, and the filled form as a request.

What a field takes is the column's datatype. What it offers is what the evaluation data had: the
values of a text that has few, the usual span of a number. Whether a value fits is the worker's to
say, in one place for all callers: what is no number goes there as it was typed.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from penstock.domain import JSON
from penstock.inference.gateway.examples import example_request
from penstock.web.words import number

MOST_FIELDS = 120
"""A form of more is no help."""
MOST_CHOICES = 40
_MOST_VALUES = 64
"""Of a tensor, to be changed by hand."""
_USUAL = (0.05, 0.95)
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?")
_WORDS = {"FP64": "number", "INT64": "whole number", "BYTES": "text", "BOOL": "true or false"}


@dataclass(frozen=True, slots=True)
class Field:
    """One column, as it is asked of a person."""

    name: str
    datatype: str
    optional: bool
    """Whether it may stay empty: then it has no value."""
    value: str
    """What stands in it."""
    shape: tuple[int, ...] = ()
    """Of a row's tensor, written as a JSON list; empty for a single value."""
    form: str = "text"
    """The kind of input: ``number``, ``text``, ``date``, ``datetime-local``, ``choice``,
    ``list``."""
    choices: tuple[str, ...] = ()
    about: str = ""
    """What it takes, in a few words."""
    fault: str = ""
    """Why the version refuses it."""


def fields_of(
    signature: JSON,
    profile: JSON | None = None,
    hidden: Iterable[str] = (),
) -> list[Field] | None:
    """Return a field for each column, filled with a typical value.

    Parameters
    ----------
    profile
        Of the evaluation data, from `check.drift.reference_profile`; None where there is none.
    hidden
        Columns of whose values nothing is told.

    Returns
    -------
    list of Field or None
        None for a version whose rows are too long for a form.

    Examples
    --------
    >>> columns = [{"name": "age", "datatype": "FP64", "optional": False, "example": 41.5}]
    >>> [field] = fields_of({"columns": columns})
    >>> field.form, field.value, field.about
    ('number', '41.5', 'number')
    """
    columns: Sequence[JSON] = signature["columns"]
    values = sum(math.prod(one.get("shape") or ()) for one in columns if one.get("shape"))
    if len(columns) > MOST_FIELDS or values > _MOST_VALUES:
        return None
    known: JSON = {} if profile is None else profile["columns"]
    typical = {one["name"]: one["data"] for one in example_request(signature)["inputs"]}
    secret = set(hidden)
    return [
        _field(
            one, typical[one["name"]], None if one["name"] in secret else known.get(one["name"])
        )
        for one in columns
    ]


def _field(column: JSON, typical: list[Any], known: JSON | None) -> Field:
    name, datatype = str(column["name"]), str(column["datatype"])
    shape = tuple(column.get("shape") or ())
    field = Field(
        name,
        datatype,
        optional=bool(column.get("optional")),
        value=json.dumps(typical) if shape else _text(typical[0]),
        shape=shape,
        about=_WORDS.get(datatype, "a value"),
    )
    if shape:
        sizes = " x ".join(map(str, shape))
        return replace(field, form="list", about=f"{field.about}s, a list of {sizes}")
    if datatype == "BOOL":
        return replace(field, form="choice", choices=("true", "false"))
    if datatype in ("FP64", "INT64"):
        span = usual(known)
        more = "" if span is None else f", usually {number(span[0])} to {number(span[1])}"
        return replace(field, form="number", about=field.about + more)
    if column.get("kind") == "datetime":
        days = ((_DAY, "date"), (_MOMENT, "datetime-local"))
        form = next((form for like, form in days if like.fullmatch(field.value)), "text")
        return replace(field, form=form, about="date")
    choices = seen(known)
    return replace(field, form="choice", choices=choices, about="one of") if choices else field


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def seen(known: JSON | None) -> tuple[str, ...]:
    """Return the values of a text, the usual ones first; none where they are many.

    Examples
    --------
    >>> block = {"names": {"Bern": 2, "Genf": 9}, "rest": 0, "missing": 1}
    >>> seen({"kind": "category", "complete": True, "periods": [block]})
    ('Genf', 'Bern')
    """
    if known is None or known["kind"] != "category" or not known["complete"]:
        return ()
    counted = Counter[str]()
    for block in known["periods"]:
        counted.update(block["names"])
    if len(counted) > MOST_CHOICES:
        return ()
    return tuple(sorted(counted, key=lambda name: (-counted[name], name)))


def usual(known: JSON | None) -> tuple[float, float] | None:
    """Return between what values nine of ten lie; None where a number was never seen.

    Examples
    --------
    >>> block = {"bins": [0, 10, 10, 10, 0], "missing": 0}
    >>> usual({"kind": "numeric", "edges": [1.0, 2.0, 3.0, 4.0], "periods": [block]})
    (2, 4)
    """
    if known is None or known["kind"] != "numeric" or not known["edges"]:
        return None
    rows = [sum(one) for one in zip(*(block["bins"] for block in known["periods"]), strict=True)]
    below, edges = list(accumulate(rows)), known["edges"]
    if not below[-1]:
        return None
    ends = [
        edges[
            min(next(at for at, n in enumerate(below) if n >= share * below[-1]), len(edges) - 1)
        ]
        for share in _USUAL
    ]
    low, high = (int(end) if float(end).is_integer() else float(end) for end in ends)
    return (low, high) if low < high else None


def filled(fields: Sequence[Field], given: Mapping[str, str]) -> list[Field]:
    """Return the fields with what a person wrote, ``c0`` in the first."""
    return [
        replace(one, value=given.get(f"c{place}", one.value)) for place, one in enumerate(fields)
    ]


def request_of(fields: Sequence[Field]) -> dict[str, Any]:
    """Return the request of one row that the fields ask for.

    Examples
    --------
    >>> age = Field("age", "INT64", optional=True, value="40")
    >>> [request_of([replace(age, value=v)])["inputs"][0]["data"] for v in ("40", "", "x")]
    [[40], [None], ['x']]
    """
    inputs: list[dict[str, Any]] = [
        {
            "name": one.name,
            "shape": [1, *one.shape],
            "datatype": one.datatype or "BYTES",
            "data": _data(one),
        }
        for one in fields
    ]
    return {"inputs": inputs}


def _data(of: Field) -> list[Any]:
    if of.shape:
        listed = _read(of.value)
        return listed if isinstance(listed, list) else [of.value]  # pyright: ignore[reportUnknownVariableType]  # JSON
    text = of.value if of.datatype == "BYTES" else of.value.strip()
    if not text and (of.optional or of.datatype != "BYTES"):
        return [None]
    value = text if of.datatype == "BYTES" else _read(text)
    return [text if isinstance(value, (list, dict)) else value]


def _read(text: str) -> Any:
    """Read JSON; what is none stays as it was written, as do NaN and infinity."""
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except ValueError:
        return text


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def blamed(fields: Sequence[Field], sentence: str) -> list[Field]:
    """Return the fields with a refusal beside the one that it names; the same where it names none.

    Examples
    --------
    >>> age = Field("age", "INT64", optional=False, value="x")
    >>> blamed([age], "Column 'age' must be a whole number; row 0 has 'x'.")[0].fault
    "Must be a whole number; it is 'x'."
    """
    for place, one in enumerate(fields):
        for noun in ("Column", "Input"):
            begin = f"{noun} {one.name!r} "
            if sentence.startswith(begin):
                told = sentence.removeprefix(begin).replace("; row 0 has ", "; it is ", 1)
                fault = told[:1].upper() + told[1:]
                return [*fields[:place], replace(one, fault=fault), *fields[place + 1 :]]
    return list(fields)
