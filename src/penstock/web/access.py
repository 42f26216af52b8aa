"""Who may ask at all: one middleware around everything, so that no route can forget it.

1. Host: a name of ours, or 400. A foreign page that points its own name at 127.0.0.1 stops here.
2. Where a browser's request comes from: what changes something must come from our own pages,
   or 403. Programs send neither Origin nor Sec-Fetch-Site and pass.
3. Who asks: a token as soon as one exists, as ``Bearer`` or as the password of HTTP Basic (git
   and browsers ask for it by themselves), or 401. Before that: whoever sits at the machine.
4. What a hook asks needs the hooks' secret instead.

Every answer, errors included, leaves with the strict content security policy.
"""

from __future__ import annotations

import base64
import binascii
import getpass
import hmac
import json
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock.config import ServerSettings
from penstock.errors import NotAllowedError, PenstockError, UsageError
from penstock.records import tokens
from penstock.records.tokens import Caller
from penstock.web.control import Control
from penstock.web.envelope import error_json

HOOK_PATH = "/internal/"
HOOK_HEADER = "Penstock-Hook"
GIT_PATH = "/git/"
MAX_BODY_BYTES = 16 * 2**20
"""Of a request that is no push; a push has git's own limit."""
_SAFE = {"GET", "HEAD", "OPTIONS"}
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_USED_EVERY = timedelta(minutes=1)
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    error: PenstockError


class Access:
    """The outermost layer of the application.

    Parameters
    ----------
    app
        What is guarded; public, so that a test can walk its routes.
    control
        Holds the records with the tokens, and the hooks' secret.
    """

    def __init__(self, app: ASGIApp, control: Control) -> None:
        self.app = app
        self._control = control
        self._hosts = _hosts(control.settings)
        self._origins = {urlsplit(control.settings.address).netloc}
        self._local = Caller(local_person(), ("*:*",))
        self._used: dict[str, datetime] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in with its caller, or answer why not."""
        if scope["type"] != "http":
            assert scope["type"] == "lifespan", "the application speaks HTTP only"
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        asked = HTTPConnection(scope)
        try:
            refusal = self._refusal(scope, asked.headers) or await self._authenticate(scope, asked)
        except PenstockError as error:  # the records do not answer
            refusal = _Refusal(error.status, error)
        if refusal is not None:
            await _answer(refusal, scope["path"])(scope, receive, with_headers)
            return
        if not scope["path"].startswith(GIT_PATH):
            receive = _limited(receive)
        await self.app(scope, receive, with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> _Refusal | None:
        host = headers.get("host", "")
        if _name(host) not in self._hosts:
            what = f"This server is not called {host!r}."
            hint = "Use its own address, or add the name to allowed_hosts in server.toml."
            return _Refusal(400, UsageError("PS830", what, hint=hint))
        if self._foreign(scope, headers, host):
            what = "The request comes from a page of another site."
            hint = "Open Penstock's own page and do it there."
            return _Refusal(403, NotAllowedError("PS831", what, hint=hint))
        return None

    def _foreign(self, scope: Scope, headers: Headers, host: str) -> bool:
        site = headers.get("sec-fetch-site")
        if scope["method"] in _SAFE:
            # git's addresses are for programs; no page has a reason to fetch them.
            return scope["path"].startswith(GIT_PATH) and site in {"cross-site", "same-site"}
        origin = headers.get("origin")
        if origin is not None:
            return urlsplit(origin).netloc not in {host, *self._origins}
        return site not in {None, "same-origin", "none"}

    async def _authenticate(self, scope: Scope, asked: HTTPConnection) -> _Refusal | None:
        if scope["path"].startswith(HOOK_PATH):
            given = asked.headers.get(HOOK_HEADER, "")
            if not hmac.compare_digest(given.encode(), self._control.hook_secret.encode()):
                what = "Only the hooks of this server's own repositories may ask this."
                hint = "Push with git; the hooks ask by themselves."
                return _Refusal(401, NotAllowedError("PS833", what, hint=hint))
            asked.state.caller = self._local
            return None
        caller = await run_in_threadpool(self._caller, _token(asked.headers))
        if caller is None:
            what = "A valid token is needed: this server has accounts."
            hint = "penstock connect URL --token TOKEN; a browser or git asks for it as password."
            return _Refusal(401, NotAllowedError("PS834", what, hint=hint))
        asked.state.caller = caller
        return None

    def _caller(self, token: str) -> Caller | None:
        now = self._control.clock()
        with self._control.database.read() as connection:
            if not tokens.any_exist(connection):
                return self._local
            caller = tokens.caller(connection, token, now=now)
        if caller is not None:
            token_id = token.split("_")[1]
            if now - self._used.get(token_id, now - 2 * _USED_EVERY) > _USED_EVERY:
                self._used[token_id] = now
                with self._control.database.write() as connection:
                    tokens.used(connection, token, now=now)
        return caller


def caller_of(asked: HTTPConnection) -> Caller:
    """Return who asks, as the outermost layer found out."""
    caller = asked.state.caller
    assert isinstance(caller, Caller), "a request that passed by the access layer"
    return caller


def require(asked: HTTPConnection, action: str, model: str = "*") -> str:
    """Return the person's name if they may do `action` on the model; else NotAllowedError."""
    caller = caller_of(asked)
    if not caller.may(action, model):
        where = "every model" if model == "*" else model
        raise NotAllowedError(
            "PS835",
            f"{caller.person} has no right to {action} on {where}.",
            hint=f"Ask an admin for a token with the scope {action}:{model}.",
        )
    return caller.person


def local_person() -> str:
    """Return who sits at the machine, as the journal names them while there are no accounts."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _hosts(settings: ServerSettings) -> set[str]:
    known: Iterable[str] = (
        *settings.allowed_hosts,
        settings.host,
        urlsplit(settings.address).hostname or "",
    )
    return {name.lower() for name in known} - {"", "0.0.0.0", "::"} | _LOOPBACK  # noqa: S104 -- not names


def _name(host: str) -> str:
    """Return a Host header's name without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _token(headers: Headers) -> str:
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return given.strip()
    if kind.lower() == "basic":
        try:
            pair = base64.b64decode(given, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return ""
        return pair.partition(":")[2]
    return ""


def _limited(receive: Receive) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY_BYTES:
            raise UsageError(
                "PS832",
                f"The request has more than {MAX_BODY_BYTES // 2**20} MiB.",
                hint="Send it in parts.",
            )
        return message

    return counted


def _answer(refusal: _Refusal, path: str) -> Response:
    """Say no: as JSON to scripts, as text to people; git shows text to its user as well."""
    wants_json = path.startswith(("/api/", HOOK_PATH))
    error = refusal.error
    text = json.dumps(error_json(error)) if wants_json else f"{error}\n"
    headers = {"WWW-Authenticate": 'Basic realm="Penstock: token as password"'}
    return Response(
        text,
        refusal.status,
        headers if refusal.status == 401 else None,
        "application/json" if wants_json else "text/plain",
    )
