"""The listening socket that outlives gateways, and what a new gateway says before it accepts.

The supervisor owns the socket and starts each gateway with it, so that while one is started
connections wait in the kernel instead of being refused. A gateway that is to take over from
another first gets ready, then writes one line of JSON, a `Word`, to a pipe. Only the standard
library is used here: the supervisor imports it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from penstock.errors import UnreachableError

_SOCKET, _WORD, _TAKES_OVER = "PENSTOCK_SOCKET", "PENSTOCK_READY", "PENSTOCK_TAKES_OVER"
BACKLOG = 2048
"""Connections that wait in the kernel while no gateway accepts."""


class Word(NamedTuple):
    """What a gateway says once it has started what it serves."""

    settled: bool
    """Whether everything that it should load has loaded, or failed to."""
    unready: Mapping[str, str]
    """Why a version that runs is not ready, by ``environment/model@number``."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What a supervisor gives to a gateway."""

    listening: socket.socket | None = None
    """To accept from; None for a gateway that is started alone and opens its own."""
    word: int | None = None
    """Where to write the `Word`."""
    takes_over: bool = False
    """Whether another gateway answers meanwhile: then there is time to load everything."""

    @classmethod
    def taken(cls, environ: Mapping[str, str]) -> Self:
        """Take what the supervisor left in the environment of this process."""
        fd, word = environ.get(_SOCKET), environ.get(_WORD)
        return cls(
            None if fd is None else socket.socket(fileno=int(fd)),
            None if word is None else int(word),
            environ.get(_TAKES_OVER) == "1",
        )

    def environ(self) -> dict[str, str]:
        """Return what the new process must find in its environment."""
        left = {_SOCKET: self.listening, _WORD: self.word}
        found = {
            name: str(each if isinstance(each, int) else each.fileno())
            for name, each in left.items()
            if each is not None
        }
        return {**found, _TAKES_OVER: "1" if self.takes_over else "0"}

    @property
    def fds(self) -> tuple[int, ...]:
        """What the new process must inherit."""
        found = [] if self.listening is None else [self.listening.fileno()]
        return (*found, *([] if self.word is None else [self.word]))

    def say(self, word: Word) -> None:
        """Tell the supervisor; called once."""
        if self.word is not None:
            try:
                os.write(self.word, json.dumps(word._asdict()).encode() + b"\n")
            except OSError:  # nobody listens any more: then nobody waits for it
                return
            finally:
                os.close(self.word)


def heard(text: bytes) -> Word | None:
    """Return the word in what came through the pipe; None while it is not whole."""
    if not text.endswith(b"\n"):
        return None
    told: dict[str, Any] = json.loads(text)
    return Word(bool(told["settled"]), dict(told["unready"]))


def listen(host: str, port: int) -> socket.socket:
    """Open the socket that predictions come in by.

    Raises
    ------
    UnreachableError
        The port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, the loop switches off Nagle's algorithm (else 40 ms an answer).
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise UnreachableError(
            "PS518",
            f"Predictions cannot be served on {host}:{port}: {error.strerror}.",
            hint="End what holds the port, or set predict_port in server.toml.",
        ) from error
    return listening
