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
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock.inference.gateway.handover import BACKLOG, Handover, listen
from penstock.inference.gateway.one_write import OneWrite

if TYPE_CHECKING:
    from penstock.inference.gateway.application import Gateway

LEAVE = signal.SIGUSR1
"""Tells a gateway that another one accepts from now on."""
KEEP_ALIVE_S = 75
SILENT_S = 5.0
"""A leaving gateway closes a connection that has sent nothing for so long."""
HEAD_BYTES = 64 * 2**10
"""Greatest head of a request: its line and its headers."""
HEAD_S = 10.0
"""A head that is not whole by then is given up, as is a caller who does not read the answer."""
CONNECTIONS = 4096
"""More are closed as they come."""
FILES = 65536
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s"
)
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
    b"retry-after: 1\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
)
_HEAD_BODY = (
    b'{"error": "The head of the request is greater than %d bytes.", "code": "PS546", '
    b'"hint": "Send fewer headers; values belong into the body."}' % HEAD_BYTES
)
_MANY_BODY = (
    b'{"error": "%d callers are connected already.", "code": "PS546", '
    b'"hint": "Try again in a second, and keep connections open between requests."}' % CONNECTIONS
)


class Connection(HttpToolsProtocol):
    """One caller's connection, who may be slow or malicious."""

    _head_bytes = 0
    _in_head = True
    """Whether the next bytes belong to the head of a request."""
    _timer: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it, and begin to wait for what it says."""
        super().connection_made(cast("asyncio.Transport", OneWrite(transport, self.loop)))
        if len(self.connections) > CONNECTIONS:
            self._end(_TOO_MANY % (len(_MANY_BODY), _MANY_BODY))
            return
        self._timer = self.loop.call_later(KEEP_ALIVE_S, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Hand on what was sent; a head has a greatest size and a latest time."""
        if self.transport.is_closing():
            return
        if self._in_head:
            # Most heads come whole with their body behind them; only long pieces are looked at.
            whole = len(data) <= HEAD_BYTES or 0 <= data.find(b"\r\n\r\n") <= HEAD_BYTES
            self._head_bytes += len(data)
            if not whole:
                self._end(_TOO_LARGE % (len(_HEAD_BODY), _HEAD_BODY))
                return
        begins = self._in_head and self._head_bytes == len(data)
        super().data_received(data)
        if not self._in_head or not self._head_bytes or self.transport.is_closing():
            return
        if self._head_bytes > HEAD_BYTES:
            self._end(_TOO_LARGE % (len(_HEAD_BODY), _HEAD_BODY))
        elif begins:
            self._wait(HEAD_S)

    def on_headers_complete(self) -> None:
        """Go on with the body."""
        self._in_head, self._head_bytes = False, 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().on_headers_complete()
        if cast("Gateway", self.config.app).leaving:
            self.cycle.keep_alive = False  # the server says so in the head of the answer

    def on_message_complete(self) -> None:
        """Expect another head."""
        self._in_head = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Begin to wait for a caller who does not read."""
        super().pause_writing()
        self._reading = self.loop.call_later(HEAD_S, self._give_up)

    def resume_writing(self) -> None:
        """Go on writing."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        for timer in (self._timer, self._reading):
            if timer is not None:
                timer.cancel()
        self._timer = self._reading = None
        super().connection_lost(exc)

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._give_up)

    def _end(self, last: bytes) -> None:
        self.transport.write(last)
        self.transport.close()

    def _give_up(self) -> None:
        self.transport.abort()


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
        timeout_keep_alive=KEEP_ALIVE_S,
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
