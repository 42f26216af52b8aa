"""What stands before a prediction: whom we answer, what was sent, and the bytes of it.

The gateway looks at headers only. Which protocol a body follows is said by its path and its
content type; the worker reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import inf
from typing import NamedTuple
from urllib.parse import urlsplit

from penstock.inference.gateway.answers import ARROW_STREAM, RefusedError
from penstock.inference.gateway.batching import Failure
from penstock.inference.gateway.paths import Action, Call
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
_KEPT_BYTES = 500
_KEPT = 1000


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


Head = tuple[bytes | None, ...]


class Heads(dict[Head, "Understood"]):
    """What heads were found to ask for: those of one caller are the same again and again."""

    def keep(self, head: Head, understood: Understood) -> None:
        """Remember one; a long one is none that comes again."""
        if sum(len(part) for part in head if part is not None) < _KEPT_BYTES:
            if len(self) >= _KEPT:
                self.clear()
            self[head] = understood


def head_of(method: bytes, target: bytes, headers: Headers) -> Head:
    """Return the parts of a head that decide, but for the body's length and whose it is."""
    get = headers.get
    return (
        method, target, get(b"host"), get(b"origin"), get(b"content-type"), get(b"accept"),
        get(b"content-encoding"), get(_HEAD), get(b"penstock-deadline-ms"),
    )  # fmt: skip


class Understood(NamedTuple):
    """What a head asks for."""

    call: Call
    form: Form | None = None
    """None where nothing is predicted."""
    within_s: float = inf


class Admitted(NamedTuple):
    """A request whose head was found good."""

    call: Call
    form: Form | None = None
    """None where nothing is predicted."""
    customer: str | None = None
    within_s: float = inf
    size: int = -1
    """Of the place that it holds in the gateway, in bytes; -1 where it needs none."""


def form_of(action: Action, headers: Headers) -> Form:
    """Return the form of a request for predictions.

    Raises
    ------
    RefusedError
        PS507, PS514: nobody reads such a body.
    """
    get = headers.get
    return _form_of(
        action,
        get(b"content-encoding", b"identity"),
        get(b"accept", b""),
        get(b"content-type", b""),
        get(_HEAD),
    )


@lru_cache(maxsize=1024)
def _form_of(
    action: Action, coding: bytes, accept: bytes, said: bytes, head: bytes | None
) -> Form:
    if coding != b"identity":
        what = f"Bodies encoded as {_shown(coding)} are not read."
        raise RefusedError(Failure(415, "PS514", what, "Send it as it is."))
    wants = ARROW_MEDIA if _accepts_arrow(accept) else JSON_MEDIA
    media = said.split(b";")[0].strip().lower()
    if action is Action.INFER:
        return _v2(media, head, wants)
    if action is Action.EXPLAIN:
        if media in _JSON_TYPES and head is None:
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


def _v2(media: bytes, length: bytes | None, wants: int) -> Form:
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
    host = headers.get(b"host", b"")
    if not _is_served(host, hosts):
        what = f"The host {host.decode('latin-1')[:100]!r} is not served here."
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


def announced(headers: Headers) -> int:
    """Return the bytes that a body will have, as its head says; -1 where it does not."""
    length = headers.get(b"content-length", b"")
    return int(length[:20]) if length.isdigit() else -1


def size_of(headers: Headers, most: int) -> int:
    """Return the room that a body needs: the most that it may have where it does not say.

    Raises
    ------
    RefusedError
        PS506.
    """
    length = announced(headers)
    if length > most:
        raise RefusedError(too_large(most))
    return most if length < 0 else length


def too_large(limit: int) -> Failure:
    """Refuse a body for its size."""
    what = f"The body is greater than {limit} bytes."
    return Failure(413, "PS506", what, "Send fewer rows at once.")


@lru_cache(maxsize=256)
def _is_served(host: bytes, hosts: frozenset[str]) -> bool:
    return _name(host.decode("latin-1")) in hosts


def _name(host: str) -> str:
    """Return a Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _shown(value: bytes) -> str:
    return repr(value.decode("latin-1")[:80])
