"""What answers for each version: a queue of its own, before one process or several.

A `Worker` lives as long as its deployment and outlives its processes; a `Seat` is its place in
one of them: it loads the version there, warms it, lets requests travel, and begins again when the
process dies. `Fleet` makes the workers match the deployments and what memory there is.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

from penstock.domain import Deployment
from penstock.inference.gateway.batching import Backlog, Failure, Outcome, Settle, Ticket
from penstock.inference.gateway.breaker import Breaker, Flow
from penstock.inference.gateway.hosts import OK, Child, Gone, NotReadyError, said
from penstock.inference.gateway.patience import PATIENCE, Usual
from penstock.inference.gateway.placed import Placed
from penstock.inference.gateway.placing import Home, Key, key_of
from penstock.inference.gateway.settings import GatewaySettings
from penstock.inference.gateway.sizes import Size, Sizes, anonymous_bytes
from penstock.inference.gateway.state import State
from penstock.inference.program.frames import LOAD, V2

MAX_DEATHS = 2
"""A request in whose company so many workers died is not tried again."""


_DEADLINES_FIRST_S = 0.1
"""So much longer than its requests' deadline a worker may take before it is killed."""
_ACCEPT = frozenset({State.STARTING, State.UNLOADED})


class NoRoomError(Exception):
    """There is no memory for a version now, and nobody waits for it."""


class Lodging(Protocol):
    """Gives seats what they need: memory, a folder, a process."""

    sizes: Sizes

    async def room(self, seat: Seat) -> None:
        """Have memory granted; NotReadyError or NoRoomError when there is none."""
        ...

    async def place(self, deployment: Deployment) -> Placed:
        """Prove a version and bring it to where its sandbox sees it."""
        ...

    def hold(self, home: Home) -> None:
        """Say that a version lives in a process, or is about to."""
        ...

    def leave(self, home: Home) -> None:
        """Say that it does no more; the last one ends the process."""
        ...

    def is_shared(self, home: Home) -> bool:
        """Whether others live in a process too."""
        ...

    async def child(self, home: Home, folder: Path) -> Child:
        """Return the process of a home that is held, started now if it does not run."""
        ...

    def set_apart(self, worker: Worker) -> None:
        """Give a version a process of its own from now on."""
        ...

    def start_later(self, worker: Worker) -> None:
        """Have a version that nobody waits for loaded after those that somebody does."""
        ...

    def see_off(self, leaving: Coroutine[Any, Any, None]) -> None:
        """Let something end in its own time."""
        ...


