"""Does a faster call of the model answer exactly as its own call? Asked from outside, row by row.

    questions(rows, columns)     what both are asked: single rows, many sizes, strange values
    prove(ask, asked, limits)    asks the own call and each path in turn, and compares replies

A reply is compared byte for byte, refusals too; with a tolerance numbers may be that far apart,
and every decision must be the same. What was not compared on enough rows is undecided, and the
model's own call serves.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from penstock.check import replies
from penstock.check.smoke import with_value
from penstock.domain import JSON, CheckResult, Verdict

NAME = "serving.fast_path"
QUESTION = "Does a faster call of it answer the same?"
OWN = "own"
MIN_ROWS = 200
"""Fewer rows prove too little; also how many rows are asked one by one."""
MOST_ROWS = 20_000
"""Asked in batches; of more rows, as many are drawn."""
MANY = 64
"""Rows of a batch whose speed is measured."""
_SIZES = (2, 3, 5, 8, 17, 31, MANY, 100, 257, 1000)
_WINDOWS = 15
_MOST_COLUMNS = 100
_EXAMPLES = 5
_FASTER = 1.1
"""A path must be so many times as fast on one row, else it is not worth another call."""
_STRANGE: dict[str, tuple[Any, ...]] = {
    "FP64": (1e308, -1e308, 5e-324, -0.0, 0.1 + 0.2, 2.0**53),
    "INT64": (2**53 + 1, -(2**63), 2**63 - 1, 0),
    "BYTES": ("never seen before", "", " ", "ß" * 300, "nan"),
    "BOOL": (True, False),
}


class Question(NamedTuple):
    """Rows that are asked at once."""

    what: str
    """``row 17``, ``rows 1 to 64``, ``row 1 with null in age``."""
    rows: pa.Table


class Reply(NamedTuple):
    """What a call said."""

    status: int
    body: bytes
    seconds: float


Ask = Callable[[str, Question], Reply]
"""Asks a path, ``own`` or another, through the worker."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the proof may take, and what it allows."""

    tolerance: float = 0.0
    """How far a number may be from the model's own; relative where it is greater than one."""
    budget_s: float = 30.0
    clock: Callable[[], float] = time.perf_counter


USUAL = Limits()


@dataclass(slots=True)
class Found:
    """How a path compares with the own call."""

    calls: int = 0
    differing: int = 0
    furthest: float = 0.0
    decisions: int = 0
    """Rows whose class is another one."""
    examples: list[JSON] = field(default_factory=list[JSON])
    one_s: list[float] = field(default_factory=list[float])
    many_s: list[float] = field(default_factory=list[float])


def questions(rows: pa.Table, columns: Sequence[JSON]) -> Iterator[Question]:
    """Give what is asked, the same each time: first single rows, then batches, then strange ones.

    Parameters
    ----------
    rows
        Evaluation rows, with the columns of the signature.
    """
    random = np.random.default_rng(0)
    count = rows.num_rows
    if count > MOST_ROWS:
        rows = rows.take(np.sort(random.choice(count, MOST_ROWS, replace=False)))
        count = MOST_ROWS
    for row in np.sort(random.choice(count, min(count, MIN_ROWS), replace=False)).tolist():
        yield Question(f"row {row + 1}", rows.slice(row, 1))
    for start in random.integers(0, max(count - MANY, 1), _WINDOWS).tolist():
        yield _window(rows, start, MANY)
    for size in _SIZES:
        if size <= count:
            yield _window(rows, int(random.integers(0, count - size + 1)), size)
    for start in range(0, count, 1000):
        yield _window(rows, start, 1000)
    yield Question("row 1 three times", rows.take([0, 0, 0]))
    yield from _strange(rows, columns)


def _window(rows: pa.Table, start: int, size: int) -> Question:
    part = rows.slice(start, size)
    return Question(f"rows {start + 1} to {start + part.num_rows}", part)


