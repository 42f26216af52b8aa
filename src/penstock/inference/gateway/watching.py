"""Looks at the processes a few times a second, and acts before one of them costs a request.

Three things no request would show in time: a process that a signal stopped, one that keeps its
requests for far longer than it ever did, one that has nearly used up its memory. The first is
told to go on. For the others a fresh process is begun beside, and takes what waits; the old one
keeps what it has in its hands until that is answered or its deadline is over.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from penstock.inference.gateway.batching import Batch, Ticket
from penstock.inference.gateway.hosts import Child
from penstock.inference.gateway.workers import Seat

LOOK_EVERY_S = 0.25
FULL = 0.9
"""Part of the memory bound from which on a process is replaced."""
WORTH = 0.1
"""Part of the bound that a fresh process must gain; what a model needs anyway, no other saves."""
STANDS_STILL = "It was stopped by a signal and does not go on"
_PAGE = os.sysconf("SC_PAGE_SIZE")

Renew = Callable[[Seat], bool]
"""Begins a fresh process for a version; False when it cannot be."""


class Watch:
    """What was seen at the last look."""

    def __init__(self) -> None:
        self._stopped: set[int] = set()
        self._late: dict[Seat, Batch] = {}
        self._loaded_bytes: dict[Child, int] = {}
        """What a process used when it was seen with its version for the first time."""

    def stuck(self, pids: Iterable[int | None]) -> set[int]:
        """Tell stopped processes to go on; return those that were told at the last look, too."""
        before, self._stopped = self._stopped, {pid for pid in pids if pid and is_stopped(pid)}
        for pid in self._stopped:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)
        return before & self._stopped

    def renew(self, children: Iterable[Child], renew: Renew) -> None:
        """Begin fresh processes for versions whose own are in the way of their requests."""
        late, loaded_bytes = self._late, self._loaded_bytes
        self._late, self._loaded_bytes = {}, {}
        for child in children:
            for seat in list(child.seats.values()):
                assert isinstance(seat, Seat), "only seats are seated"
                batch = _late(seat, child)
                if batch is not None:
                    self._late[seat] = batch
                    # Late at two looks: it is the process that is, and not this one.
                    if late.get(seat) is batch and (not seat.stays or renew(seat)):
                        _ask_elsewhere(seat, batch)
                elif child.memory_bytes is not None and seat.stays and not seat.home.shared:
                    now_bytes = _resident_bytes(child.pid)
                    first_bytes = loaded_bytes.get(child, now_bytes)
                    self._loaded_bytes[child] = first_bytes
                    gain_bytes = now_bytes - first_bytes
                    full = now_bytes > FULL * child.memory_bytes
                    if full and gain_bytes > WORTH * child.memory_bytes:
                        renew(seat)


def _late(seat: Seat, child: Child) -> Batch | None:
    """Return the batch that keeps others waiting for unusually long, or each other."""
    batch = child.in_hands
    if batch is None or batch.slot != seat.slot or child.out_s < seat.worker.suspect_s:
        return None
    return batch if seat.worker.backlog or _together(batch) else None


def _together(batch: Batch) -> list[Ticket]:
    """Return the requests that were not given to another process yet, if they are several."""
    fresh = [ticket for ticket in batch.tickets if not ticket.ended and not ticket.alone]
    return fresh if len(fresh) > 1 else []


def _ask_elsewhere(seat: Seat, batch: Batch) -> None:
    """Ask once more what a process keeps, each alone: one of them may be the cause."""
    if fresh := _together(batch):
        for ticket in fresh:
            ticket.deaths += 1
        seat.worker.backlog.give_back(fresh)
        seat.worker.want()


def is_stopped(pid: int) -> bool:
    """Say whether a signal stopped a process; one that a debugger holds was not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:  # gone, or no /proc
        return False
    return stat.rpartition(b")")[2].split()[:1] == [b"T"]


def _resident_bytes(pid: int | None) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    return 0
