"""The program that reads trees exactly, run for real; the library it reads with is a small one."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pytest

from penstock.check.answers import Answers
from penstock.check.evaluation import Evaluation
from penstock.check.explanation.report import Plan, Subject, explain
from penstock.domain import JSON
from penstock.inference import exact

BOOSTER = """
import math, sys

class Found(list):
    ndim = 2
    def __getitem__(self, at):
        rows, columns = at
        return Part([row[columns] for row in self])

class Part(list):
    def tolist(self):
        return list(self)

class Booster:
    '''The log-odds are 2 a - b + 0.5, so the effects of a row are its values times the weights.'''
    def __init__(self, model_file):
        self.weights = [float(word) for word in open(model_file).read().split()]
        print("a library that talks")
    def dump_model(self, num_iteration):
        return {"objective": OBJECTIVE}
    def predict(self, rows, pred_contrib):
        return Found([[*(w * x for w, x in zip(self.weights, row)), 0.5] for row in rows])
"""


def packed(
    folder: Path, code: str, *, weights: str = "2 -1", form: str = "lightgbm", **files: str
) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "code" / "lightgbm").mkdir(parents=True)
    (folder / "code" / "lightgbm" / "__init__.py").write_text(code)
    for name, text in files.items():
        (folder / "code" / f"{name}.py").write_text(text)
    (folder / "model" / "m.txt").write_text(weights)
    (folder / "penstock.json").write_text(json.dumps({"format": form, "path": "model/m.txt"}))
    return folder


def starting(folder: Path) -> Callable[[IO[bytes]], subprocess.Popen[bytes]]:
    def start(out: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", str(exact.PROGRAM), "--folder", str(folder)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    return start


def asked(folder: Path, timeout_s: float = 60) -> JSON:
    rows = pa.table({"a": [1.0, None], "b": [2.0, 3.0]})
    return exact.exact(starting(folder), (rows, rows), positive="1", timeout_s=timeout_s)


LOG_ODDS = BOOSTER.replace("OBJECTIVE", "'binary sigmoid:1'")


def explained(folder: Path) -> JSON:
    """Explain the logistic model that the packed one may or may not be."""
    random = np.random.default_rng(0)
    features = pa.table({"a": random.normal(size=300), "b": random.normal(size=300)})

    def ask(table: pa.Table) -> Answers:
        score = 2 * table.column("a").to_numpy() - table.column("b").to_numpy() + 0.5
        yes = 1 / (1 + np.exp(-score))
        return Answers((yes > 0.5).astype(int), np.stack([1 - yes, yes], axis=1), (0, 1), 1)

    def read(rows: pa.Table, background: pa.Table, timeout_s: float) -> JSON:
        tables = (rows, background)
        return exact.exact(starting(folder), tables, positive="1", timeout_s=timeout_s)

    found = Evaluation(
        features, ask(features).prediction, None, None, features.select([]), "d" * 64
    )
    subject = Subject(ask, found, ["a", "b"], "classification", exact=read)
    return explain(subject, budget_s=120, plan=Plan(explained=40, pairs=20, repeats=1))


def test_exact_values_of_the_same_model_are_shown_beside_the_sampled_ones(tmp_path: Path) -> None:
    report = explained(packed(tmp_path / "v", LOG_ODDS))

    assert report["exact"]["shown"], report["exact"]
    assert report["exact"]["method"] == "lightgbm pred_contrib"
    assert report["exact"]["scale"] == "log-odds"
    assert report["exact"]["agreement"] > 0.95
    assert report["spent"][-1]["what"] == "exact values"


def test_values_of_another_model_than_the_one_that_answers_are_not_shown(tmp_path: Path) -> None:
    report = explained(packed(tmp_path / "v", LOG_ODDS, weights="-1 2"))

    assert not report["exact"]["shown"]
    assert "do not sum to the answers" in report["exact"]["why"]
    assert report["skipped"][-1]["what"] == "exact values"


@pytest.mark.parametrize(
    ("code", "form", "why"),
    [
        (BOOSTER.replace("OBJECTIVE", "'lambdarank'"), "lightgbm", "lambdarank is not known"),
        (LOG_ODDS, "onnx", "models of format onnx are not read"),
        ("raise MemoryError('no room')", "lightgbm", "MemoryError: no room"),
        ("import os; os._exit(3)", "lightgbm", "without an answer (exit code 3)"),
        ("import os; os.write(1, b'{'); os.abort()", "lightgbm", "without an answer"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, code: str, form: str, why: str) -> None:
    assert why in asked(packed(tmp_path / "v", code, form=form))["why"]


def test_missing_values_travel_as_nan(tmp_path: Path) -> None:
    told = asked(packed(tmp_path / "v", LOG_ODDS))

    assert told["effects"][0] == [2.0, -2.0]
    assert math.isnan(told["effects"][1][0])


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(mark)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )

    told = asked(packed(tmp_path / "v", code), timeout_s=3)

    assert told["why"] == "it took longer than the 3 s that were left"
    child, ends_s = int(mark.read_text()), time.monotonic() + 5
    while running(child) and time.monotonic() < ends_s:
        time.sleep(0.01)
    assert not running(child)


def running(process: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return False


def test_whatever_it_prints_the_answer_stays_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "MAX_BYTES", 1000)
    flood = (
        "import contextlib, os\n"
        "for file in range(3, 10):\n"
        "    with contextlib.suppress(OSError):\n"
        "        os.write(file, b' ' * 5000)\n"
    )

    told = asked(packed(tmp_path / "v", flood + LOG_ODDS))

    assert told["why"] == "the program ended without an answer (exit code 0)"
