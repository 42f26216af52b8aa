"""From a body to an answer: draw the version, ask it, fall back, log, reply.

A request that the challenger fails is asked once more of the champion, so a bad challenger
costs no caller anything; the log has both attempts, and counts the request for the arm that was
drawn. Nothing is answered before it is logged. What cannot be answered in time is refused at once,
with the time after which it could be.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from itertools import count
from typing import NamedTuple, cast

from penstock.domain import Deployment, Environment, Role
from penstock.inference.gateway import attempts, caching
from penstock.inference.gateway.answers import RefusedError, failed
from penstock.inference.gateway.attempts import SHED, Pending, Version
from penstock.inference.gateway.batching import Failure, Outcome, Ticket, awaited
from penstock.inference.gateway.caching import Cache
from penstock.inference.gateway.deadlines import Deadlines
from penstock.inference.gateway.figures import Figures
from penstock.inference.gateway.fleet import Fleet, Folders
from penstock.inference.gateway.hosts import Starter
from penstock.inference.gateway.overload import Room, retry_after
from penstock.inference.gateway.questions import (
    EXPLICIT,
    Question,
    Told,
    not_ready,
    unknown_model,
    unknown_version,
)
from penstock.inference.gateway.routing import ModelRoutes, choose
from penstock.inference.gateway.settings import GatewaySettings
from penstock.inference.gateway.shadowing import Copies
from penstock.inference.gateway.sticky import NO_BUCKET, bucket_of, customer_in, place_of
from penstock.inference.prediction_log import redaction
from penstock.inference.prediction_log.segments import Entry, PredictionLog
from penstock.inference.program.frames import V2, Reply

SURE = 0.8
"""Part of the time left that the requests before one may take: what is estimated may be more."""
_ARMS = frozenset({Role.CHALLENGER.value, Role.CONTROL.value})
"""Whose failures the champion makes good."""
_logger = logging.getLogger(__name__)


class _Served(NamedTuple):
    """A model in an environment, with its versions by number."""

    routes: ModelRoutes
    versions: dict[int, Version]
    control: Version | None
    alone: Version | None
    """The champion, where no challenger is beside it."""
    generation: int

    def version(self, of: Deployment) -> Version:
        """Return what is known of one that runs."""
        control = self.control
        return control if control and of is control.deployment else self.versions[of.number]


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
        self.copies = Copies(self._submit_copy, self.settle, lambda: self.room.requests)
        self.figures = Figures()
        self._settings = settings
        self._clock = clock
        self._deadlines: Deadlines[Pending] = Deadlines(self._expire)
        self._random = random.Random(settings.seed)  # noqa: S311  splits traffic, keeps no secret
        self._prefix = secrets.token_hex(6).encode()
        self._numbers = count(1)
        self._served: dict[tuple[str, str], _Served] = {}
        self._in_flight: defaultdict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        self._active: set[tuple[str, str]] = set()
        self._without: dict[tuple[str, str], frozenset[str]] = {}
        self._watched: list[tuple[str, str]] = []

    def serve(self, routes: dict[tuple[str, str], ModelRoutes]) -> None:
        """Answer by these routes from now on."""
        self.routes = routes
        self._served = {key: self._serving(key, each) for key, each in routes.items()}
        self._without = {key: _left_out(each) for key, each in routes.items()}
        if any(self._without.values()):
            redaction.prepare()
        self._watched = [key for key, each in routes.items() if each.challenger is not None]
        self.cache.forget_all_but(
            {found.artifact_digest for each in routes.values() for found in each.running.values()}
        )
        self.mark()

    def _serving(self, key: tuple[str, str], routes: ModelRoutes) -> _Served:
        """Return what is served of a model now; what has not changed is what it was."""
        before = self._served.get(key)
        if before is not None and before.routes is routes:
            return before
        known = {} if before is None else before.versions
        versions = {
            number: Version(
                deployment, self._settings, known[number].pace if number in known else None
            )
            for number, deployment in routes.running.items()
        }
        champion = routes.champion if routes.challenger is None else None
        alone = None if champion is None else versions[champion.number]
        control = None if routes.control is None else Version(routes.control, self._settings)
        return _Served(routes, versions, control, alone, routes.generation)

    def ask(self, question: Question, told: Told) -> None:
        """Have one question answered within the deadline.

        Raises
        ------
        RefusedError
            What stands in the way of asking a version; `told` is not called then.
        """
        key = (question.environment.value, question.model)
        served = self._served.get(key)
        if served is None:
            raise RefusedError(unknown_model(question.model, question.environment))
        place = next(self._numbers)
        now = self._clock()
        arrived_us = _us(now)
        self._in_flight[key][place] = arrived_us
        try:
            ticket = self._draw(question, served, place, now)
            ticket.arrived_us = arrived_us
            ticket.told = told
            self._first(ticket)
        except BaseException:
            self._left(key, place)
            raise

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
        future, then = awaited()
        ticket = Pending(V2, b"why", body, self._ended)
        served = self._served.get((deployment.environment.value, deployment.model))
        known = None if served is None else served.versions.get(deployment.number)
        ticket.version = known or Version(deployment, self._settings)
        ticket.deployment = ticket.version.deployment
        ticket.role = EXPLICIT
        ticket.arrived_s = time.monotonic()
        ticket.quiet = True
        ticket.finish = then
        self._attempt(ticket, ticket.arrived_s + within_s)
        try:
            return await future
        finally:
            if not ticket.ended:  # who asked has gone
                ticket.ended = True
                ticket.release()

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
        pending: list[tuple[Pending, Outcome]] = []
        entries: list[Entry] = []
        replies = 0
        for each, outcome in ended:
            if each.ended:
                continue
            ticket = cast("Pending", each)
            pending.append((ticket, outcome))
            ticket.ended_s = now_s
            status = outcome.status
            # What the champion says to it decides what a challenger's refusal was: logged then.
            if not (ticket.quiet or (ticket.has_fallback and status >= 400)):
                attempts.enter(entries, ticket, outcome)
            if not ticket.quiet:
                took_s = now_s - ticket.arrived_s
                self.figures.add(ticket.version.key, took_s, failed=status >= 500, now_s=now_s)
            if not ticket.cached and isinstance(outcome, Reply):
                replies += 1
        if not pending:
            return
        version = pending[0][0].version
        kept = self._log(version, entries) if entries else True
        if replies:
            version.pace.answered(replies, pending[0][0].sent_s, now_s)
        for ticket, outcome in pending:
            ticket.logged = kept
            try:
                ticket.end(outcome)
            except Exception:
                _logger.exception("An answer could not be given")

    def _log(self, version: Version, entries: list[Entry]) -> bool:
        """Log entries, without the columns that any version of the model keeps out."""
        key = version.where
        without = self._without.get(key)
        if without:
            signature = version.deployment.signature
            entries = [redaction.redacted(entry, without, signature) for entry in entries]
        return self.log.append(*key, entries)

    def _draw(self, question: Question, served: _Served, place: int, now: datetime) -> Pending:
        version, bucket = served.alone, NO_BUCKET
        if question.number is not None or version is None or not self._is_ready(version):
            bucket = _bucket(question, served.routes)
            chosen = self._choose(question, served.routes, now, bucket)
            version = served.version(chosen)
        ticket = Pending(
            question.kind, b"%s-%x" % (self._prefix, place), question.body, self._ended
        )
        ticket.wants = question.wants
        ticket.version = version
        ticket.deployment = version.deployment
        ticket.role = role = EXPLICIT if question.number is not None else version.role
        ticket.arrived_s = time.monotonic()
        ticket.generation = served.generation
        if role in _ARMS:
            ticket.has_fallback = self._champion(served.routes) is not None
        ticket.within_s = question.within_s
        ticket.bucket = bucket
        ticket.place = place
        return ticket

    def _choose(
        self, question: Question, routes: ModelRoutes, now: datetime, bucket: int
    ) -> Deployment:
        ready = self.fleet.is_ready
        if question.number is None:
            challenger = routes.challenger
            if challenger is None or bucket == NO_BUCKET:
                drawn = self._random.random()
            else:
                drawn = place_of(bucket, challenger, _us(now))
            chosen = choose(routes, drawn=100 * drawn, now=now, ready=ready)
        else:
            named = routes.running.get(question.number)
            if named is None:
                raise RefusedError(unknown_version(routes, question.number))
            chosen = named if ready(named) else None
        if chosen is None:
            raise RefusedError(not_ready(routes, question.number))
        return chosen

    def _first(self, ticket: Pending) -> None:
        version = ticket.version
        within_s = min(version.deadline_s, ticket.within_s)
        ticket.end_s = limit_s = ticket.arrived_s + within_s
        if ticket.has_fallback:
            limit_s = ticket.arrived_s + min(version.attempt_s, within_s / 2)
        if version.cache_bytes:
            self._attempt(ticket, limit_s)
        else:
            self._try(ticket, limit_s)

    def _second(self, first: Pending, outcome: Outcome) -> bool:
        """Ask the champion in an arm's place; False when there is none."""
        served = self._served.get(first.version.where)
        champion = None if served is None else self._champion(served.routes)
        if served is None or champion is None:
            first.logged = self._log(first.version, attempts.enter([], first, outcome))
            return False
        second = Pending(first.kind, first.id, first.body, self._ended)
        second.wants = first.wants
        second.version = served.versions[champion.number]
        second.deployment = champion
        second.role = champion.role.value
        second.arrived_us, second.arrived_s = first.arrived_us, first.arrived_s
        second.generation = first.generation
        second.instead_of = first, outcome
        second.bucket, second.place, second.told = first.bucket, first.place, first.told
        second.end_s = first.end_s
        self._attempt(second, first.end_s)
        return True

    def _attempt(self, ticket: Pending, limit_s: float) -> None:
        """Give the answer that the same request got before, or ask the version."""
        if ticket.version.cache_bytes:
            ticket.keep = caching.asked_by(ticket)
            reply = self.cache.find(ticket.keep, ticket.id.decode())
            if reply is not None:
                ticket.cached, ticket.keep = True, None
                self.settle([(ticket, reply)])
                return
        self._try(ticket, limit_s)

    def _try(self, ticket: Pending, limit_s: float) -> None:
        version = ticket.version
        now_s = ticket.arrived_s if ticket.instead_of is None else time.monotonic()
        pace = version.pace
        wait_s = pace.wait_s()
        worker = self.fleet.find(version.key)
        pace.waiting += 1
        ticket.is_paced = True
        ticket.among = self._deadlines.add(ticket, limit_s)
        too_late = wait_s > SURE * (limit_s - now_s)
        if worker is None or too_late or not worker.submit(ticket):
            what = f"Too many requests wait for {version.name} already."
            if too_late:
                what = f"{version.name} has requests for {wait_s:.2g} s before this one."
            hint = "Send fewer requests at once, or as late as Retry-After says."
            self.settle([(ticket, Failure(503, SHED, what, hint))])

    def _ended(self, ended: Ticket, outcome: Outcome) -> None:
        ticket = cast("Pending", ended)
        ticket.release()
        if ticket.keep is not None and isinstance(outcome, Reply):
            kept = caching.kept_of(ticket, outcome)
            if kept is not None:
                self.cache.keep(ticket.keep, kept, ticket.version.cache_bytes)
        if ticket.has_fallback and outcome.status >= 400 and self._second(ticket, outcome):
            return
        if ticket.finish is not None:
            ticket.finish(ticket, outcome)
        else:
            self._answer(ticket, outcome)

    def _answer(self, ticket: Pending, outcome: Outcome) -> None:
        """Let the caller have it."""
        version = ticket.version
        self._left(version.where, ticket.place)
        assert ticket.told is not None, "somebody asked"
        try:
            more = () if outcome.status != 503 else (retry_after(version.pace.wait_s()),)
            answer = attempts.answer(ticket, outcome, more)
        except Exception:
            _logger.exception("The gateway failed on an answer of %s", version.name)
            answer = failed()
        ticket.told(answer)
        first = ticket if ticket.instead_of is None else ticket.instead_of[0]
        if answer.status < 500 and first.role != EXPLICIT:
            self._copy(first)

    def _left(self, key: tuple[str, str], place: int) -> None:
        self._in_flight[key].pop(place, None)
        self._active.add(key)

    def _expire(self, ticket: Pending) -> None:
        what = f"{ticket.version.name} gave no answer within the deadline."
        self.settle([(ticket, Failure(504, "PS504", what, "Try again; ask the model's owner."))])

    def _copy(self, answered: Pending) -> None:
        """Let a shadow have its share of the requests too."""
        served = self._served.get(answered.version.where)
        shadow = None if served is None else served.routes.shadow
        if served is not None and shadow and self._random.random() * 100 < shadow.share:
            self.copies.offer(answered, served.versions[shadow.number])

    def _submit_copy(self, copy: Pending) -> bool:
        deployment = copy.version.deployment
        worker = self.fleet.find(copy.version.key)
        return worker is not None and self.fleet.is_ready(deployment) and worker.submit(copy)

    def _is_ready(self, version: Version) -> bool:
        """Whether a version that is no challenger takes requests."""
        worker = self.fleet.find(version.key)
        return worker is not None and worker.accepts

    def _champion(self, routes: ModelRoutes) -> Deployment | None:
        champion = routes.champion
        return champion if champion is not None and self.fleet.is_ready(champion) else None


def _left_out(routes: ModelRoutes) -> frozenset[str]:
    """Return the columns that the log must not hold: what one version asks for, all keep to."""
    named = (each.serving.get("log_without", ()) for each in routes.running.values())
    return frozenset(name for names in named for name in names)


def _bucket(question: Question, routes: ModelRoutes) -> int:
    """Return where a request's key falls; a body is parsed only where a rollout has one."""
    challenger = routes.challenger
    if question.number is not None or challenger is None or challenger.key is None:
        return NO_BUCKET
    whose = question.customer
    if whose is None:
        whose = customer_in(question.kind, question.body, challenger.key)
    return NO_BUCKET if whose is None else bucket_of(whose, challenger)


def _us(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6)
