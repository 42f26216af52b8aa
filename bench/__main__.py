"""Benchmarks: ``make bench``. Ratios and medians of one run on one machine, kept as JSON.

rollback   from the command to the last answer of the version that is left, under load
delivery   what a push costs beyond the project's own training, with a warm environment
build      what Penstock adds to a push of a real project, step by step
hosts      workers forked from a warm host beside cold ones; many versions in one worker
sandbox    what each level adds to the start of a program
fairness   the whole report beside Fairlearn's MetricFrame
explain    the explanation beside the library shap
fast_paths faster calls of a model beside its own
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import build, explain, fairness, fast_paths, hosts, sandbox
from penstock import __version__
from tests.journey.server import Project, Server, Traffic, toy_row

RESULTS = Path(__file__).parent / "results"
REPEATS = 7
DELIVERIES = 5


def rollback(server: Server, project: Project) -> dict[str, Any]:
    """Go back and forth between two loaded versions under requests."""
    project.change("train.py", "1.0", "1.05")
    project.commit("second")
    seconds: list[float] = []
    with Traffic(server, toy_row) as traffic:
        project.push(server)
        assert server.ended(2).state == "succeeded"
        for _ in range(REPEATS):
            leaving = server.serving()["champion"].number
            time.sleep(1)  # so that each repeat meets a steady load, not the change before
            began = time.monotonic()
            status, told = server.request("POST", "/api/models/toy/rollback", {"reason": "bench"})
            assert status == 200, told
            seconds.append(_last_answer(traffic, leaving, began))
    failed = sum(n for status, n in traffic.statuses.items() if status != 200)
    return {
        "seconds": seconds,
        "median_s": statistics.median(seconds),
        "requests": sum(traffic.statuses.values()),
        "failed_requests": failed,
        "targets": {"max_s": 1.0, "failed_requests": 0},
        "targets_met": max(seconds) < 1.0 and failed == 0 and traffic.refused == 0,
    }


def _last_answer(traffic: Traffic, leaving: int, began: float) -> float:
    """Return the seconds until the version that is left answered for the last time."""
    last, quiet_s, seen = began, 1.0, len(traffic.answers)
    while time.monotonic() - last < quiet_s:
        fresh = traffic.answers[seen:]
        seen += len(fresh)
        if any(number == leaving for _, number in fresh):
            last = time.monotonic()
        time.sleep(0.002)
    return last - began


def delivery(server: Server, project: Project) -> dict[str, Any]:
    """Push again and again; the environment is warm, the model is tiny."""
    project.change("penstock.toml", "[canary]\nsteps = [25, 50]\nbatch_s = 1\n", "")
    seconds: list[float] = []
    for number in range(DELIVERIES):
        before = server.runs()[0].number
        project.commit(f"delivery {number}")
        began = time.monotonic()
        project.git("push", "--quiet", f"{server.url}/git/toy", f"HEAD:bench-{number}")
        run = server.ended(before + 1)
        assert run.state == "succeeded", run
        whole = time.monotonic() - began
        ((train,),) = server.rows(
            "SELECT (julianday(ended_at) - julianday(started_at)) * 86400 FROM step "
            f"WHERE run_id = {run.id} AND name = 'train'"
        )
        seconds.append(whole - train)
    return {
        "seconds": seconds,
        "median_s": statistics.median(seconds),
        "what": "from git push to the end of the tests, without step train",
        "targets": {"median_s": 10.0},
        "targets_met": statistics.median(seconds) < 10.0,
    }


BENCHES: dict[str, Callable[[Server, Project], dict[str, Any]]] = {
    "rollback": rollback,
    "delivery": delivery,
}


ALONE: dict[str, Callable[[], dict[str, Any]]] = {
    "build": build.measure,
    "explain": explain.measure,
    "fast_paths": fast_paths.measure,
    "fairness": fairness.measure,
    "hosts": hosts.measure,
    "sandbox": sandbox.measure,
}
"""Those that need no server."""


def _served(bench: Callable[[Server, Project], dict[str, Any]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        project = Project.toy(Path(folder) / "project")
        project.push(server)
        assert server.ended(1).state == "succeeded"
        return bench(server, project)


def main(names: list[str]) -> int:
    """Run the benchmarks named, or all; 0 when every target was met."""
    met = True
    for name in names or [*BENCHES, *ALONE]:
        found = ALONE[name]() if name in ALONE else _served(BENCHES[name])
        facts = {
            "name": name,
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "penstock": __version__,
            "python": platform.python_version(),
            "cores": os.cpu_count(),
        }
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps({**facts, **found}, indent=1) + "\n"
        (RESULTS / f"{name}.json").write_text(text)
        met = met and bool(found["targets_met"])
        median = f"median {found['median_s']:.2f} s"
        print(f"{name:<10} {median}   {'met' if found['targets_met'] else 'NOT MET'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
