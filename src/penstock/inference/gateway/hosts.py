"""The processes: a host for each environment lock, and the worker processes forked from it.

A `Host` has its environment's libraries imported and no model; a `Child` is a fork of it with
versions in slots, asked one after the other. Who lives where is decided in placing.py, how a
version comes into a child and leaves it in workers.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, cast

from penstock.domain import Deployment
from penstock.inference.gateway.batching import COME_BACK, Batch, Failure, Lane, Outcome, Ticket
from penstock.inference.gateway.placed import Placed
from penstock.inference.gateway.placing import Home
from penstock.inference.gateway.settings import GatewaySettings
from penstock.inference.gateway.sizes import anonymous_bytes
from penstock.inference.program.frames import END, FORK, UNLOAD, Reply

OK = 200
LINGER_S = 10.0
"""A host without children stays so long: the next child then starts in milliseconds."""
STOPPED = "It was stopped"
_CONNECT_EVERY_S = 0.01
_CONNECT_S = 10.0
"""A fork that does not listen by then is dead."""
_MANIFEST_CHARACTERS = 1 << 16
_KILL_WAIT_S = 5.0
_ORDER_S = 2.0
"""A host that does not end a child in this time is ended itself."""
_UNLOAD_S = 10.0
_LAST_WORDS_S = 0.5
_LINE_BYTES = 4096
_FOUNDATIONS = ("sklearn", "xgboost", "lightgbm", "catboost")
"""What a host imports for its children, where the version says that it needs it. Libraries that
start threads when they are imported or first used (onnxruntime, torch) must not be forked."""


class NotReadyError(Exception):
    """A process or a version did not get ready; the message says why."""


class Starter(Protocol):
    """Brings versions and programs to where a sandbox sees them; may raise."""

    def host(self, lock_digest: str, socket: Path, pool: Path) -> subprocess.Popen[bytes]:
        """Start the host program of an environment, as the leader of a process group.

        It listens at `socket`, whose folder is its own, and reads `pool`.
        """
        ...

    def place(self, deployment: Deployment, pool: Path) -> Placed:
        """Prove a version and show its folder in `pool`, where it lies then."""
        ...


class Host:
    """The program that forks the workers of one environment; started when it is needed."""

    def __init__(
        self, lock: str, starter: Starter, folder: Path, pool: Path, settings: GatewaySettings
    ) -> None:
        self.lock = lock
        self.pool = pool
        self.children = 0
        """How many live, or are about to."""
        self.size_bytes = 0
        """What it has for itself and shares with its children."""
        self._starter = starter
        self._folder = folder
        self._settings = settings
        self._starting = asyncio.Lock()
        self._now: _Running | None = None
        self._words: _LastWords | None = None
        self._numbers = count(1)

    async def fork(self, imports: Sequence[str], memory_bytes: int | None) -> tuple[Path, int]:
        """Make a child; return where it listens, and how many lines the host had said before."""
        running = await self._running()
        path = running.folder / f"c{next(self._numbers)}"
        lines = 0 if running.words is None else running.words.count
        asked = {"socket": str(path), "memory_bytes": memory_bytes, "imports": list(imports)}
        limit_s = self._settings.start_timeout_s
        answer = await running.lane.order(FORK, json.dumps(asked).encode(), limit_s=limit_s)
        if answer.status != OK:
            if isinstance(answer, Failure):
                await self._end(running)
            why = f"{said(answer)}{await self.last_words(lines)}"
            raise NotReadyError(f"No worker was forked: {why}")
        self.size_bytes = anonymous_bytes(running.pid)
        return path, lines

    async def end(self, path: Path) -> str:
        """End a child; return why the host did so already, if it did."""
        running = self._now
        if running is None or path.parent != running.folder:
            return ""
        order = json.dumps({"socket": str(path)}).encode()
        answer = await running.lane.order(END, order, limit_s=_ORDER_S)
        if isinstance(answer, Failure):
            await self._end(running)
            return ""
        with suppress(ValueError, KeyError, TypeError):
            return str(json.loads(answer.body)["reason"])
        return ""

    async def stop(self) -> None:
        """End the program and with it every child."""
        async with self._starting:
            if self._now is not None:
                await self._end(self._now)

    @property
    def pid(self) -> int | None:
        """Its program, while it runs."""
        return None if self._now is None else self._now.pid

    async def last_words(self, since: int = 0) -> str:
        """Return the last line that the host or a child of it said, after a colon."""
        if self._words is None:
            return ""
        wait_s = _LAST_WORDS_S if self._now is None else 0.0
        line = await asyncio.to_thread(self._words.last, since, wait_s)
        return f": {line}" if line else ""

    async def _running(self) -> _Running:
        """Return the program that runs, started now if none does."""
        async with self._starting:
            if self._now is not None and self._now.lane.lost.done():
                await self._end(self._now)
            if self._now is None:
                self._now = await self._start()
            return self._now

    async def _start(self) -> _Running:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir(parents=True, exist_ok=True)
        self.pool.mkdir(parents=True, exist_ok=True)
        path = folder / "h"
        process = await asyncio.to_thread(self._starter.host, self.lock, path, self.pool)
        self._words = words = None if process.stderr is None else _LastWords(process.stderr)

        def ended() -> str:
            if process.poll() is None:
                return ""
            return f"The worker ended with exit code {process.returncode} before it was ready"

        try:
            limit_s = self._settings.start_timeout_s
            lane = await connected(path, lambda: None, _nobody, ended, limit_s)
        except BaseException as error:
            await _finish(process, folder)
            if isinstance(error, NotReadyError):
                raise NotReadyError(f"{error}{await self.last_words()}") from None
            raise
        return _Running(process, lane, folder, words, lane.peer() or process.pid)

    async def _end(self, running: _Running) -> None:
        if self._now is running:
            self._now, self.size_bytes = None, 0
        running.lane.close(STOPPED)
        await _finish(running.process, running.folder)


class _Running(NamedTuple):
    """A host program that was started."""

    process: subprocess.Popen[bytes]
    lane: Lane
    folder: Path
    """Holds its sockets."""
    words: _LastWords | None
    pid: int


async def _finish(process: subprocess.Popen[bytes], folder: Path) -> None:
    kill(process)
    with suppress(subprocess.TimeoutExpired):  # a killed process ends; a stuck one later
        await asyncio.to_thread(process.wait, _KILL_WAIT_S)
    shutil.rmtree(folder, ignore_errors=True)


def _nobody(batch: Batch, replies: list[Reply], _: float) -> None:
    raise AssertionError(f"a host answered {len(replies)} requests, and gets none: {batch}")


class Slotted(Protocol):
    """A version in a slot of a child, as the child sees it."""

    @property
    def slot(self) -> int:
        """Its number in the process."""
        ...

    def take(self, *, others_wait: bool) -> list[Ticket]:
        """Return the next batch of requests for it."""
        ...

    @property
    def frame_s(self) -> float:
        """Time that it may take for a batch."""
        ...

    @property
    def patience_s(self) -> float:
        """Time that it lets another version's batch take while it waits."""
        ...

    def settle(self, answered: list[tuple[Ticket, Outcome]], took_s: float) -> None:
        """Take the answers of a batch, which was out so long."""
        ...

    def expect(self, more: int, come: Callable[[], None]) -> None:
        """Call once so many more requests wait, if they come before the next batch."""
        ...


