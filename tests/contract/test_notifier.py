"""What every Notifier must do. A new adapter adds one line to `NOTIFIERS`."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from penstock.adapters.notifiers import LogNotifier, Notifiers, WebhookNotifier, signature
from penstock.errors import UnreachableError, UsageError
from penstock.ports import Notifier
from tests.fakes import Inbox

SECRET = b"a secret of the receiver"
MESSAGE = {
    "kind": "approval",
    "model": "credit-default",
    "subject": "credit-default@12 waits for you",
    "text": "Zwölf ist besser.",
    "url": "http://127.0.0.1:8420/approvals/1",
    "at": "2026-11-24T20:00:00+00:00",
}


@dataclass
class Receiver:
    """A web server that keeps what is posted to it and answers `status`."""

    url: str = ""
    status: int = 204
    bodies: list[bytes] = field(default_factory=list[bytes])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    fetched: list[str] = field(default_factory=list[str])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            kept.headers.append(dict(self.headers))
            self.send_response(kept.status)
            self.send_header("Location", f"{kept.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            kept.fetched.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 (its name)
            """Say nothing on stderr."""

    server = HTTPServer(("127.0.0.1", 0), Answering)
    kept.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield kept
    server.shutdown()
    thread.join()
    server.server_close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


Made = tuple[Notifier, Callable[[], list[dict[str, object]]]]


def _inbox(receiver: Receiver, folder: Path) -> Made:
    inbox = Inbox()
    return inbox, lambda: inbox.messages


def _log(receiver: Receiver, folder: Path) -> Made:
    path = folder / "home" / "notifications.log"
    return LogNotifier(path), lambda: [
        json.loads(line) for line in path.read_text("utf-8").splitlines()
    ]


def _webhook(receiver: Receiver, folder: Path) -> Made:
    return WebhookNotifier(receiver.url, SECRET), lambda: [json.loads(b) for b in receiver.bodies]


def _all(receiver: Receiver, folder: Path) -> Made:
    webhook, received = _webhook(receiver, folder)
    return Notifiers([_log(receiver, folder)[0], webhook]), received


NOTIFIERS: dict[str, Callable[[Receiver, Path], Made]] = {
    "inbox": _inbox,
    "log": _log,
    "webhook": _webhook,
    "all": _all,
}


@pytest.mark.parametrize("name", sorted(NOTIFIERS))
def test_messages_arrive_whole_and_in_order(name: str, receiver: Receiver, tmp_path: Path) -> None:
    notifier, received = NOTIFIERS[name](receiver, tmp_path)

    notifier.send(MESSAGE)
    notifier.send({**MESSAGE, "kind": "alert"})

    assert received() == [MESSAGE, {**MESSAGE, "kind": "alert"}]


def test_a_receiver_can_prove_who_sent_and_tell_a_repeat(receiver: Receiver) -> None:
    notifier = WebhookNotifier(receiver.url, SECRET)

    notifier.send(MESSAGE)
    notifier.send(MESSAGE)

    first, second = receiver.headers
    assert first["Penstock-Signature"] == f"sha256={signature(SECRET, receiver.bodies[0])}"
    assert first["Penstock-Signature"] != f"sha256={signature(b'other', receiver.bodies[0])}"
    assert first["Penstock-Delivery"] == second["Penstock-Delivery"]


@pytest.mark.parametrize("status", [302, 307, 404, 500])
def test_any_answer_but_success_is_reported_and_no_redirect_is_followed(
    receiver: Receiver, status: int
) -> None:
    receiver.status = status

    with pytest.raises(UnreachableError, match=str(status)):
        WebhookNotifier(receiver.url, SECRET).send(MESSAGE)

    assert receiver.fetched == []
    assert len(receiver.bodies) == 1


def test_a_receiver_that_is_not_there_is_reported() -> None:
    url = f"http://127.0.0.1:{_free_port()}"

    with pytest.raises(UnreachableError, match="refused"):
        WebhookNotifier(url, SECRET).send(MESSAGE)


def test_a_receiver_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(UnreachableError, match="timed out"):
            WebhookNotifier(url, SECRET, timeout_s=0.2).send(MESSAGE)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org", "example.org"])
def test_only_web_addresses_are_webhooks(url: str) -> None:
    with pytest.raises(UsageError, match="PS117"):
        WebhookNotifier(url, SECRET)


def test_one_way_that_fails_does_not_keep_the_others_from_the_message() -> None:
    closed, inbox = Inbox(), Inbox()
    closed.reachable = False

    with pytest.raises(UnreachableError):
        Notifiers([closed, inbox]).send(MESSAGE)

    assert inbox.messages == [MESSAGE]


def test_a_log_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UnreachableError, match="PS119"):
        LogNotifier(tmp_path / "file" / "notifications.log").send(MESSAGE)
