"""A gateway on a free port of the loopback, with real workers, for tests."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from penstock.domain import Deployment, Environment, Role
from penstock.inference import asking
from penstock.inference.gateway.application import Gateway
from penstock.inference.gateway.placed import First, Placed
from penstock.inference.gateway.serving import Server, server_of
from penstock.inference.gateway.settings import GatewaySettings
from penstock.inference.prediction_log.segments import Entry, read
from penstock.pipeline.hosting import link_tree

PROGRAM = Path(__file__).with_name("gateway_worker.py")
SIGNATURE = {
    "columns": [{"name": "age", "datatype": "FP64", "optional": False}],
    "task": "classification",
    "classes": [0, 1],
    "positive": 1,
}


def version(
    number: int, role: Role = Role.CHAMPION, share: int = 100, **changes: Any
) -> Deployment:
    facts: dict[str, Any] = {
        "model": "m",
        "environment": Environment.PRODUCTION,
        "number": number,
        "role": role,
        "artifact_digest": f"digest{number}",
        "lock_digest": "lock",
        "signature": SIGNATURE,
        "share": share,
        "generation": 1,
        "lease_until": None,
        "rollout_id": None,
    }
    return Deployment(**{**facts, **changes})


def canary(share: int, *, lease_until: datetime | None = None) -> list[Deployment]:
    """Version 1 is the champion, version 2 the challenger."""
    lease = lease_until or datetime.now(UTC) + timedelta(hours=1)  # noqa: TID251  a test's clock
    return [
        version(1, share=100 - share),
        version(2, Role.CHALLENGER, share, lease_until=lease),
    ]


class Rig:
    """What a test can turn, and ask."""

    def __init__(self, folder: Path, settings: GatewaySettings) -> None:
        self.folder = folder
        self.settings = settings
        self.deployments: list[Deployment] = []
        self.routes_error: Exception | None = None
        self.start_error: Exception | None = None
        self.ahead = timedelta(0)
        """How far the gateway's clock is before the true time."""
        self.loads: dict[int, dict[str, Any]] = {}
        """What happens when a version is loaded; see gateway_worker.load."""
        self.first: list[First] = []
        """What each version is asked before it is ready, instead of a typical row."""
        self.placed: list[int] = []
        """Each load of a version."""
        self.processes: list[subprocess.Popen[bytes]] = []
        """The hosts."""
        self.url = ""
        self.server: Server
        self.is_alive: Callable[[], bool] = lambda: False
        self.client = httpx.Client()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead  # noqa: TID251  a test's clock

    def routes(self) -> list[Deployment]:
        if self.routes_error is not None:
            raise self.routes_error
        return list(self.deployments)

    def host(self, lock_digest: str, socket: Path, pool: Path) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-I", "-S", str(PROGRAM), str(socket)]
        process = subprocess.Popen(argv, start_new_session=True, stderr=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def place(self, deployment: Deployment, pool: Path) -> Placed:
        if self.start_error is not None:
            raise self.start_error
        self.placed.append(deployment.number)
        folder = pool / f"{deployment.model}@{deployment.number}"
        folder.mkdir(exist_ok=True)
        (folder / "load.json").write_text(json.dumps(self.loads.get(deployment.number, {})))
        return Placed(folder, str(deployment.serving.get("path") or "own"), self.first)

    def gateway(self) -> Gateway:
        return Gateway(
            self.settings,
            self.routes,
            self,
            self.folder / "log",
            self.folder / "run" / "routes.json",
            self.now,
        )

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(self.url + path, headers=headers, timeout=20)

    def post(self, path: str, **asked: Any) -> httpx.Response:
        return self.client.post(self.url + path, json=asked, timeout=20)

    def ask(self, **asked: Any) -> httpx.Response:
        return self.post("/v2/models/m/infer", **asked)

    def ask_many(self, each: list[dict[str, Any]]) -> list[httpx.Response]:
        """Ask all at once, each from a caller of its own."""
        with ThreadPoolExecutor(max_workers=max(len(each), 1)) as pool:
            return [asked.result() for asked in [pool.submit(self.ask, **one) for one in each]]

    @contextmanager
    def busy(
        self, path: str = "/v2/models/m/infer", **asked: Any
    ) -> Generator[Future[httpx.Response]]:
        """Have a request in a worker's hands from the first line of the block to its last."""
        begun, until = (self.folder / f"{word} {uuid4()}" for word in ("begun", "until"))
        body = {"do": "hold", "marker": str(begun), "until": str(until), **asked}
        with ThreadPoolExecutor(max_workers=1) as pool:
            answer = pool.submit(self.client.post, self.url + path, json=body, timeout=60)
            try:
                self.until(begun.exists)
                yield answer
            finally:
                until.touch()

    def requests_held(self) -> int:
        """Count the requests that are in the gateway now."""
        gateway: Any = self.server.config.app
        return gateway._predictions.room.requests

    def workers(self) -> dict[int, dict[str, Any]]:
        """Map each version's number to what the gateway says about its worker."""
        return {worker["number"]: worker for worker in self.get("/penstock/workers").json()}

    def pid(self, number: int) -> int:
        """Return the live worker process of a version."""
        pid = self.workers()[number]["pid"]
        assert pid is not None
        return int(pid)

    def states(self) -> dict[int, str]:
        return {number: worker["state"] for number, worker in self.workers().items()}

    def serve_these(self, deployments: list[Deployment]) -> None:
        """Change the routes and wait until each version is ready."""
        self.deployments = deployments
        wanted = {deployment.number: "ready" for deployment in deployments}
        self.until(lambda: self.states() == wanted)

    def log(self, environment: str = "production") -> list[Entry]:
        return list(read(self.folder / "log" / environment / "m"))

    @staticmethod
    def until(holds: Callable[[], bool], *, timeout_s: float = 20) -> None:
        end_s = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < end_s, "waited in vain"
            time.sleep(0.01)


class RealHosts(Rig):
    """A rig whose versions are real ones, in real hosts that have the standard library."""

    switches = ("-I", "-S")

    def host(self, lock_digest: str, socket: Path, pool: Path) -> subprocess.Popen[bytes]:
        argv = [sys.executable, *self.switches, str(asking.PROGRAM), "--host", str(socket)]
        process = subprocess.Popen(argv, start_new_session=True, stderr=subprocess.PIPE)
        self.processes.append(process)
        return process

    def place(self, deployment: Deployment, pool: Path) -> Placed:
        unpacked = self.unpacked(deployment)
        shown = pool / f"{deployment.model}@{deployment.number}"
        if not shown.exists():
            link_tree(unpacked, shown)
        self.placed.append(deployment.number)
        return Placed(shown, str(deployment.serving.get("path") or "own"))

    def unpacked(self, deployment: Deployment) -> Path:
        """Return a version's folder, made now if it is not there."""
        folder = self.folder / f"version {deployment.number}"
        if not folder.exists():
            self.pack(deployment, folder)
        return folder

    def pack(self, deployment: Deployment, folder: Path) -> None:
        """Write the version."""
        raise NotImplementedError


@contextmanager
def running(rig: Rig, socket_: socket.socket | None = None) -> Generator[Rig]:
    """Serve a rig's gateway in a thread until the end of the block, or until it leaves."""
    listening = socket_ or socket.create_server(("127.0.0.1", 0))
    rig.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    rig.server = server_of(rig.gateway())
    thread = threading.Thread(target=rig.server.run, kwargs={"sockets": [listening]})
    rig.is_alive = thread.is_alive
    thread.start()
    try:
        rig.until(lambda: rig.server.started)
        yield rig
    finally:
        rig.client.close()
        rig.client = httpx.Client()
        rig.server.should_exit = True
        thread.join()
        listening.close()
    assert all(process.poll() is not None for process in rig.processes)


@contextmanager
def a_rig(folder: Path, **settings: Any) -> Generator[Rig]:
    """Make a rig with sockets in a folder whose path is short."""
    sockets = Path(tempfile.mkdtemp(prefix="rig"))
    chosen: dict[str, Any] = {"seed": 1, "sockets": sockets, **settings}
    rig = Rig(folder, GatewaySettings(**chosen))
    try:
        yield rig
    finally:
        rig.client.close()
        shutil.rmtree(sockets)
