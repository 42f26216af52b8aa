"""Callers that are slow, large or many, and a gateway that leaves while they send."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.inference.gateway import serving
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
    monkeypatch.setattr(serving, "HEAD_S", 0.3)
    with connect(served) as dripping, connect(served) as pieces:
        pieces.sendall(REQUEST[:30])
        time.sleep(0.05)
        pieces.sendall(REQUEST[30:])
        began_s = time.monotonic()
        dripping.sendall(b"POST /v2")
        for _ in range(100):
            try:
                dripping.sendall(b"x")
            except OSError:
                break
            time.sleep(0.02)

        assert time.monotonic() - began_s < 1.5
        assert told(dripping) == b""
        time.sleep(0.4)
        assert pieces.recv(100).startswith(b"HTTP/1.1 200 ")
        pieces.sendall(REQUEST)
        assert pieces.recv(65536)


def test_callers_beyond_the_greatest_number_are_told_so(
    served: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CONNECTIONS", 3)
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
