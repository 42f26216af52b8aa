"""Smoke checks: does the packed version do at all what every model must do?

Each check asks the running worker, a few rows at a time, and answers one question. They say
nothing on how good a model is, `beats_dummy` aside: that one asks whether it learned anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.check.answers import Answers, Ask, AskError, equal_answers, numeric, same_class
from penstock.check.evaluation import Evaluation
from penstock.check.paired import proportion_difference
from penstock.check.rows import class_names, delong
from penstock.check.rows import rows as rows_of
from penstock.domain import JSON, CheckResult, Verdict

_FEW_ROWS = 20
_SOME_ROWS = 200
_MANY_ROWS = 2_000
_MOST_COLUMNS = 50
_UNSEEN = "never seen before"
_Z = 1.96
"""Two chances to beat the dummy, 2.5 % each."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The version under check and what it is asked with."""

    ask: Ask
    rows: pa.Table
    """Evaluation rows, the columns of the signature in its order, at most 2,000."""
    labels: NDArray[Any]
    signature: JSON

    def head(self, count: int) -> pa.Table:
        """Return the first rows."""
        return self.rows.slice(0, count)


QUESTIONS = {
    "smoke.loads": "Does it start?",
    "smoke.predicts": "Does it answer?",
    "smoke.signature": "Are its answers of the promised kind?",
    "smoke.deterministic": "Does the same question get the same answer?",
    "smoke.batch": "Is one row answered as it is among many?",
    "smoke.row_order": "Is an answer free of the rows beside it?",
    "smoke.missing": "Does it cope with missing values?",
    "smoke.unseen": "Does it cope with words that it has never seen?",
    "smoke.finite": "Is every answer a real number?",
    "smoke.beats_dummy": "Has it learned anything?",
    "smoke.compatible": "Can today's callers go on calling it?",
}
SMOKE_CHECKS = tuple(QUESTIONS)


def smoke_checks(
    ask: Ask, evaluation: Evaluation, signature: JSON, champion_signature: JSON | None
) -> list[CheckResult]:
    """Run every smoke check but `loads`; always the same checks in the same order.

    A version that does not answer at all fails `smoke.predicts`; the checks that would ask it
    again are then undecided. `ask` must take any number of rows.
    """
    count = min(len(evaluation), _MANY_ROWS)
    names = [column["name"] for column in cast("list[JSON]", signature["columns"])]
    rows = evaluation.for_columns(names).slice(0, count)
    subject = Subject(ask, rows, evaluation.label[:count], signature)
    first = predicts(subject)
    results = [first]
    for name, check in _ASKING.items():
        if first.verdict is Verdict.PASSED:
            results.append(_answered(name, check, subject))
        else:
            results.append(_undecided(name, "not asked, because it does not predict"))
    return [*results, compatible(signature, champion_signature)]


def loads(describe: JSON) -> CheckResult:
    """Judge what the worker said when it loaded the model: it did, or why not.

    Undecided when the model was trained with another version of its framework.
    """
    if describe.get("ok"):
        load_s = cast("float | None", describe.get("load_s"))
        took = "" if load_s is None else f" in {load_s:.1f} s"
        kind = describe.get("format") or "model"
        python = describe.get("python")
        summary = f"{kind} loaded{took}" + ("" if python is None else f" by Python {python}")
        told = {name: describe.get(name) for name in ("framework", "framework_version")}
        skew = cast("Sequence[str]", describe.get("warnings") or ())
        if skew:  # it may answer other than in training: a person looks
            summary = f"{summary}, but {'; '.join(skew)}"
            return _undecided("smoke.loads", summary, value=load_s, unit="s", skew=skew, **told)
        return _passed("smoke.loads", summary, value=load_s, unit="s", **told)
    reason = str(describe.get("error") or "the worker ended without a word")
    return _failed("smoke.loads", reason, traceback=describe.get("traceback"))


