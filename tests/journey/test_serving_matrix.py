"""Kill, stop, hang or grow anything, at each moment of a rollout, under load: no caller notices.

One server lives through all of it. A life takes a version from its start through a step, its
promotion and a rollback to its end; right after each change one process is harmed. The rollouts
are made by the test, so that each moment is met exactly; the engine and control are real ones.
Callers come at 500 requests a second. One whose connection breaks sends its request once more,
which only the death of a gateway makes necessary.

By default some lives are lived, in which each harm is done at some moments;
``PENSTOCK_FULL_MATRIX=1`` does each at each. The table of what callers saw goes to the file that
``PENSTOCK_MATRIX_TABLE`` names.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from penstock import supervisor
from penstock.domain import Environment, Role
from penstock.inference.prediction_log import segments
from penstock.records import rollouts
from penstock.records.rollouts import Place
from penstock.wiring import clock
from tests.journey.open_loop import OpenLoop, Outcome
from tests.journey.server import TOY_ADAPTER, Project, Server, toy_row

FULL = os.environ.get("PENSTOCK_FULL_MATRIX") == "1"
pytestmark = [pytest.mark.journey, pytest.mark.timeout(900)]

REQUESTS_PER_S = 500
DEADLINE_S = 4.0
LIVES = 6
"""Without `FULL`."""
BOUND_MB = 192
SEEN_S = 2.0
"""By then a worker that hangs is found out."""
MOMENTS = ("start", "step", "promote", "rollback", "drain")
WORKERS = ("the old worker", "the new worker")
HANGS, GROWS = 777.0, 778.0
"""Rows that make the model do so."""
ADAPTER = "import time\n" + TOY_ADAPTER.replace(
    "def predict(model, frame):\n",
    "KEPT = []\n\n\n"
    "def predict(model, frame):\n"
    f"    if {HANGS} in list(frame['x']):\n"
    "        time.sleep(60)\n"
    f"    if {GROWS} in list(frame['x']):\n"
    "        KEPT.append(bytes(bytearray(b'x') * 20_000_000))\n",
)


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
    left = {m: names[3 * at :] + names[: 3 * at] for at, m in enumerate(MOMENTS)}
    done: Counter[str] = Counter()
    while any(left.values()):
        harmed: set[str] = set()
        life: list[str] = []
        for moment in MOMENTS:
            fit = [one for one in left[moment] if not _harmed(one) & harmed]
            chosen = min(fit, key=lambda one: done[one]) if fit else NOTHING
            if fit:
                left[moment].remove(chosen)
                done[chosen] += 1
                harmed |= _harmed(chosen)
            life.append(chosen)
        yield life


def _harmed(harm: str) -> set[str]:
    """Return the workers that may die of something; with their host, all do."""
    return {one for one in WORKERS if harm.endswith((one, "the host"))}


def split(server: Server, places: list[Place]) -> None:
    with server.records.change("test") as change:
        rollouts.split(change, "toy", Environment.PRODUCTION, places, reason="the matrix")


def workers(server: Server) -> dict[int, dict[str, Any]]:
    try:
        told = server.request("GET", "/penstock/workers", predict=True)[1]
    except (OSError, http.client.HTTPException):  # the gateway was killed meanwhile
        return {}
    return {one["number"]: one for one in told if one["environment"] == "production"}


def settled(server: Server, places: list[Place]) -> bool:
    found = workers(server)
    wanted = {place.number: (place.role, place.share) for place in places}
    return {n: (one["role"], one["share_now"]) for n, one in found.items()} == wanted and all(
        one["state"] == "ready" for one in found.values()
    )


class Scene(NamedTuple):
    """What a harm is done to."""

    server: Server
    versions: tuple[int, int]
    """The old one and the new one."""
    pids: dict[int, int]
    """Their processes, as far as there were any before the moment."""

    def pid(self, place: int) -> int:
        """Return the process of the old version (0) or of the new one (1), once it has one."""
        number = self.versions[place]
        if number in self.pids:
            return self.pids[number]

        def found() -> int | None:
            return workers(self.server).get(number, {}).get("pid")

        return self.server.until(found, "a worker", 20)


Harm = Callable[[Scene], None]


# ---- what is done to it ----------------------------------------------------------------------


def signalled(pid: int, number: signal.Signals) -> None:
    """Signal a process of this test's own server."""
    assert pid > 1
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def to_worker(place: int, number: signal.Signals) -> Harm:
    return lambda scene: signalled(scene.pid(place), number)


def to_host(number: signal.Signals) -> Harm:
    def harm(scene: Scene) -> None:
        with suppress(psutil.NoSuchProcess):
            host = psutil.Process(scene.pid(0)).parent()
            assert host is not None
            assert "--host" in host.cmdline()
            signalled(host.pid, number)

    return harm


def to_part(part: str, number: signal.Signals) -> Harm:
    return lambda scene: signalled(
        int((scene.server.home / "run" / f"{part}.pid").read_text()), number
    )


def asked(place: int, value: float, times: int = 1) -> Harm:
    """Ask a version for what makes it hang or grow, and wait for the answer, but not for long."""

    def harm(scene: Scene) -> None:
        scene.pid(place)
        number = scene.versions[place]
        path = f"/v2/models/toy/versions/{number}/infer"
        row = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [value]}]}

        def ask() -> None:
            for _ in range(times):
                with suppress(OSError, http.client.HTTPException):
                    scene.server.request("POST", path, row, predict=True)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(SEEN_S)

    return harm


NOTHING = "do nothing"


