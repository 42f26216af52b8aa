"""The stretch of a verification: prove versions, or build one again and compare.

A rebuild is the stage's own training, in a folder of its own, with the recorded lock. It makes
no version: what it leaves is compared and thrown away.
"""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from penstock.build import pack
from penstock.build.trust import provenance, reproducing
from penstock.build.trust.reproducing import DIFFERS, SAME, Compared
from penstock.build.trust.signing import Keys
from penstock.check import quality
from penstock.check.answers import Answers
from penstock.check.evaluation import Evaluation, read_evaluation
from penstock.config import ModelConfig
from penstock.deploy import rollout
from penstock.domain import JSON, Verification, Version
from penstock.errors import PenstockError, StoppedError
from penstock.pipeline import building, proving
from penstock.pipeline.answering import answers_of
from penstock.pipeline.proving import Finding, Places
from penstock.pipeline.tools import Tools, Work
from penstock.ports import Environments
from penstock.records import documents, runs, verifications

TOLERANCE = 1e-9
"""Answers that differ by less are the same: sums in another order."""
_MOST_ROWS = 20_000
_logger = logging.getLogger(__name__)


async def verification(tools: Tools, argument: str) -> None:
    """Do one verification and keep what was found."""
    step = tools.engine.step
    asked = await step("verification/begin", partial(_begun, tools, int(argument)))
    try:
        if asked["rebuild"]:
            found = await _rebuilt(tools, int(argument))
        else:
            found = await step("verification/prove", partial(_proved, tools, int(argument)))
    except PenstockError as error:
        found = {"passed": False, "sentence": f"{error.code} {error.what}", "hint": error.hint}
    except Exception as error:
        _logger.exception("verification %s", argument)
        found = {"passed": False, "sentence": f"PS142 Penstock failed: {error!r}. See engine.log."}
    await step("verification/end", partial(_ended, tools, int(argument), found))


def _begun(tools: Tools, number: int) -> JSON:
    with tools.database.write() as connection:
        verifications.note(connection, number, 0.0, "begins")
        return {"rebuild": bool(verifications.get(connection, number).settings["rebuild"])}


def _ended(tools: Tools, number: int, found: JSON) -> None:
    shutil.rmtree(tools.home / "rebuilds" / str(number), ignore_errors=True)
    with tools.database.change("penstock") as change:
        of = verifications.get(change.connection, number)
        verifications.end(change, of, passed=bool(found["passed"]), result=found)


# ---- proving ------------------------------------------------------------------------------


def _proved(tools: Tools, number: int) -> JSON:
    with tools.database.read() as connection:
        asked = verifications.get(connection, number)
    places = Places(tools.home, tools.database, tools.store)
    return report(places, asked.model, asked.number, partial(_note, tools, number))


def report(places: Places, model: str, number: int | None, told: proving.Told) -> JSON:
    """Prove one version, or all of a model, and say it in a sentence."""
    found = {
        str(version): proving.proof(places, version, told)
        for version in proving.sealed(places, model, number)
    }
    broken = [name for name, findings in found.items() if not all(f.sound for f in findings)]
    return {
        "passed": not broken,
        "sentence": _sentence(found, broken),
        "versions": {name: [asdict(f) for f in findings] for name, findings in found.items()},
    }


def _sentence(found: dict[str, list[Finding]], broken: list[str]) -> str:
    if broken:
        faults = sum(not finding.sound for name in broken for finding in found[name])
        return f"{', '.join(broken)} cannot be proved: {faults} questions found a fault."
    if len(found) == 1:
        (name,) = found
        return f"{name} is what was built and signed: {len(found[name])} questions, no fault."
    return f"{len(found)} versions are what was built and signed."


def _note(tools: Tools, number: int, share: float, doing: str) -> None:
    with tools.database.write() as connection:
        verifications.note(connection, number, share, doing)


