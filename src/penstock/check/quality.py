"""How good a version is by itself: measures, their intervals, and limits on them.

`measure` gives every measure that fits, `limits` turns the project's limits into checks, and
`default_margin` says how much worse than the champion still counts as "not worse".
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from penstock.check.answers import Answers
from penstock.check.measures import MEASURES, Measure
from penstock.check.paired import GROUPS_MIN, Z, resampled, variance_of_sum
from penstock.check.rows import Rows, Terms, class_names, delong, rows
from penstock.domain import CheckResult, Verdict
from penstock.errors import UsageError

ROWS_MIN = 50
"""Fewer rows decide nothing."""
MARGINS = {"low": 0.01, "medium": 0.005, "high": 0.005}
"""By risk: absolute for measures where more is better, a share of the champion's for losses."""
_BOOTSTRAP_REPLICATES = 400


def higher_is_better(metric: str) -> bool:
    """Say whether more of a measure is better."""
    return measure_of(metric).higher_is_better


def measure_of(metric: str) -> Measure:
    """Return the measure of a name.

    Raises
    ------
    UsageError
        PS301: no measure has this name.
    """
    found = MEASURES.get(metric)
    if found is None:
        near = difflib.get_close_matches(metric, MEASURES, n=1)
        hint = f'Did you mean "{near[0]}"?' if near else f"Choose from {', '.join(MEASURES)}."
        raise UsageError("PS301", f'"{metric}" is no measure of quality.', hint=hint)
    return found


def primary_metric(task: str, n_classes: int, *, probabilities: bool = True) -> str:
    """Name the measure for "is it better?" where the project names none.

    Examples
    --------
    >>> primary_metric("classification", 2), primary_metric("classification", 10)
    ('roc_auc', 'accuracy')
    >>> primary_metric("regression", 0)
    'mae'
    """
    if task == "regression":
        return "mae"
    return "roc_auc" if n_classes == 2 and probabilities else "accuracy"


def default_margin(metric: str, risk: str, champion: float) -> float:
    """Return how much worse than the champion is still "not worse".

    For measures where more is better .01 at risk low and .005 above; for losses the same
    fractions of the champion's loss, since a loss has the unit of its label.

    Examples
    --------
    >>> default_margin("roc_auc", "low", 0.8), default_margin("mae", "high", 40.0)
    (0.01, 0.2)
    """
    fraction = MARGINS[risk]
    return fraction if higher_is_better(metric) else fraction * abs(champion)


def judged_rows(
    metric: str, labels: NDArray[Any], *answers: Answers, terms: Terms | None = None
) -> list[Rows]:
    """Bring labels and one or several models' answers into one form for a measure.

    Raises
    ------
    UsageError
        PS301 for an unknown name, PS302 where the measure is not defined for such answers.
    """
    measure = measure_of(metric)
    numbers = measure.lists is not None and all(one.classes is None for one in answers)
    names = () if measure.regression or numbers else class_names(labels, *answers)
    known = terms or Terms()
    for one in answers:
        probabilities = one.probability is not None and one.classes is not None
        fits = _fitting(len(names), known, probabilities=probabilities)
        if metric not in fits:
            raise UsageError(
                "PS302",
                _misfit(measure, metric, len(names), known, probabilities),
                hint=f"Choose from {', '.join(fits)}.",
            )
    return [rows(labels, one, names=names, terms=known) for one in answers]


def _misfit(
    measure: Measure, metric: str, n_classes: int, terms: Terms, probabilities: bool
) -> str:
    if measure.priced and terms.cost is None:
        return f'"{metric}" needs to know what mistakes cost: [quality] cost.'
    if measure.lists is not None and terms.group is None:
        return f'"{metric}" needs to know which rows are one list: [evaluate] group.'
    lacking = "" if probabilities else " and no probabilities"
    return f'"{metric}" is not defined for a model with {n_classes} classes{lacking}.'


def _fitting(n_classes: int, terms: Terms, *, probabilities: bool) -> list[str]:
    lists, priced = terms.group is not None, terms.cost is not None
    return [
        name
        for name, measure in MEASURES.items()
        if measure.fits(n_classes, probabilities=probabilities, lists=lists, priced=priced)
    ]


def value(
    metric: str, labels: NDArray[Any], answers: Answers, terms: Terms | None = None
) -> float:
    """Compute one measure; NaN where the rows do not define it."""
    if not len(labels):
        return float("nan")
    return MEASURES[metric].value(judged_rows(metric, labels, answers, terms=terms)[0])


def measure(
    task: str, labels: NDArray[Any], answers: Answers, terms: Terms | None = None
) -> dict[str, float]:
    """Compute every measure that fits these answers and that the rows define."""
    names = () if task == "regression" else class_names(labels, answers)
    judged = rows(labels, answers, names=names, terms=terms)
    asked = fitting(task, labels, answers, terms=terms) if len(judged) else []
    found = {name: MEASURES[name].value(judged) for name in asked}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def fitting(
    task: str, labels: NDArray[Any], *answers: Answers, terms: Terms | None = None
) -> list[str]:
    """Name the measures that are defined for these answers of one or several models."""
    names = () if task == "regression" else class_names(labels, *answers)
    probabilities = all(one.probability is not None and one.classes is not None for one in answers)
    return _fitting(len(names), terms or Terms(), probabilities=probabilities)