class Gone(NamedTuple):
    """How a child ended."""

    reason: str
    slot: int | None
    """Whose frame was in its hands."""
    held: list[Ticket]
    """The requests of that frame."""
    others: bool
    """Whether other versions were loaded there."""


class Child:
    """One worker process. Versions in it take turns, a batch at a time."""

    def __init__(self, host: Host, home: Home) -> None:
        self.host = host
        self.home = home
        self.pid: int | None = None
        self.gone: asyncio.Future[Gone] = asyncio.get_running_loop().create_future()
        self.loading = asyncio.Lock()
        """One version is loaded at a time, so that each is measured."""
        self.seats: dict[int, Slotted] = {}
        """Who is loaded, by slot."""
        self.memory_bytes: int | None = None
        """What it may use."""
        self._lane: Lane | None = None
        self._turns: OrderedDict[int, Slotted] = OrderedDict()
        self._slots = count()
        self._freed: list[int] = []
        self._left: dict[int, asyncio.Future[None]] = {}
        self._watching: asyncio.Task[None] | None = None

    async def start(self, imports: Sequence[str], memory_bytes: int | None) -> None:
        """Fork it and connect; NotReadyError when that cannot be."""
        self.memory_bytes = memory_bytes
        self.host.children += 1
        try:
            path, said = await self.host.fork(imports, memory_bytes)
            lane = await connected(path, self._take, self._settle, lambda: "", _CONNECT_S)
        except BaseException:
            self.host.children -= 1
            raise
        self._lane, self.pid = lane, lane.peer()
        self._watching = asyncio.create_task(self._watch(lane, path, said))

    async def order(self, kind: int, body: bytes, *, slot: int, limit_s: float) -> Outcome:
        """Give an order, or ask on the gateway's own behalf."""
        assert self._lane is not None, "asked before it was started"
        return await self._lane.order(kind, body, slot=slot, limit_s=limit_s)

    def new_slot(self) -> int:
        """Return a slot that nobody has."""
        return self._freed.pop() if self._freed else next(self._slots)

    def seat(self, version: Slotted) -> None:
        """Let requests for a loaded version travel from now on."""
        self.seats[version.slot] = version
        self.queue(version)

    def queue(self, version: Slotted) -> None:
        """Give a version its turn: something waits for it."""
        if version.slot in self.seats and version.slot not in self._left:
            self._turns[version.slot] = version
            assert self._lane is not None, "loaded before it was started"
            if len(self._turns) > 1:
                self._lane.release()
            self._lane.wake()
            self._hurry(version)

    async def unseat(self, version: Slotted, *, last: bool) -> None:
        """Let no further request travel, wait for the last answer, give slot and memory back.

        With the last version the process goes, and needs no order.
        """
        assert self._lane is not None, "unseated before it was started"
        left = self._left[version.slot] = asyncio.get_running_loop().create_future()
        self._turns.pop(version.slot, None)
        batch = self._lane.in_flight
        if batch is not None and batch.slot == version.slot and _is_asked(batch):
            await asyncio.wait([left, self.gone], return_when=asyncio.FIRST_COMPLETED)
        self.seats.pop(version.slot, None)
        del self._left[version.slot]
        if not self.gone.done() and not last:
            order = json.dumps({"slot": version.slot}).encode()
            answer = await self.order(UNLOAD, order, slot=version.slot, limit_s=_UNLOAD_S)
            if not isinstance(answer, Failure):
                self._freed.append(version.slot)

    @property
    def in_hands(self) -> Batch | None:
        """The requests that it has in its hands, if any."""
        batch = None if self._lane is None else self._lane.in_flight
        return batch if batch is not None and _is_asked(batch) and not self.gone.done() else None

    @property
    def out_s(self) -> float:
        """How long it has had them."""
        assert self._lane is not None, "looked at before it was started"
        return self._lane.since_s()

    def give_up(self, reason: str) -> None:
        """Take the process for dead, whatever it does."""
        assert self._lane is not None, "given up before it was started"
        self._lane.close(reason)

    async def end(self) -> None:
        """End the process."""
        if self._lane is not None:
            self._lane.close(STOPPED)
        if self._watching is not None:
            await self._watching

    def _hurry(self, waiting: Slotted) -> None:
        """Let nobody in the process's hands keep another waiting for long."""
        lane = self._lane
        if lane is not None and lane.in_flight is not None:
            batch = lane.in_flight
            if batch.slot != waiting.slot and _is_asked(batch):
                lane.hurry(waiting.patience_s)

    def _take(self) -> Batch | None:
        while self._turns:
            slot, version = self._turns.popitem(last=False)
            tickets = version.take(others_wait=bool(self._turns))
            if tickets:
                limits = [version.frame_s, *(each.patience_s for each in self._next())]
                is_alone = not self._turns
                self._turns[slot] = version
                return Batch(tickets, slot, min(limits), is_alone)
        return None

    def _next(self) -> Iterable[Slotted]:
        return islice(self._turns.values(), 1)

    def _settle(self, batch: Batch, replies: list[Reply], took_s: float) -> None:
        answered: list[tuple[Ticket, Outcome]] = list(zip(batch.tickets, replies, strict=True))
        assert self._lane is not None, "answered before it was started"
        version = self.seats[batch.slot]
        version.settle(answered, took_s)
        version.expect(round(len(replies) * COME_BACK), self._lane.release)
        left = self._left.get(batch.slot)
        if left is not None and not left.done():
            left.set_result(None)

    async def _watch(self, lane: Lane, path: Path, said: int) -> None:
        """Wait for the end, find its reason, and say it to those who live here."""
        reason = await lane.lost
        batch = lane.in_flight
        held = batch.tickets if batch is not None and _is_asked(batch) else []
        if reason == STOPPED:
            await self.host.end(path)
        else:
            reason = await self.host.end(path) or f"{reason}{await self.host.last_words(said)}"
        self.host.children -= 1
        slot = None if batch is None else batch.slot
        others = any(seated != slot for seated in self.seats)
        self.gone.set_result(Gone(reason, slot, held, others))


