"""The artifact store in a folder: one read-only file per digest.

A file appears under its digest only when it is whole: it is written under another name in the
same file system, synced, and renamed. What is read is hashed while it is copied, so that a
bit that rotted on the disk never reaches a model.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Container, Iterator
from pathlib import Path
from typing import BinaryIO

from penstock.errors import IntegrityError, NotFoundError, UnreachableError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_LEFT = re.compile(r"\.[0-9a-f]{32}\.(part|gone)")
_CHUNK_BYTES = 1 << 20


class FileStore:
    """Keeps artifacts below one folder, as ``ab/abcd…``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, source: Path) -> str:
        """Store one file and return its SHA-256."""
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        target = self._path(digest)
        with contextlib.suppress(FileNotFoundError):
            if target.is_file() and _sha256(target) == digest:
                os.utime(target)  # put again: a sweep that is running leaves it
                return digest
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            written = _copy(source, target)
        except OSError as error:
            raise self._unwritable(error, source.name) from error
        if written != digest:
            target.unlink()
            what = f"{source} changed while it was stored."
            raise IntegrityError("PS112", what, hint="Start the run again: penstock retry.")
        return digest

    def get(self, digest: str, target: Path) -> None:
        """Write the artifact to `target`, verified: whole and right, or not at all."""
        source = self._path(digest)
        if not source.is_file():
            raise NotFoundError(
                "PS111",
                f"The store at {self.root} has no artifact {digest}.",
                hint="Restore the folder from a backup, or build the version again.",
            )
        try:
            _copy(source, target, expected=digest)
        except OSError as error:
            raise UnreachableError(
                "PS110",
                f"Artifact {digest[:12]} could not be copied to {target}: {error.strerror}.",
                hint="Make room on the disk or mend its rights, then try again.",
            ) from error

    def sweep(
        self, keep: Container[str], before: float, *, dry_run: bool
    ) -> Iterator[tuple[str, int]]:
        """Remove every artifact that `keep` does not hold, unless it was put since `before`."""
        for path in sorted(self.root.glob("*/*")) + sorted(self.root.glob("*/.*")):
            if _DIGEST.fullmatch(path.name) is None and not _LEFT.fullmatch(path.name):
                continue
            try:
                found = path.stat()
            except FileNotFoundError:
                continue  # a put that has ended meanwhile
            if path.name in keep or found.st_mtime >= before:
                continue
            if dry_run or _swept(path, before):
                yield path.name, found.st_size

    def _path(self, digest: str) -> Path:
        if _DIGEST.fullmatch(digest) is None:
            what = f"{digest[:80]!r} is not the digest of an artifact."
            raise NotFoundError("PS111", what, hint="A digest has 64 small hex digits.")
        return self.root / digest[:2] / digest

    def _unwritable(self, error: OSError, name: str) -> UnreachableError:
        try:
            room = f"; {shutil.disk_usage(self.root).free >> 20} MB are free"
        except OSError:
            room = ""
        return UnreachableError(
            "PS110",
            f"{name} could not be stored below {self.root}: {error.strerror}{room}.",
            hint="Make room on the disk or mend its rights, then try again.",
        )


def _swept(path: Path, before: float) -> bool:
    """Take a file away, and bring it back if it was put again while it went."""
    gone = path.with_name(f".{uuid.uuid4().hex}.gone")
    try:
        path.rename(gone)
    except FileNotFoundError:
        return False
    if gone.stat().st_mtime >= before:
        gone.rename(path)
        return False
    gone.unlink()
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: Path, target: Path, *, expected: str | None = None) -> str:
    """Copy durably: `target` is the whole file or is not touched. Returns the SHA-256."""
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with source.open("rb") as reading, part.open("xb") as writing:
            digest = _pour(reading, writing)
            writing.flush()
            os.fchmod(writing.fileno(), 0o444)
            os.fsync(writing.fileno())
        if expected is not None and digest != expected:
            raise IntegrityError(
                "PS112",
                f"{source} should have SHA-256 {expected} and has {digest}.",
                hint="The disk or somebody changed it: restore the file from a backup.",
            )
        part.replace(target)
        _sync_folder(target.parent)
    finally:
        part.unlink(missing_ok=True)
    return digest


def _pour(reading: BinaryIO, writing: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := reading.read(_CHUNK_BYTES):
        digest.update(chunk)
        writing.write(chunk)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    # Without this a power cut can take the new name back, though the bytes are on the disk.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
