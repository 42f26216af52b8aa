"""The endpoint against a small HTTP server that answers as the gateway does."""

import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pyarrow as pa
import pytest

from penstock.domain import Environment
from penstock.errors import StoppedError, UnreachableError
from penstock.inference.asking import WorkerAnswerError, columns_of, to_v2
from penstock.inference.endpoint import MAX_ROWS, Endpoint

TABLE = pa.table({"age": [float(age) for age in range(450)]})


class Gateway(ThreadingHTTPServer):
    """Doubles the age; its state is set by the tests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.calls: list[tuple[str, int]] = []
        self.connections = 0
        self.workers: list[dict[str, Any]] = []
        self.ready_after = 0
        self.hang_up_once = False
        self.refusal: dict[str, str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def gateway(self) -> Gateway:
        return cast("Gateway", self.server)

    def setup(self) -> None:
        super().setup()
        self.gateway.connections += 1

    def do_GET(self) -> None:
        self.gateway.calls.append((self.path, 0))
        if self.path == "/penstock/workers":
            self.answer(200, self.gateway.workers)
        else:
            self.gateway.ready_after -= 1
            self.answer(200 if self.gateway.ready_after < 0 else 503, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (age,) = body["inputs"]
        self.gateway.calls.append((self.path, len(age["data"])))
        if self.gateway.hang_up_once:
            self.gateway.hang_up_once = False
            self.close_connection = True
            return
        if self.gateway.refusal is not None:
            self.answer(422, self.gateway.refusal)
            return
        doubled = [2 * value for value in age["data"]]
        outputs = [{"name": "prediction", "datatype": "FP64", "shape": [1], "data": doubled}]
        self.answer(200, {"id": f"call-{len(self.gateway.calls)}", "outputs": outputs})

    def answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the library's name
        """Keep the tests' output clean."""


@pytest.fixture
def gateway() -> Generator[Gateway]:
    with Gateway() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def endpoint(gateway: Gateway) -> Generator[Endpoint]:
    made = Endpoint(gateway.url, "credit", 3, Environment.TEST, timeout_s=5)
    yield made
    made.close()


def test_a_table_is_asked_in_parts_over_one_connection(
    gateway: Gateway, endpoint: Endpoint
) -> None:
    told = endpoint.predict(TABLE, None)

    path = "/test/v2/models/credit/versions/3/infer"
    assert gateway.calls == [(path, MAX_ROWS), (path, MAX_ROWS), (path, 50)]
    assert gateway.connections == 1
    assert told["prediction"] == [2.0 * age for age in range(450)]
    assert told["ids"][0] == "call-1.0"
    assert told["ids"][-1] == "call-3.49"


def test_without_a_number_the_split_chooses(gateway: Gateway) -> None:
    endpoint = Endpoint(gateway.url, "credit", None, Environment.PRODUCTION)

    told = endpoint.predict(TABLE.slice(0, 1), None)
    endpoint.close()

    assert gateway.calls == [("/v2/models/credit/infer", 1)]
    assert told["ids"] == ["call-1"]


def test_one_request_is_timed(gateway: Gateway, endpoint: Endpoint) -> None:
    seconds = endpoint.took_s(to_v2(TABLE.slice(0, 1), columns_of(TABLE)))

    assert gateway.calls[0][1] == 1
    assert 0 < seconds < 5


def test_a_request_that_is_answered_an_error_took_no_time(
    gateway: Gateway, endpoint: Endpoint
) -> None:
    gateway.refusal = {"error": "no"}

    with pytest.raises(WorkerAnswerError):
        endpoint.took_s(to_v2(TABLE.slice(0, 1), columns_of(TABLE)))


def test_a_connection_that_went_stale_is_opened_again(
    gateway: Gateway, endpoint: Endpoint
) -> None:
    gateway.hang_up_once = True

    told = endpoint.predict(TABLE.slice(0, 2), None)

    assert told["prediction"] == [0.0, 2.0]
    assert gateway.connections == 2


def test_an_error_carries_the_gateways_own_words(gateway: Gateway, endpoint: Endpoint) -> None:
    gateway.refusal = {"error": "Column 'age' must be text.", "code": "PS552"}

    with pytest.raises(WorkerAnswerError, match="must be text") as refused:
        endpoint.predict(TABLE, None)

    assert refused.value.status == 422


def test_a_gateway_that_is_away_can_be_tried_again() -> None:
    with Gateway() as gone:
        url = gone.url
    endpoint = Endpoint(url, "credit", 3, Environment.TEST)

    with pytest.raises(UnreachableError, match="does not answer") as away:
        endpoint.predict(TABLE, None)

    assert away.value.code == "PS559"
    assert not endpoint.ready()


def test_readiness_is_awaited(gateway: Gateway, endpoint: Endpoint) -> None:
    gateway.ready_after = 3
    pauses: list[float] = []

    endpoint.wait_ready(5, pauses.append)

    assert len(pauses) == 3


def test_a_version_that_failed_is_not_waited_for(gateway: Gateway, endpoint: Endpoint) -> None:
    gateway.ready_after = 1000
    mine = {"environment": "test", "model": "credit", "number": 3, "state": "failed"}
    gateway.workers = [
        {**mine, "number": 2, "reason": "another version"},
        {**mine, "environment": "production", "reason": "another environment"},
        {**mine, "reason": "No module named 'yaml'."},
    ]

    with pytest.raises(StoppedError, match=r"credit@3 .* in test: No module named") as stopped:
        endpoint.wait_ready(5, lambda _: None)

    assert stopped.value.code == "PS560"


def test_waiting_ends(gateway: Gateway, endpoint: Endpoint) -> None:
    gateway.ready_after = 1_000_000

    with pytest.raises(StoppedError, match=r"was not ready in test after 0\.05 s") as stopped:
        endpoint.wait_ready(0.05, lambda _: None)

    assert stopped.value.code == "PS561"


def test_workers_are_told_as_the_gateway_tells_them(gateway: Gateway, endpoint: Endpoint) -> None:
    gateway.workers = [{"model": "credit", "state": "ready"}]

    assert endpoint.workers() == gateway.workers
