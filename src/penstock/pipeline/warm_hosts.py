"""The workers that a build asks its checks: forked from a host that is warm when training ends.

    begin          training begins: a host is started and imports what the code names
    worker         a fork of it, in milliseconds; without a host, or after its end, a new one
    begin_another  the model is there: a worker of its own, another start with another hash seed
    another        that one
    end            the build has ended, however

Hosts are kept in this process alone: a stretch that is done again elsewhere starts them anew.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple, TypeVar

from penstock.domain import JSON
from penstock.errors import PenstockError, StoppedError
from penstock.inference.asking import Worker
from penstock.inference.imports import worth_importing
from penstock.inference.programs import Host
from penstock.pipeline.workers import START_S, Workers
from penstock.ports import Use

IDLE_S = 300.0
"""A training that takes longer does not keep a host waiting; it is started anew afterwards."""
_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


class _Another(NamedTuple):
    """A worker of its own, and how it is ended."""

    worker: Worker
    stack: ExitStack


@dataclass(slots=True)
class _Kept:
    """What runs for one build."""

    host: Future[Host] | None = None
    another: Future[_Another] | None = None
    idle: threading.Timer | None = None
    names: Iterator[int] = field(default_factory=count)


class WarmHosts:
    """Keeps a host for each build under way.

    Parameters
    ----------
    home
        PENSTOCK_HOME.
    """

    def __init__(self, workers: Workers, home: Path) -> None:
        self._workers = workers
        self._home = home
        self._lock = threading.Lock()
        self._kept: dict[int, _Kept] = {}

    def place(self, run: int, folder: Path, name: str) -> Path:
        """Show a version's folder to the workers of a run; return where it lies for them."""
        shown = self._pool(run) / name
        shutil.rmtree(shown, ignore_errors=True)
        shutil.copytree(folder, shown, copy_function=_link)
        return shown

    def begin(self, run: int, lock_digest: str, code: Path) -> None:
        """Start a host, beside what else happens; it imports what the code names."""

        def warmed() -> Host:
            host = self._start(run, lock_digest)
            try:
                host.warm(worth_importing(code))
            except BaseException:
                host.close()
                raise
            return host

        with self._lock:
            kept = self._kept.setdefault(run, _Kept())
            if kept.host is None:
                kept.host = _beside(warmed)
                kept.idle = threading.Timer(IDLE_S, self._end_idle, [run])
                kept.idle.daemon = True
                kept.idle.start()

    @contextmanager
    def worker(self, run: int, lock_digest: str, folder: Path) -> Generator[tuple[Worker, JSON]]:
        """Fork a worker, let it load a placed folder, and end it.

        Yields
        ------
        tuple
            The worker, and what its `load` returned: perhaps that it does not load.

        Raises
        ------
        StoppedError
            PS556 it ended by itself, PS557 it takes too long, PS524 it cannot be forked.
        """
        imports = worth_importing(folder)
        memory_bytes = self._workers.memory_mb << 20
        path = self._sockets(run) / f"w{next(self._of(run).names)}"
        try:
            child = self._host(run, lock_digest).fork(
                path, imports=imports, memory_bytes=memory_bytes
            )
        except StoppedError as error:  # the host has ended meanwhile: once more, with a new one
            _logger.info("run %s: its host is started anew: %s", run, error.what)
            self._forget_host(run)
            host = self._host(run, lock_digest)
            child = host.fork(path, imports=imports, memory_bytes=memory_bytes)
        with Worker(child, path, start_timeout_s=START_S) as worker:
            yield worker, worker.load(folder)

    def begin_another(self, run: int, lock_digest: str, folder: Path) -> None:
        """Start a worker of its own beside what else happens; it begins by loading `folder`."""

        def started() -> _Another:
            another = self._start_another(run, lock_digest)
            with suppress(PenstockError):  # what it lacks, it will say when it is asked
                another.worker.load(folder)
            return another

        with self._lock:
            kept = self._kept.setdefault(run, _Kept())
            if kept.another is None:
                kept.another = _beside(started)

    @contextmanager
    def another(self, run: int, lock_digest: str, folder: Path) -> Generator[Worker]:
        """Let the worker of its own load a placed folder, and end it.

        Raises
        ------
        StoppedError
            The model does not load there, or it ended.
        """
        with self._lock:
            kept = self._kept.setdefault(run, _Kept())
            begun, kept.another = kept.another, None
        another = None if begun is None else _outcome(begun)
        if another is None:
            another = self._start_another(run, lock_digest)
        with another.stack:
            loaded(another.worker.load(folder))
            yield another.worker

    def end(self, run: int) -> None:
        """End what runs for a build; its files too."""
        with self._lock:
            kept = self._kept.pop(run, None)
        if kept is not None:
            if kept.idle is not None:
                kept.idle.cancel()
            another = None if kept.another is None else _outcome(kept.another)
            if another is not None:
                another.stack.close()
            host = None if kept.host is None else _outcome(kept.host)
            if host is not None:
                host.close()
        for folder in (self._sockets(run), self._sockets(run, another=True), self._pool(run)):
            shutil.rmtree(folder, ignore_errors=True)

    def _of(self, run: int) -> _Kept:
        with self._lock:
            return self._kept.setdefault(run, _Kept())

    def _host(self, run: int, lock_digest: str) -> Host:
        kept = self._of(run)
        if kept.idle is not None:
            kept.idle.cancel()
        host = None if kept.host is None else _outcome(kept.host)
        if host is None or not host.lives:
            if host is not None:
                host.close()
            kept.host = _done(host := self._start(run, lock_digest))
        return host

    def _forget_host(self, run: int) -> None:
        kept = self._of(run)
        host = None if kept.host is None else _outcome(kept.host)
        kept.host = None
        if host is not None:
            host.close()

    def _end_idle(self, run: int) -> None:
        with self._lock:
            waits = run in self._kept
        if waits:
            self._forget_host(run)

    def _start(self, run: int, lock_digest: str) -> Host:
        path = self._sockets(run) / "h"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        pool = self._pool(run)
        pool.mkdir(parents=True, exist_ok=True)
        process = self._workers.host(
            lock_digest, path, pool, memory_mb=2 * self._workers.memory_mb, use=Use.CHECK
        )
        return Host(process, path)

    def _start_another(self, run: int, lock_digest: str) -> _Another:
        # A folder of its own: each command's writable folders belong to that command's user.
        path = self._sockets(run, another=True) / "s"
        pool = self._pool(run)
        pool.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            worker = stack.enter_context(self._workers.empty(pool, lock_digest, path))
            return _Another(worker, stack.pop_all())

    def _pool(self, run: int) -> Path:
        return self._home / "runs" / str(run) / "pool"

    def _sockets(self, run: int, *, another: bool = False) -> Path:
        return self._home / "run" / f"{'a' if another else 'w'}{run}"


def loaded(told: JSON) -> JSON:
    """Return what a worker told of the version that it loaded; StoppedError if it did not."""
    if not told["ok"]:
        raise StoppedError(str(told["code"]), str(told["error"]), hint=str(told["hint"]))
    return told


def _beside(action: Callable[[], _T]) -> Future[_T]:
    """Do something in a thread of its own."""
    future = Future[_T]()

    def act() -> None:
        try:
            future.set_result(action())
        except BaseException as error:  # noqa: BLE001  who asks for the result is told
            future.set_exception(error)

    threading.Thread(target=act, daemon=True, name="warm-host").start()
    return future


def _done(value: _T) -> Future[_T]:
    future = Future[_T]()
    future.set_result(value)
    return future


def _outcome(future: Future[_T]) -> _T | None:
    """Wait for what was begun; None where it failed, which whoever begins anew will see."""
    error = future.exception()
    if error is None:
        return future.result()
    _logger.info("what was begun ahead failed: %s", error)
    return None


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
