"""Explanation: which columns does a version rely on?

Permutation importance, through the running version: one column is shuffled, and the loss that
rises is what the column was worth. It is asked within a budget of time; what did not fit is
named. A column that two others can replace looks unimportant here: that is said on the page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.check.answers import Answers, Ask, AskError
from penstock.check.evaluation import Evaluation
from penstock.check.quality import higher_is_better, primary_metric, value
from penstock.domain import JSON, CheckResult, Verdict

_FEWEST_ROWS = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """How columns are shuffled and what is measured."""

    max_rows: int = 10_000
    repeats: int = 5
    seed: int = 0
    metric: str | None = None
    """A measure of quality; None = the task's main one."""
    clock: Callable[[], float] = time.monotonic
    """Seconds."""


def explain(
    ask: Ask,
    evaluation: Evaluation,
    *,
    columns: Sequence[str],
    task: str,
    budget_s: float = 60.0,
    plan: Plan | None = None,
) -> tuple[JSON, CheckResult]:
    """Measure what each column is worth to a version.

    Every column is shuffled once before any is shuffled a second time, so that a short budget
    costs precision and not columns. When even one round would not fit, fewer rows are taken.

    Parameters
    ----------
    columns
        What the version wants, in its order.
    task
        ``classification`` or ``regression``.
    budget_s
        Wall-clock seconds; the ask that is under way when they end is waited for.

    Returns
    -------
    tuple
        The report, and ``explain.importance``: passed, or undecided where nothing could be
        measured; never failed. The report has ``columns`` by falling ``mean`` (how much worse
        the measure gets), each with ``sd`` over its ``repeats`` (None for one); ``skipped``
        with ``what`` and ``why``; ``metric`` and ``value``, that of the rows as they are.
    """
    plan = plan or Plan()
    deadline = plan.clock() + budget_s
    random = np.random.default_rng(plan.seed)
    chosen = random.permutation(len(evaluation))[: plan.max_rows]
    report: dict[str, Any] = {
        "method": "permutation importance",
        "seed": plan.seed,
        "columns": [],
        "skipped": _rows_skipped(len(evaluation), len(chosen), "the limit of rows"),
    }
    sample = evaluation.take(chosen)
    began = plan.clock()
    try:
        answers = ask(sample.for_columns(columns))
    except AskError as error:
        why = f"it answered {error.status}: {error.message}"
        report["skipped"].append({"what": "every column", "why": why})
        return report, _result(report)
    cost_s = (plan.clock() - began) / len(sample)
    fitting = _fitting_rows(cost_s, len(sample), len(columns), deadline - plan.clock())
    report["skipped"] += _rows_skipped(len(sample), fitting, "the budget of time")
    sample, answers = sample.take(np.arange(fitting)), _first(answers, fitting)
    metric = plan.metric or primary_metric(
        task, len(answers.classes or ()), probabilities=answers.probability is not None
    )
    shuffling = _Shuffling(ask, metric, sample.label, random, deadline, plan.clock)
    plain = shuffling.loss(answers)
    rises = shuffling.rises(sample.for_columns(columns), plain, repeats=plan.repeats)
    report |= {
        "rows": fitting,
        "metric": metric,
        "value": -plain if higher_is_better(metric) else plain,
        "columns": _ordered(rises),
    }
    report["skipped"] += _columns_skipped(rises, shuffling.fault, plan.repeats)
    return report, _result(report)


def _result(report: JSON) -> CheckResult:
    columns = cast("Sequence[JSON]", report["columns"])
    skipped = cast("Sequence[JSON]", report["skipped"])
    evidence = {"question": "What does it look at?", **report}
    if not columns:
        why = str(skipped[-1]["why"]) if skipped else "there is no column"
        summary = f"no column was measured: {why}"
        return CheckResult("explain.importance", Verdict.UNDECIDED, summary, evidence)
    top = ", ".join(str(column["column"]) for column in columns[:3])
    summary = f"relies most on {top} ({report['rows']} rows)"
    if skipped:
        summary += f"; skipped {skipped[0]['what']}: {skipped[0]['why']}"
    return CheckResult("explain.importance", Verdict.PASSED, summary, evidence)


@dataclass(slots=True)
class _Shuffling:
    ask: Ask
    metric: str
    labels: NDArray[Any]
    random: np.random.Generator
    deadline: float
    clock: Callable[[], float]
    fault: str = ""
    """Why it ended early."""

    def loss(self, answers: Answers) -> float:
        """Return the measure, turned so that lower is better."""
        found = value(self.metric, self.labels, answers)
        return -found if higher_is_better(self.metric) else found

    def rises(self, rows: pa.Table, plain: float, *, repeats: int) -> dict[str, list[float]]:
        """Return the rises of the loss by column; ends early at the deadline or at an error."""
        found: dict[str, list[float]] = {name: [] for name in rows.column_names}
        for _ in range(repeats):
            for index, name in enumerate(rows.column_names):
                if self.clock() >= self.deadline:
                    self.fault = "the budget of time"
                    return found
                order = pa.array(self.random.permutation(rows.num_rows))
                shuffled = rows.set_column(index, name, rows.column(name).take(order))
                try:
                    found[name].append(self.loss(self.ask(shuffled)) - plain)
                except AskError as error:
                    self.fault = f"it answered {error.status}: {error.message}"
                    return found
        return found


def _fitting_rows(cost_s: float, rows: int, columns: int, left_s: float) -> int:
    """Return for how many rows one round over all columns fits in the time that is left."""
    if cost_s <= 0:
        return rows
    return min(rows, max(int(left_s / (cost_s * max(columns, 1))), _FEWEST_ROWS))


def _first(answers: Answers, count: int) -> Answers:
    shares = None if answers.probability is None else answers.probability[:count]
    return Answers(answers.prediction[:count], shares, answers.classes, answers.positive)


def _ordered(rises: dict[str, list[float]]) -> list[JSON]:
    columns: list[JSON] = [
        {
            "column": name,
            "mean": float(np.mean(found)),
            "sd": float(np.std(found, ddof=1)) if len(found) > 1 else None,
            "repeats": len(found),
        }
        for name, found in rises.items()
        if found
    ]
    return sorted(columns, key=lambda one: (-cast("float", one["mean"]), str(one["column"])))


def _rows_skipped(rows: int, kept: int, why: str) -> list[JSON]:
    return [] if kept >= rows else [{"what": f"{rows - kept} of {rows} rows", "why": why}]


def _columns_skipped(rises: dict[str, list[float]], fault: str, repeats: int) -> list[JSON]:
    found: list[JSON] = [
        {"what": f'column "{name}"', "why": fault} for name, one in rises.items() if not one
    ]
    fewest = min((len(one) for one in rises.values() if one), default=repeats)
    if fewest < repeats:
        found.append({"what": f"repeats after {fewest} of {repeats}", "why": fault})
    return found
