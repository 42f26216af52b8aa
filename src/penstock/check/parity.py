"""The same answers elsewhere: after loading again, and as in the training process.

`reloads` compares two workers that loaded the same version; `golden` compares the served answers
with the ones that training itself wrote down; without such rows `unchanged` compares files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.check.answers import (
    Answers,
    Ask,
    AskError,
    class_texts,
    equal_answers,
    numeric,
)
from penstock.check.evaluation import plain_column
from penstock.domain import JSON, CheckResult, Verdict

QUESTIONS = {
    "smoke.reload": "Does it answer the same after it was loaded again?",
    "smoke.golden": "Does it answer as it did when it was trained?",
}
RELOAD_ROWS, GOLDEN_ROWS = 200, 2_000
RELOAD_TOLERANCE, GOLDEN_TOLERANCE = 1e-9, 1e-6
"""Absolute or relative. Training's own numbers may have gone through text or single precision."""


def reloads(first: Answers, second: Answers | str) -> CheckResult:
    """Compare two workers' answers to the same rows.

    Parameters
    ----------
    second
        Of a worker that was started anew, or why it could not be asked.
    """
    if isinstance(second, str):
        return _result(
            "smoke.reload", Verdict.FAILED, f"loaded again it does not answer: {second}"
        )
    return _compared(
        "smoke.reload",
        equal_answers(first, second, tolerance=RELOAD_TOLERANCE),
        "answered the same by a second worker",
        value=furthest(first, second),
    )


def golden(ask: Ask, rows: pa.Table, signature: JSON) -> CheckResult:
    """Ask the rows that training wrote down, and compare with its own answers.

    Parameters
    ----------
    rows
        Input columns, ``prediction`` and, of two classes, perhaps ``probability`` of the
        positive one. At most 2,000 rows are asked.
    """
    names = [str(column["name"]) for column in signature["columns"]]
    lacking = [name for name in (*names, "prediction") if name not in rows.column_names]
    if lacking:
        summary = f"the golden rows lack {', '.join(lacking[:3])}"
        return _result("smoke.golden", Verdict.UNDECIDED, summary, lacking=lacking)
    if rows.num_rows == 0:
        return _result("smoke.golden", Verdict.UNDECIDED, "training wrote no golden row")
    part = rows.slice(0, GOLDEN_ROWS)
    inputs = pa.table({name: plain_column(part.column(name), name) for name in names})
    try:
        told = ask(inputs)
    except AskError as error:
        summary = f"the golden rows were answered {error.status}: {error.message}"
        return _result("smoke.golden", Verdict.FAILED, summary)
    if len(told) != part.num_rows:
        summary = f"{len(told)} answers to {part.num_rows} golden rows"
        return _result("smoke.golden", Verdict.FAILED, summary)
    wanted = plain_column(part.column("prediction"), "prediction").to_numpy()
    same = _same_predictions(told.prediction, wanted)
    distance: float | None = None
    if "probability" in rows.column_names and told.score is not None:
        chance = plain_column(part.column("probability"), "probability").to_numpy()
        score = told.score
        # A class may tip where a probability lies on the threshold; the probability decides.
        same = np.isclose(score, chance, rtol=GOLDEN_TOLERANCE, atol=GOLDEN_TOLERANCE)
        distance = float(np.nanmax(np.abs(score - chance), initial=0.0))
    elif numeric(told.prediction) and numeric(wanted):
        distance = float(np.nanmax(np.abs(told.prediction - wanted), initial=0.0))
    return _compared("smoke.golden", same, "answered as in training", value=distance)


def unreadable(why: str) -> CheckResult:
    """Say that golden rows are there and cannot be read."""
    return _result("smoke.golden", Verdict.UNDECIDED, f"the golden rows are not readable: {why}")


def unchanged(changed: Mapping[str, str]) -> CheckResult:
    """Say what holds without golden rows: the packed files are those that training left.

    Parameters
    ----------
    changed
        Files of the packed version by what training did to them, ``"changed"`` or ``"added"``.
    """
    evidence: dict[str, Any] = {"changed": dict(changed), "reading": "files compared"}
    if changed:
        first, how = next(iter(changed.items()))
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        summary = f"training {how} {first}{more}, and the committed code serves; no golden rows"
        return _result("smoke.golden", Verdict.UNDECIDED, summary, **evidence)
    summary = "no golden rows were written; the served files are byte for byte what training left"
    return _result("smoke.golden", Verdict.PASSED, summary, **evidence)


def as_trained(first: Answers, second: Answers | str, changed: Mapping[str, str]) -> CheckResult:
    """Compare the served answers with those of the code as training left it.

    Parameters
    ----------
    second
        Of a worker with that code, or why it could not be asked.
    changed
        As in `unchanged`; not empty.
    """
    if isinstance(second, str):
        result = unchanged(changed)
        return replace(result, summary=f"{result.summary}; with its code: {second}")
    same = equal_answers(first, second, tolerance=RELOAD_TOLERANCE)
    what = f"answered as with {next(iter(changed))} as training left it (no golden rows)"
    result = _compared("smoke.golden", same, what, value=furthest(first, second))
    return replace(result, evidence={**result.evidence, "changed": dict(changed)})


def furthest(left: Answers, right: Answers) -> float | None:
    """Return the greatest distance of two answers, in probability or in the label's unit."""
    ours, theirs = left.probability, right.probability
    if ours is None or theirs is None:
        if not (numeric(left.prediction) and numeric(right.prediction)):
            return None
        ours, theirs = left.prediction.astype(np.float64), right.prediction.astype(np.float64)
    if ours.shape != theirs.shape or not ours.size:
        return None
    return float(np.abs(ours - theirs).max())


def _same_predictions(told: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    if numeric(told) and numeric(wanted):
        pair = Answers(told), Answers(wanted)
        return equal_answers(*pair, tolerance=GOLDEN_TOLERANCE)
    ours, theirs = class_texts(told.tolist()), class_texts(wanted.tolist())
    return np.array(ours) == np.array(theirs)


def _compared(
    name: str, same: NDArray[np.bool_], what: str, *, value: float | None
) -> CheckResult:
    rows, differing = len(same), int((~same).sum())
    evidence = {"value": value, "rows": rows, "differing": differing}
    if differing:
        first = int(np.argmax(~same)) + 1
        summary = f"{differing} of {rows} rows are not {what}, the first is row {first}"
        if value is not None:
            summary += f"; furthest apart {value:.3g}"
        return _result(name, Verdict.FAILED, summary, **evidence)
    return _result(name, Verdict.PASSED, f"{rows} rows {what}", **evidence)


def _result(name: str, verdict: Verdict, summary: str, **evidence: object) -> CheckResult:
    return CheckResult(name, verdict, summary, {"question": QUESTIONS[name], **evidence})
