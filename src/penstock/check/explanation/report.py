"""The explanation of a version, everything within one budget of time.

What matters most comes first, so that a short budget still tells something: a first answer, each
column shuffled once, the curves of the columns that matter, rows one by one. Each part has its
share of the budget and hands on what it does not need.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
from scipy import stats

from penstock.check.answers import Answers, Ask, AskError
from penstock.check.evaluation import Evaluation
from penstock.check.explanation import dependence, examples, words
from penstock.check.explanation.asking import (
    Floats,
    Meter,
    OutOfTimeError,
    Target,
    target_of,
)
from penstock.check.explanation.exact import Exact, held_against
from penstock.check.explanation.importance import Shuffling, Unit
from penstock.check.explanation.likeness import alike, as_floats, grouped, kind_of
from penstock.check.explanation.shapley import Player, Sampler, Values, sampling
from penstock.check.quality import higher_is_better, primary_metric
from penstock.domain import JSON, CheckResult, Verdict

SCHEMA = "penstock.explain/1"
_FEWEST_ROWS = 200
_Z = 1.959964
"""Quantile .975 of the normal law."""
_SHARES = {"importance": 0.35, "curves": 0.55, "rows": 0.95}
_ROWS_WITH_EXACT = 0.7
"""The rows' part ends here when an exact explainer waits for its turn."""
_LEAST_EXACT_S = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything there is; what the budget does not allow is left out and named."""

    max_rows: int = 10_000
    """Shuffled rows."""
    repeats: int = 5
    seed: int = 0
    metric: str | None = None
    """A measure of quality; None = the task's main one."""
    clock: Callable[[], float] = time.monotonic
    """Seconds."""
    explained: int = 200
    """Rows that get Shapley values."""
    background: int = 100
    pairs: int = 64
    """Most pairs of orders a row."""
    precision: float = 0.02
    """Noise that is good enough: of a column's mean effect, as a share of the sum of all."""
    players: int = 40
    """Columns that are told apart by Shapley values; the rest is one."""
    curves: int = 6
    curve_rows: int = 200
    shown: bool = True
    """Whether single rows are shown."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is explained."""

    ask: Ask
    evaluation: Evaluation
    columns: Sequence[str]
    """What the version wants, in its order."""
    task: str
    """``classification`` or ``regression``."""
    only: Sequence[str] = ()
    """Columns to explain, when not all."""
    exact: Exact | None = None
    """The exact explainer of the model's environment, where there is one."""
    told: Callable[[float, float], None] = lambda _share, _left_s: None
    """Told how far it is: a share, and the seconds that are left at most."""


