"""The speed test's false alarms and power: ``python -m bench.statistics.speed``.

Two versions on one machine. Rows differ, and a pair sends the same; the machine's speed wanders
by about half and remembers 0.95 from pair to pair; each version has noise of its own:

independent   each pair anew, one answer in thirty stalls
remembers     also noise that remembers 0.8 from pair to pair
long          the same with 0.95
bursts        three stretches of a sixtieth of the pairs in which one version is slow
tail          the challenger's slowest tenth is worse, its typical request is not
"""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.statistics import kept
from bench.statistics.kept import slack
from penstock.check.speed_ratio import not_slower

Floats = NDArray[np.float64]
KINDS = ("independent", "remembers", "long", "bursts", "tail")
RATIOS = (1.0, 1.1, 1.2, 1.3, 1.5)
MARGIN = 1.2


def noise(rng: np.random.Generator, count: int, rho: float, sd: float) -> Floats:
    """Draw noise with standard deviation `sd` that remembers `rho` of its last value."""
    values = rng.normal(0, sd, count)
    for place in range(1, count):
        values[place] = rho * values[place - 1] + math.sqrt(1 - rho**2) * values[place]
    return values


def pairs(rng: np.random.Generator, kind: str, ratio: float, count: int) -> tuple[Floats, Floats]:
    """Return latencies of challenger and champion, shape ``(count,)``, in any unit."""
    shared = np.log(rng.gamma(8, size=count)) + noise(rng, count, 0.95, 0.5)
    logs: list[Floats] = []
    for arm in ("challenger", "champion"):
        own = rng.normal(0, 0.15, count) + (rng.random(count) < 1 / 30) * rng.exponential(
            1.5, count
        )
        if kind in {"remembers", "long"}:
            own += noise(rng, count, 0.8 if kind == "remembers" else 0.95, 0.1)
        if kind == "bursts":
            for begin in rng.integers(0, count, 3).tolist():
                own[begin : begin + count // 60] += 1.0
        if kind == "tail" and arm == "challenger":
            own += (rng.random(count) < 0.1) * 1.0
        logs.append(shared + own)
    return ratio * np.exp(logs[0]), np.exp(logs[1])


def simulate(runs: int = 1000, counts: tuple[int, ...] = (200, 1000), seed: int = 11) -> Any:
    """Return the shares of the verdicts, a row for each kind, number of pairs and true ratio."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        for count in counts:
            for ratio in RATIOS:
                told = Counter(
                    str(not_slower(*pairs(rng, kind, ratio, count), margin=MARGIN).verdict)
                    for _ in range(runs)
                )
                shares = {name: told[name] / runs for name in ("passed", "failed", "undecided")}
                rows.append({"noise": kind, "pairs": count, "ratio": ratio, **shares})
    return {"runs": runs, "seed": seed, "margin": MARGIN, "rows": rows}


def targets(found: Any) -> dict[str, bool]:
    """Say of each promise whether it was kept, within three standard errors."""
    rows, runs = found["rows"], found["runs"]
    bound = 0.05 + slack(0.05, runs)
    fair = [one for one in rows if one["noise"] in {"independent", "remembers", "bursts"}]
    at = [one for one in fair if one["ratio"] == MARGIN]
    equal = [one for one in rows if one["ratio"] == 1]
    return {
        "at the margin it fails in 5 % at most": all(one["failed"] <= bound for one in at),
        "at the margin it passes in 5 % at most": all(one["passed"] <= bound for one in at),
        "an equal version never fails": all(one["failed"] == 0 for one in equal),
        "one that takes half as long again is found by 200 pairs": all(
            one["failed"] >= 0.8 for one in rows if one["ratio"] == 1.5
        ),
    }


def table(found: Any) -> str:
    """Return it as a table for the docs."""
    lines = [
        "| noise | pairs | " + " | ".join(f"ratio {ratio:g}" for ratio in RATIOS) + " |",
        "|---|---|" + "---|" * len(RATIOS),
    ]
    keys = dict.fromkeys((one["noise"], one["pairs"]) for one in found["rows"])
    for kind, count in keys:
        cells = [
            " / ".join(f"{one[name]:.3g}" for name in ("passed", "failed", "undecided"))
            for one in found["rows"]
            if (one["noise"], one["pairs"]) == (kind, count)
        ]
        lines.append(f"| {kind} | {count:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write() -> None:
    """Do all of it, print the table of the docs, and keep it."""
    began_s = time.monotonic()
    found = simulate()
    print(table(found))
    kept.write("speed", found, targets(found), began_s)


if __name__ == "__main__":
    write()