def _is_asked(batch: Batch) -> bool:
    """Whether callers wait for it, not the gateway itself."""
    return batch.tickets[0].deployment is not None


async def connected(
    path: Path,
    take: Callable[[], Batch | None],
    settle: Callable[[Batch, list[Reply], float], None],
    ended: Callable[[], str],
    limit_s: float,
) -> Lane:
    """Connect as soon as somebody listens at `path`; NotReadyError once `ended` says why not."""
    loop = asyncio.get_running_loop()
    latest_s = loop.time() + limit_s
    while True:
        with suppress(FileNotFoundError, ConnectionRefusedError):
            _, lane = await loop.create_unix_connection(lambda: Lane(take, settle), str(path))
            return lane
        if reason := ended():
            raise NotReadyError(reason)
        if loop.time() > latest_s:
            raise NotReadyError(f"The worker was not ready in {limit_s:g} s")
        await asyncio.sleep(_CONNECT_EVERY_S)


def said(answer: Outcome) -> str:
    """Return what an answer that is no success says."""
    if isinstance(answer, Failure):
        return answer.what
    with suppress(ValueError, TypeError):
        told: Any = json.loads(answer.body)
        if isinstance(told, dict) and "error" in told:
            facts = cast("dict[str, Any]", told)
            parts = (facts.get("code"), facts["error"], facts.get("hint"))
            return " ".join(str(part) for part in parts if part)[:500]
    return answer.body.decode(errors="replace")[:500]


