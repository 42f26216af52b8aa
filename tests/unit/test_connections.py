"""Callers that are slow, large or many, and a gateway that leaves while they send."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.inference.gateway import connections, serving
from penstock.inference.gateway.handover import Handover, Word, heard, listen
from penstock.inference.gateway.settings import GatewaySettings
from tests.unit.gateway_rig import Rig, a_rig, running, version

REQUEST = (
    b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Rig]:
    with a_rig(tmp_path) as rig, running(rig):
        rig.serve_these([version(1)])
        yield rig


def connect(rig: Rig) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", int(rig.url.rpartition(":")[2])))
    made.settimeout(10)
    return made


def told(connection: socket.socket) -> bytes:
    """Read until the other side closes."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize("piece", [1000, 300_000])
def test_a_head_without_an_end_is_refused(served: Rig, piece: int) -> None:
    with connect(served) as connection:
        connection.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\n")
        try:
            for n in range(0, 300_000, piece):
                connection.sendall(b"x%d: %s\r\n" % (n, b"y" * piece))
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = told(connection)

    assert answer.startswith(b"HTTP/1.1 431 ") or not answer
    assert served.ask().status_code == 200


def test_a_head_that_drips_is_given_up_and_one_in_two_pieces_is_not(
    served: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 1.5)
    with connect(served) as dripping, connect(served) as pieces:
        pieces.sendall(REQUEST[:30])
        time.sleep(0.05)
        pieces.sendall(REQUEST[30:])
        dripping.sendall(b"POST /v2")
        ends_s = time.monotonic() + 20
        with contextlib.suppress(OSError):
            while time.monotonic() < ends_s:
                dripping.sendall(b"x")
                time.sleep(0.02)

        assert time.monotonic() < ends_s
        assert told(dripping) == b""
        assert pieces.recv(100).startswith(b"HTTP/1.1 200 ")
        pieces.sendall(REQUEST)
        assert pieces.recv(65536)


def test_callers_beyond_the_greatest_number_are_told_so(
    served: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 3)
    with connect(served) as one, connect(served) as two:
        for each in (one, two):
            each.sendall(REQUEST)
            assert each.recv(65536).startswith(b"HTTP/1.1 200 ")
        with connect(served) as more, connect(served) as most:
            answers = [told(most), b"open" if more.fileno() >= 0 else b""]

        assert answers[0].startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answers[0]
        one.sendall(REQUEST)
        assert one.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_gateway_that_leaves_answers_every_request_and_closes_each_connection_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "SILENT_S", 0.5)  # of the test's own idle connection
    statuses: Counter[int] = Counter()
    failures: list[Exception] = []
    done = threading.Event()

    def ask(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        while not done.is_set():
            try:
                headers = {"Content-Type": "application/json"}
                connection.request("POST", "/v2/models/m/infer", "{}", headers)
                answer = connection.getresponse()
                answer.read()
                statuses[answer.status] += 1
            except (OSError, http.client.HTTPException) as error:
                failures.append(error)
                connection.close()
        connection.close()

    listening = listen("127.0.0.1", 0)
    with (
        a_rig(tmp_path) as old,
        running(old, listening.dup()),
        a_rig(tmp_path) as new,
    ):
        old.serve_these([version(1)])
        callers = [threading.Thread(target=ask, args=(int(old.url[-5:]),)) for _ in range(4)]
        for caller in callers:
            caller.start()
        old.until(lambda: statuses[200] > 50)
        new.deployments = [version(1)]
        new.settings = GatewaySettings(settle_s=20, sockets=new.settings.sockets)
        with running(new, listening.dup()):
            old.server.leave()
            old.until(lambda: not old.is_alive())
            before = statuses[200]
            new.until(lambda: statuses[200] > before + 100)
            done.set()
            for caller in callers:
                caller.join()
            ids = [entry.id for entry in old.log()]
    listening.close()

    assert failures == []
    assert set(statuses) == {200}
    assert len(ids) == len(set(ids)) == statuses[200]


def test_the_word_of_a_gateway_is_heard_once_it_is_whole(tmp_path: Path) -> None:
    word = Word(settled=True, unready={"production/m@1": "it is broken"})
    path = tmp_path / "word"
    with path.open("wb") as file:
        Handover(word=os.dup(file.fileno())).say(word)
    text = path.read_bytes()

    assert heard(text) == word
    assert all(heard(text[:size]) is None for size in range(len(text)))


def request(body: bytes = b"{}", *, line: bytes = b"", more: bytes = b"") -> bytes:
    line = line or b"POST /v2/models/m/infer HTTP/1.1"
    return b"%s\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n%s" % (
        line, more, len(body), body,
    )  # fmt: skip


def answers(connection: socket.socket, number: int) -> list[tuple[int, dict[str, str], bytes]]:
    """Read so many answers to POST."""
    found: list[tuple[int, dict[str, str], bytes]] = []
    with connection.makefile("rb") as stream:
        for _ in range(number):
            line = stream.readline()
            head = http.client.parse_headers(stream)
            headers = {name.lower(): value for name, value in head.items()}
            found.append((int(line.split()[1]), headers, stream.read(int(head["content-length"]))))
    return found


def test_requests_sent_at_once_are_answered_in_their_order(served: Rig) -> None:
    bodies = [b'{"n": %d}' % n for n in range(60)]
    bodies[7] = b'{"n": 7, "do": "sleep", "seconds": 0.1}'
    with connect(served) as connection:
        connection.sendall(b"".join(map(request, bodies)) + request(line=b"POST /no HTTP/1.1"))
        found = answers(connection, 61)

    assert [json.loads(body).get("n") for _, _, body in found] == [*range(60), None]
    assert [status for status, _, _ in found] == [200] * 60 + [404]
    assert served.requests_held() == 0


@pytest.mark.parametrize("piece", [1, 7, 30])
def test_a_request_in_pieces_is_answered(served: Rig, piece: int) -> None:
    sent = request(b'{"n": 3}')
    with connect(served) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(sent), piece):
            connection.sendall(sent[start : start + piece])
        ((status, _, body),) = answers(connection, 1)

    assert (status, json.loads(body)["n"]) == (200, 3)


