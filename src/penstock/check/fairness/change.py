"""The champion beside the challenger: did the gaps shrink or grow?

Both versions answered the same rows, so what is resampled is how often each pair of answers
occurred in each group. Chance that both share cancels out; a change is told apart from chance
where an interval of 95 % over all columns at once (Bonferroni) leaves out 0.

Reference: Efron and Tibshirani 1993, the percentile interval of a paired bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.check.answers import Answers
from penstock.check.evaluation import Evaluation
from penstock.check.fairness import gaps, words
from penstock.check.fairness.groups import Grouping, crossed, grouping
from penstock.check.fairness.rates import Floats, Measure, Rows, Task, key_of, table, task_of
from penstock.config import Fairness
from penstock.domain import JSON, CheckResult, Verdict

REPLICATES = 2000
SEED = 0
_READINGS = {"shrank": "closer", "grew": "further apart", "same": "as before"}


@dataclass(frozen=True, slots=True)
class Moved:
    """How a gap moved, with its interval."""

    before: float
    now: float
    low: float
    """Of now less before."""
    high: float


def compare(
    evaluation: Evaluation,
    champion_answers: Answers | None,
    answers: Answers,
    report: JSON,
    *,
    champion: int,
    settings: Fairness | None = None,
) -> JSON:
    """Compare the gaps of two versions on the same rows.

    Parameters
    ----------
    champion_answers
        To the rows of `evaluation`; None where it answered others.
    report
        Of the challenger.
    champion
        Its number.

    Returns
    -------
    JSON
        ``champion``, ``why`` it could not be compared or "", ``columns``: each with ``before``,
        ``now``, ``low`` and ``high`` of the change, and ``change``: shrank, grew or same;
        ``text``.
    """
    told: dict[str, Any] = {"champion": champion, "why": "", "columns": []}
    if champion_answers is None or len(champion_answers) != len(answers):
        told["why"] = "it was judged on other evaluation data"
    else:
        task = "regression" if report["task"] == "regression" else "classification"
        before = task_of(evaluation.label, champion_answers, task)
        now = task_of(evaluation.label, answers, task)
        if [rows.of for rows in before.forms] != [rows.of for rows in now.forms]:
            told["why"] = "its classes are others"
        else:
            told["columns"] = _columns(evaluation, before, now, report, settings or Fairness())
    told["text"] = words.changed(told)
    return told


def results(told: JSON) -> list[CheckResult]:
    """Return the check of every column: a report, passed where an answer is known."""
    found: list[CheckResult] = []
    for one in told["columns"]:
        summary = (
            f"{one['column']}: largest difference {one['now']:.3g}, v{told['champion']} has"
            f" {one['before']:.3g} (change {one['now'] - one['before']:+.3g},"
            f" 95 % {one['low']:+.3g} to {one['high']:+.3g})"
        )
        evidence = {
            "question": "Did groups come closer since the version in use?",
            "value": one["now"],
            "champion": one["before"],
            "change": one["change"],
            "low": one["low"],
            "high": one["high"],
            "reading": _READINGS[one["change"]],
        }
        name = f"fairness.change.{one['column']}"
        found.append(CheckResult(name, Verdict.PASSED, summary, evidence))
    return found


def _columns(
    evaluation: Evaluation, before: Task, now: Task, report: JSON, settings: Fairness
) -> list[JSON]:
    single = {
        name: grouping(name, evaluation.sensitive.column(name), settings.bands.get(name, ()))
        for name in evaluation.sensitive.column_names
    }
    held = [one for one in report["columns"] if one["held"]]
    found: list[JSON] = []
    for one in held:
        of: Sequence[str] = one["of"]
        groups = single[of[0]] if len(of) == 1 else crossed([single[name] for name in of])
        moved = gap_change(before, now, groups, one["measure"], alpha=gaps.ALPHA / len(held))
        if moved is None:
            continue
        change = "shrank" if moved.high < 0 else "grew" if moved.low > 0 else "same"
        bounds = {"before": moved.before, "now": moved.now, "low": moved.low, "high": moved.high}
        found.append(
            {
                "column": groups.name,
                "of": list(of),
                "measure": one["measure"],
                **bounds,
                "change": change,
            }
        )
    return found


def gap_change(
    before: Task,
    now: Task,
    groups: Grouping,
    family: str,
    *,
    alpha: float = gaps.ALPHA,
    replicates: int = REPLICATES,
) -> Moved | None:
    """Return how the largest difference moved; None where no two groups can be judged.

    Parameters
    ----------
    before, now
        Of the champion and the challenger, on the same rows.
    alpha
        One less the confidence of the interval.
    """
    random = np.random.default_rng(SEED)
    drawn: list[tuple[Floats, Floats]] = []
    seen: list[tuple[float, float]] = []
    olds = {key_of(measure, rows): rows for measure, rows in before.measured()}
    for measure, new in now.measured():
        old = olds.get(key_of(measure, new))
        if old is None or measure.name not in gaps.FAMILIES[family]:
            continue
        both = table(measure, old, groups), table(measure, new, groups)
        at = np.flatnonzero(both[0].judged & both[1].judged)
        if len(at) < 2:
            continue
        seen.append((_range(both[0].values[at]), _range(both[1].values[at])))
        drawn.append(_drawn(measure, (old, new), groups, at, replicates, random))
    if not seen:
        return None
    # The largest over all parts, in each replicate as in the data.
    old_gaps = np.max([one[0] for one in drawn], axis=0)
    new_gaps = np.max([one[1] for one in drawn], axis=0)
    low, high = np.quantile(new_gaps - old_gaps, [alpha / 2, 1 - alpha / 2])
    return Moved(max(a for a, _ in seen), max(b for _, b in seen), float(low), float(high))


def _range(values: Floats) -> float:
    return float(values.max() - values.min())


def _drawn(
    measure: Measure,
    rows: tuple[Rows, Rows],
    groups: Grouping,
    at: NDArray[np.intp],
    replicates: int,
    random: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Draw both versions' gaps in one measure again and again."""
    means = [
        (_drawn_share if measure.share else _drawn_mean)(
            measure, rows, groups.codes == group, replicates, random
        )
        for group in at.tolist()
    ]
    old, new = (np.array([one[side] for one in means]) for side in (0, 1))
    return np.ptp(old, axis=0), np.ptp(new, axis=0)