# ---- building again ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rebuild(Work):
    """The work of a build that leaves nothing behind but a comparison."""

    asked: int
    """The verification."""
    seed: int | None

    @property
    def folder(self) -> Path:
        """Of this rebuild alone."""
        return self.tools.home / "rebuilds" / str(self.asked)

    def config(self) -> ModelConfig:
        """Return the version's settings, with another seed if one was asked for."""
        recorded = rollout.settings(self.version())
        if self.seed is None:
            return recorded
        seeds = {"PENSTOCK_SEED": str(self.seed), "PYTHONHASHSEED": str(self.seed)}
        build = recorded.build.model_copy(update={"env": {**recorded.build.env, **seeds}})
        return recorded.model_copy(update={"build": build})

    def document(self, name: str, path: Path, media_type: str) -> str:  # noqa: ARG002
        """Keep nothing: a rebuild has no documents."""
        return ""

    def progress(
        self,
        step: str,
        share: float | None,
        left_s: float | None = None,  # noqa: ARG002
        *,
        doing: str = "",
    ) -> None:
        """Note how far the rebuild is."""
        _note(self.tools, self.asked, 0.1 + 0.6 * (share or 0.0), f"builds again: {doing or step}")

    def begin(self, name: str) -> None:
        """Note what is done now."""
        _note(self.tools, self.asked, 0.1, f"builds again: {name}")

    def end(self, name: str, state: str, reason: str) -> None:
        """Add to the log; the run's own steps stay as they are."""
        if reason:
            self.say(name, f"{state}: {reason}")


class _Recorded:
    """Environments that resolve nothing: the lock is the recorded one."""

    def __init__(self, environments: Environments, lock: Path, digest: str) -> None:
        self._environments = environments
        self._lock = lock
        self._digest = digest

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environments, name)

    def lock(self, _wanted: object, out: Path, **_options: object) -> str:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._lock, out)
        return self._digest


async def _rebuilt(tools: Tools, number: int) -> JSON:
    begun = await tools.engine.step("verification/lock", partial(_lock, tools, number))
    with tools.database.read() as connection:
        asked = verifications.get(connection, number)
        version = runs.version_of(connection, asked.model, cast("int", asked.number))
        run = runs.get(connection, version.run_id)
    lock = Path(begun["lock"])
    environments = cast(
        "Environments", _Recorded(tools.environments, lock, str(version.lock_digest))
    )
    seed = asked.settings["seed"]
    work = Rebuild(replace(tools, environments=environments), run, "build", asked.id, seed)
    began = await tools.engine.step("verification/clock", time.time)
    try:
        await building.trained(work, anew=True)
    except StoppedError as error:
        raise StoppedError(
            "PS141",
            f"{version} cannot be built again: {error.code} {error.what}",
            hint=error.hint,
        ) from error
    return await tools.engine.step(
        "verification/compare", partial(_compared, work, version, asked, began)
    )


