"""What the gateway sends back, and how a refusal looks."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from penstock.inference.gateway.batching import Failure
from penstock.inference.program import tensors
from penstock.inference.program.frames import ARROW_MEDIA, BINARY_MEDIA, V2, WORD, Reply
from penstock.inference.program.replies import fault

Header = tuple[bytes, bytes]
ARROW_STREAM = b"application/vnd.apache.arrow.stream"
_JSON: Header = (b"content-type", b"application/json")
_ARROW: Header = (b"content-type", ARROW_STREAM)
_OCTETS: Header = (b"content-type", b"application/octet-stream")
_RETRY: Header = (b"retry-after", b"1")


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
        self.kind = V2
        """Whose words the answer is in."""

    def answer(self) -> Answer:
        """Return what the caller is sent."""
        return refused(self.failure, self.headers, self.kind)


def sent(
    status: int, body: bytes, headers: tuple[Header, ...] = (), kind: Header = _JSON
) -> Answer:
    """Answer with a body that is ready: JSON, unless `kind` says else."""
    return Answer(status, [kind, (b"content-length", b"%d" % len(body)), *headers], body)


def replied(reply: Reply, headers: tuple[Header, ...] = ()) -> Answer:
    """Answer with what a worker replied, in the media that it chose."""
    if reply.media == ARROW_MEDIA:
        return sent(reply.status, reply.body, headers, _ARROW)
    if reply.media != BINARY_MEDIA:
        return sent(reply.status, reply.body, headers)
    try:
        (size,) = WORD.unpack_from(reply.body)
    except struct.error:
        failure = Failure(502, "PS511", "The worker sent what is no reply.", "See its log.")
        return refused(failure, headers, V2)
    more: Header = (b"inference-header-content-length", b"%d" % size)
    return sent(reply.status, reply.body[WORD.size :], (*headers, more), _OCTETS)


def anonymous(reply: Reply) -> Reply:
    """Return a reply without its prediction id, for rows that the log does not have.

    The only place where the gateway reads what a worker said: a full disk is rare.
    """
    if reply.media == ARROW_MEDIA or reply.status != 200:  # has none
        return reply
    try:
        binary = reply.media == BINARY_MEDIA
        parts = tensors.split(reply.body) if binary else tensors.Split(reply.body, b"")
        document = msgspec.json.decode(parts.json)
        document.pop("id", None)
    except (msgspec.DecodeError, tensors.TensorError, AttributeError, TypeError):
        return reply
    text = msgspec.json.encode(document)
    return reply._replace(body=tensors.join(text, parts.tensors) if binary else text)


def failed() -> Answer:
    """Answer that the fault is the gateway's own."""
    return refused(Failure(500, "PS521", "The gateway itself failed.", "See the server's log."))


def told(facts: Mapping[str, Any] | list[dict[str, Any]], status: int = 200) -> Answer:
    """Answer with facts."""
    return sent(status, msgspec.json.encode(facts))


def refused(failure: Failure, headers: tuple[Header, ...] = (), kind: int = V2) -> Answer:
    """Answer with an error, in the words of the protocol that a request of `kind` speaks."""
    status, code, what, hint = failure
    body = fault(status, code, what, hint, kind)
    if failure.status == 503 and all(name != b"retry-after" for name, _ in headers):
        headers = (*headers, _RETRY)
    return sent(failure.status, msgspec.json.encode(body), headers)
