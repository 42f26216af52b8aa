"""Comparing two builds of one commit, file by file.

A file that differs only in what every build writes anew (times, ids, the order of addresses) is
explained, never hidden: the comparison names what differs.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

SAME, EXPLAINED, DIFFERS = "same", "explained", "differs"
_MOST_BYTES = 1 << 30
_MLMODEL_NEW = frozenset(
    {"utc_time_created", "model_uuid", "run_id", "artifact_path", "model_id", "model_size_bytes"}
)
"""Keys of an MLmodel that every build writes anew."""
_ADDRESS = re.compile(rb'("(?:__id__|file)": "?)([0-9]+)')
"""skops writes the address of each object, and names arrays after it."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One file of two builds."""

    path: str
    outcome: str
    """``same``, ``explained`` or ``differs``."""
    text: str = ""
    """What differs."""


def compared(recorded: Path, again: Path) -> list[Compared]:
    """Compare two packed folders.

    Returns
    -------
    list
        One entry for each file that either of them has, by path.
    """
    first, second = _files(recorded), _files(again)
    return [
        _one(path, first.get(path), second.get(path)) for path in sorted(first.keys() | second)
    ]


def _one(path: str, recorded: Path | None, again: Path | None) -> Compared:
    if recorded is None or again is None:
        return Compared(path, DIFFERS, "only in the " + ("recorded build" if recorded else "new"))
    if _sha256(recorded) == _sha256(again):
        return Compared(path, SAME)
    try:
        outcome = _explained(recorded, again)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        outcome = None
    except (yaml.YAMLError, zipfile.BadZipFile, zlib.error, RecursionError):
        outcome = None
    if outcome is not None:
        return Compared(path, EXPLAINED, outcome)
    sizes = recorded.stat().st_size, again.stat().st_size
    text = f"{sizes[0]:,} and {sizes[1]:,} bytes" if sizes[0] != sizes[1] else "other bytes"
    return Compared(path, DIFFERS, text)


def _explained(recorded: Path, again: Path) -> str | None:
    """Say in what two files differ, if only in what every build writes anew."""
    if max(recorded.stat().st_size, again.stat().st_size) > _MOST_BYTES:
        return None
    if recorded.name == "MLmodel":
        return _mlmodel(recorded, again)
    if zipfile.is_zipfile(recorded) and zipfile.is_zipfile(again):
        return _archive(recorded, again)
    if _head(recorded) == _head(again) == b"\x1f\x8b":
        with gzip.open(recorded) as one, gzip.open(again) as other:
            same = one.read(_MOST_BYTES) == other.read(_MOST_BYTES)
        return "time and name in the gzip header" if same else None
    return None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2)


def _mlmodel(recorded: Path, again: Path) -> str | None:
    first, second = (
        cast("dict[str, Any]", yaml.safe_load(file.read_text(encoding="utf-8")))
        for file in (recorded, again)
    )
    changed = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    return f"new in each build: {', '.join(sorted(changed))}" if changed <= _MLMODEL_NEW else None


def _archive(recorded: Path, again: Path) -> str | None:
    first, second = _members(recorded), _members(again)
    if first == second:
        return "times in the archive, its members are the same"
    if _without_addresses(first) == _without_addresses(second):
        return "addresses of objects in the archive, its members are the same"
    return None


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > _MOST_BYTES:
            raise ValueError("too large to compare inside")
        return {name: archive.read(name) for name in archive.namelist()}


def _without_addresses(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """Replace the addresses in a skops schema by numbers, in the names of members too."""
    schema = members["schema.json"]
    json.loads(schema)
    number: dict[bytes, int] = {}

    def counted(match: re.Match[bytes]) -> bytes:
        return match[1] + b"%d" % number.setdefault(match[2], len(number))

    told = {"schema.json": _ADDRESS.sub(counted, schema)}
    for name, content in members.items():
        if name != "schema.json":
            stem, dot, ending = name.partition(".")
            known = number.get(stem.encode())
            told[f"{stem if known is None else known}{dot}{ending}"] = content
    return told


def _files(folder: Path) -> dict[str, Path]:
    return dict(_walked(folder))


def _walked(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(folder).as_posix(), path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
