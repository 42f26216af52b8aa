"""How people hear of it: a log file always, webhooks where the operator names some.

A message is delivered at least once. A receiver tells repeats by ``Penstock-Delivery``, which
is the same for the same message, and tells forgeries by ``Penstock-Signature``.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.errors import UnreachableError, UsageError
from penstock.ports import Notifier


class LogNotifier:
    """Appends each message as one line of JSON to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def send(self, message: Mapping[str, Any]) -> None:
        """Write the line and sync it; UnreachableError when the disk refuses."""
        line = json.dumps(dict(message), sort_keys=True, default=str) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UnreachableError(
                "PS119",
                f"A message could not be written to {self.path}: {error.strerror}.",
                hint="Make room on the disk or mend its rights; the message is kept and sent.",
            ) from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses to follow: the operator allowed this address, not the one it points to."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Return no request: urllib then raises the redirect as an error."""


class WebhookNotifier:
    """Posts each message as JSON to one address.

    Parameters
    ----------
    url
        ``http`` or ``https``, from the server's settings, never from a push.
    secret
        Key of the HMAC-SHA256 over the body, told in ``Penstock-Signature: sha256=<hex>``.
    """

    def __init__(self, url: str, secret: bytes, *, timeout_s: float = 10) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            what = f"The webhook {url!r} is neither an http nor an https address."
            raise UsageError("PS117", what, hint="Mend notify.webhooks in server.toml.")
        self.url = url
        self._secret = secret
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(_NoRedirect)

    def send(self, message: Mapping[str, Any]) -> None:
        """Post it; any answer but 2xx, a redirect too, is an UnreachableError."""
        body = json.dumps(dict(message), sort_keys=True, default=str).encode()
        request = urllib.request.Request(  # noqa: S310 (the scheme is checked above)
            self.url,
            data=body,
            method="POST",
            headers={
                "Content-Type": "application/json",
                "User-Agent": "penstock",
                "Penstock-Delivery": hashlib.sha256(body).hexdigest()[:32],
                "Penstock-Signature": f"sha256={signature(self._secret, body)}",
            },
        )
        try:
            with self._opener.open(request, timeout=self._timeout_s):
                return
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"it answered {error.code}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise UnreachableError(
            "PS118",
            f"The webhook {self.url} did not take the message: {reason}.",
            hint="Mend the receiver or notify.webhooks in server.toml; the message is kept.",
        )


def signature(secret: bytes, body: bytes) -> str:
    """Return the hex HMAC-SHA256 that a receiver must find, too."""
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


class Notifiers:
    """Sends each message by every way; one that fails does not keep the others from it."""

    def __init__(self, ways: Sequence[Notifier]) -> None:
        self._ways = tuple(ways)

    def send(self, message: Mapping[str, Any]) -> None:
        """Deliver by every way, then raise the first failure, so that it is sent again."""
        failures: list[UnreachableError] = []
        for way in self._ways:
            try:
                way.send(message)
            except UnreachableError as failure:
                failures.append(failure)
        if failures:
            raise failures[0]
