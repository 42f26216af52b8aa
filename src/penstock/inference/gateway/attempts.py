"""One request at one version: what is known of it, what it leaves in the log and to its caller."""

from __future__ import annotations

from functools import lru_cache
from math import inf
from urllib.parse import quote

from penstock.domain import Deployment
from penstock.inference.gateway.answers import Answer, Header, anonymous, refused, replied
from penstock.inference.gateway.batching import Outcome, Then, Ticket
from penstock.inference.gateway.caching import Asked, limit_bytes
from penstock.inference.gateway.overload import Pace
from penstock.inference.gateway.placing import key_of
from penstock.inference.gateway.questions import Told
from penstock.inference.gateway.settings import GatewaySettings
from penstock.inference.prediction_log.segments import Entry
from penstock.inference.prediction_log.segments import Outcome as Logged
from penstock.inference.program.frames import Reply

_ANSWERED, _FAILED = Logged.ANSWERED, Logged.FAILED
SHED = "PS505"
_NOT_LOGGED: Header = (b"penstock-logged", b"no")
"""In place of the prediction id: no row stands behind it, for the disk takes none."""
_CACHED: Header = (b"penstock-cached", b"yes")


class Version:
    """A version that runs, with what each of its requests needs to know.

    Parameters
    ----------
    pace
        How fast it answers, where that is known already.
    """

    __slots__ = (
        "attempt_s", "cache_bytes", "deadline_s", "deployment", "key", "name", "pace", "role",
        "where",
    )  # fmt: skip

    def __init__(
        self, deployment: Deployment, settings: GatewaySettings, pace: Pace | None = None
    ) -> None:
        self.deployment = deployment
        self.where = (deployment.environment.value, deployment.model)
        self.key = key_of(deployment)
        self.role = deployment.role.value
        self.name = f"{deployment.model}@{deployment.number}"
        self.deadline_s = settings.deadline_of(deployment.serving)
        self.attempt_s = settings.attempt_of(deployment)
        self.cache_bytes = limit_bytes(deployment)
        self.pace = pace or Pace()


class Pending(Ticket):
    """An attempt, and what is to be done when it ends.

    Nothing waits for it: an answer goes out in the call that brings the worker's reply, for a
    task or a future a request would cost more than all that is done here.
    """

    version: Version
    place: int = 0
    """Among the requests in flight."""
    finish: Then | None = None
    """Told of the outcome that counts; None tells the caller."""
    told: Told | None = None
    """The caller."""
    end_s: float = inf
    """When the caller must have an answer."""
    instead_of: tuple[Pending, Outcome] | None = None
    """The challenger's failed attempt that this one makes good."""
    among: set[Pending] | None = None
    """Those with the same deadline, while it waits for a worker."""
    keep: Asked | None = None
    """Under what its answer is kept for others."""
    is_paced: bool = False
    """Whether its version's pace counts it as waiting."""
    logged: bool = True
    """Whether its entry is on disk, once it has ended."""
    cached: bool = False
    """Whether its answer is one that was given before."""
    bucket: int = -1
    """Of the caller's key; -1 without one."""
    role: str = ""
    generation: int = 0
    arrived_us: int = 0
    ended_s: float = 0.0

    def release(self) -> None:
        """Let it wait for nothing any more."""
        if self.is_paced:
            self.version.pace.waiting -= 1
            self.is_paced = False
        if self.among is not None:
            self.among.discard(self)
            self.among = None


def enter(entries: list[Entry], ticket: Pending, outcome: Outcome) -> list[Entry]:
    """Add the log's entries for an answer, the failed attempt before it first."""
    if ticket.instead_of is None:
        entries.append(_entry(ticket, outcome, _FAILED if outcome.status >= 500 else _ANSWERED))
        return entries
    first, refusal = ticket.instead_of
    failed = refusal.status >= 500 or outcome.status < 400
    entries.append(_entry(first, refusal, _FAILED if failed else Logged.DISMISSED))
    entries.append(_entry(ticket, outcome, Logged.FALLBACK))
    return entries


def _entry(ticket: Pending, outcome: Outcome, logged: Logged) -> Entry:
    arrived_us = ticket.arrived_us
    ended_us = arrived_us + int((ticket.ended_s - ticket.arrived_s) * 1e6)
    number, role = ticket.version.deployment.number, ticket.role
    if isinstance(outcome, Reply):
        return Entry(
            arrived_us, ended_us, number, role, outcome.status, logged, ticket.generation,
            outcome.rows, ticket.kind, outcome.id, ticket.body, outcome.body, outcome.media, "",
            ticket.bucket,
        )  # fmt: skip
    return Entry(
        arrived_us, ended_us, number, role, outcome.status, logged, ticket.generation, 0,
        ticket.kind, ticket.id.decode(), b"" if outcome.code == SHED else ticket.body, b"", 0,
        outcome.code, ticket.bucket,
    )  # fmt: skip


def answer(ticket: Pending, outcome: Outcome, more: tuple[Header, ...]) -> Answer:
    """Return what the caller is sent."""
    own_id = outcome.id if isinstance(outcome, Reply) else ""
    is_ours = not own_id or own_id == ticket.id.decode()
    if not ticket.logged:
        which = _NOT_LOGGED
    elif is_ours:
        which = (b"penstock-prediction-id", ticket.id)
    else:  # a caller's own id may hold anything; a header may not
        which = (b"penstock-prediction-id", quote(own_id, safe=":/@ +").encode())
    headers = (*_who(ticket.version.name, ticket.role), which, *more)
    if ticket.cached:
        headers = (*headers, _CACHED)
    if not isinstance(outcome, Reply):
        return refused(outcome, headers, ticket.kind)
    if not ticket.logged and own_id == ticket.id.decode():  # a caller's own stays its own
        outcome = anonymous(outcome)
    return replied(outcome, headers)


@lru_cache(maxsize=4096)
def _who(name: str, role: str) -> tuple[Header, Header]:
    """Return the headers that say who answered."""
    return (b"penstock-version", name.encode()), (b"penstock-arm", role.encode())
