"""What the gateway takes on: never more than it can hold, nor what it cannot answer in time."""

from __future__ import annotations

import math
import time

from penstock.inference.gateway.answers import RefusedError
from penstock.inference.gateway.batching import Failure

_SLOWER = 0.2
"""Part of a slower pace that is believed at once. A faster one is: batches grow with the queue,
so that what a short queue shows is the least that a long one can."""
_LEAST_S = 1e-5


class Room:
    """The requests of all models that are read, wait or are being answered."""

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self.requests = 0
        self._bytes = 0
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._left = 0.0
        """Requests that ended, an older second counting half of a newer one."""
        self._since_s = time.monotonic()

    def held(self, size: int) -> Place:
        """Hold a place for a request of so many bytes while it is in the house.

        Entering raises RefusedError, PS546, where there is no room, with the time after which
        there may be.
        """
        return Place(self, size)

    def take(self, size: int) -> None:
        """Count a request, or refuse it."""
        if self.requests >= self._max_requests or self._bytes + size > self._max_bytes:
            what = f"The gateway holds {self.requests} requests already."
            failure = Failure(503, "PS546", what, "Wait as long as Retry-After says.")
            raise RefusedError(failure, headers=(retry_after(self._wait_s()),))
        self.requests += 1
        self._bytes += size

    def give(self, size: int) -> None:
        """Count a request no more."""
        self.requests -= 1
        self._bytes -= size
        self._left += 1

    def _wait_s(self) -> float:
        """Estimate how long half of what is held will take."""
        now_s = time.monotonic()
        per_s = self._left / max(now_s - self._since_s, 0.1)
        if now_s - self._since_s > 2:
            self._left, self._since_s = self._left / 2, (now_s + self._since_s) / 2
        return self.requests / 2 / per_s if per_s else 1.0


class Place:
    """A request's place in the room, from entering to leaving."""

    __slots__ = ("_room", "_size")

    def __init__(self, room: Room, size: int) -> None:
        self._room = room
        self._size = size

    def __enter__(self) -> None:
        self._room.take(self._size)

    def __exit__(self, *_: object) -> None:
        self._room.give(self._size)


class Pace:
    """How fast one version answers, measured by what it answered while requests waited."""

    def __init__(self) -> None:
        self.waiting = 0
        """Requests that wait for it or are in its hands."""
        self._per_s = 0.0
        self._last_s = 0.0

    def answered(self, requests: int, sent_s: float, now_s: float) -> None:
        """Note that it answered so many at once.

        The time before they were sent says nothing: it was idle, or it was being started.
        """
        per_s = requests / max(now_s - max(self._last_s, sent_s), _LEAST_S)
        slower = (1 - _SLOWER) * self._per_s + _SLOWER * per_s
        self._per_s = max(per_s, slower)
        self._last_s = now_s

    def wait_s(self) -> float:
        """Estimate when a request that comes now is answered; 0 while nobody knows."""
        return self.waiting / self._per_s if self._per_s else 0.0


def retry_after(wait_s: float) -> tuple[bytes, bytes]:
    """Return the header that says when to try again, in whole seconds."""
    return b"retry-after", b"%d" % min(max(math.ceil(wait_s), 1), 60)
