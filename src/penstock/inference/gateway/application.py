"""The gateway: HTTP in, HTTP out. Start reading here, at `Gateway.__call__`.

A bare ASGI application in one process. It does not read JSON: it picks a version by the path
and the split, and hands bodies on as they are. It goes on with the routes it knows, from memory
or from its cache on disk, while the database is away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from penstock import __version__
from penstock.domain import Deployment, Environment, Role
from penstock.errors import UnreachableError
from penstock.inference.gateway import openapi
from penstock.inference.gateway.answers import Answer, RefusedError, failed, told
from penstock.inference.gateway.batching import Failure
from penstock.inference.gateway.cache import RouteCache
from penstock.inference.gateway.explaining import Explainer, Explaining
from penstock.inference.gateway.fleet import Folders
from penstock.inference.gateway.grpc_service import GrpcServer
from penstock.inference.gateway.handover import Word
from penstock.inference.gateway.hosts import Starter
from penstock.inference.gateway.metadata import (
    IndexRequest,
    model_index,
    model_metadata,
    server_metadata,
    version_of,
)
from penstock.inference.gateway.paths import Action, Call, called
from penstock.inference.gateway.predictions import Predictions
from penstock.inference.gateway.questions import (
    Question,
    Told,
    customer_of,
    not_ready,
    unknown_model,
    unknown_version,
    within_s,
)
from penstock.inference.gateway.reading import (
    LOOPBACK,
    Admitted,
    Head,
    Headers,
    Heads,
    Understood,
    check_caller,
    form_of,
    head_of,
    size_of,
    too_large,
)
from penstock.inference.gateway.routing import ModelRoutes, share_now, table
from penstock.inference.gateway.settings import GatewaySettings
from penstock.inference.gateway.sizes import resident_bytes
from penstock.inference.gateway.state import State
from penstock.inference.gateway.workers import Worker
from penstock.inference.prediction_log.segments import PredictionLog
from penstock.inference.program.frames import INVOCATIONS, V2, WORD

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MARK_S = 0.2
"""How often the log says up to which time it is complete."""

SETTLE_EVERY_S = 0.02
SERVES = frozenset({Role.CHAMPION, Role.CHALLENGER})
"""Whose start is waited for."""

_logger = logging.getLogger(__name__)


_FIXED = {
    Action.LIVE: told({"live": True}),
    Action.SERVER: told(server_metadata()),
    Action.VERSION: told({"name": "penstock", "version": __version__}),
    Action.OPENAPI: told(openapi.document()),
}


class Gateway:
    """Answers predictions for the versions that `routes` names.

    Parameters
    ----------
    routes
        Reads the deployments, anew at each poll, in a thread. While it raises, the last ones
        stay.
    starter
        Starts hosts and brings versions to them. What it raises is shown as the worker's reason.
    log_root
        Holds ``<environment>/<model>/`` with the segments of the prediction log.
    cache
        File for the last routes; the folder around it gets the workers' sockets and pools, and
        must be on the file system of the unpacked versions.
    explainer
        What explains single answers; None explains none.
    """

    def __init__(  # noqa: PLR0913, PLR0917  all that wiring hands over
        self,
        settings: GatewaySettings,
        routes: Callable[[], Sequence[Deployment]],
        starter: Starter,
        log_root: Path,
        cache: Path,
        clock: Callable[[], datetime],
        explainer: Explainer | None = None,
    ) -> None:
        self._settings = settings
        self._explainer = explainer
        self._explaining: Explaining | None = None
        self._hosts = LOOPBACK.union(name.lower() for name in settings.allowed_hosts)
        self._read_routes = routes
        self._starter = starter
        self._log_root = log_root
        self._cache = RouteCache(cache)
        self._clock = clock
        self.leaving = False
        """Whether another gateway accepts already: connections end with their next answer."""
        self.stopping: Callable[[], bool] = lambda: False
        """Whether the server was told to stop while it starts."""
        self.settled: Callable[[Word], None] = lambda _: None
        """Told how the start went, before the first request is accepted."""
        self._known: Sequence[Deployment] | None = None
        self._polled = asyncio.Event()
        self._routes_error = ""
        self._started: Predictions | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._heads = Heads()
        self._tasks: set[asyncio.Task[None]] = set()
        self._grpc: GrpcServer | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start and stop with the server, which says when in the words of ASGI."""
        assert scope["type"] == "lifespan", "requests come through `admit` and `answer`"
        assert (await receive())["type"] == "lifespan.startup"
        await self.start()
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    # ---- requests ----------------------------------------------------------------------------

    @property
    def body_bytes(self) -> int:
        """The greatest body that is answered."""
        return self._settings.body_bytes

    @property
    def body_s(self) -> float:
        """How long a body may take to arrive."""
        return self._settings.deadline_s

    def admit(self, method: bytes, target: bytes, headers: Headers) -> Admitted:
        """Decide by its head what a request is; a prediction holds a place from here on.

        Raises
        ------
        RefusedError
            The caller, the path, the method or the form is none of ours, or there is no room.
        """
        head = head_of(method, target, headers)
        try:
            call, form, within = self._heads.get(head) or self._understand(head, headers)
            if form is None:
                return Admitted(call)
            size = size_of(headers, self._settings.body_bytes)
            self._predictions.room.take(size)
        except RefusedError as error:
            path, _ = called(target)
            error.kind = INVOCATIONS if path.endswith("/invocations") else V2
            raise
        return Admitted(call, form, customer_of(headers.get(b"penstock-key")), within, size)

    def leave(self, admitted: Admitted) -> None:
        """Give the place of a request back; it has its answer, or nobody waits for one."""
        if admitted.size >= 0:
            self._predictions.room.give(admitted.size)

    def answer(self, admitted: Admitted, body: bytes, told: Told) -> None:
        """Have a request answered: now, or when its answer is there."""
        try:
            call, form = admitted.call, admitted.form
            if form is None or call.action is Action.EXPLAIN:
                self._answer_later(admitted, body, told)
                return
            question = Question(
                call.environment,
                call.model or self._only_model(call.environment),
                call.number,
                form.kind,
                body if form.head is None else form.body(body),
                form.wants,
                admitted.customer,
                admitted.within_s,
            )
            self._predictions.ask(question, told)
        except Exception as error:  # noqa: BLE001  whatever it is, the caller is told
            told(_refusal(error, admitted.call))

    def _answer_later(self, admitted: Admitted, body: bytes, told: Told) -> None:
        """Answer in a task what is asked seldom, and may have to wait."""
        call = admitted.call

        async def answer() -> None:
            try:
                if call.action is Action.EXPLAIN:
                    found = await self._explain(call, body)
                elif call.action is Action.INDEX:
                    found = self._index(call, body)
                else:
                    found = await self.tell(call)
            except Exception as error:  # noqa: BLE001  whatever it is, the caller is told
                found = _refusal(error, call)
            told(found)

        task = asyncio.create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def start(self) -> None:
        """Start the workers of the cached routes, and go on polling."""
        log = PredictionLog(self._log_root, clock_us=self._now_us)
        run = self._cache.path.parent
        folders = Folders(self._settings.sockets or run, run / "pools", run / "sizes.json")
        self._started = Predictions(self._settings, log, self._clock, self._starter, folders)
        quietly = self._started.ask_quietly
        self._explaining = Explaining(self._explainer, quietly, self._settings.deadline_s)
        cached = await asyncio.to_thread(self._cache.read)
        if cached is not None:
            self._apply(cached, table(cached))
        self._loops = [asyncio.create_task(self._poll()), asyncio.create_task(self._mark())]
        await self._settle()
        self._grpc = await self._serve_grpc()

    async def stop(self) -> None:
        """End the workers and close the log; requests have been answered before."""
        if self._grpc is not None:
            await self._grpc.stop()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._predictions.copies.stop()
        if self._explaining is not None:
            await self._explaining.stop()
        await self._predictions.fleet.stop()
        await asyncio.to_thread(self._predictions.log.close)

    async def _serve_grpc(self) -> GrpcServer | None:
        """Listen for gRPC too; without it what comes over HTTP is answered all the same."""
        address = self._settings.grpc
        if address is None:
            return None
        try:
            server = GrpcServer(self, address, max_bytes=self._settings.body_bytes)
            await server.start()
        except UnreachableError as error:
            _logger.error("%s %s %s", error.code, error, error.hint)  # noqa: TRY400  all is said
            return None
        return server

    @property
    def _predictions(self) -> Predictions:
        assert self._started is not None, "the server must start the gateway first"
        return self._started

    async def _poll(self) -> None:
        while True:
            try:
                found = await asyncio.to_thread(self._read_routes)
                if found is not self._known and found != self._known:
                    routes = await asyncio.to_thread(table, found, self._predictions.routes)
                    self._apply(found, routes)
                    await asyncio.to_thread(self._cache.write, found)
                self._routes_error = ""
            except Exception as error:  # noqa: BLE001  whatever is wrong, the last routes stay
                if not self._routes_error:
                    _logger.warning("The routes cannot be read, the last ones stay: %s", error)
                self._routes_error = str(error) or type(error).__name__
            self._polled.set()
            await asyncio.sleep(self._settings.poll_s)

    async def _mark(self) -> None:
        while True:
            self._predictions.mark()
            self._predictions.log.close_old()
            await asyncio.sleep(MARK_S)

    async def _settle(self) -> None:
        """Wait until what should be ready is, or failed to be, but not for ever."""
        loop = asyncio.get_running_loop()
        latest_s = loop.time() + self._settings.settle_s
        while self._unsettled() and loop.time() < latest_s and not self.stopping():  # noqa: ASYNC110
            await asyncio.sleep(SETTLE_EVERY_S)
        unready = {
            f"{one.deployment.environment}/{one.deployment.model}@{one.deployment.number}": (
                one.reason or one.state.value
            )
            for one in self._predictions.fleet.workers()
            if one.state in {State.STARTING, State.FAILED}
            and one.deployment.role is not Role.CONTROL  # its champion is named alike
        }
        # Before the first request: from here on, a canary's batch waits for this gateway too.
        self._predictions.mark()
        self.settled(Word(not self._unsettled(), unready))

    def _unsettled(self) -> bool:
        every = self._settings.takes_over
        return not self._polled.is_set() or any(
            worker.state is State.STARTING and (every or worker.deployment.role in SERVES)
            for worker in self._predictions.fleet.workers()
        )

    def _apply(
        self, deployments: Sequence[Deployment], routes: dict[tuple[str, str], ModelRoutes]
    ) -> None:
        self._known = deployments
        self._predictions.serve(routes)
        self._predictions.fleet.match(deployments)

    def _understand(self, head: Head, headers: Headers) -> Understood:
        method, target = head[0] or b"", head[1] or b""
        path, call = called(target)
        check_caller(headers, self._hosts)
        if call is None:
            what = f"There is no {path[:200]} here."
            raise RefusedError(
                Failure(404, "PS509", what, "Post to /v2/models/MODEL/infer for a prediction.")
            )
        if method.decode("latin-1") not in call.methods:
            what = f"{path} takes {call.methods[0]}, not {method.decode('latin-1')}."
            raise RefusedError(
                Failure(405, "PS508", what, f"Send {call.methods[0]}."),
                headers=((b"allow", ", ".join(call.methods).encode()),),
            )
        if call.action is Action.INDEX or call.methods[0] != "POST":
            understood = Understood(call)
        else:
            within = within_s(headers.get(b"penstock-deadline-ms"))
            understood = Understood(call, form_of(call.action, headers), within)
        self._heads.keep(head, understood)
        return understood

    async def _explain(self, call: Call, body: bytes) -> Answer:
        assert self._explaining is not None, "made at the start"
        model = call.model or self._only_model(call.environment)
        meant = self._predictions.version(call.environment, model, call.number)
        return await self._explaining.answer(meant, body)

    async def predict(self, question: Question) -> Answer:
        """Answer a question that did not come over HTTP.

        Raises
        ------
        RefusedError
            PS506, PS546, or what stands in the way of asking a version.
        """
        size = len(question.body)
        if size > self._settings.body_bytes + WORD.size:
            raise RefusedError(too_large(self._settings.body_bytes))
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def told(answer: Answer) -> None:
            if not future.done():
                future.set_result(answer)

        with self._predictions.room.held(size):
            self._predictions.ask(question, told)
            return await future

    def _index(self, call: Call, body: bytes) -> Answer:
        try:
            asked = msgspec.json.decode(body, type=IndexRequest) if body else IndexRequest()
        except msgspec.DecodeError as error:
            what = f"The body is not a request for the index: {error}."
            raise RefusedError(Failure(400, "PS550", what, 'Send {"ready": true}.')) from None
        workers = self._predictions.fleet.workers()
        here = [each for each in workers if each.deployment.environment is call.environment]
        return told(model_index(here, only_ready=asked.ready))

    def _only_model(self, environment: Environment) -> str:
        names = [
            routes.model
            for routes in self._predictions.routes.values()
            if routes.environment is environment and (routes.champion or routes.challenger)
        ]
        if len(names) == 1:
            return names[0]
        what = f"{len(names)} models run in {environment.value}, so the path must name one."
        raise RefusedError(Failure(404, "PS515", what, "Post to /models/MODEL/invocations."))

    async def tell(self, call: Call) -> Answer:
        """Answer about a model, or about the gateway itself."""
        if call.action is Action.READY:
            return self._readiness()
        if call.action is Action.WORKERS:
            return told(await self._workers())
        if call.action in _FIXED:
            return _FIXED[call.action]
        routes = self._named(call)
        if call.action is Action.MODEL:
            return told(model_metadata(routes, call.number))
        if call.action is Action.MODEL_VERSION:
            return told(version_of(routes))
        return self._model_readiness(routes, call.number)

    def _named(self, call: Call) -> ModelRoutes:
        model = call.model or self._only_model(call.environment)
        routes = self._predictions.routes.get((call.environment.value, model))
        if routes is None:
            raise RefusedError(unknown_model(model, call.environment))
        if call.number is not None and call.number not in routes.running:
            raise RefusedError(unknown_version(routes, call.number))
        return routes

    def _readiness(self) -> Answer:
        starting = [
            worker
            for worker in self._predictions.fleet.workers()
            if worker.state is State.STARTING and worker.deployment.role is Role.CHAMPION
        ]
        ready = self._known is not None and not starting
        facts = {"ready": ready, "routes_error": self._routes_error}
        return told(facts, 200 if ready else 503)

    def _model_readiness(self, routes: ModelRoutes, number: int | None) -> Answer:
        first = routes.champion or routes.challenger
        asked = routes.running[number] if number is not None else first
        worker = None if asked is None else self._predictions.fleet.worker(asked)
        if worker is None or worker.state not in {State.READY, State.UNLOADED}:
            raise RefusedError(not_ready(routes, number))
        return told({"name": routes.model, "ready": True})

    async def _workers(self) -> list[dict[str, Any]]:
        workers = self._predictions.fleet.workers()
        pids = [worker.pid for worker in workers if worker.pid is not None]
        sizes = await asyncio.to_thread(resident_bytes, pids)
        return [self._report(worker, sizes) for worker in workers]

    def _report(self, worker: Worker, sizes: dict[int, int]) -> dict[str, Any]:
        deployment = worker.deployment
        key = (deployment.environment.value, deployment.model)
        routes = self._predictions.routes.get(key)
        share = 0
        if routes is not None and worker.state is not State.STOPPING:
            ready = self._predictions.fleet.is_ready
            share = share_now(deployment, routes, now=self._clock(), ready=ready)
        return {
            "environment": deployment.environment.value,
            "model": deployment.model,
            "number": deployment.number,
            "role": deployment.role.value,
            "state": worker.state.value,
            "cold_start_s": worker.cold_start_s,
            "pid": worker.pid,
            "shared_with": self._predictions.fleet.shared_with(worker),
            "rss_bytes": sizes.get(worker.pid or 0),
            "size_bytes": self._predictions.fleet.size_bytes(worker),
            "idle_s": worker.idle_s,
            "restarts": worker.restarts,
            "reason": worker.reason,
            "share_now": share,
            "figures": self._predictions.figures.told(worker.key, time.monotonic()),
            "log_drops": self._predictions.log.drops[key],
            **self._copies(deployment),
            "log_dropped_us": self._predictions.log.dropped_us.get(key),
        }

    def _copies(self, deployment: Deployment) -> dict[str, int]:
        if deployment.role is not Role.SHADOW:
            return {}
        return self._predictions.copies.told(deployment)._asdict()

    def _now_us(self) -> int:
        return int(self._clock().timestamp() * 1e6)


def _refusal(error: Exception, call: Call) -> Answer:
    """Return what a caller is told of an error."""
    if isinstance(error, RefusedError):
        error.kind = INVOCATIONS if call.action is Action.INVOKE else V2
        return error.answer()
    _logger.error("The gateway failed on %s of %s", call.action.value, call.model, exc_info=error)
    return failed()
