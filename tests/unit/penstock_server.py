"""A tiny real HTTP server that answers as a test tells it, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What to send back."""

    body: bytes
    status: int = 200
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict[str, str])


MISSING = Answer(
    b'{"error": {"code": "PS104", "message": "There is no such thing.", "next": []}}', 404
)


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class FakeServer:
    """Answers by ``METHOD /path``, the query included; anything else is 404."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])
    asked: list[Asked] = field(default_factory=list[Asked])

    def tell(self, what: str, data: Any) -> None:
        """Answer with data, as the interface wraps it."""
        document = {"schema": "penstock.test/1", "data": data}
        self.answers[what] = Answer(json.dumps(document).encode())

    def refuse(self, what: str, status: int, error: Any) -> None:
        """Answer with an error."""
        self.answers[what] = Answer(json.dumps({"error": error}).encode(), status)

    def lines(self, what: str, text: str) -> None:
        """Answer with lines of text."""
        self.answers[what] = Answer(text.encode(), kind="text/plain; charset=utf-8")


@contextmanager
def serving() -> Generator[FakeServer]:
    """Run a fake server on a free loopback port."""
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            headers = {key.lower(): value for key, value in self.headers.items()}
            asked = Asked(self.command, self.path, self.rfile.read(length), headers)
            fake.asked.append(asked)
            found = fake.answers.get(f"{self.command} {self.path}", MISSING)
            self.send_response(found.status)
            self.send_header("Content-Type", found.kind)
            self.send_header("Content-Length", str(len(found.body)))
            for key, value in found.headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(found.body)

        do_GET = answer  # noqa: N815  the server calls it by this name
        do_POST = answer  # noqa: N815  the same

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  its signature
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