@dataclass(slots=True)
class _Explaining:
    """The work on one report, part by part."""

    subject: Subject
    plan: Plan
    meter: Meter
    random: np.random.Generator
    evaluation: Evaluation
    rows: pa.Table
    report: dict[str, Any]
    skipped: list[JSON] = field(default_factory=list[JSON])

    def skip(self, what: str, why: object) -> None:
        if isinstance(why, AskError):
            why = f"it answered {why.status}: {why.message}"
        self.skipped.append({"what": what, "why": str(why)})


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
    work = _Explaining(
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
    return cast("JSON", _plain(report))


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


def _explain(work: _Explaining, target: Target, answers: Answers, chosen: Any) -> None:
    report, plan, meter = work.report, work.plan, work.meter
    report["target"] = {"unit": target.unit, "classes": list(target.classes)}
    units = _units(work, target, answers)
    report["rows"] = work.rows.num_rows
    shuffling = _shuffling(work, answers)
    _importance(work, shuffling, units, share=_SHARES["importance"])
    order = [str(one["column"]) for one in report["columns"]]
    with meter.part("curves", _SHARES["curves"]):
        _curves(work, target, order)
    exact = work.subject.exact if target.width == 1 and target.unit != "class" else None
    with meter.part("rows", _SHARES["rows"] if exact is None else _ROWS_WITH_EXACT):
        _rows(work, target, answers, order, chosen=chosen, exact=exact)
    if any(len(one.repeats) < plan.repeats for one in shuffling.found.values()):
        _importance(work, shuffling, units, share=1.0)
    _importance_skipped(work, shuffling, units)
    if not report["shap"]:
        return
    _rank(report)


# ---- first answers, importance -------------------------------------------------------------


def _first_answers(work: _Explaining) -> Answers:
    """Ask for the rows as they are, as many as let every column be shuffled three times."""
    meter, rows = work.meter, work.rows.num_rows
    with meter.part("first answers", _SHARES["importance"]):
        few = min(rows, 50)
        first = meter.answers(work.rows.slice(0, few))
        each = 3 * max(len(work.rows.column_names), 1) + 1
        # The numbers of `fitting` are of the importance's share, which the part's end states.
        fit = meter.fitting(each, min(rows, _FEWEST_ROWS), rows)
        if fit < rows:
            work.skip(f"{rows - fit} of {rows} rows", "the budget of time")
        _take(work, fit)
        if fit <= few:
            return _head(first, fit)
        rest = meter.answers(work.rows.slice(few))
    return _both(first, rest)


def _take(work: _Explaining, count: int) -> None:
    work.evaluation = work.evaluation.take(np.arange(count))
    work.rows = work.rows.slice(0, count)


def _units(work: _Explaining, target: Target, answers: Answers) -> list[Unit]:
    names = _wanted(work)
    score = target.numbers(answers)[:, 0]
    groups = alike(work.rows.select(names), score) if work.rows.num_rows > 2 else []
    work.report["groups"] = [
        {"columns": list(columns), "correlation": least} for columns, least in groups
    ]
    return [*((name,) for name in names), *(columns for columns, _ in groups)]


def _wanted(work: _Explaining) -> list[str]:
    names = list(work.rows.column_names)
    if not work.subject.only:
        return names
    for name in work.subject.only:
        if name not in names:
            work.skip(f'column "{name}"', "[explain] columns names it, and the model has none")
    return [name for name in names if name in work.subject.only]


def _shuffling(work: _Explaining, answers: Answers) -> Shuffling:
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
    work: _Explaining, shuffling: Shuffling, units: Sequence[Unit], *, share: float
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


def _importance_skipped(work: _Explaining, shuffling: Shuffling, units: Sequence[Unit]) -> None:
    repeats = work.plan.repeats
    lacking = [u for u in units if u not in shuffling.found or not shuffling.found[u].repeats]
    for unit in lacking:
        what = f'column "{unit[0]}"' if len(unit) == 1 else f"{', '.join(unit)} together"
        work.skip(what, shuffling.fault)
    counts = [len(one.repeats) for one in shuffling.found.values() if one.repeats]
    if counts and min(counts) < repeats:
        work.skip(f"repeats after {min(counts)} of {repeats}", shuffling.fault)


# ---- curves --------------------------------------------------------------------------------


def _curves(work: _Explaining, target: Target, order: Sequence[str]) -> None:
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


def _by_worth(work: _Explaining, order: Sequence[str]) -> list[str]:
    """Order columns by their own worth or, for one among alike ones, by the group's."""
    worth = {str(one["column"]): float(one["mean"]) for one in work.report["columns"]}
    for group in work.report["groups"]:
        for name in group["columns"]:
            if name in worth and "mean" in group:
                worth[name] = max(worth[name], float(group["mean"]) / len(group["columns"]))
    return sorted(order, key=lambda name: -worth.get(name, 0.0))


def _can_be_drawn(work: _Explaining, name: str) -> bool:
    return kind_of(work.rows.column(name)) in ("number", "category")


# ---- rows one by one -----------------------------------------------------------------------


def _rows(
    work: _Explaining,
    target: Target,
    answers: Answers,
    order: Sequence[str],
    *,
    chosen: Any,
    exact: Exact | None,
) -> None:
    shown = examples.choose(target, answers, work.evaluation.label)
    players = _players(work, order)
    if len(players) < 2:
        work.skip("what each column adds", "there is one column")
        return
    asked = 2 * (len(players) - 1)
    most = min(work.plan.explained, work.rows.num_rows)
    count = work.meter.fitting(asked * 8, min(16, most), most)
    behind = min(work.plan.background, work.rows.num_rows)
    first = [row for _, row in shown]
    others = [row for row in range(work.rows.num_rows) if row not in first]
    explained = np.array([*first, *others][: max(count, len(first))])
    background = work.rows.slice(work.rows.num_rows - behind)
    tables = (work.rows.take(pa.array(explained)), background)
    target = Target(
        target.unit, target.classes, log_odds=exact is not None and target.unit == "probability"
    )
    try:
        sampler = Sampler(work.meter, target, tables, players, work.random)
    except (OutOfTimeError, AskError) as error:
        work.skip("what each column adds to the answers", error)
        return
    ended = _sampled(work, sampler, target, (len(explained), len(first)))
    values = sampler.values()
    if not (values.pairs > 0).all():
        done = values.pairs > 0
        if done.sum() < len(first) + 2:
            work.skip("what each column adds to the answers", ended)
            return
        values = _some(values, done)
        explained = explained[done]
        tables = (work.rows.take(pa.array(explained)), background)
    _add_values(work, target, values, players, tables[0], ended)
    if work.plan.shown:
        rows = [(why, row, int(chosen[row])) for why, row in shown]
        _add_examples(work, values, players, rows, answers)
    if exact is not None:
        _add_exact(work, exact, target, values, players, tables)


def _players(work: _Explaining, order: Sequence[str]) -> list[Player]:
    """Let the columns that matter most play by themselves, and the others as one."""
    names = work.rows.column_names
    alone = set([*order, *(n for n in names if n not in order)][: work.plan.players])
    if work.subject.only:
        alone = {name for name in work.subject.only if name in names}
    rest = tuple(name for name in names if name not in alone)
    if len(rest) == 1 and not work.subject.only:
        alone.add(rest[0])
        rest = ()
    players = [Player(name, (name,)) for name in names if name in alone]
    if rest:
        players.append(Player(f"the other {len(rest)} columns", rest))
        if not work.subject.only:
            work.skip(f"Shapley values of {len(rest)} columns, each by itself", "too many")
    return players


def _sampled(work: _Explaining, sampler: Sampler, target: Target, counts: tuple[int, int]) -> str:
    """Sample until it is precise enough; return why it ended."""
    try:
        for number in sampling(sampler, *counts):
            if number < 4:
                continue
            if _noise(target, sampler.values()) <= work.plan.precision:
                return "precise enough"
            if number >= work.plan.pairs:
                return f"{number} pairs of orders a row"
    except (OutOfTimeError, AskError) as error:
        if isinstance(error, AskError):
            work.skip("more samples", error)
        return str(error)
    raise AssertionError("sampling goes on until it is stopped")


def _noise(target: Target, values: Values) -> float:
    """Return the largest part of a column's mean effect that may be noise, as a share of all."""
    sizes = target.size(values.effects).mean(axis=0)
    total = float(sizes.sum())
    if total <= 0 or not math.isfinite(total):
        return 0.0
    error = target.size(values.error)
    over_rows = np.sqrt(np.square(error).mean(axis=0) / len(error))
    return float((_bias(target, values) + _Z * over_rows).max()) / total


def _bias(target: Target, values: Values) -> Floats:
    """Return by how much noise may raise each player's mean size, shape ``(p,)``.

    The size of an estimate with error s around 0 is s times the root of 2 / pi in the mean;
    far from 0 noise cancels. It is taken at the estimate, so it is itself an estimate.
    """
    size, error = target.size(values.effects), target.size(values.error)
    error = np.where(np.isfinite(error), error, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where(error > 0, size / error, np.inf)
    found = error * math.sqrt(2 / math.pi) * np.exp(-np.square(t) / 2)
    return cast("Floats", found.mean(axis=0))


def _some(values: Values, of: Any) -> Values:
    return Values(
        values.effects[of], values.error[of], values.answers[of], values.base, values.pairs[of]
    )


def _add_values(
    work: _Explaining,
    target: Target,
    values: Values,
    players: Sequence[Player],
    rows: pa.Table,
    ended: str,
) -> None:
    size = target.size(values.effects)
    mean, bias = size.mean(axis=0), _bias(target, values)
    error = size.std(axis=0, ddof=1) / math.sqrt(len(size))
    found: dict[str, JSON] = {}
    for at, player in enumerate(players):
        found[player.name] = {
            "mean": float(mean[at]),
            "se": float(error[at]),
            "low": float(max(mean[at] - _Z * error[at] - bias[at], 0.0)),
            "high": float(mean[at] + _Z * error[at]),
            **_direction(target, values.effects[:, at], rows, player),
        }
    by_name = {str(one["column"]): one for one in work.report["columns"]}
    for name, told in found.items():
        if name in by_name:
            by_name[name]["shap"] = told
    apart = [one for one in players if len(one.columns) > 1 or one.name not in by_name]
    work.report["shap"] = {
        "rows": len(size),
        "background": work.plan.background,
        "base": values.base[: target.width].tolist(),
        "pairs": int(np.median(values.pairs)),
        "noise": _noise(target, values),
        "ended": ended,
        "total": float(mean.sum()),
        "others": [{"column": one.name, **found[one.name]} for one in apart],
    }


def _direction(target: Target, effects: Floats, rows: pa.Table, player: Player) -> JSON:
    """Say whether higher values raise the answer: a rank correlation with its interval."""
    none: JSON = {"direction": None, "correlation": None}
    if target.width > 1 or len(player.columns) > 1:
        return none
    column = rows.column(player.name)
    if kind_of(column, rows_a_name=1) != "number":
        return none
    values = as_floats(column)
    known = np.isfinite(values)
    moved, at = effects[known, 0], values[known]
    if known.sum() < 10 or np.ptp(at) == 0 or np.ptp(moved) == 0:
        return none
    correlation = float(cast("Any", stats.spearmanr(at, moved)).statistic)
    held = math.atanh(max(-0.999999, min(0.999999, correlation)))
    half = _Z * 1.03 / math.sqrt(known.sum() - 3)
    low, high = math.tanh(held - half), math.tanh(held + half)
    direction = "up" if low > 0.3 else "down" if high < -0.3 else "mixed"
    return {"direction": direction, "correlation": correlation}


def _add_examples(
    work: _Explaining,
    values: Values,
    players: Sequence[Player],
    shown: Sequence[tuple[str, int, int]],
    answers: Answers,
) -> None:
    """Tell the rows that stand first among the explained ones."""
    secret = set(work.evaluation.sensitive.column_names)
    classes = work.report["target"]["classes"]
    for place, (why, row, number) in enumerate(shown):
        at = int(values.answers[place, : len(classes) or 1].argmax())
        effects: list[dict[str, Any]] = [
            {
                "column": player.name,
                "value": _shown(work.rows, player, row, secret),
                "effect": float(values.effects[place, index, at]),
                "se": _finite(values.error[place, index, at]),
            }
            for index, player in enumerate(players)
        ]
        work.report["examples"].append(
            {
                "why": why,
                "row": number + 1,
                "of": classes[at] if classes else None,
                "answer": float(values.answers[place, at]),
                "base": float(values.base[at]),
                "prediction": _value(answers.prediction[row]),
                "truth": _value(work.evaluation.label[row]),
                "effects": sorted(effects, key=lambda one: -abs(one["effect"])),
            }
        )


def _shown(rows: pa.Table, player: Player, row: int, secret: set[str]) -> object:
    if len(player.columns) > 1:
        return None
    if player.name in secret:
        return "not shown: sensitive"
    return _value(rows.column(player.name)[row].as_py())


def _value(value: Any) -> object:
    value = _python(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return f"{len(cast('list[Any]', value))} numbers"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _add_exact(
    work: _Explaining,
    exact: Exact,
    target: Target,
    values: Values,
    players: Sequence[Player],
    tables: tuple[pa.Table, pa.Table],
) -> None:
    if any(len(player.columns) > 1 for player in players):
        work.skip("exact values", "too many columns to hold them against")
        return
    left_s = work.meter.budget_s - sum(one.seconds for one in work.meter.spent.values())
    left_s = min(left_s, max(work.meter.left_s, work.meter.budget_s * (1 - _ROWS_WITH_EXACT)))
    if left_s < _LEAST_EXACT_S:
        work.skip("exact values", "the budget of time")
        return
    found = held_against(exact(*tables, left_s), values, target, [p.name for p in players])
    work.report["exact"] = found
    if not found["shown"]:
        work.skip("exact values", found["why"])


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


def _finite(number: Any) -> float | None:
    return float(number) if math.isfinite(number) else None


def _python(value: Any) -> Any:
    return cast("Any", value).item() if isinstance(value, np.generic) else value


def _plain(value: Any) -> Any:
    """Return plain JSON: six digits that count, no NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in cast("dict[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in cast("list[Any]", value)]
    value = _python(value)
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value
