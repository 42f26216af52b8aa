"""One period of one version in production: the checks, and what they rest on.

drift      do requests and answers still look like the data it was judged on?
quality    on the labels that have come: does it keep its limits, is it as good as before?
service    errors and latency

No data is never passed: a period without requests is undecided throughout, and so is one of
whose rows too many are missing in the log, unless what is there fails. Start reading at
`run_period`; `reference` makes what a period is compared with, once, when a version is judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.check.answers import Answers, class_texts
from penstock.check.comparison import decide
from penstock.check.drift import drift, reference_profile
from penstock.check.paired import Difference
from penstock.check.quality import (
    ROWS_MIN,
    Z,
    higher_is_better,
    interval,
    limits,
    measure,
    measure_of,
    number,
    wilson,
)
from penstock.domain import JSON, CheckResult, Verdict
from penstock.monitor.tables import Missing, PredictionTable, Window, input_name

QUALITY_MARGIN = 0.02
"""Worse than when it was judged: absolute where more is better, of losses a share."""
MATURE_SHARE = 0.9
"""Labels that come late may come for other cases: with fewer, quality is undecided."""
MAX_ERROR_SHARE = 0.01
MISSING_MAX = 0.01
"""Share of a period's rows that the log may lack; with more, no check of it has passed."""
SLOW_SHARE = 0.05
"""More than this share above the limit of p95, and p95 is above it."""


@dataclass(frozen=True, slots=True)
class PeriodSettings:
    """What is asked of a period."""

    window: Window
    now: datetime
    task: str
    """``classification`` or ``regression``."""
    primary: str
    """The measure of "is it as good as before?"."""
    classes: tuple[object, ...] | None = None
    positive: object | None = None
    limits: Mapping[str, tuple[float | None, float | None]] = field(
        default_factory=dict[str, tuple[float | None, float | None]]
    )
    """Least and greatest value by measure."""
    p95_ms: float | None = None
    checks: tuple[str, ...] = ("quality", "drift", "service")
    label_delay_s: float | None = None
    """When a label is known at the latest; after it, the labels there are count as all."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The primary measure when the version was judged, with its 95 % bounds."""

    value: float
    low: float
    high: float

    @property
    def se(self) -> float:
        """Standard error."""
        return (self.high - self.low) / (2 * Z)


@dataclass(frozen=True, slots=True)
class PeriodSources:
    """Where a period's evidence comes from."""

    log: PredictionTable
    """The model's prediction log."""
    profile: JSON | None
    """From `reference`; None where the version was never judged on data."""
    labels: Mapping[str, str]
    """By prediction id."""
    quality: Reference | None = None


@dataclass(frozen=True, slots=True)
class PeriodReport:
    """What a period's checks found."""

    results: list[CheckResult]
    rows: int
    """Answers in the period."""
    labelled: int
    """Of them, with a label."""


def reference(features: pa.Table, answers: Answers) -> dict[str, Any]:
    """Count the inputs and answers that periods are compared with, as plain JSON.

    Parameters
    ----------
    features
        The evaluation data, only the columns that the model reads.
    answers
        To the same rows.
    """
    named = features.rename_columns([input_name(name) for name in features.column_names])
    score = answers.score
    if score is None and answers.classes is None and answers.prediction.dtype.kind in "iuf":
        score = answers.prediction.astype(np.float64)
    column = (
        pa.array(class_texts(answers.prediction.tolist()), pa.string())
        if score is None
        else pa.array(score, pa.float64())
    )
    return reference_profile(named.append_column("prediction", column))


def run_period(settings: PeriodSettings, sources: PeriodSources) -> PeriodReport:
    """Run the checks of a period.

    Parameters
    ----------
    settings
        What is asked.
    sources
        The log, the reference and the labels.

    Returns
    -------
    PeriodReport
        Results named ``drift.<column>``, ``drift.prediction``, ``quality.<measure>``,
        ``quality.as_before``, ``service.errors`` and ``service.p95``.

    Raises
    ------
    UnreachableError
        PS601: the log cannot be read.
    """
    table = sources.log
    labelled = table.labelled(settings.window, sources.labels)
    results: list[CheckResult] = []
    if "drift" in settings.checks:
        results += _drift(sources.profile, table.inputs(settings.window))
    if "quality" in settings.checks:
        results += _quality(settings, sources, labelled.rows, labelled.answered)
    if "service" in settings.checks:
        results += _service(settings, table)
    missing = table.missing.get(settings.window.number)
    if missing is not None:
        results = [_as_far_as_seen(one, missing, labelled.answered) for one in results]
    return PeriodReport(results, labelled.answered, labelled.rows.num_rows)


