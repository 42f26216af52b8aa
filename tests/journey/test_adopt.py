"""A model that was trained elsewhere comes in through the gate, or stays out."""

from __future__ import annotations

import random
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import joblib
import pytest
from sklearn.linear_model import LogisticRegression

from tests.journey.server import Project, Server
from tests.malicious import samples

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    with Server() as started:
        yield started


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(3)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    lines = [(draw.gauss(0, 1), draw.gauss(0, 1)) for _ in range(400)]
    labels = [int(a + draw.gauss(0, 0.7) > 0) for a, _ in lines]
    told = [f"{a:.5f},{b:.5f},{y}" for (a, b), y in zip(lines, labels, strict=True)]
    path.write_text("\n".join(["a,b,y", *told]) + "\n")
    return path


def adopted(server: Server, model: Path, rows: Path, name: str, folder: Path) -> Project:
    needs = folder.parent / f"{name}.txt"
    needs.write_text(f"joblib\npandas\nscikit-learn=={version('scikit-learn')}\n")
    told = server.cli(
        *("adopt", str(model), "--name", name, "--evaluate", str(rows), "--label", "y"),
        *("--requirements", str(needs), "--to", str(folder)),
    )
    assert told.returncode == 0, told.stderr
    project = Project(folder)
    project.commit("adopted")
    return project


def test_a_good_model_reaches_its_approval_and_says_that_it_was_adopted(
    server: Server, rows: Path, tmp_path: Path
) -> None:
    table = [line.split(",") for line in rows.read_text().splitlines()[1:]]
    features = [[float(a), float(b)] for a, b, _ in table]
    model = tmp_path / "model.joblib"
    fitted = cast("Any", LogisticRegression()).fit(features, [int(y) for *_, y in table])
    joblib.dump(fitted, model)
    project = adopted(server, model, rows, "adopted-one", tmp_path / "adopted-one")

    project.push(server, "adopted-one")
    run = server.ended(1, "adopted-one")

    assert run.state == "awaiting_approval", run.reason
    found = server.rows(
        "SELECT verdict, summary FROM check_result"
        " WHERE check_name = 'adopt.gate' AND model = 'adopted-one'"
    )
    assert [row.verdict for row in found] == ["passed"]
    assert "LogisticRegression" in found[0].summary
    log = server.cli("logs", str(run.id), "--step", "train")
    assert "not trained here" in log.stdout


def test_a_harmful_model_stays_out_and_its_payload_never_runs(
    server: Server, rows: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    sample = next(one for one in samples(canary) if one.name == "in the state of a model")
    model = tmp_path / "model.joblib"
    model.write_bytes(sample.content)
    project = adopted(server, model, rows, "adopted-two", tmp_path / "adopted-two")

    project.push(server, "adopted-two")
    run = server.ended(1, "adopted-two")

    assert (run.state, run.ended_by) == ("failed", "check")
    assert "PS290" in run.reason
    assert "os.system" in run.reason
    assert not canary.exists()
    assert server.rows("SELECT sealed_at FROM version WHERE model = 'adopted-two'")[0][0] is None
