"""What Penstock adds to a push: Adult, with an environment that is there already.

Taken off is what the project itself takes: its training command, timed by the command line, and
the resolution of its dependencies, which the log tells.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.journey.server import Project, Server
from tests.journey.test_adult import DATA, PROJECT

REPEATS = 7
MOST_S = 3.0
NAME = "adult-income"
TIMED = 'run = "date +began=%s.%N && python train.py && date +ended=%s.%N"'
STEPS = ("train", "store", "check", "fairness", "explain")


def measure() -> dict[str, Any]:
    """Push a project again and again, each time with another model."""
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        project = _adult(Path(folder) / "adult")
        project.push(server, NAME)
        server.ended(1, NAME, seconds=300)  # makes the environment
        found = [_once(server, project, number) for number in range(2, REPEATS + 2)]
    parts = {name: statistics.median(one[name] for one in found) for name in found[0]}
    added = [one["added"] for one in found]
    return {
        "repeats": REPEATS,
        "load": os.getloadavg()[0],
        "seconds": added,
        "median_s": statistics.median(added),
        "medians_s": parts,
        "what": "from git push to the end of step fairness, without the training command and the "
        "resolution of dependencies; step explain, which a budget bounds, stands beside it",
        "targets": {"median_s": MOST_S},
        "targets_met": statistics.median(added) < MOST_S,
    }


def _adult(folder: Path) -> Project:
    project = Project(folder)
    shutil.copytree(PROJECT, project.folder)
    (project.folder / "data").mkdir()
    shutil.copy(DATA / "train.parquet", project.folder / "data" / "train.parquet")
    test = pq.read_table(DATA / "test.parquet").slice(0, 4000)
    pq.write_table(test, project.folder / "data" / "holdout.parquet")
    project.change("penstock.toml", "[evaluate]", f"[build]\n{TIMED}\n[evaluate]")
    project.git("init", "--quiet", "--initial-branch", "main")
    project.commit("first")
    return project


def _once(server: Server, project: Project, number: int) -> dict[str, float]:
    # Another model each time: what was found for the same one would be taken over.
    project.change("train.py", f"max_iter={298 + number}", f"max_iter={299 + number}")
    project.commit(f"build {number}")
    began = time.time()
    project.git("push", "--quiet", f"{server.url}/git/{NAME}", f"HEAD:bench-{number}")
    pushed = time.time()
    run = server.ended(number, NAME, seconds=300)
    assert run.state == "succeeded", run
    at = {
        row.name: (_s(row.started_at), _s(row.ended_at))
        for row in server.rows(
            f"SELECT name, started_at, ended_at FROM step WHERE run_id = {run.id}"
        )
    }
    log = (server.home / f"runs/{run.id}/build-train-1.log").read_text()
    command = _told(log, r"ended=([\d.]+)") - _told(log, r"began=([\d.]+)")
    resolution = _told(log, r"Locked .*, ([\d.]+) s\.")
    whole = at["fairness"][1] - began
    steps = {name: at[name][1] - at[name][0] for name in STEPS}
    return {
        "added": whole - command - resolution,
        "whole push": pushed - began,
        "command": command,
        "resolution": resolution,
        "around the command": steps["train"] - command - resolution,
        **{name: steps[name] for name in STEPS[1:]},
    }


def _told(log: str, pattern: str) -> float:
    found = re.search(pattern, log)
    assert found is not None, f"{pattern} is not in the log"
    return float(found[1])


def _s(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
