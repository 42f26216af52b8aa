"""Unchanged inputs are not judged twice, and a rebuild takes nothing over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.journey.server import Project, Server

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]


def test_a_change_of_words_takes_over_what_was_found_and_a_rebuild_trains(tmp_path: Path) -> None:
    project = Project.toy(tmp_path / "project")
    project.change("penstock.toml", "positive = 1\n", 'positive = 1\nsensitive = ["x"]\n')
    project.change("train.py", 'print("trained")', 'print("trained here")')
    project.commit("first")

    with Server() as server:
        project.push(server)
        assert server.ended(1).state == "succeeded"
        for number in (2, 3):
            project.git("switch", "-c", f"words-{number}")
            project.write({"README.md": f"more words {number}\n"})
            project.commit("words")
            project.push(server, branch=f"words-{number}")
            assert server.ended(number).state == "succeeded"
        found = {
            (row.number, row.check_name): json.loads(row.evidence).get("taken_over")
            for row in server.rows("SELECT number, check_name, evidence FROM check_result")
        }
        reasons = {
            (row.run_id, row.name): row.reason
            for row in server.rows("SELECT run_id, name, reason FROM step")
        }
        done = server.cli("--json", "verify", "toy@3", "--rebuild")
        rebuilt = json.loads(done.stdout)["data"][0]
        logs = server.cli("logs", "toy@3", "--step", "explain").stdout

    # The first had no champion to fit to; what asks the model alone is the same for all.
    assert reasons[2, "explain"].startswith(
        "taken over from toy@1 (same model, data and settings)"
    )
    assert reasons[2, "fairness"].startswith("taken over from toy@1")
    assert not reasons[2, "check"].startswith("taken over")
    assert reasons[3, "check"].startswith("taken over from toy@2")
    assert found[2, "explain.importance"] == 1
    assert found[3, "smoke.deterministic"] == 2
    assert found[1, "smoke.deterministic"] is None
    assert "explain: taken over from toy@2" in logs or "explain: taken over from toy@1" in logs
    assert rebuilt["reading"] == "bit for bit"
    assert "trained here" in rebuilt["log"]
