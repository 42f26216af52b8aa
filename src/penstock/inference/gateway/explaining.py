"""Why did a version answer so? A child process works it out and asks the version back.

    caller -> Explaining -> child: body, signature, background
                         <- child: rows to ask        -> the version's worker, behind all requests
                         <- child: the explanation, or why there is none

The gateway's process computes nothing: it carries. The child is ours, is handed over as a command
(inference knows no explanation), starts at the first question, does one at a time, and is started
anew when it ended. It sees rows and answers, never a model.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from penstock.domain import Deployment
from penstock.inference.gateway.answers import Answer, RefusedError, sent
from penstock.inference.gateway.batching import Failure, Outcome

HEAD = struct.Struct("<I")
"""Before each message: its bytes."""
MOST_WAITING = 4
"""Explanations that wait for the one before; more are refused."""
RESERVE_S = 0.25
"""Of the deadline, kept for the way back."""
_LATE_S = 1.0
_logger = logging.getLogger(__name__)


class Explainer(NamedTuple):
    """What the gateway must be given to explain."""

    argv: Sequence[str]
    """The child; its standard input is a socket that speaks the messages below."""
    background: Callable[[Deployment], Path | None]
    """Returns a Parquet file of rows that say what is usual for a version; called in a thread."""


class Wanted(msgspec.Struct):
    """To the child: explain the rows of a body."""

    body: bytes
    signature: dict[str, Any]
    background: str | None
    """The file's path."""
    most_s: float
    """The longest budget that there is time for."""


class Answered(msgspec.Struct):
    """To the child: what the version said."""

    status: int
    body: bytes


class Asking(msgspec.Struct, tag=True):
    """From the child: ask the version these rows."""

    body: bytes
    left_s: float


class Explained(msgspec.Struct, tag=True):
    """From the child: the end of it."""

    status: int
    body: bytes
    """JSON."""


_said = msgspec.msgpack.Decoder(Asking | Explained)
_encode = msgspec.msgpack.encode
AskQuietly = Callable[[Deployment, bytes, float], Awaitable[Outcome]]
"""Asks a version a body within some seconds; nobody else is told."""


class Explaining:
    """Answers one question after the other."""

    def __init__(self, explainer: Explainer | None, ask: AskQuietly, deadline_s: float) -> None:
        self._explainer = explainer
        self._ask = ask
        self._deadline_s = deadline_s
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._child: _Child | None = None

    async def answer(self, deployment: Deployment, body: bytes) -> Answer:
        """Explain the version's answer to the rows of a body, within the deadline.

        Raises
        ------
        RefusedError
            PS860 nothing here explains it, PS861 too many wait, PS862 the explainer ended.
        """
        began_s = time.monotonic()
        explainer = self._explainer
        version = f"{deployment.model}@{deployment.number}"
        if explainer is None or not deployment.signature:
            lacks = "This gateway has no explainer" if explainer is None else f"{version} has none"
            what = f"{lacks}, so answers of {version} cannot be explained."
            hint = "A version with [evaluate] has a signature, which says what its columns are."
            raise RefusedError(Failure(404, "PS860", what, hint))
        if self._waiting >= MOST_WAITING:
            raise RefusedError(_too_many())
        self._waiting += 1
        try:
            async with asyncio.timeout(self._deadline_s - RESERVE_S):
                await self._turn.acquire()
        except TimeoutError:
            raise RefusedError(_too_many()) from None
        finally:
            self._waiting -= 1
        try:
            found = await asyncio.to_thread(explainer.background, deployment)
            most_s = self._deadline_s - RESERVE_S - (time.monotonic() - began_s)
            wanted = Wanted(body, dict(deployment.signature), found and str(found), most_s)
            explained = await self._explained(explainer, deployment, wanted)
        finally:
            self._turn.release()
        return sent(explained.status, explained.body, ((b"penstock-version", version.encode()),))

    async def stop(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            await child.end()

    async def _explained(
        self, explainer: Explainer, deployment: Deployment, wanted: Wanted
    ) -> Explained:
        finished = False
        try:
            async with asyncio.timeout(wanted.most_s + _LATE_S):
                if self._child is not None and not self._child.lives:
                    await self.stop()
                if self._child is None:
                    self._child = await _Child.start(explainer.argv)
                child = self._child
                await child.send(wanted)
                while not isinstance(said := await child.receive(), Explained):
                    outcome = await self._ask(deployment, said.body, said.left_s)
                    await child.send(_told(outcome))
                finished = True
                return said
        except (OSError, EOFError, TimeoutError, msgspec.DecodeError) as error:
            _logger.warning("The explainer ended: %r", error)
            what = "The process that explains ended, or was too slow."
            failure = Failure(503, "PS862", what, "Ask again: a new one is started.")
            raise RefusedError(failure) from error
        finally:
            if not finished:  # what it would say next answers nobody's question
                await self.stop()


class _Child:
    """The process, and the socket to it."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._process = process
        self._reader, self._writer = streams

    @classmethod
    async def start(cls, argv: Sequence[str]) -> _Child:
        """Start it; it need not be ready, its socket holds what we send."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.to_thread(_start, argv, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, await asyncio.open_connection(sock=ours))

    @property
    def lives(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    async def send(self, message: msgspec.Struct) -> None:
        """Send one message."""
        payload = _encode(message)
        self._writer.write(HEAD.pack(len(payload)) + payload)
        await self._writer.drain()

    async def receive(self) -> Asking | Explained:
        """Wait for one message; EOFError when the child has ended."""
        (size,) = HEAD.unpack(await self._reader.readexactly(HEAD.size))
        return _said.decode(await self._reader.readexactly(size))

    async def end(self) -> None:
        """Close the socket, and end the process."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        self._process.kill()
        await asyncio.to_thread(self._process.wait)


def _start(argv: Sequence[str], theirs: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdin=theirs.fileno())


def _told(outcome: Outcome) -> Answered:
    if isinstance(outcome, Failure):
        return Answered(outcome.status, msgspec.json.encode({"error": outcome.what}))
    return Answered(outcome.status, outcome.body)


def _too_many() -> Failure:
    what = f"{MOST_WAITING} explanations wait for the one before already."
    return Failure(503, "PS861", what, "Try again in a second, or with a smaller budget_ms.")
