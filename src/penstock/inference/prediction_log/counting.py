"""Counting a canary's requests from the log, reading each figure once and no bodies."""

from __future__ import annotations

import os
from array import array
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.inference.prediction_log.records import (
    BATCH,
    FIGURES,
    ROLES,
    WATERMARK,
    Outcome,
    walk,
)
from penstock.inference.prediction_log.segments import is_closed, segments, writer_of

LATEST_END_US = 60_000_000
"""No request ends later than this after it arrived; far above every deadline."""

_CHUNK = 1 << 16
_ANY = np.bool_


class ArmCount(NamedTuple):
    """The requests drawn for one arm, and how many of them were bad."""

    requests: int
    errors: int
    slow: int


class CustomerCounts(NamedTuple):
    """The requests of customers: each bucket of them, in each draw, for each arm, is one row."""

    draw: NDArray[np.int64]
    """The hour since 1970 where customers are drawn anew each hour, else 0."""
    bucket: NDArray[np.int64]
    role: NDArray[np.int64]
    """By place in `records.ROLES`."""
    requests: NDArray[np.int64]
    errors: NDArray[np.int64]
    slow: NDArray[np.int64]


@dataclass(slots=True)
class _Scanned:
    """What was read of one segment so far."""

    offset: int = 0
    marked_us: int | None = None
    newest_us: int = 0
    """Latest arrival."""
    arrived: array[int] = field(default_factory=lambda: array("q"))
    took: array[int] = field(default_factory=lambda: array("I"))
    generation: array[int] = field(default_factory=lambda: array("I"))
    role: array[int] = field(default_factory=lambda: array("B"))
    outcome: array[int] = field(default_factory=lambda: array("B"))
    bucket: array[int] = field(default_factory=lambda: array("h"))