def predicts(subject: Subject) -> CheckResult:
    """Ask some rows: each gets an answer."""
    rows = subject.head(_SOME_ROWS)
    try:
        answers = subject.ask(rows)
    except AskError as error:
        return _failed("smoke.predicts", f"answered {error.status}: {error.message}")
    if len(answers) != rows.num_rows:
        return _failed("smoke.predicts", f"{len(answers)} answers to {rows.num_rows} rows")
    return _passed("smoke.predicts", f"{rows.num_rows} rows, 0 errors", rows=rows.num_rows)


def answers_fit(subject: Subject) -> CheckResult:
    """Answers are of the signature's kind: known classes and probabilities, or numbers."""
    rows = subject.head(_SOME_ROWS)
    fault = _misfit(subject.ask(rows), subject.signature)
    if fault:
        return _failed("smoke.signature", fault, rows=rows.num_rows)
    columns = len(cast("list[JSON]", subject.signature["columns"]))
    return _passed(
        "smoke.signature",
        f"{columns} columns in, {subject.signature['task']} out, as declared",
        rows=rows.num_rows,
    )


def deterministic(subject: Subject) -> CheckResult:
    """Ask the same rows twice: the answers are the same."""
    rows = subject.head(_SOME_ROWS)
    same = equal_answers(subject.ask(rows), subject.ask(rows), tolerance=1e-9)
    return _all_same("smoke.deterministic", same, "answered the same twice")


def batch_invariant(subject: Subject) -> CheckResult:
    """Ask each row alone: it gets the answer that it gets in a batch."""
    rows = subject.head(_FEW_ROWS)
    together = subject.ask(rows)
    alone = [subject.ask(rows.slice(index, 1)) for index in range(rows.num_rows)]
    same = equal_answers(together, _joined(alone))
    return _all_same("smoke.batch", same, "answered alone as in a batch")


def order_invariant(subject: Subject) -> CheckResult:
    """Shuffle the rows: the answers are the same, shuffled."""
    rows = subject.head(_SOME_ROWS)
    order = np.random.default_rng(0).permutation(rows.num_rows)
    straight, shuffled = subject.ask(rows), subject.ask(rows.take(order))
    same = equal_answers(_picked(straight, order), shuffled)
    return _all_same("smoke.row_order", same, "answered the same in another order")


def missing_values(subject: Subject) -> CheckResult:
    """Send null: an optional column answers, a required one refuses clearly."""
    columns = cast("list[JSON]", subject.signature["columns"])[:_MOST_COLUMNS]
    faults: list[str] = []
    for column in columns:
        name, optional = str(column["name"]), bool(column["optional"])
        fault = _null_fault(subject, name, optional=optional)
        if fault:
            faults.append(fault)
    if faults:
        return _failed("smoke.missing", faults[0], columns=len(columns), faults=faults)
    optional_count = sum(bool(column["optional"]) for column in columns)
    return _passed(
        "smoke.missing",
        f"null answered in {optional_count} optional columns, "
        f"refused in {len(columns) - optional_count} required ones",
        columns=len(columns),
    )


def unseen(subject: Subject) -> CheckResult:
    """Send a word that no row has, in each column of text: an answer, or a clear refusal."""
    columns = [
        str(column["name"])
        for column in cast("list[JSON]", subject.signature["columns"])
        if column["datatype"] == "BYTES" and not column.get("shape")
    ][:_MOST_COLUMNS]
    faults: list[str] = []
    for name in columns:
        try:
            answers = subject.ask(with_value(subject.head(3), name, _UNSEEN))
        except AskError as error:
            if error.status >= 500:
                faults.append(f'a new word in "{name}" answered {error.status}: {error.message}')
        else:
            if _not_finite(answers).any():
                faults.append(f'a new word in "{name}" is answered by NaN')
    if faults:
        return _failed("smoke.unseen", faults[0], columns=len(columns), faults=faults)
    summary = f"a new word answered in {len(columns)} columns" if columns else "no column of text"
    return _passed("smoke.unseen", summary, columns=len(columns))


