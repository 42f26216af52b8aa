"""Boosters by their native calls, each with the real library: the same to the last bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from penstock.config.serving import Serving
from penstock.domain import JSON, CheckResult
from penstock.inference.asking import Worker, columns_of
from penstock.pipeline import accelerating
from tests.unit.packed_versions import empty, pack

HERE = Path(__file__).parents[1] / "frameworks"
UV = Path(sys.executable).with_name("uv")
CLASSES = {"two": [0, 1], "many": [0, 1, 2], "amount": None}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Train every model in an environment with the libraries; return its Python, and them."""
    folder = tmp_path_factory.mktemp("boosters")
    python, env = folder / "env" / "bin" / "python", str(folder / "env")
    subprocess.run([str(UV), "venv", "--quiet", "--python", sys.executable, env], check=True)
    install = [str(UV), "pip", "install", "--quiet", "--python", str(python)]
    install += ["-r", str(HERE / "requirements.txt"), "--override", str(HERE / "left-out.txt")]
    subprocess.run(install, check=True)
    argv = [str(python), str(HERE / "boosters.py"), str(folder)]
    subprocess.run(argv, check=True, capture_output=True, env={"OMP_NUM_THREADS": "1"})
    return python, folder


@pytest.fixture(scope="module")
def worker(trained: tuple[Path, Path]) -> Generator[Worker]:
    """Start a worker where the libraries are."""
    python, folder = trained
    with empty(folder, packages=True, timeout_s=120, python=str(python)) as started:
        yield started


def proven(worker: Worker, folder: Path, name: str) -> CheckResult:
    rows = pq.read_table(folder / "table.parquet")
    if not name.endswith("pipeline"):
        rows = rows.select(["age", "visits"])
    classes = CLASSES[name.split()[1]]
    signature: JSON = {
        "columns": columns_of(rows),
        "task": "classification" if classes else "regression",
        "classes": classes,
        "positive": 1 if classes == [0, 1] else None,
    }
    version = folder / name.replace(" ", "-")
    pack(version, signature=signature, format="joblib", path="model/model.joblib", predict=None)
    shutil.copy(folder / f"{name}.joblib", version / "model" / "model.joblib")
    loaded = worker.load(version)
    assert loaded["ok"], loaded
    assert loaded["framework"] == name.split()[0]
    return accelerating.proven(worker, version, rows, signature, Serving())


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("xgboost two", "booster"),
        ("xgboost many pipeline", "flat"),
        ("lightgbm two pipeline", "flat"),
        ("lightgbm many", "booster"),
        ("lightgbm amount", "booster"),
        ("catboost two", "booster"),
        ("catboost amount pipeline", "flat"),
    ],
)
def test_a_booster_answers_by_its_native_call_as_by_its_own(
    worker: Worker, trained: tuple[Path, Path], name: str, path: str
) -> None:
    result = proven(worker, trained[1], name)

    told = result.evidence["paths"][path]
    assert told["differing"] == 0, told["examples"]
    assert told["calls"] > 100
    if name.startswith("lightgbm"):  # 12 to 25 times: of the others a busy machine tells little
        assert told["one_row_ratio"] > 2