def test_a_body_in_chunks_of_unknown_number_is_read(served: Rig) -> None:
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    with connect(served) as connection:
        connection.sendall(head + b'\r\n4\r\n{"n"\r\n4\r\n: 5}\r\n0\r\n\r\n' + request())
        found = answers(connection, 2)

    assert [status for status, _, _ in found] == [200, 200]
    assert json.loads(found[0][2])["n"] == 5


def test_who_waits_for_leave_to_send_a_body_gets_it_or_an_answer(served: Rig) -> None:
    more = b"Expect: 100-continue\r\n"
    whole = request(b'{"n": 1}', more=more)
    head, body = whole[:-8], whole[-8:]
    with connect(served) as connection:
        connection.sendall(head)
        leave = connection.recv(100)
        connection.sendall(body)
        ((status, _, _),) = answers(connection, 1)
    with connect(served) as connection:
        connection.sendall(request(b"{}", line=b"POST /no HTTP/1.1", more=more)[:-2])
        refusal = told(connection)

    assert leave == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert status == 200
    assert refusal.startswith(b"HTTP/1.1 404 ")
    assert b"connection: close" in refusal


def test_an_offer_of_another_protocol_is_not_taken_up(served: Rig) -> None:
    more = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
    get = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % more
    with connect(served) as connection:
        connection.sendall(request(b'{"n": 1}', more=more) + get + request(b'{"n": 2}'))
        found = answers(connection, 3)

    assert [status for status, _, _ in found] == [200, 200, 200]
    assert json.loads(found[2][2])["n"] == 2


def test_a_tunnel_is_not_opened(served: Rig) -> None:
    with connect(served) as connection:
        connection.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nHost: localhost\r\n\r\nhello")
        answer = told(connection)

    assert answer.startswith(b"HTTP/1.1 404 ")


def test_an_old_client_is_answered_and_its_connection_closed(served: Rig) -> None:
    line = b"POST /v2/models/m/infer HTTP/1.0"
    for more in (b"", b"Connection: keep-alive\r\n"):
        with connect(served) as connection:
            connection.sendall(request(line=line, more=more))
            answer = told(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer


def test_a_head_is_asked_for_without_its_body(served: Rig) -> None:
    with connect(served) as connection:
        last = request(more=b"Connection: close\r\n")
        connection.sendall(b"HEAD /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n" + last)
        answer = told(connection)

    first, _, rest = answer.partition(b"\r\n\r\n")
    assert b"content-length: " in first
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        request(more=b"Content-Length: 3\r\n"),
        request(more=b"Transfer-Encoding: chunked\r\n"),
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"POST /v2 /models HTTP/1.1\r\n\r\n",
    ],
    ids=["TLS", "two lengths", "length and chunks", "blank in a name", "blank in the target"],
)
def test_what_is_not_http_is_refused_and_the_connection_ends(served: Rig, sent: bytes) -> None:
    with connect(served) as connection:
        connection.sendall(request(b'{"n": 1}') * 3 + sent + request(b'{"n": 2}'))
        answer = told(connection)

    parts = answer.split(b"HTTP/1.1 ")[1:]
    assert [part[:3] for part in parts] == [b"200"] * 3 + [b"400"], answer
    assert b"PS531" in parts[-1]
    assert served.requests_held() == 0


