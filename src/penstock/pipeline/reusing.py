"""Training that is taken over: with ``[build] reuse``, where nothing it depends on has changed.

What an earlier version was trained from is known by a digest over the commit's files, the data,
the environment and the command. The new version gets that version's model, proved as for serving,
and its attestation names who trained it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

from penstock.build import pack
from penstock.build.results.outcome import Built
from penstock.build.train import Plan
from penstock.build.trust import provenance
from penstock.build.trust.provenance import Source
from penstock.domain import Version
from penstock.errors import NotFoundError, PenstockError
from penstock.pipeline import gathering, keeping
from penstock.pipeline.surroundings import GOLDEN, MEDIA_TYPES
from penstock.pipeline.tools import Work, evaluation_file
from penstock.records import documents, runs

_REPORTS = ("tracking", "inputs")
_CODE = "code/"


def keep(work: Work, plan: Plan) -> None:
    """Note what this training was made from, for a later version with the same inputs."""
    work.report("reused").unlink(missing_ok=True)
    keeping.keep(work, "train", _key(work, plan), [], *_REPORTS)


def earlier(work: Work, plan: Plan) -> Version | None:
    """Return a version that the same inputs made, proved; None where there is none to be had."""
    kept = keeping.found(work, "train", _key(work, plan), *_REPORTS)
    if kept is None or kept.number == work.run.number:
        return None
    with work.tools.database.read() as connection:
        version = runs.version_of(connection, work.run.model, kept.number)
    if version.sealed_at is None:
        return None
    try:
        provenance.unpacked(provenance.claim_of(version), work.tools.store, work.tools.home)
    except PenstockError as error:
        work.say("train", f"{version} cannot be taken over: {error.what}")
        return None
    return version


def take_over(work: Work, plan: Plan, version: Version) -> Built:
    """Put what an earlier training left where this run's own would be; return its model."""
    claim = provenance.claim_of(version)
    folder = provenance.unpacked(claim, work.tools.store, work.tools.home)
    told = {
        "version": str(version),
        "artifact": claim.artifact_digest,
        "attestation": claim.attestation_digest,
    }
    work.report("reused").write_text(json.dumps(told), encoding="utf-8")
    work.document("tracking", work.report("tracking"), "application/json")
    _golden(work, version)
    spec = plan.config.evaluate
    if spec is not None and spec.made_by_build:
        work.tools.store.get(str(version.data_digest), evaluation_file(work, spec.ending))
    described = pack.description(folder)
    predict = described["predict"]
    return Built(
        format=described["format"],
        path=folder / described["path"],
        files=tuple(sorted(path for path in (folder / "model").rglob("*") if path.is_file())),
        predict=None if predict is None else str(predict).removeprefix(_CODE),
        why=f"trained for {version}",
    )


def trained_by(work: Work) -> Source | None:
    """Return the version whose training was taken over, for the attestation."""
    report = work.report("reused")
    if not report.is_file():
        return None
    told = cast("dict[str, Any]", json.loads(report.read_text(encoding="utf-8")))
    notes = {"role": "trained", "attestation": told["attestation"]}
    return Source(told["version"], told["artifact"], notes=notes)


def _golden(work: Work, version: Version) -> None:
    for name in GOLDEN:
        (work.folder / name).unlink(missing_ok=True)
    try:
        with work.tools.database.read() as connection:
            found = documents.get(connection, version.model, version.number, "golden")
    except NotFoundError:  # training wrote none
        return
    name = f"golden{next(end for end, kind in MEDIA_TYPES.items() if kind == found.media_type)}"
    work.tools.store.get(found.digest, work.folder / name)
    work.document("golden", work.folder / name, found.media_type)


def _key(work: Work, plan: Plan) -> str:
    before = json.loads((work.folder / gathering.BEFORE).read_text(encoding="utf-8"))
    told = {
        "tree": keeping.tree(work),
        "inputs": before["inputs"],
        "lock": hashlib.sha256((work.folder / "requirements.lock").read_bytes()).hexdigest(),
        "command": plan.run,
        "threads": plan.threads,
        "masked": sorted(plan.masked),
    }
    return keeping.digest_of("train", told)
