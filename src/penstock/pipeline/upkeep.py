"""Leftovers on the disk: what nothing needs any more, found and removed while the server runs.

Whatever a route, a live run, a version or one of its documents names stays, and whatever was
made or used since the oldest live run began, or within a day. Each is asked for once more right
before it goes. What goes and is wanted later is made anew: an environment from its lock, an
unpacked version from the store.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.ports import ArtifactStore, Environments, MadeEnvironment
from penstock.records import upkeep
from penstock.records.database import Database
from penstock.records.upkeep import Needed

OF_RUNS = ("checkout", "code", "scratch", "tracking", "version")
"""Folders of a run that nobody reads once it has ended; logs, reports and its lock stay."""

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_MOST_JSON_BYTES = 64 << 20
_LOG = "prune.log"


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that nothing needs."""

    kind: str
    """``environment``, ``model``, ``run``, ``file``, ``data`` or ``download``."""
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Looks after the home of a server on this computer."""

    home: Path
    database: Database
    store: ArtifactStore
    environments: Environments

    def prune(self, actor: str, *, dry_run: bool) -> list[Leftover]:
        """Remove what nothing needs, and note it in the journal; return what it was.

        Raises
        ------
        NotFoundError, IntegrityError
            A version's manifest is gone or damaged: then nothing of the store is touched, for
            nobody knows what that version needs.
        """
        found = [
            *self._environments(dry_run=dry_run),
            *self._models(dry_run=dry_run),
            *self._runs(dry_run=dry_run),
            *self._half_made(dry_run=dry_run),
            *self._files(dry_run=dry_run),
            *self._data(dry_run=dry_run),
        ]
        if not dry_run:
            found += self._downloads()
            if found:
                with self.database.change(actor) as change:
                    change.journal("home.pruned", summed(found))
        return found

    def _needed(self) -> Needed:
        with self.database.read() as connection:
            return upkeep.needed(connection, now=self.database.clock())

    def _environments(self, *, dry_run: bool) -> Iterator[Leftover]:
        for one in list(self.environments.made()):
            if self._unused(one):
                size = _bytes(one.folder)
                if not dry_run:
                    if not self._unused(one):  # measuring took a while
                        continue
                    self.environments.remove(one.lock_digest)
                yield Leftover("environment", one.lock_digest, size)

    def _unused(self, environment: MadeEnvironment) -> bool:
        needed = self._needed()
        now = {one.lock_digest: one.used_at for one in self.environments.made()}
        used_at = now.get(environment.lock_digest, math.inf)
        is_old = used_at < needed.before.timestamp()
        return is_old and environment.lock_digest not in needed.locks

    def _models(self, *, dry_run: bool) -> Iterator[Leftover]:
        for folder in sorted((self.home / "models").glob("[0-9a-f]" * 64)):

            def unused(folder: Path = folder) -> bool:
                needed = self._needed()
                return folder.name not in needed.served and _is_old(folder, needed)

            yield from _removed("model", folder, unused, dry_run=dry_run)

    def _runs(self, *, dry_run: bool) -> Iterator[Leftover]:
        for run in self._needed().ended:
            for name in OF_RUNS:
                folder = self.home / "runs" / str(run) / name
                if folder.is_dir():

                    def unused(run: int = run) -> bool:
                        return run in self._needed().ended  # a failed one can be tried again

                    yield from _removed("run", folder, unused, dry_run=dry_run)

    def _half_made(self, *, dry_run: bool) -> Iterator[Leftover]:
        """Give what builders and packers left that died half-way."""
        places = (("envs", ".sync-*"), ("envs", ".gone-*"), ("models", ".unpack-*"))
        places = (*places, ("models", ".gone-*"), ("runs", "*/.gone-*"))
        for place, pattern in places:
            for folder in sorted((self.home / place).glob(pattern)):

                def unused(folder: Path = folder) -> bool:
                    return _is_old(folder, self._needed())

                yield from _removed("run", folder, unused, dry_run=dry_run)

    def _files(self, *, dry_run: bool) -> Iterator[Leftover]:
        needed = self._needed()
        keep = self._reachable(needed)
        gone = self.store.sweep(keep, needed.before.timestamp(), dry_run=dry_run)
        yield from (Leftover("file", name, size) for name, size in gone)

    def _reachable(self, needed: Needed) -> frozenset[str]:
        """Return every digest that a version, a document or a run's report leads to."""
        found = set(needed.artifacts | needed.files)
        with tempfile.TemporaryDirectory(prefix="penstock-prune-") as name:
            copy = Path(name, "file")
            for digest in sorted(needed.artifacts | needed.json_files):
                self.store.get(digest, copy)
                if copy.stat().st_size <= _MOST_JSON_BYTES:
                    found |= set(_DIGEST.findall(copy.read_text("utf-8", errors="replace")))
                copy.unlink()
        for report in (self.home / "runs").glob("*/reports/*.json"):
            found |= set(_DIGEST.findall(report.read_text("utf-8", errors="replace")))
        return frozenset(found)

    def _data(self, *, dry_run: bool) -> Iterator[Leftover]:
        """Give data that was fetched for builds; what is wanted again is fetched again."""
        before = self._needed().before.timestamp()
        for path in sorted((self.home / "cache" / "data").glob("*")):
            try:
                facts = path.stat()
                if facts.st_mtime >= before:
                    continue
                if not dry_run:
                    path.unlink()
            except FileNotFoundError:
                continue
            yield Leftover("data", path.name, facts.st_size)

    def _downloads(self) -> list[Leftover]:
        cache = self.environments.cache
        before = _bytes(cache)
        if not before:
            return []
        self.environments.prune_cache(log=self.home / _LOG)
        freed = before - _bytes(cache)
        return [Leftover("download", "cache of downloads", freed)] if freed > 0 else []


def summed(found: Sequence[Leftover]) -> dict[str, dict[str, int]]:
    """Return count and bytes by kind.

    Examples
    --------
    >>> summed([Leftover("run", "7/checkout", 10), Leftover("run", "8/checkout", 5)])
    {'run': {'count': 2, 'bytes': 15}}
    """
    by_kind = dict[str, dict[str, int]]()
    for one in found:
        of = by_kind.setdefault(one.kind, {"count": 0, "bytes": 0})
        of["count"] += 1
        of["bytes"] += one.bytes
    return by_kind


def _removed(
    kind: str, folder: Path, unused: Callable[[], bool], *, dry_run: bool
) -> Iterator[Leftover]:
    """Remove a folder of which nothing may be seen half gone; give what it was."""
    if not unused():
        return
    size = _bytes(folder)
    if not dry_run:
        if not unused():  # measuring took a while
            return
        gone = folder.with_name(f".gone-{uuid.uuid4().hex}")
        try:
            folder.rename(gone)
        except FileNotFoundError:
            return  # somebody else was faster
        shutil.rmtree(gone, ignore_errors=True)
    name = f"{folder.parent.name}/{folder.name}" if kind == "run" else folder.name
    yield Leftover(kind, name, size)


def _is_old(folder: Path, needed: Needed) -> bool:
    try:
        return folder.stat().st_mtime < needed.before.timestamp()
    except FileNotFoundError:
        return False


def _bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_size
    return total
