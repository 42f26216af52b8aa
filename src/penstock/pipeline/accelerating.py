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

from penstock.build.trust import path_proof, provenance, signing
from penstock.build.trust.path_proof import Proof
from penstock.build.trust.signing import Keys
from penstock.check import fast_path
from penstock.config.serving import Serving
from penstock.domain import JSON, CheckResult, Document, Verdict
from penstock.errors import PenstockError, StoppedError
from penstock.inference.asking import Worker, to_v2
from penstock.pipeline import first_rows
from penstock.pipeline.tools import Work
from penstock.records import documents, runs

_BOOSTERS = ("booster", "flat", "array")
PATHS = {
    "scikit-learn": ("flat", "array"),
    "xgboost": _BOOSTERS,
    "lightgbm": _BOOSTERS,
    "catboost": _BOOSTERS,
}
"""By the framework of a model's predictor, in the order in which they are tried."""
_ALIKE = "smoke.reload"


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


def serve_by(work: Work, worker: Worker, folder: Path, rows: pa.Table) -> None:
    """Let a version answer, here and from now on, by the path that its check proved.

    What was proved is signed, with the rows that each start of the version must answer again:
    where it is placed to serve, the statement is asked for, not the records alone.

    Parameters
    ----------
    rows
        Evaluation rows, with the columns of the signature.

    Raises
    ------
    StoppedError
        It cannot be loaded so.
    """
    results = work.results()
    version, found = work.version(), _found(results)
    path = str(found.evidence["path"]) if found.verdict is Verdict.PASSED else fast_path.OWN
    if path != fast_path.OWN:
        told = worker.load(folder, path=path)
        if not told["ok"]:
            raise StoppedError(str(told["code"]), str(told["error"]), hint=str(told["hint"]))
    stated = Proof(
        path=path,
        check=found.check,
        evidence=path_proof.digest_of(found),
        tolerance=work.config().serving.tolerance,
        first_rows=_first_rows(work, worker, rows, results),
        invocation=f"run/{work.run.id}/attempt/{work.run.attempt}",
    )
    if version.path != path or not _holds(work, stated):  # a repeated step signs nothing again
        document = _signed(work, stated)
        with work.tools.database.change(work.actor) as change:
            runs.answer_by(change, version, path, document)


def _found(results: Sequence[CheckResult]) -> CheckResult:
    found = [one for one in results if one.check == fast_path.NAME]
    return found[-1] if found else fast_path.not_asked(Verdict.UNDECIDED, "it was not looked at")


def _first_rows(
    work: Work, worker: Worker, rows: pa.Table, results: Sequence[CheckResult]
) -> str | None:
    """Keep rows with their answers; None where there are none, or no two starts answer alike."""
    version, serving = work.version(), work.config().serving
    assert version.signature is not None, f"{version} has no signature"
    alike = any(one.check == _ALIKE and one.verdict is Verdict.PASSED for one in results)
    asked = first_rows.chosen(
        rows, version.signature["columns"], serving.golden_rows, serving.log_without
    )
    if asked is None or not alike:
        return None
    status, answered = worker.answer(asked)
    if status != 200:
        return None
    file = _written(work, "first-rows.json", first_rows.written(asked, answered))
    return work.document(documents.FIRST_ROWS, file, first_rows.MEDIA_TYPE)


def _holds(work: Work, stated: Proof) -> bool:
    """Say whether the same is signed already."""
    tools, version = work.tools, work.version()
    with tools.database.read() as connection:
        known = documents.found(connection, version.model, version.number, documents.PROOF)
    try:
        return known is not None and stated == path_proof.proved(
            provenance.claim_of(version), known.digest, tools.store, Keys(tools.home)
        )
    except PenstockError:
        return False


def _signed(work: Work, stated: Proof) -> Document:
    """Sign what was proved, and store it."""
    tools, run, now = work.tools, work.run, work.tools.clock()
    statement = path_proof.statement(provenance.claim_of(work.version()), stated, at=now)
    file = _written(work, "path.json", Keys(tools.home).sign(statement))
    digest, size = tools.store.put(file), file.stat().st_size
    return Document(run.model, run.number, documents.PROOF, signing.MEDIA_TYPE, digest, size, now)


def _written(work: Work, name: str, content: bytes) -> Path:
    path = work.folder / "documents" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
