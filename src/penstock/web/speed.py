"""How a version was measured beside its champion, as two small plots, drawn by the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from penstock.domain import CheckResult
from penstock.web.curves import Tick
from penstock.web.traffic import Arm, Line, path, round_top, up
from penstock.web.words import number

_COLOURS = ("--d-challenger", "--d-champion")


@dataclass(frozen=True, slots=True)
class Curve:
    """One plot: a line a version."""

    title: str
    text: str
    """What it says, for those who do not see it."""
    lines: list[Line]
    ticks: list[Tick]
    left: str
    right: str
    """What stands at the ends of the lower axis."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the page shows."""

    arms: list[Arm]
    curves: list[Curve]
    paused: str
    """How production was minded; empty where there was nothing to mind."""


def measured(report: Mapping[str, Any] | None) -> Measured | None:
    """Place the report of step speed; None without one.

    Parameters
    ----------
    report
        ``shares``, ``versions`` (each with ``number``, ``latencies_ms`` at the shares, and
        ``levels`` of load), ``beside_production``; the version's own stands first.
    """
    versions = [one for one in (report or {}).get("versions", ()) if one["latencies_ms"]][:2]
    if report is None or not versions:
        return None
    shares = list(report["shares"])
    curves = [
        _curve(
            "Latency, ms, of so many requests of 100",
            versions,
            lambda one: one["latencies_ms"],
            (f"{100 * shares[0]:.0f}", f"{100 * shares[-1]:.0f} of 100"),
        )
    ]
    loaded = [one for one in versions if len(one["levels"]) > 1]
    if loaded:
        most = max((one["levels"] for one in loaded), key=len)
        ends = (f"{most[0]['connections']} connection", f"{most[-1]['connections']} connections")
        width = len(most)

        def rates(one: Mapping[str, Any]) -> list[float | None]:
            found: list[float | None] = [level["rate"] for level in one["levels"]]
            return found + [None] * (width - len(found))

        curves.append(_curve("Requests a second under load", loaded, rates, ends))
    beside = cast("Mapping[str, Any]", report.get("beside_production") or {})
    paused = ""
    if beside.get("pauses"):
        paused = f"It paused {beside['paused_s']:g} s, since {'; '.join(beside['pauses'][:3])}."
    elif beside.get("guarded"):
        paused = "Production was as fast as before all the while."
    return Measured(_arms(versions), curves, paused)


def replayed(results: Sequence[CheckResult]) -> Mapping[str, Any] | None:
    """Return what the replay of production found; None without one."""
    found = next((one for one in results if one.check == "replay.changed"), None)
    if found is None or not found.evidence.get("rows"):
        return None
    return {**found.evidence, "summary": found.summary}


def _arms(versions: Sequence[Mapping[str, Any]]) -> list[Arm]:
    told: list[Arm] = []
    for place, one in enumerate(versions):
        latencies = one["latencies_ms"]
        text = f"half within {number(latencies[len(latencies) // 2 - 1])} ms"
        name = f"v{one['number']}{', the champion then' if place else ''}"
        told.append(Arm(name, _COLOURS[place], not place, text))
    return told


def _curve(
    title: str,
    versions: Sequence[Mapping[str, Any]],
    values: Callable[[Mapping[str, Any]], Sequence[float | None]],
    ends: tuple[str, str],
) -> Curve:
    known = [value for one in versions for value in values(one) if value is not None]
    top = round_top(max(known))
    lines = [
        Line(path(values(one), top), _COLOURS[place], not place)
        for place, one in enumerate(versions)
    ]
    ticks = [Tick(up(value, top), f"{value:,g}") for value in (0, top / 2, top)]
    told = "; ".join(
        f"v{one['number']}: {', '.join(number(v) for v in _few(values(one)))}" for one in versions
    )
    return Curve(title, f"{title}. {told}", lines, ticks, *ends)


def _few(values: Sequence[float | None]) -> list[float]:
    known = [value for value in values if value is not None]
    return known if len(known) <= 6 else [known[len(known) // 2 - 1], known[-4], known[-1]]
