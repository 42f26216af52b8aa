"""The gateway as a process of its own: ended, killed, started twice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from penstock.errors import UnreachableError
from penstock.inference.gateway.serving import serve
from penstock.inference.prediction_log.counting import Arms
from penstock.inference.prediction_log.segments import read
from tests.unit.gateway_rig import Rig, a_rig

PROGRAM = """
import sys, tempfile
from pathlib import Path
from penstock.inference.gateway.serving import serve
from penstock.inference.gateway.settings import GatewaySettings
from tests.unit.gateway_rig import Rig, version

folder, sockets, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
rig = Rig(folder, GatewaySettings(sockets=sockets))
rig.deployments = [version(1)]
serve(rig.gateway(), "127.0.0.1", port)
rig.client.close()
(folder / "ended").touch()
"""


class Process:
    """A gateway that a test can end."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder = folder
        self.sockets = sockets
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        argv = [sys.executable, "-c", PROGRAM, str(self.folder), str(self.sockets)]
        root = Path(__file__).parents[2]
        self.popen = subprocess.Popen([*argv, str(self.port)], cwd=root)

    def is_ready(self) -> bool:
        try:
            return httpx.get(self.url + "/v2/models/m/ready").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, seconds: float = 0) -> int:
        """Ask for a sleep; a file `asked` tells that it has begun."""
        asked = {"do": "sleep", "seconds": seconds, "marker": str(self.folder / "asked")}
        return httpx.post(self.url + "/v2/models/m/infer", json=asked).status_code


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    with a_rig(tmp_path) as rig:
        assert rig.settings.sockets is not None
        started = Process(tmp_path, rig.settings.sockets)
        Rig.until(started.is_ready)
        yield started
        started.popen.kill()
        started.popen.wait()


def test_a_gateway_told_to_end_answers_what_is_in_flight_and_returns(process: Process) -> None:
    statuses: list[int] = []
    workers = httpx.get(process.url + "/penstock/workers").json()
    caller = threading.Thread(target=lambda: statuses.append(process.ask(1.0)))
    caller.start()
    Rig.until((process.folder / "asked").exists)

    process.popen.send_signal(signal.SIGTERM)
    process.popen.wait(20)
    caller.join()

    assert statuses == [200]
    assert workers[0]["state"] == "ready"
    assert (process.folder / "ended").exists()
    assert process.popen.returncode == 0
    assert len(list(read(process.folder / "log/production/m"))) == 1


def test_what_was_answered_before_a_kill_is_in_the_log(process: Process) -> None:
    answered = [process.ask() for _ in range(20)]
    os.kill(process.popen.pid, signal.SIGKILL)
    process.popen.wait()
    folder = process.folder / "log/production/m"
    before = list(read(folder))
    mark_us = Arms(folder).watermark() or 0

    process.start()
    Rig.until(process.is_ready)
    process.ask()

    assert answered == [200] * 20
    assert len(before) == 20
    assert len(list(read(folder))) == 21
    assert len(list(folder.iterdir())) == 2
    Rig.until(lambda: (Arms(folder).watermark() or 0) > mark_us)


def test_a_port_in_use_is_said(process: Process) -> None:
    with a_rig(process.folder) as rig, pytest.raises(UnreachableError) as raised:
        serve(rig.gateway(), "127.0.0.1", process.port)

    assert raised.value.code == "PS518"
    assert str(process.port) in raised.value.what
