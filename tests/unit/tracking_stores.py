"""MLflow's tracking stores, written by hand: the tables and files of MLflow 2.16 and 3.17.

The columns, the layout of the folders and the way a version names its model were looked up in
what both releases wrote; tests/contract/test_mlflow.py reads what the real one writes.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MLMODEL = """\
artifact_path: {path}
flavors:
  python_function:
    loader_module: mlflow.sklearn
    model_path: model.pkl
  sklearn:
    code: null
    pickled_model: model.pkl
mlflow_version: 3.17.2
"""
BEGAN_MS = 1_796_065_465_000
_TABLES = {
    "experiments": "experiment_id INT, name TEXT, artifact_location TEXT, lifecycle_stage TEXT",
    "runs": "run_uuid TEXT, name TEXT, status TEXT, start_time INT, end_time INT,"
    " lifecycle_stage TEXT, artifact_uri TEXT, experiment_id INT",
    "params": "key TEXT, value TEXT, run_uuid TEXT",
    "tags": "key TEXT, value TEXT, run_uuid TEXT",
    "metrics": "key TEXT, value REAL, timestamp INT, run_uuid TEXT, step INT, is_nan INT",
    "latest_metrics": "key TEXT, value REAL, timestamp INT, step INT, is_nan INT, run_uuid TEXT",
    "model_versions": "name TEXT, version INT, creation_time INT, source TEXT, run_id TEXT,"
    " status TEXT, storage_location TEXT",
}
_LOGGED = (
    "model_id TEXT, experiment_id INT, name TEXT, artifact_location TEXT,"
    " creation_timestamp_ms INT, status INT, lifecycle_stage TEXT, source_run_id TEXT"
)


def model_files(folder: Path, content: str = "weights") -> Path:
    """Write what MLflow writes for a logged model."""
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text(MLMODEL.format(path=folder))
    (folder / "model.pkl").write_text(content)
    (folder / "requirements.txt").write_text("scikit-learn\n")
    return folder


@dataclass
class SqliteStore:
    """A store as ``sqlite:///`` makes it; artifacts lie in the project's mlruns."""

    path: Path
    project: Path
    three: bool = True
    """Whether it is of MLflow 3, which logs models beside runs."""
    clock: int = BEGAN_MS
    connection: sqlite3.Connection = field(init=False)

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(self.path)
        for name, columns in _TABLES.items():
            self.connection.execute(f"CREATE TABLE {name} ({columns})")
        if self.three:
            self.connection.execute(f"CREATE TABLE logged_models ({_LOGGED})")
        self.insert("experiments", 1, "credit", f"{self.project}/mlruns/1", "active")

    def experiment(self, number: int, name: str) -> None:
        self.insert("experiments", number, name, f"{self.project}/mlruns/{number}", "active")

    def run(self, name: str, *, parent: str | None = None, **values: Any) -> str:
        """Write a run; `values` may have experiment, status, params, metrics, stage, began."""
        run = f"{len(name):02}{name.encode().hex():0<30}"[:32]
        experiment = values.get("experiment", 1)
        artifacts = f"{self.project}/mlruns/{experiment}/{run}/artifacts"
        began = values.get("began", self._later())
        status, stage = values.get("status", "FINISHED"), values.get("stage", "active")
        uri = values.get("artifact_uri", artifacts)
        self.insert("runs", run, name, status, began, began + 500, stage, uri, experiment)
        tags = {"mlflow.runName": name, "mlflow.user": "penstock", **values.get("tags", {})}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        for key, value in tags.items():
            self.insert("tags", key, value, run)
        for key, value in values.get("params", {}).items():
            self.insert("params", key, str(value), run)
        for key, points in values.get("metrics", {}).items():
            rows = [(key, value or 0, self.clock, step) for step, value in enumerate(points)]
            for row, value in zip(rows, points, strict=True):
                self.insert("metrics", *row[:3], run, row[3], int(value is None))
            self.insert("latest_metrics", *rows[-1], int(points[-1] is None), run)
        return run

    def artifact(self, run: str, name: str, content: str, experiment: int = 1) -> Path:
        file = self.project / "mlruns" / str(experiment) / run / "artifacts" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return file

    def log_model(self, run: str, name: str = "model") -> Path:
        """Log a model as MLflow 2 or 3 does, and return its folder."""
        if not self.three:
            return model_files(self.project / "mlruns" / "1" / run / "artifacts" / name)
        model = f"m-{abs(self._later()):032x}"
        folder = model_files(self.project / "mlruns" / "1" / "models" / model / "artifacts")
        self.insert("logged_models", model, 1, name, str(folder), self.clock, 2, "active", run)
        return folder

    def register(self, name: str, version: int, folder: Path, run: str) -> None:
        three = folder.parent.name.startswith("m-")
        source = f"models:/{folder.parent.name}" if three else str(folder)
        self.insert(
            "model_versions", name, version, self._later(), source, run, "READY", str(folder)
        )

    def close(self) -> None:
        self.connection.commit()
        self.connection.close()

    def _later(self) -> int:
        self.clock += 1000
        return self.clock

    def insert(self, table: str, *values: Any) -> None:
        places = ", ".join("?" * len(values))
        self.connection.execute(f"INSERT INTO {table} VALUES ({places})", values)


def file_store(folder: Path, *, three: bool = True) -> Path:
    """Write the file store of a parent and a nested run that logged and registered a model."""
    experiment = folder / "612803472606459020"
    _meta(
        experiment,
        artifact_location=str(experiment),
        experiment_id=f"'{experiment.name}'",
        lifecycle_stage="active",
        name="other",
    )
    _file_run(experiment / "aa", "outer", {}, {"loss": ["1 1.0 0", "2 0.5 1", "3 0.25 2"]}, {})
    child = experiment / "bb"
    _file_run(
        child,
        "child",
        {"C": "2.0", "tree/depth": "6"},
        {"acc": ["4 0.9 0", "4 0.9 0"]},
        {"p": "aa"},
    )
    model = child / "artifacts" / "model"
    if three:
        model = experiment / "models" / "m-01" / "artifacts"
        _meta(
            experiment / "models" / "m-01",
            artifact_location=str(model),
            model_id="m-01",
            name="model",
            source_run_id="bb",
            creation_timestamp=BEGAN_MS + 5,
        )
    model_files(model)
    _meta(folder / "models" / "churn", name="churn")
    _meta(
        folder / "models" / "churn" / "version-1",
        name="churn",
        version=1,
        run_id="bb",
        source="models:/m-01" if three else str(model),
        storage_location=str(model),
        creation_timestamp=BEGAN_MS + 9,
    )
    return model


def _file_run(
    folder: Path,
    name: str,
    params: dict[str, str],
    metrics: dict[str, list[str]],
    tags: dict[str, str],
) -> None:
    _meta(
        folder,
        artifact_uri=str(folder / "artifacts"),
        end_time=BEGAN_MS + 2000,
        lifecycle_stage="active",
        run_id=folder.name,
        run_name=json.dumps(name),
        start_time=BEGAN_MS + (name == "child"),
        status=3,
        tags="[]",
    )
    named = {"mlflow.parentRunId" if key == "p" else key: tags[key] for key in tags}
    for kind, values in (("params", params), ("tags", named)):
        for key, value in values.items():
            _file(folder / kind / key, value)
    for key, points in metrics.items():
        _file(folder / "metrics" / key, "\n".join(points) + "\n")


def _meta(folder: Path, **values: object) -> None:
    _file(folder / "meta.yaml", "".join(f"{key}: {value}\n" for key, value in values.items()))


def _file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
