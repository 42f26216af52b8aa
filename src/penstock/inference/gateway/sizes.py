"""How much memory each version takes, as measured when it was loaded last; kept on disk."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

_logger = logging.getLogger(__name__)

_MOST = 20_000
_WRITE_AFTER_S = 1.0


class Size(NamedTuple):
    """One version, loaded and warm."""

    memory_bytes: int
    load_s: float


class Sizes:
    """Sizes by the digest of the artifact.

    Parameters
    ----------
    path
        Where they are kept between two lives of the gateway; None to forget them.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Size] = {} if path is None else _read(path)
        self._writing: asyncio.Task[None] | None = None

    def of(self, digest: str) -> Size | None:
        """Return what is known about a version."""
        return self._known.get(digest)

    def load_s(self, digest: str) -> float:
        """Return how long it took to load; 0 where it was never measured."""
        known = self._known.get(digest)
        return 0.0 if known is None else known.load_s

    def guess(self, digest: str) -> int:
        """Return its bytes, or those of the middle one of all where it was never measured."""
        known = self._known.get(digest)
        if known is not None:
            return known.memory_bytes
        sizes = sorted(size.memory_bytes for size in self._known.values())
        return sizes[len(sizes) // 2] if sizes else 0

    def learn(self, digest: str, size: Size) -> None:
        """Keep a measurement, on disk soon."""
        self._known.pop(digest, None)
        self._known[digest] = size
        while len(self._known) > _MOST:
            del self._known[next(iter(self._known))]
        if self._path is not None and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._write(self._path))

    async def close(self) -> None:
        """Write what is not on disk yet."""
        if self._writing is not None and not self._writing.done():
            self._writing.cancel()
            with suppress(asyncio.CancelledError):
                await self._writing
        if self._path is not None and self._writing is not None:
            await asyncio.to_thread(_write, self._path, dict(self._known))

    async def _write(self, path: Path) -> None:
        await asyncio.sleep(_WRITE_AFTER_S)
        await asyncio.to_thread(_write, path, dict(self._known))


def resident_bytes(pids: Collection[int]) -> dict[int, int]:
    """Return the resident memory of processes, the sum over each one and its descendants."""
    parents: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for process in psutil.process_iter(["ppid", "memory_info"]):
        facts = process.info
        parents[process.pid] = facts["ppid"]
        sizes[process.pid] = facts["memory_info"].rss if facts["memory_info"] else 0
    sums = dict.fromkeys(pids, 0)
    for pid, size in sizes.items():
        above: int | None = pid
        while above and above not in sums:
            above = parents.get(above)
        if above:
            sums[above] += size
    return sums


def anonymous_bytes(pid: int | None) -> int:
    """Return the memory of a process without its files; 0 when it is gone."""
    if pid is None:
        return 0
    try:
        found = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    shared: int = getattr(found, "shared", 0)
    return max(found.rss - shared, 0)


def _read(path: Path) -> dict[str, Size]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Size])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        _logger.warning("The sizes of versions in %s cannot be read: %s", path, error)
        return {}


def _write(path: Path, known: dict[str, Size]) -> None:
    """Replace the file as a whole, or leave it."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(msgspec.json.encode(known))
        new.replace(path)
    except OSError as error:
        _logger.warning("The sizes of versions cannot be kept in %s: %s", path, error)
        with suppress(OSError):
            new.unlink()
