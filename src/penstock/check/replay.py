"""Replay: what would the challenger have answered to what production was really asked?

Recent requests are taken from the prediction log and put to both versions in the test
environment. For classes an answer is *changed* when the class differs, for numbers when it differs
by more than `NUMBER_SHARE` of the spread of the champion's answers. How many is a proportion
with Wilson's interval; it is a report and no gate: a better model changes decisions too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import norm

from penstock.check.answers import Answers, class_text
from penstock.domain import CheckResult, Verdict

ROWS_MIN = 50
EXAMPLES = 20
NUMBER_SHARE = 0.1
"""Of a standard deviation of the champion's answers; less is no other decision."""
SLICE_ROWS_MIN = 30
MOST_SLICES = 40
QUESTION = "Which decisions of the last days would have been others?"


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """The same production rows, answered by both."""

    rows: pa.Table
    """What was asked, without the columns that the log does not hold."""
    ids: tuple[str, ...]
    """Prediction id of each row."""
    champion: Answers
    challenger: Answers
    left_out: tuple[str, ...] = ()
    """Columns that the log does not hold: both versions were asked without them."""
    span_h: float = 0.0
    """Between the first and the last of the rows, hours."""


def replay_checks(of: Replayed, *, slices: Mapping[str, NDArray[Any]]) -> list[CheckResult]:
    """Return ``replay.changed``: how many decisions would have been others, and which.

    Parameters
    ----------
    slices
        By column, the value of each row, shape ``(rows,)``.
    """
    changed, moved = _changed(of)
    rows, count = len(changed), int(changed.sum())
    low, high = wilson(count, rows)
    evidence: dict[str, Any] = {
        "question": QUESTION,
        "gate": False,
        "rows": rows,
        "value": count / rows if rows else None,
        "low": low,
        "high": high,
        "changed": count,
        "span_h": of.span_h,
        "left_out": list(of.left_out),
        "moves": _moves(of, changed),
        "slices": _slices(changed, slices),
        "examples": _examples(of, changed, moved),
        "mean_move": float(np.mean(moved)) if rows else None,
    }
    if rows < ROWS_MIN:
        evidence["reading"] = "few requests"
        summary = f"{rows} production rows, {ROWS_MIN} needed"
        return [CheckResult("replay.changed", Verdict.UNDECIDED, summary, evidence)]
    evidence["reading"] = "told"
    summary = (
        f"would have changed {100 * count / rows:.2g} % of {rows:,} decisions "
        f"({100 * low:.2g} to {100 * high:.2g} %) of the last {_span(of.span_h)}"
    )
    if of.left_out:
        summary += f"; without {', '.join(of.left_out)}, which the log does not hold"
    return [CheckResult("replay.changed", Verdict.PASSED, summary, evidence)]


def wilson(count: int, rows: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion; 0 to 1 without rows.

    Examples
    --------
    >>> [round(bound, 4) for bound in wilson(31, 1000)]
    [0.0219, 0.0437]
    """
    if not rows:
        return 0.0, 1.0
    z = float(norm.ppf(0.975))
    share = count / rows
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    reach = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + (z / (2 * rows)) ** 2)
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def _changed(of: Replayed) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which rows changed, and how far each moved (score, else number, else 0 or 1)."""
    before, after = of.champion, of.challenger
    if before.classes is None and before.prediction.dtype.kind in "iuf":
        old = before.prediction.astype(np.float64)
        new = after.prediction.astype(np.float64)
        spread = float(np.std(old)) if len(old) else 0.0
        moved = np.abs(new - old)
        return moved > NUMBER_SHARE * spread, moved
    changed = np.array(
        [
            class_text(a) != class_text(b)
            for a, b in zip(before.prediction, after.prediction, strict=True)
        ],
        dtype=np.bool_,
    )
    scores = before.score, after.score
    if scores[0] is not None and scores[1] is not None:
        return changed, np.abs(scores[1] - scores[0])
    return changed, changed.astype(np.float64)


def _moves(of: Replayed, changed: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Count the changed decisions by what they were and became; numbers as up and down."""
    counted: dict[tuple[str, str], int] = {}
    for row in np.flatnonzero(changed).tolist():
        old, new = of.champion.prediction[row], of.challenger.prediction[row]
        numbers = of.champion.classes is None and of.champion.prediction.dtype.kind in "iuf"
        key = (
            ("a number", "more" if new > old else "less")
            if numbers
            else (class_text(old), class_text(new))
        )
        counted[key] = counted.get(key, 0) + 1
    ordered = sorted(counted.items(), key=lambda one: -one[1])
    return [{"from": old, "to": new, "rows": rows} for (old, new), rows in ordered[:12]]


def _slices(
    changed: NDArray[np.bool_], slices: Mapping[str, NDArray[Any]]
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for column, values in slices.items():
        texts = np.array([class_text(value) for value in values], dtype=object)
        for value in sorted(set(texts.tolist())):
            here = changed[texts == value]
            if len(here) < SLICE_ROWS_MIN:
                continue
            low, high = wilson(int(here.sum()), len(here))
            found.append(
                {"column": column, "value": value, "rows": len(here), "changed": int(here.sum())}
                | {"share": float(here.mean()), "low": low, "high": high}
            )
    found.sort(key=lambda one: -one["share"])
    return found[:MOST_SLICES]


def _examples(
    of: Replayed, changed: NDArray[np.bool_], moved: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Return the changed rows that moved farthest, with what was asked."""
    rows = np.flatnonzero(changed)
    rows = rows[np.argsort(-moved[rows], kind="stable")][:EXAMPLES]
    scores = of.champion.score, of.challenger.score
    return [
        {
            "id": of.ids[row],
            "inputs": {name: of.rows.column(name)[row].as_py() for name in of.rows.column_names},
            "champion": _plain(of.champion.prediction[row]),
            "challenger": _plain(of.challenger.prediction[row]),
            "champion_score": None if scores[0] is None else float(scores[0][row]),
            "challenger_score": None if scores[1] is None else float(scores[1][row]),
        }
        for row in rows.tolist()
    ]


def _plain(value: Any) -> Any:
    return cast("Any", value).item() if isinstance(value, np.generic) else value


def _span(hours: float) -> str:
    if hours < 1.5:
        return f"{max(round(hours * 60), 1)} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
