"""Copies of live requests for a version that nobody depends on yet.

A copy is made when its caller has the answer, and waits until little else does. What comes while
too many wait is dropped and counted. Its answer goes into the log and to nobody; the entry has the
id and the arrival of the request, and how long the copy itself took.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from penstock.domain import Deployment, Role
from penstock.inference.gateway.attempts import Pending, Version
from penstock.inference.gateway.batching import Failure, Outcome, Settle, Then, awaited
from penstock.inference.gateway.placing import Key, key_of

QUEUE = 256
QUEUE_BYTES = 8 * 2**20
"""What may wait for one shadow."""
AT_ONCE = 32
QUIET = 4
"""With more requests than this being answered, copies wait."""
LOOK_S = 0.01


class Told(NamedTuple):
    """What became of the copies for a version."""

    copies: int
    """Sent to it."""
    copies_dropped: int


@dataclass(slots=True)
class _Shadow:
    version: Version
    waiting: deque[Pending] = field(default_factory=deque["Pending"])
    size: int = 0
    sent: int = 0
    dropped: int = 0
    pump: asyncio.Task[None] | None = None


class Copies:
    """Makes and sends copies.

    Parameters
    ----------
    submit
        Lets a ticket wait for its version; False when it is not ready for it.
    settle
        Logs what came back.
    held
        Says how many requests of callers are being answered.
    """

    def __init__(
        self,
        submit: Callable[[Pending], bool],
        settle: Settle,
        held: Callable[[], int],
    ) -> None:
        self._submit = submit
        self._settle = settle
        self._held = held
        self._shadows: dict[Key, _Shadow] = {}

    def offer(self, answered: Pending, shadow: Version) -> None:
        """Copy a request that has its answer, if there is room for a copy."""
        found = self._shadows.setdefault(shadow.key, _Shadow(shadow))
        found.version = shadow
        if len(found.waiting) >= QUEUE or found.size + len(answered.body) > QUEUE_BYTES:
            found.dropped += 1
            return
        found.waiting.append(answered)
        found.size += len(answered.body)
        if found.pump is None or found.pump.done():
            found.pump = asyncio.create_task(self._send(found))

    def told(self, shadow: Deployment) -> Told:
        """Say how many copies a version got, and how many were dropped."""
        found = self._shadows.get(key_of(shadow))
        return Told(0, 0) if found is None else Told(found.sent, found.dropped)

    def stop(self) -> None:
        """Send no more."""
        for shadow in self._shadows.values():
            if shadow.pump is not None:
                shadow.pump.cancel()

    async def _send(self, shadow: _Shadow) -> None:
        await asyncio.sleep(0)  # the answer goes out first
        while shadow.waiting:
            if self._held() > QUIET:
                await asyncio.sleep(LOOK_S)
                continue
            copies: list[Pending] = []
            ends: list[asyncio.Future[Outcome]] = []
            while shadow.waiting and len(copies) < AT_ONCE:
                answered = shadow.waiting.popleft()
                shadow.size -= len(answered.body)
                end, then = awaited()
                copy = _copy(answered, shadow.version, then)
                if self._submit(copy):
                    copies.append(copy)
                    ends.append(end)
                else:
                    shadow.dropped += 1
            shadow.sent += len(copies)
            if copies:
                await asyncio.wait(ends, timeout=shadow.version.deadline_s)
                self._give_up([copy for copy in copies if not copy.ended])

    def _give_up(self, late: list[Pending]) -> None:
        failure: Outcome = Failure(504, "PS504", "The shadow gave no answer in time.", "")
        if late:
            self._settle([(copy, failure) for copy in late])


def _copy(answered: Pending, version: Version, then: Then) -> Pending:
    copy = Pending(answered.kind, answered.id, answered.body, then)
    copy.wants = answered.wants
    copy.version = version
    copy.deployment = version.deployment
    copy.role = Role.SHADOW.value
    copy.arrived_us, copy.arrived_s = answered.arrived_us, time.monotonic()
    copy.generation, copy.bucket = answered.generation, answered.bucket
    return copy
