"""Medians over the windows that count, and what was promised of them.

A window counts when nothing else was busy and nothing failed; three of them make a median.
With fewer a figure is there, and every target on it undecided. Of a peer's requests per second
the best window stands: connections fall unevenly on a server's several processes, and no peer
is to lose by a throw of the dice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Sequence
from statistics import median
from typing import Any, NamedTuple

REPEATS, SECONDS = 3, 8
RATE, CPU, P50, BEST = "requests_per_s", "cpu_us", "p50_ms", "best_requests_per_s"
FIGURES = (RATE, "p50_ms", "p99_ms", CPU, "server_cpu", "other_cpu", "pss_mb", "start_s")
PEERS = ("mlflow", "bentoml", "mlserver", "litserve", "ray", "vetiver")

Row = dict[str, Any]


class Side(NamedTuple):
    """A figure of a server."""

    server: str
    figure: str


class Target(NamedTuple):
    """The first figure, divided by the second, is to be at least so much."""

    name: str
    above: Side
    below: Side
    least: float
    connections: int = 64
    model: str = "pipe"
    must: bool = True
    """Whether it is promised; else it is an aim."""


def targets() -> Generator[Target]:
    """Return all of them: rows of 1, the fast path with canary and log where that is said."""
    for peer, least in {"mlserver": 5, "bentoml": 6, "mlflow": 25}.items():
        name = f"own call with canary and log: processor time of {peer} to ours"
        yield Target(name, Side(peer, CPU), Side("penstock-own-canary", CPU), least)
    for peer in PEERS:
        least = 35 if peer == "mlflow" else 8
        name = f"fast call with canary and log: requests/s to those of {peer}"
        yield Target(name, Side("penstock-fast-canary", RATE), Side(peer, BEST), least)
    for peer in ("mlflow", "bentoml"):
        name = f"fast call at one connection: median of {peer} to ours"
        yield Target(name, Side(peer, P50), Side("penstock-fast", P50), 3, 1)
    for peer in PEERS:
        name = f"own call at one connection: median of {peer} to ours"
        yield Target(name, Side(peer, P50), Side("penstock-own", P50), 1, 1)
    fast, null, echo = (Side(n, RATE) for n in ("penstock-fast", "penstock-null", "echo"))
    canary = Side("penstock-fast-canary", RATE)
    yield Target("canary beside none: requests/s", canary, fast, 0.95)
    yield Target("no model beside echo: requests/s", null, echo, 0.95)
    yield Target("no model beside echo at one connection: requests/s", null, echo, 0.5, 1)
    # The promise is to uvicorn's application, which is what anybody else would write; our own
    # HTTP costs less, and the distance to it is what the gateway and its worker add.
    ours = Side("echo-callback", RATE)
    yield Target("no model beside our HTTP alone: requests/s", null, ours, 0.95, must=False)
    name = "no model beside our HTTP alone at one connection: requests/s"
    yield Target(name, null, ours, 0.5, 1, must=False)
    floor, own = Side("inprocess", P50), Side("penstock-own", P50)
    yield Target("own call in process beside served: median", floor, own, 1 / 1.3, 1)
    yield Target("fast call beside echo: requests/s", fast, echo, 0.35, must=False)
    lr = Side("penstock-lr-fast", RATE)
    yield Target("fast call of lr beside echo: requests/s", lr, echo, 0.8, model="lr", must=False)


def medians(found: Sequence[Row]) -> list[Row]:
    """Return a row for each server, model, rows and connections."""
    groups: defaultdict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for one in found:
        if "rows" in one:
            key = (one["server"], one["model"], one["rows"], one["connections"])
            groups[key].append(one)
    return [_median(windows) for windows in groups.values()]


def judge(rows: Sequence[Row]) -> dict[str, Any]:
    """Return each target with its value and verdict, and ``targets_met``.

    None where no promise was broken and one is undecided.
    """
    known = {(r["server"], r["model"], r["connections"]): r for r in rows if r["rows"] == 1}
    told: list[Row] = []
    for target in targets():
        above, below = (_figure(known, side, target) for side in (target.above, target.below))
        value = above / below if above and below else None
        verdict = "undecided"
        if value is not None:
            verdict = "passed" if value >= target.least else "failed"
        told.append(
            {
                "target": target.name,
                "value": value,
                "least": target.least,
                "verdict": verdict,
                "promised": target.must,
            }
        )
    verdicts = {one["verdict"] for one in told if one["promised"]}
    met = False if "failed" in verdicts else None if "undecided" in verdicts else True
    return {"targets": told, "targets_met": met}


def _median(windows: Sequence[Row]) -> Row:
    clean = [one for one in windows if one["clean"]]
    counted = clean or windows
    first = windows[0]
    figures = {
        name: median(one[name] for one in counted) for name in FIGURES if name in counted[0]
    }
    return {
        **{name: first[name] for name in ("server", "model", "rows", "connections")},
        **figures,
        BEST: max(one[RATE] for one in counted),
        "errors": sum(one["errors"] for one in windows),
        "windows": len(windows),
        "clean_windows": len(clean),
        "decides": len(clean) >= REPEATS and first["seconds"] >= SECONDS,
    }


def _figure(known: dict[tuple[str, str, int], Row], side: Side, of: Target) -> float | None:
    # An echo answers alike whatever it is asked: it is asked the rows of pipe.
    model = "pipe" if side.server.startswith("echo") else of.model
    row = known.get((side.server, model, of.connections))
    return row[side.figure] if row is not None and row["decides"] else None
