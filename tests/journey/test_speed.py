"""Speed on a real server: a challenger beside its champion, load, and a replay of production."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.journey.server import Project, Server, Traffic, toy_row

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

SLOWER = """\
import time


def predict(model, frame):
    time.sleep(0.02)"""


def told_of(server: Server, number: int) -> dict[str, Any]:
    """Verdict and evidence of a version's checks, by name."""
    query = f"SELECT check_name, verdict, evidence FROM check_result WHERE number = {number}"
    return {
        row.check_name: {"verdict": row.verdict, "evidence": json.loads(row.evidence)}
        for row in server.rows(query)
    }


def test_a_slower_challenger_is_stopped_and_its_other_decisions_are_shown(tmp_path: Path) -> None:
    project = Project.toy(tmp_path / "project")
    stated = "[speed]\nload = true\nmargin = 1.5\nbudget_s = 20"
    project.change("penstock.toml", "[speed]", stated)
    project.commit("speed is judged")

    with Server() as server:
        project.push(server)
        server.ended(1)
        with Traffic(server, toy_row) as traffic:
            server.until(lambda: traffic.statuses[200] >= 300, "300 answers")
        project.change("adapter.py", "def predict(model, frame):", SLOWER)
        project.change("adapter.py", '-model["weight"] * x', '-model["weight"] * (x - 0.5)')
        project.commit("slower")
        project.push(server)
        run = server.ended(2)
        slower = told_of(server, 2)
        project.git("revert", "--no-edit", "HEAD")
        project.push(server)
        server.until(lambda: "replay.changed" in told_of(server, 3), "the replay of an equal one")
        equal = told_of(server, 3)

    assert equal["speed.not_slower"]["verdict"] == "passed"
    assert equal["replay.changed"]["evidence"]["changed"] == 0
    assert run.state == "failed"
    assert "speed.not_slower" in run.reason
    assert slower["speed.not_slower"]["verdict"] == "failed"
    assert slower["speed.not_slower"]["evidence"]["low"] > 1.5
    levels = slower["speed.throughput"]["evidence"]["levels"]
    assert [one["connections"] for one in levels[:2]] == [1, 4]
    assert levels[0]["rate"] < 50  # it sleeps 20 ms a batch
    replay = slower["replay.changed"]
    assert replay["verdict"] == "passed"  # a report
    assert replay["evidence"]["rows"] >= 300
    assert 0.02 < replay["evidence"]["value"] < 0.4
    first = replay["evidence"]["examples"][0]
    assert first["id"] in {name for name, _ in traffic.answers}
    assert 0 <= first["inputs"]["x"] <= 0.6  # where the curve was moved
