"""Asking a version through the gateway, over HTTP, as every caller does.

An `Endpoint` keeps one connection alive and is for one thread. Quality and speed of stage test
are measured through it, so that what is judged is what serves.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import pyarrow as pa

from penstock.domain import JSON, Environment
from penstock.errors import StoppedError, UnreachableError
from penstock.inference.asking import Told, chunks, merged, told_by

MAX_ROWS = 200
"""In one request: a slow model must stay within the gateway's deadline."""
READY_EVERY_S = 0.1


class Endpoint:
    """A model's endpoint in one environment.

    Parameters
    ----------
    base_url
        The gateway's, ``http://127.0.0.1:8421``.
    number
        Asks this version by name; None asks whatever the split chooses.
    timeout_s
        For one request; above the gateway's own deadline, which answers first.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        number: int | None,
        environment: Environment,
        *,
        timeout_s: float = 30,
    ) -> None:
        prefix = "/test" if environment is Environment.TEST else ""
        version = "" if number is None else f"/versions/{number}"
        self._path = f"{prefix}/v2/models/{model}{version}"
        self._model = model
        self._number = number
        self._environment = environment
        self._base_url = base_url
        place = urlsplit(base_url)
        assert place.hostname is not None, f"{base_url} names no host"
        self._connection = http.client.HTTPConnection(
            place.hostname, place.port, timeout=timeout_s
        )

    def predict(self, table: pa.Table, signature: JSON | None) -> Told:
        """Ask for the answers to every row of `table`, some rows a request.

        Raises
        ------
        WorkerAnswerError
            The gateway or the version answered an error.
        UnreachableError
            PS559: the gateway does not answer.
        """
        bodies = chunks(table, signature, max_rows=MAX_ROWS)
        return merged([self._infer(body) for _, body in bodies])

    def took_s(self, body: bytes) -> float:
        """Return how long a request with an Open Inference Protocol body took, in seconds.

        Raises
        ------
        WorkerAnswerError
            The gateway or the version answered an error.
        UnreachableError
            PS559: the gateway does not answer.
        """
        began_s = time.perf_counter()
        status, reply = self._request("POST", f"{self._path}/infer", body)
        took_s = time.perf_counter() - began_s
        told_by(status, reply)
        return took_s

    def ready(self) -> bool:
        """Say whether the version answers now; False as well while the gateway is away."""
        try:
            status, _ = self._request("GET", f"{self._path}/ready")
        except UnreachableError:
            return False
        return status == 200

    def workers(self) -> list[dict[str, Any]]:
        """Return the gateway's list of worker processes, of all models."""
        status, body = self._request("GET", "/penstock/workers")
        if status != 200:
            raise self._unreachable(f"answers {status} to /penstock/workers")
        return cast("list[dict[str, Any]]", json.loads(body))

    def wait_ready(self, timeout_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
        """Wait until the version answers.

        Raises
        ------
        StoppedError
            PS560: it failed to start, with the gateway's reason; PS561: it took too long.
        """
        ends_s = time.monotonic() + timeout_s
        while not self.ready():
            failure = self._failure()
            if failure is not None:
                raise StoppedError(
                    "PS560",
                    f"{self._name()} does not start in {self._environment}: {failure}",
                    hint="Mend what the reason names and push again.",
                )
            if time.monotonic() > ends_s:
                raise StoppedError(
                    "PS561",
                    f"{self._name()} was not ready in {self._environment} after {timeout_s:g} s.",
                    hint="See whether the gateway runs, and why it waits: penstock status.",
                )
            sleep(READY_EVERY_S)

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def _infer(self, body: bytes) -> Told:
        return told_by(*self._request("POST", f"{self._path}/infer", body))

    def _request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        headers = {} if body is None else {"Content-Type": "application/json"}
        for attempt in (1, 2):
            try:
                self._connection.request(method, path, body, headers)
                response = self._connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                # The gateway closes idle connections: a second attempt opens a new one.
                if attempt == 2 or isinstance(error, TimeoutError):
                    raise self._unreachable(f"does not answer ({error})") from error
        raise AssertionError("the loop returns or raises")

    def _failure(self) -> str | None:
        """Return why the version failed; None while it may still become ready."""
        try:
            workers = self.workers()
        except UnreachableError:
            return None
        for worker in workers:
            mine = worker["model"] == self._model and worker["environment"] == self._environment
            if mine and worker["number"] == self._number and worker["state"] == "failed":
                return str(worker["reason"])
        return None

    def _name(self) -> str:
        return self._model if self._number is None else f"{self._model}@{self._number}"

    def _unreachable(self, why: str) -> UnreachableError:
        return UnreachableError(
            "PS559",
            f"The gateway at {self._base_url} {why}.",
            hint="See that it runs: penstock serve.",
        )
