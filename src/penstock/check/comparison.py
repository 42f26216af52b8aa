"""Is the challenger at most `margin` worse than the champion, on the same rows?

    difference     challenger minus champion, turned so that more is better
    low, high      its bounds, each with 95 % confidence
    passed         low > -margin, and no slice is provably worse
    failed         high < -margin, or a slice is provably worse (Holm over the slices)
    undecided      otherwise: `needed_rows` says how many rows would do

"Higher wins" is never asked: with few rows it lets half of the equal and many of the worse
challengers pass. Start reading at `compare`; `guardrails` asks the same of measures that must
not suffer, `table` shows all of them.

Reference: Holm 1979. How each difference is known stands in `paired`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from penstock.check import lay
from penstock.check.answers import Answers, class_text
from penstock.check.paired import CASES_MIN, GROUPS_MIN, Difference, Pair, Z, mcnemar_mid_p
from penstock.check.quality import ROWS_MIN, fitting, judged_rows, number
from penstock.check.rows import Terms
from penstock.domain import JSON, CheckResult, Verdict

SLICE_ROWS_MIN = 100
"""Rows, below which a slice is not judged."""
_Z_POWER = 0.8416212335729143
"""Quantile .8 of the normal law: the chance to pass that `needed_rows` plans for."""
_TABLE_REPLICATES = 500
"""For measures that are shown beside the verdict, and decide nothing."""


def decide(difference: Difference, margin: float) -> Verdict:
    """Say passed when provably less than `margin` worse, failed when provably more."""
    if difference.low > -margin:
        return Verdict.PASSED
    return Verdict.FAILED if difference.high < -margin else Verdict.UNDECIDED


def needed_rows(rows: int, se: float, margin: float, *, assumed: float = 0.0) -> float:
    """Rows at which a challenger passes with a chance of 80 %.

    Parameters
    ----------
    rows, se
        The standard error that was seen, and on how many rows; it falls with their root.
    margin
        Of the gate.
    assumed
        The challenger's true difference.

    Returns
    -------
    float
        Infinite where the assumed difference lies on or beyond the margin.
    """
    if assumed <= -margin:
        return math.inf
    return rows * ((Z + _Z_POWER) * se / (margin + assumed)) ** 2


def chance_to_pass(se: float, margin: float, *, assumed: float = 0.0) -> float:
    """Chance that a challenger with a true difference of `assumed` passes."""
    return float(norm.cdf((margin + assumed) / se - Z))


def holm(p_values: Sequence[float], alpha: float = 0.05) -> list[bool]:
    """Say which hypotheses Holm's step-down procedure rejects.

    Examples
    --------
    >>> holm([0.04, 0.001, 0.02])
    [True, True, True]
    >>> holm([0.04, 0.001, 0.03])
    [False, True, False]
    """
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


# ---- the gate ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """Two models' answers to the same n rows, and what the project says about the rows."""

    labels: NDArray[Any]
    """Shape ``(n,)``, without nulls."""
    champion: Answers
    challenger: Answers
    terms: Terms = field(default_factory=Terms)

    def pair(self, metric: str) -> Pair:
        """Bring the answers into the form that a measure wants.

        Raises
        ------
        UsageError
            PS301 for an unknown measure, PS302 for one that does not fit these answers.
        """
        both = (self.champion, self.challenger)
        return Pair(metric, *judged_rows(metric, self.labels, *both, terms=self.terms))


