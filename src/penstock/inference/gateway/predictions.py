"""From a body to an answer: draw the version, ask it, fall back, log, reply.

A request that the challenger fails is asked once more of the champion, so a bad challenger
costs no caller anything; the log has both attempts, and counts the request for the arm that was
drawn. Nothing is answered before it is logged. What cannot be answered in time is refused at once,
with the time after which it could be.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache, partial
from itertools import count
from math import inf
from typing import NamedTuple
from urllib.parse import quote

from penstock.domain import Deployment, Environment, Role
from penstock.inference.gateway import caching
from penstock.inference.gateway.answers import (
    Answer,
    Header,
    RefusedError,
    anonymous,
    refused,
    replied,
)
from penstock.inference.gateway.batching import Failure, Outcome, Ticket
from penstock.inference.gateway.caching import Cache
from penstock.inference.gateway.deadlines import Deadlines
from penstock.inference.gateway.figures import Figures
from penstock.inference.gateway.fleet import Fleet, Folders
from penstock.inference.gateway.hosts import Starter
from penstock.inference.gateway.overload import Pace, Room, retry_after
from penstock.inference.gateway.routing import ModelRoutes, choose
from penstock.inference.gateway.settings import GatewaySettings
from penstock.inference.gateway.shadowing import Copies
from penstock.inference.gateway.sticky import (
    BUCKETS,
    NO_BUCKET,
    bucket_of,
    customer,
    customer_in,
)
from penstock.inference.gateway.workers import attempt_s
from penstock.inference.prediction_log import redaction
from penstock.inference.prediction_log.segments import Entry, PredictionLog
from penstock.inference.prediction_log.segments import Outcome as Logged
from penstock.inference.program.frames import JSON_MEDIA, V2, Reply

EXPLICIT = "explicit"
"""Role in the log of a request that named its version: no canary counts it."""
SURE = 0.8
"""Part of the time left that the requests before one may take: what is estimated may be more."""
_SHED = "PS505"
_NOT_LOGGED: Header = (b"penstock-logged", b"no")
"""In place of the prediction id: no row stands behind it, for the disk takes none."""


class Question(NamedTuple):
    """A request for a prediction."""

    environment: Environment
    model: str
    number: int | None
    kind: int
    body: bytes
    wants: int = JSON_MEDIA
    """The media of the answer."""
    customer: str | None = None
    """Whose request it is, where the caller says so; for rollouts that draw customers."""
    within_s: float = inf
    """The caller's own deadline; one later than the version's changes nothing."""


class Predictions:
    """Answers questions with the workers of a fleet."""

    def __init__(
        self,
        settings: GatewaySettings,
        log: PredictionLog,
        clock: Callable[[], datetime],
        starter: Starter,
        folders: Folders,
    ) -> None:
        self.routes: dict[tuple[str, str], ModelRoutes] = {}
        """By environment and model; replaced as a whole, by `serve`."""
        self.log = log
        self.cache = Cache()
        self.fleet = Fleet(starter, folders, self.settle, settings)
        self.room = Room(max_requests=settings.held_requests, max_bytes=settings.held_bytes)
        self.copies = Copies(
            self._submit_copy, self.settle, lambda: self.room.requests, self._deadline_s
        )
        self.figures = Figures()
        self._settings = settings
        self._clock = clock
        self.deadlines = Deadlines()
        self._loop = asyncio.get_running_loop()
        self._random = random.Random(settings.seed)  # noqa: S311  splits traffic, keeps no secret
        self._prefix = secrets.token_hex(6).encode()
        self._numbers = count(1)
        self._in_flight: defaultdict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        self._active: set[tuple[str, str]] = set()
        self._without: dict[tuple[str, str], frozenset[str]] = {}
        self._watched: list[tuple[str, str]] = []
        self._paces: defaultdict[tuple[str, str, int], Pace] = defaultdict(Pace)

    def serve(self, routes: dict[tuple[str, str], ModelRoutes]) -> None:
        """Answer by these routes from now on."""
        self.routes = routes
        self._without = {key: _left_out(each) for key, each in routes.items()}
        if any(self._without.values()):
            redaction.prepare()
        self._watched = [key for key, each in routes.items() if each.challenger is not None]
        running = {(*key, number) for key, each in routes.items() for number in each.running}
        for key in self._paces.keys() - running:
            del self._paces[key]
        self.cache.forget_all_but(
            {found.artifact_digest for each in routes.values() for found in each.running.values()}
        )
        self.mark()

    async def answer(self, question: Question) -> Answer:
        """Answer one question within the deadline."""
        key = (question.environment.value, question.model)
        routes = self.routes.get(key)
        if routes is None:
            raise RefusedError(unknown_model(question.model, question.environment))
        number = next(self._numbers)
        now = self._clock()
        arrived = self._in_flight[key]
        arrived[number] = _us(now)
        try:
            ticket = self._draw(question, routes, number, now)
            ticket.arrived_us = arrived[number]
            answer = await self._ask(ticket)
            if answer.status < 500 and ticket.role != EXPLICIT:
                self._copy(ticket)
            return answer
        finally:
            del arrived[number]
            self._active.add(key)

    def version(self, environment: Environment, model: str, number: int | None) -> Deployment:
        """Return the version that is meant: the champion, unless its number is given.

        Raises
        ------
        RefusedError
            PS501, PS502 it does not run; PS503 it is not ready.
        """
        routes = self.routes.get((environment.value, model))
        if routes is None:
            raise RefusedError(unknown_model(model, environment))
        if number is not None and number not in routes.running:
            raise RefusedError(unknown_version(routes, number))
        champion = routes.champion or routes.challenger
        found = champion if number is None else routes.running[number]
        if found is None or not self.fleet.is_ready(found):
            raise RefusedError(not_ready(routes, number))
        return found

    async def ask_quietly(self, deployment: Deployment, body: bytes, within_s: float) -> Outcome:
        """Ask a version what nobody will be told: not logged, not counted, behind all others."""
        ticket = Ticket(
            V2,
            b"why",
            body,
            self._loop.create_future(),
            deployment=deployment,
            role=EXPLICIT,
            arrived_s=time.monotonic(),
            quiet=True,
        )
        return await self._attempt(ticket, ticket.arrived_s + within_s)

    def mark(self) -> None:
        """Say in the log up to which time everything has ended, where somebody may wait."""
        waiting = [key for key, arrived in self._in_flight.items() if arrived]
        for key in {*self._watched, *waiting, *self._active} & self.routes.keys():
            arrived = self._in_flight.get(key)
            before_us = min(arrived.values()) if arrived else _us(self._clock())
            self.log.mark(*key, before_us)
        self._active.clear()

    def settle(self, ended: list[tuple[Ticket, Outcome]]) -> None:
        """Log one batch in one write, then let its callers have their answers."""
        now_s = time.monotonic()
        pending = [(ticket, outcome) for ticket, outcome in ended if not ticket.future.done()]
        entries: list[Entry] = []
        kept = True
        for ticket, outcome in pending:
            ticket.ended_s = now_s
            # What the champion says to it decides what a challenger's refusal was: logged then.
            if not (ticket.quiet or (ticket.has_fallback and outcome.status >= 400)):
                entries += _entries(ticket, outcome)
            if not ticket.quiet:
                of = _deployment(ticket)
                self.figures.add(
                    (of.environment.value, of.model, of.number),
                    now_s - ticket.arrived_s,
                    failed=outcome.status >= 500,
                    now_s=now_s,
                )
        if entries:
            deployment = _deployment(pending[0][0])
            kept = self._log(deployment, entries)
        for ticket, outcome in pending:
            ticket.logged = kept
            ticket.future.set_result(outcome)
        replies = sum(isinstance(reply, Reply) and not one.cached for one, reply in pending)
        if replies:
            self._paces[_key(_deployment(pending[0][0]))].answered(replies, now_s)

    def _log(self, deployment: Deployment, entries: list[Entry]) -> bool:
        """Log entries, without the columns that any version of the model keeps out."""
        key = (deployment.environment.value, deployment.model)
        without = self._without.get(key)
        if without:
            entries = [
                redaction.redacted(entry, without, deployment.signature) for entry in entries
            ]
        return self.log.append(*key, entries)

    def _draw(self, question: Question, routes: ModelRoutes, number: int, now: datetime) -> Ticket:
        bucket = _bucket(question, routes)
        deployment = self._choose(question, routes, now, bucket)
        role = EXPLICIT if question.number is not None else deployment.role.value
        return Ticket(
            question.kind,
            b"%s-%x" % (self._prefix, number),
            question.body,
            self._loop.create_future(),
            question.wants,
            deployment=deployment,
            role=role,
            arrived_s=time.monotonic(),
            generation=routes.generation,
            has_fallback=role == Role.CHALLENGER and self._champion(routes) is not None,
            within_s=question.within_s,
            bucket=bucket,
        )

    def _choose(
        self, question: Question, routes: ModelRoutes, now: datetime, bucket: int
    ) -> Deployment:
        ready = self.fleet.is_ready
        if question.number is None:
            drawn = self._random.random() if bucket == NO_BUCKET else bucket / BUCKETS
            chosen = choose(routes, drawn=100 * drawn, now=now, ready=ready)
        else:
            named = routes.running.get(question.number)
            if named is None:
                raise RefusedError(unknown_version(routes, question.number))
            chosen = named if ready(named) else None
        if chosen is None:
            raise RefusedError(not_ready(routes, question.number))
        return chosen

    async def _ask(self, ticket: Ticket) -> Answer:
        deployment = _deployment(ticket)
        within_s = min(self._deadline_s(deployment), ticket.within_s)
        end_s = limit_s = ticket.arrived_s + within_s
        if ticket.has_fallback:
            limit_s = ticket.arrived_s + min(attempt_s(deployment, self._settings), within_s / 2)
        outcome = await self._attempt(ticket, limit_s)
        if not ticket.has_fallback or outcome.status < 400:
            return self._told(ticket, outcome)
        routes = self.routes.get((deployment.environment.value, deployment.model))
        champion = None if routes is None else self._champion(routes)
        if champion is None:
            ticket.logged = self._log(deployment, _entries(ticket, outcome))
            return self._told(ticket, outcome)
        second = Ticket(
            ticket.kind,
            ticket.id,
            ticket.body,
            self._loop.create_future(),
            ticket.wants,
            deployment=champion,
            role=champion.role.value,
            arrived_us=ticket.arrived_us,
            arrived_s=ticket.arrived_s,
            generation=ticket.generation,
            instead_of=(ticket, outcome),
            bucket=ticket.bucket,
        )
        return self._told(second, await self._attempt(second, end_s))

    async def _attempt(self, ticket: Ticket, limit_s: float) -> Outcome:
        limit_bytes = caching.limit_bytes(ticket)
        if limit_bytes:
            return await self._attempt_once(ticket, limit_s, limit_bytes)
        return await self._try(ticket, limit_s)

    async def _attempt_once(self, ticket: Ticket, limit_s: float, limit_bytes: int) -> Outcome:
        """Give the answer that the same request got before, or keep the one that it gets."""
        asked = caching.asked_by(ticket)
        reply = self.cache.find(asked, ticket.id.decode())
        if reply is not None:
            ticket.cached = True
            self.settle([(ticket, reply)])
            return reply
        outcome = await self._try(ticket, limit_s)
        kept = caching.kept_of(ticket, outcome) if isinstance(outcome, Reply) else None
        if kept is not None:
            self.cache.keep(asked, kept, limit_bytes)
        return outcome

    async def _try(self, ticket: Ticket, limit_s: float) -> Outcome:
        deployment, now_s = _deployment(ticket), time.monotonic()
        pace = self._paces[_key(deployment)]
        wait_s = pace.wait_s()
        worker = self.fleet.worker(deployment)
        pace.began(now_s)
        too_late = wait_s > SURE * (limit_s - now_s)
        if worker is None or too_late or not worker.submit(ticket):
            what = f"Too many requests wait for {_version(ticket)} already."
            if too_late:
                what = f"{_version(ticket)} has requests for {wait_s:.2g} s before this one."
            hint = "Send fewer requests at once, or as late as Retry-After says."
            self.settle([(ticket, Failure(503, _SHED, what, hint))])
        deadline = self.deadlines.at(limit_s, partial(self._expire, ticket))
        try:
            return await ticket.future
        finally:
            deadline.met()
            pace.waiting -= 1

    def _expire(self, ticket: Ticket) -> None:
        what = f"{_version(ticket)} gave no answer within the deadline."
        self.settle([(ticket, Failure(504, "PS504", what, "Try again; ask the model's owner."))])

    def _copy(self, answered: Ticket) -> None:
        """Let a shadow have its share of the requests too."""
        deployment = _deployment(answered)
        routes = self.routes.get((deployment.environment.value, deployment.model))
        shadow = None if routes is None else routes.shadow
        if shadow is not None and self._random.random() * 100 < shadow.share:
            self.copies.offer(answered, shadow)

    def _submit_copy(self, copy: Ticket) -> bool:
        deployment = _deployment(copy)
        worker = self.fleet.worker(deployment)
        return worker is not None and self.fleet.is_ready(deployment) and worker.submit(copy)

    def _deadline_s(self, deployment: Deployment) -> float:
        return self._settings.deadline_of(deployment.serving)

    def _told(self, ticket: Ticket, outcome: Outcome) -> Answer:
        if outcome.status != 503:
            return _answer(ticket, outcome, ())
        wait_s = self._paces[_key(_deployment(ticket))].wait_s()
        return _answer(ticket, outcome, (retry_after(wait_s),))

    def _champion(self, routes: ModelRoutes) -> Deployment | None:
        champion = routes.champion
        return champion if champion is not None and self.fleet.is_ready(champion) else None


def wishes(headers: Mapping[bytes, bytes]) -> tuple[str | None, float]:
    """Return what a caller says of a request: whose it is, and how many seconds it may take.

    Raises
    ------
    RefusedError
        PS547: the deadline is no number of milliseconds.
    """
    key = headers.get(b"penstock-key")
    said = headers.get(b"penstock-deadline-ms")
    if said is not None and not (said.isdigit() and int(said[:10]) > 0):
        what = f"Penstock-Deadline-Ms is {said.decode('latin-1')[:40]!r}, no time."
        raise RefusedError(Failure(400, "PS547", what, "Send whole milliseconds, from 1 on."))
    within_s = inf if said is None else int(said[:10]) / 1000
    return (None if key is None else customer(key.decode("utf-8", "replace"))), within_s


def unknown_model(model: str, environment: Environment) -> Failure:
    """Refuse a model that has no version in an environment."""
    what = f"No model named {model!r} runs in {environment.value}."
    return Failure(404, "PS501", what, "See /penstock/workers for what runs.")


def unknown_version(routes: ModelRoutes, number: int) -> Failure:
    """Refuse a version that does not run."""
    running = ", ".join(f"{routes.model}@{n}" for n in sorted(routes.running))
    what = f"{routes.model}@{number} does not run in {routes.environment.value}; {running} does."
    return Failure(404, "PS502", what, "Leave /versions/… out to ask the champion.")


def not_ready(routes: ModelRoutes, number: int | None = None) -> Failure:
    """Refuse because no worker is ready."""
    asked = f"No version of {routes.model}" if number is None else f"{routes.model}@{number}"
    is_ready = "is ready" if number is None else "is not ready"
    what = f"{asked} {is_ready} in {routes.environment.value}."
    return Failure(503, "PS503", what, "Try again in a second.")


def _entries(ticket: Ticket, outcome: Outcome) -> list[Entry]:
    """Return the log's entries for an answer, the failed attempt before it first."""
    if ticket.instead_of is None:
        failed = outcome.status >= 500
        return [_entry(ticket, outcome, Logged.FAILED if failed else Logged.ANSWERED)]
    first, refusal = ticket.instead_of
    failed = refusal.status >= 500 or outcome.status < 400
    return [
        _entry(first, refusal, Logged.FAILED if failed else Logged.DISMISSED),
        _entry(ticket, outcome, Logged.FALLBACK),
    ]


