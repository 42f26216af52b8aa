"""Which call of a version's model serves: proved by a worker of its own, in step check.

The worker loads the version once as it is and once by each path, and answers the same questions
by all of them; what is compared, and the verdict, are fast_path.py's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from penstock.check import fast_path
from penstock.config.serving import Serving
from penstock.domain import JSON, CheckResult, Verdict
from penstock.errors import StoppedError
from penstock.inference.asking import Worker, to_v2
from penstock.pipeline.tools import Work
from penstock.records import runs

_BOOSTERS = ("booster", "flat", "array")
PATHS = {
    "scikit-learn": ("flat", "array"),
    "xgboost": _BOOSTERS,
    "lightgbm": _BOOSTERS,
    "catboost": _BOOSTERS,
}
"""By the framework of a model's predictor, in the order in which they are tried."""


def proven(
    worker: Worker, folder: Path, rows: pa.Table, signature: JSON, serving: Serving
) -> CheckResult:
    """Find the fastest call of a model that is proven to answer as its own.

    Parameters
    ----------
    worker
        Has the version in slot 0, by its own call.
    rows
        Evaluation rows, with the columns of the signature.
    """
    if serving.accelerate == "off":
        return fast_path.not_asked(Verdict.PASSED, "[serving] accelerate is off")
    few = f"{rows.num_rows} evaluation rows, {fast_path.MIN_ROWS} are needed"
    if rows.num_rows < fast_path.MIN_ROWS:
        return fast_path.not_asked(Verdict.UNDECIDED, few)
    refused: dict[str, str] = {}
    failed: dict[str, JSON] = {}
    result: CheckResult | None = None
    try:
        framework = worker.metadata().get("framework")
        for path in PATHS.get(str(framework), ()):
            told = worker.load(folder, path=path, slot=1)
            if not told["ok"]:
                refused[path] = str(told["error"])
                continue
            found = _compared(worker, path, rows, signature, serving, refused)
            if found.verdict is Verdict.PASSED:
                result = found
                break
            failed.update(found.evidence.get("paths", {}))
            result = result or found
    except StoppedError as error:
        why = f"the worker that was to prove it did not: {error.what}"
        return fast_path.not_asked(Verdict.UNDECIDED, why, refused)
    if result is None:
        why = (
            f"no faster call of it is known: {next(iter(refused.values()), 'its format has one')}"
        )
        why = why.rstrip(".")
        return fast_path.not_asked(Verdict.PASSED, why, refused)
    return replace(result, evidence={**result.evidence, "failed": failed})


def _compared(
    worker: Worker,
    path: str,
    rows: pa.Table,
    signature: JSON,
    serving: Serving,
    refused: dict[str, str],
) -> CheckResult:
    columns: Sequence[JSON] = signature["columns"]
    bodies: dict[int, bytes] = {}

    def ask(by: str, question: fast_path.Question) -> fast_path.Reply:
        body = bodies.get(id(question))
        if body is None:
            body = bodies[id(question)] = to_v2(question.rows, columns)
        began = time.perf_counter()
        status, told = worker.answer(body, slot=0 if by == fast_path.OWN else 1)
        return fast_path.Reply(status, told, time.perf_counter() - began)

    asked = list(fast_path.questions(rows, columns))
    limits = fast_path.Limits(tolerance=serving.tolerance)
    found, cut = fast_path.prove(ask, asked, [path], limits=limits)
    return fast_path.judged(
        found, refused, rows=rows.num_rows, tolerance=serving.tolerance, cut=cut
    )


def serve_by(work: Work, worker: Worker, folder: Path) -> None:
    """Let a version answer, here and from now on, by the path that its check proved.

    Raises
    ------
    StoppedError
        It cannot be loaded so.
    """
    version, path = work.version(), _path(work.results())
    if version.path != path:
        with work.tools.database.change(work.actor) as change:
            runs.answer_by(change, version, path)
    if path != fast_path.OWN:
        told = worker.load(folder, path=path)
        if not told["ok"]:
            raise StoppedError(str(told["code"]), str(told["error"]), hint=str(told["hint"]))


def _path(results: Sequence[CheckResult]) -> str:
    found = [one for one in results if one.check == fast_path.NAME]
    passed = found and found[-1].verdict is Verdict.PASSED
    return str(found[-1].evidence["path"]) if passed else fast_path.OWN
