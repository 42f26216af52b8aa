"""The servers beside Penstock: how each is installed, started and asked. Add a row for another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
ROOT = HERE.parents[1]
CACHE = Path.home() / ".cache" / "penstock-bench"
UV = ROOT / ".tools" / "bin" / "uv"
QUIET = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Else Ray, started below `uv run`, looks for itself in that run's environment.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}

Table = dict[str, Any]
"""``columns``, ``rows`` and, for each row, the ``probabilities`` of the positive class."""


@dataclass(frozen=True, slots=True)
class At:
    """Where a server is to be started."""

    model: str
    models: Path
    """Folder with ``MODEL.joblib``, ``MODEL.rows.json`` and the MLflow model ``MODEL/``."""
    port: int
    spare: Sequence[int]
    state: Path
    """A folder for what it writes."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server of the table."""

    name: str
    environment: str
    command: Callable[[Path, At], list[str]]
    """Takes the folder of the environment's programs."""
    path: str
    body: Callable[[list[str], list[Any]], Any]
    answer: Callable[[Any], list[float]]
    """Reads the probabilities of the positive class, or the classes, row by row."""
    peer: str = ""
    """Whose figures these are; empty for what is no peer."""
    decides: bool = False
    """Whether it answers classes, not probabilities."""
    start_s: float = 12
    """About what a start takes, for the time plan."""
    environ: dict[str, str] = field(default_factory=dict[str, str])


def environment(name: str) -> Path:
    """Return the folder of an environment's programs; made at the first call."""
    folder = CACHE / "environments" / name
    wanted = (HERE / "requirements" / f"{name}.txt").read_text()
    made = folder / "made-from"
    if not made.exists() or made.read_text() != wanted:
        python = folder / "bin" / "python"
        subprocess.run([UV, "venv", "--quiet", "--clear", folder], check=True)
        argv = [UV, "pip", "install", "--quiet", "--python", python, "--requirement", "-"]
        subprocess.run(argv, check=True, input=wanted, text=True)
        made.write_text(wanted)
    return folder / "bin"


def models(name: str) -> Path:
    """Return the folder with a trained model; trained at the first call."""
    folder = CACHE / "models"
    program = PROGRAMS / "train.py"
    made = folder / f"{name}.made-from"
    if not made.exists() or made.read_text() != program.read_text():
        for left in ("metadata", name):
            subprocess.run(["rm", "-rf", folder / left], check=True)
        argv = [environment("mlflow") / "python", program, name, folder, "mlflow"]
        subprocess.run(argv, check=True, env={**os.environ, **QUIET})
        made.write_text(program.read_text())
    return folder


def version(name: str) -> str:
    """Return the release of a peer that is measured."""
    pinned = (HERE / "requirements" / f"{name}.txt").read_text().split()
    found = [pin for pin in pinned if pin.startswith((f"{name}==", f"{name}["))]
    return found[0].partition("==")[2]


def split(columns: list[str], rows: list[Any]) -> Any:
    """MLflow's ``/invocations``."""
    return {"dataframe_split": {"columns": columns, "data": rows}}


def v2(columns: list[str], rows: list[Any]) -> Any:
    """Open Inference Protocol v2, a column each, as MLServer reads it into a DataFrame."""
    inputs: list[Any] = []
    for name, values in zip(columns, zip(*rows, strict=True), strict=True):
        word = isinstance(values[0], str)
        column = {"name": name, "shape": [len(rows), 1], "data": list(values)}
        column["datatype"] = "BYTES" if word else "FP64"
        if word:
            column["parameters"] = {"content_type": "str"}
        inputs.append(column)
    return {"parameters": {"content_type": "pd"}, "inputs": inputs}


def plain(_: list[str], rows: list[Any]) -> Any:
    """Return rows without names, for servers whose own code knows the columns."""
    return {"rows": rows}


def records(columns: list[str], rows: list[Any]) -> Any:
    """Return an object a row."""
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _second(pairs: list[list[float]]) -> list[float]:
    return [pair[1] for pair in pairs]


