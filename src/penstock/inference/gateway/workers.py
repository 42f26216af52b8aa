"""The worker processes: one for each version that runs, started, watched and ended here.

A `Worker` lives as long as its deployment and outlives its processes: when one dies, the next is
started at once, later after growing pauses. `Fleet` makes the workers match the deployments.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import psutil

from penstock.domain import Deployment, Role
from penstock.errors import UnreachableError
from penstock.inference.gateway.batching import (
    Backlog,
    Failure,
    Lane,
    LaneLimits,
    Outcome,
    Settle,
    Ticket,
)
from penstock.inference.gateway.settings import GatewaySettings
from penstock.inference.program.frames import METADATA

StartWorker = Callable[[Deployment, Path], "subprocess.Popen[bytes]"]
"""Starts the worker program so that it listens at the path; may raise."""
Key = tuple[str, str, int, str]
"""Environment, model, number, digest of the artifact."""

MAX_SOCKET_PATH = 107
"""Longer paths the kernel refuses."""
MAX_DEATHS = 2
"""A request in whose company so many workers died is not tried again."""
FAILED_AFTER = 3
"""Deaths in a row, each soon after the start, until waiting requests are refused."""
SETTLED_S = 10.0
"""A worker that lived so long was well."""
PAUSES_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_CONNECT_EVERY_S = 0.01
_KILL_WAIT_S = 5.0
_DEADLINES_FIRST_S = 0.1
"""So much longer than its requests' deadline a worker may take before it is killed."""
_LAST_WORDS_S = 0.5
_LINE_BYTES = 4096


