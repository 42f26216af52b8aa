"""Workers forked from a warm host, beside one started cold; many versions in one worker.

The model is a pipeline of scikit-learn as projects have it: one-hot and scaled columns before
gradient boosting. No sandbox and no gateway: what the program itself takes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from penstock.inference.asking import PROGRAM, Worker
from penstock.inference.imports import worth_importing
from penstock.inference.program import frames
from penstock.inference.programs import Connection, Host, Program

REPEATS = 10
COLD = 3
VERSIONS = 200
MOST_MS, LEAST_RATIO = 500.0, 5.0
_BODY = b'{"dataframe_split": {"columns": ["a", "b", "c"], "data": [[0.5, -0.5, "x"]]}}'


def measure() -> dict[str, Any]:
    """Start workers cold and by forking, then load many versions into one."""
    with tempfile.TemporaryDirectory(prefix="pst-") as name:
        folder = Path(name)
        version = _version(folder / "v", seed=0)
        cold = [_cold(folder / f"cold{number}", version) for number in range(COLD)]
        with Host(_started(["--host", str(folder / "h")]), folder / "h") as host:
            began = time.perf_counter()
            host.warm(worth_importing(version))
            warm_s = time.perf_counter() - began
            forked = [_forked(host, folder / f"w{number}", version) for number in range(REPEATS)]
            many = _many(host, folder)
    cold_ms = statistics.median(one["ready_ms"] for one in cold)
    fork_ms = statistics.median(one["ready_ms"] for one in forked)
    return {
        "repeats": {"cold": COLD, "forked": REPEATS},
        "load": os.getloadavg()[0],
        "median_s": fork_ms / 1000,
        "warm_up_s": warm_s,
        "cold_ready_ms": cold_ms,
        "forked_ready_ms": fork_ms,
        "cold_private_mb": statistics.median(one["private_mb"] for one in cold),
        "forked_private_mb": statistics.median(one["private_mb"] for one in forked),
        "many": many,
        "what": "ready: started or forked, the version loaded and one row answered. private: "
        "pages of the process that no other has, after that",
        "targets": {"forked_ready_ms": MOST_MS, "cold_by_forked": LEAST_RATIO},
        "targets_met": fork_ms < MOST_MS and cold_ms / fork_ms >= LEAST_RATIO,
    }


def _cold(path: Path, version: Path) -> dict[str, float]:
    began = time.perf_counter()
    process = _started(["--socket", str(path)])
    with Worker(Program(process), path) as worker:
        return _ready(worker, path, version, began)


def _forked(host: Host, path: Path, version: Path) -> dict[str, float]:
    began = time.perf_counter()
    with Worker(host.fork(path), path) as worker:
        return _ready(worker, path, version, began)


def _ready(worker: Worker, path: Path, version: Path, began: float) -> dict[str, float]:
    told = worker.load(version)
    assert told["ok"], told
    worker.disconnect()
    connection = Connection(_Nobody(), path, start_timeout_s=20)
    _answered(connection, 0)
    ready_ms = (time.perf_counter() - began) * 1000
    private_mb = _private_bytes(connection.peer) / 1e6
    connection.close()
    return {"ready_ms": ready_ms, "private_mb": private_mb}


def _many(host: Host, folder: Path) -> dict[str, float]:
    """Load many versions into one worker, ask each once, and unload them all."""
    path = folder / "many"
    versions = [_version(folder / f"v{number}", seed=number) for number in range(VERSIONS)]
    host.fork(path)
    connection = Connection(_Nobody(), path, start_timeout_s=20)
    load_ms: list[float] = []
    first = before = 0
    for slot, version in enumerate(versions):
        began = time.perf_counter()
        told = _ordered(connection, frames.LOAD, slot=slot, folder=str(version))
        load_ms.append((time.perf_counter() - began) * 1000)
        assert told["ok"], told
        _answered(connection, slot)
        if slot == 0:  # what the first one needs, all need
            first = _private_bytes(connection.peer)
    full = _private_bytes(connection.peer)
    for slot in range(VERSIONS):
        _ordered(connection, frames.UNLOAD, slot=slot)
    before = _private_bytes(connection.peer)
    connection.close()
    host.end(path)
    return {
        "versions": VERSIONS,
        "file_mb": sum(f.stat().st_size for f in versions[0].rglob("*") if f.is_file()) / 1e6,
        "load_ms": statistics.median(load_ms),
        "mb_a_version": (full - first) / (VERSIONS - 1) / 1e6,
        "private_mb": full / 1e6,
        "private_mb_after_unloading": before / 1e6,
    }


class _Nobody:
    """In the place of a program that others end."""

    def ended(self, within_s: float) -> None:
        """Wait."""
        time.sleep(within_s)

    def end(self) -> None:
        """Leave it alone."""


def _ordered(connection: Connection, kind: int, **order: Any) -> dict[str, Any]:
    part = frames.RequestPart(kind, b"order", json.dumps(order).encode())
    (reply,) = connection.ask(part, timeout_s=60)
    return json.loads(reply.body)


def _answered(connection: Connection, slot: int) -> None:
    part = frames.RequestPart(frames.INVOCATIONS, b"a", _BODY, slot)
    (reply,) = connection.ask(part, timeout_s=60)
    assert reply.status == 200, reply


def _private_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def _started(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-I", str(PROGRAM), *arguments]
    return subprocess.Popen(argv, env={"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)


def _version(folder: Path, seed: int) -> Path:
    """Write a packed version."""
    (folder / "model").mkdir(parents=True)
    (folder / "code").mkdir()
    manifest = {
        "schema": 1,
        "model": "bench",
        "number": seed + 1,
        "format": "joblib",
        "path": "model/m.joblib",
        "task": "classification",
        "positive": None,
        "signature": None,
    }
    (folder / "penstock.json").write_text(json.dumps(manifest))
    draw = np.random.default_rng(0)  # the same for all: what differs is whose it is
    frame = pd.DataFrame({"a": draw.normal(size=500), "b": draw.normal(size=500)})
    frame["c"] = draw.choice(["x", "y", "z"], size=500)
    if not _FITTED:
        parts = [("c", OneHotEncoder(), ["c"]), ("n", StandardScaler(), ["a", "b"])]
        boosting = HistGradientBoostingClassifier(max_iter=30, random_state=0)
        model = Pipeline([("columns", ColumnTransformer(parts)), ("boosting", boosting)])
        _FITTED.append(model.fit(frame, frame["a"] > frame["b"]))
    joblib.dump(_FITTED[0], folder / "model" / "m.joblib")
    return folder


_FITTED: list[Any] = []
