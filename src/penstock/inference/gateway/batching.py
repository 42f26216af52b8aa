"""Batches without a timer: what waits when a worker becomes free is its next batch.

At low load nothing waits for others; at high load batches grow by themselves. A `Backlog` holds
what waits for one version, a `Lane` is the connection to a process, one frame at a time.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple, cast

from penstock.domain import Deployment
from penstock.inference.gateway.rows_of_bodies import RowsOfBodies
from penstock.inference.program.frames import (
    HEADER,
    JSON_MEDIA,
    FrameError,
    Reply,
    RequestPart,
    decode_reply,
    encode_request,
)

LINGER_FROM_S = 0.003
LINGER = 0.2
LINGER_S = 0.005
"""A process whose last batch of several took so long waits this part of that time, and so long at
most, for those who were just answered: callers that ask one request after the other come back at
once, and would else wait for a batch of the few that came first."""
LINGER_FEW = 1.25
"""A version that gets the lesser part of the requests, as a canary does, waits this part instead,
for callers whom the other version answers: a call costs about the same for one row as for fifty,
and its few would pay for a call over and over. `LINGER_S` holds for it too: a quarter of the time
(20 ms) below which no request of a canary is judged to be slow; where the project states that
time itself, a quarter of it."""
HALF = 50
"""Percent of the requests."""
COME_BACK = 0.9
"""Part of them that is waited for; the others may have been drawn for another version."""
MAX_REPLY_BYTES = 64 * 2**20
"""A worker that announces more is broken."""
_CREDENTIALS = struct.Struct("3i")


class Failure(NamedTuple):
    """Why an attempt got no reply from a worker."""

    status: int
    code: str
    what: str
    hint: str


Outcome = Reply | Failure
Then = Callable[["Ticket", Outcome], None]


class Ticket:
    """One attempt to have one request answered by one version.

    Its class holds the defaults: of a request only what differs is written down.
    """

    wants: int = JSON_MEDIA
    """The media of the reply, as in `RequestPart`."""
    deployment: Deployment | None = None
    """As it was when the request was drawn; None for the gateway's own question."""
    arrived_s: float = 0.0
    """Monotonic, the clock of the loop; but the loop's own reading of it is coarse."""
    sent_s: float = 0.0
    """When it went to a process, by the same clock."""
    has_fallback: bool = False
    """Whether the champion can be asked when this fails; then it is not tried again here."""
    quiet: bool = False
    """One of the rows that explain an answer: no log has it, and it travels only when nothing
    else waits."""
    deaths: int = 0
    """How many workers died with this request in their hands."""
    within_s: float = inf
    """The caller's own deadline, from the arrival."""
    ended: bool = False
    """Whether it has its outcome, or nobody waits for one any more."""

    def __init__(self, kind: int, id_: bytes, body: bytes, then: Then) -> None:
        self.kind = kind
        self.id = id_
        self.body = body
        self.then = then
        """Told of the outcome, once."""

    def end(self, outcome: Outcome) -> None:
        """Take the outcome."""
        self.ended = True
        self.then(self, outcome)

    @property
    def alone(self) -> bool:
        """Whether it must travel alone: it may be the one that killed its worker."""
        return self.deaths > 0


def awaited() -> tuple[asyncio.Future[Outcome], Then]:
    """Return what waits for an outcome, and what tells it."""
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def then(_: Ticket, outcome: Outcome) -> None:
        if not future.done():
            future.set_result(outcome)

    return future, then


