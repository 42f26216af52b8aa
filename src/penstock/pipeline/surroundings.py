"""What step check looks at beside the answers: data files, golden rows, code, sizes, the champion.

Everything here was written by a project: paths are followed only inside its own checkout, and
nothing is ever executed or unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from penstock.build.checkout import FILE_TIME_S
from penstock.check import training_rows
from penstock.check.evaluation import Evaluation, read_table
from penstock.check.supply import Package
from penstock.check.training_rows import DataFile, Training
from penstock.config import ModelConfig
from penstock.domain import JSON, CheckResult, Version
from penstock.errors import PenstockError
from penstock.pipeline.tools import Work
from penstock.records import rollouts, runs

GOLDEN = ("golden.csv", "golden.parquet")
MEDIA_TYPES = {".csv": "text/csv", ".parquet": "application/vnd.apache.parquet"}
_MOST_GOLDEN_BYTES = 64 << 20
_MOST_FILES = 2_000


@dataclass(frozen=True, slots=True)
class Champion:
    """The version in use, as far as a new one is held against it."""

    version: Version
    bytes: int | None
    """Of its packed files; None where they are not unpacked here."""
    values: Mapping[str, float]
    """What its own checks measured, by check."""


def champion_of(work: Work) -> Champion | None:
    """Return the model's champion; None for a first version."""
    with work.tools.database.read() as connection:
        serving = rollouts.champion(connection, work.run.model)
        if serving is None or serving.number == work.run.number:
            return None
        version = runs.version_of(connection, work.run.model, serving.number)
        found = runs.occasions(connection, "run:", model_name=work.run.model)
    values: dict[str, float] = {}
    for _, _, number, result in found:
        value = result.evidence.get("value")
        if number == version.number and isinstance(value, (int, float)):
            values.setdefault(result.check, value)
    folder = work.tools.home / "models" / str(version.artifact_digest)
    return Champion(version, packed_bytes(folder) if folder.is_dir() else None, values)


def beside(results: Sequence[CheckResult], champion: Champion | None) -> list[CheckResult]:
    """Put the champion's value beside each result that has one of the same check."""
    before: Mapping[str, float] = {} if champion is None else champion.values
    return [
        replace(one, evidence={"champion": before[one.check], **one.evidence})
        if one.check in before and one.evidence.get("value") is not None
        else one
        for one in results
    ]


