"""Put the web application together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from penstock import __version__
from penstock.errors import NotFoundError, PenstockError, UsageError
from penstock.web import (
    api,
    approval_pages,
    comparing,
    drawing,
    explaining,
    fairness,
    git,
    pages,
    predictions,
    serving,
    trying,
    versions,
)
from penstock.web.access import Access
from penstock.web.control import Control
from penstock.web.envelope import refused

RECONCILE_S = 60.0
_logger = logging.getLogger(__name__)


def create_app(control: Control) -> Access:
    """Return the application on port 8420; `Access.app` is what it guards."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        await run_in_threadpool(git.write_hooks, control)
        healing = asyncio.create_task(_heal(control))
        yield
        healing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await healing

    app = FastAPI(
        title="Penstock",
        version=__version__,
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(_Compressed)
    app.router.routes.append(Mount("/git", app=git.GitServer(control)))
    app.include_router(api.routes(control))
    draw = drawing.Pages(control)
    app.include_router(explaining.routes(draw))
    app.include_router(fairness.routes(draw))
    app.include_router(comparing.routes(draw))
    app.include_router(versions.routes(draw))
    app.include_router(predictions.routes(draw))
    app.include_router(serving.routes(draw))
    app.include_router(trying.routes(draw))
    app.include_router(approval_pages.routes(draw))
    app.include_router(pages.routes(draw))
    app.mount("/static", drawing.StaticFiles())

    @app.exception_handler(PenstockError)
    def known(request: Request, error: PenstockError) -> Response:
        return _refused(draw, request, error)

    @app.exception_handler(HTTPException)
    def unknown_address(request: Request, error: HTTPException) -> Response:
        word = HTTPStatus(error.status_code).phrase.lower()
        kind = NotFoundError if error.status_code == HTTPStatus.NOT_FOUND else UsageError
        told = kind("PS837", f"{request.url.path}: {word}.", hint="Begin at / or /api/models.")
        return _refused(draw, request, told)

    @app.exception_handler(RequestValidationError)
    def misspelt(request: Request, error: RequestValidationError) -> Response:
        what = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
        told = UsageError("PS828", f"{what}.", hint="Look at the address's parameters.")
        return _refused(draw, request, told)

    @app.exception_handler(Exception)
    def bug(request: Request, error: Exception) -> Response:
        _logger.error("%s %s", request.method, request.url.path, exc_info=error)
        what = f"Penstock has a fault of its own ({type(error).__name__})."
        hint = "Look at control.log in the server's home, and report it."
        return _refused(draw, request, PenstockError("PS838", what, hint=hint))

    return Access(app, control)


async def _heal(control: Control) -> None:
    """Start what a crash between a push and its run has lost, now and each minute."""
    while True:
        try:
            for run in await run_in_threadpool(git.reconcile, control):
                _logger.warning("run %s of %s was lost and is started now", run.id, run.version)
        except PenstockError as error:
            _logger.warning("%s", error)
        await asyncio.sleep(RECONCILE_S)


def _refused(draw: drawing.Pages, request: Request, error: PenstockError) -> Response:
    path = request.url.path
    if path.startswith(("/api/", "/internal/")) or path.endswith(".json"):
        return refused(error)
    return draw.error(request, error)


class _Compressed:
    """Compresses what is whole; a stream must arrive as it is written, and git packs itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressing = GZipMiddleware(app, minimum_size=800, compresslevel=6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, compressing its answer or not."""
        path = scope.get("path", "")
        flows = path.startswith("/git/") or path.endswith(("/events", "/stream", "/export"))
        await (self._app if flows else self._compressing)(scope, receive, send)
