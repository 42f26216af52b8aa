"""Champion beside challenger: what changed in how it decides.

Two explanations are held against each other column by column, by the mean size of a column's
effect on the answer. Both are samples, so a difference is told as change only where chance does
not explain it (Holm over the columns) and where it is large enough to speak of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from scipy.stats import norm

from penstock.check.explanation.words import listed
from penstock.domain import JSON, CheckResult, Verdict

LEVEL = 0.05
LARGE = 0.2
"""Least change of a column's effect that is told, as a share of the larger one."""
_LITTLE, _SOME = 0.02, 0.04
"""Of the sum of all effects: below the first a column does not matter, above the other it does."""
_Z = 1.959964
_ORDER = ("started", "stopped", "turned", "more", "less", "same", "new", "gone")


def compare(before: JSON, now: JSON, *, versions: tuple[int, int]) -> JSON:
    """Hold a challenger's report against the champion's.

    Parameters
    ----------
    before, now
        Reports of `report.explain`.
    versions
        The champion's number and the challenger's.

    Returns
    -------
    JSON
        ``why`` they cannot be compared, or None; ``same_data``; ``columns`` with ``before``,
        ``now``, ``difference``, ``low``, ``high`` (95 % each for itself), ``p`` (Holm), ranks
        and ``change``: ``started``, ``stopped``, ``turned``, ``more``, ``less``, ``same``, or
        ``new`` and ``gone`` for columns that only one of them has; ``curves``: the champion's,
        by column; ``text``.
    """
    champion, challenger = versions
    told: dict[str, Any] = {
        "champion": champion,
        "challenger": challenger,
        "why": _why_not(before, now),
        "same_data": before.get("data_digest") == now.get("data_digest"),
        "columns": [],
        "curves": [],
    }
    if told["why"] is None:
        told["columns"] = _columns(before, now)
        drawn = {str(curve["column"]) for curve in now["curves"]}
        told["curves"] = [one for one in before["curves"] if str(one["column"]) in drawn]
    told["text"] = _text(told)
    return cast("JSON", told)


def result(change: JSON) -> CheckResult:
    """Return the check of a comparison; it is a report and never fails."""
    evidence = {
        "question": "Does it decide as the version in use does?",
        "changed": [one for one in change["columns"] if one["change"] != "same"][:20],
        "same_data": change["same_data"],
    }
    verdict = Verdict.UNDECIDED if change["why"] else Verdict.PASSED
    return CheckResult("explain.change", verdict, str(change["text"]), evidence)


def _why_not(before: JSON, now: JSON) -> str | None:
    if before.get("schema") != now.get("schema"):
        return "the champion was explained by another release"
    if not before.get("shap") or not now.get("shap"):
        whose = "the champion" if not before.get("shap") else "this version"
        return f"there are no values of {whose}"
    if before.get("target") != now.get("target"):
        return "they answer in different ways"
    return None


def _columns(before: JSON, now: JSON) -> list[JSON]:
    old, new = _effects(before), _effects(now)
    totals = (_total(before), _total(now))
    both = [name for name in new if name in old]
    p = _holm([_p(old[name], new[name]) for name in both])
    found: list[JSON] = [
        _column(name, old[name], new[name], totals=totals, p=p[at]) for at, name in enumerate(both)
    ]
    found += [_one_sided(name, new[name], "new") for name in new if name not in old]
    found += [_one_sided(name, old[name], "gone") for name in old if name not in new]
    return sorted(found, key=_place)


def _effects(report: JSON) -> dict[str, JSON]:
    columns = report["columns"]
    return {str(one["column"]): one["shap"] for one in columns if one["shap"]}


def _total(report: JSON) -> float:
    return float(report["shap"]["total"]) or 1.0


def _error(of: JSON) -> float:
    """Return the standard error, widened by what noise may have added to the mean."""
    mean, low, se = (float(of[key]) for key in ("mean", "low", "se"))
    return max(se, (mean - low) / _Z)


def _p(old: JSON, new: JSON) -> float:
    difference = float(new["mean"]) - float(old["mean"])
    error = math.hypot(_error(old), _error(new))
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * norm.sf(abs(difference) / error))


