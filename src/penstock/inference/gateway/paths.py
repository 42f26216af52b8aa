"""The paths that the gateway knows, and what each asks for."""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from httptools import HttpParserInvalidURLError, parse_url

from penstock.domain import MODEL_NAME, Environment


class Action(Enum):
    """What a caller wants."""

    INFER = "infer"
    INVOKE = "invocations"
    INDEX = "index"
    EXPLAIN = "explain"
    MODEL = "model"
    MODEL_READY = "model ready"
    MODEL_VERSION = "model version"
    SERVER = "server"
    VERSION = "version"
    LIVE = "live"
    READY = "ready"
    WORKERS = "workers"
    OPENAPI = "openapi"


_POSTED = frozenset({Action.INFER, Action.INVOKE, Action.EXPLAIN, Action.INDEX})


class Call(NamedTuple):
    """A path, understood."""

    action: Action
    environment: Environment
    model: str | None
    """None where the one model that serves is meant."""
    number: int | None

    @property
    def methods(self) -> tuple[str, ...]:
        """What may be done with this path, the usual first."""
        return ("POST",) if self.action in _POSTED else ("GET", "HEAD")


_NAME = rf"(?P<model>{MODEL_NAME.pattern})"
_VERSION = r"(?:/versions/(?P<number>[0-9]{1,9}))?"
_PATHS = tuple(
    (re.compile(pattern), action)
    for pattern, action in (
        (rf"/v2/models/{_NAME}{_VERSION}/infer", Action.INFER),
        (rf"/models/{_NAME}{_VERSION}/invocations", Action.INVOKE),
        (rf"/v2/models/{_NAME}{_VERSION}/explain", Action.EXPLAIN),
        (r"/invocations", Action.INVOKE),
        (rf"/v2/models/{_NAME}{_VERSION}", Action.MODEL),
        (rf"/v2/models/{_NAME}{_VERSION}/ready", Action.MODEL_READY),
        (rf"/models/{_NAME}{_VERSION}/(?:ping|health)", Action.MODEL_READY),
        (r"/(?:ping|health)", Action.MODEL_READY),
        (rf"/models/{_NAME}/version", Action.MODEL_VERSION),
        (r"/version", Action.VERSION),
        (r"/v2/?", Action.SERVER),
        (r"/v2/health/live", Action.LIVE),
        (r"/v2/health/ready", Action.READY),
        (r"/v2/repository/index", Action.INDEX),
        (r"/penstock/workers", Action.WORKERS),
        (r"/openapi\.json", Action.OPENAPI),
    )
)


@lru_cache(maxsize=4096)
def called(target: bytes) -> tuple[str, Call | None]:
    """Return the path of a request's target, and what it asks for.

    Examples
    --------
    >>> called(b"/v2/health/live?why=none")[1].action
    <Action.LIVE: 'live'>
    """
    try:
        path = unquote_to_bytes(parse_url(target).path or b"").decode("utf-8", "replace")
    except HttpParserInvalidURLError:
        path = target.decode("latin-1")
    return path, understand(path)


def understand(path: str) -> Call | None:
    """Return what a path asks for; None when it is not one of ours.

    Examples
    --------
    >>> understand("/test/v2/models/credit-default/versions/12/infer")[1:]
    (<Environment.TEST: 'test'>, 'credit-default', 12)
    """
    environment = Environment.PRODUCTION
    if path.startswith("/test/"):
        environment, path = Environment.TEST, path.removeprefix("/test")
    for pattern, action in _PATHS:
        match = pattern.fullmatch(path)
        if match:
            found = match.groupdict()
            number = found.get("number")
            model = found.get("model")
            return Call(action, environment, model, None if number is None else int(number))
    return None