def finite(subject: Subject) -> CheckResult:
    """No answer is NaN, infinite or an error."""
    try:
        answers = subject.ask(subject.rows)
    except AskError as error:
        return _not_every_row(error.status, error.message)
    bad = _not_finite(answers)
    count, rows = int(bad.sum()), len(answers)
    if count:
        first = int(np.argmax(bad))
        summary = f"{count} of {rows} answers are NaN or infinite, the first in row {first + 1}"
        return _failed("smoke.finite", summary, value=count, rows=rows)
    return _passed("smoke.finite", f"{rows} answers, all finite", value=0, rows=rows)


def not_all_answered(
    results: Sequence[CheckResult], status: int, message: str
) -> list[CheckResult]:
    """Fail `finite` in results, because of a row beyond those that it asked."""
    of_finite = _not_every_row(status, message)
    return [of_finite if one.check == of_finite.check else one for one in results]


def _not_every_row(status: int, message: str) -> CheckResult:
    return _failed("smoke.finite", f"not every row is answered: {status}: {message}")


def beats_dummy(subject: Subject) -> CheckResult:
    """Compare it with always saying the same, with an interval.

    For classes the dummy says the most frequent one, and a model passes when it is provably
    right more often or, with two classes, provably ranks better than chance: at 1 % of
    positives a good model may never say "positive" and still rank well. For numbers the dummy
    says the mean, and squared errors are compared row by row.
    """
    try:
        answers = subject.ask(subject.rows)
    except AskError:  # one cause, one failed check: `finite` asked the same rows
        return _undecided("smoke.beats_dummy", "not asked, because not every row is answered")
    if _constant(answers):
        rows = len(answers)
        return _failed("smoke.beats_dummy", f"the same answer to all {rows} rows", rows=rows)
    if subject.signature["task"] == "regression":
        return _beats_mean(answers, subject.labels)
    return _beats_majority(answers, subject.labels)


def compatible(signature: JSON, champion: JSON | None) -> CheckResult:
    """Whoever calls the champion today can call this version the same way."""
    if champion is None:
        return _passed("smoke.compatible", "the first version: nobody calls it yet")
    breaks, notes = _differences(signature, champion)
    if breaks:
        return _failed("smoke.compatible", "; ".join(breaks), breaks=breaks, notes=notes)
    summary = "; ".join(notes) or "the same columns and answers as the champion"
    return _passed("smoke.compatible", summary, notes=notes)


_ASKING: dict[str, Callable[[Subject], CheckResult]] = {
    "smoke.signature": answers_fit,
    "smoke.deterministic": deterministic,
    "smoke.batch": batch_invariant,
    "smoke.row_order": order_invariant,
    "smoke.missing": missing_values,
    "smoke.unseen": unseen,
    "smoke.finite": finite,
    "smoke.beats_dummy": beats_dummy,
}


def _answered(name: str, check: Callable[[Subject], CheckResult], subject: Subject) -> CheckResult:
    try:
        return check(subject)
    except AskError as error:
        return _failed(name, f"answered {error.status}: {error.message}")


def _passed(name: str, summary: str, **evidence: object) -> CheckResult:
    return CheckResult(name, Verdict.PASSED, summary, {"question": QUESTIONS[name], **evidence})


def _failed(name: str, summary: str, **evidence: object) -> CheckResult:
    return CheckResult(name, Verdict.FAILED, summary, {"question": QUESTIONS[name], **evidence})


def _undecided(name: str, summary: str, **evidence: object) -> CheckResult:
    return CheckResult(name, Verdict.UNDECIDED, summary, {"question": QUESTIONS[name], **evidence})


def _all_same(name: str, same: NDArray[np.bool_], what: str) -> CheckResult:
    rows, differing = len(same), int((~same).sum())
    if differing:
        first = int(np.argmax(~same))
        summary = f"{differing} of {rows} rows not {what}, the first is row {first + 1}"
        return _failed(name, summary, value=differing, rows=rows)
    return _passed(name, f"{rows} rows {what}", value=0, rows=rows)


