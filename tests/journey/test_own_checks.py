"""A project's own checks on a real server: what they get, what they cannot do, what they stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.journey.server import Project, Server

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

CHECKS = """
[[check]]
name = "positives"
run = "checks.share:positives"
[[check]]
name = "files"
run = "python checks/files.py"
[[check]]
name = "crash"
run = "python -c 'raise SystemExit(3)'"
gate = false
[[check]]
name = "slow"
run = "sleep 60"
timeout_s = 1
gate = false
"""
SHARE = """
def positives(answers):
    share = sum(answers["prediction"]) / len(answers["prediction"])
    right = sum(p == y for p, y in zip(answers["prediction"], answers["y"])) / len(answers["y"])
    verdict = "passed" if 0 < share < 1 and right > 0.5 else "failed"
    return {"verdict": verdict, "summary": f"{share:.2f} positive", "value": share}
"""
FILES = """
import json, os, pathlib, socket
seen = {
    "model": sorted(p.name for p in pathlib.Path(os.environ["PENSTOCK_MODEL"]).iterdir()),
    "rows": len(pathlib.Path(os.environ["PENSTOCK_EVALUATION"]).read_text().splitlines()) - 1,
    "answers": pathlib.Path(os.environ["PENSTOCK_ANSWERS"]).read_bytes()[:4].decode(),
    "tampered": pathlib.Path("tampered").exists(),
}
try:
    pathlib.Path(os.environ["PENSTOCK_MODEL"], "x").write_text("x")
    seen["writes"] = True
except OSError:
    seen["writes"] = False
try:
    socket.create_connection(("127.0.0.1", int(os.environ.get("PORT", "1"))), timeout=1)
    seen["network"] = True
except OSError:
    seen["network"] = False
print("looking")
print(json.dumps({"verdict": "passed", "evidence": seen}))
"""


def test_own_checks_are_asked_marked_and_counted(tmp_path: Path) -> None:
    project = Project.toy(tmp_path / "project")
    project.write({"checks/share.py": SHARE, "checks/files.py": FILES})
    project.change("penstock.toml", "[speed]", CHECKS + "[speed]")
    project.change("train.py", 'print("trained")', 'open("tampered", "w").close()')
    project.commit("own checks")

    with Server() as server:
        project.push(server)
        run = server.ended(1)
        found = {
            row.check_name: row
            for row in server.rows(
                "SELECT check_name, verdict, summary, evidence FROM check_result"
            )
        }
        steps = {
            row.name: (row.state, row.ended_at)
            for row in server.rows("SELECT name, state, ended_at FROM step")
        }

    own = {name: row.verdict for name, row in found.items() if name.startswith("own.")}
    assert own == {
        "own.positives": "passed",
        "own.files": "passed",
        "own.crash": "failed",
        "own.slow": "failed",
    }, found
    seen = json.loads(found["own.files"].evidence)
    assert seen["told"]["rows"] == 600
    assert seen["told"]["answers"] == "PAR1"
    assert "penstock.json" in seen["told"]["model"]
    assert not seen["told"]["tampered"], "what training left must not meet the checks"
    assert not seen["told"]["network"]
    assert "did not end within 1 s" in found["own.slow"].summary
    # Two reports failed, and reports stop nothing.
    assert run.state == "succeeded", run
    assert steps["check"][0] == "passed"
    assert steps["check"][1] is not None

    assert {name for name in found if name.startswith(("sanity.", "supply."))} == {
        *("sanity.label_leak", "sanity.single_feature", "sanity.row_numbers", "sanity.overlap"),
        *("sanity.size", "sanity.data", "supply.size", "supply.pins", "supply.licences"),
    }
