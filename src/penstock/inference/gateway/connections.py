"""One caller's connection: HTTP/1.1 in, answers out, in the order of the requests.

The bytes are read by httptools (the parser of Node.js). There is no task, no dictionary of a scope
and no queue of messages for a request: a request that is whole goes to the gateway in a call, and
its answer comes back in one, whenever that is. Callers may be slow or malicious: heads, bodies,
times and requests on the way are bounded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, Any, cast

import httptools

from penstock.inference.gateway.answers import Answer, RefusedError, failed, refused
from penstock.inference.gateway.batching import Failure
from penstock.inference.gateway.reading import READ_OFF, Admitted, announced, too_large

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from penstock.inference.gateway.application import Gateway

KEEP_ALIVE_S = 75.0
HEAD_BYTES = 64 * 2**10
"""Greatest head of a request: its line and its headers."""
HEAD_S = 10.0
"""A head that is not whole by then is given up, as is a caller who does not read the answer."""
CONNECTIONS = 4096
"""More are closed as they come."""
WAITING = 16
"""With so many requests behind the one that is answered, no more are read."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_logger = logging.getLogger(__name__)


class Asked:
    """One request of a connection."""

    __slots__ = ("admitted", "body", "chunks", "keep_alive", "method", "refusal", "size")

    def __init__(self, method: bytes, *, keep_alive: bool) -> None:
        self.method = method
        self.keep_alive = keep_alive
        self.admitted: Admitted | None = None
        """What it is; None when it is not whole, or was refused by its head."""
        self.refusal: Answer | None = None
        """Its answer, known before the gateway was asked."""
        self.chunks: list[bytes] = []
        self.size = 0

    def refuse(self, answer: Answer) -> None:
        """Have it answered so; its body is not kept."""
        if self.refusal is None:
            self.refusal = answer
        self.chunks.clear()