def _misfit(answers: Answers, signature: JSON) -> str:
    """Say how answers break the signature; empty when they keep it."""
    if signature["task"] == "regression":
        if numeric(answers.prediction):
            return ""
        return f"numbers are declared, the first answer is {answers.prediction[0]!r}"
    classes = tuple(cast("Sequence[object]", signature["classes"]))
    seen = cast("list[object]", np.unique(answers.prediction).tolist())
    strange = [one for one in seen if same_class(one, classes) is None]
    if strange:
        shown = ", ".join(map(repr, classes[:8]))
        return f"it answers {strange[0]!r}, which is none of its classes {shown}"
    return "" if answers.probability is None else _misfit_shares(answers.probability, classes)


def _misfit_shares(probability: NDArray[np.float64], classes: tuple[object, ...]) -> str:
    if probability.shape[1] != len(classes):
        return f"{probability.shape[1]} probabilities a row for {len(classes)} classes"
    if (probability < -1e-6).any() or (probability > 1 + 1e-6).any():
        return "a probability lies outside 0 to 1"
    far = np.abs(probability.sum(axis=1) - 1) > 1e-3
    if far.any():
        return f"probabilities of row {int(np.argmax(far)) + 1} do not sum to 1"
    return ""


def _not_finite(answers: Answers) -> NDArray[np.bool_]:
    """Say of which rows the answer is NaN or infinite, shape ``(n,)``."""
    bad = np.zeros(len(answers), dtype=np.bool_)
    if numeric(answers.prediction):
        bad |= ~np.isfinite(answers.prediction.astype(np.float64))
    if answers.probability is not None:
        bad |= ~np.isfinite(answers.probability).all(axis=1)
    return bad


def _joined(parts: Sequence[Answers]) -> Answers:
    shares = [part.probability for part in parts if part.probability is not None]
    return Answers(
        prediction=np.concatenate([part.prediction for part in parts]),
        probability=np.concatenate(shares) if len(shares) == len(parts) else None,
        classes=parts[0].classes,
        positive=parts[0].positive,
    )


def _picked(answers: Answers, rows: NDArray[np.intp]) -> Answers:
    shares = None if answers.probability is None else answers.probability[rows]
    return Answers(answers.prediction[rows], shares, answers.classes, answers.positive)


def _null_fault(subject: Subject, name: str, *, optional: bool) -> str:
    try:
        answers = subject.ask(with_null(subject.head(3), name))
    except AskError as error:
        if optional:
            return f'null in the optional column "{name}" answered {error.status}: {error.message}'
        if 400 <= error.status < 500:
            return ""
        return f'null in "{name}" answered {error.status} instead of a refusal: {error.message}'
    if _not_finite(answers).any():
        return f'null in "{name}" is answered by NaN'
    return "" if optional else f'null in the required column "{name}" was answered, not refused'


def with_null(rows: pa.Table, name: str) -> pa.Table:
    """Return the rows with the first value of one column set to null."""
    return with_value(rows, name, None)


def with_value(rows: pa.Table, name: str, value: object) -> pa.Table:
    """Return the rows with the first value of one column replaced."""
    index = rows.column_names.index(name)
    column = rows.column(name)
    values = [value, *column.to_pylist()[1:]]
    return rows.set_column(index, name, pa.array(values, type=column.type))


def _constant(answers: Answers) -> bool:
    if answers.probability is not None:
        return bool(np.ptp(answers.probability, axis=0).max() < 1e-12)
    return len(np.unique(answers.prediction)) == 1


def _beats_mean(answers: Answers, labels: NDArray[Any]) -> CheckResult:
    truth = labels.astype(np.float64)
    dummy = (truth - truth.mean()) ** 2
    gain = dummy - (truth - answers.prediction.astype(np.float64)) ** 2
    se = float(gain.std(ddof=1)) / math.sqrt(len(gain))
    scale = float(dummy.mean()) or 1.0
    value, half = float(gain.mean()) / scale, _Z * se / scale
    text = f"removes {value:.0%} of the mean's squared error (95 % {value - half:.0%} to"
    return _dummy_result(
        value - half > 0, value + half < 0, f"{text} {value + half:.0%})",
        value=value, low=value - half, high=value + half, rows=len(gain),
    )  # fmt: skip


