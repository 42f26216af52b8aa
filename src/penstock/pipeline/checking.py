"""Stage build, second half: check, fairness, explain.

A worker of the build answers for the packed version, and every check only asks that worker.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from penstock.build.trust import provenance
from penstock.check import fast_path, parity, quality, sanity, smoke, supply
from penstock.check.answers import Answers, Ask, AskError
from penstock.check.evaluation import Evaluation
from penstock.config import server_settings
from penstock.domain import JSON, CheckResult, Verdict, Version
from penstock.errors import PenstockError, StoppedError
from penstock.inference.asking import Worker, WorkerAnswerError
from penstock.monitor.period import reference
from penstock.pipeline import accelerating, explaining, fairness, keeping, surroundings
from penstock.pipeline.answering import answers_of, ask_through
from penstock.pipeline.surroundings import Champion
from penstock.pipeline.tools import (
    Work,
    evaluation_of,
    reasons,
    worst,
    written,
)
from penstock.pipeline.warm_hosts import loaded

KEPT = ("answers", "profile")
"""The reports that step check leaves to those that follow."""


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
    unpacked = provenance.unpacked(claim, work.tools.store, work.tools.home)
    folder = work.tools.hosts.place(work.run.id, unpacked, "sealed")
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
    hosts = work.tools.hosts
    with hosts.worker(work.run.id, version.lock_digest, folder) as (worker, told):
        loaded(told)
        asked = _Asked(version, version.signature, folder, worker, evaluation)
        if _check(work, asked, loads):
            accelerating.serve_by(work, worker, folder, evaluation.for_columns(asked.names))
            fairness.fairness(work, evaluation)
            explaining.explain(work, asked.ask, evaluation, folder)
    return {}


def _asker(worker: Worker, signature: JSON) -> Ask:
    names = [str(column["name"]) for column in signature["columns"]]

    def predict(table: pa.Table) -> Any:
        wanted = [name for name in names if name in table.column_names]
        return worker.predict(table.select(wanted), signature)

    return ask_through(predict, signature)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The version that is checked: its folder, placed, its worker, and the rows it is asked."""

    version: Version
    signature: JSON
    folder: Path
    worker: Worker
    evaluation: Evaluation

    @property
    def ask(self) -> Ask:
        """Ask the worker."""
        return _asker(self.worker, self.signature)

    @property
    def names(self) -> list[str]:
        """The columns of the model."""
        return [str(column["name"]) for column in self.signature["columns"]]


def _check(work: Work, asked: _Asked, loads: CheckResult) -> bool:
    """Do step check; False where rows are not answered, so that no more can be asked.

    The step stays open where checks of the project's own follow.
    """
    champion = surroundings.champion_of(work)
    key = _key(work, champion)
    kept = keeping.found(work, "check", key, *KEPT)
    if kept is not None:
        return _taken_over(work, kept, champion)
    work.report("answers").unlink(missing_ok=True)
    before = champion.version.signature if champion is not None else None
    work.progress("check", 0.1, doing="asks it as every model is asked")
    features = asked.evaluation.for_columns(asked.names)
    few = features.slice(0, parity.RELOAD_ROWS)
    with ThreadPoolExecutor(1, "reload") as beside:  # its start takes longer than all questions
        again = beside.submit(_again, work, asked, few, features)
        smoked = smoke.smoke_checks(asked.ask, asked.evaluation, asked.signature, before)
        results = [loads, *smoked]
        told = None
        if smoked[0].verdict is Verdict.PASSED:
            work.progress("check", 0.4, doing=f"asks for all {features.num_rows:,} rows")
            try:
                told = asked.worker.predict(features, asked.signature)
            except WorkerAnswerError as error:  # in a row after those that smoke checks ask
                results = smoke.not_all_answered(results, error.status, error.message)
        if told is not None:
            work.report("answers").write_text(json.dumps(written(told)), encoding="utf-8")
            answers = answers_of(told, asked.signature)
            work.report("profile").write_text(
                json.dumps(reference(features, answers)), encoding="utf-8"
            )
            work.progress("check", 0.6, doing="looks for leaks, overlap and order")
            material = _material(work, asked, answers, champion)
            first = asked.ask(few)
            results += sanity.sanity_checks(material)
            work.progress("check", 0.8, doing="compares with another start, and golden rows")
            second, faster = again.result()
            results += [parity.reloads(first, second), _golden(work, asked, first, few), faster]
        work.progress("check", 0.95, doing="looks at size, packages and licences")
        results += _supply(work, asked, champion)
    if told is not None:
        keeping.keep(work, "check", key, results, *KEPT)
    results = surroundings.beside(results, champion)
    work.keep(results)
    if told is None or not work.config().check:
        work.end("check", worst(results), reasons(results))
    return told is not None