class Worker:
    """One version, kept ready."""

    def __init__(
        self, deployment: Deployment, fleet: Lodging, settle: Settle, settings: GatewaySettings
    ) -> None:
        self.deployment = deployment
        """As the routes have it now; role and share change while the processes stay."""
        self.reason = ""
        self.cold_start_s: float | None = None
        self.restarts = 0
        self.used_s = time.monotonic()
        """When it was asked last, or deployed; the loop's own reading of it is coarse."""
        self.breaker = Breaker()
        self.backlog = Backlog(
            max_requests=settings.queue_requests, max_bytes=settings.queue_bytes
        )
        self.settings = settings
        self.wanted = False
        """Whether it should be loaded."""
        self.queued = False
        """Whether it will be, as soon as those before it are."""
        self.seats: dict[Home, Seat] = {}
        self.key: Key = key_of(deployment)
        """What it runs."""
        self._homes: Sequence[Home] = ()
        self._fleet = fleet
        self._settle = settle
        self._in_hands = 0
        self._usual = Usual()
        self._was_ready = False
        self._leaving = False
        self._drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._decided = asyncio.Event()

    @property
    def state(self) -> State:
        """What it is doing."""
        if self._leaving:
            return State.STOPPING
        if self.is_ready:
            return State.READY
        if self.breaker.flow is Flow.OPEN:
            return State.FAILED
        return State.STARTING if self.wanted or self.queued else State.UNLOADED

    @property
    def accepts(self) -> bool:
        """Whether a request is well placed here: ready, or ready as soon as it can be."""
        return self.is_ready or self.state in _ACCEPT

    @property
    def is_ready(self) -> bool:
        """Whether requests travel."""
        for seat in self.seats.values():  # a loop: asked for every request
            if seat.child is not None:
                return not self._leaving
        return False

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self.backlog and not self._in_hands

    @property
    def living(self) -> list[Seat]:
        """The places that it has, or is about to have, in memory."""
        return [seat for seat in self.seats.values() if seat.living]

    @property
    def pid(self) -> int | None:
        """Its process, the first of several."""
        return next((seat.child.pid for seat in self.seats.values() if seat.child), None)

    @property
    def idle_s(self) -> float:
        """How long nobody has asked for it."""
        return round(time.monotonic() - self.used_s, 3)

    def submit(self, ticket: Ticket) -> bool:
        """Let a request wait for the version; False when too much waits already."""
        if not self.backlog.push(ticket):
            return False
        if not self.wanted or len(self.backlog) == 1:  # else who waits has woken whom it needs
            self.used_s = time.monotonic()
            self.want()
        return True

    def want(self) -> None:
        """Have it loaded, and what waits sent."""
        self.queued = False
        if not self.wanted:
            self.wanted = True
            self._decided.clear()
        for seat in self.seats.values():
            seat.wake()

    def unwant(self) -> None:
        """Leave it unloaded: nobody waits and there is no room."""
        self.wanted = False
        self._decided.set()

    async def decided(self) -> None:
        """Wait until it is ready, or is not going to be soon."""
        await self._decided.wait()

    def move(self, homes: Sequence[Home]) -> None:
        """Have it live there; what it has now stays until the new is ready."""
        if homes == self._homes:
            return
        self._homes = homes
        for home in homes:
            if home not in self.seats:
                self.seats[home] = Seat(self, home, self._fleet)
        for home, seat in self.seats.items():
            seat.leaving = home not in homes
        self._let_go()

    async def unload(self) -> None:
        """Take it out of memory until somebody asks for it."""
        self.wanted = False
        await asyncio.gather(*(seat.unload() for seat in list(self.seats.values())))

    async def stop(self) -> None:
        """Answer what waits, then leave every process."""
        self._leaving = True
        self._decided.set()
        if not self.is_idle:
            await asyncio.wait([self._drained], timeout=self.settings.deadline_s)
        await asyncio.gather(*(seat.end() for seat in self.seats.values()))
        self.refuse("it was stopped")

    def take(self, *, others_wait: bool) -> list[Ticket]:
        """Return the next batch for one of its processes."""
        settings = self.settings
        most = settings.batch_requests if self.breaker.flow is Flow.CLOSED else 1
        size = settings.turn_bytes if others_wait else settings.batch_bytes
        tickets = self.backlog.take(most, size, settings.batch_rows)
        self._in_hands += len(tickets)
        return tickets

    @property
    def suspect_s(self) -> float:
        """After so long a batch is suspected never to come back."""
        return self._usual.suspect_s(self.settings.attempt_of(self.deployment))

    def settle(self, answered: list[tuple[Ticket, Outcome]], took_s: float) -> None:
        """Pass the answers of a batch on."""
        self._in_hands -= len(answered)
        self._usual.took(took_s)
        self.breaker.answered()
        self.backlog.learn(answered)
        self._settle(answered)
        if self._leaving and self.is_idle and not self._drained.done():
            self._drained.set_result(None)

    def started(self, cold_start_s: float) -> None:
        """Note that a seat is ready, and let go of those that it replaces."""
        self.cold_start_s, self.reason = cold_start_s, ""
        self._was_ready = True
        self.breaker.started()
        self._decided.set()
        self._let_go()

    def lost(self, gone: Gone, *, mine: bool, replaced: bool, lived_s: float) -> None:
        """Decide on its requests after a process ended, or did not get ready.

        Who can ask the champion does so at once; the others wait for the next process.
        """
        if mine:
            if not replaced:
                self.breaker.died(lived_s=lived_s)
                self.reason = gone.reason
            again: list[Ticket] = []
            self._in_hands -= len(gone.held)
            for ticket in gone.held:
                ticket.deaths += 1
                if not ticket.ended:
                    again.append(ticket)
            self._again(again)
        if any(seat.ready for seat in self.seats.values()):
            if self.breaker.flow is Flow.OPEN:
                self.breaker.started()
            self.want()
            return
        self._let_go()
        self._again(self.backlog.clear())
        if self.breaker.flow is Flow.OPEN:
            self._decided.set()
            self.refuse(self.reason)

    def refuse(self, reason: str) -> None:
        """Answer everybody who waits with an error."""
        what = f"{_version(self.deployment)} is not ready: {reason}."
        failure = Failure(503, "PS503", what, "Try again in a second.")
        if tickets := self.backlog.clear():
            self._settle([(ticket, failure) for ticket in tickets])

    def _again(self, held: list[Ticket]) -> None:
        again: list[Ticket] = []
        for ticket in held:
            if ticket.has_fallback or ticket.quiet or ticket.deaths >= MAX_DEATHS:
                name = _version(self.deployment)
                what = f"{name} did not survive this request: {self.reason}."
                failure = Failure(502, "PS511", what, "Check its values; see the worker's log.")
                self._settle([(ticket, failure)])
            else:
                again.append(ticket)
        self.backlog.give_back(again)

    def _let_go(self) -> None:
        """End the seats that are to go, once one that stays is ready or none that goes is."""
        going = [seat for seat in self.seats.values() if seat.leaving]
        staying_ready = any(seat.ready for seat in self.seats.values() if not seat.leaving)
        for seat in going:
            if staying_ready or not seat.ready:
                del self.seats[seat.home]
                self._fleet.see_off(seat.end())