def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    with a_rig(tmp_path, deadline_s=0.3) as rig, running(rig):
        rig.serve_these([version(1)])
        with connect(rig) as connection:
            connection.sendall(request(b"{" + b" " * 50 + b"}")[:-40])
            answer = told(connection)

        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"PS513" in answer
        assert rig.requests_held() == 0


def test_a_body_that_is_too_large_is_refused_though_its_length_is_not_said(
    tmp_path: Path,
) -> None:
    chunk = b"%x\r\n%s\r\n" % (5000, b" " * 5000)
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    with a_rig(tmp_path, body_bytes=10_000) as rig, running(rig):
        rig.serve_these([version(1)])
        with connect(rig) as connection:
            connection.sendall(head + b"\r\n" + chunk * 3 + b"0\r\n\r\n" + request())
            found = answers(connection, 2)
        with connect(rig) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(head + b"\r\n" + chunk * 1000)
            endless = told(connection)
        with connect(rig) as connection:
            connection.sendall(request().replace(b"Length: 2", b"Length: 999999999"))
            announced = told(connection)

        assert [status for status, _, _ in found] == [413, 200]
        assert not endless or endless.startswith(b"HTTP/1.1 413 ")
        assert announced.startswith(b"HTTP/1.1 413 ")
        assert rig.requests_held() == 0


def test_callers_who_leave_in_the_middle_leave_no_place_taken(served: Rig) -> None:
    whole = request(b'{"do": "sleep", "seconds": 0.2}')
    for sent in (whole[:30], whole[:-3], whole, whole + whole + whole[:-2]):
        with connect(served) as connection:
            connection.sendall(sent)
            time.sleep(0.03)

    served.until(lambda: served.requests_held() == 0)
    assert served.ask().status_code == 200


def test_who_sends_no_more_is_answered_all_the_same(served: Rig) -> None:
    with connect(served) as connection:
        connection.sendall(request(b'{"do": "sleep", "seconds": 0.1}') + request(b'{"n": 2}'))
        connection.shutdown(socket.SHUT_WR)
        answer = told(connection)

    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.count(b"connection: close") == 1


def test_a_caller_who_does_not_read_is_given_up_and_its_memory_with_it(
    served: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    index = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(served) as connection:
        connection.settimeout(0.2)
        with pytest.raises(OSError, match=r"reset|Broken pipe|timed out"):
            connection.sendall(index * 100_000)
        server: Any = served.server
        served.until(lambda: len(server.server_state.connections) <= 1)

    assert served.ask().status_code == 200


def test_a_head_that_was_good_once_is_no_pass_for_another(served: Rig) -> None:
    good = request()
    bad = [
        good.replace(b"Host: localhost", b"Host: example.org"),
        good.replace(b"Host: localhost", b"Host: localhost\r\nOrigin: https://example.org"),
        good.replace(b"Host: localhost", b"Host: localhost\r\nContent-Encoding: gzip"),
        good.replace(b"Host: localhost", b"Host: localhost\r\nPenstock-Deadline-Ms: soon"),
        good.replace(b"Host: localhost", b"Host: localhost\r\nContent-Type: text/plain"),
        good.replace(b"POST", b"DELETE"),
        good.replace(b"Length: 2", b"Length: 3000000"),
    ]
    with connect(served) as connection:
        connection.sendall(b"".join((good, *(each + good for each in bad[:-1]))))
        found = [status for status, _, _ in answers(connection, 2 * len(bad) - 1)]
    with connect(served) as connection:
        connection.sendall(good + bad[-1] + b" " * 2_999_998)
        ((first, _, _), (last, _, _)) = answers(connection, 2)

    assert found == [200, 403, 200, 403, 200, 415, 200, 400, 200, 415, 200, 405, 200]
    assert (first, last) == (200, 413)
