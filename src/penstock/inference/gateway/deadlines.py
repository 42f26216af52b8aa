"""Deadlines of very many requests, nearly all of which are met, on few timers.

A timer of the loop costs a request more than most of what the gateway does for it. So deadlines
that fall into the same few milliseconds share one: what is met in time only leaves a set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

GRAIN_S = 0.005
"""So much later than asked for at most a deadline is acted upon, and not earlier; the loop's own
clock counts milliseconds."""


class Deadline:
    """Calls back once, unless it is met before."""

    __slots__ = ("_among", "_call", "missed")

    def __init__(self, call: Callable[[], object], among: set[Deadline]) -> None:
        self.missed = False
        self._call = call
        self._among = among
        among.add(self)

    def met(self) -> None:
        """Forget it; nothing happens when it was missed already."""
        self._among.discard(self)

    def miss(self) -> None:
        """Act."""
        self.missed = True
        self._call()


class Deadlines:
    """The deadlines of one loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: dict[int, set[Deadline]] = {}
        """By the grain of time at whose end they are acted upon."""

    def at(self, time_s: float, call: Callable[[], object]) -> Deadline:
        """Call at a time of the loop's clock, or up to `GRAIN_S` later."""
        grain = int(time_s / GRAIN_S) + 1
        among = self._due.get(grain)
        if among is None:
            among = self._due[grain] = set()
            self._loop.call_at(grain * GRAIN_S, self._miss, grain)
        return Deadline(call, among)

    def _miss(self, grain: int) -> None:
        among = self._due.pop(grain)
        while among:
            among.pop().miss()
