"""Clients that others wrote are answered: Triton's over HTTP and gRPC, MLflow's, MLServer's types.

What the gateway says of itself in ``/openapi.json`` holds for whatever schemathesis makes of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.protocol_rig import ModelRig, models

PINS = (
    *("tritonclient[http,grpc]==2.73.0", "mlflow-skinny==3.17.2", "schemathesis==4.32.5"),
    *("pandas==3.1.1", "pyarrow==26.0.1", "scipy==1.17.1", "requests==2.34.2"),
)
TYPES_ONLY = "mlserver==1.7.1"
UV = (sys.executable, "-m", "uv")
CALLERS = Path(__file__).parents[1] / "frameworks" / "foreign_callers.py"
ANSWER = {"prediction": ["no", "no"], "probability": [[0.6, 0.4], [0.95, 0.05]]}


@pytest.fixture(scope="module")
def programs() -> Path:
    """The programs of an environment with the clients, made once on this machine."""
    folder = Path.home() / ".cache" / "penstock-tests" / "callers-1"
    done = folder / "done"
    if not done.exists():
        environ = {**os.environ, "UV_NO_PROGRESS": "1"}
        python = str(folder / "bin" / "python")
        for command in (
            ("venv", "--quiet", "--clear", "--python", sys.executable, str(folder)),
            ("pip", "install", "--quiet", "--python", python, *PINS),
            ("pip", "install", "--quiet", "--python", python, "--no-deps", TYPES_ONLY),
        ):
            subprocess.run([*UV, *command], check=True, env=environ, timeout=240)
        done.touch()
    return folder / "bin"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Generator[ModelRig]:
    with models(tmp_path_factory.mktemp("callers")) as rig:
        yield rig


@pytest.fixture(scope="module")
def found(programs: Path, rig: ModelRig) -> dict[str, dict[str, Any]]:
    """What each client got."""
    addresses = [rig.url.removeprefix("http://"), f"127.0.0.1:{rig.grpc_port}"]
    ran = subprocess.run(
        [programs / "python", CALLERS, *addresses], capture_output=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr.decode()[-3000:]
    return json.loads(ran.stdout)


def test_tritons_client_is_answered_in_json_and_binary_both_ways(
    found: dict[str, dict[str, Any]],
) -> None:
    told = found["http"]

    assert [told[name] for name in ("live", "ready", "model ready")] == [True] * 3
    assert "binary_tensor_data" in told["server"]["extensions"]
    assert told["model"]["inputs"][0] == {"name": "age", "datatype": "FP64", "shape": [-1]}
    assert [entry["name"] for entry in told["index"]] == ["credit", "doubled"]
    ways = [f"sent {sent}, asked {asked}" for sent in (True, False) for asked in (True, False)]
    assert [told[way] for way in (*ways, "all outputs")] == [ANSWER] * 5
    assert told["id"] == "mine"
    status, message = told["error"]
    assert (status, "no column 'nowhere'" in message) == ("422", True)


def test_tritons_client_is_answered_over_grpc(found: dict[str, dict[str, Any]]) -> None:
    told = found["grpc"]

    assert [told[name] for name in ("live", "ready", "model ready")] == [True] * 3
    assert told["server"]["name"] == "penstock"
    assert [entry["name"] for entry in told["model"]["outputs"]] == ["prediction", "probability"]
    assert told["raw"] == ANSWER
    assert (told["answer"]["id"], told["answer"]["model_version"]) == ("mine", "3")
    assert told["only probability"] == {**ANSWER, "prediction": None}
    assert told["contents"] == {"values": [3.0, -1.0, 4.0], "raw": 0}
    errors = [told[f"error of {name}"] for name in ("nobody", "credit")]
    assert [error[0] for error in errors] == [
        "StatusCode.NOT_FOUND",
        "StatusCode.INVALID_ARGUMENT",
    ]
    assert "PS551 The model has no column 'nowhere'" in errors[1][1]


def test_mlflows_client_is_answered(found: dict[str, dict[str, Any]]) -> None:
    told = found["mlflow"]

    assert told["predictions"] == ANSWER["prediction"]
    assert json.loads(told["version"])["version"] == "3"
    for media in ("text/csv", "application/vnd.apache.parquet"):
        assert told[media]["predictions"] == ANSWER["prediction"]
        assert told[media]["probabilities"] == ANSWER["probability"]


def test_mlservers_types_read_every_answer(found: dict[str, dict[str, Any]]) -> None:
    assert found["mlserver"] == {
        "server": "penstock",
        "inputs": ["age", "city", "visits", "member"],
        "index": ["READY", "READY"],
        "outputs": ["probability"],
        "id": "mine",
        "error": "No model named 'nobody' runs in production.",
    }


def test_what_is_said_of_every_path_holds_for_whatever_is_sent(
    programs: Path, rig: ModelRig, tmp_path: Path
) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text('[parameters]\n"path.MODEL" = "credit"\n"path.NUMBER" = 3\n')
    # What fits the document need not fit the model: a right body may be refused.
    options = ["--phases=fuzzing", "--max-examples=8", "--seed=1", "--no-color", "--warnings=off"]
    options += ["--exclude-checks=positive_data_acceptance", "--request-timeout=20"]
    options += ["--exclude-path-regex=explain"]  # nothing explains here
    command = [programs / "schemathesis", "--config-file", config, "run", *options]

    ran = subprocess.run(
        [*command, f"{rig.url}/openapi.json"],
        capture_output=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout.decode()[-4000:]
    assert b"22 passed" in ran.stdout
