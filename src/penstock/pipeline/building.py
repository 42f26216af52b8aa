"""Stage build, first half: train and store; checking.py does the second.

The project's own command runs in the sandbox; what it left is packed, stored and known by its
digest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from penstock.build import pack, train
from penstock.build.adoption import adopt
from penstock.build.checkout import checkout, last_change
from penstock.build.project import dependency_files, imports
from penstock.build.project.detect import detect
from penstock.build.project.facts import Fact
from penstock.build.results.outcome import Built
from penstock.build.train import Plan
from penstock.check.evaluation import read_evaluation
from penstock.check.signature import infer_signature
from penstock.config import Build, LimitSettings, ModelConfig
from penstock.domain import JSON
from penstock.errors import StoppedError
from penstock.inference.prediction_log.redaction import require_known
from penstock.pipeline import (
    adopting,
    attesting,
    capturing,
    carding,
    checking,
    gathering,
    own_checks,
    pacing,
    reusing,
    surroundings,
)
from penstock.pipeline.tools import Work, evaluation_file, evaluation_of
from penstock.ports import AsOf, Finished, Limits
from penstock.records import documents
from penstock.records.pace import TAKEN_OVER
from penstock.records.runs import Seal


async def build(work: Work) -> None:
    """Do the stage; a version that is sealed already is not built again."""
    # Asked in a step: storing seals the version, and a replay must take the same way again.
    known = await work.durable("begin", lambda: begun(work))
    try:
        if not known["sealed"]:
            prepared = await trained(work)
            await work.step("store", lambda: store(work, prepared))
        await work.durable("checks", lambda: checking.checks(work))
    finally:
        work.tools.hosts.end(work.run.id)
    if work.config().check:
        await own_checks.own_checks(work)
    await work.durable("card", partial(carding.keep, work))


def begun(work: Work) -> JSON:
    """Say whether the version is sealed; then its environment is made again if it is gone."""
    sealed = work.version().sealed_at is not None
    if sealed:
        _restored(work)
    return {"sealed": sealed}


def _restored(work: Work) -> None:
    run, lock = work.run, work.folder / "restored.lock"
    with work.tools.database.read() as connection:
        kept = {one.name: one for one in documents.documents(connection, run.model, run.number)}
    if "lock" in kept:
        work.folder.mkdir(parents=True, exist_ok=True)
        work.tools.store.get(kept["lock"].digest, lock)
        work.tools.environments.ready(lock, log=work.log("train"))
        lock.unlink()


async def trained(work: Work, *, anew: bool = False) -> JSON:
    """Do step train: checkout, environment, command, model; return what was prepared.

    With `anew` the command runs, whatever an earlier version could give.
    """
    # Three durable parts of one noted step: the command must be one that can be killed.
    prepared = await work.durable(
        "train: prepare", lambda: _noted(work, lambda: prepare(work), begins=True)
    )
    plan = plan_of(work, prepared)
    if plan.config.build.adopt is not None:
        await work.durable(
            "train: adopt", lambda: _noted(work, lambda: take_in(work, plan), ends=True)
        )
        return cast("JSON", prepared)

    if plan.config.build.reuse and not anew:
        known = await work.durable("train: reuse", lambda: _noted(work, lambda: reuse(work, plan)))
        if known["taken_over"]:
            return cast("JSON", prepared)

    def start() -> tuple[list[str], dict[str, str]]:
        return work.tools.sandbox.argv(train.training_command(plan))

    if not anew:  # ready by the time that training ends
        work.tools.hosts.begin(work.run.id, prepared["lock"], work.folder / "code")
    work.tools.reached("build/train:command")
    finished = await work.tools.engine.command(
        "build/train: run",
        start,
        log=work.log("train"),
        timeout_s=plan.config.build.timeout_s,
    )
    await work.durable(
        "train: collect", lambda: _noted(work, lambda: collect(work, plan, finished), ends=True)
    )
    return cast("JSON", prepared)


def _noted(work: Work, action: Any, *, begins: bool = False, ends: bool = False) -> JSON:
    if begins:
        work.begin("train")
    try:
        result = cast("JSON", action())
    except StoppedError as error:
        work.end("train", "failed", error.what)
        raise
    if ends:
        work.end("train", "passed", str(result.get("reason", "")))
    return result


def prepare(work: Work) -> JSON:
    """Check the commit out, put bound data in place, and make the environment."""
    tools, run, config = work.tools, work.run, work.config()
    folder = work.folder
    repository = tools.home / "repositories" / f"{run.model}.git"
    work.say("train", f"checkout of {run.commit[:12]}")
    work.progress("train", None, doing="checks the commit out and fetches its data")
    shutil.rmtree(folder / "checkout", ignore_errors=True)
    checkout(repository, run.commit, folder / "checkout")
    checkout(repository, run.commit, folder / "code", ending=".py")
    bound = gathering.gathered(work, config, folder / "checkout")
    found = detect(folder / "checkout", config)
    for note in found.notes:
        work.say("train", note)
    facts = {"facts": [asdict(fact) for fact in found.facts]}
    work.report("facts").write_text(json.dumps(facts), encoding="utf-8")
    evaluation = _kept_evaluation(work, config)
    masked = gathering.copies(work, config, folder / "checkout")
    build_limits(config.build, tools.limits)  # said before the environment is made
    level = tools.sandbox.level()
    if level.warning:
        work.say("train", f"WARNING {level.warning}")
    digest, python = _environment(work, config, repository)
    gathering.note_inputs(work, folder / "checkout", bound, masked)
    _say_missing(work, config, found.run.value, found.dependencies)
    work.say("train", f"$ {found.run.value}")
    work.progress("train", None, doing="runs the project's command")
    return {
        "python": str(python),
        "lock": digest,
        "run": found.run.value,
        "globs": list(found.model_globs),
        "dependencies": found.dependencies.value if found.dependencies else None,
        "sandbox": level.level,
        "evaluation": evaluation,
        "began_ms": int(tools.clock().timestamp() * 1000),
        "masked": masked,
    }


def _environment(work: Work, config: ModelConfig, repository: Path) -> tuple[str, Path]:
    """Lock what the project asks for, as of when it asked, and make the environment."""
    tools, run, asked = work.tools, work.run, config.environment
    project, lock = work.folder / "checkout", work.folder / "requirements.lock"
    read = dependency_files.read(project)
    wanted = dependency_files.with_configured(read, asked.extra, asked.override)
    for note in wanted.notes[len(read.notes) :]:  # the others were found with the rest
        work.say("train", note)
    now = tools.clock()
    files = last_change(repository, run.commit, wanted.files) or now
    added = last_change(repository, run.commit, ["penstock.toml"]) or now
    if asked.as_of is not None:
        files = datetime.combine(asked.as_of, datetime.max.time(), UTC)
    work.progress("train", None, doing="finds out which packages it needs")
    digest = tools.environments.lock(
        wanted,
        lock,
        log=work.log("train"),
        python=asked.python,
        as_of=AsOf(files=min(files, now), added=min(added, now)),
    )
    packages = len(_locked(lock))
    told = {
        "files": list(wanted.files),
        "as_of": min(files, now).isoformat(),
        "packages": packages,
        "python": attesting.python_of(lock),
        "lock": digest,
    }
    work.report("environment").write_text(json.dumps(told), encoding="utf-8")
    with pacing.environment(work, digest, packages):
        python = tools.environments.ready(lock, log=work.log("train"))
    return digest, python


def _locked(lock: Path) -> list[str]:
    """Return the names of the packages that a lock pins."""
    text = lock.read_text(encoding="utf-8")
    return re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)", text, re.MULTILINE)


def _say_missing(work: Work, config: ModelConfig, run: str, dependencies: Fact | None) -> None:
    """Warn of imports that the lock does not serve, before the command fails by one."""
    installed = _locked(work.folder / "requirements.lock")
    lacking = dependencies.value if dependencies is not None else "penstock.toml"
    also = [config.build.predict] if config.build.predict else []
    for one in imports.missing(work.folder / "checkout", run, installed, also=also):
        work.say("train", f"WARNING {one.sentence(lacking)} {one.fix(lacking)}")


def _kept_evaluation(work: Work, config: ModelConfig) -> str | None:
    """Copy the evaluation data away before training runs; its digest, or None without any."""
    spec = config.evaluate
    if spec is None or spec.made_by_build:
        return None
    source = work.folder / "checkout" / spec.data
    read_evaluation(source, spec)
    return _keep(work, source, spec.ending)


def _keep(work: Work, source: Path, ending: str) -> str:
    digest = pack.store_file(source, work.tools.store)
    target = evaluation_file(work, ending)
    shutil.copyfile(source, target)
    return digest


def plan_of(work: Work, prepared: JSON) -> Plan:
    """Return what training depends on, from what `prepare` found."""
    return Plan(
        config=work.config(),
        commit=work.run.commit,
        checkout=work.folder / "checkout",
        scratch=work.folder / "scratch",
        python=Path(prepared["python"]),
        run=prepared["run"],
        model_globs=tuple(prepared["globs"]),
        dependency_file=prepared["dependencies"],
        limits=build_limits(work.config().build, work.tools.limits),
        threads=work.tools.build_threads,
        began_ms=prepared.get("began_ms", 0),
        masked=tuple(prepared["masked"]),
    )


def build_limits(asked: Build, allowed: LimitSettings) -> Limits:
    """Return what a build may use: what it asks for, if the operator allows it.

    Raises
    ------
    StoppedError
        PS208: it asks for more.
    """
    most_mb = allowed.build_memory_mb or _three_quarters_mb()
    memory_mb = asked.memory_mb or most_mb
    broken = [
        f"[build] {key} asks for {wanted:,g}, and the operator allows {most:,g}"
        for key, wanted, most in (
            ("memory_mb", memory_mb, most_mb),
            ("timeout_s", asked.timeout_s, allowed.build_timeout_s),
        )
        if wanted > most
    ]
    if broken:
        raise StoppedError(
            "PS208",
            f"{'; '.join(broken)}.",
            hint="Ask for less, or let the operator raise it: [limits] in server.toml.",
        )
    return Limits(
        memory_bytes=memory_mb << 20,
        output_bytes=allowed.log_mb << 20,
        cpus=allowed.build_cpus,
    )


def _three_quarters_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4 >> 20


def collect(work: Work, plan: Plan, finished: Finished) -> JSON:
    """Take the model that training wrote, and stage the version's folder."""
    work.progress("train", None, doing="takes what training left")
    gathering.observe_reads(work, plan.checkout)
    gathering.store_inputs(work)
    built = capturing.capture(work, plan, finished)
    spec = plan.config.evaluate
    if spec is not None and spec.made_by_build:
        _keep(work, plan.checkout / spec.data, spec.ending)
    surroundings.keep_golden(work, plan.checkout, built.path)
    stage(work, plan, built)
    reusing.keep(work, plan)
    return {"reason": f"{built.format} model, {len(built.files)} file(s)"}


