"""Every format of a model: trained with the real framework, packed, asked as callers ask.

One environment holds all frameworks and one process trains all models (tests/frameworks); each
served answer must be what the model itself said in its own program.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from penstock.build import pack
from penstock.build.results.outcome import Built
from penstock.check.evaluation import Evaluation, read_evaluation
from penstock.check.signature import infer_signature
from penstock.config.schema import Evaluate
from penstock.domain import JSON
from penstock.inference.asking import PROGRAM, chunks, merged, told_by

HERE = Path(__file__).parents[1] / "frameworks"
UV = Path(sys.executable).with_name("uv")


@dataclass(frozen=True)
class Case:
    """A model, and the columns of the evaluation data that it is judged on."""

    name: str
    format: str
    label: str = "binary"
    data: str = "table.parquet"
    drop: tuple[str, ...] = ()
    tolerance: float = 0.0


NUMBERS = ("city",)
"""Left out: the model knows numbers only."""
CASES = [
    Case("xgboost-ubj", "xgboost", drop=NUMBERS),
    Case("xgboost-json", "xgboost", drop=NUMBERS),
    Case("xgboost-booster", "xgboost", label="three"),
    Case("xgboost-amount", "xgboost", label="amount"),
    Case("xgboost-category", "xgboost", data="category.parquet"),
    Case("lightgbm-txt", "lightgbm", data="category.parquet"),
    Case("lightgbm-joblib", "joblib", data="category.parquet"),
    Case("lightgbm-array", "lightgbm", label="three", drop=NUMBERS),
    Case("lightgbm-blank", "lightgbm", label="amount"),
    Case("catboost", "catboost", label="word"),
    Case("catboost-amount", "catboost", label="amount", drop=NUMBERS),
    Case("skops", "skops"),
    Case("mlflow-sklearn", "mlflow"),
    Case("mlflow-pickle", "mlflow"),
    Case("mlflow-xgboost", "mlflow"),
    Case("mlflow-lightgbm", "mlflow"),
    Case("mlflow-booster", "mlflow"),
    Case("mlflow-catboost", "mlflow"),
    Case("mlflow-loader", "mlflow", label="amount"),
    Case("mlflow-images", "mlflow", label="bright", data="images.parquet", tolerance=1e-6),
    Case("onnx-zipmap", "onnx", drop=NUMBERS, tolerance=1e-6),
    Case("onnx-array", "onnx", drop=NUMBERS, tolerance=1e-6),
    Case("onnx-columns", "onnx", label="word", tolerance=1e-6),
    Case("onnx-images", "onnx", label="bright", data="images.parquet", tolerance=1e-6),
    Case("onnx-scores", "onnx", label="bright", data="images.parquet", tolerance=1e-6),
    Case("onnx-one-by-one", "onnx", label="bright", data="images.parquet", tolerance=1e-6),
]
LABELS = ("binary", "word", "three", "amount", "bright")


@dataclass
class Served:
    """What a packed version said and answered."""

    describe: JSON
    signature: JSON
    prediction: list[Any]
    probability: list[list[float]] | None
    alone: list[list[float]] | list[Any]
    """The first rows, each asked by itself."""
    evaluation: Evaluation


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the environment with every framework."""
    folder = tmp_path_factory.mktemp("frameworks") / "env"
    made = [str(UV), "venv", "--quiet", "--python", sys.executable, str(folder)]
    subprocess.run(made, check=True)
    python = folder / "bin" / "python"
    install = [str(UV), "pip", "install", "--quiet", "--python", str(python)]
    install += ["-r", str(HERE / "requirements.txt"), "--override", str(HERE / "left-out.txt")]
    subprocess.run(install, check=True)
    return python


