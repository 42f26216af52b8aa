"""Explanation: ``make bench ARGS=explain``, 100,000 rows x 20 columns, beside ``shap`` itself.

The model, the worker and ``shap`` live in one environment of their own, made here with uv. The
truth is shap's interventional TreeExplainer on the model's own probabilities; both samplers are
judged by how far they are from it on the same rows over the same background:

whole       the whole explanation through the worker's socket, in the default budget
penstock    our sampler through the socket, until it is as near to the truth as shap's is
shap        shap.explainers.Permutation in one process with the model, its least number of orders
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.check.answers import Answers, Ask
from penstock.check.evaluation import Evaluation
from penstock.check.explanation.asking import Meter, Target
from penstock.check.explanation.report import Subject, explain
from penstock.check.explanation.shapley import Player, Sampler
from penstock.inference.asking import PROGRAM, Worker

ROWS, COLUMNS, EXPLAINED, BACKGROUND = 100_000, 20, 100, 100
BUDGET_S = 20.0
PACKAGES = ("shap", "scikit-learn", "pandas", "joblib", "pyarrow")
NAMES = [f"c{number:02}" for number in range(COLUMNS)]
SIGNATURE = {
    "columns": [{"name": name, "datatype": "FP64", "optional": False} for name in NAMES],
    "task": "classification",
    "classes": [0, 1],
    "positive": 1,
}
THEIRS = f"""
import json, sys, time
import joblib, numpy as np, pandas as pd
from sklearn.ensemble import RandomForestClassifier

what, folder = sys.argv[1:]
rows = pd.read_parquet(folder + "/rows.parquet")
X, y = rows.drop(columns="label"), rows["label"]
if what == "train":
    model = RandomForestClassifier(30, max_depth=8, random_state=0, n_jobs=1)
    joblib.dump(model.fit(X[:20_000], y[:20_000]), folder + "/model/m.joblib")
    sys.exit()
import shap
model = joblib.load(folder + "/model/m.joblib")
shown, behind = X[:{EXPLAINED}], X[-{BACKGROUND}:]
tree = shap.TreeExplainer(model, behind, model_output="probability")
truth = tree.shap_values(shown, check_additivity=False)[:, :, 1]
asked = 0
def f(some):
    global asked
    asked += len(some)
    return model.predict_proba(pd.DataFrame(some, columns=X.columns))[:, 1]
