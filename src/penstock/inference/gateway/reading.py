"""What stands before a prediction: whom we answer, what was sent, and the bytes of it.

The gateway looks at headers only. Which protocol a body follows is said by its path and its
content type; the worker reads it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from penstock.inference.gateway.answers import ARROW_STREAM, RefusedError
from penstock.inference.gateway.batching import Failure
from penstock.inference.gateway.deadlines import Deadlines
from penstock.inference.gateway.paths import Action
from penstock.inference.gateway.settings import GatewaySettings
from penstock.inference.program.frames import (
    ARROW,
    ARROW_MEDIA,
    CSV,
    INVOCATIONS,
    JSON_MEDIA,
    PARQUET,
    V2,
    V2_BINARY,
    WORD,
)

Headers = Mapping[bytes, bytes]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
READ_OFF = 16
"""A body of up to so many times the limit is read to its end before it is refused."""

_JSON_TYPES = frozenset({b"", b"application/json", b"application/x-www-form-urlencoded"})
"""The last is what curl says of JSON when nobody tells it better."""
_TABLES = {
    b"text/csv": CSV,
    b"application/vnd.apache.parquet": PARQUET,
    b"application/x-parquet": PARQUET,
    b"application/parquet": PARQUET,
    ARROW_STREAM: ARROW,
}
_HEAD = b"inference-header-content-length"


class Form(NamedTuple):
    """How a request is written, and how its answer shall be."""

    kind: int
    """As in frames.py."""
    wants: int
    head: int | None
    """Length of the JSON in front of binary tensors."""

    def body(self, sent: bytes) -> bytes:
        """Return what goes to the worker."""
        if self.head is None:
            return sent
        if self.head > len(sent):
            what = f"The body has {len(sent)} bytes, its JSON {self.head}, by the header."
            hint = "Let Inference-Header-Content-Length be the length of the JSON in bytes."
            raise RefusedError(Failure(400, "PS535", what, hint))
        return WORD.pack(self.head) + sent


def form_of(action: Action, headers: Headers) -> Form:
    """Return the form of a request for predictions.

    Raises
    ------
    RefusedError
        PS507, PS514: nobody reads such a body.
    """
    coding = headers.get(b"content-encoding", b"identity")
    if coding != b"identity":
        what = f"Bodies encoded as {_shown(coding)} are not read."
        raise RefusedError(Failure(415, "PS514", what, "Send it as it is."))
    wants = ARROW_MEDIA if _accepts_arrow(headers.get(b"accept", b"")) else JSON_MEDIA
    said = headers.get(b"content-type", b"")
    media = said.split(b";")[0].strip().lower()
    if action is Action.INFER:
        return _v2(media, headers, wants)
    if action is Action.EXPLAIN:
        if media in _JSON_TYPES and _HEAD not in headers:
            return Form(V2, JSON_MEDIA, None)
        what = f"A request of this path must be plain application/json, not {_shown(said)}."
        raise RefusedError(Failure(415, "PS507", what, "Send the inputs as JSON."))
    if media in _JSON_TYPES:
        return Form(INVOCATIONS, wants, None)
    kind = _TABLES.get(media)
    charset = said.lower().replace(b'"', b"").partition(b"charset=")[2].split(b";")[0].strip()
    if kind is None or charset not in {b"", b"utf-8", b"us-ascii"}:
        what = f"A request must be JSON, text/csv in UTF-8, Parquet or Arrow, not {_shown(said)}."
        hint = "Send Content-Type: application/json, text/csv, application/vnd.apache.parquet "
        raise RefusedError(Failure(415, "PS507", what, f"{hint}or {ARROW_STREAM.decode()}."))
    return Form(kind, wants, None)


def _v2(media: bytes, headers: Headers, wants: int) -> Form:
    length = headers.get(_HEAD)
    if length is not None:
        if not length.isdigit() or len(length) > 9:
            what = f"Inference-Header-Content-Length is {_shown(length)}, not a length in bytes."
            hint = "Let it be the length of the JSON in front of the tensors."
            raise RefusedError(Failure(400, "PS535", what, hint))
        return Form(V2_BINARY, wants, int(length))
    if media not in _JSON_TYPES:
        what = f"A request of this path must be application/json, not {_shown(media)}."
        hint = "Post tables to /models/MODEL/invocations; binary tensors need the header "
        hint = f"{hint}Inference-Header-Content-Length."
        raise RefusedError(Failure(415, "PS507", what, hint))
    return Form(V2, wants, None)


def _accepts_arrow(accept: bytes) -> bool:
    for part in accept.lower().split(b","):
        media, _, rest = part.partition(b";")
        if media.strip() == ARROW_STREAM and rest.replace(b" ", b"") not in {b"q=0", b"q=0.0"}:
            return True
    return False


def check_caller(headers: Headers, hosts: frozenset[str]) -> None:
    """Refuse what a browser sends for a page of others.

    A page that rebinds its own name to us says so in Host, any other in Origin.

    Raises
    ------
    RefusedError
        PS510, PS537.
    """
    host = headers.get(b"host", b"").decode("latin-1")
    if _name(host) not in hosts:
        what = f"The host {host[:100]!r} is not served here."
        hint = "Add the name to allowed_hosts in server.toml."
        raise RefusedError(Failure(403, "PS510", what, hint))
    origin = headers.get(b"origin")
    if origin is not None and not _is_ours(origin.decode("latin-1"), hosts):
        what = f"A page of {origin.decode('latin-1')[:100]!r} may not ask here."
        hint = "Ask from a program, or add the page's host to allowed_hosts in server.toml."
        raise RefusedError(Failure(403, "PS537", what, hint))


def _is_ours(origin: str, hosts: frozenset[str]) -> bool:
    try:
        return (urlsplit(origin).hostname or "") in hosts
    except ValueError:
        return False


async def body_of(
    headers: Headers, receive: Receive, settings: GatewaySettings, deadlines: Deadlines
) -> bytes:
    """Read a request's body, bounded in size and time.

    Raises
    ------
    RefusedError
        PS506, PS513.
    """
    limit = settings.body_bytes
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length[:20]) > limit * READ_OFF:
        raise RefusedError(too_large(limit))
    task = asyncio.current_task()
    assert task is not None, "requests are answered in tasks"
    deadline = deadlines.at(time.monotonic() + settings.deadline_s, task.cancel)
    try:
        body = await _read(receive, limit)
    except asyncio.CancelledError:
        if not deadline.missed:
            raise
        task.uncancel()
        body = None
    finally:
        deadline.met()
    if body is None:
        what = f"The body did not arrive in {settings.deadline_s:g} s."
        raise RefusedError(Failure(408, "PS513", what, "Send the whole body at once."))
    if len(body) > limit:
        raise RefusedError(too_large(limit))
    return body


def declared(headers: Headers, settings: GatewaySettings) -> int:
    """Return the bytes that a body will have; the most that it may where it does not say."""
    length = headers.get(b"content-length", b"")
    most = settings.body_bytes
    return min(int(length[:20]), most) if length.isdigit() else most


def too_large(limit: int) -> Failure:
    """Refuse a body for its size."""
    what = f"The body is greater than {limit} bytes."
    return Failure(413, "PS506", what, "Send fewer rows at once.")


async def _read(receive: Receive, limit_bytes: int) -> bytes | None:
    """Return the body, or its beginning when it is too large; None when the caller left.

    What is somewhat too large is read off and thrown away: a caller that is still sending
    would see a broken connection in place of the answer.
    """
    body, size = bytearray(), 0
    while size <= limit_bytes * READ_OFF:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if len(body) <= limit_bytes:
            body += part
        if not message.get("more_body", False):
            break
    return bytes(body)


def _name(host: str) -> str:
    """Return a Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _shown(value: bytes) -> str:
    return repr(value.decode("latin-1")[:80])