def reload(scene: Scene) -> None:
    supervisor.reload(scene.server.home)


HARMS: dict[str, Harm] = {
    "kill the old worker": to_worker(0, signal.SIGKILL),
    "kill the gateway": to_part("gateway", signal.SIGKILL),
    "hang the new worker": asked(1, HANGS),
    "stop the host": to_host(signal.SIGSTOP),
    "stop the old worker": to_worker(0, signal.SIGSTOP),
    "stop the engine": to_part("engine", signal.SIGSTOP),
    "grow the new worker": asked(1, GROWS, 9),
    "kill control": to_part("control", signal.SIGKILL),
    "hang the old worker": asked(0, HANGS),
    "stop the gateway": to_part("gateway", signal.SIGSTOP),
    "kill the new worker": to_worker(1, signal.SIGKILL),
    "kill the host": to_host(signal.SIGKILL),
    "grow the old worker": asked(0, GROWS, 9),
    "stop control": to_part("control", signal.SIGSTOP),
    "stop the new worker": to_worker(1, signal.SIGSTOP),
    "kill the engine": to_part("engine", signal.SIGKILL),
}


# ---- and what must hold ----------------------------------------------------------------------


def logged(server: Server) -> Counter[str]:
    """Count the answers in the log by prediction id; segments are kept for an hour."""
    folder = server.home / "log" / "production" / "toy"
    return Counter(entry.id for entry in segments.read(folder) if entry.status == 200)


@contextmanager
def two_versions(folder: Path) -> Generator[Server]:
    """A server with two versions of a model, the first in production."""
    server = Server()
    (server.home / "server.toml").write_text(f"[limits]\nworker_memory_mb = {BOUND_MB}\n")
    with server:
        project = Project.toy(folder / "project")
        deadline = f"[serving]\ndeadline_ms = {DEADLINE_S * 1000:.0f}\n[canary]"
        project.change("penstock.toml", "[canary]", deadline)
        project.write({"adapter.py": ADAPTER})
        project.change("train.py", "1.0", "1.02")
        project.commit("a deadline")
        project.push(server)
        assert server.ended(1, seconds=240).state == "succeeded"
        project.change("train.py", "1.02", "1.05")
        project.commit("second")
        project.push(server, branch="try")
        assert server.ended(2, seconds=240).state == "succeeded"
        yield server


def http_requests(port: int) -> list[bytes]:
    draw = random.Random(1)
    made: list[bytes] = []
    for _ in range(64):
        body = json.dumps(toy_row(draw)).encode()
        head = f"POST /v2/models/toy/infer HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        made.append(head.encode() + body)
    return made


class Seen(NamedTuple):
    """What callers saw from one harm to the next."""

    what: str
    outcomes: list[Outcome]
    broken: int

    def __str__(self) -> str:
        failed = sum(one.status != 200 for one in self.outcomes)
        longest_s = max((one.took_s for one in self.outcomes), default=0.0)
        counted = f"{len(self.outcomes):5} requests {failed:3} failed {self.broken:4} sent again"
        return f"{self.what:34} {counted}, longest {longest_s:5.2f} s"


def went_through(
    server: Server, load: OpenLoop, what: str, versions: tuple[int, int], harm: Harm
) -> None:
    """Change the split, do harm at once, and wait until all is well again."""
    moment = what.rpartition(" ")[2]
    places = places_at(moment, *versions)
    pids = {n: one["pid"] for n, one in workers(server).items() if one["pid"]}
    split(server, places)
    harm(Scene(server, versions, pids))
    server.until(lambda: settled(server, places), what, 40)
    ends_s = time.monotonic()
    server.until(
        lambda: any(one.status == 200 and one.due_s > ends_s for one in load.outcomes[-50:]),
        what,
        40,
    )


def test_whatever_is_killed_stopped_hangs_or_grows_no_caller_notices(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    table: list[Seen] = []
    with two_versions(tmp_path) as server:
        began_s, versions = time.monotonic(), (1, 2)
        port = server.predict_port
        with OpenLoop(port, http_requests(port), REQUESTS_PER_S) as load:

            def through(what: str, versions: tuple[int, int], harm: Harm) -> None:
                outcomes, broken = len(load.outcomes), load.broken
                went_through(server, load, what, versions, harm)
                table.append(Seen(what, load.outcomes[outcomes:], load.broken - broken))

            for life in lives() if FULL else islice(lives(), LIVES):
                for moment, harm in zip(MOMENTS, life, strict=True):
                    through(f"{harm} at {moment}", versions, HARMS.get(harm, lambda _: None))
                versions = versions[1], versions[0]
            through("do nothing at step", versions, lambda _: None)
            through("reload at promote", versions, reload)
        took_s = time.monotonic() - began_s
        server.stop()
        rows = logged(server)
        journal = server.journal()

    told = "\n".join(map(str, table))
    if "PENSTOCK_MATRIX_TABLE" in os.environ:
        rate, cpu = len(load.outcomes) / took_s, load.cpu_s / took_s
        told += f"\n{rate:.0f} requests/s, of a core for the client {cpu:.0%}\n"
        Path(os.environ["PENSTOCK_MATRIX_TABLE"]).write_text(told)
    record_property("requests_per_s", len(load.outcomes) / took_s)
    failed = Counter((one.status, one.text) for one in load.outcomes if one.status != 200)
    assert not failed, f"{failed.most_common(5)}\n{told}"
    answered = {one.id for one in load.outcomes}
    assert {name: rows[name] for name in answered if rows[name] != 1} == {}
    assert journal.count("traffic.split") >= len(table)
