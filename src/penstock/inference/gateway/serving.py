"""The HTTP server around the gateway: bounded connections, and an end that costs no request.

A gateway that hands over stops accepting and goes on answering the connections that it has; each
is closed with its next answer, which says so. Only a connection that stays silent is closed
without one.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from penstock.inference.gateway.connections import Connection
from penstock.inference.gateway.handover import BACKLOG, Handover, listen

if TYPE_CHECKING:
    from penstock.inference.gateway.application import Gateway

LEAVE = signal.SIGUSR1
"""Tells a gateway that another one accepts from now on."""
SILENT_S = 5.0
"""A leaving gateway closes a connection that has sent nothing for so long."""
FILES = 65536


class Server(uvicorn.Server):
    """Serves a gateway until it is told to stop, or to leave."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway
        gateway.stopping = lambda: self.should_exit

    def leave(self) -> None:
        """Stop accepting, answer what was sent, and end: another gateway accepts already."""
        self._gateway.leaving = True
        self.should_exit = True

    def told_to_leave(self, _number: int, _frame: FrameType | None) -> None:
        """Leave, as the handler of a signal."""
        self.leave()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End connections with an answer where there is one to come."""
        if self._gateway.leaving:
            for server in self.servers:
                server.close()
            latest_s = asyncio.get_running_loop().time() + SILENT_S
            while self.server_state.connections and not self.force_exit:
                if asyncio.get_running_loop().time() > latest_s:
                    break
                await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def serve(gateway: Gateway, host: str, port: int, handover: Handover | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is in flight, and return.

    On the signal `LEAVE` it does so too, without closing a connection that still sends.

    Raises
    ------
    UnreachableError
        The port is taken.
    """
    given = handover or Handover()
    listening = given.listening or listen(host, port)
    server = server_of(gateway)
    _many_files()
    _spare_collector()
    # The server raises the signal again at its end; whoever called us wants to go on.
    before = {each: signal.signal(each, _ignore) for each in (signal.SIGTERM, signal.SIGINT)}
    before[LEAVE] = signal.signal(LEAVE, server.told_to_leave)
    try:
        server.run(sockets=[listening])
    finally:
        for each, previous in before.items():
            signal.signal(each, previous)
        listening.close()


def server_of(gateway: Gateway) -> Server:
    """Put the gateway behind the HTTP server, as it is meant to run."""
    config = uvicorn.Config(
        cast("Any", gateway),
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=15,
    )
    return Server(config, gateway)


def _many_files() -> None:
    """Let this process hold as many connections and segments as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _spare_collector() -> None:
    """Let the collector look rarely, and never through what was imported.

    Requests leave no cycles, but many are in flight at once: by its own measure the collector
    would go through all of them again and again, a tenth of the gateway's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _ignore(signum: int, frame: Any) -> None:
    """Take a signal that was acted upon already."""
