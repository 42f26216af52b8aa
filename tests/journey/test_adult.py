"""The promise, on real data: from an empty server to production, and a second version after it."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.journey.server import Project, Server, Traffic

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "adult"
PROJECT = ROOT / "tests" / "projects" / "adult"
NUMBERS = ("age", "education_num", "hours_per_week", "capital_gain")
COLUMNS = (*NUMBERS, "workclass", "marital_status", "occupation", "sex", "race")


@pytest.fixture
def adult(tmp_path: Path) -> Project:
    if not DATA.is_dir():
        assert not os.environ.get("CI"), f"CI must have the Adult data at {DATA}"
        pytest.skip(f"NOT RUN: the Adult data is not at {DATA}")
    project = Project(tmp_path / "adult")
    shutil.copytree(PROJECT, project.folder)
    (project.folder / "data").mkdir()
    shutil.copy(DATA / "train.parquet", project.folder / "data" / "train.parquet")
    test = pq.read_table(DATA / "test.parquet").slice(0, 4000)
    pq.write_table(test, project.folder / "data" / "holdout.parquet")
    project.git("init", "--quiet", "--initial-branch", "main")
    project.commit("Numbers only")
    return project


def test_adult_goes_from_an_empty_server_to_production_and_is_replaced_by_a_better_version(
    adult: Project,
) -> None:
    with Server() as server:
        told = adult.push(server, "adult-income")
        assert "adult-income@1" in told, told
        first = server.ended(1, "adult-income", seconds=240)
        assert first.state == "awaiting_approval", first
        approve(server, "first")
        assert server.ended(1, "adult-income").state == "succeeded"

        rows = pq.read_table(adult.folder / "data" / "holdout.parquet").to_pylist()
        with Traffic(server, lambda draw: body(draw, rows), "adult-income", 3, 0.01) as traffic:
            server.until(lambda: traffic.statuses[200] > 50, "answers")
            adult.change("train.py", "NUMBERS))", "NUMBERS), (words, WORDS))")
            adult.commit("Words count too")
            adult.push(server, "adult-income")
            second = server.ended(2, "adult-income", seconds=240)
            assert second.state == "awaiting_approval", second
            approve(server, "better")
            assert server.ended(2, "adult-income", seconds=180).state == "succeeded"

        assert set(traffic.statuses) == {200}
        serving = {role: one.number for role, one in server.serving("adult-income").items()}
        assert serving == {"champion": 2, "previous": 1}
        checks = {
            (row.number, row.check_name): row.verdict
            for row in server.rows("SELECT number, check_name, verdict FROM check_result")
        }
        assert checks[2, "quality.not_worse"] == "passed"
        assert "fairness.demographic_parity.sex" in {name for _, name in checks}
        server.journal()
        back = server.cli("rollback", "adult-income", "--yes", "-m", "a drill")
        assert back.returncode == 0, back.stderr
        assert server.serving("adult-income")["champion"].number == 1


def approve(server: Server, reason: str) -> None:
    ((number,),) = server.rows("SELECT id FROM approval WHERE state = 'asked'")
    status, told = server.request("POST", f"/api/approvals/{number}/approve", {"reason": reason})
    assert status == 200, told


def body(draw: random.Random, rows: list[dict[str, Any]]) -> Any:
    row = draw.choice(rows)
    return {
        "inputs": [
            {
                "name": name,
                "shape": [1],
                "datatype": "INT64" if name in NUMBERS else "BYTES",
                "data": [row[name]],
            }
            for name in COLUMNS
        ]
    }
