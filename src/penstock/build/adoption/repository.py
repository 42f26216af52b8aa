"""`penstock adopt`: a model repository around a model that was trained elsewhere.

What the environment needs is taken from the MLflow model, or read off the names and versions
that stand in the file's bytes; nothing is loaded here.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import re
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.build.project.starter import CARD
from penstock.config import parse
from penstock.errors import NotFoundError, UsageError

FOLDER = "adopted"
MOST_BYTES = 100 << 20
"""A larger model is bound under [data]: git keeps every version of a file for good."""

_READ_BYTES = 64 << 20
_PACKAGES: Mapping[bytes, str] = {
    rb"sklearn": "scikit-learn",
    rb"xgboost": "xgboost",
    rb"lightgbm": "lightgbm",
    rb"catboost": "catboost",
    rb"pandas": "pandas",
    rb"joblib": "joblib",
    rb"skops": "skops",
}
_VERSION = re.compile(
    rb'_sklearn_version"?[^0-9]{1,400}?(\d{1,3}\.\d{1,3}(?:\.\d{1,3})?)', re.DOTALL
)
_UNPACK: Mapping[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
    b"\x5d\x00\x00": lzma.decompress,
    b"\x78": zlib.decompress,
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person says of the model to be adopted."""

    name: str
    label: str | None = None
    evaluation: Path | None = None
    requirements: Path | None = None
    predict: Path | None = None
    on_server: str | None = None
    """Address of the model's file as the server reaches it; then git does not keep it."""
    origin: str = ""
    """Where it comes from, in words, for the card."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model repository, ready to be committed."""

    folder: Path
    model: str
    """Path of the model below it."""
    requirements: tuple[str, ...]
    guessed: bool
    """True: the requirements were read off the file, and a person should look at them."""


def prepare(source: Path, folder: Path, wish: Wish) -> Prepared:
    """Write the repository.

    Raises
    ------
    UsageError
        PS297: the folder is not empty, or the model is too large for git.
    NotFoundError
        PS295: a file that was named is not there.
    ConfigurationError
        The name is not allowed.
    """
    for path in (source, wish.evaluation, wish.requirements, wish.predict):
        if path is not None and not path.exists():
            raise NotFoundError("PS295", f"{path} is not there.", hint="Mend the path.")
    inside = f"{FOLDER}/{source.name}" if source.is_file() else FOLDER
    text = _settings(source, inside, wish)
    parse(text)  # a bad name is refused before anything is written
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(
            "PS297", f"{folder} is not empty.", hint="Choose another: penstock adopt … --to DIR."
        )
    found, guessed = requirements_of(source, wish.requirements)
    folder.mkdir(parents=True, exist_ok=True)
    if wish.on_server is None:
        _copy_model(source, folder / inside)
    if wish.evaluation is not None:
        (folder / "data").mkdir()
        shutil.copyfile(wish.evaluation, folder / "data" / wish.evaluation.name)
    if wish.predict is not None:
        shutil.copyfile(wish.predict, folder / wish.predict.name)
    (folder / "penstock.toml").write_text(text, encoding="utf-8")
    (folder / "requirements.txt").write_text("\n".join(found) + "\n", encoding="utf-8")
    card = CARD.format(name=wish.name)
    card += f"\n## Origin\n\nTrained elsewhere and adopted: {wish.origin or source.name}.\n"
    (folder / "CARD.md").write_text(card, encoding="utf-8")
    return Prepared(folder, inside, found, guessed)


def requirements_of(source: Path, given: Path | None) -> tuple[tuple[str, ...], bool]:
    """Return what the model's environment needs, and whether that was guessed.

    Examples
    --------
    >>> import pickle, tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".pkl") as file:
    ...     _ = file.write(pickle.dumps({"_sklearn_version": "1.4.2", "m": "sklearn.tree"}))
    ...     file.flush()
    ...     requirements_of(Path(file.name), None)
    (('joblib', 'scikit-learn==1.4.2'), True)
    """
    listed = given
    if listed is None and source.is_dir() and (source / "requirements.txt").is_file():
        listed = source / "requirements.txt"
    if listed is not None:
        lines = listed.read_text(encoding="utf-8").splitlines()
        return tuple(line for line in map(str.strip, lines) if line), False
    content = b"".join(_beginning(path) for path in _model_files(source))
    found = {package for mark, package in _PACKAGES.items() if mark + b"." in content}
    if source.suffix == ".onnx":
        found.add("onnxruntime")
    if content.startswith(b"tree\n"):
        found.add("lightgbm")
    if "scikit-learn" in found and content[:2] != b"PK":
        found.add("joblib")
    lines = sorted(found)
    version = _VERSION.search(content)
    if version is not None:
        pinned = f"scikit-learn=={version[1].decode()}"
        lines = [pinned if line == "scikit-learn" else line for line in lines]
    return tuple(lines), True


def _settings(source: Path, inside: str, wish: Wish) -> str:
    lines = ["[model]", f"name = {json.dumps(wish.name)}", "[build]"]
    lines.append(f"adopt = {json.dumps(inside)}   # trained elsewhere: the gate lets it in or not")
    if wish.predict is not None:
        lines.append(f"predict = {json.dumps(wish.predict.name)}")
    if wish.on_server is not None:
        if not source.is_file():
            raise UsageError(
                "PS297",
                "A folder cannot be bound by its address.",
                hint="Commit it, or adopt a single file.",
            )
        address, digest = json.dumps(wish.on_server), _sha256(source)
        bound = f'{{ source = {address}, sha256 = "{digest}" }}'
        lines += ["[data]", f"{json.dumps(inside)} = {bound}"]
    elif (size := sum(path.stat().st_size for path in _model_files(source))) > MOST_BYTES:
        raise UsageError(
            "PS297",
            f"{source.name} has {size / 2**20:,.0f} MiB; git should not keep more than "
            f"{MOST_BYTES >> 20} MiB.",
            hint="Copy it to where the server reaches it, and name that: --on-server URI.",
        )
    if wish.evaluation is not None and wish.label is not None:
        data = f"data/{wish.evaluation.name}"
        lines += ["[evaluate]", f"data = {json.dumps(data)}", f"label = {json.dumps(wish.label)}"]
    return "\n".join(lines) + "\n"


def _copy_model(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
    else:
        shutil.copytree(source, target, symlinks=True)


def _model_files(source: Path) -> list[Path]:
    return [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_READ_BYTES)
    for magic, unpack in _UNPACK.items():
        if content.startswith(magic):
            try:
                return unpack(content)[:_READ_BYTES]
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
                return content  # what it holds is the gate's business, not ours
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
