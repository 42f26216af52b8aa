"""Callers that do not wait for one another: requests at a rate, on connections that are kept.

One thread with raw sockets, so that 500 requests a second take a few percent of a core. A request
is due at its time whatever became of those before it, and its time counts from then on. One whose
connection breaks is sent once more, as an HTTP client does; what fails then has failed.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Self

MOST_CONNECTIONS = 128
PATIENCE_S = 30.0


class Outcome(NamedTuple):
    """What became of one request."""

    due_s: float
    took_s: float
    status: int
    """0 where no answer came, the second time."""
    id: str
    """The prediction id."""
    text: bytes
    """The answer, where it is an error."""


@dataclass(slots=True, eq=False)
class _Connection:
    socket: socket.socket
    due_s: float = 0.0
    request: bytes = b""
    tries: int = 0
    sent: int = 0
    received: bytes = b""


@dataclass
class OpenLoop:
    """Sends requests in turn at a rate until it is stopped."""

    port: int
    requests: Sequence[bytes]
    """Whole HTTP requests."""
    per_s: float
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    broken: int = 0
    """Connections that ended with a request in them."""
    cpu_s: float = 0.0
    """Time of this thread on a processor, at the end."""

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._waiting: deque[tuple[float, bytes, int]] = deque()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        began_s = time.monotonic()
        count = 0
        while not self._stop.is_set() or self._busy or self._waiting:
            now_s = time.monotonic()
            while not self._stop.is_set() and began_s + count / self.per_s <= now_s:
                request = self.requests[count % len(self.requests)]
                self._waiting.append((began_s + count / self.per_s, request, 0))
                count += 1
            self._send_waiting()
            # Rounded up to some milliseconds: several are sent at one wake.
            for key, events in self._selector.select(0.004):
                self._go_on(key.data, events)
            if now_s - began_s > count / self.per_s + PATIENCE_S:
                break
        for each in (*self._busy, *self._idle):
            each.socket.close()
        for each in self._busy:
            self.outcomes.append(Outcome(each.due_s, PATIENCE_S, 0, "", b"no answer"))
        self._selector.close()
        self.cpu_s = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)

    def _send_waiting(self) -> None:
        while self._waiting:
            again = self._waiting[0][2] > 0  # on a fresh connection: the others may be dead too
            if self._idle and not again:
                connection = self._idle.pop()
            elif again or len(self._busy) < MOST_CONNECTIONS:
                connection = _Connection(socket.socket())
                connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.socket.setblocking(False)
                connection.socket.connect_ex(("127.0.0.1", self.port))
                self._selector.register(
                    connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection
                )
            else:
                return
            connection.due_s, connection.request, tries = self._waiting.popleft()
            connection.tries, connection.sent, connection.received = tries + 1, 0, b""
            self._busy.add(connection)
            self._write(connection)

    def _go_on(self, connection: _Connection, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._write(connection)
        if not events & selectors.EVENT_READ:
            return
        try:
            chunk = connection.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._lost(connection)
            return
        connection.received += chunk
        head, found, body = connection.received.partition(b"\r\n\r\n")
        if found and len(body) >= int(_header(head, b"content-length") or b"0"):
            self._answered(connection, head, body)

    def _write(self, connection: _Connection) -> None:
        try:
            connection.sent += connection.socket.send(connection.request[connection.sent :])
        except BlockingIOError:
            return
        except OSError:  # still connecting, or refused: then it is told on reading
            return
        if connection.sent == len(connection.request):
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)

    def _answered(self, connection: _Connection, head: bytes, body: bytes) -> None:
        status = int(head[9:12])
        self._busy.discard(connection)
        name = _header(head, b"penstock-prediction-id").decode()
        took_s = time.monotonic() - connection.due_s
        text = b"" if status == 200 else body
        self.outcomes.append(Outcome(connection.due_s, took_s, status, name, text))
        if _header(head, b"connection") == b"close":
            self._close(connection)
        else:
            self._idle.append(connection)

    def _lost(self, connection: _Connection) -> None:
        self._close(connection)
        if connection not in self._busy:
            self._idle = [each for each in self._idle if each is not connection]
            return
        self._busy.discard(connection)
        self.broken += 1
        if connection.tries == 1:
            self._waiting.appendleft((connection.due_s, connection.request, 1))
            return
        took_s = time.monotonic() - connection.due_s
        self.outcomes.append(Outcome(connection.due_s, took_s, 0, "", b"connection lost twice"))

    def _close(self, connection: _Connection) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(connection.socket)
        connection.socket.close()


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return b""