def _key(work: Work, champion: Champion | None) -> str:
    """Return what the checks depend on: all that training could read, too, for leaks."""
    config, settings = work.config(), server_settings(work.tools.home / "server.toml")
    inputs = work.report("inputs")
    before = None
    if champion is not None:
        before = [str(champion.version), champion.version.signature, champion.bytes]
    looked_at: dict[str, Any] = {
        "tree": keeping.tree(work),
        "inputs": json.loads(inputs.read_text(encoding="utf-8")) if inputs.is_file() else None,
        "golden": surroundings.golden_digest(work),
        "quality": config.quality.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json"),
        "serving": [config.serving.accelerate, config.serving.tolerance],
        "supply": settings.supply.model_dump(mode="json"),
        "champion": before,
    }
    return keeping.key(work, "check", looked_at)


def _taken_over(work: Work, kept: keeping.Kept, champion: Champion | None) -> bool:
    """Do step check with what it found before: nothing that it looks at has changed."""
    results = surroundings.beside(kept.results, champion)
    work.keep(results)
    if not work.config().check:
        work.end("check", worst(results), f"{kept.sentence(work)}; {reasons(results)}")
    return True


def _again(
    work: Work, asked: _Asked, few: pa.Table, rows: pa.Table
) -> tuple[Answers | str, CheckResult]:
    """Ask a worker of its own for a few rows, and let it prove a faster call with all."""
    found = [fast_path.not_asked(Verdict.UNDECIDED, "it did not answer when it started again")]

    def proves(worker: Worker) -> None:
        serving = work.config().serving
        found[0] = accelerating.proven(worker, asked.folder, rows, asked.signature, serving)

    return _answers_of_another(work, asked, asked.folder, few, then=proves), found[0]


def _answers_of_another(
    work: Work,
    asked: _Asked,
    folder: Path,
    rows: pa.Table,
    then: Callable[[Worker], None] | None = None,
) -> Answers | str:
    """Ask a worker of its own; a sentence where it does not answer."""
    run, lock_digest = work.run.id, asked.version.lock_digest
    assert lock_digest is not None, f"{asked.version} is not sealed"
    try:
        with work.tools.hosts.another(run, lock_digest, folder) as worker:
            answers = _asker(worker, asked.signature)(rows)
            if then is not None:
                then(worker)
    except PenstockError as error:
        return error.what
    except AskError as error:
        return f"{error.status}: {error.message}"
    return answers


def _material(
    work: Work, asked: _Asked, answers: Answers, champion: Champion | None
) -> sanity.Material:
    config, evaluation = work.config(), asked.evaluation
    metric = config.quality.primary or quality.primary_metric(
        str(asked.signature["task"]),
        len(answers.classes or ()),
        probabilities=answers.probability is not None,
    )
    margin = config.quality.margin
    if margin is None:
        value = quality.value(metric, evaluation.label, answers)
        margin = quality.default_margin(metric, config.model.risk, value)
    before = None
    if champion is not None:
        before = (str(champion.version), champion.version.data_digest)
    return sanity.Material(
        evaluation=evaluation,
        answers=answers,
        signature=asked.signature,
        training=surroundings.training_of(work, config, evaluation, asked.names),
        metric=metric,
        margin=margin,
        champion_data=before,
    )


def _golden(work: Work, asked: _Asked, first: Answers, rows: pa.Table) -> CheckResult:
    golden = surroundings.golden_rows(work)
    if isinstance(golden, str):
        return parity.unreadable(golden)
    if golden is not None:
        return parity.golden(asked.ask, golden, asked.signature)
    changed = surroundings.code_changes(work, asked.folder)
    if not changed:
        return parity.unchanged(changed)
    left = surroundings.as_training_left(work, asked.folder, changed)
    folder = work.tools.hosts.place(work.run.id, left, "as-left")
    return parity.as_trained(first, _answers_of_another(work, asked, folder, rows), changed)


def _supply(work: Work, asked: _Asked, champion: Champion | None) -> list[CheckResult]:
    lock = (work.folder / "requirements.lock").read_text(encoding="utf-8")
    pins, pinned = supply.pins(lock)
    packages = surroundings.packages_of(work, pinned)
    settings = server_settings(work.tools.home / "server.toml")
    before = champion.bytes if champion is not None else None
    return [
        supply.size(surroundings.packed_bytes(asked.folder), before),
        pins,
        supply.licences(packages, asks=settings.supply.licences == "ask"),
    ]