class Seat:
    """A version's place in one process."""

    def __init__(self, worker: Worker, home: Home, fleet: Lodging) -> None:
        self.worker = worker
        self.home = home
        self.slot = -1
        self.child: Child | None = None
        """While the version is ready there."""
        self.living = False
        """Whether it has memory granted."""
        self.leaving = False
        """Whether another home takes its place."""
        self._fleet = fleet
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._resting = asyncio.Event()
        self._out: asyncio.Future[None] = self._loop.create_future()
        self._ending = False
        self._at_home = False
        """Whether it is in the process, and has to leave it in order."""
        if worker.wanted:
            self._woken.set()
        self._task = asyncio.create_task(self._run())

    @property
    def ready(self) -> bool:
        """Whether requests travel."""
        return self.child is not None

    @property
    def stays(self) -> bool:
        """Whether nothing takes its place yet."""
        return not self.leaving and not self._ending

    @property
    def frame_s(self) -> float:
        """Time that a batch may take."""
        return self.worker.settings.attempt_of(self.worker.deployment) + _DEADLINES_FIRST_S

    @property
    def patience_s(self) -> float:
        """Time that it lets another version's batch take while it waits."""
        return self.worker.settings.attempt_of(self.worker.deployment) * PATIENCE

    def wake(self) -> None:
        """Look anew: the version is wanted, or something waits for it."""
        if self.child is not None:
            self.child.queue(self)
        else:
            self._woken.set()

    def take(self, *, others_wait: bool) -> list[Ticket]:
        """Return the next batch."""
        return self.worker.take(others_wait=others_wait)

    def settle(self, answered: list[tuple[Ticket, Outcome]], took_s: float) -> None:
        """Take the answers of a batch."""
        self.worker.settle(answered, took_s)

    def expect(self, more: int, come: Callable[[], None]) -> None:
        """Call once so many more requests wait."""
        self.worker.backlog.expect(more, come)

    async def unload(self) -> None:
        """Leave the process until the version is wanted again."""
        if self.living:
            self._resting.clear()
            if not self._out.done():
                self._out.set_result(None)
            await self._resting.wait()

    async def end(self) -> None:
        """Leave the process for good."""
        self._ending = True
        if not self._out.done():
            self._out.set_result(None)
        if not self._at_home:
            self._task.cancel()
        self._woken.set()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while not self._ending:
            if not self.worker.wanted:
                self._woken.clear()
                await self._woken.wait()
                continue
            began_s = self._loop.time()
            self._out = self._loop.create_future()
            try:
                gone = await self._live(began_s)
            except NoRoomError:
                self.worker.unwant()
                continue
            except Exception as error:  # noqa: BLE001  whatever the starter raises is the reason
                gone = Gone(str(error) or type(error).__name__, self.slot, [], others=False)
            if gone is not None:
                mine = gone.slot is None or gone.slot == self.slot
                lived_s = self._loop.time() - began_s
                self.worker.lost(gone, mine=mine, replaced=self.leaving, lived_s=lived_s)
                if gone.others and not mine and self.worker.is_idle:
                    self._fleet.start_later(self.worker)
                pause_s = self.worker.breaker.pause_s if mine else 0.0
                await asyncio.wait([self._out], timeout=pause_s)

    async def _live(self, began_s: float) -> Gone | None:
        """Go through one life in a process; return how the process ended, None when it did not."""
        self.slot = -1
        await self._fleet.room(self)
        self._fleet.hold(self.home)
        try:
            placed = await self._fleet.place(self.worker.deployment)
            child = await self._fleet.child(self.home, placed.folder)
            self.slot = child.new_slot()
            gone = await self._loaded(child, placed)
            if gone is None:
                gone = await self._serve(child, began_s)
        finally:
            self.child, self.living, self._at_home = None, False, False
            self._fleet.leave(self.home)
            self._resting.set()
        if gone is not None:
            self.worker.restarts += 1
            if gone.slot == self.slot and gone.others:
                self._fleet.set_apart(self.worker)
        return gone

    async def _serve(self, child: Child, began_s: float) -> Gone | None:
        """Let requests travel until the process ends, or the version has to leave it."""
        self._at_home = True
        self.child = child
        child.seat(self)
        self.worker.started(self._loop.time() - began_s)
        await asyncio.wait([child.gone, self._out], return_when=asyncio.FIRST_COMPLETED)
        self.child = None
        if not child.gone.done():
            await child.unseat(self, last=not self._fleet.is_shared(self.home))
        return child.gone.result() if child.gone.done() else None

    async def _loaded(self, child: Child, placed: Placed) -> Gone | None:
        """Load the version, or leave the process as it was."""
        try:
            return await self._load(child, placed)
        except BaseException:  # interrupted, too: the order may be on its way
            if self._fleet.is_shared(self.home):
                self._fleet.see_off(child.unseat(self, last=False))
            raise

    async def _load(self, child: Child, placed: Placed) -> Gone | None:
        """Load and warm the version; NotReadyError when that fails and the process lives on."""
        deployment, settings = self.worker.deployment, self.worker.settings
        limit_s = settings.start_timeout_s
        if self._fleet.is_shared(self.home):
            limit_s = min(limit_s, settings.shared_load_s)
        asked = {"slot": self.slot, "folder": str(placed.folder), "path": placed.path}
        async with child.loading:
            before_bytes, began_s = anonymous_bytes(child.pid), self._loop.time()
            order = json.dumps(asked).encode()
            answer = await child.order(LOAD, order, slot=self.slot, limit_s=limit_s)
            hindrance = "The worker cannot serve" if answer.status != OK else ""
            for first in () if hindrance else placed.asked_first(deployment):
                answer = await child.order(V2, first.body, slot=self.slot, limit_s=limit_s)
                if isinstance(answer, Failure):
                    break
                hindrance = first.hindrance(answer.status, answer.body)
                if hindrance:
                    break
            grown = max(anonymous_bytes(child.pid) - before_bytes, 0)
            took_s = self._loop.time() - began_s
        if isinstance(answer, Failure):  # the process, not the version, has the last word
            return await child.gone
        if hindrance:
            why = f": {said(answer)}" if answer.status != OK else ""
            raise NotReadyError(f"{hindrance}{why}")
        self._fleet.sizes.learn(deployment.artifact_digest, Size(grown, took_s))
        return None


def _version(deployment: Deployment) -> str:
    return f"{deployment.model}@{deployment.number}"
