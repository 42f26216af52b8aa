"""Fast paths: ``make bench ARGS=fast_paths``, each beside the model's unchanged call.

The Adult pipeline (columns of text one-hot, numbers scaled) with four predictors, trained on
10,000 rows. Each call answers the same rows, in turn with the others, in one process without the
worker, and through the worker's socket as JSON; medians, and their ratio to the own call.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.inference.asking import PROGRAM, Worker, columns_of, to_v2
from penstock.inference.program import bodies, worker
from penstock.inference.programs import Program

DATA = Path(__file__).parents[2] / "shared" / "data" / "adult"
LABEL = "income_over_50k"
PATHS = ("own", "array", "flat")
SIZES = (1, 64)
REPEATS = {1: 200, 64: 60}
TARGET = 10
_SPLIT = 10_000


def measure(data: Path = DATA) -> dict[str, Any]:
    """Measure every predictor, and return the figures."""
    table = pq.read_table(data / "train.parquet").slice(0, _SPLIT)
    held = pq.read_table(data / "test.parquet").slice(0, 1000)
    names = [name for name in table.column_names if name != LABEL]
    rows = held.select(names)
    signature = {
        "columns": columns_of(rows),
        "task": "classification",
        "classes": None,
        "positive": None,
    }
    found: dict[str, Any] = {}
    for name, predictor in _predictors().items():
        model = _pipeline(table.select(names), predictor).fit(
            table.select(names).to_pandas(), table.column(LABEL).to_pandas()
        )
        with tempfile.TemporaryDirectory(prefix="pst-") as place:
            folder = _packed(Path(place), model, signature)
            found[name] = {
                "in_process": _in_process(model, rows, signature),
                "worker": _through_worker(folder, rows, signature),
            }
    flat = [one["in_process"]["1"]["flat"] for one in found.values()]
    return {
        "models": found,
        "rows": rows.num_rows,
        "columns": len(names),
        "load": round(os.getloadavg()[0], 1),
        "median_s": statistics.median(one["us"] for one in flat) / 1e6,
        "target": f"flat at least {TARGET} times as fast as the own call on one row, in process",
        "targets_met": min(one["times"] for one in flat) >= TARGET,
    }


def _predictors() -> dict[str, Any]:
    ensemble: Any = importlib.import_module("sklearn.ensemble")
    linear: Any = importlib.import_module("sklearn.linear_model")
    return {
        "HistGradientBoosting, 100 trees": ensemble.HistGradientBoostingClassifier(random_state=0),
        "RandomForest, 100 trees": ensemble.RandomForestClassifier(max_depth=10, random_state=0),
        "GradientBoosting, 100 trees": ensemble.GradientBoostingClassifier(random_state=0),
        "LogisticRegression": linear.LogisticRegression(max_iter=500),
    }


def _pipeline(rows: pa.Table, predictor: Any) -> Any:
    compose: Any = importlib.import_module("sklearn.compose")
    pipeline: Any = importlib.import_module("sklearn.pipeline")
    prepare: Any = importlib.import_module("sklearn.preprocessing")
    words = [c["name"] for c in columns_of(rows) if c["datatype"] == "BYTES"]
    numbers = [name for name in rows.column_names if name not in words]
    hot = prepare.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    parts = [("words", hot, words), ("numbers", prepare.StandardScaler(), numbers)]
    return pipeline.make_pipeline(compose.ColumnTransformer(parts), predictor)


def _packed(folder: Path, model: Any, signature: dict[str, Any]) -> Path:
    (folder / "model").mkdir()
    joblib.dump(model, folder / "model" / "model.joblib")
    told = {"model": "adult", "number": 1, "format": "joblib", "path": "model/model.joblib"}
    (folder / "penstock.json").write_text(json.dumps({**told, "signature": signature}))
    return folder


def _in_process(model: Any, rows: pa.Table, signature: dict[str, Any]) -> dict[str, Any]:
    assert worker.Version, "worker.py makes the package under whose name the program's files meet"
    accelerated = importlib.import_module("penstock_worker.accelerated")
    formats = importlib.import_module("penstock_worker.formats")
    stated = importlib.import_module("penstock_worker.rows").Stated(None, None, None)
    loaded = formats.estimator(model, "adult", stated)
    columns = bodies.signature_columns(signature)
    asks: dict[str, Callable[[Any], Any]] = {
        path: loaded.ask if path == "own" else accelerated.path(path, loaded, columns)
        for path in PATHS
    }

    def asked(size: int, turn: int) -> Any:
        body = to_v2(_part(rows, size, turn), signature["columns"])
        return bodies.read(bodies.V2, bodies.decode(body), columns)

    return _measured(asks, asked)


def _through_worker(folder: Path, rows: pa.Table, signature: dict[str, Any]) -> dict[str, Any]:
    path = folder / "s"
    argv = [sys.executable, "-I", str(PROGRAM), "--folder", str(folder), "--socket", str(path)]
    process = subprocess.Popen(argv, env={"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    with Worker(Program(process), path) as running:
        for slot, name in enumerate(PATHS[1:], 1):
            assert running.load(folder, path=name, slot=slot)["ok"]
        asks: dict[str, Callable[[Any], Any]] = {
            name: lambda body, slot=slot: running.answer(body, slot=slot)
            for slot, name in enumerate(PATHS)
        }
        return _measured(
            asks, lambda size, turn: to_v2(_part(rows, size, turn), signature["columns"])
        )


def _part(rows: pa.Table, size: int, turn: int) -> pa.Table:
    return rows.slice(turn * 13 % (rows.num_rows - size), size)


def _measured(
    asks: dict[str, Callable[[Any], Any]], asked: Callable[[int, int], Any]
) -> dict[str, Any]:
    """Ask all calls in turn; return medians in microseconds, and how often as fast as own."""
    found: dict[str, Any] = {}
    for size in SIZES:
        taken: dict[str, list[float]] = {path: [] for path in asks}
        for turn in range(REPEATS[size] + 5):
            question = asked(size, turn)
            answers: list[Any] = []
            for path, ask in asks.items():
                began = time.perf_counter()
                answers.append(ask(question))
                if turn >= 5:  # the first ones warm up
                    taken[path].append(time.perf_counter() - began)
            assert all(answer == answers[0] for answer in answers), (size, turn)
        medians = {path: statistics.median(seconds) for path, seconds in taken.items()}
        found[f"{size}"] = {
            path: {"us": round(median * 1e6, 1), "times": round(medians["own"] / median, 2)}
            for path, median in medians.items()
        }
    return found