masker = shap.maskers.Independent(behind, max_samples={BACKGROUND})
began = time.perf_counter()
found = shap.explainers.Permutation(f, masker, seed=0)(
    shown, max_evals=2 * {COLUMNS} + 1, silent=True
)
seconds = time.perf_counter() - began
error = float(np.sqrt(np.mean((found.values - truth) ** 2)))
print(json.dumps({{
    "version": shap.__version__, "seconds": seconds, "answers": asked, "error": error,
    "truth": truth.tolist(), "base": float(model.predict_proba(behind)[:, 1].mean()),
}}))
"""


def data(folder: Path) -> tuple[pa.Table, Any]:
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, COLUMNS))
    score = 1.5 * x[:, 0] + x[:, 1] * x[:, 2] + np.sin(2 * x[:, 3])
    score += 0.5 * x[:, 4 : COLUMNS // 2].sum(axis=1)
    label = (score + random.normal(size=ROWS) > 0).astype(int)
    table = pa.table({name: x[:, at] for at, name in enumerate(NAMES)})
    pq.write_table(table.append_column("label", pa.array(label)), folder / "rows.parquet")
    return table, label


def environment(folder: Path) -> Path:
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run([*uv, "pip", "install", "-q", "--python", python, *PACKAGES], check=True)
    return python


def theirs(python: Path, folder: Path, what: str) -> Any:
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [python, "-c", THEIRS, what, folder]
    done = subprocess.run(command, check=True, capture_output=True, env=one_thread)
    return json.loads(done.stdout) if done.stdout.strip() else None


@contextmanager
def worker(python: Path, folder: Path) -> Generator[Ask]:
    manifest = {"schema": 1, "model": "bench", "number": 1, "format": "joblib", "predict": None}
    manifest |= {"path": "model/m.joblib", "task": None, "positive": None, "signature": SIGNATURE}
    (folder / "penstock.json").write_text(json.dumps(manifest))
    argv = [python, "-I", PROGRAM, "--folder", folder, "--socket", folder / "s"]
    process = subprocess.Popen(argv, env={"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    with Worker(process, folder / "s") as asked:

        def ask(table: pa.Table) -> Answers:
            told = asked.predict(table, SIGNATURE)
            shares = np.asarray(told["probability"])
            return Answers(np.asarray(told["prediction"]), shares, (0, 1), 1)

        yield ask


def as_near(ask: Ask, table: pa.Table, truth: Any, error: float) -> dict[str, Any]:
    """Sample until we are as near to the truth as they are."""
    meter = Meter(ask, 600.0, time.monotonic)
    with meter.part("rows"):
        began = time.perf_counter()
        tables = (table.slice(0, EXPLAINED), table.slice(ROWS - BACKGROUND))
        players = [Player(name, (name,)) for name in NAMES]
        sampler = Sampler(
            meter, Target("probability", ("1",)), tables, players, np.random.default_rng(0)
        )
        pairs, ours = 0, np.inf
        while ours > error and time.perf_counter() - began < 300:
            sampler.round(np.arange(EXPLAINED))
            pairs += 1
            values = sampler.values()
            ours = float(np.sqrt(np.mean((values.effects[:, :, 0] - truth) ** 2)))
        seconds = time.perf_counter() - began
    held = np.abs(values.effects[:, :, 0] - truth) <= 1.96 * values.error[:, :, 0] + 1e-9
    return {
        "seconds": seconds,
        "answers": meter.spent["rows"].rows,
        "pairs": pairs,
        "error": ours,
        "truth_within_two_errors": float(held.mean()),
    }


def whole(ask: Ask, table: pa.Table, label: Any) -> dict[str, Any]:
    found = Evaluation(table, label, None, None, table.select([]), "0" * 64)
    began = time.perf_counter()
    report = explain(Subject(ask, found, NAMES, "classification"), budget_s=BUDGET_S)
    return {
        "seconds": time.perf_counter() - began,
        "noise": report["shap"]["noise"],
        "spent": report["spent"],
        "skipped": report["skipped"],
        "first": [one["column"] for one in report["columns"][:5]],
    }


def measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "model").mkdir()
        table, label = data(folder)
        python = environment(folder)
        theirs(python, folder, "train")
        library = theirs(python, folder, "explain")
        with worker(python, folder) as ask:
            ours = as_near(ask, table, np.array(library.pop("truth")), library["error"])
            everything = whole(ask, table, label)
    targets = {
        "whole_s": BUDGET_S + 1,
        "truth_within_two_errors": 0.95,
        "answers_of_shap": 0.5,
        "seconds_of_shap": 1.5,  # ours go through a socket to another process
    }
    met = {
        "whole_s": everything["seconds"] <= targets["whole_s"],
        "truth_within_two_errors": ours["truth_within_two_errors"]
        >= targets["truth_within_two_errors"],
        "answers_of_shap": ours["answers"] <= targets["answers_of_shap"] * library["answers"],
        "seconds_of_shap": ours["seconds"] <= targets["seconds_of_shap"] * library["seconds"],
    }
    return {
        "median_s": everything["seconds"],
        "load": os.getloadavg()[0],
        "rows": ROWS,
        "columns": COLUMNS,
        "whole": everything,
        "penstock_sampler": ours,
        "shap": library,
        "answers_of_shap": ours["answers"] / library["answers"],
        "seconds_of_shap": ours["seconds"] / library["seconds"],
        "targets": targets,
        "targets_met": all(met.values()),
    }
