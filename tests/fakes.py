"""The ports as the tests need them: in memory, open, or already there. No mocks."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from penstock.errors import IntegrityError, NotFoundError, UnreachableError
from penstock.ports import AsOf, Command, MadeEnvironment, Requirements, SandboxLevel


class MemoryStore:
    """An artifact store in a dictionary."""

    def __init__(self) -> None:
        self.artifacts: dict[str, bytes] = {}
        self.put_at: dict[str, float] = {}

    def put(self, source: Path) -> str:
        content = source.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        self.artifacts[digest] = content
        self.put_at[digest] = time.time()
        return digest

    def get(self, digest: str, target: Path) -> None:
        if digest not in self.artifacts:
            raise NotFoundError("PS111", f"The store has no artifact {digest}.", hint="Put it.")
        content = self.artifacts[digest]
        if hashlib.sha256(content).hexdigest() != digest:
            what = f"Artifact {digest} was changed in memory."
            raise IntegrityError("PS112", what, hint="Put it again.")
        target.write_bytes(content)

    def sweep(
        self, keep: Container[str], before: float, *, dry_run: bool
    ) -> Iterator[tuple[str, int]]:
        for digest in sorted(self.artifacts):
            if digest not in keep and self.put_at[digest] < before:
                size = len(self.artifacts[digest])
                if not dry_run:
                    del self.artifacts[digest]
                yield digest, size


class OpenSandbox:
    """A sandbox that hides and holds nothing: for tests of what runs, not of how it is held."""

    def level(self) -> SandboxLevel:
        return SandboxLevel("none", "This is a test.")

    def argv(self, command: Command) -> tuple[list[str], dict[str, str]]:
        for path in (*command.read, *command.write, command.cwd):
            if not path.exists():
                raise NotFoundError("PS205", f"{path} does not exist.", hint="Make it.")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            **command.env,
        }
        # The folder stands in the argument list, for starters that know nothing of it.
        return ["env", "-C", str(command.cwd), *command.argv], environment

    def start(self, command: Command, **popen: Any) -> subprocess.Popen[bytes]:
        line, environment = self.argv(command)
        return cast(
            "subprocess.Popen[bytes]",
            subprocess.Popen(line, env=environment, start_new_session=True, **popen),
        )


class PresentEnvironments:
    """Every lock's environment is the one that the tests run in."""

    def lock(
        self,
        wanted: Requirements,
        out: Path,
        *,
        log: Path,
        python: str | None = None,
        as_of: AsOf | None = None,
    ) -> str:
        out.write_text("# python 3.11\n", encoding="utf-8")
        return hashlib.sha256(out.read_bytes()).hexdigest()

    def ready(self, lock: Path, *, log: Path) -> Path:
        return Path(sys.executable)

    def python(self, lock_digest: str) -> Path:
        return Path(sys.executable)

    def made(self) -> Iterator[MadeEnvironment]:
        yield from ()

    def remove(self, lock_digest: str) -> None:
        raise AssertionError("an environment that was not made is removed")

    @property
    def cache(self) -> Path:
        return Path("/nonexistent")

    def prune_cache(self, *, log: Path) -> None:
        raise AssertionError("a cache that is not there is pruned")


class Inbox:
    """A notifier that keeps what it was told; `reachable = False` makes it refuse."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.reachable = True

    def send(self, message: Mapping[str, Any]) -> None:
        if not self.reachable:
            raise UnreachableError("PS118", "The inbox is closed.", hint="Open it.")
        self.messages.append(dict(message))
