"""What Penstock asks of the world: a few protocols, each with an embedded adapter and a fake.

A protocol stands here only when two adapters exist, or when it stands for an outside system
that tests must not touch. SQLAlchemy, pyarrow.fs and the model formats are such seams already;
Penstock does not wrap them again.
"""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol


class ArtifactStore(Protocol):
    """Keeps files for years, by content.

    Every adapter must pass tests/contract/test_artifact_store.py.
    """

    def put(self, source: Path) -> str:
        """Store one file and return its SHA-256, 64 hex digits. Twice the same is a no-op."""
        ...

    def get(self, digest: str, target: Path) -> None:
        """Write the artifact to `target`, verified: whole and right, or not at all.

        Raises
        ------
        NotFoundError
            No artifact has this digest.
        IntegrityError
            The stored bytes do not have this digest any more.
        """
        ...

    def sweep(
        self, keep: Container[str], before: float, *, dry_run: bool
    ) -> Iterable[tuple[str, int]]:
        """Remove every artifact that `keep` does not hold, unless it was put since `before`.

        `before` is a Unix time; putting the same bytes again counts. What a put that died has
        left goes by the same time. Gives name and bytes of each; with `dry_run` only that.
        """
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sandboxed command may use; None = no limit."""

    seconds: float | None = None
    memory_bytes: int | None = None
    """Resident, of the command and all its descendants; what uses more is ended with a
    sentence on its own stderr. The address space gets eight times as much."""
    processes: int | None = 512
    """Threads count too. Not held where all commands share the server's own user."""
    open_files: int | None = 4096
    file_bytes: int | None = 16 * 2**30
    output_bytes: int | None = None
    """Of the log that another starter keeps (`Sandbox.argv`): its head and its last lines."""
    cpus: int | None = None
    """Processors that it may use, of those that the server may."""


class Use(StrEnum):
    """What a command is for: it decides under whose name and how urgently it runs."""

    FETCH = "fetch"
    """Makes environments; runs no code of a project. Always the same user: the cache is its."""
    TRAIN = "train"
    CHECK = "check"
    WORKER = "worker"
    """Answers production: at ordinary priority, the others behind it."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command in a sandbox: nothing of the machine is there but what is named here.

    A server that is root gives each command a user of its own. What it may write is handed
    over to that user; what it may read must be readable by everybody.
    """

    argv: Sequence[str]
    cwd: Path
    """As seen outside; must lie in one of the binds."""
    read: Sequence[Path] = ()
    """Seen under the same path, read-only. What does not exist is a fault."""
    write: Sequence[Path] = ()
    """Seen under the same path, writable."""
    mask: Sequence[Path] = ()
    """Files or folders inside the binds that must not be readable (evaluation data)."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """The whole environment, PATH, HOME and LANG aside."""
    network: bool = False
    use: Use = Use.TRAIN
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class SandboxLevel:
    """How strongly commands are held, as found by running a probe."""

    level: str
    """``full``: bubblewrap. ``partial``: Landlock and seccomp. ``none``: limits only.
    ``external``: the operator says that what Penstock runs in is the sandbox."""
    reason: str
    """Why it is not full and what code of models can do, as sentences; empty when it is."""
    fix: str = ""
    """What to do for a stronger one, as an imperative sentence."""

    @property
    def warning(self) -> str:
        """What everybody must be told, as one paragraph; empty for full and external."""
        if self.level in ("full", "external"):
            return ""
        told = f"Sandbox {self.level.upper()}: {self.reason}"
        fix = f" Fix: {self.fix}" if self.fix else ""
        return (
            f"{told}{fix} Versions built now are marked. "
            'To refuse: [sandbox] mode = "required" in server.toml.'
        )


class Sandbox(Protocol):
    """Runs code that is not ours.

    Every adapter must pass tests/contract/test_sandbox.py.
    """

    def level(self) -> SandboxLevel:
        """Probe by running, once; the same answer later."""
        ...

    def start(self, command: Command, **popen: Any) -> subprocess.Popen[bytes]:
        """Start it, as the leader of a process group of its own; it dies with this process.

        Killing the group ends all that it started, in whatever session. `popen` goes to
        `subprocess.Popen` (stdin, stdout, stderr, pass_fds).
        """
        ...

    def argv(self, command: Command) -> tuple[list[str], dict[str, str]]:
        """Return a command line and environment for other starters, good for one start.

        They keep its output in a file, and make it the leader of a session.
        """
        ...


@dataclass(frozen=True, slots=True)
class IndexNamed:
    """An index of packages that a project's file names; the operator says whether it counts."""

    url: str
    where: str
    """``requirements.txt line 3``."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a project asks of its environment: names, bounds, markers and digests. No addresses."""

    file: str
    """The file that decides, for sentences; ``penstock.toml`` where there is none."""
    lines: tuple[str, ...] = ()
    """One requirement each, as PEP 508 writes it."""
    constraints: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    hashes: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    """By ``name==version``: the only files of it that may be used, as ``sha256:…``."""
    uv_lock: Path | None = None
    """A project whose uv.lock has the pins; then `lines` holds only what is added to them."""
    complete: bool = False
    """Whether every package is pinned, those that others need too: a lock. No date counts."""
    requires_python: str | None = None
    """A rule, such as ``>=3.9``: another Python is an error."""
    python: str | None = None
    """A wish, in the same words: another Python is a note."""
    python_from: str = ""
    """The file that wishes it."""
    prereleases: bool = False
    added: tuple[str, ...] = ()
    """Names that penstock.toml adds or overrides: they may be as new as that file."""
    indexes: tuple[IndexNamed, ...] = ()
    files: tuple[str, ...] = ()
    """Every file that was read for it."""
    notes: tuple[str, ...] = ()
    """What a person should know, as sentences."""