def _entry(ticket: Ticket, outcome: Outcome, logged: Logged) -> Entry:
    replied = isinstance(outcome, Reply)
    took_us = int((ticket.ended_s - ticket.arrived_s) * 1e6)
    shed = not replied and outcome.code == _SHED
    return Entry(
        arrived_us=ticket.arrived_us,
        ended_us=ticket.arrived_us + took_us,
        number=_deployment(ticket).number,
        role=ticket.role,
        status=outcome.status,
        outcome=logged,
        generation=ticket.generation,
        rows=outcome.rows if replied else 0,
        kind=ticket.kind,
        id=outcome.id if replied else ticket.id.decode(),
        request=b"" if shed else ticket.body,
        reply=outcome.body if replied else b"",
        bucket=ticket.bucket,
        media=outcome.media if replied else 0,
        code="" if replied else outcome.code,
    )


def _answer(ticket: Ticket, outcome: Outcome, more: tuple[Header, ...]) -> Answer:
    name = outcome.id if isinstance(outcome, Reply) else ticket.id.decode()
    deployment = _deployment(ticket)
    headers: tuple[Header, ...] = (
        *_who(deployment.model, deployment.number, ticket.role),
        # A caller's own id may hold anything; a header may not.
        (b"penstock-prediction-id", quote(name, safe=":/@ +").encode())
        if ticket.logged
        else _NOT_LOGGED,
        *more,
        *([(b"penstock-cached", b"yes")] if ticket.cached else []),
    )
    if not isinstance(outcome, Reply):
        return refused(outcome, headers, ticket.kind)
    if not ticket.logged and outcome.id == ticket.id.decode():  # a caller's own stays its own
        outcome = anonymous(outcome)
    return replied(outcome, headers)


