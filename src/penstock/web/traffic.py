"""Requests a second and milliseconds of each version over the last minutes, as two small plots.

As in `charts`, only geometry stands here; it is drawn by the server in templates/_traffic.html,
so that it prints, mails and works without a script.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.web.curves import Tick
from penstock.web.words import number

WIDTH, HEIGHT = 400, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 22
_COLOURS = {
    "champion": "--d-champion",
    "challenger": "--d-challenger",
    "control": "--d-champion",
    "shadow": "--d4",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot; the challenger's is dashed, p50 is thinner than p95."""

    path: str
    colour: str
    dashed: bool
    thin: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over the last five minutes, and the marks of the upright axis."""

    title: str
    text: str
    """What the plot says, for those who do not see it."""
    lines: list[Line]
    ticks: list[Tick]


@dataclass(frozen=True, slots=True)
class Arm:
    """Whose line has which look, and its newest values."""

    name: str
    colour: str
    dashed: bool
    text: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """Both plots and their legend."""

    arms: list[Arm]
    plots: list[Plot]


def traffic(versions: Sequence[Mapping[str, Any]]) -> Traffic | None:
    """Place what versions in production were asked; None when nobody asked.

    Parameters
    ----------
    versions
        Each with ``number``, ``role``, ``environment`` and ``figures`` as
        `penstock.inference.gateway.figures.Figures.told` gives them.
    """
    asked = [
        one
        for one in versions
        if one["environment"] == "production"
        and one["figures"]["requests"]
        and len(one["figures"]["rates"]) > 1
    ]
    if not asked:
        return None
    rates = [(_look(one), one["figures"]["rates"]) for one in asked]
    speeds = [
        (_look(one, thin=not place), [None if at is None else at[place] for at in latencies])
        for one in asked
        for latencies in (one["figures"].get("latencies") or (),)
        for place in (0, 1)
    ]
    arms = [_arm(one) for one in asked]
    told = "; ".join(f"{arm.name}: {arm.text}" for arm in arms)
    plots = [
        _plot("Requests a second", told, rates),
        _plot("Latency, ms: p95 (thick) and p50 (thin)", told, speeds),
    ]
    return Traffic(arms, plots)


def _look(one: Mapping[str, Any], *, thin: bool = False) -> Line:
    role = one["role"]
    return Line("", _COLOURS.get(role, "--d6"), dashed=role != "champion", thin=thin)


def _arm(one: Mapping[str, Any]) -> Arm:
    look, figures = _look(one), one["figures"]
    text = f"{number(figures['rates'][-1])}/s now"
    if figures.get("p50_ms"):
        text += f", p50 {number(figures['p50_ms'])} ms, p95 {number(figures['p95_ms'])} ms"
    return Arm(f"v{one['number']} {one['role']}", look.colour, look.dashed, text)


def _plot(title: str, told: str, lines: Sequence[tuple[Line, Sequence[float | None]]]) -> Plot:
    known = [value for _, values in lines for value in values if value is not None]
    top = round_top(max([*known, 0.0]))
    drawn = [
        Line(path(values, top), look.colour, look.dashed, look.thin) for look, values in lines
    ]
    ticks = [Tick(up(value, top), f"{value:,g}") for value in (0, top / 2, top)]
    return Plot(title, f"{title}, over five minutes. {told}", drawn, ticks)


def round_top(value: float) -> float:
    """Return the end of an axis: the next of 1, 2, 4, 6, 8 times a power of ten.

    Examples
    --------
    >>> [round_top(value) for value in (0, 0.3, 1, 41, 99)]
    [1.0, 0.4, 1.0, 60.0, 100.0]
    """
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(round(step * power, 9) for step in (1, 2, 4, 6, 8, 10) if step * power >= value)


def up(value: float, top: float) -> float:
    """Return how far down a value lies."""
    return round(HEIGHT - _BOTTOM - value / top * (HEIGHT - _TOP - _BOTTOM), 1)


def path(values: Sequence[float | None], top: float) -> str:
    """Draw a line through values that lie evenly from left to right."""
    # A gap where nobody asked: a line across it would be made up. A point alone is a dot.
    drawn, pen, last = "", "M", len(values) - 1
    for place, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        x = _LEFT + (WIDTH - _LEFT - _RIGHT) * place / max(last, 1)
        drawn += f"{pen}{x:.1f} {up(value, top)}" + ("h0.1" if pen == "M" else "")
        pen = "L"
    return drawn