class State(StrEnum):
    """What a worker is doing."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPING = "stopping"


class _NotReadyError(Exception):
    """The worker program did not get ready; the message says why."""


class Worker:
    """One version, kept running."""

    def __init__(
        self,
        deployment: Deployment,
        start: StartWorker,
        socket: Path,
        settle: Settle,
        settings: GatewaySettings,
    ) -> None:
        self.deployment = deployment
        """As the routes have it now; role and share change while the process stays."""
        self.reason = ""
        self.cold_start_s: float | None = None
        self.restarts = 0
        self.pid: int | None = None
        self._start = start
        self._socket = socket
        self._settle = settle
        self._settings = settings
        self._backlog = Backlog(
            max_requests=settings.queue_requests, max_bytes=settings.queue_bytes
        )
        self._lane: Lane | None = None
        self._words: _LastWords | None = None
        self._state = State.STARTING
        self._was_ready = False
        loop = asyncio.get_running_loop()
        self._leaving = False
        self._drained: asyncio.Future[None] = loop.create_future()
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._task = asyncio.create_task(self._run())

    @property
    def state(self) -> State:
        """What it is doing."""
        return State.STOPPING if self._leaving else self._state

    @property
    def accepts(self) -> bool:
        """Whether a request is well placed here: ready, or about to be again."""
        restarting = self._was_ready and self._state is State.STARTING
        return not self._leaving and (self._state is State.READY or restarting)

    def submit(self, ticket: Ticket) -> bool:
        """Let a request wait for the worker; False when too much waits already."""
        if not self._backlog.push(ticket):
            return False
        if self._lane is not None:
            self._lane.wake()
        return True

    async def stop(self) -> None:
        """Answer what waits, then end the process."""
        self._leaving = True
        if not self._is_idle():
            await asyncio.wait([self._drained], timeout=self._settings.deadline_s)
        if not self._stopped.done():
            self._stopped.set_result(None)
        await self._task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        deaths = 0
        while not self._stopped.done():
            began_s = loop.time()
            reason = await self._live()
            if self._stopped.done():
                break
            if self._words is not None:
                last_line = await asyncio.to_thread(self._words.last)
                reason = f"{reason}: {last_line}" if last_line else reason
            deaths = 1 if loop.time() - began_s > SETTLED_S else deaths + 1
            self.restarts += 1
            self._bury(reason, deaths)
            pause_s = PAUSES_S[min(deaths, len(PAUSES_S)) - 1]
            await asyncio.wait([self._stopped], timeout=pause_s)
        self._refuse(self._backlog.clear(), "it was stopped")

    async def _live(self) -> str:
        """Go through one process's life and return why it ended."""
        self._words = None
        process: subprocess.Popen[bytes] | None = None
        began_s = asyncio.get_running_loop().time()
        try:
            self._socket.parent.mkdir(parents=True, exist_ok=True)
            process = await asyncio.to_thread(self._start, self.deployment, self._socket)
            self.pid = process.pid
            self._words = None if process.stderr is None else _LastWords(process.stderr)
            lane = await self._connect(process)
            await self._wait_ready(lane)
            self.cold_start_s = asyncio.get_running_loop().time() - began_s
            self._state, self._was_ready, self.reason = State.READY, True, ""
            lane.open()
            await asyncio.wait([lane.lost, self._stopped], return_when=asyncio.FIRST_COMPLETED)
            return lane.lost.result() if lane.lost.done() else "It was stopped"
        except Exception as error:  # noqa: BLE001  whatever the starter raises is the reason
            return str(error)
        finally:
            await self._end(process)

    async def _connect(self, process: subprocess.Popen[bytes]) -> Lane:
        """Connect as soon as the worker listens."""
        loop = asyncio.get_running_loop()
        latest_s = loop.time() + self._settings.start_timeout_s
        limits = LaneLimits(
            self._settings.batch_requests, self._settings.batch_bytes, self._frame_s
        )
        while True:
            try:
                _, self._lane = await loop.create_unix_connection(
                    lambda: Lane(self._backlog, self._settled, limits), str(self._socket)
                )
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.wait([self._stopped], timeout=_CONNECT_EVERY_S)
            else:
                return self._lane
            if self._stopped.done():
                raise _NotReadyError("It was stopped")
            if process.poll() is not None:
                raise _NotReadyError(
                    f"The worker ended with exit code {process.returncode} before it was ready"
                )
            if loop.time() > latest_s:
                raise _NotReadyError(
                    f"The worker was not ready in {self._settings.start_timeout_s:g} s"
                )

    async def _wait_ready(self, lane: Lane) -> None:
        """Ask the worker what it is; its answer says that it is ready."""
        loop = asyncio.get_running_loop()
        question = Ticket(METADATA, b"", b"", loop.create_future())
        lane.question(question)
        await asyncio.wait(
            [question.future, lane.lost, self._stopped], return_when=asyncio.FIRST_COMPLETED
        )
        if not question.future.done():
            raise _NotReadyError(lane.lost.result() if lane.lost.done() else "It was stopped")
        reply = question.future.result()
        if isinstance(reply, Failure) or reply.status != 200:
            what = reply.what if isinstance(reply, Failure) else reply.body.decode()
            raise _NotReadyError(f"The worker cannot serve: {what[:500]}")
        answer: Any = msgspec.json.decode(reply.body)
        if isinstance(answer, dict) and cast("dict[str, Any]", answer).get("ok") is False:
            raise _NotReadyError(f"The worker cannot serve: {answer['error']}")

    async def _end(self, process: subprocess.Popen[bytes] | None) -> None:
        lane, self._lane, self.pid = self._lane, None, None
        if lane is not None:
            held, lane.in_flight = lane.in_flight, []
            lane.close("It was stopped")
            self._give_back(held + self._backlog.clear(), in_hand=len(held))
        if self._state is State.READY:
            self._state = State.STARTING
        if process is not None:
            _kill(process)
            with suppress(subprocess.TimeoutExpired):  # a killed process ends; a stuck one later
                await asyncio.to_thread(process.wait, _KILL_WAIT_S)
        shutil.rmtree(self._socket.parent, ignore_errors=True)

    def _bury(self, reason: str, deaths: int) -> None:
        self.reason = reason
        if not self._was_ready or deaths >= FAILED_AFTER:
            self._state = State.FAILED
            self._refuse(self._backlog.clear(), reason)

    def _give_back(self, held: list[Ticket], *, in_hand: int) -> None:
        """Decide on the requests of a worker that died, the first of them in its hands.

        Who can ask the champion does so at once; the others wait for the next process.
        """
        again: list[Ticket] = []
        for place, ticket in enumerate(held):
            ticket.deaths += place < in_hand
            if ticket.future.done() or ticket.kind == METADATA:
                continue
            if ticket.has_fallback or ticket.quiet or ticket.deaths >= MAX_DEATHS:
                what = f"{_version(self.deployment)} did not survive this request."
                failure = Failure(502, "PS511", what, "Check its values; see the worker's log.")
                self._settle([(ticket, failure)])
            else:
                again.append(ticket)
        self._backlog.give_back(again)

    def _refuse(self, tickets: list[Ticket], reason: str) -> None:
        what = f"{_version(self.deployment)} is not ready: {reason}."
        failure = Failure(503, "PS503", what, "Try again in a second.")
        if tickets:
            self._settle([(ticket, failure) for ticket in tickets])

    def _settled(self, answered: list[tuple[Ticket, Outcome]]) -> None:
        if answered[0][0].kind == METADATA:
            answered[0][0].future.set_result(answered[0][1])
            return
        self._settle(answered)
        if self._leaving and self._is_idle() and not self._drained.done():
            self._drained.set_result(None)

    def _is_idle(self) -> bool:
        return not self._backlog and (self._lane is None or not self._lane.in_flight)

    def _frame_s(self) -> float:
        if self._state is not State.READY:
            return self._settings.start_timeout_s
        return attempt_s(self.deployment, self._settings) + _DEADLINES_FIRST_S