def interval(
    metric: str,
    labels: NDArray[Any],
    answers: Answers,
    *,
    terms: Terms | None = None,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Bound a measure from both sides, each with 95 % confidence.

    DeLong for AUC, Wilson for accuracy, the mean's normal interval for losses, and a seeded
    bootstrap for the others; of groups of rows where the terms name them. None where the rows
    are too few to say.
    """
    judged = judged_rows(metric, labels, answers, terms=terms)[0]
    group = judged.group
    if len(judged) < 2 or (group is not None and len(np.unique(group)) < GROUPS_MIN):
        return None
    measure = MEASURES[metric]
    if metric == "accuracy" and measure.losses is not None and group is None:
        return wilson(int(measure.losses(judged).sum()), len(judged))
    if measure.weighed is not None:
        return _bootstrap(measure, judged, seed)
    at, variance = measure.value(judged), _variance(metric, judged)
    if variance is None:
        return None
    reach = Z * math.sqrt(variance)
    return at - reach, at + reach


def _variance(metric: str, judged: Rows) -> float | None:
    measure = MEASURES[metric]
    if metric == "roc_auc" and judged.group is None:
        positive = judged.truth == 1
        if not 2 <= int(positive.sum()) <= len(judged) - 2:
            return None
        return float(delong(positive, judged.score[None, :])[1][0, 0])
    if measure.lists is not None:
        found = measure.lists(judged)
        known = found[~np.isnan(found)]
        return float(known.var(ddof=1)) / len(known) if len(known) >= 2 else None
    if measure.parts is not None:
        parts = measure.parts(judged)
        return None if parts is None else variance_of_sum(parts, judged.group)
    assert measure.losses is not None, f"{measure.word} has no formula"
    losses = measure.losses(judged)
    return variance_of_sum((losses - losses.mean()) / len(losses), judged.group)


def _bootstrap(measure: Measure, judged: Rows, seed: int) -> tuple[float, float] | None:
    assert measure.weighed is not None, f"{measure.word} cannot be resampled"
    found = resampled(
        measure.weighed(judged),
        len(judged),
        group=judged.group,
        replicates=_BOOTSTRAP_REPLICATES,
        seed=seed,
    )
    known = found[~np.isnan(found)]
    if not len(known):
        return None
    low, high = np.quantile(known, [0.05, 0.95])
    return float(low), float(high)


def wilson(events: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Bound a proportion from both sides, each with `confidence`.

    Examples
    --------
    >>> low, high = wilson(1, 100)
    >>> round(low, 4), round(high, 4)
    (0.0022, 0.0436)
    """
    assert trials > 0, "an interval of nothing"
    z = float(norm.ppf(confidence))
    share, squared = events / trials, z * z / trials
    middle = (share + squared / 2) / (1 + squared)
    reach = z / (1 + squared) * math.sqrt(share * (1 - share) / trials + squared / (4 * trials))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def number(of: float) -> str:
    """Write a number as people read it: four digits that count, without noise.

    Examples
    --------
    >>> number(0.81239), number(45.1234), number(1234567.0), number(-0.0)
    ('0.8124', '45.12', '1234567', '0')
    """
    if of == 0:
        return "0"
    if abs(of) >= 1000:
        return f"{of:.0f}"
    return f"{of:.4g}" if abs(of) >= 0.0001 else f"{of:.1e}"


def limits(
    values: Mapping[str, float],
    limits: Mapping[str, tuple[float | None, float | None]],
    *,
    rows: int,
    intervals: Mapping[str, tuple[float, float] | None] | None = None,
    champion: Mapping[str, float] | None = None,
) -> list[CheckResult]:
    """Ask of each limit whether the version keeps it.

    The value itself is compared with the limit: failed when it breaks it; undecided when it
    keeps it on fewer than 50 rows, or is not defined by them. The interval is shown beside it.

    Parameters
    ----------
    values
        By measure, as `measure` returns them.
    limits
        By measure, the least and the greatest value that pass; None = unbounded.
    rows
        How many rows the values rest on.
    intervals, champion
        By measure, shown as evidence.

    Returns
    -------
    list
        One result a limit, named ``quality.<metric>``.
    """
    found: list[CheckResult] = []
    for metric, (least, greatest) in limits.items():
        word = measure_of(metric).word
        known = values.get(metric)
        bounds = (intervals or {}).get(metric)
        verdict, summary, reading = _against(word, known, (least, greatest), rows)
        evidence = {
            "metric": metric,
            "value": known,
            "limit": least if least is not None else greatest,
            "min": least,
            "max": greatest,
            "champion": (champion or {}).get(metric),
            "low": None if bounds is None else bounds[0],
            "high": None if bounds is None else bounds[1],
            "rows": rows,
            "reading": reading,
            "question": f"Is its {word} good enough?",
        }
        found.append(CheckResult(f"quality.{metric}", verdict, summary, evidence))
    return found


def _against(
    word: str, known: float | None, allowed: tuple[float | None, float | None], rows: int
) -> tuple[Verdict, str, str]:
    """Return verdict, summary and reading of a value against its least and greatest."""
    if known is None or math.isnan(known):
        return Verdict.UNDECIDED, f"{word} is not defined by these {rows} rows", "few cases"
    least, greatest = allowed
    if least is not None and known < least:
        summary = f"{word} {number(known)} < {number(least)}"
        return Verdict.FAILED, summary, "below the limit"
    if greatest is not None and known > greatest:
        summary = f"{word} {number(known)} > {number(greatest)}"
        return Verdict.FAILED, summary, "above the limit"
    summary = f"{word} {number(known)}{_kept(allowed)}"
    if rows < ROWS_MIN:
        return Verdict.UNDECIDED, f"{summary}, but on {rows} rows of {ROWS_MIN}", "few cases"
    return Verdict.PASSED, summary, "within the limit"


def _kept(allowed: Sequence[float | None]) -> str:
    least, greatest = allowed
    parts = [
        f" >= {number(least)}" if least is not None else "",
        f" <= {number(greatest)}" if greatest is not None else "",
    ]
    return " and".join(part for part in parts if part)