def foundations(folder: Path) -> list[str]:
    """Return what a host may import before it forks a worker for the version in `folder`."""
    words = ""
    for name in ("penstock.json", "MLmodel"):
        for path in (folder / name, folder / "model" / name):
            with suppress(OSError, UnicodeDecodeError):
                words += path.read_text("utf-8")[:_MANIFEST_CHARACTERS]
    found = [name for name in _FOUNDATIONS if name in words]
    pickled = any(f'"format": "{name}"' in words for name in ("joblib", "pickle", "skops"))
    return found or (["sklearn"] if pickled else [])


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started, with the group that it leads."""
    if process.poll() is not None:
        return
    assert process.pid > 1, process.pid
    if os.getpgid(process.pid) == process.pid:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


class _LastWords:
    """Reads what a process says on a pipe, so that it never blocks, and keeps the end of it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.count = 0
        """Lines that were said."""
        self._pipe = pipe
        self._lines: deque[tuple[int, bytes]] = deque(maxlen=20)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def last(self, since: int, wait_s: float) -> str:
        """Return the last line after the first `since`; wait so long for the end."""
        self._thread.join(wait_s)
        lines = [line.decode(errors="replace").strip() for n, line in self._lines if n > since]
        return next((line for line in reversed(lines) if line), "")[:500]

    def _read(self) -> None:
        with self._pipe:
            for line in iter(lambda: self._pipe.readline(_LINE_BYTES), b""):
                self.count += 1
                self._lines.append((self.count, line))
