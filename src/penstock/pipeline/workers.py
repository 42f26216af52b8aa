"""How a version's worker is started: in its own environment, in the sandbox, without a network.

The gateway starts workers so, and the build starts one of its own to ask it its checks.
"""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pyarrow as pa

from penstock.build.train import interpreter_folders
from penstock.domain import JSON
from penstock.inference import asking, exact
from penstock.inference.programs import Program
from penstock.ports import Command, Environments, Limits, Sandbox, Use

START_S = 120.0


@dataclass(frozen=True, slots=True)
class Workers:
    """Starts worker programs."""

    sandbox: Sandbox
    environments: Environments
    memory_mb: int = 4096
    """What each may use."""

    def command(
        self,
        folder: Path,
        lock_digest: str,
        socket: Path,
        *,
        path: str = "own",
        use: Use = Use.WORKER,
    ) -> Command:
        """Return the command that serves a version's folder by a path, for the sandbox."""
        arguments = ["--folder", str(folder), "--path", path, "--socket", str(socket)]
        return self._program(lock_digest, arguments, folder, socket, use)

    def host(
        self,
        lock_digest: str,
        socket: Path,
        pool: Path,
        *,
        memory_mb: int | None = None,
        use: Use = Use.WORKER,
    ) -> subprocess.Popen[bytes]:
        """Start a host: it forks workers that serve what lies, or will lie, in a pool.

        Parameters
        ----------
        socket
            Where it takes orders; its workers' sockets must lie in the same folder.
        pool
            A folder of versions, all of the lock; read-only for them.
        memory_mb
            For the host and all its workers; pages that they share count once.
        """
        arguments = ["--host", str(socket)]
        command = self._program(lock_digest, arguments, pool, socket, use)
        most = Limits(memory_bytes=(memory_mb or self.memory_mb) << 20, processes=4096)
        return self.sandbox.start(replace(command, limits=most), stderr=subprocess.PIPE)

    def _program(
        self, lock_digest: str, arguments: Sequence[str], folder: Path, socket: Path, use: Use
    ) -> Command:
        python = self.environments.python(lock_digest)
        return Command(
            argv=[str(python), "-I", str(asking.PROGRAM), *arguments],
            cwd=folder,
            read=[folder, *asking.PROGRAM_FILES, *interpreter_folders(python)],
            write=[socket.parent],
            env={"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            use=use,
            limits=Limits(memory_bytes=self.memory_mb << 20),
        )

    @contextmanager
    def empty(self, folder: Path, lock_digest: str, socket: Path) -> Generator[asking.Worker]:
        """Start a worker of our own that can load a version's folder, and end it."""
        command = self._program(lock_digest, ["--socket", str(socket)], folder, socket, Use.CHECK)
        with self._running(command, socket) as worker:
            yield worker

    def offers_trees(self, lock_digest: str) -> bool:
        """Say whether an environment has a library that reads trees exactly."""
        places = self.environments.python(lock_digest).parent.parent.glob(
            "lib/python*/site-packages"
        )
        return any((place / name).is_dir() for place in places for name in exact.LIBRARIES)

    def exact(
        self,
        folder: Path,
        lock_digest: str,
        tables: tuple[pa.Table, pa.Table],
        *,
        positive: str,
        timeout_s: float,
    ) -> JSON:
        """Read a model of trees exactly, in its own environment and a sandbox of its own."""
        python = self.environments.python(lock_digest)
        command = Command(
            argv=[str(python), "-I", str(exact.PROGRAM), "--folder", str(folder)],
            cwd=folder,
            read=[folder, exact.PROGRAM, *interpreter_folders(python)],
            env={"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            use=Use.CHECK,
            limits=Limits(memory_bytes=self.memory_mb << 20, file_bytes=exact.MAX_BYTES),
        )

        def start(out: IO[bytes]) -> subprocess.Popen[bytes]:
            return self.sandbox.start(
                command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.DEVNULL
            )

        return exact.exact(start, tables, positive=positive, timeout_s=timeout_s)

    @contextmanager
    def started(self, folder: Path, lock_digest: str, socket: Path) -> Generator[asking.Worker]:
        """Start a worker of our own for a version's folder, and end it."""
        command = self.command(folder, lock_digest, socket, use=Use.CHECK)
        with self._running(command, socket) as worker:
            yield worker

    @contextmanager
    def _running(self, command: Command, socket: Path) -> Generator[asking.Worker]:
        socket.parent.mkdir(parents=True, exist_ok=True)
        socket.unlink(missing_ok=True)
        program = Program(self.sandbox.start(command, stderr=subprocess.PIPE))
        with asking.Worker(program, socket, start_timeout_s=START_S) as worker:
            yield worker
