"""A real server in a throw-away home, a real project, real git: what journeys are made of."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from penstock.config import ServerSettings, server_settings
from penstock.domain import Deployment, Environment, Rollout, Run
from penstock.records import journal, rollouts, runs
from penstock.records.database import Database
from penstock.wiring import clock, database_url

PENSTOCK = (sys.executable, "-c", "from penstock.cli import main; main()")
CACHE = Path.home() / ".cache" / "penstock-tests"

TOY_CONFIG = """\
[model]
name = "toy"
risk = "low"
[build]
model = "model/"
predict = "adapter.py"
timeout_s = 20
[evaluate]
data = "holdout.csv"
label = "y"
positive = 1
[speed]
p95_ms = 2000
[canary]
steps = [25, 50]
batch_s = 1
"""
TOY_TRAIN = """\
import json
import pathlib

rows = pathlib.Path("train.csv").read_text().splitlines()
pathlib.Path("model").mkdir(exist_ok=True)
pathlib.Path("model/weight.json").write_text(json.dumps({"weight": 1.0}))
print("trained")
"""
TOY_ADAPTER = """\
import json
import math
import pathlib


def load(folder):
    return json.loads((pathlib.Path(folder) / "weight.json").read_text())


def predict(model, frame):
    return [1 / (1 + math.exp(-model["weight"] * x)) for x in frame["x"]]
"""


def toy_holdout(rows: int = 600, seed: int = 7) -> str:
    """Rows whose label follows the toy model's own law."""
    draw = random.Random(seed)
    lines = ["x,y"]
    for _ in range(rows):
        x = round(draw.gauss(0, 2), 4)
        lines.append(f"{x},{int(draw.random() < 1 / (1 + 2.718281828**-x))}")
    return "\n".join(lines) + "\n"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Project:
    """A model repository on disk."""

    folder: Path

    @classmethod
    def toy(cls, folder: Path) -> Project:
        """A model in plain Python: its environment is empty, so a run takes two seconds."""
        project = cls(folder)
        project.write(
            {
                "penstock.toml": TOY_CONFIG,
                "train.py": TOY_TRAIN,
                "adapter.py": TOY_ADAPTER,
                "holdout.csv": toy_holdout(),
                "train.csv": toy_holdout(seed=8),
            }
        )
        project.git("init", "--quiet", "--initial-branch", "main")
        project.commit("first")
        return project

    def write(self, files: Mapping[str, str | bytes]) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def change(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text, f"{name} has no {old!r}"
        (self.folder / name).write_text(text.replace(old, new))

    def git(self, *arguments: str, check: bool = True, at: str = "") -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "GIT_CONFIG_GLOBAL": "/dev/null",
                "GIT_AUTHOR_NAME": "Ada",
                "GIT_AUTHOR_EMAIL": "ada@example.org",
                "GIT_COMMITTER_NAME": "Ada",
                "GIT_COMMITTER_EMAIL": "ada@example.org",
                "GIT_TERMINAL_PROMPT": "0",
                **({"GIT_AUTHOR_DATE": at, "GIT_COMMITTER_DATE": at} if at else {}),
            },
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        told = done.stdout + done.stderr
        assert not check or done.returncode == 0, told
        return told

    def commit(self, message: str, at: str = "") -> str:
        """Commit everything; `at` is the day of the commit, such as 2024-02-01T12:00:00Z."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message, at=at)
        return self.git("rev-parse", "HEAD").strip()

    def push(self, server: Server, name: str = "toy", branch: str = "main") -> str:
        """Push, and return all that git printed, the ``remote:`` lines included."""
        return self.git("push", f"{server.url}/git/{name}", f"HEAD:{branch}", check=False)


class Server:
    """`penstock serve` in a home of its own; ends with the test."""

    def __init__(self, environ: Mapping[str, str] | None = None, *, settings: str = "") -> None:
        # Short, because a socket's path has at most 107 bytes.
        self.home = Path(tempfile.mkdtemp(prefix="pst-"))
        if settings:
            (self.home / "server.toml").write_text(settings)
        self.port, self.predict_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.predict_url = f"http://127.0.0.1:{self.predict_port}"
        self._environ = dict(environ or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._database: Database | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if error is not None:
            for log in sorted(self.home.glob("*.log")):
                sys.stderr.write(f"--- {log.name}\n{log.read_text()[-3000:]}\n")
        if self._database is not None:
            self._database.close()
        for place, folders, _ in os.walk(self.home):  # environments hold very many files
            for folder in folders:
                path = Path(place, folder)
                if not path.is_symlink():
                    path.chmod(0o755)
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def settings(self) -> ServerSettings:
        return server_settings(self.home / "server.toml")

    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "UV_CACHE_DIR": str(CACHE / "uv"),
            **self._environ,
            "PENSTOCK_HOME": str(self.home),
        }

    def launch(self) -> None:
        """Start without waiting for anything."""
        CACHE.mkdir(parents=True, exist_ok=True)
        ports = ["--port", str(self.port), "--predict-port", str(self.predict_port)]
        with (self.home / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*PENSTOCK, "serve", *ports], env=self.environ(), stdout=log, stderr=log
            )

    def start(self) -> None:
        self.launch()
        self.until(lambda: self.answers("/api/health", self.port), "the server to answer", 60)
        self.until(lambda: self.answers("/v2/health/live", self.predict_port), "the gateway", 60)
        if self._database is None:
            self._database = Database(database_url(self.home, self.settings), clock=clock)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def kill(self, part: str) -> None:
        """Kill a part with signal 9, by the handle that the supervisor noted."""
        pid = int((self.home / "run" / f"{part}.pid").read_text())
        assert pid > 1
        os.kill(pid, signal.SIGKILL)

    def kill_all(self, draw: random.Random) -> list[str]:
        """Kill the supervisor, every part and all that they started, in any order."""
        import psutil

        assert self._process is not None, "the server was not started"
        supervisor = psutil.Process(self._process.pid)
        mine = [supervisor, *supervisor.children(recursive=True)]
        draw.shuffle(mine)
        killed: list[str] = []
        for process in mine:
            with contextlib.suppress(psutil.NoSuchProcess):  # it went with another
                process.kill()
                killed.append(process.name())
            time.sleep(draw.choice([0, 0, 0.03]))
        self._process.wait(30)
        self._process = None
        psutil.wait_procs(mine, timeout=30)
        return killed

    def cli(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PENSTOCK, "--server", self.url, *arguments],
            cwd=cwd or self.home,
            env=self.environ(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def request(
        self, method: str, path: str, body: Any = None, *, predict: bool = False
    ) -> tuple[int, Any]:
        port = self.predict_port if predict else self.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            response = connection.getresponse()
            told = response.read()
        finally:
            connection.close()
        return response.status, json.loads(told) if told else None

    def answers(self, path: str, port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 90) -> Any:
        """Ask again and again until something is true; fail with `what` when it never is."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            found = holds()
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"waited {seconds:g} s in vain for {what}; {self.states()}")

    @property
    def records(self) -> Database:
        assert self._database is not None, "the server was not started"
        return self._database

    def runs(self, model: str = "toy") -> list[Run]:
        with self.records.read() as connection:
            return runs.runs(connection, model_name=model)

    def run(self, number: int, model: str = "toy") -> Run | None:
        return next((run for run in self.runs(model) if run.number == number), None)

    def rollout(self, number: int, model: str = "toy") -> Rollout | None:
        run = self.run(number, model)
        if run is None:
            return None
        with self.records.read() as connection:
            return rollouts.of_run(connection, run.id)

    def states(self) -> str:
        if self._database is None:
            return "the server never answered"
        with self.records.read() as connection:
            found = [f"{r.version} {r.state} ({r.reason})" for r in runs.runs(connection)]
            live = [f"rollout {r.id} {r.state} {r.share} %" for r in rollouts.live(connection)]
        return "; ".join([*found, *live])

    def ended(self, number: int, model: str = "toy", *, seconds: float = 120) -> Run:
        """Wait until a version's run has ended or waits for a person."""

        def found() -> Run | None:
            run = self.run(number, model)
            waits = {"queued", "building", "testing", "rolling_out", "aborting"}
            return run if run is not None and run.state not in waits else None

        return self.until(found, f"{model}@{number} to end", seconds)

    def serving(self, model: str = "toy") -> dict[str, Deployment]:
        with self.records.read() as connection:
            found = rollouts.deployments(
                connection, model_name=model, environment=Environment.PRODUCTION
            )
        return {str(one.role): one for one in found}

    def journal(self) -> list[str]:
        """Verify the journal and return its actions, oldest first."""
        with self.records.read() as connection:
            count = journal.verify(connection)
            entries = journal.entries(connection, most=count)
        return [entry.action for entry in reversed(entries)]

    def rows(self, query: str) -> list[Any]:
        with self.records.read() as connection:
            return list(connection.execute(sa.text(query)))