def _beats_majority(answers: Answers, labels: NDArray[Any]) -> CheckResult:
    judged = rows_of(labels, answers, names=class_names(labels, answers))
    most_frequent = np.argmax(np.bincount(judged.truth[judged.truth >= 0], minlength=1))
    right, dummy = judged.truth == judged.prediction, judged.truth == most_frequent
    found = proportion_difference(dummy, right)
    low, high = found.value - _Z * found.se, found.value + _Z * found.se
    text = f"right in {right.mean():.1%}, the dummy in {dummy.mean():.1%} of {len(judged)} rows"
    evidence = {"value": found.value, "low": low, "high": high, "rows": len(judged)}
    better, worse = low > 0, high < 0
    positive = judged.truth == 1
    if (
        judged.n_classes == 2
        and answers.score is not None
        and bool(np.isfinite(answers.score).all())
        and 2 <= positive.sum() <= len(judged) - 2
    ):
        areas, variances = delong(positive, judged.score[np.newaxis])
        area, half = float(areas[0]), _Z * math.sqrt(float(variances[0, 0]))
        text += f"; AUC {area:.3f} ± {half:.3f}, the dummy 0.500"
        evidence["auc"] = area
        # Who ranks provably well has learned something, also where it is right less often than
        # the dummy; who ranks provably badly has its classes the wrong way round.
        better = (better or area - half > 0.5) and area + half > 0.5
        worse = not better and (worse or area + half < 0.5)
    return _dummy_result(better, worse, text, **evidence)


def _dummy_result(better: bool, worse: bool, text: str, **evidence: float) -> CheckResult:
    if better:
        return _passed("smoke.beats_dummy", text, reading="better", **evidence)
    if worse:
        return _failed("smoke.beats_dummy", text, reading="worse", **evidence)
    return _undecided("smoke.beats_dummy", text, reading="too close", **evidence)


def _differences(signature: JSON, champion: JSON) -> tuple[list[str], list[str]]:
    """Return what breaks callers, and what they should know."""
    ours = {str(one["name"]): one for one in cast("list[JSON]", signature["columns"])}
    theirs = {str(one["name"]): one for one in cast("list[JSON]", champion["columns"])}
    breaks = [
        f'column "{name}" is gone{_renamed(name, ours, theirs)}'
        for name in theirs
        if name not in ours
    ]
    notes: list[str] = []
    for name, column in ours.items():
        was = theirs.get(name)
        if was is not None:
            breaks += _changed(name, column, was)
        elif column["optional"]:
            notes.append(f'new optional column "{name}"')
        else:
            breaks.append(f'new required column "{name}": callers do not send it')
    return [*breaks, *_changed_answer(signature, champion)], notes


def _renamed(name: str, ours: dict[str, JSON], theirs: dict[str, JSON]) -> str:
    kind = theirs[name]["datatype"]
    new = [one for one in ours if one not in theirs and ours[one]["datatype"] == kind]
    return f'; "{new[0]}" is new: was it renamed?' if len(new) == 1 else ""


def _changed(name: str, column: JSON, was: JSON) -> list[str]:
    if column["datatype"] == was["datatype"] or (was["datatype"], column["datatype"]) == (
        "INT64",
        "FP64",
    ):
        # Whoever sends whole numbers can go on where any number is wanted.
        if was["optional"] and not column["optional"]:
            return [f'column "{name}" was optional and is required now']
        return []
    return [f'column "{name}" was {was["datatype"]} and is {column["datatype"]} now']


def _changed_answer(signature: JSON, champion: JSON) -> list[str]:
    if signature["task"] != champion["task"]:
        return [f"it answered {champion['task']} and answers {signature['task']} now"]
    ours, theirs = (
        cast("list[object]", one.get("classes") or []) for one in (signature, champion)
    )
    changes = [f"class {one!r} is gone" for one in theirs if one not in ours]
    changes += [f"class {one!r} is new" for one in ours if one not in theirs]
    if not changes and ours != theirs:
        changes.append("its classes stand in another order")
    if not changes and signature.get("positive") != champion.get("positive"):
        changes.append(
            f"the positive class was {champion.get('positive')!r} "
            f"and is {signature.get('positive')!r} now"
        )
    return changes
