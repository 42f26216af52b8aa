"""The Python client of a Penstock server, on the standard library alone.

    from penstock import Client
    client = Client("http://127.0.0.1:8420")
    client.status("credit-default")

Each method is one request. It returns the answer's ``data``; what the server refuses arrives as
the same error, with the same code and hint, that the server raised.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, cast

from penstock.client.wire import (
    DEFAULT_URL,
    Call,
    NoRedirect,
    act,
    checked,
    decoded,
    encoded,
    input_of,
    next_port,
    no_penstock,
    path_of,
    refusal,
    said,
    why,
)
from penstock.errors import UnreachableError

__all__ = ["DEFAULT_URL", "Client"]


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
        self.url = checked(url)
        self.predict_url = checked(predict_url) if predict_url else next_port(self.url)
        self._token = token
        self._timeout_s = timeout_s
        # No proxy for our own loopback server, and none that an environment variable slips in.
        self._opener = urllib.request.build_opener(NoRedirect, urllib.request.ProxyHandler({}))

    # What is where

    def health(self) -> Any:
        """Return how the server is."""
        return self._data(Call("GET", "/health"))

    def status(self, model: str | None = None) -> Any:
        """Return one model's state, or the first page of all."""
        return self._data(Call("GET", path_of(model))) if model else self.list()

    def list(self, query: str | None = None, *, after: str | None = None) -> Any:
        """Return models whose name holds `query`, a page at a time."""
        return self._data(Call("GET", "/models", {"q": query, "after": after}))

    def history(self, model: str, *, at: str | None = None) -> Any:
        """Return a model's champions, versions and decisions; or who served at a time."""
        return self._data(Call("GET", f"{path_of(model)}/history", {"at": at}))

    def experiments(self, model: str, number: int | None = None) -> Any:
        """Return what a version's build tracked: runs, logged models, its own figures."""
        return self._data(Call("GET", f"{path_of(model)}/experiments", {"number": number}))

    def fairness(self, model: str, number: int) -> Any:
        """Return how a version treats groups of people."""
        return self._data(Call("GET", f"{path_of(model)}/versions/{int(number)}/fairness"))

    def fairness_page(self, model: str, number: int) -> bytes:
        """Return the same as one HTML file."""
        path = f"{path_of(model)}/versions/{int(number)}/fairness.html"
        with self._open(Call("GET", path), root=self.url) as answer:
            return answer.read()

    def compare(self, model: str, first: object, second: object) -> Any:
        """Return two versions beside each other; each a number, ``champion`` or ``latest``."""
        return self._data(Call("GET", _compared(model, first, second)))

    def compare_page(self, model: str, first: object, second: object) -> bytes:
        """Return the same as one HTML file."""
        call = Call("GET", f"{_compared(model, first, second)}.html", timeout_s=120)
        with self._open(call, root=self.url) as answer:
            return answer.read()

    def version(self, model: str, number: int) -> Any:
        """Return one version: what it is made of, its documents, its checks."""
        return self._data(Call("GET", f"{path_of(model)}/versions/{int(number)}"))

    def card(self, model: str, number: int) -> Any:
        """Return a version's model card as Markdown, and what its author left empty."""
        return self._data(Call("GET", f"{path_of(model)}/versions/{int(number)}/card"))

    def card_page(self, model: str, number: int) -> bytes:
        """Return the same as one HTML file."""
        path = f"{path_of(model)}/versions/{int(number)}/card.html"
        with self._open(Call("GET", path), root=self.url) as answer:
            return answer.read()

    def document(self, model: str, number: int, name: str) -> IO[bytes]:
        """Return one of a version's documents; read it to its end and close it."""
        kept = urllib.parse.quote(name, safe="")
        path = f"{path_of(model)}/versions/{int(number)}/documents/{kept}"
        return self._open(Call("GET", path, timeout_s=600))

    def explanation(self, model: str, number: int) -> Any:
        """Return what a version looks at."""
        return self._data(Call("GET", f"{path_of(model)}/versions/{int(number)}/explain"))

    def explanation_page(self, model: str, number: int) -> bytes:
        """Return the same as one HTML file."""
        path = f"{path_of(model)}/versions/{int(number)}/explain.html"
        with self._open(Call("GET", path), root=self.url) as answer:
            return answer.read()

    def run(self, run: int) -> Any:
        """Return one run with its steps."""
        return self._data(Call("GET", f"/runs/{int(run)}"))

    def runs(self, model: str | None = None) -> Any:
        """Return runs, newest first."""
        return self._data(Call("GET", "/runs", {"model": model}))

    def rollout(self, rollout: int) -> Any:
        """Return one rollout with its looks."""
        return self._data(Call("GET", f"/rollouts/{int(rollout)}"))

    def journal(self, *, after: int = 0) -> Any:
        """Return journal entries behind a number."""
        return self._data(Call("GET", "/journal", {"after": after}))

    def log(
        self, run: int, *, step: str | None = None, after: int = 0, tail: int | None = None
    ) -> Any:
        """Return the log of a run's step, from a byte on, or from `tail` lines before its end."""
        query = {"step": step, "after": after, "tail": tail}
        return self._data(Call("GET", f"/runs/{int(run)}/log", query))

    def find_in_log(self, run: int, text: str, *, step: str | None = None) -> Any:
        """Return the lines of a run's logs that hold a text."""
        query = {"q": text, "step": step}
        return self._data(Call("GET", f"/runs/{int(run)}/log/search", query, timeout_s=60))

    def find_in_logs(self, model: str, text: str) -> Any:
        """Return the lines of the logs of a model's newest runs that hold a text."""
        call = Call("GET", f"{path_of(model)}/log/search", {"q": text}, timeout_s=60)
        return self._data(call)

    def logs(self, run: int, *, paced: bool = False) -> Iterator[str]:
        """Yield a run's lines as they come, until it waits or ends; the last is ``exit N``.

        `paced`: also lines ``pace {…}``, how far the running step is.
        """
        query = {"paced": "true"} if paced else None
        call = Call("GET", f"/runs/{int(run)}/stream", query, timeout_s=3600)
        with self._open(call) as answer:
            try:
                for line in answer:
                    yield line.decode("utf-8", "replace").rstrip("\r\n")
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(self.url, error) from error

    # Decisions

    def approvals(self) -> Any:
        """Return the questions that wait for an answer."""
        return self._data(Call("GET", "/approvals"))

    def approval(self, approval: int) -> Any:
        """Return one question with its dossier."""
        return self._data(Call("GET", f"/approvals/{int(approval)}"))

    def approve(self, approval: int, reason: str = "", **more: str | None) -> Any:
        """Say yes to a version.

        Parameters
        ----------
        more
            ``dossier``, the digest of what was read; ``condition`` and its date ``due``;
            ``in_place_of``, whose vote it is.
        """
        return self._post(f"/approvals/{int(approval)}/approve", said(reason, more))

    def reject(self, approval: int, reason: str, **more: str | None) -> Any:
        """Say no to a version; `more` as with a yes."""
        return self._post(f"/approvals/{int(approval)}/reject", said(reason, more))

    def withdraw(self, approval: int, reason: str = "") -> Any:
        """Take one's own yes back, while others are still asked."""
        return self._post(f"/approvals/{int(approval)}/withdraw", {"reason": reason})

    def comment(self, approval: int, text: str) -> Any:
        """Say something about a question without answering it."""
        return self._post(f"/approvals/{int(approval)}/comment", {"reason": text})

    def conditions(self, model: str | None = None) -> Any:
        """Return the conditions of yeses that nobody has met yet."""
        return self._data(Call("GET", "/conditions", {"model": model}))

    def met(self, condition: int, note: str = "") -> Any:
        """Say that a condition is met."""
        return self._post(f"/conditions/{int(condition)}/met", {"reason": note})

    def delegations(self) -> Any:
        """Return the votes that one has handed over, or holds for others."""
        return self._data(Call("GET", "/delegations"))

    def delegate(self, to: str, **where: str | int | None) -> Any:
        """Hand one's vote over.

        Parameters
        ----------
        where
            ``until``, a date; ``model`` or ``approval``, else everywhere; ``reason``.
        """
        return self._post("/delegations", {"to": to, **where})

    def end_delegation(self, delegation: int) -> Any:
        """Take one's vote back."""
        return self._post(f"/delegations/{int(delegation)}/end", {})

    def abort(self, run: int, reason: str = "") -> Any:
        """End a run; the champion keeps or gets all of the traffic."""
        return self._post(f"/runs/{int(run)}/abort", {"reason": reason})

    def retry(self, run: int) -> Any:
        """Go on with a failed run; finished steps keep their results."""
        return self._post(f"/runs/{int(run)}/retry", {})

    def promote(self, model: str, *, to: int | None = None, reason: str = "") -> Any:
        """Take a rollout to its next step, or to the share `to`, in percent."""
        return self._post(f"{path_of(model)}/promote", act(to, reason))

    def pause(self, model: str, reason: str = "") -> Any:
        """Hold a rollout."""
        return self._post(f"{path_of(model)}/pause", act(None, reason))

    def resume(self, model: str, reason: str = "") -> Any:
        """Let a held rollout go on."""
        return self._post(f"{path_of(model)}/resume", act(None, reason))

    def rollback(self, model: str, *, to: int | None = None, reason: str = "") -> Any:
        """End a canary, or go back to the version before, or to version `to`."""
        return self._post(f"{path_of(model)}/rollback", act(to, reason))

    # Proof

    def verify(
        self, model: str, number: int | None, *, rebuild: bool = False, seed: int | None = None
    ) -> Any:
        """Ask the server to verify a version, or all of a model's; it answers at once."""
        body = {"number": number, "rebuild": rebuild, "seed": seed}
        return self._post(f"{path_of(model)}/verify", body)

    def verification(self, verification: int) -> Any:
        """Return how far a verification is, and what it found."""
        return self._data(Call("GET", f"/verifications/{int(verification)}"))

    def export(self, model: str, number: int, *, signed: bool = False) -> IO[bytes]:
        """Return a version as an open archive (tar); read it to its end and close it."""
        path = f"{path_of(model)}/versions/{int(number)}/export"
        return self._open(Call("GET", path, {"signed": str(signed).lower()}, timeout_s=600))

    # Production

    def predictions(self, model: str, **asked: str | int | None) -> Any:
        """Return answered rows of a model, newest first.

        Parameters
        ----------
        asked
            ``since`` and ``until``, ISO 8601; ``version``; ``arm``; ``id``; ``errors``, 1 for
            errors only; ``environment``; ``limit``.
        """
        return self._data(Call("GET", f"{path_of(model)}/predictions", asked, timeout_s=120))

    def predictions_file(self, model: str, kind: str, **asked: str | int | None) -> IO[bytes]:
        """Return answered rows as an open file, ``csv`` or ``parquet``; close it."""
        query = {**asked, "format": kind}
        return self._open(Call("GET", f"{path_of(model)}/predictions", query, timeout_s=600))

    def label(
        self, model: str, labels: Sequence[Mapping[str, Any]] | Mapping[str, Any] | bytes
    ) -> Any:
        """Tell the right answers.

        A mapping of ids to values, a list of ``{"id", "value", "at"}``, or the text of such a CSV.
        """
        path = f"{path_of(model)}/labels"
        if isinstance(labels, bytes):
            return self._data(Call("POST", path, body=labels, kind="text/csv"))
        if isinstance(labels, Mapping):
            labels = [{"id": id_, "value": value} for id_, value in labels.items()]
        return self._post(path, {"labels": list(labels)})

    def monitor(self, model: str, *, run: str | None = None) -> Any:
        """Return a model's monitors, or run the one of a period now."""
        path = f"{path_of(model)}/monitor"
        return self._post(path, {"run": run}) if run else self._data(Call("GET", path))

    def serving(self, model: str) -> Any:
        """Return how a model is served now: versions, state, share, speed; and an example."""
        return self._data(Call("GET", f"{path_of(model)}/serving"))

    def predict(self, model: str, columns: Mapping[str, Sequence[Any]]) -> Any:
        """Ask the model about rows, given column by column; the answer has every output.

        A row of a column may be a (nested) list or an array, where the model takes tensors.
        """
        inputs = [input_of(name, values) for name, values in columns.items()]
        name = urllib.parse.quote(model, safe="")
        return self.ask(f"/v2/models/{name}/infer", {"inputs": inputs})

    def ask(self, path: str, request: Mapping[str, Any]) -> Any:
        """Post a request to a path of the gateway, such as ``/test/v2/models/m/explain``."""
        with self._open(Call("POST", path, body=encoded(request)), root=self.predict_url) as got:
            return decoded(got.read(), self.predict_url)

    # The wire

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._data(Call("POST", path, body=encoded(body)))

    def _data(self, call: Call) -> Any:
        with self._open(call) as answer:
            try:
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(self.url, error) from error
        document = decoded(content, self.url)
        if not isinstance(document, dict) or "data" not in document:
            raise no_penstock(self.url)
        return cast("dict[str, Any]", document)["data"]

    def _open(self, call: Call, *, root: str | None = None) -> http.client.HTTPResponse:
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
                raise refusal(error.code, error.read(1_000_000), root or self.url) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(root or self.url, error) from error

    def _unreachable(self, url: str, error: Exception) -> UnreachableError:
        return UnreachableError(
            "PS801",
            f"Cannot reach {url} ({why(error)}).",
            hint=f"Start it with penstock serve, or look: penstock --server {url} doctor",
        )


def _compared(model: str, first: object, second: object) -> str:
    one, other = (urllib.parse.quote(str(word), safe="") for word in (first, second))
    return f"{path_of(model)}/compare/{one}/{other}"
