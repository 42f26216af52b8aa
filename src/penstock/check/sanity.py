"""Sanity: can the figures be believed? Leaks, overlap, order in time, and enough rows to decide.

The model may be fine and its evaluation worthless; these checks look at the data. They ask the
model nothing, they read the answers that it gave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from penstock.check import leaks, quality, training_rows
from penstock.check.answers import Answers
from penstock.check.comparison import needed_rows
from penstock.check.evaluation import Evaluation
from penstock.check.leaks import Finding
from penstock.check.paired import Z
from penstock.check.quality import ROWS_MIN, number
from penstock.check.rows import class_names, delong
from penstock.check.rows import rows as rows_of
from penstock.check.training_rows import Training
from penstock.domain import JSON, CheckResult, Verdict

QUESTIONS = {
    "sanity.label_leak": "Is the right answer hidden in what the model is told?",
    "sanity.single_feature": "Is one column alone too good to be true?",
    "sanity.row_numbers": "Does it learn from row numbers?",
    "sanity.overlap": "Was it trained on the cases that it is judged on?",
    "sanity.time": "Is it judged on later cases than it learned from?",
    "sanity.size": "Are there enough cases to judge it?",
    "sanity.data": "Is it judged on the same cases as the version in use?",
}
CASES_MIN = 10
"""Rows of each class below which nothing is decided."""
ALIKE = 0.9
"""Assumed correlation of two versions' answers, for the rows that a first version would need."""


@dataclass(frozen=True, slots=True)
class Material:
    """What the questions are asked of."""

    evaluation: Evaluation
    answers: Answers
    """To all rows of the evaluation data."""
    signature: JSON
    training: Training | str
    """The training data, or why they are not known."""
    metric: str
    """Of the gate."""
    margin: float
    champion_data: tuple[str, str | None] | None = None
    """Of the champion: its name, and the digest of the data that it was judged on."""

    @property
    def names(self) -> list[str]:
        """The model's columns."""
        return [str(column["name"]) for column in self.signature["columns"]]


def sanity_checks(material: Material) -> list[CheckResult]:
    """Run every sanity check, in a fixed order; `sanity.time` only where a time is declared."""
    evaluation, names = material.evaluation, material.names
    truth = leaks.Truth.of(evaluation.label, str(material.signature["task"]))
    copies = leaks.copies(evaluation.features, names, truth)
    others = [name for name in names if name not in copies.evidence.get("columns", ())]
    found: dict[str, Finding] = {
        "sanity.label_leak": copies,
        "sanity.single_feature": leaks.too_good(
            leaks.strengths(evaluation.features, others, truth),
            truth.task,
            model=_model_strength(material),
        ),
        "sanity.row_numbers": leaks.row_numbers(evaluation.features, names),
        **_training_findings(material),
        "sanity.size": enough(material, truth),
        "sanity.data": same_data(evaluation.digest, material.champion_data),
    }
    return [
        CheckResult(name, one.verdict, one.summary, {"question": QUESTIONS[name], **one.evidence})
        for name, one in found.items()
    ]


def _training_findings(material: Material) -> dict[str, Finding]:
    training, evaluation = material.training, material.evaluation
    asked = ["sanity.overlap"] + (["sanity.time"] if evaluation.time is not None else [])
    if isinstance(training, str):
        hint = '; name the file: [evaluate] training = "data/train.csv"'
        none = Finding(Verdict.UNDECIDED, training + hint, {"reading": "training data unknown"})
        return dict.fromkeys(asked, none)
    try:
        seen = training_rows.saw(training, evaluation)
    except ValueError as error:
        return dict.fromkeys(asked, Finding(Verdict.UNDECIDED, str(error), {}))
    found = {"sanity.overlap": training_rows.shared_rows(training, seen, evaluation)}
    if evaluation.time is not None:
        found["sanity.time"] = training_rows.later_rows(training, seen, evaluation)
    return found