def packed_bytes(folder: Path) -> int:
    """Sum up the files of a packed version."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# ---- training data ---------------------------------------------------------------------------


def training_of(
    work: Work, config: ModelConfig, evaluation: Evaluation, names: Sequence[str]
) -> Training | str:
    """Find the data that training learned from: as declared, as recorded, else in the checkout."""
    spec = config.evaluate
    assert spec is not None, "training data are compared with evaluation data"
    checkout = work.folder / "checkout"
    declared = bool(spec.training)
    listed = _declared(checkout, spec.training) if declared else _recorded(work, checkout)
    if isinstance(listed, str):
        return listed
    return training_rows.find(
        [one for one in listed if declared or one.name != spec.data],
        evaluation,
        names,
        {"label": spec.label, "time": spec.time},
        declared=declared,
        split_by_build=spec.made_by_build,
    )


def _declared(checkout: Path, names: Sequence[str]) -> list[DataFile] | str:
    found = [(name, _inside(checkout, name)) for name in names]
    lacking = [name for name, path in found if path is None]
    if lacking:
        return f"[evaluate] training names {lacking[0]}, which is not there after training"
    return [DataFile(path, name) for name, path in found if path is not None]


def _recorded(work: Work, checkout: Path) -> list[DataFile]:
    report = work.report("inputs")
    if report.is_file():
        told = cast("list[dict[str, Any]]", json.loads(report.read_text("utf-8"))["files"])
        pairs = [(one, _inside(checkout, str(one["path"]))) for one in told]
        return [
            DataFile(path, str(one["path"]), one.get("sha256"), one.get("read"))
            for one, path in pairs
            if path is not None and path.name.lower().endswith(training_rows.ENDINGS)
        ]
    return [
        DataFile(path, name, _digest(path))
        for name in sorted(_tables(checkout))
        if (path := _inside(checkout, name)) is not None
    ]


def _tables(checkout: Path) -> Iterator[str]:
    seen = 0
    for folder, folders, files in os.walk(checkout):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            seen += 1
            if seen > _MOST_FILES:
                return
            if name.lower().endswith(training_rows.ENDINGS):
                yield Path(folder, name).relative_to(checkout).as_posix()


def _inside(checkout: Path, name: str) -> Path | None:
    """Return a plain file of the checkout; None for anything else, links out of it too."""
    path = checkout / name
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    plain = real.is_file() and not path.is_symlink()
    return path if plain and real.is_relative_to(checkout.resolve()) else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- golden rows and code ----------------------------------------------------------------------


def keep_golden(work: Work, checkout: Path, model: Path) -> None:
    """Copy the golden rows that training wrote, beside the run and into the version's documents.

    They stand at the top of the project or in the model's folder. A file of an earlier commit is
    not of this training, and left.
    """
    for old in GOLDEN:
        (work.folder / old).unlink(missing_ok=True)
    folder = model if model.is_dir() else model.parent
    for place in (checkout, folder):
        for name in GOLDEN:
            if not place.resolve().is_relative_to(checkout.resolve()):
                continue
            path = _inside(checkout, (place / name).relative_to(checkout).as_posix())
            if path is None or path.stat().st_mtime_ns == FILE_TIME_S * 10**9:
                continue
            if path.stat().st_size > _MOST_GOLDEN_BYTES:
                work.say("train", f"{name} is larger than 64 MiB: not kept as golden rows")
                continue
            shutil.copyfile(path, work.folder / name)
            work.document("golden", work.folder / name, MEDIA_TYPES[path.suffix])
            return


def golden_digest(work: Work) -> str | None:
    """Return SHA-256 of the golden rows that training wrote; None where it wrote none."""
    for name in GOLDEN:
        path = work.folder / name
        if path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
    return None


def golden_rows(work: Work) -> pa.Table | str | None:
    """Return the golden rows, why they cannot be read, or None where training wrote none."""
    for name in GOLDEN:
        if (path := work.folder / name).is_file():
            try:
                return read_table(path, name)
            except PenstockError as error:
                return error.what
    return None


def with_golden_columns(work: Work, described: JSON, evaluation: Evaluation) -> JSON:
    """Let the golden rows name the columns of a model that names none itself.

    A pipeline that begins with a class of the project's own seldom does; without a word it would
    get every column of the evaluation data.
    """
    if described.get("feature_names") or described.get("inputs") or described.get("n_features"):
        return described
    rows = golden_rows(work)
    if not isinstance(rows, pa.Table):
        return described
    known = set(evaluation.features.column_names)
    names = [name for name in rows.column_names if name in known]
    return {**described, "feature_names": names} if names else described


def code_changes(work: Work, packed: Path) -> dict[str, str]:
    """Say which Python files training changed or added; the committed ones are what serves."""
    checkout, code = work.folder / "checkout", packed / "code"
    found: dict[str, str] = {}
    for name in sorted(_python_files(checkout)):
        path = _inside(checkout, name)
        if path is None:
            continue
        if not (code / name).is_file():
            found[name] = "added"
        elif (code / name).read_bytes() != path.read_bytes():
            found[name] = "changed"
    return found


def as_training_left(work: Work, packed: Path, changed: Mapping[str, str]) -> Path:
    """Make a folder like the packed one, with the code as training left it."""
    folder = work.folder / "trained"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(packed, folder)
    for name in changed:
        target = folder / "code" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(work.folder / "checkout" / name, target)
    return folder


def _python_files(checkout: Path) -> Iterator[str]:
    seen = 0
    for folder, folders, files in os.walk(checkout):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            seen += 1
            if seen > _MOST_FILES:
                return
            if name.endswith(".py") and not name.startswith("."):
                yield Path(folder, name).relative_to(checkout).as_posix()


# ---- packages --------------------------------------------------------------------------------


def packages_of(work: Work, pinned: Sequence[Package]) -> list[Package]:
    """Return the environment's packages with their licences, where those were recorded."""
    report = work.report("licences")
    if not report.is_file():
        return list(pinned)
    told = cast("list[dict[str, Any]]", json.loads(report.read_text("utf-8"))["packages"])
    return [
        Package(str(one["name"]), str(one["version"]), one.get("licence") or None) for one in told
    ]
