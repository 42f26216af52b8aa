"""Explanations turned into places on a small SVG: bars, curves with bands, waterfalls.

As in `charts`, only geometry stands here. Bars are in percent of a width that the page decides,
curves in units of a drawing of `WIDTH` by `HEIGHT`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.web.words import number

WIDTH, HEIGHT = 320, 168
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 8, 22
_ROW = 18
_NAME = 104
"""Width of a category's name."""
_MOST_LINES = 8


@dataclass(frozen=True, slots=True)
class Span:
    """A value and its interval, in percent of the width."""

    value: float
    low: float
    high: float


def span(of: Mapping[str, Any] | None, most: float) -> Span | None:
    """Place a size and its interval on a scale from 0 to `most`.

    Examples
    --------
    >>> span({"mean": 0.2, "low": 0.1, "high": 0.5}, 0.4)
    Span(value=50.0, low=25.0, high=100.0)
    """
    if of is None or most <= 0:
        return None
    low, high = of["low"], of["high"]
    value = of["mean"]
    return Span(*(_percent(v if v is not None else value, most) for v in (value, low, high)))


def _percent(value: float, most: float) -> float:
    return round(min(max(value / most * 100, 0.0), 100.0), 2)


@dataclass(frozen=True, slots=True)
class Step:
    """One column's bar in a waterfall, in percent of the width."""

    name: str
    value: object
    effect: float
    x: float
    width: float
    raises: bool


@dataclass(frozen=True, slots=True)
class Waterfall:
    """From the mean answer to the answer of one row."""

    steps: list[Step]
    base: float
    """Where the mean answer is, in percent."""
    answer: float


def waterfall(example: Mapping[str, Any], *, most: int = 8) -> Waterfall:
    """Place a row's effects one behind the other; the small ones are one step."""
    effects: Sequence[Mapping[str, Any]] = example["effects"]
    shown = [(str(e["column"]), e["value"], float(e["effect"])) for e in effects[:most]]
    rest = effects[most:]
    if rest:
        noun = "other column" if len(rest) == 1 else "other columns"
        shown.append((f"{len(rest)} {noun}", None, sum(float(e["effect"]) for e in rest)))
    ends = [float(example["base"])]
    for _, _, effect in shown:
        ends.append(ends[-1] + effect)
    low, high = min(ends), max(ends)
    room = (high - low) * 0.04 or 1.0
    low, high = low - room, high + room

    def at(value: float) -> float:
        return round((value - low) / (high - low) * 100, 2)

    steps = [
        Step(name, value, effect, *_bar(at(begin), at(end)), effect >= 0)
        for (name, value, effect), begin, end in zip(shown, ends[:-1], ends[1:], strict=True)
    ]
    return Waterfall(steps, at(ends[0]), at(ends[-1]))


def _bar(begin: float, end: float) -> tuple[float, float]:
    return min(begin, end), round(max(abs(end - begin), 0.4), 2)


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Curve:
    """How the answer moves with a number."""

    band: str
    line: str
    lines: list[str]
    """Single rows."""
    champion: str
    champion_band: str
    x: list[Tick]
    y: list[Tick]
    marks: list[float]
    """Where the asked values lie."""


@dataclass(frozen=True, slots=True)
class Category:
    """How the answer moves with a category."""

    name: str
    y: float
    value: float
    low: float
    high: float
    champion: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Categories:
    """All bars of one column."""

    rows: list[Category]
    height: int
    ticks: list[Tick]


def curve(of: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> Curve:
    """Place a number's curve, with the champion's beside it."""
    beside = None if before is None or before["kind"] != of["kind"] else before
    both = [of] if beside is None else [of, beside]
    xs = [float(x) for one in both for x in one["x"]]
    ys = [float(y) for one in both for key in ("low", "high") for y in one[key]]
    across = _Scale(min(xs), max(xs), _LEFT, WIDTH - _RIGHT)
    up = _Scale(*_roomy(min(ys), max(ys)), HEIGHT - _BOTTOM, _TOP)

    ends = (min(xs), (min(xs) + max(xs)) / 2, max(xs))

    def path(x: Sequence[float], y: Sequence[float]) -> str:
        at = (f"{across(a):.1f} {up(b):.1f}" for a, b in zip(x, y, strict=True))
        return "M" + "L".join(at)

    def band(one: Mapping[str, Any]) -> str:
        return path([*one["x"], *one["x"][::-1]], [*one["high"], *one["low"][::-1]]) + "Z"

    return Curve(
        band=band(of),
        line=path(of["x"], of["y"]),
        lines=[path(of["x"], [up.held(y) for y in one]) for one in of["lines"][:_MOST_LINES]],
        champion="" if beside is None else path(beside["x"], beside["y"]),
        champion_band="" if beside is None else band(beside),
        x=[Tick(across(x), number(_whole(x))) for x in ends],
        y=[Tick(up(y), number(y)) for y in (up.first, (up.first + up.last) / 2, up.last)],
        marks=[round(across(float(x)), 1) for x in of["x"]],
    )


def categories(of: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> Categories:
    """Place a category's bars, with the champion's values as marks."""
    known: dict[str, float] = {}
    if before is not None and before["kind"] == of["kind"]:
        known = {str(x): float(y) for x, y in zip(before["x"], before["y"], strict=True)}
    shown = {str(name) for name in of["x"]}
    values = [*of["low"], *of["high"], *(y for name, y in known.items() if name in shown)]
    across = _Scale(*_roomy(min(values), max(values)), _NAME + 8, WIDTH - _RIGHT)
    rows = [
        Category(
            name=str(name),
            y=_TOP + place * _ROW,
            value=across(y),
            low=across(low),
            high=across(high),
            champion=across(known[str(name)]) if str(name) in known else None,
            text=number(float(y)),
        )
        for place, (name, y, low, high) in enumerate(
            zip(of["x"], of["y"], of["low"], of["high"], strict=True)
        )
    ]
    ticks = [Tick(across(v), number(v)) for v in (across.first, across.last)]
    return Categories(rows, _TOP + len(rows) * _ROW + _BOTTOM, ticks)


@dataclass(frozen=True, slots=True)
class _Scale:
    first: float
    last: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        width = (self.last - self.first) or 1.0
        return round(self.begin + (value - self.first) / width * (self.end - self.begin), 1)

    def held(self, value: float) -> float:
        """Hold a value within the drawing."""
        return min(max(value, self.first), self.last)


def _roomy(low: float, high: float) -> tuple[float, float]:
    """Return a little more than the range; a flat curve lies in the middle of a small one."""
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value