def _model_strength(material: Material) -> tuple[float, float] | None:
    """Bound the model itself by the measure of `leaks.strengths`: AUC of two classes, or R²."""
    answers, label = material.answers, material.evaluation.label
    if material.signature["task"] == "regression":
        truth = label.astype(np.float64)
        spread = (truth - truth.mean()) ** 2
        if len(truth) < 2 or float(spread.mean()) == 0:
            return None
        left = (truth - answers.prediction.astype(np.float64)) ** 2
        gain = (spread - left) / float(spread.mean())
        value, reach = float(gain.mean()), 1.96 * float(gain.std(ddof=1)) / math.sqrt(len(gain))
        return value - reach, value + reach
    if answers.score is None:
        return None
    judged = rows_of(label, answers, names=class_names(label, answers))
    positive = judged.truth == 1
    if not 2 <= int(positive.sum()) <= len(judged) - 2:
        return None
    areas, variance = delong(positive, judged.score[np.newaxis])
    reach = 1.96 * math.sqrt(max(float(variance[0, 0]), 0.0))
    return float(areas[0]) - reach, float(areas[0]) + reach


def enough(material: Material, truth: leaks.Truth) -> Finding:
    """Say whether the rows can decide anything, and how many the gate's margin needs.

    The needed number assumes two equally good versions whose answers correlate at .9; the gate
    computes its own from the answers that it sees.
    """
    rows = len(truth)
    evidence: dict[str, Any] = {
        "value": rows,
        "limit": ROWS_MIN,
        "min": ROWS_MIN,
        "rows": rows,
    }
    told = f"{rows:,} rows"
    if truth.task == "classification":
        counts = np.bincount(truth.codes, minlength=1)
        evidence |= {"classes": truth.classes, "rarest": int(counts.min())}
        told += f", {counts.min() / rows:.1%} of the rarest of {truth.classes} classes"
    if rows < ROWS_MIN:
        return Finding(Verdict.UNDECIDED, f"{told}; {ROWS_MIN} needed at least", evidence)
    if truth.task == "classification":
        known = len(cast("Sequence[object]", material.signature.get("classes") or ()))
        if truth.classes < known:
            evidence["reading"] = "a class is missing"
            summary = f"{told}, and the model knows {known} classes"
            return Finding(Verdict.UNDECIDED, summary, evidence)
        if truth.classes == 2 and evidence["rarest"] < CASES_MIN:
            summary = f"{told}: {evidence['rarest']} cases, {CASES_MIN} needed at least"
            return Finding(Verdict.UNDECIDED, summary, evidence)
    bounds = quality.interval(material.metric, material.evaluation.label, material.answers)
    if bounds is not None and material.margin > 0:
        se = (bounds[1] - bounds[0]) / (2 * Z) * math.sqrt(2 * (1 - ALIKE))
        needed = needed_rows(rows, se, material.margin)
        evidence |= {"needed": math.ceil(needed), "margin": material.margin, "assumed": ALIKE}
        told += (
            f"; to show a version not worse by {number(material.margin)} in {material.metric} "
            f"takes about {math.ceil(needed):,}"
        )
        evidence["reading"] = "enough for the margin" if needed <= rows else "few for the margin"
    return Finding(Verdict.PASSED, told, evidence)


def same_data(digest: str, champion: tuple[str, str | None] | None) -> Finding:
    """Compare the evaluation data with the champion's, by digest."""
    if champion is None:
        summary = "the first version: there is nothing to compare it with"
        return Finding(Verdict.PASSED, summary, {"digest": digest})
    name, before = champion
    evidence = {"digest": digest, "before": before}
    if before == digest:
        return Finding(Verdict.PASSED, f"the same file as {name} was judged on", evidence)
    summary = f"the evaluation data changed since {name} was judged"
    return Finding(Verdict.UNDECIDED, summary, evidence)
