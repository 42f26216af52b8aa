"""Starting a program, asking it over HTTP, and ending it with all that it started."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.serving import load

END_S = 8.0


@contextmanager
def program(
    argv: Sequence[str], environ: Mapping[str, str], folder: Path, log: Path
) -> Generator[subprocess.Popen[bytes]]:
    """Run a program in a folder until the end of the block."""
    with log.open("ab") as said:
        process = subprocess.Popen(
            argv, stdout=said, stderr=said, env=environ, cwd=folder, process_group=0
        )
    try:
        yield process
    finally:
        family = load.tree(process.pid)
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        for each in psutil.wait_procs(family, timeout=END_S)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that nobody listens on."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in held]
    for each in held:
        each.close()
    return ports


def post(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    """Post JSON; return the status and the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
