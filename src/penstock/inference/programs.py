"""Worker programs that are started outside the gateway: by the build, by tests.

    Program(process)         one that was started, with its last words
    Host(process, socket)    a host program, which forks workers
    Child                    one of those

What asks them (asking.py) needs of each only how it ended, and to end it: `Running`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self, cast

from penstock.domain import JSON
from penstock.errors import StoppedError
from penstock.inference.program import frames

TAIL_LINES = 20
_CONNECT_EVERY_S = 0.005
_ORDER_S = 60.0
"""How long a host may take for an order; the longest is an import."""


class Ended(NamedTuple):
    """How a program ended."""

    how: str
    """``signal 9``, ``exit code 3``, ``used 812 MB of 800``."""
    lines: Sequence[str]
    """What it said last."""

    def error(self) -> StoppedError:
        """Return it as what stopped a run."""
        tail = "".join(f"\n  {line}" for line in self.lines) or " It said nothing."
        return StoppedError(
            "PS556",
            f"The model's worker ended by itself ({self.how}).{tail}",
            hint="Mend what the lines above name: a missing package, code or file of the model.",
        )


class Running(Protocol):
    """A worker program that runs, or did."""

    def ended(self, within_s: float) -> Ended | None:
        """Say how it ended, waiting so long for that; None while it lives."""
        ...

    def end(self) -> None:
        """End it, whatever it does."""
        ...


class Program:
    """A program that was just started, or runs; when its stderr is a pipe, it is read here."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._drain = threading.Thread(target=self._read_stderr, daemon=True)
        self._drain.start()

    def ended(self, within_s: float) -> Ended | None:
        """Say how it ended, waiting so long for that; None while it lives."""
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None
        self._drain.join(1)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return Ended(how, list(self._tail))

    def end(self) -> None:
        """End the process and the group that it leads, if it leads one."""
        if self._process.poll() is None:
            if os.getpgid(self._process.pid) == self._process.pid:
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
        self._drain.join(1)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _read_stderr(self) -> None:
        if self._process.stderr is not None:  # unread, a full pipe would block the worker
            for line in self._process.stderr:
                self._tail.append(line.decode(errors="replace").rstrip("\n"))


class Connection:
    """Frames to a program and back. Opens when the program listens."""

    def __init__(self, program: Running, path: Path, *, start_timeout_s: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connect(program, path, start_timeout_s)
        except BaseException:
            self._socket.close()
            raise

    def ask(self, *parts: frames.RequestPart, timeout_s: float) -> list[frames.Reply]:
        """Return the replies to one frame; OSError without any, TimeoutError if they are late."""
        self._socket.settimeout(timeout_s)
        self._socket.sendall(frames.encode_request(parts))
        (size,) = frames.HEADER.unpack(self._receive(frames.HEADER.size))
        return frames.decode_reply(memoryview(self._receive(size)))

    @property
    def peer(self) -> int:
        """The id of the process that listens, as this one sees it."""
        found = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return struct.unpack("iII", found)[0]

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _connect(self, program: Running, path: Path, start_timeout_s: float) -> None:
        ends_s = time.monotonic() + start_timeout_s
        while time.monotonic() < ends_s:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                self._socket.connect(str(path))
                return
            ended = program.ended(_CONNECT_EVERY_S)
            if ended is not None:
                raise ended.error()
        raise StoppedError(
            "PS557",
            f"The model was not loaded after {start_timeout_s:g} s.",
            hint="Make loading cheaper: do what takes long in training.",
        )

    def _receive(self, size: int) -> bytearray:
        buffer = bytearray(size)
        rest = memoryview(buffer)
        while rest:
            count = self._socket.recv_into(rest)
            if count == 0:
                raise ConnectionResetError
            rest = rest[count:]
        return buffer


class Host:
    """A host program: forks workers that have their framework imported. A context manager.

    Threads may share it; one order is carried out at a time.

    Parameters
    ----------
    process
        Started with ``--host SOCKET``; its stderr may be a pipe.
    path
        That socket.
    """

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self._program = Program(process)
        self._path = path
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        """Return itself; what goes wrong is told by the first order."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the host and all that it forked."""
        self.close()

    @property
    def lives(self) -> bool:
        """Whether it can be asked to fork."""
        return self._program.ended(0) is None

    def warm(self, imports: Sequence[str]) -> None:
        """Let it import modules, which every worker forked later then has."""
        self._order(frames.LOAD, {"imports": list(imports)})

    def fork(
        self, path: Path, *, imports: Sequence[str] = (), memory_bytes: int | None = None
    ) -> Child:
        """Fork a worker that listens at a path.

        Raises
        ------
        StoppedError
            PS556 the host has ended, PS557 it does not answer, PS524 it could not fork.
        """
        told = {"socket": str(path), "imports": list(imports), "memory_bytes": memory_bytes}
        self._order(frames.FORK, told)
        return Child(self, path)

    def end(self, path: Path) -> Ended:
        """End a worker; say how it had ended if it did not live any more."""
        try:
            told = self._order(frames.END, {"socket": str(path)})
        except StoppedError:
            ended = self._program.ended(1)
            return Ended("its host does not answer", []) if ended is None else ended
        lines = str(told["words"]).splitlines()[-TAIL_LINES:]
        return Ended(str(told["reason"]) or "it was ended", lines)

    def close(self) -> None:
        """End the host and all that it forked."""
        if self._connection is not None:
            self._connection.close()
        self._program.end()

    def _order(self, kind: int, order: JSON) -> JSON:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = Connection(
                        self._program, self._path, start_timeout_s=_ORDER_S
                    )
                part = frames.RequestPart(kind, b"order", json.dumps(order).encode())
                (reply,) = self._connection.ask(part, timeout_s=_ORDER_S)
            except TimeoutError:
                self._program.end()
                what = f"The host of the workers did not answer within {_ORDER_S:g} s."
                hint = "Look at the machine's load; then: penstock retry."
                raise StoppedError("PS557", what, hint=hint) from None
            except OSError:
                ended = self._program.ended(1) or Ended("it hung up", [])
                self._program.end()
                raise ended.error() from None
        told = cast("JSON", json.loads(reply.body))
        if reply.status != 200:
            raise StoppedError(str(told["code"]), str(told["error"]), hint=str(told["hint"]))
        return told


class Child:
    """A worker that a host forked."""

    def __init__(self, host: Host, path: Path) -> None:
        self._host = host
        self._path = path

    def ended(self, within_s: float) -> Ended | None:  # noqa: ARG002  the host knows at once
        """Say how it ended; only asked when it does not answer any more, so it is ended too."""
        return self._host.end(self._path)

    def end(self) -> None:
        """End it, whatever it does."""
        self._host.end(self._path)
