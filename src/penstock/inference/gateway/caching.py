"""Answers kept for requests that come again, byte for byte.

Off unless a version asks for it: it pays where callers repeat themselves and a prediction is
dear. An answer from here is logged as any other, with a prediction id of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from penstock.domain import Deployment
from penstock.inference.gateway.batching import Ticket
from penstock.inference.program.frames import JSON_MEDIA, Reply

OVERHEAD_BYTES = 600
"""What an entry takes beside its bodies, about."""
OK = 200


class Asked(NamedTuple):
    """What two requests must have in common to have the same answer."""

    digest: str
    """Of the artifact: a new version never gives an old one's answers."""
    path: str
    """The call of the model that serves."""
    kind: int
    wants: int
    body: bytes


class Kept(NamedTuple):
    """An answer, and the id of ours that stands in it; empty where it has the caller's own."""

    reply: Reply
    id: str


class Cache:
    """Answers of all versions, each bounded by what it asks for.

    Examples
    --------
    >>> cache = Cache()
    >>> asked = Asked("d1", "own", 1, 0, b"{}")
    >>> cache.keep(asked, Kept(Reply(200, "a", 1, b'{"id":"a"}'), "a"), 10_000)
    >>> cache.find(asked, "b")
    Reply(status=200, id='b', rows=1, body=b'{"id":"b"}', media=0)
    """

    def __init__(self) -> None:
        self._kept: dict[str, OrderedDict[Asked, Kept]] = {}
        """By digest, the least recently used first."""
        self._sizes: dict[str, int] = {}

    def find(self, asked: Asked, name: str) -> Reply | None:
        """Return the answer under a prediction id of its own; None where none is kept."""
        of_version = self._kept.get(asked.digest)
        kept = None if of_version is None else of_version.get(asked)
        if of_version is None or kept is None:
            return None
        of_version.move_to_end(asked)
        if not kept.id:
            return kept.reply
        mine, new = _member(kept.id), _member(name)
        return kept.reply._replace(id=name, body=kept.reply.body.replace(mine, new))

    def keep(self, asked: Asked, kept: Kept, limit_bytes: int) -> None:
        """Keep an answer; the least recently used go until the version is within its limit."""
        size = _size(asked, kept)
        if size > limit_bytes:
            return
        of_version = self._kept.setdefault(asked.digest, OrderedDict())
        before = of_version.pop(asked, None)
        total = self._sizes.get(asked.digest, 0) + size
        total -= 0 if before is None else _size(asked, before)
        of_version[asked] = kept
        while total > limit_bytes:
            total -= _size(*of_version.popitem(last=False))
        self._sizes[asked.digest] = total

    def forget_all_but(self, digests: set[str]) -> None:
        """Forget the answers of versions that run no more."""
        for digest in self._kept.keys() - digests:
            del self._kept[digest]
            del self._sizes[digest]


def limit_bytes(deployment: Deployment) -> int:
    """Return what the answers of a version may take; 0 where none is kept."""
    return int(float(deployment.serving.get("cache_mb") or 0) * 2**20)


def asked_by(ticket: Ticket) -> Asked:
    """Return what makes a request the same as another."""
    assert ticket.deployment is not None, "a question of the gateway's own"
    path = str(ticket.deployment.serving.get("path") or "own")
    return Asked(ticket.deployment.artifact_digest, path, ticket.kind, ticket.wants, ticket.body)


def kept_of(ticket: Ticket, reply: Reply) -> Kept | None:
    """Return what to keep of an answer; None where it must not, or its id cannot be changed."""
    if reply.status != OK or reply.media != JSON_MEDIA:
        return None
    if reply.id != ticket.id.decode():
        return Kept(reply, "")  # the caller's own, a part of the body that is compared
    return Kept(reply, reply.id) if reply.body.count(_member(reply.id)) == 1 else None


def _member(name: str) -> bytes:
    return b'"id":"%s"' % name.encode()


def _size(asked: Asked, kept: Kept) -> int:
    return len(asked.body) + len(kept.reply.body) + OVERHEAD_BYTES