class Arms:
    """Counts the arms of one model; what was read before is remembered, in 20 bytes a request.

    Parameters
    ----------
    folder
        Of the model's segments.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._scanned: dict[str, _Scanned] = {}
        self._forgot_us = 0

    def watermark(self) -> int | None:
        """Return the time, in microseconds, before which every arrived request is in the log.

        While several gateways write, the earliest of theirs; one that ended holds nobody up.
        None where one has not said so yet.
        """
        said: dict[str, int | None] = {}
        live: set[str] = set()
        for path in self._scan():
            writer, marked_us = writer_of(path), self._scanned[path.name].marked_us
            if marked_us is not None or writer not in said:
                said[writer] = marked_us
            if not is_closed(path):
                live.add(writer)
        if not live:
            return max((us for us in said.values() if us is not None), default=None)
        known = [said[writer] for writer in live]
        return None if None in known else min(us for us in known if us is not None)

    def count(
        self,
        *,
        since_us: int,
        until_us: int,
        slow_ms: float,
        generations: Collection[int] | None = None,
        alone: bool = False,
    ) -> dict[str, ArmCount]:
        """Count by role the requests that arrived in ``[since_us, until_us)``.

        What is older than `since_us` is forgotten: canaries look forwards.

        Parameters
        ----------
        slow_ms
            A request is slow when it took longer than this.
        generations
            Count only requests drawn under these splits; None counts all.
        alone
            Count only requests without a customer's key, each of which was drawn by itself.
        """
        found = self._figures(since_us, until_us)
        counted = _counted(found, generations)
        if alone:
            counted &= found["bucket"] < 0
        failed, slow = found["outcome"] == int(Outcome.FAILED), found["took"] > slow_ms * 1000
        counts: dict[str, ArmCount] = {}
        for code in np.unique(found["role"][counted]):
            arm = counted & (found["role"] == code)
            sums = [int(np.count_nonzero(one)) for one in (arm, arm & failed, arm & slow)]
            counts[ROLES[int(code)]] = ArmCount(*sums)
        return counts

    def customers(
        self,
        *,
        since_us: int,
        until_us: int,
        slow_ms: float,
        generations: Collection[int],
        draw_us: int | None = None,
    ) -> CustomerCounts:
        """Count by customers the requests that arrived in ``[since_us, until_us)``.

        Parameters
        ----------
        slow_ms, generations
            As of `count`.
        draw_us
            After so many microseconds customers are drawn anew; None: never.
        """
        found = self._figures(since_us, until_us)
        counted = _counted(found, generations) & (found["bucket"] >= 0)
        found = {name: column[counted] for name, column in found.items()}
        draw = found["arrived"] // draw_us if draw_us else np.zeros_like(found["arrived"])
        rows = np.column_stack([draw, found["bucket"], found["role"]])
        groups, which = np.unique(rows, axis=0, return_inverse=True)
        which = which.reshape(-1)
        bad = found["outcome"] == int(Outcome.FAILED), found["took"] > slow_ms * 1000
        sums = [
            np.bincount(which[chosen], minlength=len(groups)).astype(np.int64)
            for chosen in (np.ones(len(which), np.bool_), *bad)
        ]
        return CustomerCounts(groups[:, 0], groups[:, 1], groups[:, 2], *sums)

    def latencies_ms(self, role: str, *, since_us: int) -> NDArray[np.float64]:
        """Return how long each request of an arm took that arrived since a time, ascending."""
        found = self._figures(since_us, 2**62)
        took = found["took"][found["role"] == ROLES.index(role)]
        return np.sort(took.astype(np.float64)) / 1000

    def _figures(self, since_us: int, until_us: int) -> dict[str, NDArray[np.int64]]:
        if since_us < self._forgot_us:
            self._scanned.clear()
        self._forgot_us = since_us
        parts: list[tuple[NDArray[np.bool_], _Scanned]] = []
        for path in self._scan():
            scanned = self._scanned[path.name]
            if scanned.newest_us < since_us:
                for column in (scanned.arrived, scanned.took, scanned.generation):
                    del column[:]
                del scanned.bucket[:]
                del scanned.role[:], scanned.outcome[:]
            arrived = np.asarray(scanned.arrived)
            parts.append(((arrived >= since_us) & (arrived < until_us), scanned))
        return {
            name: np.concatenate(
                [np.zeros(0, np.int64)]
                + [np.asarray(getattr(of, name))[chosen].astype(np.int64) for chosen, of in parts]
            )
            for name in ("arrived", "took", "generation", "role", "outcome", "bucket")
        }

    def _scan(self) -> list[Path]:
        """Read what was written since the last time; return the segments, oldest first."""
        paths = segments(self._folder)
        names = {path.name for path in paths}
        for gone in self._scanned.keys() - names:
            del self._scanned[gone]
        for path in paths:
            scanned = self._scanned.setdefault(path.name, _Scanned())
            try:
                with path.open("rb", buffering=0) as file:
                    _go_on(file, scanned)
            except FileNotFoundError:
                continue  # it was converted and deleted a moment ago
        return paths


def _counted(
    found: dict[str, NDArray[np.int64]], generations: Collection[int] | None
) -> NDArray[np.bool_]:
    counted = found["outcome"] != int(Outcome.FALLBACK)
    if generations is not None:
        counted &= np.isin(found["generation"], list(generations))
    return counted


def _go_on(file: BinaryIO, scanned: _Scanned) -> None:
    size = os.fstat(file.fileno()).st_size
    held = (0, b"")

    def at(offset: int, length: int) -> bytes:
        nonlocal held
        begin = offset - held[0]
        if begin < 0 or begin + length > len(held[1]):
            held, begin = (offset, os.pread(file.fileno(), max(length, _CHUNK), offset)), 0
        return held[1][begin : begin + length]

    for record in walk(at, size, scanned.offset):
        scanned.offset = record.end
        if record.record == WATERMARK:
            scanned.marked_us = record.time_us
        if record.record != BATCH:
            continue
        for figures in FIGURES.iter_unpack(record.figures):
            scanned.arrived.append(figures[0])
            scanned.took.append(figures[1])
            scanned.generation.append(figures[3])
            scanned.bucket.append(figures[9])
            scanned.role.append(figures[11])
            scanned.outcome.append(figures[12])
            scanned.newest_us = max(scanned.newest_us, figures[0])