class Backlog:
    """The requests that wait for one version, bounded in number and bytes."""

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._waiting: deque[Ticket] = deque()
        self._quiet: deque[Ticket] = deque()
        self._bytes = 0
        self._bodies = RowsOfBodies()
        self._expected = inf
        self._come: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._quiet)

    def push(self, ticket: Ticket) -> bool:
        """Let a request wait; False when there is no room."""
        if ticket.quiet:  # bounded by who asks: one at a time
            self._quiet.append(ticket)
            return True
        if not self._has_room(ticket):
            self._forget_ended()
            if not self._has_room(ticket):
                return False
        self._waiting.append(ticket)
        self._bytes += len(ticket.body)
        if len(self._waiting) >= self._expected and self._come is not None:
            self._expected = inf
            self._come()
        return True

    def expect(self, more: int, come: Callable[[], None]) -> None:
        """Call once so many more wait, if they come before the next batch is taken."""
        self._expected, self._come = len(self._waiting) + more, come

    def give_back(self, tickets: Sequence[Ticket]) -> None:
        """Put requests that were taken in front again; they have waited longest."""
        self._waiting.extendleft(reversed(tickets))
        self._bytes += sum(len(ticket.body) for ticket in tickets)

    def take(self, max_requests: int, max_bytes: int, max_rows: float = inf) -> list[Ticket]:
        """Return the next batch; empty when nothing waits. What has ended is left out.

        Rows are a guess: the bodies are not read here.
        """
        self._expected = inf
        batch: list[Ticket] = []
        size, rows, guesses = 0, 0.0, self._bodies.most * max_requests > max_rows
        while self._waiting and len(batch) < max_requests:
            ticket = self._waiting[0]
            if not ticket.ended:
                length = len(ticket.body)
                rows += self._bodies.guess(ticket.kind, length) if guesses else 1
                if batch and (ticket.alone or size + length > max_bytes or rows > max_rows):
                    break
                batch.append(ticket)
                size += length
            self._waiting.popleft()
            self._bytes -= len(ticket.body)
            if batch and batch[-1].alone:
                break
        while not batch and self._quiet:
            ticket = self._quiet.popleft()
            batch += [] if ticket.ended else [ticket]
        return batch

    def learn(self, answered: Sequence[tuple[Ticket, Outcome]]) -> None:
        """Take in how many rows the bodies of a batch had."""
        for ticket, outcome in answered:
            # Of none where it is an error; one row is what is thought while nothing is known.
            if isinstance(outcome, Reply) and (outcome.rows > 1 or self._bodies.most > 1):
                self._bodies.learn(ticket.kind, len(ticket.body), outcome.rows)

    def clear(self) -> list[Ticket]:
        """Take everything out."""
        waiting = [one for one in (*self._waiting, *self._quiet) if not one.ended]
        self._waiting.clear()
        self._quiet.clear()
        self._bytes = 0
        return waiting

    def _has_room(self, ticket: Ticket) -> bool:
        fits = self._bytes + len(ticket.body) <= self._max_bytes
        return fits and len(self._waiting) < self._max_requests

    def _forget_ended(self) -> None:
        waiting = [ticket for ticket in self._waiting if not ticket.ended]
        self._waiting = deque(waiting)
        self._bytes = sum(len(ticket.body) for ticket in waiting)


class Batch(NamedTuple):
    """What travels in one frame: requests for one version, or one order."""

    tickets: list[Ticket]
    slot: int
    """Of the version, in its process."""
    limit_s: float
    """Time for the frame; a worker that takes longer hangs."""
    is_alone: bool = False
    """Whether no other version waits for the process."""


def linger_s(took_s: float, batch: Batch) -> float:
    """Return how long a process waits for more after a batch that took so long."""
    found = batch.tickets[0].deployment
    if found is None or found.share >= HALF:
        return min(took_s * LINGER, LINGER_S)
    stated_ms = found.serving.get("p95_ms")
    most_s = LINGER_S if stated_ms is None else min(LINGER_S, float(stated_ms) / 4000)
    return min(took_s * LINGER_FEW, most_s)


Settle = Callable[[list[tuple[Ticket, Outcome]]], None]
"""Told of each frame's answers: logs them, then lets the callers have them."""