def compare(
    metric: str,
    of: Matched,
    *,
    margin: float,
    slices: Mapping[str, NDArray[Any]] | None = None,
) -> CheckResult:
    """Ask whether the challenger is not worse than the champion on the same rows.

    Parameters
    ----------
    metric
        A name of `MEASURES`.
    margin
        How much worse still passes, in the unit of the measure, >= 0.
    slices
        Column name to its values, shape ``(n,)``: no group may become provably worse. Groups
        with fewer than 100 rows, or fewer than 10 of either of two classes, are not judged.

    Returns
    -------
    CheckResult
        ``quality.not_worse``; ``evidence["lay"]`` says in daily words what the difference means.

    Raises
    ------
    UsageError
        PS301 for an unknown measure, PS302 for one that does not fit these answers.
    """
    assert margin >= 0, "a margin below zero would ask for a proof of being better"
    pair = of.pair(metric)
    difference = pair.difference()
    if difference is None:
        return _too_few(pair, margin)
    judged = _slices(pair, margin, slices or {})
    worse = [str(one["slice"]) for one in judged if one["verdict"] == Verdict.FAILED]
    verdict = Verdict.FAILED if worse else decide(difference, margin)
    evidence = _evidence(pair, difference, margin) | {
        "reading": _reading(verdict, difference),
        "slices": judged,
        "lay": lay.lay(pair, of.terms),
        "question": "Is it better than what we use today?",
    }
    if metric == "accuracy":
        rights = [one.truth == one.prediction for one in (pair.champion, pair.challenger)]
        evidence["mcnemar_p"] = mcnemar_mid_p(*rights)
    summary = _sentence(pair, difference, margin, worse)
    return CheckResult("quality.not_worse", verdict, summary, evidence)


def guardrails(margins: Mapping[str, float], of: Matched) -> list[CheckResult]:
    """Ask of measures that must not suffer whether they do.

    Each passes when it is provably worse by less than its margin, at 95 % each: all must pass,
    so none is given a second chance. It fails when it is provably worse by more, by Holm's
    procedure over all of them: the chance that any sound version fails stays below 5 %.

    Parameters
    ----------
    margins
        By measure, in its unit, >= 0.

    Returns
    -------
    list
        One result a measure, ``quality.guardrail.<metric>``.
    """
    pairs = [of.pair(metric) for metric in margins]
    found = [pair.difference() for pair in pairs]
    asked = [at for at, one in enumerate(found) if one is not None]
    p_values = [_p_worse(found[at], margins[pairs[at].metric]) for at in asked]
    rejected = dict(zip(asked, holm(p_values), strict=True))
    results: list[CheckResult] = []
    for at, (pair, difference) in enumerate(zip(pairs, found, strict=True)):
        margin, name = margins[pair.metric], f"quality.guardrail.{pair.metric}"
        question = f"Does its {pair.measure.word} suffer?"
        if difference is None:
            few = _too_few(pair, margin)
            results.append(
                CheckResult(name, few.verdict, few.summary, {**few.evidence, "question": question})
            )
            continue
        verdict = decide(difference, margin)
        if verdict is Verdict.FAILED and not rejected[at]:
            verdict = Verdict.UNDECIDED  # worse by itself, not once all are counted
        evidence = _evidence(pair, difference, margin) | {
            "reading": _reading(verdict, difference),
            "question": question,
        }
        results.append(CheckResult(name, verdict, _sentence(pair, difference, margin), evidence))
    return results


def table(task: str, of: Matched) -> list[JSON]:
    """Return every measure that fits both, with its difference; it judges none of them.

    Returns
    -------
    list
        ``metric``, ``word``, ``higher_is_better``, ``champion``, ``challenger``, ``difference``,
        ``low``, ``high`` and ``reading``: ``better``, ``worse`` or ``too close``; the last four
        None where the rows cannot tell.
    """
    found: list[JSON] = []
    for metric in fitting(task, of.labels, of.champion, of.challenger, terms=of.terms):
        pair = of.pair(metric)
        before, now = pair.values()
        if math.isnan(before) or math.isnan(now):
            continue
        difference = pair.difference(_TABLE_REPLICATES)
        found.append(
            {
                "metric": metric,
                "word": pair.measure.word,
                "higher_is_better": pair.measure.higher_is_better,
                "champion": before,
                "challenger": now,
                "difference": None if difference is None else difference.value,
                "low": None if difference is None else _finite(difference.low),
                "high": None if difference is None else _finite(difference.high),
                "reading": None if difference is None else _moved(difference),
            }
        )
    return found


def _moved(difference: Difference) -> str:
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "too close"


def _evidence(pair: Pair, difference: Difference, margin: float) -> dict[str, Any]:
    before, now = pair.values()
    rows = len(pair.champion)
    return {
        "metric": pair.metric,
        "value": now,
        "champion": before,
        "difference": difference.value,
        "se": _finite(difference.se),
        "low": _finite(difference.low),
        "high": _finite(difference.high),
        "limit": -margin,
        "margin": margin,
        "rows": rows,
        "groups": pair.groups(),
        "needed_rows": _needed(difference, rows, margin),
    }


