"""Sealing a version: what it was made from is collected, signed, and written down with it.

The documents, the seal and its journal entry are one transaction, so that a step that is
repeated after a crash finds either all of them or none: a version has one attestation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from penstock import __version__
from penstock.build import checkout, pack, train
from penstock.build.train import Plan
from penstock.build.trust import bom, provenance, signing
from penstock.build.trust.provenance import Claim, Origin, Source
from penstock.domain import JSON, Document
from penstock.pipeline import reusing
from penstock.pipeline.tools import Work
from penstock.records import documents, runs
from penstock.records.runs import Seal


def seal(work: Work, plan: Plan, prepared: JSON, found: Seal) -> None:
    """Sign where the version comes from, and seal it; one that is sealed stays as it is."""
    version = work.version()
    if version.sealed_at is not None:
        return
    claim = Claim(version.model, version.number, found.artifact_digest, found.lock_digest, None)
    files = pack.contents(found.artifact_digest, work.tools.store)
    origin = _origin(work, plan, prepared, found)
    kept = [_kept(work, "lock", work.folder / "requirements.lock", "text/plain")]
    bill = _written(work, "bom.json", _bill(work, claim, files, origin))
    kept.append(_kept(work, "bom", bill, bom.MEDIA_TYPE))
    origin = replace(origin, byproducts=[*origin.byproducts, Source("bom", kept[-1].digest)])
    stated = provenance.statement(claim, files, origin)
    envelope = _written(work, "attestation.json", signing.Keys(work.tools.home).sign(stated))
    kept.append(_kept(work, "attestation", envelope, signing.MEDIA_TYPE))
    with work.tools.database.change(work.actor) as change:
        for document in kept:
            documents.add(change.connection, document)
        attested = replace(found, attestation_digest=kept[-1].digest)
        runs.seal(change, version, attested)


def _bill(work: Work, claim: Claim, files: Mapping[str, str], origin: Origin) -> bytes:
    """Write the bill of materials, and the report of the licences in it."""
    staged, lock = work.folder / "version", work.folder / "requirements.lock"
    python = work.tools.environments.python(claim.lock_digest)
    packages = bom.packages(lock.read_text(encoding="utf-8"), python)
    work.report("licences").write_text(json.dumps(bom.licences(packages)), encoding="utf-8")
    description = pack.description(staged)
    models = bom.model_files(staged, files)
    bill = bom.Bill(
        claim=claim,
        description=description,
        python=origin.python,
        packages=packages,
        files=models,
        data=[*origin.data, *([origin.evaluation] if origin.evaluation is not None else [])],
        card=work.version().card,
        own_metrics=_own_metrics(work),
        at=origin.ended_at,
    )
    code = bom.runs_code(staged, description, models)
    told = {"format": description["format"], "code": code}
    work.report("format").write_text(json.dumps(told), encoding="utf-8")
    return bom.write(bill, code=code)


def _own_metrics(work: Work) -> dict[str, float]:
    report = work.report("tracking")
    if not report.is_file():
        return {}
    told = cast("dict[str, Any]", json.loads(report.read_text(encoding="utf-8")))
    found = cast("dict[str, Any]", told.get("metrics") or {})
    return {name: float(v) for name, v in found.items() if isinstance(v, (int, float))}


def _origin(work: Work, plan: Plan, prepared: JSON, found: Seal) -> Origin:
    run, config = work.run, plan.config
    lock = work.folder / "requirements.lock"
    began, ended = _times(work)
    evaluation = None
    if found.data_digest is not None and config.evaluate is not None:
        evaluation = Source(
            config.evaluate.data,
            found.data_digest,
            notes={"role": "evaluation", "madeByBuild": config.evaluate.made_by_build},
        )
    return Origin(
        repository=run.model,
        branch=_branch(work),
        commit=run.commit,
        config_digest=_config_digest(work),
        command=plan.run,
        python=python_of(lock),
        lock=Source(
            "requirements.lock",
            _sha256(lock),
            notes={"role": "lock", "environment": found.lock_digest},
        ),
        data=list(_inputs(work, plan)),
        evaluation=evaluation,
        sandbox=str(prepared["sandbox"]),
        network=config.build.network,
        adopted=config.build.adopt is not None,
        reused=reusing.trained_by(work),
        variables=sorted(train.training_command(plan).env),
        builder=work.tools.url,
        release=__version__,
        invocation=f"run/{run.id}/attempt/{run.attempt}",
        began_at=began,
        ended_at=ended,
        byproducts=list(_byproducts(work)),
    )


def _branch(work: Work) -> str:
    if not work.run.releases:
        return work.run.trigger.removeprefix("branch-")
    with work.tools.database.read() as connection:
        return runs.model_of(connection, work.run.model).release_branch or ""


def _config_digest(work: Work) -> str | None:
    repository = work.tools.home / "repositories" / f"{work.run.model}.git"
    content = checkout.read_file(repository, work.run.commit, "penstock.toml")
    return None if content is None else hashlib.sha256(content).hexdigest()


def _times(work: Work) -> tuple[datetime, datetime]:
    """Return when training began and ended, as the records have it: a replay reads the same."""
    with work.tools.database.read() as connection:
        steps = runs.steps(connection, work.run.id)
    for step in reversed(steps):
        if step.name == "train" and step.ended_at is not None:
            return step.started_at, step.ended_at
    return work.run.created_at, work.run.created_at


def _inputs(work: Work, plan: Plan) -> Iterator[Source]:
    """Give the data files that training could read; without a report, those of ``[data]``."""
    report = work.report("inputs")
    if not report.is_file():
        for path, source in plan.config.data.items():
            yield Source(path, source.sha256, uri=source.source, notes={"role": "data"})
        return
    told = cast("dict[str, Any]", json.loads(report.read_text(encoding="utf-8")))
    for one in cast("list[dict[str, Any]]", told["files"]):
        notes = {"role": "data", "source": one.get("source"), "read": one.get("read")}
        yield Source(one["path"], one["sha256"], uri=one.get("uri"), notes=notes)


def _byproducts(work: Work) -> Iterator[Source]:
    log = work.log("train")
    if log.is_file():
        yield Source("log/train", _sha256(log))
    for name in ("tracking", "inputs"):
        if work.report(name).is_file():
            yield Source(f"report/{name}", _sha256(work.report(name)))


def _kept(work: Work, name: str, path: Path, media_type: str) -> Document:
    digest, size = work.tools.store.put(path), path.stat().st_size
    run = work.run
    return Document(run.model, run.number, name, media_type, digest, size, work.tools.clock())


def _written(work: Work, name: str, content: bytes) -> Path:
    folder = work.folder / "documents"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    return path


def python_of(lock: Path) -> str:
    """Return the Python version that a lock was made for; empty where it does not say."""
    with lock.open(encoding="utf-8") as file:
        head = re.match(r"# python ([0-9.]+)", file.readline())
    return head[1] if head is not None else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