@pytest.fixture(scope="module")
def trained(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train every model; return the folder that holds them."""
    folder = tmp_path_factory.mktemp("trained")
    argv = [str(python), str(HERE / "train.py"), str(folder)]
    subprocess.run(argv, check=True, capture_output=True, env={"OMP_NUM_THREADS": "1"})
    return folder


@pytest.fixture(scope="module")
def served(
    python: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Served]:
    """Pack every model, let it describe itself, sign it, and ask it."""
    root = tmp_path_factory.mktemp("packed")
    folders = {case.name: staged(case, trained, root) for case in CASES}
    described = asked(python, [(folder, []) for folder in folders.values()])
    evaluations: dict[str, Evaluation] = {}
    bodies: dict[str, list[str]] = {}
    signatures: dict[str, JSON] = {}
    for case, one in zip(CASES, described, strict=True):
        assert one["describe"]["ok"], (case.name, one["describe"])
        spec = Evaluate(data=case.data, label=case.label)
        found = read_evaluation(evaluation_file(case, trained, root), spec)
        signature = infer_signature(found.features, one["describe"], found.label, spec)
        pack.with_signature(folders[case.name], signature)
        names = [str(column["name"]) for column in signature["columns"]]
        features = found.for_columns(names)
        few = [features.slice(row, 1) for row in range(3)]
        bodies[case.name] = [
            body.decode()
            for part in (features, *few)
            for _, body in chunks(part, signature, max_rows=1000)
        ]
        evaluations[case.name], signatures[case.name] = found, signature
    answers = asked(python, [(folders[name], bodies[name]) for name in folders])
    return {
        case.name: read(case, one, signatures[case.name], evaluations[case.name])
        for case, one in zip(CASES, answers, strict=True)
    }


def read(case: Case, one: JSON, signature: JSON, evaluation: Evaluation) -> Served:
    told = [told_by(status, body.encode()) for status, body in one["replies"]]
    whole = merged(told[:-3])
    alone: list[Any] = []
    for row in told[-3:]:
        alone += row["prediction"] if row["probability"] is None else row["probability"]
    return Served(
        one["describe"], signature, whole["prediction"], whole["probability"], alone, evaluation
    )


def staged(case: Case, trained: Path, root: Path) -> Path:
    (model,) = (trained / case.name).iterdir()
    files = tuple(sorted(p for p in model.rglob("*") if p.is_file())) or (model,)
    folder = root / case.name
    code = root / "code"
    code.mkdir(exist_ok=True)
    pack.stage(Built(case.format, model, files, None), code, folder, pack.Facts("m", 1))
    return folder


def evaluation_file(case: Case, trained: Path, root: Path) -> Path:
    import pyarrow.parquet as pq

    table = pq.read_table(trained / case.data)
    others = [name for name in LABELS if name != case.label and name in table.column_names]
    file = root / f"{case.name}.parquet"
    table = table.drop_columns([*others, *case.drop])
    if case.name == "lightgbm-blank":
        names = ["age in years" if name == "age" else name for name in table.column_names]
        table = table.rename_columns(names)
    pq.write_table(table, file)
    return file


def asked(python: Path, lines: Sequence[tuple[Path, list[str]]]) -> list[JSON]:
    given = "\n".join(json.dumps({"folder": str(f), "bodies": b}) for f, b in lines)
    argv = [str(python), "-I", str(HERE / "ask.py"), str(PROGRAM)]
    done = subprocess.run(
        argv,
        input=given,
        text=True,
        capture_output=True,
        check=False,
        env={"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [cast("JSON", json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_served_answer_is_what_the_model_says_in_its_own_program(
    case: Case, served: dict[str, Served], trained: Path
) -> None:
    own = json.loads((trained / "expected.json").read_text())[case.name]
    found = served[case.name]

    if own["probability"] is not None:
        shares = np.asarray(found.probability)
        np.testing.assert_allclose(shares, own["probability"], rtol=0, atol=case.tolerance)
        # One row alone is summed in another order than among many.
        np.testing.assert_allclose(
            np.asarray(found.alone), own["probability"][:3], rtol=1e-9, atol=case.tolerance
        )
        best = np.asarray(own["probability"]).argmax(axis=1)
        assert found.prediction == [found.signature["classes"][index] for index in best]
    else:
        assert found.prediction == own["prediction"]
        assert found.alone == (found.probability or found.prediction)[:3]