@dataclass
class Traffic:
    """Callers that send rows to a model until they are told to stop."""

    server: Server
    body: Callable[[random.Random], Any]
    model: str = "toy"
    callers: int = 2
    pause_s: float = 0.004
    statuses: Counter[int] = field(default_factory=Counter[int])
    refused: int = 0
    """Connections that were not there: the gateway was being started again."""
    answers: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """Prediction id and the version that answered."""
    errors: Counter[str] = field(default_factory=Counter[str])
    """What others were told."""

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._call, args=(seed,)) for seed in range(self.callers)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, seed: int) -> None:
        draw = random.Random(seed)
        port = self.server.predict_port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while not self._stop.is_set():
            try:
                connection.request(
                    "POST",
                    f"/v2/models/{self.model}/infer",
                    json.dumps(self.body(draw)),
                    {"Content-Type": "application/json"},
                )
                response = connection.getresponse()
                told = json.loads(response.read())
            except (OSError, http.client.HTTPException):
                connection.close()
                with self._lock:
                    self.refused += 1
                time.sleep(0.05)
                continue
            with self._lock:
                self.statuses[response.status] += 1
                if response.status == 200:
                    self.answers.append((told["id"], int(told["model_version"])))
                else:
                    self.errors[f"{response.status} {told['error']}"] += 1
            time.sleep(self.pause_s)
        connection.close()


def toy_row(draw: random.Random) -> Any:
    """One row for the toy model."""
    value = draw.gauss(0, 2)
    return {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [value]}]}
