"""Step explain: what a version looks at, and what changed since the champion."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pyarrow as pa

from penstock.check.answers import Ask, class_text
from penstock.check.evaluation import Evaluation
from penstock.check.explanation import change, report
from penstock.check.explanation.exact import Exact
from penstock.domain import JSON, CheckResult
from penstock.errors import NotFoundError
from penstock.pipeline import backgrounds, keeping
from penstock.pipeline.tools import Work, worst
from penstock.records import documents, rollouts

TELL_EVERY_S = 0.5


def explain(work: Work, ask: Ask, evaluation: Evaluation, folder: Path) -> None:
    """Do the step: the report beside the run, the document of the version, the checks.

    Parameters
    ----------
    folder
        Where the version is unpacked.
    """
    work.begin("explain")
    version, settings = work.version(), work.config().explain
    assert version.signature is not None, f"{version} has no signature"
    if settings.off:
        work.end("explain", "skipped", "[explain] off is set")
        return
    columns = [str(column["name"]) for column in version.signature["columns"]]
    backgrounds.keep(work, evaluation.for_columns(columns))
    subject = report.Subject(
        ask,
        evaluation,
        columns=columns,
        task=str(version.signature["task"]),
        only=settings.columns,
        exact=_exact(work, folder),
        told=_told(work),
    )
    exact = subject.exact is not None
    key = keeping.key(work, "explain", {**settings.model_dump(mode="json"), "exact": exact})
    kept = keeping.found(work, "explain", key, "explain")
    path = work.report("explain")
    if kept is not None:
        found = cast("JSON", json.loads(path.read_text(encoding="utf-8")))
        results = kept.results
    else:
        found = report.explain(
            subject, budget_s=settings.budget_s, plan=report.Plan(shown=settings.examples)
        )
        results = [report.result(found)]
        path.write_text(json.dumps(found), encoding="utf-8")
        keeping.keep(work, "explain", key, results, "explain")
    results = results + _change(work, found)
    # A report never stops a run and asks nobody: what it could not say is shown, and that is all.
    results = [replace(one, evidence={**one.evidence, "gate": False}) for one in results]
    path.write_text(json.dumps(found), encoding="utf-8")
    work.document("explain", path, "application/json")
    work.keep(results)
    for one in found["spent"] if kept is None else ():
        work.say("explain", f"{one['what']}: {one['seconds']:.1f} s, {one['rows']:,} rows")
    for one in found["skipped"]:
        work.say("explain", f"skipped {one['what']}: {one['why']}")
    said = [one.summary for one in results]
    said = said if kept is None else [kept.sentence(work), *said]
    work.end("explain", worst(results), "; ".join(said))


def _change(work: Work, found: JSON) -> list[CheckResult]:
    """Hold the report against the champion's, where there is one."""
    with work.tools.database.read() as connection:
        champion = rollouts.champion(connection, work.run.model)
        if champion is None or champion.number == work.run.number:
            return []
        try:
            kept = documents.get(connection, work.run.model, champion.number, "explain")
        except NotFoundError:
            return []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "explain.json"
        work.tools.store.get(kept.digest, file)
        before = cast("JSON", json.loads(file.read_text(encoding="utf-8")))
    compared = change.compare(before, found, versions=(champion.number, work.run.number))
    cast("dict[str, object]", found)["change"] = compared
    return [change.result(compared)]


def _exact(work: Work, folder: Path) -> Exact | None:
    """Return the exact explainer, where the model's environment may have one."""
    version, workers = work.version(), work.tools.workers
    assert version.lock_digest is not None, f"{version} is not sealed"
    assert version.signature is not None, f"{version} has no signature"
    if not workers.offers_trees(version.lock_digest):
        return None
    signature, lock = version.signature, version.lock_digest
    positive = "" if signature.get("positive") is None else class_text(signature["positive"])

    def exact(explained: pa.Table, background: pa.Table, timeout_s: float) -> JSON:
        tables = (explained, background)
        return workers.exact(folder, lock, tables, positive=positive, timeout_s=timeout_s)

    return exact


def _told(work: Work) -> Callable[[float, float], None]:
    last_s = 0.0

    def told(share: float, left_s: float) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= TELL_EVERY_S:
            last_s = time.monotonic()
            work.progress("explain", share, left_s)

    return told