def _left_out(routes: ModelRoutes) -> frozenset[str]:
    """Return the columns that the log must not hold: what one version asks for, all keep to."""
    named = (each.serving.get("log_without", ()) for each in routes.running.values())
    return frozenset(name for names in named for name in names)


@lru_cache(maxsize=4096)
def _who(model: str, number: int, role: str) -> tuple[Header, Header]:
    """Return the headers that say who answered."""
    return (b"penstock-version", f"{model}@{number}".encode()), (b"penstock-arm", role.encode())


def _bucket(question: Question, routes: ModelRoutes) -> int:
    """Return where a request's key falls; a body is parsed only where a rollout has one."""
    challenger = routes.challenger
    if question.number is not None or challenger is None or challenger.key is None:
        return NO_BUCKET
    whose = question.customer
    if whose is None:
        whose = customer_in(question.kind, question.body, challenger.key)
    return NO_BUCKET if whose is None else bucket_of(whose, challenger)


def _key(deployment: Deployment) -> tuple[str, str, int]:
    return deployment.environment, deployment.model, deployment.number


def _deployment(ticket: Ticket) -> Deployment:
    assert ticket.deployment is not None, "a question of the gateway's own"
    return ticket.deployment


def _version(ticket: Ticket) -> str:
    deployment = _deployment(ticket)
    return f"{deployment.model}@{deployment.number}"


def _us(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6)