def reuse(work: Work, plan: Plan) -> JSON:
    """Take over the model of a version with the same inputs, and end the step, if there is one."""
    version = reusing.earlier(work, plan)
    if version is None:
        return {"taken_over": False}
    work.progress("train", None, doing=f"takes over what was trained for {version}")
    built = reusing.take_over(work, plan, version)
    gathering.store_inputs(work)
    stage(work, plan, built)
    work.end("train", "passed", f"{TAKEN_OVER} {version} (same code, data and environment)")
    return {"taken_over": True}


def take_in(work: Work, plan: Plan) -> JSON:
    """Take a model that was trained elsewhere, if the gate lets it in; stage its folder."""
    gathering.store_inputs(work)
    built, told = adopting.let_in(work, plan)
    stage(work, plan, built)
    adopt.require_unchanged(work.folder / "version", told)
    return {"reason": f"{built.format} model, adopted, {len(built.files)} file(s)"}


def stage(work: Work, plan: Plan, built: Built) -> None:
    """Write the folder that is packed."""
    evaluate = plan.config.evaluate
    pack.stage(
        built,
        work.folder / "code",
        work.folder / "version",
        pack.Facts(
            model=work.run.model,
            number=work.run.number,
            task=plan.config.model.task,
            positive=evaluate.positive if evaluate is not None else None,
        ),
    )