class Lane(asyncio.Protocol):
    """The connection to one process. One frame is in flight at most.

    Parameters
    ----------
    take
        Gives the next batch of requests; None when nothing waits.
    settle
        Told of a batch of requests, its replies, and the seconds that they took.
    """

    def __init__(
        self,
        take: Callable[[], Batch | None],
        settle: Callable[[Batch, list[Reply], float], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        """Ends with the reason when the connection does."""
        self.in_flight: Batch | None = None
        """After the end: what was in the process's hands."""
        self._take = take
        self._settle = settle
        self._orders: deque[Batch] = deque()
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sent_s = 0.0
        self._woken = False
        self._held: asyncio.TimerHandle | None = None
        """While it waits for those who were just answered to ask again."""

    async def order(self, kind: int, body: bytes, *, slot: int = 0, limit_s: float) -> Outcome:
        """Ask for something on the gateway's own behalf, before any request that waits."""
        if self.lost.done():
            return _unasked(self.lost.result())
        future, then = awaited()
        self._orders.append(Batch([Ticket(kind, b"", body, then)], slot, limit_s))
        self.wake()
        return await future

    def wake(self) -> None:
        """Send what waits, once the requests that arrive in this same moment are there too."""
        held = self._held is not None and not self._orders
        if not (held or self._woken or self.in_flight is not None or self.lost.done()):
            self._woken = True
            self._loop.call_soon(self._next)

    def hurry(self, limit_s: float) -> None:
        """Give the frame in flight no longer than this, of which a part may have passed."""
        end_s = self._sent_s + limit_s
        if self.in_flight is not None and self._timer is not None and end_s < self._timer.when():
            self._timer.cancel()
            self._timer = self._loop.call_at(end_s, self._hangs, limit_s)

    def since_s(self) -> float:
        """Return the seconds since a frame was sent last."""
        return self._loop.time() - self._sent_s

    def close(self, reason: str) -> None:
        """End the connection; `lost` says why."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        if self.lost.done():
            return
        self.lost.set_result(reason)
        asked = [*self._orders] if self.in_flight is None else [self.in_flight, *self._orders]
        self._orders.clear()
        for ticket in (ticket for batch in asked for ticket in batch.tickets):
            if ticket.deployment is None and not ticket.ended:
                ticket.end(_unasked(reason))

    def peer(self) -> int | None:
        """Return the process at the other end, by the number that it has here."""
        if self._transport is None or not hasattr(socket, "SO_PEERCRED"):
            return None
        connection: socket.socket = self._transport.get_extra_info("socket")
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(found)[0]
        return pid or None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the process's death."""
        self.close("The worker ended" if exc is None else f"The worker's connection broke: {exc}")

    def data_received(self, data: bytes) -> None:
        """Collect one frame, then settle it and send the next."""
        received = self._received
        received += data
        if len(received) < HEADER.size:
            return
        (size,) = HEADER.unpack_from(received)
        too_much = size > MAX_REPLY_BYTES or len(received) > HEADER.size + size
        if too_much or self.in_flight is None:
            self.close("The worker sent what is no reply")
            return
        if len(received) == HEADER.size + size:
            self._received = bytearray()
            self._settle_frame(memoryview(received)[HEADER.size :], self.in_flight)

    def _settle_frame(self, payload: memoryview, batch: Batch) -> None:
        try:
            replies = decode_reply(payload)
        except FrameError as error:
            self.close(f"The worker sent what is no reply: {error}")
            return
        if len(replies) != len(batch.tickets):
            self.close(f"The worker sent {len(replies)} answers to {len(batch.tickets)} requests")
            return
        self.in_flight = None
        if self._timer is not None:
            self._timer.cancel()
        took_s = self.since_s()
        lingers = batch.is_alone and took_s >= LINGER_FROM_S and len(replies) > 1
        if not lingers:
            self._next()  # before the answers go out: the process need not wait for that
        if batch.tickets[0].deployment is not None:
            self._settle(batch, replies, took_s)
        elif not batch.tickets[0].ended:
            batch.tickets[0].end(replies[0])
        if lingers and self.in_flight is None and not self.lost.done():
            self._held = self._loop.call_later(linger_s(took_s, batch), self.release)
        else:
            self.wake()

    def release(self) -> None:
        """Wait no longer for those who were just answered."""
        if self._held is not None:
            self._held.cancel()
            self._held = None
            self.wake()

    def _next(self) -> None:
        self._woken = False
        if self.in_flight is not None or self.lost.done():
            return
        if self._held is not None:
            self._held.cancel()
            self._held = None
        batch = self._orders.popleft() if self._orders else self._take()
        if batch is not None:
            self._send(batch)

    def _send(self, batch: Batch) -> None:
        assert self._transport is not None, "sent before the connection was made"
        self.in_flight = batch
        self._sent_s = self._loop.time()
        self._timer = self._loop.call_later(batch.limit_s, self._hangs, batch.limit_s)
        now_s = time.monotonic()
        for ticket in batch.tickets:
            ticket.sent_s = now_s
        parts = [RequestPart(t.kind, t.id, t.body, batch.slot, t.wants) for t in batch.tickets]
        self._transport.write(encode_request(parts))

    def _hangs(self, limit_s: float) -> None:
        self.close(f"The worker gave no answer in {limit_s:g} s")


def _unasked(reason: str) -> Failure:
    return Failure(503, "", reason, "")