def _holm(p: Sequence[float]) -> list[float]:
    order = np.argsort(np.array(p), kind="stable")
    held, greatest = [1.0] * len(p), 0.0
    for place, at in enumerate(map(int, order)):
        greatest = max(greatest, min(1.0, p[at] * (len(p) - place)))
        held[at] = greatest
    return held


def _column(name: str, old: JSON, new: JSON, *, totals: tuple[float, float], p: float) -> JSON:
    was, is_ = float(old["mean"]), float(new["mean"])
    half = _Z * math.hypot(_error(old), _error(new))
    change = "same"
    if p < LEVEL and abs(is_ - was) >= LARGE * max(was, is_):
        change = _kind(was / totals[0], is_ / totals[1], more=is_ > was)
    directions = {old["direction"], new["direction"]}
    if directions == {"up", "down"} and was >= _LITTLE * totals[0] and is_ >= _LITTLE * totals[1]:
        change = "turned"
    return {
        "column": name,
        "before": was,
        "now": is_,
        "difference": is_ - was,
        "low": is_ - was - half,
        "high": is_ - was + half,
        "p": p,
        "rank_before": old.get("rank"),
        "rank_now": new.get("rank"),
        "direction_before": old["direction"],
        "direction_now": new["direction"],
        "change": change,
    }


def _kind(was: float, is_: float, *, more: bool) -> str:
    if was < _LITTLE and is_ > _SOME:
        return "started"
    if is_ < _LITTLE and was > _SOME:
        return "stopped"
    if max(was, is_) < _LITTLE:
        return "same"
    return "more" if more else "less"


def _one_sided(name: str, of: JSON, change: str) -> JSON:
    mean, rank = of["mean"], of.get("rank")
    is_new = change == "new"
    return {
        "column": name,
        "before": None if is_new else mean,
        "now": mean if is_new else None,
        "difference": None,
        "low": None,
        "high": None,
        "p": None,
        "rank_before": None if is_new else rank,
        "rank_now": rank if is_new else None,
        "direction_before": None if is_new else of["direction"],
        "direction_now": of["direction"] if is_new else None,
        "change": change,
    }


def _place(column: JSON) -> tuple[int, float, str]:
    return _ORDER.index(str(column["change"])), -_larger(column), str(column["column"])


def _larger(column: JSON) -> float:
    return max(float(column[key] or 0.0) for key in ("before", "now"))


_SENTENCES: Mapping[str, tuple[str, str]] = {
    "started": ("matters now and did not before", "matter now and did not before"),
    "stopped": ("no longer matters", "no longer matter"),
    "more": ("matters more than before", "matter more than before"),
    "less": ("matters less than before", "matter less than before"),
    "new": ("is a column that it did not have", "are columns that it did not have"),
    "gone": ("is a column that it has no longer", "are columns that it has no longer"),
}


def _text(told: Mapping[str, Any]) -> str:
    """Say what changed, in a paragraph."""
    champion = f"v{told['champion']}"
    if told["why"]:
        return f"It cannot be compared with {champion}, the version in use: {told['why']}."
    columns = told["columns"]
    sentences: list[str] = []
    for change in _ORDER:
        names = [str(one["column"]) for one in columns if one["change"] == change]
        if names and change == "turned":
            sentences += [_turned(one) for one in columns if one["change"] == "turned"]
        elif names and change in _SENTENCES:
            one, many = _SENTENCES[change]
            shown = names[:4] + ([f"{len(names) - 4} more"] if len(names) > 4 else [])
            sentences.append(f"{listed(shown)} {one if len(names) == 1 else many}.")
    if not sentences:
        text = f"It decides as {champion} does: no column's weight changed by more than chance."
    else:
        text = f"Compared with {champion}, the version in use: {' '.join(sentences)}"
        if any(one["change"] == "same" for one in columns):
            text += " Everything else differs by no more than chance, or by little."
    if not told["same_data"]:
        text += " The two were explained on different evaluation data."
    return text


def _turned(column: JSON) -> str:
    now = "raise" if column["direction_now"] == "up" else "lower"
    was = "raised" if column["direction_before"] == "up" else "lowered"
    name = column["column"]
    return f"The effect of {name} turned: higher values {now} the answer now and {was} it before."
