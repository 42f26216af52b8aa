"""The fairness of a version: every sensitive column, alone and crossed with others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from numpy.typing import NDArray

from penstock.check.answers import Answers
from penstock.check.evaluation import Evaluation
from penstock.check.fairness import gaps, words
from penstock.check.fairness.groups import Grouping, grouping, intersections
from penstock.check.fairness.rates import (
    BASE,
    MIN_CASES,
    MIN_ROWS,
    SELECTION,
    Table,
    Task,
    positives_of,
    reliability,
    table,
    task_of,
)
from penstock.config import Fairness
from penstock.domain import JSON, CheckResult, Verdict
from penstock.errors import StoppedError

SCHEMA = "penstock.fairness/1"
QUESTIONS = {
    "demographic_parity": "Do groups get a yes equally often?",
    "equalized_odds": "Are errors spread alike over groups?",
    "equal_opportunity": "Are the true ones found equally often in every group?",
    "predictive_parity": "Is a yes equally often right in every group?",
    "accuracy": "Is it right equally often for every group?",
    "calibration": "Are its probabilities equally true in every group?",
    "mean_error": "Is it off by the same in every group?",
    "mean_absolute_error": "Are its errors as large in every group?",
}
REPORT_QUESTIONS = {
    "demographic_parity": "How far apart are groups in getting a yes?",
    "equalized_odds": "How far apart are groups in getting errors?",
    "equal_opportunity": "How far apart are groups in being found?",
    "predictive_parity": "How far apart are groups in how often a yes is right?",
    "accuracy": "How far apart are groups in getting a right answer?",
    "calibration": "How far apart are groups in how true probabilities are?",
    "mean_error": "How far apart are groups in their mean error?",
    "mean_absolute_error": "How far apart are groups in the size of their errors?",
    "four_fifths": "How does each group's yes compare with the best group's?",
}
"""Asked where no limit is set: "passed" then only says that the answer is known."""
_DEFAULTS = {
    "binary": "demographic_parity",
    "multiclass": "accuracy",
    "regression": "mean_error",
}
_FITTING = {
    "binary": (
        "demographic_parity",
        "equalized_odds",
        "equal_opportunity",
        "predictive_parity",
        "accuracy",
        "calibration",
    ),
    "regression": ("mean_error", "mean_absolute_error"),
}
_FITTING["multiclass"] = _FITTING["binary"]
_SHARES = ("demographic_parity", "equalized_odds", "equal_opportunity", "predictive_parity")
_SHARES_TOO = (*_SHARES, "accuracy")


@dataclass(frozen=True, slots=True)
class FairnessReport:
    """What was found for every sensitive column."""

    results: list[CheckResult]
    """``fairness.<word>.<column>``, ``fairness.<word>_ratio.<column>``, ``…four_fifths…``."""
    report: JSON
    """The whole of it as plain JSON, schema `SCHEMA`; see `fairness`."""


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """One grouping with every measure of it."""

    groups: Grouping
    tables: tuple[Table, ...]
    task: Task
    family: str
    """What limits speak of."""
    limit: float | None = None
    min_ratio: float | None = None
    held: bool = True
    """Gives results of its own; an intersection that nobody asked for is only reported."""
    alpha: float = gaps.ALPHA

    def differences(self) -> dict[str, gaps.Gap | None]:
        """Return the largest difference in every sense that fits."""
        there = {one.measure.name for one in self.tables}
        return {
            family: gaps.difference(
                gaps.chosen(self.tables, family),
                limit=self.limit if family == self.family else None,
                alpha=self.alpha if family == self.family else gaps.ALPHA,
            )
            for family, parts in gaps.FAMILIES.items()
            if there.issuperset(parts)
        }

    def ratio(self) -> gaps.Gap | None:
        """Return the smallest ratio in the sense that limits speak of."""
        if self.family not in _SHARES_TOO:
            return None
        return gaps.smallest_ratio(gaps.chosen(self.tables, self.family), alpha=self.alpha)

    def not_judged(self) -> list[str]:
        """Name the groups that are too small for what limits speak of."""
        parts = gaps.chosen(self.tables, self.family)
        return [
            name
            for number, name in enumerate(self.groups.names)
            if not all(one.judged[number] for one in parts)
        ]


def fairness(
    evaluation: Evaluation,
    labels: NDArray[Any],
    answers: Answers,
    *,
    task: str,
    settings: Fairness | None = None,
    label: str = "the label",
) -> FairnessReport:
    """Compare the groups of every sensitive column, and of columns crossed.

    Parameters
    ----------
    evaluation
        Its ``sensitive`` columns, in the same rows as `labels` and `answers`.
    task
        ``classification`` or ``regression``.
    settings
        ``[fairness]``. Without a limit it is a report: it can be undecided, never failed.
    label
        Name of the label's column; errors of numbers have its unit.

    Returns
    -------
    FairnessReport
        In its ``report``: ``columns``, each with ``groups`` (every measure with its interval,
        or None), ``differences`` and ``ratio``; ``skipped``; ``change``, None until a champion
        is held against it; ``text``: the same in sentences.

    Raises
    ------
    StoppedError
        PS350: the metric is not defined for this task. PS351: bands for what holds no numbers.
    """
    settings = settings or Fairness()
    of = task_of(labels, answers, task)
    family = _family(of, settings)
    compared, left = _compared(evaluation, of, family, settings)
    left += [(f"class {name}", "only the most frequent are told apart") for name in of.skipped]
    columns = [_column(one) for one in compared]
    results = [result for one in compared if one.held for result in _results(one)]
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "task": of.kind,
        "label": label,
        "positive": of.positive,
        "rows": len(labels),
        "data_digest": evaluation.digest,
        "metric": family,
        "columns": columns,
        "skipped": [{"what": what, "why": why} for what, why in left],
        "change": None,
    }
    for one in columns:
        one["text"] = words.column(report, one)
    report["text"] = " ".join(one["text"] for one in columns if one["held"])
    return FairnessReport(results, cast("JSON", _plain(report)))


def _family(of: Task, settings: Fairness) -> str:
    if settings.metric is None:
        return _DEFAULTS[of.kind]
    family = settings.metric.removesuffix("_difference")
    fitting = _FITTING[of.kind]
    without = family == "calibration" and all(rows.score is None for rows in of.forms)
    if family in fitting and not without:
        return family
    kind = {"binary": "two classes", "multiclass": "several classes", "regression": "numbers"}
    why = "a model that tells no probabilities" if without else f"a model of {kind[of.kind]}"
    known = [f"{one}_difference" for one in fitting if not (without and one == family)]
    raise StoppedError(
        "PS350",
        f"[fairness] metric = {settings.metric} is not defined for {why}.",
        hint=f"Choose from {', '.join(known)}, or take the key out.",
    )


def _compared(
    evaluation: Evaluation, of: Task, family: str, settings: Fairness
) -> tuple[list[Compared], list[tuple[str, str]]]:
    table_of = evaluation.sensitive
    single = {
        name: grouping(name, table_of.column(name), settings.bands.get(name, ()))
        for name in table_of.column_names
    }
    crossed, left = intersections(single, settings.intersections)
    found: list[tuple[Grouping, float | None, float | None, bool]] = []
    for name, one in single.items():
        own = settings.limits.get(name)
        of_all = settings if own is None else own
        limit, ratio = of_all.max, of_all.min_ratio
        found.append((one, limit, ratio, True))
    asked = settings.intersections is not None
    for one in crossed:
        limit, ratio = (settings.max, settings.min_ratio) if asked else (None, None)
        found.append((one, limit, ratio, asked))
    if family not in _SHARES_TOO and any(one[2] is not None for one in found):
        raise StoppedError(
            "PS350",
            f"[fairness] min_ratio is not defined for {family.replace('_', ' ')}.",
            hint="Set max instead, in units of the label.",
        )
    held = sum((limit is not None) + (ratio is not None) for _, limit, ratio, _ in found)
    return [
        Compared(
            one,
            tuple(table(measure, rows, one) for measure, rows in of.measured()),
            of,
            family,
            limit,
            ratio,
            asked_for,
            # All limits together fail a fair version in 5 of 100 cases.
            gaps.ALPHA / held if limit is not None or ratio is not None else gaps.ALPHA,
        )
        for one, limit, ratio, asked_for in found
    ], left


# ---- as JSON -------------------------------------------------------------------------------


def _column(of: Compared) -> dict[str, Any]:
    names = of.groups.names
    differences = of.differences()
    ratio = of.ratio()
    rows = of.task.forms[-1 if of.task.kind == "binary" else 0]
    bins: list[list[JSON]] = [[] for _ in names]
    if of.task.kind == "binary":
        bins = reliability(rows, of.groups)
    counts = of.groups.counts
    positives = positives_of(rows, of.groups)
    gap = differences.get(of.family)
    base = differences.get("base_rate")
    between = _between(of, gap) if gap is not None and base is not None else None
    return {
        "column": of.groups.name,
        "of": list(of.groups.of),
        "held": of.held,
        "measure": of.family,
        "limit": of.limit,
        "min_ratio": of.min_ratio,
        "beyond": of.groups.beyond,
        "not_judged": of.not_judged(),
        "needs": _needs(of, gap),
        "base_gap": between,
        "groups": [
            {
                "group": name,
                "rows": int(counts[number]),
                "positives": int(positives[number]) if of.task.kind == "binary" else None,
                "judged": all(bool(t.judged[number]) for t in gaps.chosen(of.tables, of.family)),
                "few": _few(of, number, int(counts[number]), int(positives[number])),
                **{one.key: _interval(one, number) for one in of.tables},
                "bins": bins[number],
            }
            for number, name in enumerate(names)
        ],
        "differences": {
            family: None if one is None else one.as_json(names)
            for family, one in differences.items()
        },
        "ratio": None if ratio is None else ratio.as_json(names),
    }


def _interval(one: Table, group: int) -> JSON | None:
    found = one.interval(group)
    return None if found is None else {**found.as_json(), "cases": int(one.counts[group])}


def _between(of: Compared, gap: gaps.Gap) -> float | None:
    """Return the difference of the true shares between the two groups of the gap."""
    name = BASE.name if gap.of is None else f"{BASE.name}:{gap.of}"
    base = next((one for one in of.tables if one.key == name), None)
    if base is None or of.family != "demographic_parity":
        return None
    return float(base.values[gap.most] - base.values[gap.least])


def _few(of: Compared, number: int, rows: int, positives: int) -> str | None:
    """Say what a group lacks to be judged."""
    if rows < MIN_ROWS:
        return f"needs {MIN_ROWS - rows} more rows"
    parts = gaps.chosen(of.tables, of.family)
    if all(one.judged[number] for one in parts):
        return None
    if of.task.kind == "binary" and parts[0].measure.positives and positives < MIN_CASES:
        lacking = MIN_CASES - positives
        return f"needs {lacking} more truly positive {'row' if lacking == 1 else 'rows'}"
    lacking = max(int(MIN_CASES - one.counts[number]) for one in parts)
    return f"needs {max(lacking, 1)} more cases of the kind that is compared"


def _needs(of: Compared, gap: gaps.Gap | None) -> str:
    """Say what would turn undecided into an answer."""
    if of.limit is None or gap is None:
        return ""
    verdict, _, _ = gaps.within(gap.found, of.limit, least=False)
    if verdict is not Verdict.UNDECIDED:
        return ""
    return gaps.needed(gap, of.limit, of.groups.names)


# ---- as results of checks ------------------------------------------------------------------


def _results(of: Compared) -> list[CheckResult]:
    found = [_difference(of)]
    if of.min_ratio is not None:
        found.append(_ratio(of, of.min_ratio))
    if any(one.key == SELECTION.name for one in of.tables):
        found.append(_four_fifths(of))
    return found


def _evidence(of: Compared, word: str, *, held: bool) -> dict[str, Any]:
    asked = QUESTIONS if held and word in QUESTIONS else REPORT_QUESTIONS
    return {
        "question": asked[word],
        "column": of.groups.name,
        "rows": int(of.groups.counts.sum()),
        "not_judged": of.not_judged()[:20],
    }


def _alone(of: Compared) -> str:
    """Say why nothing can be compared."""
    names = of.groups.names
    if len(names) == 1:
        return f"{of.groups.name}: every row is {names[0]}, so there is nobody to compare with"
    few = [
        (name, _few(of, number, int(of.groups.counts[number]), _positives(of, number)))
        for number, name in enumerate(names)
    ]
    told = ", ".join(f"{name} {why}" for name, why in few[:5] if why)
    needs = f"two groups with {MIN_ROWS} rows and {MIN_CASES} cases are needed"
    return f"{of.groups.name}: {needs}{': ' if told else ''}{told}"


def _positives(of: Compared, number: int) -> int:
    return int(positives_of(of.task.forms[0], of.groups)[number])


def _difference(of: Compared) -> CheckResult:
    """Judge the difference that the limit speaks of."""
    gap = of.differences()[of.family]
    name = f"fairness.{of.family}.{of.groups.name}"
    evidence = _evidence(of, of.family, held=of.limit is not None)
    evidence |= {"limit": of.limit}
    if gap is None:
        evidence["reading"] = "few cases"
        return CheckResult(name, Verdict.UNDECIDED, _alone(of), evidence)
    verdict, sign, reading = Verdict.PASSED, "", "reported"
    if of.limit is not None:
        verdict, sign, reading = gaps.within(gap.found, of.limit, least=False)
    evidence |= {**gap.as_json(of.groups.names), "reading": reading}
    limit = "" if of.limit is None else f" {sign} {of.limit:g}"
    summary = (
        f"{of.groups.name}: largest difference {gap.found.value:.3g}{limit}"
        f" (95 % {gap.found.low:.3g} to {gap.found.high:.3g})"
    )
    needs = _needs(of, gap)
    if needs:
        evidence["needs"] = needs
        summary += f"; {needs}"
    small = of.not_judged()
    if small:
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        summary += f"; too few to judge: {', '.join(small[:5])}{more}"
    return CheckResult(name, verdict, summary, evidence)


def _ratio(of: Compared, least: float) -> CheckResult:
    """Judge the smallest ratio to the highest group."""
    name = f"fairness.{of.family}_ratio.{of.groups.name}"
    evidence = _evidence(of, of.family, held=True) | {"limit": least, "min": least}
    gap = of.ratio()
    if gap is None:
        evidence["reading"] = "few cases"
        return CheckResult(name, Verdict.UNDECIDED, _alone(of), evidence)
    verdict, sign, reading = gaps.within(gap.found, least, least=True)
    evidence |= {**gap.as_json(of.groups.names), "reading": reading}
    summary = (
        f"{of.groups.name}: {of.groups.names[gap.least]} has {gap.found.value:.2f} of the rate of"
        f" {of.groups.names[gap.most]} {sign} {least:g}"
        f" (95 % {gap.found.low:.2f} to {gap.found.high:.2f})"
    )
    return CheckResult(name, verdict, summary, evidence)


def _four_fifths(of: Compared) -> CheckResult:
    """Report the lowest ratio to the best group; by custom 0.8 is asked, here nothing is."""
    name = f"fairness.four_fifths.{of.groups.name}"
    evidence = _evidence(of, "four_fifths", held=False)
    selected = next(one for one in of.tables if one.key == SELECTION.name)
    found = gaps.ratios(selected, of.groups.names)
    if not found:
        evidence["reading"] = "few cases"
        nobody = bool(selected.judged.sum() > 1)
        why = "nobody gets a yes" if nobody else "no two groups can be compared"
        return CheckResult(name, Verdict.UNDECIDED, f"{of.groups.name}: {why}", evidence)
    worst = min(found, key=lambda one: one.share.value)
    rule = gaps.four_fifths(found)
    evidence |= {**worst.share.as_json(), "group": worst.group, "reading": "reported"}
    evidence["four_fifths"] = rule.value
    told: dict[Verdict, str] = {
        Verdict.PASSED: "at least four fifths",
        Verdict.FAILED: "provably under four fifths",
        Verdict.UNDECIDED: "four fifths can be neither shown nor excluded",
    }
    share = f"{worst.share.value:.2f} of the best group's rate"
    summary = f"{of.groups.name}: {worst.group} has {share}; {told[rule]}"
    return CheckResult(name, Verdict.PASSED, summary, evidence)


def _plain(value: Any) -> Any:
    """Return plain JSON without NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in cast("dict[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in cast("Sequence[Any]", value)]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value
