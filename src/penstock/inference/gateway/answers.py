"""What the gateway sends back, and how a refusal looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from penstock.inference.gateway.batching import Failure

Header = tuple[bytes, bytes]
_JSON: Header = (b"content-type", b"application/json")
_RETRY: Header = (b"retry-after", b"1")
_CLOSE: Header = (b"connection", b"close")


class Answer(NamedTuple):
    """One HTTP response."""

    status: int
    headers: list[Header]
    body: bytes


class RefusedError(Exception):
    """Ends the handling of a request with an error of its own."""

    def __init__(self, failure: Failure, *, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(failure.what)
        self.failure = failure
        self.headers = headers


def sent(status: int, body: bytes, headers: tuple[Header, ...] = ()) -> Answer:
    """Answer with JSON that is ready."""
    return Answer(status, [_JSON, (b"content-length", b"%d" % len(body)), *headers], body)


def told(facts: Mapping[str, Any] | list[dict[str, Any]], status: int = 200) -> Answer:
    """Answer with facts."""
    return sent(status, msgspec.json.encode(facts))


def refused(failure: Failure, headers: tuple[Header, ...] = ()) -> Answer:
    """Answer with an error: what happened, its code, what to do next."""
    body = {"error": failure.what, "code": failure.code, "hint": failure.hint}
    if failure.status == 503:
        headers = (*headers, _RETRY)
    if failure.status in {408, 413}:  # the rest of the body is not read
        headers = (*headers, _CLOSE)
    return sent(failure.status, msgspec.json.encode(body), headers)
