"""The Python client of a Penstock server, on the standard library alone.

    from penstock import Client
    client = Client("http://127.0.0.1:8420")
    client.status("credit-default")

Each method is one request. It returns the answer's ``data``; what the server refuses arrives as
the same error, with the same code and hint, that the server raised.
"""

from __future__ import annotations

import http.client
import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
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

_BY_STATUS: Mapping[int, type[PenstockError]] = {
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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
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
        return None


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    query: Mapping[str, str | int | None] | None = None
    body: bytes | None = None
    kind: str = "application/json"
    timeout_s: float | None = None


class Client:
    """Speaks to one server.

    Parameters
    ----------
    url
        The server's address: scheme, host and port, such as ``http://ml.example:8420``.
    token
        As `penstock token create` printed it; on the loopback, none is needed until one exists.
    predict_url
        Where predictions are answered; else the same host, next port.
    timeout_s
        How long one request may take. A stream may be silent for an hour: training is.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        predict_url: str | None = None,
        timeout_s: float = 30,
    ) -> None:
        self.url = _checked(url)
        self.predict_url = _checked(predict_url) if predict_url else _next_port(self.url)
        self._token = token
        self._timeout_s = timeout_s
        # No proxy for our own loopback server, and none that an environment variable slips in.
        self._opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))

    # What is where

    def health(self) -> Any:
        """Return how the server is."""
        return self._data(_Call("GET", "/health"))

    def status(self, model: str | None = None) -> Any:
        """Return one model's state, or the first page of all."""
        return self._data(_Call("GET", _model(model))) if model else self.list()

    def list(self, query: str | None = None, *, after: str | None = None) -> Any:
        """Return models whose name holds `query`, a page at a time."""
        return self._data(_Call("GET", "/models", {"q": query, "after": after}))

    def history(self, model: str) -> Any:
        """Return a model's versions and decisions, newest first."""
        return self._data(_Call("GET", f"{_model(model)}/history"))

    def experiments(self, model: str, number: int | None = None) -> Any:
        """Return what a version's build tracked: runs, logged models, its own figures."""
        return self._data(_Call("GET", f"{_model(model)}/experiments", {"number": number}))

    def fairness(self, model: str, number: int) -> Any:
        """Return how a version treats groups of people."""
        return self._data(_Call("GET", f"{_model(model)}/versions/{int(number)}/fairness"))

    def fairness_page(self, model: str, number: int) -> bytes:
        """Return the same as one HTML file."""
        path = f"{_model(model)}/versions/{int(number)}/fairness.html"
        with self._open(_Call("GET", path), root=self.url) as answer:
            return answer.read()

    def version(self, model: str, number: int) -> Any:
        """Return one version: what it is made of, its documents, its checks."""
        return self._data(_Call("GET", f"{_model(model)}/versions/{int(number)}"))

    def card(self, model: str, number: int) -> Any:
        """Return a version's model card as Markdown, and what its author left empty."""
        return self._data(_Call("GET", f"{_model(model)}/versions/{int(number)}/card"))

    def card_page(self, model: str, number: int) -> bytes:
        """Return the same as one HTML file."""
        path = f"{_model(model)}/versions/{int(number)}/card.html"
        with self._open(_Call("GET", path), root=self.url) as answer:
            return answer.read()

    def document(self, model: str, number: int, name: str) -> IO[bytes]:
        """Return one of a version's documents; read it to its end and close it."""
        kept = urllib.parse.quote(name, safe="")
        path = f"{_model(model)}/versions/{int(number)}/documents/{kept}"
        return self._open(_Call("GET", path, timeout_s=600))

    def explanation(self, model: str, number: int) -> Any:
        """Return what a version looks at."""
        return self._data(_Call("GET", f"{_model(model)}/versions/{int(number)}/explain"))

    def explanation_page(self, model: str, number: int) -> bytes:
        """Return the same as one HTML file."""
        path = f"{_model(model)}/versions/{int(number)}/explain.html"
        with self._open(_Call("GET", path), root=self.url) as answer:
            return answer.read()

    def run(self, run: int) -> Any:
        """Return one run with its steps."""
        return self._data(_Call("GET", f"/runs/{int(run)}"))

    def runs(self, model: str | None = None) -> Any:
        """Return runs, newest first."""
        return self._data(_Call("GET", "/runs", {"model": model}))

    def rollout(self, rollout: int) -> Any:
        """Return one rollout with its looks."""
        return self._data(_Call("GET", f"/rollouts/{int(rollout)}"))

    def journal(self, *, after: int = 0) -> Any:
        """Return journal entries behind a number."""
        return self._data(_Call("GET", "/journal", {"after": after}))

    def log(
        self, run: int, *, step: str | None = None, after: int = 0, tail: int | None = None
    ) -> Any:
        """Return the log of a run's step, from a byte on, or from `tail` lines before its end."""
        query = {"step": step, "after": after, "tail": tail}
        return self._data(_Call("GET", f"/runs/{int(run)}/log", query))

    def find_in_log(self, run: int, text: str, *, step: str | None = None) -> Any:
        """Return the lines of a run's logs that hold a text."""
        query = {"q": text, "step": step}
        return self._data(_Call("GET", f"/runs/{int(run)}/log/search", query, timeout_s=60))

    def find_in_logs(self, model: str, text: str) -> Any:
        """Return the lines of the logs of a model's newest runs that hold a text."""
        call = _Call("GET", f"{_model(model)}/log/search", {"q": text}, timeout_s=60)
        return self._data(call)

    def logs(self, run: int, *, paced: bool = False) -> Iterator[str]:
        """Yield a run's lines as they come, until it waits or ends; the last is ``exit N``.

        `paced`: also lines ``pace {…}``, how far the running step is.
        """
        query = {"paced": "true"} if paced else None
        call = _Call("GET", f"/runs/{int(run)}/stream", query, timeout_s=3600)
        with self._open(call) as answer:
            try:
                for line in answer:
                    yield line.decode("utf-8", "replace").rstrip("\r\n")
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(self.url, error) from error

    # Decisions

    def approvals(self) -> Any:
        """Return the questions that wait for an answer."""
        return self._data(_Call("GET", "/approvals"))

    def approval(self, approval: int) -> Any:
        """Return one question with its dossier."""
        return self._data(_Call("GET", f"/approvals/{int(approval)}"))

    def approve(self, approval: int, reason: str = "") -> Any:
        """Say yes to a version."""
        return self._post(f"/approvals/{int(approval)}/approve", {"reason": reason})

    def reject(self, approval: int, reason: str) -> Any:
        """Say no to a version."""
        return self._post(f"/approvals/{int(approval)}/reject", {"reason": reason})

    def abort(self, run: int, reason: str = "") -> Any:
        """End a run; the champion keeps or gets all of the traffic."""
        return self._post(f"/runs/{int(run)}/abort", {"reason": reason})

    def retry(self, run: int) -> Any:
        """Go on with a failed run; finished steps keep their results."""
        return self._post(f"/runs/{int(run)}/retry", {})

    def promote(self, model: str, *, to: int | None = None, reason: str = "") -> Any:
        """Take a rollout to its next step, or to the share `to`, in percent."""
        return self._post(f"{_model(model)}/promote", _act(to, reason))

    def pause(self, model: str, reason: str = "") -> Any:
        """Hold a rollout."""
        return self._post(f"{_model(model)}/pause", _act(None, reason))

    def resume(self, model: str, reason: str = "") -> Any:
        """Let a held rollout go on."""
        return self._post(f"{_model(model)}/resume", _act(None, reason))

    def rollback(self, model: str, *, to: int | None = None, reason: str = "") -> Any:
        """End a canary, or go back to the version before, or to version `to`."""
        return self._post(f"{_model(model)}/rollback", _act(to, reason))

    # Proof

    def verify(
        self, model: str, number: int | None, *, rebuild: bool = False, seed: int | None = None
    ) -> Any:
        """Ask the server to verify a version, or all of a model's; it answers at once."""
        body = {"number": number, "rebuild": rebuild, "seed": seed}
        return self._post(f"{_model(model)}/verify", body)

    def verification(self, verification: int) -> Any:
        """Return how far a verification is, and what it found."""
        return self._data(_Call("GET", f"/verifications/{int(verification)}"))

    def export(self, model: str, number: int, *, signed: bool = False) -> IO[bytes]:
        """Return a version as an open archive (tar); read it to its end and close it."""
        path = f"{_model(model)}/versions/{int(number)}/export"
        return self._open(_Call("GET", path, {"signed": str(signed).lower()}, timeout_s=600))

    # Production

    def predictions(self, model: str, **asked: str | int | None) -> Any:
        """Return answered rows of a model, newest first.

        Parameters
        ----------
        asked
            ``since`` and ``until``, ISO 8601; ``version``; ``arm``; ``id``; ``errors``, 1 for
            errors only; ``environment``; ``limit``.
        """
        return self._data(_Call("GET", f"{_model(model)}/predictions", asked, timeout_s=120))

    def predictions_file(self, model: str, kind: str, **asked: str | int | None) -> IO[bytes]:
        """Return answered rows as an open file, ``csv`` or ``parquet``; close it."""
        query = {**asked, "format": kind}
        return self._open(_Call("GET", f"{_model(model)}/predictions", query, timeout_s=600))

    def label(
        self, model: str, labels: Sequence[Mapping[str, Any]] | Mapping[str, Any] | bytes
    ) -> Any:
        """Tell the right answers.

        A mapping of ids to values, a list of ``{"id", "value", "at"}``, or the text of such a CSV.
        """
        path = f"{_model(model)}/labels"
        if isinstance(labels, bytes):
            return self._data(_Call("POST", path, body=labels, kind="text/csv"))
        if isinstance(labels, Mapping):
            labels = [{"id": id_, "value": value} for id_, value in labels.items()]
        return self._post(path, {"labels": list(labels)})

    def monitor(self, model: str, *, run: str | None = None) -> Any:
        """Return a model's monitors, or run the one of a period now."""
        path = f"{_model(model)}/monitor"
        return self._post(path, {"run": run}) if run else self._data(_Call("GET", path))

    def serving(self, model: str) -> Any:
        """Return how a model is served now: versions, state, share, speed; and an example."""
        return self._data(_Call("GET", f"{_model(model)}/serving"))

    def predict(self, model: str, columns: Mapping[str, Sequence[Any]]) -> Any:
        """Ask the model about rows, given column by column; the answer has every output.

        A row of a column may be a (nested) list or an array, where the model takes tensors.
        """
        inputs = [_input(name, values) for name, values in columns.items()]
        name = urllib.parse.quote(model, safe="")
        return self.ask(f"/v2/models/{name}/infer", {"inputs": inputs})

    def ask(self, path: str, request: Mapping[str, Any]) -> Any:
        """Post a request to a path of the gateway, such as ``/test/v2/models/m/explain``."""
        with self._open(_Call("POST", path, body=_encoded(request)), root=self.predict_url) as got:
            return _decoded(got.read(), self.predict_url)

    # The wire

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._data(_Call("POST", path, body=_encoded(body)))

    def _data(self, call: _Call) -> Any:
        with self._open(call) as answer:
            try:
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(self.url, error) from error
        document = _decoded(content, self.url)
        if not isinstance(document, dict) or "data" not in document:
            raise _no_penstock(self.url)
        return cast("dict[str, Any]", document)["data"]

    def _open(self, call: _Call, *, root: str | None = None) -> http.client.HTTPResponse:
        query = {key: value for key, value in (call.query or {}).items() if value is not None}
        address = f"{root or f'{self.url}/api'}{call.path}"
        if query:
            address += f"?{urllib.parse.urlencode(query)}"
        headers = {"Accept": "application/json, text/plain"}
        if call.body is not None:
            headers["Content-Type"] = call.kind
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(  # noqa: S310  the scheme was checked in __init__
            address, data=call.body, headers=headers, method=call.method
        )
        try:
            return self._opener.open(request, timeout=call.timeout_s or self._timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error.code, error.read(1_000_000), root or self.url) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(root or self.url, error) from error

    def _unreachable(self, url: str, error: Exception) -> UnreachableError:
        return UnreachableError(
            "PS801",
            f"Cannot reach {url} ({_why(error)}).",
            hint=f"Start it with penstock serve, or look: penstock --server {url} doctor",
        )


def _refusal(status: int, content: bytes, url: str) -> PenstockError:
    """Turn an error answer into the error that the server raised."""
    kind = _BY_STATUS.get(status, PenstockError)
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
        return _no_penstock(url, f"HTTP {status}")
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


def _no_penstock(url: str, seen: str = "an answer of another kind") -> UnreachableError:
    return UnreachableError(
        "PS802",
        f"{url} does not answer like a Penstock server ({seen}).",
        hint="Look at the address and the port; Penstock's own is 8420.",
    )


def _why(error: Exception) -> str:
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


def _checked(url: str) -> str:
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


def _next_port(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{host}:{port + 1}"


def _model(name: str) -> str:
    return f"/models/{urllib.parse.quote(name, safe='')}"


def _act(to: int | None, reason: str) -> dict[str, str | int]:
    return {"reason": reason} if to is None else {"to": to, "reason": reason}


def _encoded(body: object) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(
            "PS805",
            f"A value cannot be sent: {error}.",
            hint="Send text, numbers, true, false or null; null for a missing value.",
        ) from error


def _decoded(content: bytes, url: str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise _no_penstock(url) from None


def _input(name: str, values: Sequence[Any]) -> dict[str, Any]:
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
