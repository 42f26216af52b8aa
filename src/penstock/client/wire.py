"""The wire between client and server: addresses, bodies, and refusals as errors."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any, cast

from penstock.errors import (
    ConflictError,
    IntegrityError,
    NotAllowedError,
    NotFoundError,
    PenstockError,
    StoppedError,
    UnreachableError,
    UsageError,
)

DEFAULT_URL = "http://127.0.0.1:8420"

BY_STATUS: Mapping[int, type[PenstockError]] = {
    400: UsageError,
    401: NotAllowedError,
    403: NotAllowedError,
    404: NotFoundError,
    405: UsageError,
    409: ConflictError,
    413: UsageError,
    415: UsageError,
    422: StoppedError,
    429: UnreachableError,
    502: UnreachableError,
    503: UnreachableError,
    504: UnreachableError,
}


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token must not travel to another host."""

    def redirect_request(
        self,
        req: urllib.request.Request,  # noqa: ARG002  the base class's signature
        fp: IO[bytes],  # noqa: ARG002
        code: int,  # noqa: ARG002
        msg: str,  # noqa: ARG002
        headers: Message,  # noqa: ARG002
        newurl: str,  # noqa: ARG002
    ) -> None:
        """Follow nowhere."""
        return


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    method: str
    path: str
    query: Mapping[str, str | int | None] | None = None
    body: bytes | None = None
    kind: str = "application/json"
    timeout_s: float | None = None


def refusal(status: int, content: bytes, url: str) -> PenstockError:
    """Turn an error answer into the error that the server raised."""
    kind = BY_STATUS.get(status, PenstockError)
    try:
        document: Any = json.loads(content)
    except ValueError:
        document = None
    told: Any = document.get("error") if isinstance(document, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  # JSON
    if isinstance(told, str):  # the gateway's form, which the inference protocol fixes
        flat = cast("dict[str, Any]", document)
        told = {"code": flat.get("code"), "message": told, "next": flat.get("hint")}
    if not isinstance(told, dict):
        if status in (401, 403):
            return NotAllowedError(
                "PS803",
                f"{url} refused (HTTP {status}).",
                hint="Give a token: penstock connect URL --token TOKEN, or PENSTOCK_TOKEN.",
            )
        return no_penstock(url, f"HTTP {status}")
    error = cast("dict[str, Any]", told)
    if error.get("name") == "IntegrityError" or str(error.get("code")).startswith("PS7"):
        kind = IntegrityError
    following: Any = error.get("next") or "See penstock explain."
    if isinstance(following, list):
        following = "   ".join(map(str, cast("list[object]", following)))
    cause = str(error.get("cause") or "")
    message = str(error.get("message") or f"HTTP {status}")
    what = f"{message} {cause}".strip() if cause and cause not in message else message
    return kind(str(error.get("code") or "PS802"), what, hint=str(following))


def no_penstock(url: str, seen: str = "an answer of another kind") -> UnreachableError:
    """Say that something else than Penstock answers there."""
    return UnreachableError(
        "PS802",
        f"{url} does not answer like a Penstock server ({seen}).",
        hint="Look at the address and the port; Penstock's own is 8420.",
    )


def why(error: Exception) -> str:
    """Say in few words why a connection failed."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ConnectionRefusedError):
        return "connection refused"
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, socket.gaierror):
        return "no such host"
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return text[:1].lower() + text[1:] if text else type(reason).__name__


def checked(url: str) -> str:
    """Return a server's address without a slash at its end; UsageError for what is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        sound = sound and parts.username is None and not parts.query and not parts.fragment
    except ValueError:
        sound = False
    if not sound:
        raise UsageError(
            "PS804", f'"{url}" is not a server\'s address.', hint=f"Write it like {DEFAULT_URL}."
        )
    return url.rstrip("/")


def next_port(url: str) -> str:
    """Return the address of the server's next port."""
    parts = urllib.parse.urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{host}:{port + 1}"


def path_of(name: str) -> str:
    """Return a model's path."""
    return f"/models/{urllib.parse.quote(name, safe='')}"


def act(to: int | None, reason: str) -> dict[str, str | int]:
    """Return the body of an act."""
    return {"reason": reason} if to is None else {"to": to, "reason": reason}


def encoded(body: object) -> bytes:
    """Write a body as JSON."""
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(
            "PS805",
            f"A value cannot be sent: {error}.",
            hint="Send text, numbers, true, false or null; null for a missing value.",
        ) from error


def decoded(content: bytes, url: str) -> Any:
    """Read an answer."""
    try:
        return json.loads(content)
    except ValueError:
        raise no_penstock(url) from None


def input_of(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return one input of the inference protocol; nested lists and arrays are tensors."""
    flat = [_listed(value) for value in values]
    shape = [len(flat)]
    while flat and isinstance(flat[0], list):
        shape.append(len(cast("list[Any]", flat[0])))
        flat = [cell for row in flat for cell in cast("list[Any]", row)]
    return {"name": name, "shape": shape, "datatype": _datatype(flat), "data": flat}


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _datatype(values: Sequence[Any]) -> str:
    """Return the inference protocol's word for what a column holds."""
    kinds: set[type[object]] = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "BOOL"
    if kinds == {int}:
        return "INT64"
    return "FP64" if kinds <= {int, float} else "BYTES"


def said(reason: str, more: Mapping[str, str | None]) -> dict[str, str]:
    """Return the body of a decision."""
    return {"reason": reason} | {key: value for key, value in more.items() if value}