@dataclass(frozen=True, slots=True)
class AsOf:
    """The moments up to which packages count as published."""

    files: datetime
    """For what the project's own files ask."""
    added: datetime
    """For what penstock.toml adds."""


@dataclass(frozen=True, slots=True)
class MadeEnvironment:
    """An environment on the disk."""

    lock_digest: str
    folder: Path
    used_at: float
    """When it was last asked for, as a Unix time."""


class Environments(Protocol):
    """Makes the Python environment of a lock, once, and keeps it.

    Every adapter must pass tests/contract/test_environments.py.
    """

    def lock(
        self,
        wanted: Requirements,
        out: Path,
        *,
        log: Path,
        python: str | None = None,
        as_of: AsOf | None = None,
    ) -> str:
        """Resolve what a project asks for into a hash-pinned lock at `out`.

        `python` demands a version, such as ``3.11``; packages that were published after `as_of`
        do not count. Returns the lock's digest: SHA-256 over the pins and the Python version.

        Raises
        ------
        StoppedError
            It cannot be resolved; the message holds the resolver's own reason and the file.
        """
        ...

    def ready(self, lock: Path, *, log: Path) -> Path:
        """Return the python of the lock's environment, made now if it was not there."""
        ...

    def python(self, lock_digest: str) -> Path:
        """Return the python of an environment that was made; NotFoundError if it is gone."""
        ...

    def made(self) -> Iterable[MadeEnvironment]:
        """Give every environment on the disk, half-made ones too."""
        ...

    def remove(self, lock_digest: str) -> None:
        """Remove an environment; who asks for it afterwards gets it made anew."""
        ...

    @property
    def cache(self) -> Path:
        """The folder of downloads."""
        ...

    def prune_cache(self, *, log: Path) -> None:
        """Remove from the cache of downloads what nothing refers to."""
        ...


@dataclass(frozen=True, slots=True)
class Finished:
    """How a subprocess of a step ended."""

    returncode: int
    timed_out: bool = False


class Engine(Protocol):
    """Runs short stretches of work durably. Nothing waits for a person inside one.

    A stretch is an async function of one text argument (an id). Its effects stand in steps;
    every step may run twice. Every adapter must pass tests/contract/test_engine.py.
    """

    def register(self, name: str, function: Callable[[str], Awaitable[None]]) -> None:
        """Make a stretch known, before `launch`."""
        ...

    def enqueue(  # noqa: PLR0913 -- options by name, all but one with a default
        self,
        transaction: Any,
        name: str,
        argument: str,
        *,
        id: str,  # noqa: A002
        delay_s: float = 0,
        queue: str = "deploy",
        partition: str | None = None,
    ) -> None:
        """Let a stretch run after `transaction` commits; the same id twice is one stretch.

        `queue` is ``build``, ``deploy`` or ``monitor``; stretches with the same `partition`
        (a model's name) in the same queue run one after another.
        """
        ...

    def cancel(self, id: str) -> None:  # noqa: A002
        """Stop a stretch, waiting or running; its live subprocess is killed as a group."""
        ...

    async def step(self, name: str, action: Callable[[], Any]) -> Any:
        """Do `action` (plain or async) once per stretch; after a restart, return its result.

        The result must be plain JSON. A plain action runs in a thread.
        """
        ...

    async def command(
        self,
        name: str,
        start: Callable[[], tuple[list[str], dict[str, str]]],
        *,
        log: Path,
        timeout_s: float,
    ) -> Finished:
        """Run a subprocess as a step: preemptible, killed as a group, dead with the engine.

        stdout and stderr are appended to `log`.
        """
        ...

    def launch(self) -> None:
        """Take work. The process must hold the engine's lock."""
        ...

    def close(self) -> None:
        """Stop taking work and let go of the lock."""
        ...

    def states(self, ids: Sequence[str]) -> dict[str, str]:
        """Map each known id to ``waiting``, ``running``, ``done``, ``failed``, ``cancelled``."""
        ...


class Notifier(Protocol):
    """Tells people."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Deliver at least once; raise UnreachableError when it could not.

        `message` has ``kind``, ``model``, ``subject``, ``text``, ``url`` and ``at``.
        """
        ...


class Clock(Protocol):
    """The time of day, handed down so that tests can set it."""

    def __call__(self) -> datetime:
        """Return now, in UTC."""
        ...
