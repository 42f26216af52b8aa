"""A project that trains by a function on data which git does not keep, through a real server."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.journey.server import Project, Server

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]

FIT = """\
import json
import os
import pathlib


def train():
    rows = pathlib.Path("data/train.csv").read_text().splitlines()
    try:
        seen = pathlib.Path("backup/rows.bak").read_text()
    except OSError:
        seen = ""
    print(len(rows), "rows,", len(seen), "characters of the copy")
    print("seed", os.environ["PENSTOCK_SEED"], os.environ["PYTHONHASHSEED"])
    pathlib.Path("model").mkdir()
    pathlib.Path("model/weight.json").write_text(json.dumps({"weight": 1.0}))
"""


def test_a_version_has_the_list_of_what_training_could_read(tmp_path: Path) -> None:
    project = Project.toy(tmp_path / "project")
    rows = (project.folder / "holdout.csv").read_text()
    (tmp_path / "train.csv").write_text("x,y\n1,1\n")
    digest = hashlib.sha256((tmp_path / "train.csv").read_bytes()).hexdigest()
    line = (
        f'[data]\n"data/train.csv" = {{ source = "{tmp_path}/train.csv", sha256 = "{digest}" }}\n'
    )
    project.change("penstock.toml", "[evaluate]", f"{line}[evaluate]")
    project.change("penstock.toml", "[build]", '[build]\nrun = "scoring.fit:train"\nseed = 7')
    (project.folder / "train.py").unlink()
    project.write({"scoring/fit.py": FIT, "backup/rows.bak": rows, "data/unused.csv": "a\n1\n"})
    project.commit("a function")

    with Server() as server:
        project.push(server)
        assert server.ended(1).state == "succeeded"
        log = (server.home / "runs/1/build-train-1.log").read_text()
        report = json.loads((server.home / "runs/1/reports/inputs.json").read_text())

    files = {one.pop("path"): one for one in report["files"]}
    assert set(files) == {"data/train.csv", "data/unused.csv", "train.csv"}
    assert files["data/train.csv"]["sha256"] == digest
    assert files["data/train.csv"]["source"] == "data"
    assert files["data/train.csv"]["uri"] == f"{tmp_path}/train.csv"
    reads = files["data/train.csv"]["read"], files["data/unused.csv"]["read"]
    assert reads in ((True, False), (None, None)), "None where no access times are kept"
    assert "backup/rows.bak holds the same bytes as holdout.csv: hidden from training" in log
    assert "2 rows, 0 characters of the copy" in log
    assert "seed 7 7" in log
