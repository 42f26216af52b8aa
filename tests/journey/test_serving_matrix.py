"""Kill or stop anything, at each moment of a rollout, under load: no caller notices.

One server lives through all of it. A round takes a version from its start through a step, its
promotion and a rollback to its end; right after each change one process is killed or stopped.
The rollouts are made by the test, so that each moment is met exactly; the engine and control are
the real ones. What a killed gateway has in its hands is lost, and only that.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock.domain import Environment, Role
from penstock.inference.prediction_log import segments
from penstock.records import rollouts
from penstock.records.rollouts import Place
from penstock.wiring import clock
from tests.journey.server import Project, Server, Traffic, toy_row

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]

CALLERS = 4
PAUSE_S = 0.005
STOPPED_S = 0.4
"""So long the gateway, the engine and control are stopped; far less than a deadline."""
Harm = Callable[[Server], None]


def moments() -> dict[str, list[Place]]:
    """The life of version 2 beside version 1, as splits."""
    lease = clock() + timedelta(hours=1)
    challenger = Place(2, Role.CHALLENGER, 0, lease_until=lease)
    return {
        "start": [Place(1, Role.CHAMPION, 100), challenger],
        "step": [
            Place(1, Role.CHAMPION, 50),
            Place(2, Role.CHALLENGER, 50, lease_until=lease),
        ],
        "promote": [Place(2, Role.CHAMPION, 100), Place(1, Role.PREVIOUS, 0)],
        "rollback": [Place(1, Role.CHAMPION, 100), Place(2, Role.PREVIOUS, 0)],
        "drain": [Place(1, Role.CHAMPION, 100)],
    }


def split(server: Server, places: list[Place]) -> None:
    with server.records.change("test") as change:
        rollouts.split(change, "toy", Environment.PRODUCTION, places, reason="the matrix")


def workers(server: Server) -> dict[int, dict[str, Any]]:
    try:
        told = server.request("GET", "/penstock/workers", predict=True)[1]
    except OSError:  # the gateway was killed with this question in its hands
        return {}
    return {one["number"]: one for one in told if one["environment"] == "production"}


def settled(server: Server, places: list[Place]) -> bool:
    found = workers(server)
    wanted = {place.number: (place.role, place.share) for place in places}
    return {n: (one["role"], one["share_now"]) for n, one in found.items()} == wanted and all(
        one["state"] == "ready" for one in found.values()
    )


# ---- what is done to it ----------------------------------------------------------------------


def worker_pids(server: Server, number: int) -> list[int]:
    """Return the processes that have a version loaded; one that starts is waited for."""
    (row,) = server.rows(f"SELECT artifact_digest FROM version WHERE number = {number}")
    ends = time.monotonic() + 1
    found: list[int] = []
    while not found and time.monotonic() < ends:
        for child in psutil.Process(part_pid(server, "gateway")).children(recursive=True):
            with suppress(psutil.Error):
                line = " ".join(child.cmdline())
                if "worker.py" in line and row.artifact_digest in line and not child.children():
                    found.append(child.pid)
    return found


def part_pid(server: Server, part: str) -> int:
    return int((server.home / "run" / f"{part}.pid").read_text())


def signalled(pids: list[int], number: signal.Signals) -> None:
    """Signal processes of this test's own server."""
    for pid in pids:
        assert pid > 1
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_worker(number: int) -> Harm:
    return lambda server: signalled(worker_pids(server, number), signal.SIGKILL)


def stop_worker(number: int) -> Harm:
    return lambda server: signalled(worker_pids(server, number), signal.SIGSTOP)


def kill_part(part: str) -> Harm:
    return lambda server: signalled([part_pid(server, part)], signal.SIGKILL)


def stop_part(part: str) -> Harm:
    def harm(server: Server) -> None:
        pids = [part_pid(server, part)]
        signalled(pids, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        signalled(pids, signal.SIGCONT)

    return harm


HARMS: dict[str, Harm] = {
    "nothing": lambda _: None,
    "kill the worker of 1": kill_worker(1),
    "kill the worker of 2": kill_worker(2),
    "stop the worker of 1": stop_worker(1),
    "stop the worker of 2": stop_worker(2),
    "kill the gateway": kill_part("gateway"),
    "stop the gateway": stop_part("gateway"),
    "kill the engine": kill_part("engine"),
    "stop the engine": stop_part("engine"),
    "kill control": kill_part("control"),
    "stop control": stop_part("control"),
}


# ---- and what must hold ----------------------------------------------------------------------


def logged(server: Server) -> Counter[str]:
    """Count the answers in the log by prediction id; segments are kept for an hour."""
    folder = server.home / "log" / "production" / "toy"
    return Counter(entry.id for entry in segments.read(folder) if entry.status == 200)


@contextmanager
def two_versions(folder: Path) -> Iterator[Server]:
    """A server with two versions of a model, the first in production."""
    with Server() as server:
        project = Project.toy(folder / "project")
        project.change("penstock.toml", "[canary]", "[serving]\ndeadline_ms = 6000\n[canary]")
        project.change("train.py", "1.0", "1.02")
        project.commit("a deadline")
        project.push(server)
        assert server.ended(1, seconds=240).state == "succeeded"
        project.change("train.py", "1.02", "1.05")
        project.commit("second")
        project.push(server, branch="try")
        assert server.ended(2, seconds=240).state == "succeeded"
        yield server


def test_whatever_dies_or_stops_at_whatever_moment_no_caller_notices(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    noticed: list[str] = []
    with two_versions(tmp_path) as server:
        began_s = time.monotonic()
        with Traffic(server, toy_row, callers=CALLERS, pause_s=PAUSE_S) as traffic:
            for harm_name, harm in HARMS.items():
                for moment, places in moments().items():
                    refused, bad = traffic.refused, not_answered(traffic)
                    split(server, places)
                    harm(server)
                    what = f"{harm_name} at {moment}"
                    server.until(lambda places=places: settled(server, places), what, 30)
                    seen = traffic.statuses[200]
                    server.until(lambda seen=seen: traffic.statuses[200] > seen + 20, what, 30)
                    may_lose = CALLERS if harm_name == "kill the gateway" else 0
                    if traffic.refused - refused > may_lose:
                        noticed.append(f"{what}: {traffic.refused - refused} connections lost")
                    if not_answered(traffic) > bad:
                        noticed.append(f"{what}: {not_answered(traffic) - bad} not answered")
        took_s = time.monotonic() - began_s
        server.stop()
        rows = logged(server)
        journal = server.journal()

    answered = [name for name, _ in traffic.answers]
    record_property("requests_per_s", len(answered) / took_s)
    record_property("took_s", took_s)
    assert noticed == [], noticed
    assert {name: rows[name] for name in answered if rows[name] != 1} == {}
    assert journal.count("traffic.split") >= len(HARMS) * len(moments())


def not_answered(traffic: Traffic) -> int:
    return sum(n for status, n in traffic.statuses.items() if status != 200)
