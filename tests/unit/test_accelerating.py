"""The proof of a faster call through real workers, and what serves after it."""

# scikit-learn has no types:
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from penstock.config.serving import Serving
from penstock.domain import JSON, CheckResult, Verdict
from penstock.inference.asking import columns_of
from penstock.pipeline import accelerating
from tests.unit.packed_versions import asking, pack

RANDOM = np.random.default_rng(4)
TABLE = pa.table(
    {
        "age": RANDOM.normal(40, 9, 300),
        "visits": RANDOM.integers(0, 9, 300),
        "city": RANDOM.choice(["Bern", "Chur", "Genf"], 300),
    }
)
LABEL = np.where(np.asarray(TABLE["age"]) + 5 * np.asarray(TABLE["visits"]) > 60, "yes", "no")
SIGNATURE: JSON = {
    "columns": columns_of(TABLE),
    "task": "classification",
    "classes": ["no", "yes"],
    "positive": "yes",
}
SNEAKY = """
def planted(forest):
    own = forest.predict_proba
    forest.predict_proba = lambda x: own(x) * (1 - 1e-12 * (len(x) == 64))
    return forest
"""
ENDS = """
import os

def planted(forest):
    if "LOADED" in os.environ:
        os._exit(3)
    os.environ["LOADED"] = "once"
    return forest
"""
LOADED_BY = """
class Planted:
    def __init__(self, forest):
        self.forest = forest

    def __reduce__(self):
        return planted, (self.forest,)
"""


def _planted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> tuple[Path, pa.Table, JSON]:
    """Pack a forest that code of the project touches each time it is loaded."""
    rows = TABLE.select(["age", "visits"])
    people: Any = pd.DataFrame(rows.to_pydict())
    forest = RandomForestClassifier(5, random_state=0).fit(people, LABEL)
    (folder / "sneaky.py").write_text(code + LOADED_BY)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "sneaky", raising=False)
    model: Any = importlib.import_module("sneaky").Planted(forest)
    signature = {**SIGNATURE, "columns": columns_of(rows)}
    return _packed(folder / "v", model, code + LOADED_BY, signature=signature), rows, signature


def _packed(folder: Path, model: Any, code: str = "", *, signature: JSON = SIGNATURE) -> Path:
    pack(folder, code=code, signature=signature, format="joblib", path="model/model.joblib")
    if code:
        (folder / "code" / "adapter.py").rename(folder / "code" / "sneaky.py")
    joblib.dump(model, folder / "model" / "model.joblib")
    return folder


def _pipeline(predictor: Any) -> Any:
    words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    parts = [("words", words, ["city"]), ("numbers", StandardScaler(), ["age", "visits"])]
    people: Any = pd.DataFrame(TABLE.to_pydict())
    return make_pipeline(ColumnTransformer(parts), predictor).fit(people, LABEL)


def _proven(folder: Path, rows: pa.Table = TABLE, **serving: Any) -> CheckResult:
    with asking(folder, packages=True) as worker:
        return accelerating.proven(worker, folder, rows, SIGNATURE, Serving(**serving))


def test_a_pipeline_serves_by_a_faster_call_that_was_proven(tmp_path: Path) -> None:
    folder = _packed(tmp_path / "v", _pipeline(HistGradientBoostingClassifier(max_iter=20)))

    with asking(folder, packages=True) as worker:
        result = accelerating.proven(worker, folder, TABLE, SIGNATURE, Serving())
        own = worker.predict(TABLE, SIGNATURE)
        loaded = worker.load(folder, path="flat")
        flat = worker.predict(TABLE, SIGNATURE)

    assert result.verdict is Verdict.PASSED, result
    assert result.evidence["path"] == "flat"
    assert result.evidence["paths"]["flat"]["differing"] == 0
    assert result.evidence["paths"]["flat"]["one_row_ratio"] > 2
    assert loaded["path"] == "flat"
    assert flat["probability"] == own["probability"]


def test_a_model_that_treats_one_size_of_batch_otherwise_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rows, signature = _planted(tmp_path, monkeypatch, SNEAKY)

    with asking(folder, packages=True) as worker:
        result = accelerating.proven(worker, folder, rows, signature, Serving())

    assert result.evidence["path"] != "flat"
    failed = result.evidence["failed"]["flat"]
    assert failed["furthest"] == pytest.approx(1e-12, rel=0.1)
    assert all(one["asked"].startswith("rows ") for one in failed["examples"])


@pytest.mark.parametrize(
    ("serving", "rows", "verdict", "why"),
    [
        ({"accelerate": "off"}, 300, Verdict.PASSED, "[serving] accelerate is off"),
        ({}, 120, Verdict.UNDECIDED, "120 evaluation rows, 200 are needed"),
        ({}, 300, Verdict.PASSED, "no faster call of it is known: its format has one"),
    ],
)
def test_without_a_proof_the_own_call_serves_and_says_why(
    tmp_path: Path, serving: dict[str, Any], rows: int, verdict: Verdict, why: str
) -> None:
    folder = pack(tmp_path / "v", signature=SIGNATURE)

    result = _proven(folder, TABLE.slice(0, rows), **serving)

    assert result.verdict is verdict
    assert result.evidence["path"] == "own"
    assert result.evidence["gate"] is False
    assert why in result.summary
    assert result.summary.endswith("its own call serves")


def test_a_worker_that_ends_while_it_proves_leaves_the_own_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rows, signature = _planted(tmp_path, monkeypatch, ENDS)

    with asking(folder, packages=True) as worker:
        result = accelerating.proven(worker, folder, rows, signature, Serving())

    assert result.verdict is Verdict.UNDECIDED
    assert "ended by itself (exit code 3)" in result.summary
    assert result.evidence["path"] == "own"
