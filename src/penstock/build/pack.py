"""Packs a version: one folder, known by the digest of its manifest.

    penstock.json   what the worker must know
    model/          what training wrote
    code/           the project's own Python files, as committed

The manifest names every file with its digest. What was unpacked is compared with it before
each use: a file that is missing, changed or added is refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from penstock.build.results import mlmodel
from penstock.build.results.outcome import Built
from penstock.domain import JSON
from penstock.errors import IntegrityError, StoppedError, UnreachableError
from penstock.ports import ArtifactStore

DESCRIPTION = "penstock.json"
SCHEMA = 1

_UNPACKED_MODE = 0o444


@dataclass(frozen=True, slots=True)
class Facts:
    """What stands in penstock.json beside the model itself."""

    model: str
    number: int
    task: str | None = None
    positive: str | float | bool | None = None


def stage(built: Built, code: Path, folder: Path, facts: Facts) -> None:
    """Write the packed folder of a version, in place of what was there.

    Parameters
    ----------
    code
        The project as committed (`checkout` with ``ending=".py"``), not as training left it:
        what serves is what was pushed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        (folder / "model").mkdir(parents=True)
        root = built.path if built.path.is_dir() else built.path.parent
        for file in built.files:
            _copy(file, folder / "model" / file.relative_to(root))
        for file in _regular(code):
            relative = file.relative_to(code)
            if file.suffix == ".py" and not any(part.startswith(".") for part in relative.parts):
                _copy(file, folder / "code" / relative)
    except OSError as error:
        raise _unwritable(folder, error) from error
    if built.predict is not None and not (folder / "code" / built.predict).is_file():
        what = f"[build] predict names {built.predict}, which the commit does not have."
        raise StoppedError("PS231", what, hint="Commit the file, or mend the name.")
    whole = built.format == "adapter" or built.path.is_dir()
    own = {"mlflow": mlmodel.read(folder / "model")} if built.format == "mlflow" else {}
    _describe(
        folder,
        {
            **own,
            "schema": SCHEMA,
            "model": facts.model,
            "number": facts.number,
            "format": built.format,
            "path": "model" if whole else f"model/{built.path.name}",
            "predict": f"code/{built.predict}" if built.predict is not None else None,
            "task": facts.task,
            "positive": facts.positive,
            "signature": None,
        },
    )


def description(folder: Path) -> JSON:
    """Return penstock.json of a packed or unpacked folder."""
    return cast("JSON", json.loads((folder / DESCRIPTION).read_text(encoding="utf-8")))


def with_signature(folder: Path, signature: JSON) -> None:
    """Write the signature into a staged folder; its task, too, where none was set."""
    told = dict(description(folder))
    told["signature"] = dict(signature)
    for name in ("task", "positive"):
        if told[name] is None:
            told[name] = signature.get(name)
    _describe(folder, told)


def pack(folder: Path, store: ArtifactStore) -> str:
    """Store every file of a staged folder, then the manifest, and return its digest.

    The same files give the same digest, wherever and whenever they are packed.
    """
    manifest = {
        file.relative_to(folder).as_posix(): {
            "sha256": store.put(file),
            "size": file.stat().st_size,
            "mode": f"{_UNPACKED_MODE:04o}",
        }
        for file in _regular(folder)
    }
    with tempfile.TemporaryDirectory(prefix=".manifest-", dir=folder.parent) as name:
        file = Path(name, "manifest.json")
        file.write_text(_canonical(manifest), encoding="utf-8")
        return store.put(file)


def unpack(digest: str, store: ArtifactStore, models_root: Path) -> Path:
    """Return the folder of a packed version, verified file by file, made if it is not there.

    Raises
    ------
    IntegrityError
        A file is missing, changed or added, or the store is damaged.
    """
    models_root.mkdir(parents=True, exist_ok=True)
    target = models_root / digest
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=models_root) as name:
        manifest = _fetched(digest, store, Path(name))
        if not target.exists():
            fresh = Path(name, "version")
            for path, file in manifest.items():
                (fresh / path).parent.mkdir(parents=True, exist_ok=True)
                store.get(file["sha256"], fresh / path)
                (fresh / path).chmod(_UNPACKED_MODE)
            try:
                fresh.rename(target)
            except OSError as error:
                if not target.exists():  # else somebody was faster, with the same files
                    raise _unwritable(target, error) from error
    _verify(target, manifest)
    return target


def contents(digest: str, store: ArtifactStore) -> dict[str, str]:
    """Return the digest by path of every file of a packed version, as its manifest says."""
    with tempfile.TemporaryDirectory(prefix="penstock-") as name:
        manifest = _fetched(digest, store, Path(name))
    return {path: str(entry["sha256"]) for path, entry in manifest.items()}


def faults(folder: Path, expected: Mapping[str, str]) -> list[str]:
    """Compare a folder with the digest by path of what was packed; say what is not so."""
    found = {path.relative_to(folder).as_posix(): path for path in _entries(folder)}
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    wrong += [f"{name} was added" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        if found[name].is_symlink() or _sha256(found[name]) != expected[name]:
            wrong.append(f"{name} was changed")
    return wrong


def store_file(path: Path, store: ArtifactStore) -> str:
    """Store one file of a checkout, such as the evaluation data, and return its digest.

    Do it before training runs, unless training makes the file: training can move folders.
    """
    if path.is_symlink() or not path.is_file():
        what = f"{path.name} is not there as a plain file."
        raise StoppedError("PS233", what, hint="Commit it, or bind it under [data].")
    return store.put(path)


def _verify(folder: Path, manifest: Mapping[str, Mapping[str, Any]]) -> None:
    wrong = faults(folder, {path: entry["sha256"] for path, entry in manifest.items()})
    if wrong:
        raise IntegrityError(
            "PS113",
            f"The unpacked version at {folder} is not what was packed: {'; '.join(wrong[:5])}.",
            hint=f"Find out who wrote there, then remove {folder}: it is unpacked anew.",
        )


def _fetched(digest: str, store: ArtifactStore, folder: Path) -> Mapping[str, Mapping[str, Any]]:
    file = folder / "manifest.json"
    store.get(digest, file)
    return _manifest(file, digest)


def _manifest(file: Path, digest: str) -> Mapping[str, Mapping[str, Any]]:
    try:
        manifest = cast("dict[str, dict[str, Any]]", json.loads(file.read_text(encoding="utf-8")))
        sound = DESCRIPTION in manifest and all(
            not PurePosixPath(path).is_absolute()
            and ".." not in PurePosixPath(path).parts
            and isinstance(entry["sha256"], str)
            for path, entry in manifest.items()
        )
    except (ValueError, TypeError, KeyError):
        sound, manifest = False, {}
    if not sound:
        what = f"Artifact {digest[:12]} is not the manifest of a version."
        raise IntegrityError("PS114", what, hint="Build the version again: penstock retry.")
    return manifest


def _entries(folder: Path) -> Iterator[Path]:
    """Give everything below a folder that is not itself a folder, links included."""
    yield from (
        path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()
    )


def _regular(folder: Path) -> Iterator[Path]:
    yield from (path for path in _entries(folder) if path.is_file() and not path.is_symlink())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target, follow_symlinks=False)


def _describe(folder: Path, told: JSON) -> None:
    draft = folder / f".{DESCRIPTION}"
    draft.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(folder / DESCRIPTION)


def _canonical(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _unwritable(folder: Path, error: OSError) -> UnreachableError:
    return UnreachableError(
        "PS234",
        f"The version could not be written to {folder}: {error.strerror}.",
        hint="Make room on the disk or mend its rights, then: penstock retry.",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
