"""Are groups treated alike: a page, the same as one file to keep, and the report itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from penstock.errors import NotFoundError
from penstock.web import reports
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.drawing import Pages
from penstock.web.envelope import answer
from penstock.web.words import number as written

SCHEMA = "penstock.fairness/1"
_AT = "/models/{name}/versions/{number}/fairness"
TITLES: Mapping[str, tuple[str, str]] = {
    "selection_rate": ("Gets a yes", "of all"),
    "tpr": ("Found", "of those who truly are"),
    "fpr": ("False alarms", "of those who truly are not"),
    "precision": ("The yes is right", "of those who get a yes"),
    "accuracy": ("The answer is right", "of all"),
    "base_rate": ("Truly are", "in the evaluation data"),
    "calibration": ("Truth less probability", "mean over all"),
    "mean_error": ("Mean error", "answer less truth"),
    "mean_absolute_error": ("Mean size of errors", "of all"),
    "mean_answer": ("Mean answer", "of all"),
    "mean_truth": ("Mean truth", "in the evaluation data"),
}
"""Of each measure: what it says, and among whom."""
FAMILIES: Mapping[str, str] = {
    "demographic_parity": "getting a yes",
    "equalized_odds": "errors of both kinds",
    "equal_opportunity": "being found",
    "predictive_parity": "a yes being right",
    "accuracy": "a right answer",
    "calibration": "true probabilities",
    "base_rate": "the true answers",
    "mean_error": "mean error",
    "mean_absolute_error": "size of errors",
}
CHANGES: Mapping[str, str] = {"shrank": "Shrank", "grew": "Grew", "same": "As before"}
_SHARES = frozenset({"selection_rate", "tpr", "fpr", "precision", "accuracy", "base_rate"})
_MOST_CLASSES = 6
_MOST_CROSSED = 4
"""Charts of columns that are crossed without being asked for; the API has them all."""
SIDE = 148
"""Of the square in which probabilities are held against the truth."""
_EDGE, _ROOM = 26, 8


@dataclass(frozen=True, slots=True)
class Mark:
    """A group's value and interval, in percent of the width; None where there is none."""

    group: str
    rows: int
    few: str | None
    at: tuple[float, float, float] | None
    text: str
    """Value and interval in words."""
    short: str
    """The value alone."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One measure of every group, on one scale."""

    title: str
    among: str
    marks: list[Mark]
    ticks: list[tuple[float, str]]
    overlap: bool
    """Whether this measure is what limits speak of."""


@dataclass(frozen=True, slots=True)
class Square:
    """Expected against observed shares of one group, in units of the drawing."""

    group: str
    points: list[tuple[float, float, float, float]]
    """x, y, and the ends of the interval."""
    text: str


def api(router: APIRouter, control: Control) -> None:
    """Add the report's route."""

    @router.get(f"/api{_AT}")
    def told(request: Request, name: str, number: int) -> Response:
        require(request, "read", name)
        return answer("fairness", report_of(control, name, number))


def routes(draw: Pages) -> APIRouter:
    """Return the pages' routes; the page and the file draw the same template."""
    return reports.routes(draw, "fairness", "How {name} v{number} treats groups", parts_of)


def report_of(control: Control, name: str, number: int) -> dict[str, Any]:
    """Return a version's fairness report.

    Raises
    ------
    NotFoundError
        PS353: it has none, or one of another release.
    """
    missing = NotFoundError(
        "PS353",
        f"{name}@{number} has no fairness report.",
        hint="Step fairness makes it when [evaluate] sensitive names a column.",
    )
    return reports.report_of(control, (name, number), "fairness", SCHEMA, missing)


def parts_of(control: Control, name: str, number: int) -> dict[str, Any]:
    """Return what the template draws."""
    report = report_of(control, name, number)
    change = cast("dict[str, Any]", report["change"] or {})
    moved = {str(one["column"]): one for one in change.get("columns", ())}
    return {
        "name": name,
        "number": number,
        "report": report,
        "change": change,
        "moved": moved,
        "drawn": [
            {
                "of": one,
                "charts": charts_of(one)[: None if one["held"] else _MOST_CROSSED],
                "squares": squares(one["groups"]),
                "limit": limit_of(one),
            }
            for one in report["columns"]
        ],
        "families": FAMILIES,
        "changes": CHANGES,
        "side": SIDE,
    }


