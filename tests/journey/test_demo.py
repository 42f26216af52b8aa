"""The demo is a promise too: it ends by itself, and every expectation in it held."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.journey.server import PENSTOCK

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]

ENVIRON = {**os.environ, "PYTHONIOENCODING": "utf-8"}


def test_the_demo_plays_all_acts_and_every_expectation_holds() -> None:
    done = subprocess.run(
        [*PENSTOCK, "demo", "--once", "--port", "0"],
        env=ENVIRON,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=580,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Every expectation held." in done.stdout
    for sentence in (
        r"digits@1 serves",
        r"digits@\d passed its canary and took over",
        r"digits@\d was stopped at the quality gate",
        r"digits@\d was rolled back by its canary",
        r"0 of [\d,]{5,} requests failed",
        r"before, the monitor finds nothing to tell",
        r"digits is said to drift",
        r"diabetes-progression@1 waits for approval, with its dossier",
    ):
        assert re.search(f"✓ {sentence}", done.stdout), sentence
    assert "✗" not in done.stdout
    assert "remote: ok digits@1 succeeded" in done.stdout
    assert not home_of(done.stdout).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_demo_ends_its_server_too(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*PENSTOCK, "demo", "--port", "0"],
        env=ENVIRON,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    told = ""
    with process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                told += line
                if "Expected:" in line:
                    break
        finally:
            process.send_signal(number)
            told += process.stdout.read()

    if number is signal.SIGTERM:
        assert process.returncode == 130, told
        assert "Stopped before the end." in told
        assert not home_of(told).exists()
    ports = [int(port) for port in re.findall(r"http://127\.0\.0\.1:(\d+)", told)]
    assert len(ports) >= 2, told
    ends = time.monotonic() + 30
    while any(map(answers, ports)):
        assert time.monotonic() < ends, "the server outlives the demo"
        time.sleep(0.1)
    shutil.rmtree(home_of(told), ignore_errors=True)


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def home_of(told: str) -> Path:
    found = re.search(r"a server in (\S+)/home,", told)
    assert found is not None, told
    return Path(found[1])
