"""What a step found before, taken over where nothing that it depends on has changed.

A key is a digest over all that a finding depends on: the model's files, its environment, the
rows, the settings, and Penstock's release. What is held against the champion is never kept: it
is looked at anew each time. A result that was taken over says from which version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from penstock import __version__
from penstock.build import checkout, pack
from penstock.check.gate import decides
from penstock.domain import JSON, CheckResult, Verdict
from penstock.errors import PenstockError
from penstock.pipeline.tools import Work
from penstock.records import documents
from penstock.records.pace import TAKEN_OVER

_SCHEMA = 2
"""Rises when a step asks or writes other than before within one release."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a step found for another version, or in an earlier attempt."""

    number: int
    results: list[CheckResult]
    reports: Mapping[str, Path]

    def sentence(self, work: Work) -> str:
        """Say where it is taken over from."""
        same = "same model, data and settings"
        if self.number == work.run.number:
            return f"{TAKEN_OVER} an earlier attempt ({same})"
        return f"{TAKEN_OVER} {work.run.model}@{self.number} ({same})"


def key(work: Work, step: str, settings: JSON) -> str:
    """Return the digest of all that a step's finding depends on.

    Parameters
    ----------
    settings
        The step's own, and what else it looks at beside model, environment and rows.
    """
    version, config = work.version(), work.config()
    evaluate = config.evaluate
    told = {
        "model": [version.model, _contents(work, str(version.artifact_digest))],
        "lock": version.lock_digest,
        "signature": version.signature,
        "data": version.data_digest,
        "evaluate": None if evaluate is None else evaluate.model_dump(mode="json"),
        "settings": settings,
    }
    return digest_of(step, told)


def digest_of(step: str, inputs: JSON) -> str:
    """Return the digest of what a step depends on, of its way of doing it in this release too."""
    told = {"schema": [_SCHEMA, __version__, step], **inputs}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _contents(work: Work, artifact: str) -> JSON:
    """Return the model's files by digest; its description counts without the version's number."""
    files = dict(pack.contents(artifact, work.tools.store))
    files.pop(pack.DESCRIPTION)
    described = dict(pack.description(work.tools.home / "models" / artifact))
    described.pop("number")
    return {"files": files, "described": described}


def tree(work: Work) -> str:
    """Return the digest of the commit's files, without those that only people read."""
    repository = work.tools.home / "repositories" / f"{work.run.model}.git"
    return checkout.tree_digest(repository, work.run.commit)


def found(work: Work, step: str, under: str, *reports: str) -> Kept | None:
    """Return what was kept under a key, its reports beside the run; None where it is not whole."""
    with work.tools.database.read() as connection:
        known = documents.kept_result(connection, under)
    if known is None:
        return None
    number, told = known
    digests = cast("dict[str, str]", told["reports"])
    paths = {name: work.report(name) for name in reports}
    try:
        for name, path in paths.items():
            fresh = path.with_suffix(".taken")
            work.tools.store.get(digests[name], fresh)
            fresh.replace(path)
    except (PenstockError, KeyError):  # pruned, or damaged: the step is done again
        return None
    kept = Kept(number, [_result(one, number) for one in told["results"]], paths)
    work.say(step, f"{step}: {kept.sentence(work)}")
    return kept


def keep(work: Work, step: str, under: str, results: Sequence[CheckResult], *reports: str) -> None:
    """Keep what a step found, and its reports; a failure is not kept: it may pass next time."""
    if any(one.verdict is Verdict.FAILED and decides(one) for one in results):
        return
    told = {
        "results": [_told(one) for one in results],
        "reports": {name: work.tools.store.put(work.report(name)) for name in reports},
    }
    of = (work.run.model, work.run.number, step)
    with work.tools.database.write() as connection:
        documents.keep_result(connection, under, of, told, now=work.tools.clock())


def _told(result: CheckResult) -> JSON:
    evidence = dict(result.evidence)
    return {
        "check": result.check,
        "verdict": str(result.verdict),
        "summary": result.summary,
        "evidence": evidence,
    }


def _result(told: Mapping[str, Any], number: int) -> CheckResult:
    result = CheckResult(
        told["check"], Verdict(told["verdict"]), told["summary"], told["evidence"]
    )
    return replace(result, evidence={**result.evidence, "taken_over": number})
