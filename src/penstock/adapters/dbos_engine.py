"""The durable engine: DBOS on the records' own database, SQLite or PostgreSQL.

Work is cut into stretches, short async functions of one text. A stretch is enqueued in the
transaction that decides on it, runs in the engine process, and every step of it leaves its
result in the database, so that a killed engine goes on behind the last step done. The same
class serves every process: only the engine process calls `launch`; the others enqueue, cancel
and ask for states.
"""

from __future__ import annotations

import asyncio
import fcntl
import inspect
import json
import logging
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import sqlalchemy as sa
from dbos import (
    DBOS,
    DBOSClient,
    DBOSConfig,
    DBOSPortableJSONSerializer,
    EnqueueOptions,
    ScheduleInput,
    StepOptions,
    _workflow_commands,
)
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError

from penstock import errors
from penstock.errors import (
    ConfigurationError,
    ConflictError,
    Fault,
    PenstockError,
    UnreachableError,
    damaged_database,
)
from penstock.ports import Finished

APPLICATION = "penstock"
# Work that waits in the database is found again only under the version it was enqueued with.
APPLICATION_VERSION = "penstock-pipelines-1"
# Every start of the engine counts as an attempt; this many and the stretch is given up.
RECOVERY_ATTEMPTS = 20
TICK = "tick"
QUEUES = ("build", "deploy", "monitor", TICK)
DELAY_POLL_S = 0.25
RETRY_PAUSES_S = (1.0, 3.0, 9.0)
_STATES = {
    "DELAYED": "waiting",
    "ENQUEUED": "waiting",
    "PENDING": "running",
    "SUCCESS": "done",
    "ERROR": "failed",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
    "CANCELLED": "cancelled",
}
# The write-ahead log is copied by the records alone: `records.sqlite`.
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_SQLITE_LOG = ("wal_autocheckpoint=0", "journal_size_limit=1048576")
_SQLITE = ("busy_timeout=30000", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")
# Asked after the kernel was told to kill us with the engine: it may have died just before.
_STILL_OURS = '[ "$PPID" = "$0" ] || exit 127; exec "$@"'

logger = logging.getLogger(__name__)
Stretch = Callable[[str], Awaitable[None]]


class DbosEngine:
    """Port `Engine`; see there for what each method promises.

    Parameters
    ----------
    url
        The records' database: ``sqlite:////…/penstock.db`` or ``postgresql+psycopg://…``. The
        engine's tables are made or migrated in it at once.
    home
        Holds ``engine.lock``; made if it is not there.
    executor_id
        Names this engine process for good: after a crash, the process with the same name takes
        up what it left.
    engine
        SQLAlchemy engine for the durable steps; None makes one.
    builds
        How many of the queue ``build`` this process runs at the same time.
    retry_pauses_s
        Pauses before a step whose error is retryable is tried again.
    """

    def __init__(
        self,
        url: str,
        *,
        home: Path,
        executor_id: str,
        engine: sa.Engine | None = None,
        builds: int = 2,
        retry_pauses_s: Sequence[float] = RETRY_PAUSES_S,
    ) -> None:
        self.url = url
        self.home = home
        self.executor_id = executor_id
        self._builds = builds
        self._engine = engine or durable_engine(url)
        self._owns_engine = engine is None
        self._retry_pauses_s = tuple(retry_pauses_s)
        self._stretches: dict[str, Stretch] = {}
        self._schedules: dict[str, int] = {}
        self._lock: IO[str] | None = None
        # Of the library itself only what needs attention is worth a line in our log.
        logging.getLogger("dbos").addHandler(logging.NullHandler())
        logging.getLogger("dbos").setLevel(logging.WARNING)
        home.mkdir(parents=True, exist_ok=True)
        self._client = self._connect()

    def register(self, name: str, function: Stretch) -> None:
        """Make a stretch known, before `launch`."""
        assert self._lock is None, "register before launch"
        assert name not in self._stretches, f"stretch {name!r} is registered twice"
        self._stretches[name] = function

    def every(self, seconds: int, name: str) -> None:
        """Run a registered stretch again and again, one at a time; register it before launch.

        Its argument is the time at which it was due, in ISO 8601. What was missed while no
        engine ran is not made up for.

        Parameters
        ----------
        seconds
            A divisor of 60, or whole minutes that divide an hour.
        """
        cron(seconds)
        assert name in self._stretches, f"stretch {name!r} is not registered"
        self._schedules[name] = seconds

    def launch(self) -> None:
        """Take the lock (PS150) and then work, first what a dead engine of this name left."""
        assert self._lock is None, "launched already"
        if self._engine.dialect.name == "sqlite":
            check_sqlite(sys.version_info[:2], sqlite3.sqlite_version_info)
        if shutil.which("setpriv") is None:
            logger.warning("no setpriv here: commands can outlive an engine that is killed")
        self._lock = take_lock(self.home / "engine.lock")
        try:
            self._launch()
        except DatabaseError as error:
            self.close()
            raise _silent_database(self.url, error) from error
        except BaseException:
            self.close()
            raise

    def _launch(self) -> None:
        # No setting governs how often work that was put off is looked at; its constant does.
        _workflow_commands._BACKGROUND_JOBS_INTERVAL_SEC = DELAY_POLL_S  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # held by a contract test
        # The queues are rows: made before launch, they are listened to from the first moment.
        self._register_queues()
        DBOS(
            config=DBOSConfig(
                name=APPLICATION,
                system_database_url=self.url,
                system_database_engine=self._engine,
                application_version=APPLICATION_VERSION,
                executor_id=self.executor_id,
                serializer=DBOSPortableJSONSerializer(),
                scheduler_polling_interval_sec=5,
                log_level="WARNING",
            )
        )
        DBOS.listen_queues(list(QUEUES))
        schedules = [self._schedule(name, seconds) for name, seconds in self._schedules.items()]
        for name, function in self._stretches.items():
            _workflow(name)(_logged(name, function))
        DBOS.launch()
        DBOS.apply_schedules(schedules)

    def _register_queues(self) -> None:
        # Polling costs: all queues at 0.1 s take 17 % of a core while nothing happens, these 5 %.
        # A look of a canary is due after seconds, a build takes minutes.
        register = partial(self._client.register_queue, partition_concurrency=1)
        register("build", worker_concurrency=self._builds, polling_interval_sec=0.5)
        register("deploy", worker_concurrency=16, polling_interval_sec=0.25)
        register("monitor", worker_concurrency=4, polling_interval_sec=1)
        self._client.register_queue(TICK, global_concurrency=1, polling_interval_sec=1)

    def _schedule(self, name: str, seconds: int) -> ScheduleInput:
        stretch = _logged(name, self._stretches[name])

        async def due(at: Any, context: Any) -> None:  # noqa: ARG001  the library hands over two
            await stretch(at if isinstance(at, str) else cast("datetime", at).isoformat())

        return ScheduleInput(
            schedule_name=name,
            workflow_fn=_workflow(f"every {name}")(due),
            schedule=cron(seconds),
            context=None,
            queue_name=TICK,
            automatic_backfill=False,
        )

    def close(self) -> None:
        """Stop taking work, kill running commands, let go of the lock.

        What was under way goes on at the next launch, behind its last step done.
        """
        if self._lock is not None:
            DBOS.destroy(destroy_registry=True)
        self._client.destroy()
        if self._owns_engine:
            self._engine.dispose()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _connect(self) -> DBOSClient:
        """Make or migrate the engine's tables; not later, inside somebody's transaction."""
        try:
            with self._engine.connect():
                pass  # the file is made here, in WAL mode
            DBOS.migrate(self.url)
            return DBOSClient(
                system_database_engine=self._engine,
                serializer=DBOSPortableJSONSerializer(),
                application_name=APPLICATION,
            )
        except DatabaseError as error:
            raise _silent_database(self.url, error) from error

    def enqueue(  # noqa: PLR0913  the port's signature
        self,
        transaction: Any,
        name: str,
        argument: str,
        *,
        id: str,  # noqa: A002  the port's word
        delay_s: float = 0,
        queue: str = "deploy",
        partition: str | None = None,
    ) -> None:
        """Let a stretch run after `transaction`, an `sa.Connection` to our database, commits."""
        assert queue in QUEUES, f"no queue {queue!r}"
        options = EnqueueOptions(
            workflow_name=name,
            workflow_id=id,
            queue_name=queue,
            queue_partition_key=partition or id,
            app_version=APPLICATION_VERSION,
        )
        if delay_s > 0:
            options["delay_seconds"] = delay_s
        self._client.enqueue_in_transaction(cast("sa.Connection", transaction), options, argument)

    def cancel(self, id: str) -> None:  # noqa: A002  the port's word
        """Stop a stretch; a command that it runs is killed within two seconds.

        Not inside an open transaction: SQLite would let the two wait for each other.
        """
        self._client.cancel_workflow(id)

    def states(self, ids: Sequence[str]) -> dict[str, str]:
        """Map each known id to its state, in the port's words."""
        if not ids:
            return {}
        found = self._client.list_workflows(
            workflow_ids=list(ids), load_input=False, load_output=False
        )
        return {stretch.workflow_id: _STATES[stretch.status] for stretch in found}

    def forget(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete the engine's own rows of at most `limit` stretches that ended before then."""
        ended = self._client.list_workflows(
            status=["SUCCESS", "ERROR", "CANCELLED"],
            completed_before=before.isoformat(),
            limit=limit,
            load_input=False,
            load_output=False,
        )
        if ended:
            self._client.delete_workflows([stretch.workflow_id for stretch in ended])
        return len(ended)

    async def step(self, name: str, action: Callable[[], Any]) -> Any:
        """Do `action` once; a retryable `PenstockError` is tried again first, then raised."""

        async def attempts() -> Any:
            for pause_s in self._retry_pauses_s:
                try:
                    return await _call(action)
                except PenstockError as error:
                    if not error.retryable:
                        raise
                    logger.warning("step %s is tried again in %s s: %s", name, pause_s, error)
                await asyncio.sleep(pause_s)
            return await _call(action)

        return await _recorded(StepOptions(name=name), attempts)

    async def command(
        self,
        name: str,
        start: Callable[[], tuple[list[str], dict[str, str]]],
        *,
        log: Path,
        timeout_s: float,
    ) -> Finished:
        """Run a subprocess as a step; see `run_command`."""

        async def run() -> Any:
            argv, env = await asyncio.to_thread(start)
            return asdict(await run_command(argv, env, log=log, timeout_s=timeout_s))

        return Finished(**await _recorded(StepOptions(name=name, preemptible=True), run))


async def _recorded(options: StepOptions, work: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> dict[str, Any]:
        try:
            # Through JSON at once, so that a first run sees what a replay will see.
            return {"value": json.loads(json.dumps(await work()))}
        except PenstockError as error:
            return {"error": as_json(error)}

    outcome = await DBOS.run_step_async(options, run)
    if "error" in outcome:
        raise from_json(outcome["error"])
    return outcome["value"]


async def run_command(
    argv: Sequence[str], env: dict[str, str], *, log: Path, timeout_s: float
) -> Finished:
    """Run one command to its end; a timeout or our cancellation kills its whole group.

    It dies with this process, even by kill -9, where ``setpriv`` exists (util-linux); what it
    started itself does so only inside a sandbox that sees to it.
    """
    setpriv = shutil.which("setpriv")
    guard = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
    guard += ["/bin/sh", "-c", _STILL_OURS, str(os.getpid())]
    with log.open("ab") as output:
        child = await asyncio.create_subprocess_exec(
            *guard,
            *argv,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            returncode = await asyncio.wait_for(child.wait(), timeout_s)
            return Finished(returncode)
        except TimeoutError:
            await _kill(child)
            return Finished(child.returncode or -signal.SIGKILL, timed_out=True)
        finally:
            await _kill(child)


async def _kill(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        assert child.pid > 1, "a process group of ours"
        os.killpg(child.pid, signal.SIGKILL)
    # At shutdown we are cancelled a second time, here; what was killed ends at once all the same.
    while child.returncode is None:
        with suppress(asyncio.CancelledError):
            await child.wait()


async def _call(action: Callable[[], Any]) -> Any:
    if inspect.iscoroutinefunction(action):
        return await action()
    return await asyncio.to_thread(action)


def _workflow(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return DBOS.workflow(name=name, max_recovery_attempts=RECOVERY_ATTEMPTS)


def _logged(name: str, function: Stretch) -> Stretch:
    async def stretch(argument: str) -> None:
        try:
            await function(argument)
        except Exception as error:
            # The library logs the traceback, but not whose.
            logger.warning("stretch %s of %s failed: %s", name, argument, error)
            raise

    return stretch


def cron(seconds: int) -> str:
    """Write a period as a cron line with seconds.

    Examples
    --------
    >>> cron(5), cron(60), cron(900)
    ('*/5 * * * * *', '0 */1 * * * *', '0 */15 * * * *')
    """
    minutes, rest = divmod(seconds, 60)
    if minutes == 0 and rest > 0 and 60 % rest == 0:
        return f"*/{rest} * * * * *"
    if rest == 0 and 0 < minutes < 60 and 60 % minutes == 0:
        return f"0 */{minutes} * * * *"
    raise ValueError(f"{seconds} s: neither a divisor of 60 nor minutes that divide an hour")


def durable_engine(url: str) -> sa.Engine:
    """Connect for the engine's own tables; SQLite in WAL mode, its last second expendable."""
    if not url.startswith("sqlite"):
        return sa.create_engine(url, pool_pre_ping=True)
    engine = sa.create_engine(url)

    def set_up(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = "IMMEDIATE"
        # A lost checkpoint makes a step run again, which every step must bear.
        for setting in (*_SQLITE, *_SQLITE_LOG):
            connection.execute(f"PRAGMA {setting}")

    event.listen(engine, "connect", set_up)
    return engine


def check_sqlite(python: tuple[int, ...], sqlite: tuple[int, ...]) -> None:
    """Refuse an SQLite that cannot tell milliseconds where the library asks it to (PS151)."""
    if python >= (3, 12) and sqlite < (3, 42):
        found = ".".join(map(str, sqlite))
        raise PenstockError(
            "PS151",
            f"Python {python[0]}.{python[1]} here has SQLite {found}; the engine needs 3.42.",
            hint="Run Penstock with Python 3.11 or with a newer SQLite, or use PostgreSQL.",
        )


def take_lock(path: Path) -> IO[str]:
    """Hold the engine's lock for the life of the returned file; PS150 names who holds it."""
    file = path.open("a+", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise ConflictError(
            "PS150",
            f"Another engine, process {holder}, works on {path.parent}.",
            hint="Stop it, or set PENSTOCK_HOME to another folder.",
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def as_json(error: PenstockError) -> dict[str, Any]:
    """Write an error down, so that it can be raised again after a restart."""
    written = {
        "class": type(error).__name__,
        "code": error.code,
        "what": error.what,
        "hint": error.hint,
    }
    if isinstance(error, ConfigurationError):
        return {**written, "faults": [asdict(fault) for fault in error.faults]}
    return written


def from_json(written: dict[str, Any]) -> PenstockError:
    """Make the error again that `as_json` wrote down."""
    if "faults" in written:
        return ConfigurationError([Fault(**fault) for fault in written["faults"]])
    kind = cast("type[PenstockError]", getattr(errors, written["class"], PenstockError))
    return kind(written["code"], written["what"], hint=written["hint"])


def _silent_database(url: str, error: DatabaseError) -> PenstockError:
    if getattr(error.orig, "sqlite_errorname", "").startswith(_DAMAGE):
        return damaged_database(error.orig)
    place = sa.make_url(url).render_as_string(hide_password=True)
    return UnreachableError(
        "PS152",
        f"The engine cannot use the database {place}: {error.orig}.",
        hint="See that it runs, that the disk has room and the folder may be written.",
    )