def _drawn_share(
    measure: Measure,
    rows: tuple[Rows, Rows],
    inside: NDArray[np.bool_],
    replicates: int,
    random: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Resample a group's rows by how often each combination of case and value occurred."""
    old, new = rows
    # Each version's row is no case (0), a case without (1) or with (2) what is counted.
    kinds = [
        np.where(measure.cases(one), 1 + measure.value(one), 0.0)[inside].astype(np.int64)
        for one in (old, new)
    ]
    counts = np.bincount(3 * kinds[0] + kinds[1], minlength=9)
    drawn = random.multinomial(counts.sum(), counts / counts.sum(), replicates).reshape(-1, 3, 3)
    of_old, of_new = drawn.sum(axis=2), drawn.sum(axis=1)
    return _share(of_old), _share(of_new)


def _share(counts: NDArray[np.int64]) -> Floats:
    return counts[:, 2] / np.maximum(counts[:, 1] + counts[:, 2], 1)


def _drawn_mean(
    measure: Measure,
    rows: tuple[Rows, Rows],
    inside: NDArray[np.bool_],
    replicates: int,
    random: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Draw both means of a group from the normal law that they follow together."""
    values = np.array([measure.value(one)[inside] for one in rows])
    covariance = np.cov(values) / values.shape[1]
    drawn = random.multivariate_normal(values.mean(axis=1), covariance, replicates, method="eigh")
    return drawn[:, 0], drawn[:, 1]