def _mlflow(programs: Path, at: At) -> list[str]:
    argv = [f"{programs}/mlflow", "models", "serve", "--env-manager", "local", "--workers", "2"]
    return [*argv, "-m", f"{at.models / at.model}", "-h", "127.0.0.1", "-p", str(at.port)]


def _bentoml(programs: Path, at: At) -> list[str]:
    argv = [f"{programs}/bentoml", "serve", "bentoml_service:Loans"]
    return [*argv, "--working-dir", str(PROGRAMS), "--host", "127.0.0.1", "-p", str(at.port)]


def _mlserver(programs: Path, at: At) -> list[str]:
    folder = at.state / "mlserver"
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "environments").mkdir(exist_ok=True)
    settings = {
        "debug": False,
        "parallel_workers": 2,
        "host": "127.0.0.1",
        "http_port": at.port,
        "grpc_port": at.spare[0],
        "metrics_port": at.spare[1],
        "environments_dir": str(folder / "environments"),
    }
    model = {
        "name": at.model,
        "implementation": "mlserver_mlflow.MLflowRuntime",
        "max_batch_size": 64,
        "max_batch_time": 0.002,
        "parameters": {"uri": str(at.models / at.model)},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model" / "model-settings.json").write_text(json.dumps(model))
    return [f"{programs}/mlserver", "start", str(folder)]


def _litserve(programs: Path, at: At) -> list[str]:
    return [f"{programs}/python", str(PROGRAMS / "litserve_server.py"), str(at.port)]


def _ray(programs: Path, at: At) -> list[str]:
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": at.port},
        "applications": [{"name": "loans", "route_prefix": "/", "import_path": "ray_app:app"}],
    }
    path = at.state / "ray.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return [f"{programs}/serve", "run", str(path)]


def _vetiver(programs: Path, at: At) -> list[str]:
    argv = [f"{programs}/uvicorn", "--app-dir", str(PROGRAMS), "vetiver_app:app"]
    argv += ["--host", "127.0.0.1", "--port", str(at.port), "--workers", "2"]
    return [*argv, "--loop", "uvloop", "--http", "httptools", "--log-level", "warning"]


def _echo(_: Path, at: At) -> list[str]:
    return [sys.executable, str(PROGRAMS / "echo.py"), str(at.port)]


def _echo_callback(_: Path, at: At) -> list[str]:
    return [sys.executable, str(PROGRAMS / "echo_callback.py"), str(at.port)]


SERVERS = (
    Server(
        "mlflow",
        "mlflow",
        _mlflow,
        "/invocations",
        split,
        lambda told: _second(told["predictions"]),
        peer="MLflow",
        start_s=16,
    ),
    Server(
        "bentoml",
        "bentoml",
        _bentoml,
        "/predict",
        plain,
        _second,
        peer="BentoML",
    ),
    Server(
        "mlserver",
        "mlserver",
        _mlserver,
        "/v2/models/{model}/infer",
        v2,
        lambda told: told["outputs"][0]["data"][1::2],
        peer="MLServer",
    ),
    Server(
        "litserve",
        "litserve",
        _litserve,
        "/predict",
        plain,
        lambda told: _second(told["predictions"]),
        peer="LitServe",
    ),
    Server(
        "ray",
        "ray",
        _ray,
        "/",
        plain,
        lambda told: _second(told["predictions"]),
        peer="Ray Serve",
        start_s=25,
        # What its documentation recommends for throughput.
        environ={"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "PYTHONPATH": str(PROGRAMS)},
    ),
    Server(
        "vetiver",
        "vetiver",
        _vetiver,
        "/predict",
        records,
        lambda told: told["predict"],
        peer="vetiver",
        decides=True,
    ),
)
ECHOES = (
    Server("echo", "", _echo, "/", split, lambda _: [], start_s=1),
    Server("echo-callback", "", _echo_callback, "/", split, lambda _: [], start_s=1),
)
"""A body read and a constant answered: by an ASGI application under uvicorn, and by one call
behind the gateway's own connections."""