class Connection(asyncio.Protocol):
    """A connection, as the HTTP server makes one for each caller."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # noqa: ARG002  the server gives it
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._gateway = cast("Gateway", config.app)
        self._loop = _loop or asyncio.get_running_loop()
        self._all = cast("set[Any]", server_state.connections)
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._headers: dict[bytes, bytes] = {}
        self._url = b""
        self._in_head = True
        """Whether the next bytes belong to the head of a request."""
        self._head_bytes = 0
        self._asked: Asked | None = None
        """Whose body is being read."""
        self._waiting: deque[Asked] = deque()
        self._answering: Asked | None = None
        self._deaf = False
        """Whether what comes is thrown away: the connection ends with an answer."""
        self._leaving = False
        self._full = False
        """Whether the caller does not take what is written."""
        self._awaits: object = None
        """What is waited for now, and until when."""
        self._due_s = inf
        self._timer: asyncio.TimerHandle | None = None

    # ---- the transport's calls ----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, and begin to wait for what it says."""
        self._transport = cast("asyncio.Transport", transport)
        self._all.add(self)
        if len(self._all) > CONNECTIONS:
            what = f"{CONNECTIONS} callers are connected already."
            hint = "Try again in a second, and keep connections open between requests."
            self._end_with(Failure(503, "PS546", what, hint))
            return
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Forget it; what is being answered is logged all the same."""
        self._all.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._deaf = True
        self._drop()

    def data_received(self, data: bytes) -> None:
        """Read what was sent; a head has a greatest size and a latest time."""
        if self._deaf or self._transport.is_closing():
            return
        if self._in_head:
            # Most heads come whole with their body behind them; only long pieces are looked at.
            whole = len(data) <= HEAD_BYTES or 0 <= data.find(b"\r\n\r\n") <= HEAD_BYTES
            self._head_bytes += len(data)
            if not whole:
                self._head_too_large()
                return
        self._feed(data)
        if self._in_head and self._head_bytes > HEAD_BYTES and not self._deaf:
            self._head_too_large()
            return
        self._expect()

    def eof_received(self) -> bool:
        """Answer what was asked, then end: the caller sends no more."""
        self._leaving = True
        return self._answering is not None or bool(self._waiting)

    def pause_writing(self) -> None:
        """Begin to wait for a caller who does not read."""
        self._full = True
        self._expect()

    def resume_writing(self) -> None:
        """Go on writing."""
        self._full = False
        self._next()
        self._expect()

    def shutdown(self) -> None:
        """End with the answer that is on its way, if there is one."""
        self._leaving = True
        if self._answering is None and self._asked is None:
            self._transport.close()

    # ---- the parser's calls -------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._headers = {}
        self._url = b""
        self._head_bytes = self._head_bytes or 1

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Decide by the head whether the body is wanted."""
        self._in_head, self._head_bytes = False, 0
        parser, headers = self._parser, self._headers
        method = parser.get_method()
        if parser.should_upgrade() and method != b"CONNECT":
            return  # it is read once more, without the offer
        keep_alive = parser.should_keep_alive() and (
            b"connection" not in headers or parser.get_http_version() != "1.0"
        )
        asked = self._asked = Asked(method, keep_alive=keep_alive)
        try:
            asked.admitted = self._gateway.admit(method, self._url, headers)
        except RefusedError as error:
            asked.refuse(error.answer())
        except Exception:
            _logger.exception("The gateway failed on the head of %r", self._url[:200])
            asked.refuse(failed())
        if asked.refusal is not None:
            if b"expect" in headers or announced(headers) > self._gateway.body_bytes * READ_OFF:
                self._cut(asked)
        elif self._answering is None and headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(_CONTINUE)

    def on_body(self, part: bytes) -> None:
        """Keep a part of the body, or throw it away.

        What is somewhat too large is read off: a caller that is still sending would see a broken
        connection in place of the answer.
        """
        asked = self._asked
        if asked is None:
            return
        asked.size += len(part)
        if asked.refusal is None:
            asked.chunks.append(part)
            if asked.size <= self._gateway.body_bytes:
                return
            asked.refuse(refused(too_large(self._gateway.body_bytes)))
        if asked.size > self._gateway.body_bytes * READ_OFF:
            self._cut(asked)

    def on_message_complete(self) -> None:
        """Have the request answered, after those before it."""
        self._in_head = True
        asked, self._asked = self._asked, None
        if asked is not None:
            self._queue(asked)

    # ---- answering ----------------------------------------------------------------------

    def _queue(self, asked: Asked) -> None:
        if self._answering is None and not self._waiting:
            self._begin(asked)
            return
        self._waiting.append(asked)
        if len(self._waiting) == WAITING:
            self._transport.pause_reading()

    def _begin(self, asked: Asked) -> None:
        self._answering = asked
        if asked.refusal is not None or asked.admitted is None:
            self._answered(asked.refusal or failed())
            return
        chunks = asked.chunks
        self._gateway.answer(
            asked.admitted, chunks[0] if len(chunks) == 1 else b"".join(chunks), self._answered
        )

    def _answered(self, answer: Answer) -> None:
        """Write the answer of the request that is being answered."""
        asked, self._answering = self._answering, None
        assert asked is not None, "one answer to a request"
        self._give_back(asked)
        transport = self._transport
        if transport.is_closing():
            return
        leaves = (self._leaving or self._gateway.leaving) and not self._waiting
        ends = leaves or not asked.keep_alive
        transport.write(encoded(answer, ends=ends, bodiless=asked.method == b"HEAD"))
        if ends:
            self._deaf = True
            self._drop()
            transport.close()
        elif self._waiting:
            self._loop.call_soon(self._next)
        else:
            self._expect()

    def _next(self) -> None:
        if self._waiting and self._answering is None and not self._full:
            if len(self._waiting) == WAITING:
                self._transport.resume_reading()
            self._begin(self._waiting.popleft())

    def _cut(self, asked: Asked) -> None:
        """Answer a request whose rest nobody reads; the connection ends with it."""
        self._deaf, asked.keep_alive, self._asked = True, False, None
        self._queue(asked)

    def _end_with(self, failure: Failure) -> None:
        """Say why what comes now cannot be read, after the answers to what came before."""
        if self._asked is not None:
            self._give_back(self._asked)
        last = Asked(b"", keep_alive=False)
        last.refuse(refused(failure))
        self._cut(last)

    def _give_back(self, asked: Asked) -> None:
        if asked.admitted is not None:
            self._gateway.leave(asked.admitted)

    def _drop(self) -> None:
        """Forget what was asked and is not being answered."""
        for asked in (*self._waiting, self._asked):
            if asked is not None:
                self._give_back(asked)
        self._waiting.clear()
        self._asked = None

    # ---- bounds -------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            method = self._parser.get_method()
            self._parser = httptools.HttpRequestParser(self)
            if method == b"CONNECT":
                self.shutdown()
            elif not self._deaf:  # nothing else is spoken here: HTTP/1.1 goes on
                self._feed(self._plain(method) + rest)
        except httptools.HttpParserCallbackError:
            _logger.exception("The gateway failed on what a caller sent")
            self._transport.abort()
        except httptools.HttpParserError as error:
            what = f"What was sent is not HTTP/1.1: {error}."
            hint = "Send a request line, headers, an empty line, and as many bytes as announced."
            self._end_with(Failure(400, "PS531", what, hint))

    def _plain(self, method: bytes) -> bytes:
        """Return the head that was read last, without the offer to speak another protocol.

        The parser would take what follows such a head, the body too, for the other protocol's.
        """
        lines = [b"%s %s HTTP/1.1" % (method, self._url)]
        lines += [
            b"%s: %s" % header
            for header in self._headers.items()
            if header[0] not in {b"connection", b"upgrade"}
        ]
        return b"\r\n".join((*lines, b"", b""))

    def _head_too_large(self) -> None:
        what = f"The head of the request is greater than {HEAD_BYTES} bytes."
        hint = "Send fewer headers; values belong into the body."
        self._end_with(Failure(431, "PS546", what, hint))

    def _expect(self) -> None:
        """Set the time by which the next thing has to happen, if it is another than before.

        A timer is seldom set: it looks, when it is due, whether the time has been put off.
        """
        awaits: object
        if self._full:
            awaits, within_s = "taken", HEAD_S
        elif self._asked is not None:
            awaits, within_s = self._asked, self._gateway.body_s
        elif self._head_bytes:
            awaits, within_s = "head", HEAD_S
        elif self._answering is not None or self._waiting:
            self._awaits, self._due_s = None, inf
            return
        else:
            awaits, within_s = "request", KEEP_ALIVE_S
        if awaits is self._awaits:
            return
        self._awaits = awaits
        self._due_s = self._loop.time() + within_s
        if self._timer is None or self._timer.when() > self._due_s:
            self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._due_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._loop.time() < self._due_s:
            if self._due_s < inf:
                self._wait()
        elif self._asked is not None and not self._full:
            what = f"The body did not arrive in {self._gateway.body_s:g} s."
            late = Failure(408, "PS513", what, "Send the whole body at once.")
            asked = self._asked
            asked.refuse(refused(late))
            self._cut(asked)
        else:
            self._transport.abort()


def encoded(answer: Answer, *, ends: bool, bodiless: bool = False) -> bytes:
    """Return the bytes of an answer; `ends` says in them that the connection does."""
    parts = [_line(answer.status), dated()]
    for name, value in answer.headers:
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"connection: close\r\n\r\n" if ends else b"\r\n")
    if not bodiless:
        parts.append(answer.body)
    return b"".join(parts)


@lru_cache
def _line(status: int) -> bytes:
    return b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode())


def dated() -> bytes:
    """Return the header that says what time it is."""
    return _dated(int(time.time()))


@lru_cache(maxsize=2)
def _dated(now_s: int) -> bytes:
    return b"date: %s\r\n" % formatdate(now_s, usegmt=True).encode()
