"""Callers of the digits model: real requests over real connections, at an even pace."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

CALLERS = 6
PER_SECOND = 300.0
BRIGHTEST = 16.0


class Traffic:
    """Sends pictures, about 300 a second, until it is stopped.

    Parameters
    ----------
    port
        The gateway's.
    pictures
        Shape ``(n, 64)``, pixels from 0 to 16.
    """

    def __init__(self, port: int, pictures: NDArray[np.float64]) -> None:
        self._port = port
        self._usual = [_body(picture) for picture in pictures.tolist()]
        self._inverted = [_body(picture) for picture in (BRIGHTEST - pictures).tolist()]
        self._bodies = self._usual
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.statuses: Counter[int] = Counter()
        """HTTP status, 0 for a connection that broke, and how often it was seen."""

    def __enter__(self) -> Self:
        """Make the callers; they wait for `begin`."""
        return self

    def begin(self) -> None:
        """Begin to send."""
        self._threads = [
            threading.Thread(target=self._call, args=(number,), daemon=True)
            for number in range(CALLERS)
        ]
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        """Stop sending."""
        self._stop.set()
        for thread in self._threads:
            thread.join(5)

    def invert(self) -> None:
        """From now on send negatives: somebody has changed the scanner's settings."""
        self._bodies = self._inverted

    @property
    def sent(self) -> int:
        """How many requests were answered so far."""
        with self._lock:
            return sum(self.statuses.values())

    @property
    def failed(self) -> int:
        """How many were answered by an error."""
        with self._lock:
            return sum(n for status, n in self.statuses.items() if status != 200)

    def _call(self, number: int) -> None:
        draw = np.random.default_rng(number)
        pause_s = CALLERS / PER_SECOND
        due = time.monotonic() + pause_s * number / CALLERS
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        with contextlib.closing(connection):
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                # A caller that falls behind does not catch up: a burst would be no even pace.
                due = max(due + pause_s, time.monotonic())
                status = _ask(connection, self._bodies[int(draw.integers(len(self._bodies)))])
                with self._lock:
                    self.statuses[status] += 1


def _ask(connection: http.client.HTTPConnection, body: bytes) -> int:
    """Return the status of the answer, 0 where the connection broke."""
    headers = {"Content-Type": "application/json"}
    try:
        connection.request("POST", "/v2/models/digits/infer", body, headers)
        with connection.getresponse() as response:
            response.read()
            return response.status
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0


def _body(picture: Sequence[float]) -> bytes:
    one = {"name": "pixels", "shape": [1, 64], "datatype": "FP64", "data": list(picture)}
    return json.dumps({"inputs": [one]}).encode()
