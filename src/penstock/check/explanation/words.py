"""An explanation in sentences, for readers who do not read charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from penstock.domain import JSON

_LITTLE = 0.02
"""A column with less of the whole effect than this hardly matters."""


def told(report: Mapping[str, Any]) -> str:
    """Say what a version looks at.

    Examples
    --------
    >>> columns = [{"column": "age", "mean": 0.1, "low": 0.05, "shap": None, "group": None}]
    >>> told({"columns": columns, "groups": []})
    'It relies most on age.'
    """
    columns = report["columns"]
    if not columns:
        return "What it looks at could not be measured."
    matter = [one for one in columns if _matters(one)]
    if not matter:
        return "No column by itself changes its quality by more than chance."
    names = [str(one["column"]) for one in matter]
    sentences = [f"It relies most on {listed(names[:3])}."]
    sentences += _groups(report["groups"])
    thing = thing_of(report)
    for one in matter[:3]:
        shap = cast("Mapping[str, Any] | None", one["shap"])
        if shap and shap["direction"] in ("up", "down"):
            verb = "raises" if shap["direction"] == "up" else "lowers"
            sentences.append(f"A higher {one['column']} mostly {verb} {thing}.")
    rest = len(columns) - len(matter)
    if rest:
        noun = "column" if rest == 1 else "columns"
        verb = "does" if rest == 1 else "do"
        sentences.append(f"{rest} other {noun} {verb} not change its quality by more than chance.")
    return " ".join(sentences)


def thing_of(report: Mapping[str, Any]) -> str:
    """Name what the effects are effects on."""
    target = cast("Mapping[str, Any]", report.get("target") or {"unit": "number", "classes": []})
    classes = cast("Sequence[str]", target["classes"])
    if target["unit"] == "probability" and len(classes) == 1:
        return f"the probability of {classes[0]}"
    return "the answer"


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does.

    Examples
    --------
    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _matters(column: JSON) -> bool:
    low = column["low"]
    return float(column["mean"]) > 0 and (low is None or low > 0)


def _groups(groups: Sequence[JSON]) -> list[str]:
    found: list[str] = []
    for group in groups[:2]:
        names = group["columns"]
        shown = listed(list(names[:4])) + (" and others" if len(names) > 4 else "")
        alone = "so each looks less important alone than they are together"
        found.append(f"{shown} tell much the same, {alone}.")
    return found