def _lock(tools: Tools, number: int) -> JSON:
    """Bring the recorded lock out of the store."""
    with tools.database.read() as connection:
        asked = verifications.get(connection, number)
    places = Places(tools.home, tools.database, tools.store)
    (version,) = proving.sealed(places, asked.model, cast("int", asked.number))
    provenance.proved(provenance.claim_of(version), tools.store, Keys(tools.home))
    with tools.database.read() as connection:
        kept = documents.get(connection, version.model, version.number, "lock")
    folder = tools.home / "rebuilds" / str(number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tools.store.get(kept.digest, folder / "recorded.lock")
    return {"lock": str(folder / "recorded.lock")}


def _compared(work: Rebuild, version: Version, asked: Verification, began: float) -> JSON:
    tools, seconds = work.tools, time.time() - began
    _note(tools, asked.id, 0.7, "compares the files")
    recorded = provenance.unpacked(provenance.claim_of(version), tools.store, tools.home)
    again = work.folder / "version"
    if version.signature is not None:
        pack.with_signature(again, version.signature)
    files = reproducing.compared(recorded, again)
    found: dict[str, Any] = {
        "seconds": seconds,
        "seed": asked.settings["seed"],
        "files": [asdict(one) for one in files],
        "answers": None,
        "quality": {},
    }
    evaluation = _evaluation(work, version)
    if evaluation is not None and version.signature is not None:
        _note(tools, asked.id, 0.8, "compares the answers")
        first = _answers(work, version, recorded, evaluation)
        second = _answers(work, version, again, evaluation)
        found["answers"] = differences(first, second)
        found["quality"] = _spread(version, evaluation, first, second)
    log = work.log("train")
    found["log"] = log.read_text(encoding="utf-8", errors="replace")[-4000:]
    return {**found, **judged(str(version), files, found)}


def _evaluation(work: Rebuild, version: Version) -> Evaluation | None:
    """Read the recorded evaluation data: both builds answer the same rows."""
    spec = work.config().evaluate
    if spec is None or version.data_digest is None:
        return None
    path = work.folder / f"recorded{Path(spec.data).suffix}"
    work.tools.store.get(version.data_digest, path)
    evaluation = read_evaluation(path, spec)
    return evaluation.take(np.arange(min(len(evaluation), _MOST_ROWS)))


def _answers(work: Rebuild, version: Version, folder: Path, evaluation: Evaluation) -> Answers:
    signature = cast("JSON", version.signature)
    names = [str(column["name"]) for column in signature["columns"]]
    there = [name for name in names if name in evaluation.features.column_names]
    socket = work.tools.home / "run" / f"v{work.asked}" / "s"
    try:
        with work.tools.workers.started(folder, str(version.lock_digest), socket) as worker:
            told = worker.predict(evaluation.features.select(there), signature)
    finally:
        shutil.rmtree(socket.parent, ignore_errors=True)
    return answers_of(told, signature)


def differences(first: Answers, second: Answers) -> JSON:
    """Compare two models' answers to the same rows.

    Returns
    -------
    JSON
        ``rows``; ``greatest``, the greatest difference of a number or a probability, None for
        answers without numbers; ``changed``, the rows whose prediction is another one.
    """
    one, two = first.prediction, second.prediction
    numeric = one.dtype.kind in "iuf" and two.dtype.kind in "iuf"
    changed = int(np.sum(one != two)) if len(one) == len(two) else len(one)
    if first.probability is not None and second.probability is not None:
        same_shape = first.probability.shape == second.probability.shape
        pair = (first.probability, second.probability) if same_shape else None
    else:
        pair = (one, two) if numeric else None
    greatest = float(np.max(np.abs(pair[0] - pair[1]))) if pair is not None else None
    if greatest is not None and first.probability is None and first.classes is None and numeric:
        changed = int(np.sum(np.abs(one - two) > TOLERANCE))
    return {"rows": len(one), "greatest": greatest, "changed": changed}


def _spread(
    version: Version, evaluation: Evaluation, first: Answers, second: Answers
) -> dict[str, Any]:
    task = str(cast("JSON", version.signature)["task"])
    recorded = quality.measure(task, evaluation.label, first)
    again = quality.measure(task, evaluation.label, second)
    return {
        name: {"recorded": value, "again": again[name], "difference": again[name] - value}
        for name, value in recorded.items()
        if name in again and np.isfinite(value) and np.isfinite(again[name])
    }


def judged(name: str, files: list[Compared], found: JSON) -> JSON:
    """Say in a sentence whether a training is reproducible."""
    answers = found["answers"]
    same = answers is None or (
        not answers["changed"]
        and (answers["greatest"] is None or answers["greatest"] <= TOLERANCE)
    )
    other = [one for one in files if one.outcome == DIFFERS]
    if all(one.outcome == SAME for one in files):
        reading = "bit for bit"
        text = f"reproducible: all {len(files)} files of {name} are the same, bit for bit"
    elif not other and same:
        reading = "same but for times and ids"
        text = f"reproducible: the files of {name} differ only in what each build writes anew"
    elif same and answers is not None:
        reading = "same answers"
        text = (
            f"reproducible in its answers: {len(other)} of {len(files)} files of {name} differ, "
            f"the answers to {answers['rows']:,} rows do not"
        )
    else:
        reading = "differs"
        text = f"not reproducible: {_how(files, other, found)}"
    seed = "" if found["seed"] is None else f" (with seed {found['seed']})"
    return {
        "passed": reading != "differs",
        "reading": reading,
        "sentence": f"This training is {text}{seed}.",
    }


def _how(files: list[Compared], other: list[Compared], found: JSON) -> str:
    answers = found["answers"]
    if answers is None:
        return f"{len(other)} of {len(files)} files differ, and there are no rows to compare on"
    spread = found["quality"]
    widest = max(spread, key=lambda name: abs(spread[name]["difference"]), default=None)
    parts = [f"{answers['changed']:,} of {answers['rows']:,} predictions change"]
    if answers["greatest"] is not None:
        parts.append(f"the greatest difference is {answers['greatest']:.3g}")
    if widest is not None:
        parts.insert(0, f"{widest} differs by {abs(spread[widest]['difference']):.3g}")
    return ", ".join(parts)