def _as_far_as_seen(result: CheckResult, missing: Missing, rows: int) -> CheckResult:
    """Say what the log lacks; nothing passes on a period of which much was not seen."""
    share = missing.rows / (missing.rows + rows)
    lacks = [
        f"{count:,} {what}{' was' if count == 1 else 's were'} {gone}"
        for count, what, gone in (
            (missing.answers, "answer", "not logged"),
            (missing.hours, "hour", "dropped"),
        )
        if count
    ]
    evidence = {**result.evidence, "missing": missing.rows, "missing_share": share}
    verdict = result.verdict
    if share > MISSING_MAX and verdict is Verdict.PASSED:
        verdict, evidence["reading"] = Verdict.UNDECIDED, "too much is missing"
    summary = f"{result.summary}; {' and '.join(lacks)}, {share:.1%} of its rows"
    return CheckResult(result.check, verdict, summary, evidence)


# ---- drift ---------------------------------------------------------------------------------


def _drift(profile: JSON | None, inputs: pa.Table) -> list[CheckResult]:
    if profile is None:
        question = {"question": "Do today's requests still look like the data it was judged on?"}
        summary = "no reference: the version was not judged on evaluation data"
        return [CheckResult("drift.inputs", Verdict.UNDECIDED, summary, question)]
    return drift(profile, _with_answer(profile, inputs))


def _with_answer(profile: JSON, inputs: pa.Table) -> pa.Table:
    """Put the answer into the form in which the reference counts it."""
    if "score" not in inputs.column_names:
        return inputs
    texts, score = inputs.column("prediction"), inputs.column("score")
    rest = inputs.drop_columns(["prediction", "score"])
    if profile["columns"].get("prediction", {}).get("kind") == "numeric":
        return rest.append_column("prediction", score)
    spelled = pa.array(class_texts(texts.to_pylist()), pa.string())
    return rest.append_column("prediction", spelled)


# ---- quality -------------------------------------------------------------------------------


def _quality(
    settings: PeriodSettings, sources: PeriodSources, rows: pa.Table, answered: int
) -> list[CheckResult]:
    coverage = rows.num_rows / answered if answered else 0.0
    if rows.num_rows < ROWS_MIN or not _mature(settings, coverage):
        return [_no_labels(rows.num_rows, answered, enough=rows.num_rows >= ROWS_MIN)]
    wrong = _no_number(rows) if settings.task == "regression" else None
    if wrong is not None:
        return [_labels(f'the label "{wrong}" is not a number', rows.num_rows, answered)]
    labels, answers = _judged(settings, rows)
    values = measure(settings.task, labels, answers)
    asked = {*settings.limits, settings.primary} & values.keys()
    intervals = {metric: interval(metric, labels, answers) for metric in asked}
    found = [
        _provable(result)
        for result in limits(
            values,
            settings.limits,
            rows=rows.num_rows,
            intervals=intervals,
            champion={} if sources.quality is None else {settings.primary: sources.quality.value},
        )
    ]
    found += _as_before(settings.primary, sources.quality, values, intervals)
    return [
        replace(one, evidence={**one.evidence, "rows": rows.num_rows, "coverage": coverage})
        for one in found
    ]


def _mature(settings: PeriodSettings, coverage: float) -> bool:
    if coverage >= MATURE_SHARE:
        return True
    if settings.label_delay_s is None:
        return False
    age_s = (settings.now - settings.window.until).total_seconds()
    return age_s >= settings.label_delay_s


def _no_labels(labelled: int, answered: int, *, enough: bool) -> CheckResult:
    if enough:
        wanted = f"{MATURE_SHARE:.0%} needed, or the declared delay over"
    else:
        wanted = f"{ROWS_MIN} needed"
    summary = f"labels for {labelled:,} of {answered:,} answers, {wanted}"
    return _labels(summary, labelled, answered)


def _labels(summary: str, labelled: int, answered: int) -> CheckResult:
    evidence = {
        "value": labelled,
        "rows": answered,
        "reading": "not enough labels",
        "question": "Are its answers still right?",
    }
    return CheckResult("quality.labels", Verdict.UNDECIDED, summary, evidence)


def _no_number(rows: pa.Table) -> str | None:
    """Return the first label that is no number; one such must not blind the other checks."""
    for text in rows.column("label").to_pylist():
        try:
            if math.isfinite(float(text)):
                continue
        except ValueError:
            pass
        return str(text)
    return None


def _judged(settings: PeriodSettings, rows: pa.Table) -> tuple[NDArray[Any], Answers]:
    """Put logged answers and their labels into the form that measures take."""
    labels = np.array(rows.column("label").to_pylist(), dtype=object)
    scores = rows.column("score")
    if settings.task == "regression":
        return labels.astype(np.float64), Answers(scores.to_numpy())
    predictions = np.array(rows.column("prediction").to_pylist(), dtype=object)
    classes = settings.classes
    if classes is None or len(classes) != 2 or scores.null_count:
        # The log keeps one score a row: with more classes only the answer itself is judged.
        return labels, Answers(predictions, None, None, settings.positive)
    texts = class_texts(classes)
    positive = texts[1] if settings.positive is None else class_texts([settings.positive])[0]
    score = scores.to_numpy()
    columns = [score if text == positive else 1 - score for text in texts]
    return labels, Answers(predictions, np.column_stack(columns), tuple(texts), positive)


