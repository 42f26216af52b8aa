"""From a body to an answer: draw the version, ask it, fall back, log, reply.

A request that the challenger fails is asked once more of the champion, so a bad challenger
costs no caller anything; the log has both attempts, and counts the request for the arm that was
drawn. Nothing is answered before it is logged.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from penstock.domain import Deployment, Environment, Role
from penstock.inference.gateway.answers import Answer, Header, RefusedError, refused, replied
from penstock.inference.gateway.batching import Failure, Outcome, Ticket
from penstock.inference.gateway.routing import ModelRoutes, choose
from penstock.inference.gateway.settings import GatewaySettings
from penstock.inference.gateway.workers import Fleet, StartWorker, attempt_s
from penstock.inference.prediction_log.segments import Entry, PredictionLog
from penstock.inference.prediction_log.segments import Outcome as Logged
from penstock.inference.program.frames import JSON_MEDIA, Reply

EXPLICIT = "explicit"
"""Role in the log of a request that named its version: no canary counts it."""
_SHED = "PS505"


class Question(NamedTuple):
    """A request for a prediction."""

    environment: Environment
    model: str
    number: int | None
    kind: int
    body: bytes
    wants: int = JSON_MEDIA
    """The media of the answer."""


class Predictions:
    """Answers questions with the workers of a fleet."""

    def __init__(
        self,
        settings: GatewaySettings,
        log: PredictionLog,
        clock: Callable[[], datetime],
        start_worker: StartWorker,
        sockets: Path,
    ) -> None:
        self.routes: dict[tuple[str, str], ModelRoutes] = {}
        """By environment and model; replaced as a whole."""
        self.log = log
        self.fleet = Fleet(start_worker, sockets, self.settle, settings)
        self._settings = settings
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._random = random.Random(settings.seed)  # noqa: S311  splits traffic, keeps no secret
        self._prefix = secrets.token_hex(6)
        self._numbers = count(1)
        self._in_flight: defaultdict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        self._active: set[tuple[str, str]] = set()

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
            return await self._ask(ticket)
        finally:
            del arrived[number]
            self._active.add(key)

    def mark(self) -> None:
        """Say in the log up to which time everything has ended, where somebody may wait."""
        for key, routes in self.routes.items():
            arrived = self._in_flight.get(key)
            if routes.challenger is not None or arrived or key in self._active:
                before_us = min(arrived.values()) if arrived else _us(self._clock())
                self.log.mark(*key, before_us)
        self._active.clear()

    def settle(self, ended: list[tuple[Ticket, Outcome]]) -> None:
        """Log one batch in one write, then let its callers have their answers."""
        now_s = time.monotonic()
        pending = [(ticket, outcome) for ticket, outcome in ended if not ticket.future.done()]
        entries: list[Entry] = []
        for ticket, outcome in pending:
            ticket.ended_s = now_s
            # What the champion says to it decides what a challenger's refusal was: logged then.
            if not (ticket.has_fallback and outcome.status >= 400):
                entries += _entries(ticket, outcome)
        if entries:
            deployment = _deployment(pending[0][0])
            self.log.append(deployment.environment.value, deployment.model, entries)
        for ticket, outcome in pending:
            ticket.future.set_result(outcome)

    def _draw(self, question: Question, routes: ModelRoutes, number: int, now: datetime) -> Ticket:
        deployment = self._choose(question, routes, now)
        role = EXPLICIT if question.number is not None else deployment.role.value
        return Ticket(
            question.kind,
            b"%s-%x" % (self._prefix.encode(), number),
            question.body,
            self._loop.create_future(),
            question.wants,
            deployment=deployment,
            role=role,
            arrived_s=time.monotonic(),
            generation=routes.generation,
            has_fallback=role == Role.CHALLENGER and self._champion(routes) is not None,
        )

    def _choose(self, question: Question, routes: ModelRoutes, now: datetime) -> Deployment:
        ready = self.fleet.is_ready
        if question.number is None:
            drawn = self._random.random() * 100
            chosen = choose(routes, drawn=drawn, now=now, ready=ready)
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
        end_s = ticket.arrived_s + self._settings.deadline_s
        limit_s = end_s
        if ticket.has_fallback:
            limit_s = ticket.arrived_s + attempt_s(deployment, self._settings)
        outcome = await self._attempt(ticket, limit_s)
        if not ticket.has_fallback or outcome.status < 400:
            return _answer(ticket, outcome)
        routes = self.routes.get((deployment.environment.value, deployment.model))
        champion = None if routes is None else self._champion(routes)
        if champion is None:
            self.log.append(
                deployment.environment.value, deployment.model, _entries(ticket, outcome)
            )
            return _answer(ticket, outcome)
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
        )
        return _answer(second, await self._attempt(second, end_s))

    async def _attempt(self, ticket: Ticket, limit_s: float) -> Outcome:
        worker = self.fleet.worker(_deployment(ticket))
        if worker is None or not worker.submit(ticket):
            what = f"Too many requests wait for {_version(ticket)} already."
            self.settle([(ticket, Failure(503, _SHED, what, "Send fewer requests at once."))])
        timer = self._loop.call_at(limit_s, self._expire, ticket)
        try:
            return await ticket.future
        finally:
            timer.cancel()

    def _expire(self, ticket: Ticket) -> None:
        what = f"{_version(ticket)} gave no answer within the deadline."
        self.settle([(ticket, Failure(504, "PS504", what, "Try again; ask the model's owner."))])

    def _champion(self, routes: ModelRoutes) -> Deployment | None:
        champion = routes.champion
        return champion if champion is not None and self.fleet.is_ready(champion) else None


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
    )


def _answer(ticket: Ticket, outcome: Outcome) -> Answer:
    name = outcome.id if isinstance(outcome, Reply) else ticket.id.decode()
    headers: tuple[Header, ...] = (
        (b"penstock-version", _version(ticket).encode()),
        (b"penstock-arm", ticket.role.encode()),
        # A caller's own id may hold anything; a header may not.
        (b"penstock-prediction-id", quote(name, safe=":/@ +").encode()),
    )
    if isinstance(outcome, Reply):
        return replied(outcome, headers)
    return refused(outcome, headers, ticket.kind)


def _deployment(ticket: Ticket) -> Deployment:
    assert ticket.deployment is not None, "a question of the gateway's own"
    return ticket.deployment


def _version(ticket: Ticket) -> str:
    deployment = _deployment(ticket)
    return f"{deployment.model}@{deployment.number}"


def _us(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6)
