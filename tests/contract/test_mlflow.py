"""What the real MLflow writes is what is read: nested runs, logged models, versions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.adapters.sandbox.local import LocalSandbox
from penstock.build.project.detect import model_places
from penstock.build.results import tracking
from penstock.build.results.outcome import collect
from penstock.build.train import Plan, training_command
from penstock.config import ModelConfig
from penstock.ports import Finished

PINS = ("mlflow-skinny==3.17.2", "sqlalchemy==2.1.9", "alembic==1.20.1", "pandas==3.1.1")
UV = (sys.executable, "-m", "uv")
# A flavour of its own: the framework of a model plays no part in where MLflow puts it.
FLAVOUR = """
import pathlib

def save_model(path, mlflow_model, content):
    folder = pathlib.Path(path)
    folder.mkdir(parents=True)
    (folder / "weights.txt").write_text(content)
    mlflow_model.add_flavor("own", loader_module="flavour")
    mlflow_model.save(str(folder / "MLmodel"))
"""
TRAIN = """
import flavour, mlflow
from mlflow.models import Model

mlflow.set_experiment("their own")
with mlflow.start_run(run_name="search"):
    for depth in (1, 2):
        with mlflow.start_run(run_name=f"depth {depth}", nested=True) as run:
            mlflow.log_param("depth", depth)
            for step in range(3):
                mlflow.log_metric("loss", 1 / (depth + step), step=step)
            mlflow.log_text("plain", "notes/read me.txt")
            more = {"content": f"depth {depth}", "registered_model_name": "trees"}
            Model.log(None, flavour, name="model", **more)
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """The python of an environment with MLflow, made once on this machine."""
    folder = Path.home() / ".cache" / "penstock-tests" / "mlflow-3.17.2"
    done = folder / "done"
    if not done.exists():
        environ = {**os.environ, "UV_NO_PROGRESS": "1"}
        for command in (
            ("venv", "--quiet", "--clear", "--python", sys.executable, str(folder)),
            ("pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *PINS),
        ):
            subprocess.run([*UV, *command], check=True, env=environ, timeout=240)
        done.touch()
    return folder / "bin" / "python"


@pytest.mark.parametrize("store", ["the build's", "a file store of the project's"])
def test_what_mlflow_writes_is_read_and_its_newest_version_counts(
    python: Path, tmp_path: Path, store: str
) -> None:
    project = tmp_path / "checkout"
    project.mkdir()
    (project / "flavour.py").write_text(FLAVOUR)
    own = 'mlflow.set_tracking_uri("mlruns")\n' if store != "the build's" else ""
    (project / "train.py").write_text(TRAIN.replace("mlflow.set_e", f"{own}mlflow.set_e", 1))
    config = ModelConfig.model_validate({"model": {"name": "credit-default"}})
    plan = Plan(
        config=config,
        commit="3f2a91c" + "0" * 33,
        checkout=project,
        scratch=tmp_path / "scratch",
        python=python,
        run="python train.py",
        model_globs=model_places(config)[0],
    )
    log, answer = tmp_path / "log", tmp_path / "answer.json"
    command = training_command(plan)
    with log.open("wb") as output:
        environ = {**command.env, "HOME": str(tmp_path)}
        done = subprocess.run(
            list(command.argv),
            cwd=project,
            env=environ,
            stdout=output,
            stderr=output,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, log.read_text()

    with answer.open("wb") as output:
        reader = tracking.reading(plan, tmp_path / "copies")
        assert LocalSandbox(tmp_path).start(reader, stdout=output).wait(60) == 0
    tracked = tracking.understood(answer, plan)
    built = collect(plan, Finished(0), log=log, tracked=tracked)
    told = tracking.report(tracked, hold=lambda path: path.name, but=built.path)

    assert (built.path / "weights.txt").read_text() == "depth 2"
    assert built.why == "registered in this build as trees version 2, the newest of 2"
    assert {run["experiment"] for run in told["runs"]} == {"their own"}
    names = {run["id"]: run["name"] for run in told["runs"]}
    assert [(run["name"], names.get(run["parent"])) for run in told["runs"]] == [
        ("search", None),
        ("depth 1", "search"),
        ("depth 2", "search"),
    ]
    last = told["runs"][2]
    assert (last["status"], last["params"]) == ("FINISHED", {"depth": "2"})
    assert (last["metrics"], last["history"]) == ({"loss": 0.25}, {"loss": 3})
    assert [file["path"] for file in last["artifacts"]] == ["notes/read me.txt"]
    assert [(model["name"], model["flavors"]) for model in told["models"]] == [
        ("model", ["own"])
    ] * 2
    assert json.dumps(told, allow_nan=False)