def _provable(result: CheckResult) -> CheckResult:
    """Let a limit fail only when the whole interval lies beyond it.

    At promotion a value below its limit stops; in production it would wake people at every
    second period of a model that is exactly as good as its limit.
    """
    if result.verdict is not Verdict.FAILED:
        return result
    low, high = result.evidence["low"], result.evidence["high"]
    least, greatest = result.evidence["min"], result.evidence["max"]
    below = least is not None and high is not None and high < least
    above = greatest is not None and low is not None and low > greatest
    if below or above:
        return result
    evidence = {**result.evidence, "reading": "too close"}
    summary = f"{result.summary}, not beyond chance"
    return CheckResult(result.check, Verdict.UNDECIDED, summary, evidence)


def _as_before(
    metric: str,
    before: Reference | None,
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float] | None],
) -> list[CheckResult]:
    """Ask whether the primary measure is as good as when the version was judged."""
    bounds = intervals.get(metric)
    question = {"metric": metric, "question": "Is it as good as when it was approved?"}
    if metric not in values or bounds is None:
        summary = f"the labelled answers do not define {measure_of(metric).word}"
        return [CheckResult("quality.as_before", Verdict.UNDECIDED, summary, question)]
    if before is None:
        summary = f"{measure_of(metric).word} {number(values[metric])}; not known from before"
        return [CheckResult("quality.as_before", Verdict.UNDECIDED, summary, question)]
    now = Reference(values[metric], *bounds)
    sign = 1 if higher_is_better(metric) else -1
    margin = QUALITY_MARGIN * (1 if sign > 0 else abs(before.value))
    difference = Difference.normal(sign * (now.value - before.value), now.se**2 + before.se**2)
    verdict = decide(difference, margin)
    readings = {
        Verdict.PASSED: "better" if difference.low > 0 else "alike",
        Verdict.FAILED: "worse",
        Verdict.UNDECIDED: "too close",
    }
    evidence = question | {
        "value": now.value,
        "low": now.low,
        "high": now.high,
        "champion": before.value,
        "difference": difference.value,
        "margin": margin,
        "reading": readings[verdict],
    }
    summary = (
        f"{measure_of(metric).word} {number(now.value)}, was {number(before.value)}; "
        f"{number(margin)} worse is allowed"
    )
    return [CheckResult("quality.as_before", verdict, summary, evidence)]


# ---- service -------------------------------------------------------------------------------


def _service(settings: PeriodSettings, table: PredictionTable) -> list[CheckResult]:
    found = table.service(settings.window, slow_ms=settings.p95_ms)
    errors = _share(found.errors, found.requests, MAX_ERROR_SHARE)
    share = found.errors / found.requests if found.requests else None
    told = "no requests" if share is None else f"{100 * share:.2g} % errors"
    results = [
        CheckResult(
            "service.errors",
            errors,
            f"{told}, {found.errors:,} of {found.requests:,}; limit {MAX_ERROR_SHARE:.0%}",
            {
                "value": share,
                "limit": MAX_ERROR_SHARE,
                "rows": found.requests,
                "reading": _readings(errors, found.requests),
                "question": "Does it answer without errors?",
            },
        )
    ]
    p95 = "-" if found.p95_ms is None else f"{number(found.p95_ms)} ms"
    limit = "no limit" if settings.p95_ms is None else f"limit {number(settings.p95_ms)} ms"
    verdict = _share(found.slow, found.requests, SLOW_SHARE)
    reading = _readings(verdict, found.requests)
    if settings.p95_ms is None and found.requests >= ROWS_MIN:
        verdict, reading = Verdict.PASSED, "no limit"
    evidence = {
        "value": found.p95_ms,
        "limit": settings.p95_ms,
        "rows": found.requests,
        "slow": found.slow,
        "reading": reading,
        "question": "Does it answer quickly enough?",
    }
    results.append(CheckResult("service.p95", verdict, f"p95 {p95}; {limit}", evidence))
    return results


def _share(events: int, requests: int, allowed: float) -> Verdict:
    """Judge a share: failed when provably above, passed when not above."""
    if requests < ROWS_MIN:
        return Verdict.UNDECIDED
    if wilson(events, requests)[0] > allowed:
        return Verdict.FAILED
    return Verdict.PASSED if events / requests <= allowed else Verdict.UNDECIDED


def _readings(verdict: Verdict, requests: int) -> str:
    if verdict is Verdict.UNDECIDED:
        return "not enough data" if requests < ROWS_MIN else "too close"
    return "within the limit" if verdict is Verdict.PASSED else "above the limit"
