"""Numbers turned into places on a small SVG: sparklines, limit bars, Gantt bars, rates.

Only geometry stands here; what is drawn, and its colours, is in templates/_m.html. Sizes are
attributes of SVG elements, because the content security policy forbids styles in the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from penstock.domain import CheckResult, Step

RATES = {"errors": "Failed requests, %", "slow": "Slow requests, %"}


@dataclass(frozen=True, slots=True)
class Spark:
    """A line through values, newest at the right, with a limit."""

    path: str
    limit_y: float | None
    width: int
    height: int
    last: float


@dataclass(frozen=True, slots=True)
class LimitBar:
    """A value against its limit; all in units of the drawing."""

    value: float
    limit: float
    champion: float | None
    low: float | None
    high: float | None
    worse_is_left: bool
    """Harm lies left of the limit, as for a difference in quality."""
    zero: float | None
    """Where no difference is, for a difference."""


@dataclass(frozen=True, slots=True)
class Bar:
    """When a step ran, in percent of the run's time."""

    x: float
    width: float


def spark(
    values: Sequence[float], limit: float | None = None, *, width: int = 84, height: int = 22
) -> Spark | None:
    """Place a sparkline; None with fewer than two values.

    Examples
    --------
    >>> spark([0.0, 1.0], width=10, height=12).path
    'M0 11.0L10 1.0'
    """
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2:
        return None
    low, high = min([*known, *_given(limit)]), max([*known, *_given(limit)])
    span = (high - low) or 1.0

    def y(value: float) -> float:
        return round(height - 1 - (value - low) / span * (height - 2), 1)

    path = "L".join(
        f"{round(place * width / (len(known) - 1))} {y(value)}"
        for place, value in enumerate(known)
    )
    return Spark(f"M{path}", None if limit is None else y(limit), width, height, last=known[-1])


def limit_bar(result: CheckResult, *, width: int = 150) -> LimitBar | None:
    """Place a check's value, interval, champion and limit; None where it has no limit."""
    told = result.evidence
    if _is_number(told.get("difference")) and _is_number(told.get("margin")):
        difference, low, high = told["difference"], told.get("low"), told.get("high")
        # Some checks give the interval of the value itself, not of the difference.
        holds = _is_number(low) and _is_number(high) and low <= difference <= high
        shown = {"value": difference, "limit": -float(told["margin"])}
        shown |= {"low": low, "high": high} if holds else {}
        return _bar(shown, width, worse_is_left=True, zero=0.0)
    if not (_is_number(told.get("value")) and _is_number(told.get("limit"))):
        return None
    least, greatest = told.get("min"), told.get("max")
    return _bar(told, width, worse_is_left=least is not None and greatest is None, zero=None)


def _bar(
    told: Mapping[str, Any], width: int, *, worse_is_left: bool, zero: float | None
) -> LimitBar:
    points = [
        float(told[key])
        for key in ("value", "limit", "champion", "low", "high")
        if _is_number(told.get(key))
    ]
    low, high = min([*points, *_given(zero)]), max([*points, *_given(zero)])
    room = (high - low) * 0.12 or abs(high) * 0.1 or 1.0
    low, high = low - room, high + room

    def place(key: str) -> float | None:
        value = told.get(key)
        return at(float(value)) if value is not None and _is_number(value) else None

    def at(value: float) -> float:
        return round(4 + (value - low) / (high - low) * (width - 8), 1)

    return LimitBar(
        value=at(float(told["value"])),
        limit=at(float(told["limit"])),
        champion=place("champion"),
        low=place("low"),
        high=place("high"),
        worse_is_left=worse_is_left,
        zero=None if zero is None else at(zero),
    )


def gantt(steps: Sequence[Step], now: datetime) -> dict[tuple[str, str], Bar]:
    """Place each step on the time from the first step's beginning to the last one's end."""
    if not steps:
        return {}
    begin = min(step.started_at for step in steps)
    end = max(step.ended_at or now for step in steps)
    whole = max((end - begin).total_seconds(), 1e-9)
    return {
        (step.stage, step.name): Bar(
            round((step.started_at - begin).total_seconds() / whole * 100, 2),
            round(((step.ended_at or now) - step.started_at).total_seconds() / whole * 100, 2),
        )
        for step in steps
    }


def series(batches: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rates of both versions by batch, in percent, as the live plot wants them."""
    at = [round(float(one["until_us"]) / 1e6, 1) for one in batches]
    return {
        name: {
            "data": [at, _rates(batches, "champion", name), _rates(batches, "challenger", name)],
            "limit": float(settings[f"p_max_{name}"]) * 100
            if f"p_max_{name}" in settings
            else None,
        }
        for name in RATES
    }


def _rates(batches: Sequence[Mapping[str, Any]], role: str, name: str) -> list[float | None]:
    rates: list[float | None] = []
    for one in batches:
        against = one["counts"].get("against") == "control"
        counts = one["counts"]["control" if role == "champion" and against else role]
        asked = counts["requests"]
        rates.append(round(100 * counts[name] / asked, 3) if asked else None)
    return rates


@dataclass(frozen=True, slots=True)
class Plot:
    """Two lines over batches, in percent of the width and units of the height."""

    champion: str
    challenger: str
    limit_y: float | None
    top: float
    """The value at the upper edge."""


def plot(of: Mapping[str, Any], *, width: int = 600, height: int = 160) -> Plot | None:
    """Draw a series of `series`; None before two batches."""
    at, champion, challenger = of["data"]
    if len(at) < 2:
        return None
    seen = [value for value in (*champion, *challenger) if value is not None]
    limit = of["limit"]
    top = max([*seen, *_given(limit), 0.1]) * 1.15

    def line(values: Sequence[float | None]) -> str:
        # A gap where a version got no request: a line across it would be made up.
        path, pen = "", "M"
        for moment, value in zip(at, values, strict=True):
            if value is None:
                pen = "M"
                continue
            x = (moment - at[0]) / ((at[-1] - at[0]) or 1) * width
            path += f"{pen}{x:.1f} {height - value / top * height:.1f}"
            pen = "L"
        return path

    limit_y = None if limit is None else round(height - limit / top * height, 1)
    return Plot(line(champion), line(challenger), limit_y, top)


def _given(value: float | None) -> list[float]:
    return [] if value is None else [value]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
