"""All workers, hosts and processes, made to match the deployments and the memory there is."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections import Counter, defaultdict, deque
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from penstock.domain import Deployment, Environment, Role
from penstock.errors import UnreachableError
from penstock.inference.gateway.batching import Settle
from penstock.inference.gateway.hosts import (
    LINGER_S,
    Child,
    Host,
    NotReadyError,
    Starter,
    foundations,
)
from penstock.inference.gateway.placed import Placed
from penstock.inference.gateway.placing import (
    Home,
    Key,
    Memory,
    Room,
    homes,
    is_warm,
    key_of,
    make_room,
    rivals,
    start_rank,
    too_large,
)
from penstock.inference.gateway.settings import GatewaySettings
from penstock.inference.gateway.sizes import Sizes
from penstock.inference.gateway.state import State
from penstock.inference.gateway.watching import LOOK_EVERY_S, STANDS_STILL, Watch
from penstock.inference.gateway.workers import NoRoomError, Seat, Worker

MAX_SOCKET_PATH = 107
"""Longer paths the kernel refuses."""
MAX_TURNS = 3
"""Processes at most that stand in for one another: two may keep requests while one answers."""
_logger = logging.getLogger(__name__)
_ROOM_EVERY_S = 0.05
_NEXT_S = 10.0
"""Starts wait for one another, but no longer than this."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a fleet keeps what."""

    sockets: Path
    pools: Path
    """Versions as the sandboxes see them; on the file system of the unpacked versions."""
    sizes: Path | None = None
    """File for the measured sizes."""


