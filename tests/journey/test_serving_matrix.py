"""Kill or stop anything, at each moment of a rollout, under load: no caller notices.

One server lives through all of it. A round takes a version from its start through a step, its
promotion and a rollback to its end; right after each change one process is killed or stopped.
The rollouts are made by the test, so that each moment is met exactly; the engine and control are
the real ones. What a killed gateway has in its hands is lost, and only that.
A worker that is stopped and not killed is found out by the deadline of what it has in its hands:
that costs what it holds, and stands in the unit tests.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock import supervisor
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
MOMENTS = ("start", "step", "promote", "rollback", "drain")
WORKERS = ("the old worker", "the new worker")


def places_at(moment: str, old: int, new: int) -> list[Place]:
    """One moment in the life of a new version beside an old one, as a split."""
    lease = clock() + timedelta(hours=1)
    return {
        "start": [
            Place(old, Role.CHAMPION, 100),
            Place(new, Role.CHALLENGER, 0, lease_until=lease),
        ],
        "step": [
            Place(old, Role.CHAMPION, 50),
            Place(new, Role.CHALLENGER, 50, lease_until=lease),
        ],
        "promote": [Place(new, Role.CHAMPION, 100), Place(old, Role.PREVIOUS, 0)],
        "rollback": [Place(old, Role.CHAMPION, 100), Place(new, Role.PREVIOUS, 0)],
        "drain": [Place(new, Role.CHAMPION, 100)],
    }[moment]


def lives() -> Iterator[list[str]]:
    """Return what is done at each moment, life by life, until each was done at each moment.

    In one life each worker is harmed once at most: a version whose workers die again and again
    within seconds is refused for a while, rightly.
    """
    names = list(HARMS)
    left = {m: names[2 * at :] + names[: 2 * at] for at, m in enumerate(MOMENTS)}
    while any(left.values()):
        harmed: set[str] = set()
        life: list[str] = []
        for moment in MOMENTS:
            fit = [one for one in left[moment] if _worker(one) not in harmed]
            chosen = fit[0] if fit else NOTHING
            if fit:
                left[moment].remove(chosen)
                harmed |= {_worker(chosen)} & {*WORKERS}
            life.append(chosen)
        yield life


def _worker(harm: str) -> str:
    return next((one for one in WORKERS if harm.endswith(one)), "none")


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


Harm = Callable[[Server, tuple[int, int]], None]
"""Done to a server whose old and new version have these numbers."""


# ---- what is done to it ----------------------------------------------------------------------


def worker_pids(server: Server, number: int) -> list[int]:
    """Return the process that has a version loaded, once it is ready; none that never is."""
    ends = time.monotonic() + 3
    while time.monotonic() < ends:
        found = workers(server).get(number)
        if found is not None and found["state"] == "ready":
            with suppress(psutil.NoSuchProcess):
                below = psutil.Process(found["pid"]).children(recursive=True)
                return [found["pid"], *(child.pid for child in below)]
        time.sleep(0.02)
    return []


def part_pid(server: Server, part: str) -> int:
    return int((server.home / "run" / f"{part}.pid").read_text())


def signalled(pids: list[int], number: signal.Signals) -> None:
    """Signal processes of this test's own server."""
    for pid in pids:
        assert pid > 1
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def to_worker(place: int, number: signal.Signals) -> Harm:
    """Signal the worker of the old version, or of the new one."""
    return lambda server, versions: signalled(worker_pids(server, versions[place]), number)


def kill_part(part: str) -> Harm:
    return lambda server, _: signalled([part_pid(server, part)], signal.SIGKILL)


def stop_part(part: str) -> Harm:
    def harm(server: Server, _: tuple[int, int]) -> None:
        pids = [part_pid(server, part)]
        signalled(pids, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        signalled(pids, signal.SIGCONT)

    return harm


NOTHING = "do nothing"


def reload(server: Server, _: tuple[int, int]) -> None:
    supervisor.reload(server.home)


HARMS: dict[str, Harm] = {
    NOTHING: lambda _, __: None,
    "kill the old worker": to_worker(0, signal.SIGKILL),
    "kill the new worker": to_worker(1, signal.SIGKILL),
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
def two_versions(folder: Path) -> Generator[Server]:
    """A server with two versions of a model, the first in production."""
    with Server() as server:
        project = Project.toy(folder / "project")
        project.change("penstock.toml", "[canary]", "[serving]\ndeadline_ms = 4000\n[canary]")
        project.change("train.py", "1.0", "1.02")
        project.commit("a deadline")
        project.push(server)
        assert server.ended(1, seconds=240).state == "succeeded"
        project.change("train.py", "1.02", "1.05")
        project.commit("second")
        project.push(server, branch="try")
        assert server.ended(2, seconds=240).state == "succeeded"
        yield server


class Watched:
    """Callers, and what they noticed."""

    def __init__(self, server: Server, traffic: Traffic) -> None:
        self.server = server
        self.traffic = traffic
        self.noticed: list[str] = []

    def during(self, what: str, moment: str, versions: tuple[int, int], harm: Harm) -> None:
        """Change the split, do harm at once, and wait until all is well again."""
        places = places_at(moment, *versions)
        refused, bad = self.traffic.refused, not_answered(self.traffic)
        split(self.server, places)
        harm(self.server, versions)
        self.server.until(lambda: settled(self.server, places), what, 30)
        seen = self.traffic.statuses[200]
        self.server.until(lambda: self.traffic.statuses[200] > seen + 20, what, 30)
        lost, late = self.traffic.refused - refused, not_answered(self.traffic) - bad
        if lost > (CALLERS if "kill the gateway" in what else 0):
            self.noticed.append(f"{what}: {lost} connections lost")
        if late > 0:
            self.noticed.append(f"{what}: {late} not answered, {self.traffic.errors}")


def test_whatever_dies_or_stops_at_whatever_moment_no_caller_notices(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with two_versions(tmp_path) as server:
        began_s, versions = time.monotonic(), (1, 2)
        with Traffic(server, toy_row, callers=CALLERS, pause_s=PAUSE_S) as traffic:
            watched = Watched(server, traffic)
            for life in lives():
                for moment, harm in zip(MOMENTS, life, strict=True):
                    watched.during(f"{harm} at {moment}", moment, versions, HARMS[harm])
                versions = versions[1], versions[0]
            watched.during("do nothing at step", "step", versions, HARMS[NOTHING])
            watched.during("reload at promote", "promote", versions, reload)
        took_s = time.monotonic() - began_s
        server.stop()
        rows = logged(server)
        journal = server.journal()

    answered = [name for name, _ in traffic.answers]
    record_property("requests_per_s", len(answered) / took_s)
    record_property("took_s", took_s)
    assert watched.noticed == [], watched.noticed
    assert {name: rows[name] for name in answered if rows[name] != 1} == {}
    assert journal.count("traffic.split") >= len(HARMS) * len(MOMENTS)


def not_answered(traffic: Traffic) -> int:
    return sum(n for status, n in traffic.statuses.items() if status != 200)