def store(work: Work, prepared: JSON) -> JSON:
    """Say what the version is, pack it, store it by digest, read it back, sign and seal it."""
    tools, config = work.tools, work.config()
    lock_digest = str(prepared["lock"])
    staged = work.folder / "version"
    shown = tools.hosts.place(work.run.id, staged, "staged")
    tools.hosts.begin_another(work.run.id, lock_digest, shown)  # which step check needs
    with tools.hosts.worker(work.run.id, lock_digest, shown) as (_, described):
        pass
    work.report("describe").write_text(json.dumps(described), encoding="utf-8")
    evaluation = evaluation_of(work, config)
    signature = None
    if described["ok"] and evaluation is not None and config.evaluate is not None:
        signature = infer_signature(
            evaluation.features,
            surroundings.with_golden_columns(work, described, evaluation),
            evaluation.label,
            config.evaluate,
            task=config.model.task,
        )
        require_known(config.serving.log_without, signature)
        pack.with_signature(staged, signature)
    digest = pack.pack(staged, tools.store)
    pack.unpack(digest, tools.store, tools.home / "models")
    seal = Seal(
        artifact_digest=digest,
        lock_digest=lock_digest,
        data_digest=evaluation.digest if evaluation is not None else None,
        signature=signature,
        sandbox_level=str(prepared["sandbox"]),
    )
    attesting.seal(work, plan_of(work, prepared), prepared, seal)
    return {"reason": f"artifact {digest[:12]}"}