def _strange(rows: pa.Table, columns: Sequence[JSON]) -> Iterator[Question]:
    """Give rows with one value that is rare, or that must be refused; alone and among others."""
    few = rows.slice(0, 3)
    optional = [str(one["name"]) for one in columns if one["optional"] and not one.get("shape")]
    for column in columns[:_MOST_COLUMNS]:
        if column.get("shape") or column.get("kind"):
            continue
        name = str(column["name"])
        for value in (None, *_STRANGE.get(str(column["datatype"]), ())):
            odd = _with(few, name, value)
            if odd is not None:
                shown = "null" if value is None else repr(value)[:30]
                yield Question(f"row 1 with {shown} in {name}", odd.slice(0, 1))
                yield Question(f"rows 1 to 3 with {shown} in {name}", odd)
    if optional:
        empty = few
        for name in optional:
            empty = with_value(empty, name, None)
        yield Question("row 1 without any optional value", empty)


def _with(rows: pa.Table, name: str, value: Any) -> pa.Table | None:
    """Return the rows with one value replaced; None where the column cannot hold it."""
    try:
        return with_value(rows, name, value)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        pass
    index = rows.column_names.index(name)
    kind = pa.float64() if isinstance(value, float) else None
    try:  # a table's own type is narrower than what callers may send
        values = [value, *rows.column(name).to_pylist()[1:]]
        return rows.set_column(index, name, pa.array(values, type=kind))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None


def prove(
    ask: Ask, asked: Sequence[Question], paths: Sequence[str], *, limits: Limits = USUAL
) -> tuple[dict[str, Found], str]:
    """Ask the own call and each path every question, and compare their replies.

    The order in which they are asked changes with each question, so that no path is always
    asked after the same one; the first questions come again at the end, backwards.

    Returns
    -------
    dict, str
        What was found, by path and of ``own``; and why it was not asked to the end, or empty.
    """
    found = {path: Found() for path in (OWN, *paths)}
    first: dict[int, Reply] = {}
    began = limits.clock()
    again = [(place, asked[place]) for place in reversed(range(min(20, len(asked))))]
    for turn, (place, question) in enumerate([*enumerate(asked), *again]):
        if limits.clock() - began > limits.budget_s:
            return (
                found,
                f"only {turn} of {len(asked) + 20} questions within {limits.budget_s:g} s",
            )
        order = [*found][turn % len(found) :] + [*found][: turn % len(found)]
        replies = {path: ask(path, question) for path in order}
        own = first.setdefault(place, replies[OWN])
        for path, reply in replies.items():
            _note(found[path], question, reply)
            _compare(found[path], question, own, reply, limits.tolerance)
    return found, ""


def _note(found: Found, question: Question, reply: Reply) -> None:
    found.calls += 1
    if reply.status == 200 and question.rows.num_rows == 1:
        found.one_s.append(reply.seconds)
    elif reply.status == 200 and question.rows.num_rows == MANY:
        found.many_s.append(reply.seconds)


def _compare(found: Found, question: Question, own: Reply, reply: Reply, tolerance: float) -> None:
    if (own.status, own.body) == (reply.status, reply.body):
        return
    distance, decisions = _apart(own, reply)
    if distance is not None:
        found.furthest = max(found.furthest, distance)
    found.decisions += decisions
    if distance is not None and not decisions and tolerance > 0 and distance <= tolerance:
        return
    found.differing += 1
    if len(found.examples) < _EXAMPLES:
        shown = {
            "own": _shown(own),
            "answered": _shown(reply),
            "apart": distance,
            "decisions": decisions,
        }
        found.examples.append({"asked": question.what, **shown})


def _apart(own: Reply, reply: Reply) -> tuple[float | None, int]:
    if own.status != 200 or reply.status != 200:
        return None, 0
    return replies.apart(own.body, reply.body)


def _shown(reply: Reply) -> str:
    document = cast("JSON", json.loads(reply.body))
    if reply.status != 200:
        return f"{reply.status}: {document.get('error', '')}"[:120]
    return json.dumps({name: values[:3] for name, values in replies.outputs(reply.body).items()})[
        :120
    ]