def limit_of(one: Mapping[str, Any]) -> dict[str, Any] | None:
    """Place the difference that limits speak of, with its interval and the limit."""
    gap, limit = one["differences"].get(one["measure"]), one["limit"]
    if gap is None:
        return None
    top = max(gap["high"], limit or 0.0) * 1.1 or 1.0

    def at(value: float) -> float:
        return round(min(max(value / top, 0.0), 1.0) * 100, 2)

    verdict = "reported"
    if limit is not None:
        verdict = "passed" if gap["high"] <= limit else "undecided"
        verdict = "failed" if gap["low"] > limit else verdict
    return {
        "value": at(gap["value"]),
        "low": at(gap["low"]),
        "high": at(gap["high"]),
        "limit": None if limit is None else at(limit),
        "verdict": verdict,
        "gap": gap,
    }


def charts_of(one: Mapping[str, Any]) -> list[Chart]:
    """Place every measure; of many classes those where groups differ most."""
    groups: Sequence[Mapping[str, Any]] = one["groups"]
    keys: list[str] = []
    for group in groups:
        keys += [key for key in group if key.partition(":")[0] in TITLES and key not in keys]
    plain = [key for key in keys if ":" not in key]
    of_class = [key for key in keys if key.partition(":")[0] == "tpr" and ":" in key]
    of_class.sort(key=lambda key: -_spread(groups, key))
    found = [_chart(groups, key, one["measure"]) for key in plain + of_class[:_MOST_CLASSES]]
    return sorted(found, key=lambda chart: not chart.overlap)


def _spread(groups: Sequence[Mapping[str, Any]], key: str) -> float:
    seen = [group[key]["value"] for group in groups if group["judged"] and group[key]]
    return max(seen) - min(seen) if seen else 0.0


_PARTS: Mapping[str, tuple[str, ...]] = {
    "demographic_parity": ("selection_rate",),
    "equalized_odds": ("tpr", "fpr"),
    "equal_opportunity": ("tpr",),
    "predictive_parity": ("precision",),
}


def _chart(groups: Sequence[Mapping[str, Any]], key: str, family: str) -> Chart:
    name, _, of = key.partition(":")
    title, among = TITLES[name]
    share = name in _SHARES
    shown = [group[key] for group in groups if group[key] is not None]
    low = min((v["low"] for v in shown), default=0.0)
    high = max((v["high"] for v in shown), default=1.0)
    if name != "calibration" and low >= 0:
        low = 0.0
    elif low < 0 < high:
        pass
    else:
        low, high = min(low, 0.0), max(high, 0.0)
    high = min(high * 1.04, 1.0) if share else high + (high - low) * 0.04
    width = (high - low) or 1.0

    def at(value: float) -> float:
        return round((value - low) / width * 100, 2)

    def text(value: float) -> str:
        return f"{value * 100:.1f} %" if share else written(float(value))

    marks = [
        Mark(
            group["group"],
            group["rows"],
            group["few"],
            None if v is None else (at(v["value"]), at(v["low"]), at(v["high"])),
            "too few to say" if v is None else f"{text(v['low'])} to {text(v['high'])}",
            "–" if v is None else text(v["value"]),
        )
        for group, v in ((group, group[key]) for group in groups)
    ]
    ticks = [(at(one), f"{one * 100:g} %" if share else written(one)) for one in _ticks(low, high)]
    titled = f"{title}: {of}" if of else title
    return Chart(titled, among, marks, ticks, name in _PARTS.get(family, (family,)))


def _ticks(low: float, high: float) -> list[float]:
    """Return up to four round numbers between two ends.

    Examples
    --------
    >>> _ticks(0.0, 0.27), _ticks(-2.4, 2.5)
    ([0.0, 0.1, 0.2], [-2.0, 0.0, 2.0])
    """
    if high <= low:
        return [low]
    step = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(step))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= step * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def squares(groups: Sequence[Mapping[str, Any]], most: int = 8) -> list[Square]:
    """Place expected against observed shares, a square for each of the largest groups."""
    inner = SIDE - _EDGE - _ROOM

    def x(value: float) -> float:
        return round(_EDGE + value * inner, 1)

    def y(value: float) -> float:
        return round(SIDE - _EDGE - value * inner, 1)

    with_bins = [group for group in groups if len(group["bins"]) > 1]
    largest = sorted(with_bins, key=lambda group: -group["rows"])[:most]
    return [
        Square(
            group["group"],
            [
                (x(b["expected"]), y(b["observed"]), y(b["low"]), y(b["high"]))
                for b in group["bins"]
            ],
            "; ".join(
                f"expected {b['expected'] * 100:.0f} %, seen {b['observed'] * 100:.0f} %"
                for b in group["bins"]
            ),
        )
        for group in with_bins
        if group in largest
    ]
