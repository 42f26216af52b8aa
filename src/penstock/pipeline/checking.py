"""Stage build, second half: check, fairness, explain.

A worker of the build answers for the packed version, and every check only asks that worker.
"""

from __future__ import annotations

import json
import shutil
from typing import Any, cast

import pyarrow as pa

from penstock.build import provenance
from penstock.check import fairness as fair
from penstock.check import smoke
from penstock.check.answers import Ask
from penstock.check.evaluation import Evaluation
from penstock.config import ModelConfig
from penstock.domain import JSON, CheckResult, Verdict
from penstock.errors import StoppedError
from penstock.inference.asking import Worker
from penstock.monitor.period import reference
from penstock.pipeline import explaining
from penstock.pipeline.tools import (
    Work,
    answers_of,
    ask_through,
    evaluation_of,
    reasons,
    worst,
    written,
)
from penstock.records import rollouts


def checks(work: Work) -> JSON:
    """Do steps check, fairness and explain with one worker; together they repeat as one."""
    work.begin("check")
    described = cast("JSON", json.loads(work.report("describe").read_text(encoding="utf-8")))
    loads = smoke.loads(described)
    if loads.verdict is Verdict.FAILED:
        work.keep([loads])
        work.end("check", "failed", loads.summary)
        hint = str(described.get("hint") or "Mend what the error names and push again.")
        raise StoppedError(str(described.get("code") or "PS240"), loads.summary, hint=hint)
    version, config = work.version(), work.config()
    assert version.lock_digest is not None, f"{version} is not sealed"
    claim = provenance.claim_of(version)
    folder = provenance.unpacked(claim, work.tools.store, work.tools.home)
    evaluation = evaluation_of(work, config)
    if evaluation is None or version.signature is None:
        none = CheckResult(
            "smoke.evaluation",
            Verdict.UNDECIDED,
            "no [evaluate]: only loading was checked",
            {"question": "Was it tried on data that it had not seen?"},
        )
        work.keep([loads, none])
        work.end("check", "undecided", none.summary)
        return {}
    socket = work.tools.home / "run" / f"c{work.run.id}" / "s"
    with work.tools.workers.started(folder, version.lock_digest, socket) as worker:
        _check(work, worker, evaluation, loads)
        _fairness(work, config, evaluation)
        explaining.explain(work, _asker(worker, version.signature), evaluation)
    shutil.rmtree(socket.parent, ignore_errors=True)
    return {}


def _asker(worker: Worker, signature: JSON) -> Ask:
    names = [str(column["name"]) for column in signature["columns"]]

    def predict(table: pa.Table) -> Any:
        wanted = [name for name in names if name in table.column_names]
        return worker.predict(table.select(wanted), signature)

    return ask_through(predict, signature)


def _check(work: Work, worker: Worker, evaluation: Evaluation, loads: CheckResult) -> None:
    version = work.version()
    assert version.signature is not None, f"{version} has no signature"
    with work.tools.database.read() as connection:
        champion = rollouts.champion(connection, work.run.model)
    ask = _asker(worker, version.signature)
    before = champion.signature if champion is not None else None
    results = [loads, *smoke.smoke_checks(ask, evaluation, version.signature, before)]
    names = [str(column["name"]) for column in version.signature["columns"]]
    features = evaluation.for_columns(names)
    told = worker.predict(features, version.signature)
    work.report("answers").write_text(json.dumps(written(told)), encoding="utf-8")
    work.report("profile").write_text(
        json.dumps(reference(features, answers_of(told, version.signature))),
        encoding="utf-8",
    )
    work.keep(results)
    work.end("check", worst(results), reasons(results))


def _fairness(work: Work, config: ModelConfig, evaluation: Evaluation) -> None:
    work.begin("fairness")
    version = work.version()
    assert version.signature is not None, f"{version} has no signature"
    told = json.loads(work.report("answers").read_text(encoding="utf-8"))
    answers = answers_of(told, version.signature)
    if config.evaluate is None or not config.evaluate.sensitive:
        work.end("fairness", "skipped", "[evaluate] sensitive names no column")
        return
    report = fair.fairness(
        evaluation,
        evaluation.label,
        answers,
        task=str(version.signature["task"]),
        metric=config.fairness.metric,
        maximum=config.fairness.max,
    )
    work.report("fairness").write_text(json.dumps(report.groups), encoding="utf-8")
    work.keep(report.results)
    work.end("fairness", worst(report.results), reasons(report.results))
