"""The explanation of a version, everything within one budget of time.

What matters most comes first, so that a short budget still tells something: a first answer, each
column shuffled once, the curves of the columns that matter, rows one by one. Each part has its
share of the budget and hands on what it does not need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from penstock.check.answers import Answers, AskError
from penstock.check.explanation import dependence, words
from penstock.check.explanation.asking import Meter, OutOfTimeError, Target, plain, target_of
from penstock.check.explanation.importance import Shuffling, Unit
from penstock.check.explanation.likeness import alike, grouped, kind_of
from penstock.check.explanation.rows import add_exact, rows_one_by_one
from penstock.check.explanation.work import Explaining, Plan, Subject
from penstock.check.quality import higher_is_better, primary_metric
from penstock.domain import JSON, CheckResult, Verdict

SCHEMA = "penstock.explain/1"
_FEWEST_ROWS = 200
_SHARES = {"importance": 0.35, "curves": 0.55, "rows": 0.95, "rows, exact": 0.7}
"""Of the budget, where each part ends; the rows leave room for exact values, if there are any."""


def explain(subject: Subject, *, budget_s: float = 60.0, plan: Plan | None = None) -> JSON:
    """Explain a version.

    Parameters
    ----------
    budget_s
        Wall-clock seconds; kept to within one batch of half a second, or one answer of a
        slower model.

    Returns
    -------
    JSON
        ``columns`` by falling worth, each with ``mean`` (how much worse the measure gets when
        it is shuffled), ``low``, ``high``, and ``shap``: mean size of its effect on the answer,
        interval and direction. ``groups``: columns that tell the same. ``shap``, ``examples``,
        ``curves``, ``exact``: see their modules. ``skipped``: what and why; ``spent``: on what;
        ``text``: the same in sentences. Plain JSON without NaN.
    """
    plan = plan or Plan()
    meter = Meter(subject.ask, budget_s, plan.clock, subject.told)
    random = np.random.default_rng(plan.seed)
    chosen = random.permutation(len(subject.evaluation))[: plan.max_rows]
    evaluation = subject.evaluation.take(chosen)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "method": "permutation importance, Shapley values",
        "seed": plan.seed,
        "data_digest": subject.evaluation.digest,
        "budget_s": budget_s,
        "columns": [],
        "groups": [],
        "shap": None,
        "exact": None,
        "examples": [],
        "curves": [],
        "change": None,
    }
    work = Explaining(
        subject, plan, meter, random, evaluation, evaluation.for_columns(subject.columns), report
    )
    if len(chosen) < len(subject.evaluation):
        missing = len(subject.evaluation) - len(chosen)
        work.skip(f"{missing} of {len(subject.evaluation)} rows", "the limit of rows")
    try:
        answers = _first_answers(work)
    except (OutOfTimeError, AskError) as error:
        work.skip("every column", error)
    else:
        target = target_of(answers, subject.task)
        _explain(work, target, answers, chosen)
    report["skipped"] = work.skipped
    report["spent"] = meter.report()
    report["text"] = words.told(report)
    return cast("JSON", plain(report))


def result(report: JSON) -> CheckResult:
    """Return the check of a report: passed, or undecided where nothing could be measured."""
    columns = report["columns"]
    skipped = report["skipped"]
    evidence = {
        "question": "What does it look at?",
        "metric": report.get("metric"),
        "value": report.get("value"),
        "columns": [{"column": c["column"], "mean": c["mean"]} for c in columns[:10]],
        "skipped": list(skipped[:10]),
    }
    if not columns:
        why = str(skipped[-1]["why"]) if skipped else "there is no column"
        summary = f"no column was measured: {why}"
        return CheckResult("explain.importance", Verdict.UNDECIDED, summary, evidence)
    top = ", ".join(str(column["column"]) for column in columns[:3])
    summary = f"relies most on {top} ({report['rows']} rows)"
    if skipped:
        summary += f"; skipped {skipped[0]['what']}: {skipped[0]['why']}"
    return CheckResult("explain.importance", Verdict.PASSED, summary, evidence)


def _explain(work: Explaining, target: Target, answers: Answers, chosen: Any) -> None:
    report, plan, meter = work.report, work.plan, work.meter
    report["target"] = {"unit": target.unit, "classes": list(target.classes)}
    units = _units(work, target, answers)
    report["rows"] = work.rows.num_rows
    shuffling = _shuffling(work, answers)
    _importance(work, shuffling, units, share=_SHARES["importance"])
    order = [str(one["column"]) for one in report["columns"]]
    with meter.part("curves", _SHARES["curves"]):
        _curves(work, target, order)
    exact = work.exact(target)
    with meter.part("rows", _SHARES["rows" if exact is None else "rows, exact"]):
        sampled = rows_one_by_one(work, target, answers, order, chosen=chosen)
    if exact is not None and sampled is not None:
        with meter.part("exact values"):
            add_exact(work, exact, sampled)
    if any(len(one.repeats) < plan.repeats for one in shuffling.found.values()):
        _importance(work, shuffling, units, share=1.0)
    _importance_skipped(work, shuffling, units)
    if not report["shap"]:
        return
    _rank(report)


# ---- first answers, importance -------------------------------------------------------------


def _first_answers(work: Explaining) -> Answers:
    """Ask for the rows as they are, as many as let every column be shuffled three times."""
    meter, rows = work.meter, work.rows.num_rows
    with meter.part("first answers", _SHARES["importance"]):
        # The very first answers are slow; the second batch tells what a row costs.
        first = meter.answers(work.rows.slice(0, min(rows, 50)))
        more = work.rows.slice(len(first), meter.batch_rows())
        if more.num_rows:
            first = _both(first, meter.answers(more))
        each = 3 * max(len(work.rows.column_names), 1) + 1
        fit = meter.fitting(each, min(rows, _FEWEST_ROWS), rows)
        if fit < rows:
            work.skip(f"{rows - fit} of {rows} rows", "the budget of time")
        _take(work, fit)
        if fit <= len(first):
            return _head(first, fit)
        rest = meter.answers(work.rows.slice(len(first)))
    return _both(first, rest)


def _take(work: Explaining, count: int) -> None:
    work.evaluation = work.evaluation.take(np.arange(count))
    work.rows = work.rows.slice(0, count)


def _units(work: Explaining, target: Target, answers: Answers) -> list[Unit]:
    names = _wanted(work)
    score = target.numbers(answers)[:, 0]
    groups = alike(work.rows.select(names), score) if work.rows.num_rows > 2 else []
    work.report["groups"] = [
        {"columns": list(columns), "correlation": least} for columns, least in groups
    ]
    return [*((name,) for name in names), *(columns for columns, _ in groups)]


def _wanted(work: Explaining) -> list[str]:
    names = list(work.rows.column_names)
    if not work.subject.only:
        return names
    for name in work.subject.only:
        if name not in names:
            work.skip(f'column "{name}"', "[explain] columns names it, and the model has none")
    return [name for name in names if name in work.subject.only]


def _shuffling(work: Explaining, answers: Answers) -> Shuffling:
    metric = work.plan.metric or primary_metric(
        work.subject.task,
        len(answers.classes or ()),
        probabilities=answers.probability is not None,
    )
    labels = work.evaluation.label
    shuffling = Shuffling(work.meter, metric, work.rows, labels, answers, work.random)
    plain = shuffling.loss(answers)
    work.report["metric"] = metric
    work.report["value"] = -plain if higher_is_better(metric) else plain
    return shuffling


def _importance(
    work: Explaining, shuffling: Shuffling, units: Sequence[Unit], *, share: float
) -> None:
    with work.meter.part("importance", share):
        shuffling.fault = ""
        shuffling.go_on(units, work.plan.repeats)
    groups = work.report["groups"]
    known = [(tuple(one["columns"]), 0.0) for one in groups]
    columns: list[dict[str, Any]] = [
        {
            "column": unit[0],
            "kind": kind_of(work.rows.column(unit[0])),
            **rises.told(),
            "group": grouped(known, unit[0]),
            "shap": None,
        }
        for unit, rises in shuffling.found.items()
        if len(unit) == 1 and rises.repeats
    ]
    before = {one["column"]: one["shap"] for one in work.report["columns"]}
    for one in columns:
        one["shap"] = before.get(one["column"])
    work.report["columns"] = sorted(columns, key=lambda one: (-one["mean"], one["column"]))
    for one in groups:
        rises = shuffling.found.get(tuple(one["columns"]))
        if rises is not None and rises.repeats:
            one.update(rises.told())


def _importance_skipped(work: Explaining, shuffling: Shuffling, units: Sequence[Unit]) -> None:
    repeats = work.plan.repeats
    lacking = [u for u in units if u not in shuffling.found or not shuffling.found[u].repeats]
    for unit in lacking:
        what = f'column "{unit[0]}"' if len(unit) == 1 else f"{', '.join(unit)} together"
        work.skip(what, shuffling.fault)
    counts = [len(one.repeats) for one in shuffling.found.values() if one.repeats]
    if counts and min(counts) < repeats:
        work.skip(f"repeats after {min(counts)} of {repeats}", shuffling.fault)


# ---- curves --------------------------------------------------------------------------------


def _curves(work: Explaining, target: Target, order: Sequence[str]) -> None:
    plan, meter = work.plan, work.meter
    drawn = [name for name in _by_worth(work, order) if _can_be_drawn(work, name)]
    whole = [n for n in order if kind_of(work.rows.column(n)) in ("text", "other")]
    if whole:
        shown = ", ".join(whole[:5]) + (", …" if len(whole) > 5 else "")
        work.skip(f"curves of {shown}", "text and tensors are taken as a whole")
    wanted = drawn if work.subject.only else drawn[: plan.curves]
    asks = dependence.GRID * max(len(wanted), 1)
    fit = meter.fitting(asks, min(20, work.rows.num_rows), plan.curve_rows)
    for place, name in enumerate(wanted):
        rows = work.rows.slice(0, fit)
        in_group = any(name in one["columns"] for one in work.report["groups"])
        is_number = kind_of(work.rows.column(name)) == "number"
        try:
            if in_group and is_number:
                many = work.rows.slice(0, fit * dependence.GRID // 2)
                curve = dependence.accumulated(meter, target, many, name)
            else:
                curve = dependence.partial(meter, target, rows, name)
        except (OutOfTimeError, AskError) as error:
            work.skip(f"curves of {', '.join(wanted[place:])}", error)
            return
        if curve is not None:
            work.report["curves"].append(curve)


def _by_worth(work: Explaining, order: Sequence[str]) -> list[str]:
    """Order columns by their own worth or, for one among alike ones, by the group's."""
    worth = {str(one["column"]): float(one["mean"]) for one in work.report["columns"]}
    for group in work.report["groups"]:
        for name in group["columns"]:
            if name in worth and "mean" in group:
                worth[name] = max(worth[name], float(group["mean"]) / len(group["columns"]))
    return sorted(order, key=lambda name: -worth.get(name, 0.0))


def _can_be_drawn(work: Explaining, name: str) -> bool:
    return kind_of(work.rows.column(name)) in ("number", "category")


def _rank(report: dict[str, Any]) -> None:
    by_size = sorted(
        (one for one in report["columns"] if one["shap"] is not None),
        key=lambda one: -one["shap"]["mean"],
    )
    for place, one in enumerate(by_size):
        one["shap"]["rank"] = place + 1


# ---- small things --------------------------------------------------------------------------


def _head(answers: Answers, count: int) -> Answers:
    shares = None if answers.probability is None else answers.probability[:count]
    return Answers(answers.prediction[:count], shares, answers.classes, answers.positive)


def _both(first: Answers, rest: Answers) -> Answers:
    shares = None
    if first.probability is not None and rest.probability is not None:
        shares = np.concatenate([first.probability, rest.probability])
    predictions = np.concatenate([first.prediction, rest.prediction])
    return Answers(predictions, shares, first.classes, first.positive)