# ---- the verdict -----------------------------------------------------------------------------


def judged(
    found: dict[str, Found], refused: dict[str, str], *, rows: int, tolerance: float, cut: str
) -> CheckResult:
    """Say which path serves: the fastest that answered as the own call does, else that one.

    Parameters
    ----------
    found, cut
        As `prove` returns them.
    refused
        Paths that the model has not, with the reason.
    rows
        Of evaluation data.
    """
    told = {path: _told(one, found[OWN]) for path, one in found.items() if path != OWN}
    evidence: dict[str, Any] = {
        "rows": rows,
        "tolerance": tolerance,
        "calls": found[OWN].calls,
        "own": {"one_row_ms": _ms(found[OWN].one_s), "many_rows_ms": _ms(found[OWN].many_s)},
        "paths": told,
        "refused": refused,
    }
    if found[OWN].differing:
        where = found[OWN].examples[0]["asked"] if found[OWN].examples else ""
        why = f"its own call does not answer alike twice ({where}), so nothing can be compared"
        return result(Verdict.FAILED, f"{why}; its own call serves", **evidence)
    if cut:
        return result(Verdict.UNDECIDED, f"{cut}; its own call serves", **evidence)
    same = [path for path, one in told.items() if not one["differing"]]
    faster = [path for path in same if _worth(told[path])]
    if faster:
        best = max(faster, key=lambda path: _gain(told[path]))
        one = told[best]
        how = "to the last bit" if not one["furthest"] else f"within {one['furthest']:.2g}"
        summary = (
            f"{best} serves: {rows:,} rows in {one['calls']:,} calls answered as by its own call "
            f"{how}; {one['one_row_ratio']:.3g} times as fast on one row, "
            f"{one['many_rows_ratio']:.3g} times on {MANY}"
        )
        return result(Verdict.PASSED, summary, path=best, **evidence)
    if same:
        summary = f"{', '.join(same)} answers the same, and is not faster; its own call serves"
        return result(Verdict.PASSED, summary, **evidence)
    first, one = next(iter(told.items()))
    example = one["examples"][0]["asked"]
    apart = f", furthest apart {one['furthest']:.2g}" if one["furthest"] else ""
    summary = (
        f"{first} answers {one['differing']:,} of {one['calls']:,} calls otherwise, the first is "
        f"{example}{apart}; its own call serves"
    )
    return result(Verdict.FAILED, summary, **evidence)


def not_asked(verdict: Verdict, why: str, refused: dict[str, str] | None = None) -> CheckResult:
    """Say why nothing was compared."""
    told: dict[str, Any] = {} if refused is None else {"refused": refused}
    return result(verdict, f"{why}; its own call serves", reading="measured", **told)


def result(verdict: Verdict, summary: str, *, path: str = OWN, **evidence: object) -> CheckResult:
    """Return the result; it decides no gate, for the own call can always serve."""
    about = {"question": QUESTION, "gate": False, "path": path}
    return CheckResult(NAME, verdict, summary, {**about, **evidence})


def _told(one: Found, own: Found) -> JSON:
    return {
        "calls": one.calls,
        "differing": one.differing,
        "furthest": one.furthest,
        "decisions": one.decisions,
        "examples": one.examples,
        "one_row_ms": _ms(one.one_s),
        "many_rows_ms": _ms(one.many_s),
        "one_row_ratio": _ratio(own.one_s, one.one_s),
        "many_rows_ratio": _ratio(own.many_s, one.many_s),
    }


def _ms(seconds: list[float]) -> float | None:
    return round(statistics.median(seconds) * 1000, 4) if seconds else None


def _ratio(own: list[float], other: list[float]) -> float:
    if not own or not other:
        return 0.0
    return round(statistics.median(own) / max(statistics.median(other), 1e-9), 3)


def _worth(told: JSON) -> bool:
    return told["one_row_ratio"] >= _FASTER and told["many_rows_ratio"] >= 1


def _gain(told: JSON) -> float:
    return float(told["one_row_ratio"] * told["many_rows_ratio"])
