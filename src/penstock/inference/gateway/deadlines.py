"""Deadlines of very many requests, nearly all of which are met, on few timers.

A timer of the loop costs a request more than most of what the gateway does for it. So deadlines
that fall into the same few milliseconds share one: what is met in time only leaves a set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

GRAIN_S = 0.005
"""So much later than asked for at most a deadline is acted upon, and not earlier; the loop's own
clock counts milliseconds."""
Of = TypeVar("Of")


class Deadlines(Generic[Of]):
    """The deadlines of one loop.

    Parameters
    ----------
    miss
        Told of each whose deadline has passed.
    """

    def __init__(self, miss: Callable[[Of], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._miss = miss
        self._due: dict[int, set[Of]] = {}
        """By the grain of time at whose end they are acted upon."""

    def add(self, one: Of, time_s: float) -> set[Of]:
        """Have something missed at a time of the loop's clock, or up to `GRAIN_S` later.

        Returns
        -------
        set
            Those that are missed together; what leaves it has met its deadline.
        """
        grain = int(time_s / GRAIN_S) + 1
        among = self._due.get(grain)
        if among is None:
            among = self._due[grain] = set()
            self._loop.call_at(grain * GRAIN_S, self._pass, grain)
        among.add(one)
        return among

    def _pass(self, grain: int) -> None:
        among = self._due.pop(grain)
        while among:
            self._miss(among.pop())