class _LastWords:
    """Reads what a process says on a pipe, so that it never blocks, and keeps the end of it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._lines: deque[bytes] = deque(maxlen=20)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def last(self) -> str:
        """Return the last line, once the process has ended."""
        self._thread.join(_LAST_WORDS_S)
        lines = [line.decode(errors="replace").strip() for line in self._lines]
        return next((line for line in reversed(lines) if line), "")[:500]

    def _read(self) -> None:
        with self._pipe:
            for line in iter(lambda: self._pipe.readline(_LINE_BYTES), b""):
                self._lines.append(line)


class Fleet:
    """All workers, made to match the deployments."""

    def __init__(
        self, start: StartWorker, sockets: Path, settle: Settle, settings: GatewaySettings
    ) -> None:
        self._start = start
        self._settle = settle
        self._settings = settings
        self._sockets = sockets / f"g{os.getpid()}"
        self._numbers = count(1)
        self._workers: dict[Key, Worker] = {}
        self._leaving: dict[Worker, asyncio.Task[None]] = {}
        longest = len(str(self._sockets / "99999" / "s"))
        if longest > MAX_SOCKET_PATH:
            raise UnreachableError(
                "PS520",
                f"The folder {sockets} is too long for sockets: {longest} > {MAX_SOCKET_PATH}.",
                hint="Set PENSTOCK_HOME to a folder with a shorter path.",
            )
        _remove_left_over(sockets)

    def match(self, deployments: Iterable[Deployment]) -> None:
        """Start, keep and stop workers so that exactly these versions run."""
        wanted = {_key(deployment): deployment for deployment in deployments}
        for key, deployment in wanted.items():
            worker = self._workers.get(key)
            if worker is None:
                self._workers[key] = self._begin(deployment)
            else:
                worker.deployment = deployment
        for key in self._workers.keys() - wanted.keys():
            worker = self._workers.pop(key)
            task = self._leaving[worker] = asyncio.create_task(worker.stop())
            task.add_done_callback(lambda _, gone=worker: self._leaving.pop(gone, None))

    def worker(self, deployment: Deployment) -> Worker | None:
        """Return the worker of a version."""
        return self._workers.get(_key(deployment))

    def is_ready(self, deployment: Deployment) -> bool:
        """Whether a request may be sent there; a champion may be restarting, others not."""
        worker = self._workers.get(_key(deployment))
        if worker is None:
            return False
        if deployment.role is Role.CHALLENGER:
            return worker.state is State.READY
        return worker.accepts

    def workers(self) -> list[Worker]:
        """Return all of them, those that are leaving too."""
        return [*self._workers.values(), *self._leaving]

    async def stop(self) -> None:
        """End every process."""
        self.match([])
        await asyncio.gather(*self._leaving.values())
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _begin(self, deployment: Deployment) -> Worker:
        socket = self._sockets / str(next(self._numbers)) / "s"
        return Worker(deployment, self._start, socket, self._settle, self._settings)


def attempt_s(deployment: Deployment, settings: GatewaySettings) -> float:
    """Return the time for one attempt: a challenger leaves half of it to the champion."""
    share = 0.5 if deployment.role is Role.CHALLENGER else 1.0
    return settings.deadline_of(deployment.serving) * share


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


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started, with the group that it leads."""
    if process.poll() is not None:
        return
    assert process.pid > 1, process.pid
    if os.getpgid(process.pid) == process.pid:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _remove_left_over(sockets: Path) -> None:
    """Remove the folders of gateways that were killed."""
    for folder in sockets.glob("g*"):
        if folder.name[1:].isdigit() and not psutil.pid_exists(int(folder.name[1:])):
            shutil.rmtree(folder, ignore_errors=True)


def _key(deployment: Deployment) -> Key:
    where = deployment.environment.value
    return where, deployment.model, deployment.number, deployment.artifact_digest


def _version(deployment: Deployment) -> str:
    return f"{deployment.model}@{deployment.number}"
