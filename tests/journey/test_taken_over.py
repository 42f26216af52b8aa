"""Unchanged inputs are not judged twice, and a rebuild takes nothing over."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.journey.server import Project, Server, toy_holdout

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


def test_training_is_taken_over_where_the_project_says_so_and_only_with_the_same_inputs(
    tmp_path: Path,
) -> None:
    project = Project.toy(tmp_path / "project")
    project.change("penstock.toml", "timeout_s = 20\n", "timeout_s = 20\nreuse = true\n")
    project.change(
        "train.py",
        'print("trained")',
        'pathlib.Path("golden.csv").write_text("x,prediction\\n1.0,1\\n")\nprint("trained here")',
    )
    project.commit("first")

    with Server() as server:
        project.push(server)
        assert server.ended(1).state == "succeeded"
        changes = ({"README.md": "words\n"}, {"train.csv": toy_holdout(seed=9)})
        for number, change in enumerate(changes, 2):
            project.git("switch", "-c", f"change-{number}")
            project.write(change)
            project.commit("change")
            project.push(server, branch=f"change-{number}")
            assert server.ended(number).state == "succeeded"
        logs = [server.cli("logs", f"toy@{n}", "--step", "train").stdout for n in (1, 2, 3)]
        reasons = {
            row.run_id: row.reason
            for row in server.rows("SELECT run_id, reason FROM step WHERE name = 'train'")
        }
        golden = server.rows("SELECT number, digest FROM document WHERE name = 'golden'")
        verified = server.cli("verify", "toy@2")
        rebuilt = json.loads(server.cli("--json", "verify", "toy@2", "--rebuild").stdout)
        statements = [attested(server, number) for number in (1, 2)]

    assert ["trained here" in log for log in logs] == [True, False, True]
    assert reasons[2] == "taken over from toy@1 (same code, data and environment)"
    assert {row.number for row in golden} == {1, 2, 3}
    assert verified.returncode == 0, verified.stdout
    assert "trained here" in rebuilt["data"][0]["log"]
    assert [one["internalParameters"]["reused"] for one in statements] == [None, "toy@1"]
    trained = [one for one in statements[1]["resolvedDependencies"] if one["name"] == "toy@1"]
    assert trained[0]["annotations"]["role"] == "trained"


def attested(server: Server, number: int) -> dict[str, Any]:
    """What the attestation of a version says of its build."""
    path = f"/api/models/toy/versions/{number}/documents/attestation"
    _, envelope = server.request("GET", path)
    statement = json.loads(base64.b64decode(envelope["payload"]))
    return statement["predicate"]["buildDefinition"]
