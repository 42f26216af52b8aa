"""The data that training could read: each file by digest before, and whether it was read, after.

Whether a file was read is seen by its access time, where the file system keeps one. It is an
observation, not a proof: a program can set times.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from penstock.build.checkout import FILE_TIME_S
from penstock.build.data.bindings import Origin

TABLES = frozenset(
    {".csv", ".tsv", ".parquet", ".pq", ".json", ".jsonl", ".ndjson", ".feather", ".arrow"}
    | {".avro", ".orc", ".xlsx", ".xls", ".npy", ".npz", ".h5", ".hdf5", ".mat", ".arff", ".dta"}
    | {".pkl", ".pickle", ".joblib", ".txt", ".data", ".svmlight", ".libsvm", ".db", ".sqlite"}
    | {".tfrecord", ".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".sas7bdat"}
)
MEDIA = frozenset(
    {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".dcm"}
    | {".wav", ".mp3", ".flac", ".ogg", ".mp4", ".avi"}
)
NOT_DATA = frozenset(
    {"requirements.txt", "package.json", "package-lock.json", "runtime.txt", "license.txt"}
    | {"metrics.json", "dvc.lock", "pipfile.lock", "readme.txt", "setup.json", "tsconfig.json"}
)

_UNREAD_S = FILE_TIME_S - 86_400
"""Older than the modification time, so that a file system with `relatime` notes a read."""


@dataclass(frozen=True, slots=True)
class Input:
    """One file, or one folder of pictures or sounds, as it was before training."""

    path: str
    """A folder ends in a slash."""
    sha256: str
    """Of the bytes; of a folder, over the lines ``<sha256>  <path>`` of its files in order."""
    bytes: int
    source: str
    """``git``, ``data`` or ``dvc``."""
    uri: str | None
    read: bool | None = None


def inputs(
    checkout: Path, bound: Mapping[str, Origin], *, hidden: Sequence[str] = ()
) -> list[Input]:
    """Return the data files of a checkout before training, and mark them as unread.

    Parameters
    ----------
    bound
        What did not come from git.
    hidden
        What training does not see, relative to the checkout.
    """
    hide = set(hidden)
    seen = (name for name in _walk(checkout) if name not in hide)
    names = [name for name in seen if name in bound or _is_data(name)]
    folders = _media_folders(names)
    sizes = {name: (checkout / name).stat().st_size for name in names}
    digests = {name: (_sha256(checkout / name), size) for name, size in sizes.items()}
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(folders.get(name, name), []).append(name)
    return [_input(path, members, digests, bound) for path, members in sorted(found.items())]


def mark_unread(checkout: Path, found: Sequence[Input]) -> None:
    """Set the access time of each file back, as the last act before training."""
    for one in found:
        for path in _members(checkout, one):
            os.utime(path, (_UNREAD_S, FILE_TIME_S))


def keeps_access_times(folder: Path) -> bool:
    """Whether a read leaves its mark in this folder; found by trying."""
    probe = folder / ".penstock-read"
    try:
        probe.write_bytes(b"?")
        os.utime(probe, (_UNREAD_S, FILE_TIME_S))
        probe.read_bytes()
        return probe.stat().st_atime_ns != _UNREAD_S * 10**9
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)


def with_reads(checkout: Path, before: Sequence[Input], *, observed: bool) -> list[Input]:
    """Say of each file whether training read it; None where that cannot be seen."""
    return [
        Input(
            one.path,
            one.sha256,
            one.bytes,
            one.source,
            one.uri,
            _was_read(checkout, one) if observed else None,
        )
        for one in before
    ]


def written(found: Sequence[Input]) -> str:
    """Return the report ``inputs`` as JSON text."""
    files = [{name: getattr(one, name) for name in Input.__slots__} for one in found]
    return json.dumps({"files": files}, indent=1)


def read_back(text: str) -> list[Input]:
    """Return what `written` wrote."""
    return [Input(**one) for one in cast("list[dict[str, Any]]", json.loads(text)["files"])]


def copies(checkout: Path, of: Path) -> list[str]:
    """Return the files of a checkout that hold the same bytes as one of them, that one aside."""
    size = of.stat().st_size
    alike = [
        name
        for name in _walk(checkout)
        if checkout / name != of and (checkout / name).stat().st_size == size
    ]
    if not alike or not size:
        return []
    digest = _sha256(of)
    return [name for name in alike if _sha256(checkout / name) == digest]


def _input(
    path: str,
    members: Sequence[str],
    digests: Mapping[str, tuple[str, int]],
    bound: Mapping[str, Origin],
) -> Input:
    origins = {bound.get(name) for name in members}
    origin = origins.pop() if len(origins) == 1 else None
    source, uri = (origin.source, origin.uri) if origin is not None else ("git", None)
    if len(members) > 1 and all(name in bound for name in members):
        source, uri = bound[members[0]].source, None
    if not path.endswith("/"):
        digest, size = digests[path]
        return Input(path, digest, size, source, uri)
    lines = "".join(f"{digests[name][0]}  {name}\n" for name in sorted(members))
    total = sum(digests[name][1] for name in members)
    return Input(path, hashlib.sha256(lines.encode()).hexdigest(), total, source, uri)


def _was_read(checkout: Path, one: Input) -> bool | None:
    told = list[bool | None]()
    for path in _members(checkout, one):
        try:
            seen = path.stat()
        except OSError:
            told.append(None)
            continue
        # Written anew: whether the old bytes were read before cannot be seen any more.
        same = seen.st_mtime_ns == FILE_TIME_S * 10**9
        told.append(seen.st_atime_ns != _UNREAD_S * 10**9 if same else None)
    if any(told):
        return True
    return None if None in told or not told else False


def _members(checkout: Path, one: Input) -> list[Path]:
    if not one.path.endswith("/"):
        return [checkout / one.path]
    return [checkout / name for name in _walk(checkout, one.path) if _ending(name) in MEDIA]


def _walk(checkout: Path, below: str = "") -> Iterator[str]:
    """Give the regular files of a checkout, hidden folders aside, in order."""
    for parent, folders, names in os.walk(checkout / below, followlinks=False):
        folders[:] = sorted(one for one in folders if one[0] != "." and one != "__pycache__")
        for name in sorted(names):
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(checkout).as_posix()


def _is_data(name: str) -> bool:
    last = name.rpartition("/")[2].lower()
    known = _ending(name) in TABLES or _ending(name) in MEDIA
    return known and last not in NOT_DATA and not last.startswith("requirements")


def _ending(name: str) -> str:
    return Path(name).suffix.lower()


def _media_folders(names: Sequence[str]) -> dict[str, str]:
    """Map each picture or sound to the highest folder that holds nothing but such; with ``/``."""
    mixed = {
        folder.as_posix()
        for name in names
        if _ending(name) not in MEDIA
        for folder in Path(name).parents
    }
    found: dict[str, str] = {}
    for name in names:
        if _ending(name) in MEDIA:
            plain = [one.as_posix() for one in Path(name).parents if one.as_posix() not in mixed]
            above = [one for one in plain if one != "."]
            if above:
                found[name] = f"{above[-1]}/"
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