class Fleet:
    """All workers, made to match the deployments."""

    def __init__(
        self, starter: Starter, folders: Folders, settle: Settle, settings: GatewaySettings
    ) -> None:
        self.sizes = Sizes(folders.sizes)
        self._starter = starter
        self._settle = settle
        self._settings = settings
        self._sockets = folders.sockets / f"g{os.getpid()}"
        self._pools = folders.pools / f"g{os.getpid()}"
        self._numbers = count(1)
        self._stopping = False
        self._deployments: Sequence[Deployment] = ()
        self._rivals: set[Key] = set()
        self._apart: set[Key] = set()
        self._workers: dict[Key, Worker] = {}
        self._leaving: dict[Worker, asyncio.Task[None]] = {}
        self._hosts: dict[str, Host] = {}
        self._children: dict[Home, asyncio.Task[Child]] = {}
        self._holds: Counter[Home] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._starts: defaultdict[str, deque[Worker]] = defaultdict(deque)
        self._starters: dict[str, asyncio.Task[None]] = {}
        self._turns: Counter[Home] = Counter()
        """How often each process of a version was replaced, by its first."""
        longest = len(str(self._sockets / "9999" / "9999" / "c99999"))
        if longest > MAX_SOCKET_PATH:
            raise UnreachableError(
                "PS520",
                f"The folder {folders.sockets} is too long for sockets: "
                f"{longest} > {MAX_SOCKET_PATH}.",
                hint="Set PENSTOCK_HOME to a folder with a shorter path.",
            )
        _remove_left_over(folders.sockets)
        _remove_left_over(folders.pools)
        self._watching = asyncio.create_task(self._watch())

    # ---- what the request path asks -----------------------------------------------------------

    def match(self, deployments: Iterable[Deployment]) -> None:
        """Start, keep, move and stop workers so that exactly these versions run."""
        self._deployments = list(deployments)
        self._rivals = rivals(self._deployments)
        wanted = {key_of(deployment): deployment for deployment in self._deployments}
        for key in self._workers.keys() - wanted.keys():
            worker = self._workers.pop(key)
            task = self._leaving[worker] = asyncio.create_task(worker.stop())
            task.add_done_callback(lambda _, gone=worker: self._leaving.pop(gone, None))
        new: list[Worker] = []
        for key, deployment in wanted.items():
            worker = self._workers.get(key)
            if worker is None:
                worker = Worker(deployment, self, self._settle, self._settings)
                self._workers[key] = worker
                new.append(worker)
            worker.deployment = deployment
        self._apart &= wanted.keys()
        self._place_all()
        self._start(new)

    def worker(self, deployment: Deployment) -> Worker | None:
        """Return the worker of a version."""
        return self._workers.get(key_of(deployment))

    def find(self, key: Key) -> Worker | None:
        """Return the worker of what `key_of` named."""
        return self._workers.get(key)

    def is_ready(self, deployment: Deployment) -> bool:
        """Whether a request may be sent there; a champion may be starting, a challenger not."""
        worker = self._workers.get(key_of(deployment))
        if worker is None:
            return False
        if deployment.role is Role.CONTROL:
            return worker.is_ready
        if deployment.role is Role.CHALLENGER:
            return worker.is_ready or worker.state is State.UNLOADED
        return worker.accepts

    def workers(self) -> list[Worker]:
        """Return all of them, those that are leaving too."""
        return [*self._workers.values(), *self._leaving]

    def shared_with(self, worker: Worker) -> int:
        """Return how many other versions are in a process of this one."""
        children = [seat.child for seat in worker.seats.values() if seat.child is not None]
        return max((len(child.seats) - 1 for child in children), default=0)

    def size_bytes(self, worker: Worker) -> int | None:
        """Return what a version takes, as measured when it was loaded last."""
        size = self.sizes.of(worker.deployment.artifact_digest)
        return None if size is None else size.memory_bytes

    async def stop(self) -> None:
        """End every process."""
        self._stopping = True
        self._watching.cancel()
        self.match([])
        for task in self._starters.values():
            task.cancel()
        await asyncio.gather(*self._leaving.values())
        while self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(host.stop() for host in self._hosts.values()))
        await self.sizes.close()
        shutil.rmtree(self._sockets, ignore_errors=True)
        shutil.rmtree(self._pools, ignore_errors=True)

    # ---- what seats ask -----------------------------------------------------------------------

    async def room(self, seat: Seat) -> None:
        """Have memory granted to a seat, from others if need be.

        Raises
        ------
        NotReadyError
            It cannot fit beside the rollouts.
        NoRoomError
            It does not fit now, and nobody waits for it.
        """
        worker = seat.worker
        while True:
            coming = self._room(worker, extra=seat.home)
            memory = self._memory()
            if sentence := too_large(self._fixed(worker), coming, memory):
                raise NotReadyError(
                    f"{sentence} (PS525). Raise serving.memory_mb in server.toml, or make the "
                    "model smaller"
                )
            loaded = [self._room(other) for other in self.workers() if other.living]
            go = make_room(loaded, coming, memory, time.monotonic())
            if go == []:
                seat.living = True
                return
            waited_for = not worker.is_idle or worker.key in self._rivals
            if not waited_for or not worker.wanted:
                raise NoRoomError
            for key in go or ():
                if key in self._workers:
                    await self._workers[key].unload()
            if go is None:
                await asyncio.sleep(_ROOM_EVERY_S)

    async def place(self, deployment: Deployment) -> Placed:
        """Prove a version and bring it to where its sandbox sees it."""
        pool = self._host(deployment.lock_digest).pool
        pool.mkdir(parents=True, exist_ok=True)
        return await asyncio.to_thread(self._starter.place, deployment, pool)

    def hold(self, home: Home) -> None:
        """Say that a version lives in a process, or is about to."""
        self._holds[home] += 1

    def leave(self, home: Home) -> None:
        """Say that it does no more; the last one ends the process."""
        self._holds[home] -= 1
        if self._holds[home] == 0:
            del self._holds[home]
            task = self._children.pop(home, None)
            if task is not None:
                self.see_off(self._end(task, home.lock))

    def is_shared(self, home: Home) -> bool:
        """Whether others live in a process too, and go on living there."""
        return self._holds[home] > 1 and not self._stopping

    async def child(self, home: Home, folder: Path) -> Child:
        """Return the process of a home that is held, started now if it does not run."""
        while True:
            task = self._children.get(home)
            if task is None or _is_over(task):
                task = asyncio.create_task(self._fork(home, folder))
                self._children[home] = task
            child = await asyncio.shield(task)
            if self._children.get(home) is task:
                return child

    def set_apart(self, worker: Worker) -> None:
        """Give a version a process of its own: it ended one that it shared."""
        if worker.key in self._workers and worker.key not in self._apart:
            self._apart.add(worker.key)
            self._place_all()

    def start_later(self, worker: Worker) -> None:
        """Have a version that nobody waits for loaded after those that somebody does."""
        worker.unwant()
        self._start([worker])

    def see_off(self, leaving: Coroutine[Any, Any, None]) -> None:
        """Let something end in its own time, but before the fleet does."""
        task = asyncio.create_task(leaving)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- within -------------------------------------------------------------------------------

    def _place_all(self) -> None:
        limit_s = self._settings.shared_load_s
        slow = {
            key_of(deployment)
            for deployment in self._deployments
            if self.sizes.load_s(deployment.artifact_digest) > limit_s
        }
        apart, shared = self._apart | slow, self._settings.shared
        placed = homes(self._deployments, apart=apart, shared=shared)
        for key, places in placed.items():
            turns = (home._replace(turn=self._turns[home]) for home in places)
            self._workers[key].move(tuple(turns))

    async def _watch(self) -> None:
        """Mend what would cost requests."""
        watch = Watch()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            hosts = [host for host in self._hosts.values() if host.pid is not None]
            children = [task.result() for task in self._children.values() if _is_alive(task)]
            stuck = watch.stuck(each.pid for each in (*hosts, *children))
            for child in children:
                if child.pid in stuck:
                    _logger.warning("Worker %s: %s", child.pid, STANDS_STILL)
                    child.give_up(STANDS_STILL)
            for host in hosts:
                if host.pid in stuck:
                    self.see_off(host.stop())
            watch.renew(children, self._renew)

    def _renew(self, seat: Seat) -> bool:
        """Have a version live in a fresh process, and leave the old one when that is ready."""
        worker, home = seat.worker, seat.home
        alike = sum(held[:2] == home[:2] for held in self._holds)
        if alike >= MAX_TURNS or not self._has_room(worker, home):
            return False
        _logger.info("%s@%d gets a fresh process", *worker.key[1:3])
        first = home._replace(turn=0)
        if self._workers.get(worker.key) is not worker:  # it leaves, and has requests to answer
            self._turns[first] += 1
            worker.move((home._replace(turn=self._turns[first], shared=False),))
        elif home.shared:
            self.set_apart(worker)
        else:
            self._turns[first] += 1
            self._place_all()
        return True

    def _has_room(self, worker: Worker, home: Home) -> bool:
        """Say whether a version can be loaded once more without unloading another."""
        coming = self._room(worker, extra=home._replace(turn=-1))
        loaded = [self._room(other) for other in self.workers() if other.living]
        return make_room(loaded, coming, self._memory(), time.monotonic()) == []

    def _start(self, new: list[Worker]) -> None:
        """Load what should be there before anybody asks, those that matter most first."""
        ranked = sorted(new, key=lambda worker: start_rank(worker.deployment, self._rivals))
        for worker in ranked:
            deployment = worker.deployment
            if worker.key in self._rivals or deployment.role is Role.CONTROL:
                worker.want()
            elif deployment.environment is Environment.TEST or _at_start(deployment):
                worker.queued = True
                self._starts[deployment.lock_digest].append(worker)
        for lock, waiting in self._starts.items():
            running = self._starters.get(lock)
            if waiting and (running is None or running.done()):
                self._starters[lock] = asyncio.create_task(_one_by_one(waiting))

    def _fixed(self, coming: Worker) -> list[Room]:
        """Return the rollouts' versions, which stay; a champion does not mind its challenger."""
        others = [self._workers[key] for key in self._rivals if key in self._workers]
        if coming.deployment.role not in {Role.CHALLENGER, Role.CONTROL}:
            same = coming.key[:2]
            others = [other for other in others if other.key[:2] != same]
        return [self._room(other, planned=True) for other in others]

    def _room(self, worker: Worker, *, extra: Home | None = None, planned: bool = False) -> Room:
        living = worker.seats.values() if planned else worker.living
        places = {seat.home for seat in living if not (planned and seat.leaving)}
        if extra is not None:
            places.add(extra)
        return Room(
            worker.key,
            tuple(places),
            self.sizes.guess(worker.deployment.artifact_digest),
            fixed=worker.key in self._rivals,
            warm=is_warm(worker.deployment),
            busy=not worker.is_idle or worker.state is not State.READY,
            used_s=worker.used_s,
        )

    def _memory(self) -> Memory:
        hosts = {name: host.size_bytes for name, host in self._hosts.items()}
        return Memory(self._settings.memory_bytes, hosts, self._settings.idle_s)

    def _host(self, lock: str) -> Host:
        if lock not in self._hosts:
            number = next(self._numbers)
            self._hosts[lock] = Host(
                lock,
                self._starter,
                self._sockets / str(number),
                self._pools / str(number),
                self._settings,
            )
        return self._hosts[lock]

    async def _fork(self, home: Home, folder: Path) -> Child:
        child = Child(self._host(home.lock), home)
        settings = self._settings
        bound = settings.memory_bytes if home.shared else settings.worker_memory_bytes
        await child.start(foundations(folder), bound)
        return child

    async def _end(self, task: asyncio.Task[Child], lock: str) -> None:
        with suppress(Exception):  # a process that did not start has nothing to end
            await (await task).end()
        loop = asyncio.get_running_loop()
        loop.call_later(LINGER_S, lambda: self.see_off(self._end_host(lock)))

    async def _end_host(self, lock: str) -> None:
        """End a host that nobody needed for a while."""
        host = self._hosts.get(lock)
        held = any(home.lock == lock for home in self._holds)
        if host is not None and not held and not host.children:
            del self._hosts[lock]
            await host.stop()
            shutil.rmtree(host.pool, ignore_errors=True)


async def _one_by_one(waiting: deque[Worker]) -> None:
    while waiting:
        worker = waiting.popleft()
        if worker.queued:
            worker.want()
            with suppress(TimeoutError):
                await asyncio.wait_for(worker.decided(), _NEXT_S)


def _at_start(deployment: Deployment) -> bool:
    return deployment.serving.get("load") != "first request"


def _is_alive(task: asyncio.Task[Child]) -> bool:
    return task.done() and not _is_over(task)


def _is_over(task: asyncio.Task[Child]) -> bool:
    if not task.done():
        return False
    return task.cancelled() or task.exception() is not None or task.result().gone.done()


def _remove_left_over(folder: Path) -> None:
    """Remove the folders of gateways that were killed."""
    for left in folder.glob("g*"):
        if left.name[1:].isdigit() and not psutil.pid_exists(int(left.name[1:])):
            shutil.rmtree(left, ignore_errors=True)