def _too_few(pair: Pair, margin: float) -> CheckResult:
    rows, cases, groups = len(pair.champion), pair.cases(), pair.groups()
    of_class = "" if cases is None else f", {cases} of them of the rarer class of {CASES_MIN}"
    of_groups = "" if groups is None else f", in {groups} groups of {GROUPS_MIN}"
    evidence = {
        "metric": pair.metric,
        "margin": margin,
        "rows": rows,
        "groups": groups,
        "reading": "too close",
        "question": "Is it better than what we use today?",
    }
    summary = (
        f"{rows} rows{of_class}{of_groups}, cannot tell the champion's {pair.measure.word} "
        "from its own"
    )
    return CheckResult("quality.not_worse", Verdict.UNDECIDED, summary, evidence)


def _p_worse(difference: Difference | None, margin: float) -> float:
    """Chance of such a difference if the challenger were worse by the margin and no more."""
    assert difference is not None, "a difference that is not known has no chance"
    return float(norm.cdf((difference.value + margin) / max(difference.se, 1e-300)))


def _slices(pair: Pair, margin: float, slices: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Judge each group that is large enough, and list the others as undecided."""
    judged: list[dict[str, Any]] = []
    p_values: list[tuple[int, float]] = []
    for column, values in slices.items():
        texts = np.array([class_text(value) for value in values.tolist()])
        for name in dict.fromkeys(sorted(texts.tolist())):
            part = pair.take(texts == name)
            found = _large_enough(part)
            if found is not None:
                p_values.append((len(judged), _p_worse(found, margin)))
            judged.append(
                {
                    "slice": f"{column} = {name}",
                    "rows": len(part.champion),
                    "difference": None if found is None else found.value,
                    "low": None if found is None else _finite(found.low),
                    "high": None if found is None else _finite(found.high),
                    "verdict": Verdict.UNDECIDED if found is None else decide(found, margin),
                }
            )
    for (index, _), rejected in zip(p_values, holm([p for _, p in p_values]), strict=True):
        if rejected:
            judged[index]["verdict"] = Verdict.FAILED
        elif judged[index]["verdict"] == Verdict.FAILED:
            # Worse by itself, but not once all slices that were looked at are counted.
            judged[index]["verdict"] = Verdict.UNDECIDED
    return [one | {"verdict": str(one["verdict"])} for one in judged]


def _large_enough(part: Pair) -> Difference | None:
    return part.difference() if len(part.champion) >= SLICE_ROWS_MIN else None


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None


def _needed(difference: Difference, rows: int, margin: float) -> int | None:
    """Rows for a chance of 80 % if nothing has changed; None where no number would do."""
    found = needed_rows(rows, difference.se, margin)
    return max(ROWS_MIN, math.ceil(found)) if math.isfinite(found) else None


def _reading(verdict: Verdict, difference: Difference) -> str:
    if verdict is Verdict.PASSED:
        return "better" if difference.low > 0 else "not worse"
    return "worse" if verdict is Verdict.FAILED else "too close"


def _sentence(pair: Pair, difference: Difference, margin: float, worse: Sequence[str] = ()) -> str:
    word, better = pair.measure.word, pair.measure.higher_is_better
    up = (difference.value >= 0) == better
    size = number(abs(difference.value))
    told = f"{word} {size} {'higher' if up else 'lower'} than the champion's"
    if difference.value == 0:
        told = f"{word} the same as the champion's"
    bound = f"at the 95 % bound {number(max(-difference.low, 0.0))} worse"
    if worse:
        return f"{told}, but provably worse where {', '.join(worse)}"
    verdict = decide(difference, margin)
    if verdict is Verdict.PASSED and difference.low > 0:
        return f"{told}, provably better"
    if verdict is Verdict.PASSED:
        return f"{told} ({bound}); not worse than the allowed {number(margin)}"
    if verdict is Verdict.FAILED:
        return f"{told}; provably worse than the allowed {number(margin)}"
    rows = len(pair.champion)
    needed = _needed(difference, rows, margin)
    enough = f"; about {needed:,} would decide" if needed is not None and needed > rows else ""
    return (
        f"{told} ({bound}); {rows:,} rows cannot exclude more than the allowed "
        f"{number(margin)}{enough}"
    )
