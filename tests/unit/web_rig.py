"""The web application on real records and real acts, for tests: in memory or on a loopback port.

`House` writes what the pipeline would: a run, its steps, its checks. Only the engine is a fake.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from penstock.adapters.file_store import FileStore
from penstock.config import ServerSettings, parse, resolve
from penstock.domain import CheckResult, Run, RunState, Verdict
from penstock.pipeline.acts import Acts
from penstock.records import runs, tokens
from penstock.records.database import Database
from penstock.records.runs import Push, Seal
from penstock.web.access import Access
from penstock.web.app import create_app
from penstock.web.control import Control
from tests.replay_engine import ReplayEngine

STRETCHES = ("build", "test", "start", "look", "monitor", "verification", "tick")
SIGNATURE = {
    "columns": [{"name": "age", "datatype": "FP64", "optional": False}],
    "task": "classification",
    "classes": [0, 1],
    "positive": 1,
}
CONFIG = '[model]\nname = "{name}"\nowner = "credit-risk"\nteam = "{team}"\nrisk = "{risk}"\n'
BEGIN = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


async def _nothing(_argument: str) -> None: ...


@dataclass
class House:
    """A home with records, and ways to put things into it."""

    control: Control
    engine: ReplayEngine
    clock: list[datetime] = field(default_factory=lambda: [BEGIN])

    @cached_property
    def app(self) -> Access:
        return create_app(self.control)

    @property
    def database(self) -> Database:
        return self.control.database

    @property
    def now(self) -> datetime:
        return self.clock[0]

    def later(self, **by: float) -> datetime:
        self.clock[0] += timedelta(**by)
        return self.now

    def push(
        self,
        model: str = "credit-default",
        *,
        commit: str = "",
        branch: str = "main",
        message: str = "Shorter payment history window",
        risk: str = "medium",
        team: str = "Credit Risk",
        pusher: str = "ines",
        card: str = "",
    ) -> Run:
        """Start a run, as a push does."""
        commit = commit or f"{time.monotonic_ns():040x}"[-40:]
        config = resolve(parse(CONFIG.format(name=model, risk=risk, team=team)), "classification")
        self.control.acts.register_model(pusher, model)
        pushed = Push(model, branch, commit, message, pusher, config.model_dump(mode="json"), card)
        return self.control.acts.start_run(pusher, pushed)

    def move(self, run: Run, to: RunState, reason: str = "", **more: Any) -> Run:
        with self.database.change("penstock") as change:
            return runs.move(
                change, runs.get(change.connection, run.id), to, reason=reason, **more
            )

    def step(
        self,
        run: Run,
        at: tuple[str, str],
        state: str | None = "passed",
        *,
        seconds: float = 12,
        reason: str = "",
        log: str = "",
    ) -> None:
        """Note a step; with `state` None it goes on."""
        path = f"runs/{run.id}/{at[0]}-{at[1]}-{run.attempt}.log"
        (self.control.home / path).parent.mkdir(parents=True, exist_ok=True)
        (self.control.home / path).write_text(log, encoding="utf-8")
        with self.database.write() as connection:
            runs.begin_step(connection, run, at, log=path, now=self.now)
        if state is None:
            return
        now = self.later(seconds=seconds)
        with self.database.write() as connection:
            runs.end_step(connection, run, at, state=state, reason=reason, now=now)

    def found(self, run: Run, *results: CheckResult, occasion: str = "") -> None:
        """Keep what checks found."""
        occasion = occasion or f"run:{run.id}:{run.attempt}"
        with self.database.write() as connection:
            of = (run.model, run.number)
            runs.add_results(connection, of, occasion, results, now=self.now)

    def seal(self, run: Run) -> None:
        digest = f"{run.id:064x}"
        with self.database.change("penstock") as change:
            version = runs.version_of(change.connection, run.model, run.number)
            runs.seal(change, version, Seal(digest, digest, digest, SIGNATURE, "full"))

    def token(self, person: str, *scopes: str) -> str:
        with self.database.change("admin") as change:
            return tokens.create(change, person, scopes)


def house(home: Path, **settings: Any) -> House:
    """Make a home; nothing listens yet."""
    engine = ReplayEngine()
    for name in STRETCHES:
        engine.register(name, _nothing)
    clock = [BEGIN]
    database = Database(f"sqlite:///{home / 'penstock.db'}", clock=lambda: clock[0])
    database.migrate()
    (home / "repositories").mkdir()
    told = ServerSettings.model_validate({"predict_port": 0, **settings})
    control = Control(
        database=database,
        home=home,
        acts=Acts(database, engine, told, home, FileStore(home / "artifacts")),
        settings=told,
        predict_url="http://127.0.0.1:8421",
        hook_secret="a secret of the hooks",
        clock=lambda: clock[0],
    )
    return House(control, engine, clock)


def client(of: House, **more: Any) -> httpx.AsyncClient:
    """Return a client that asks the application directly, without a socket."""
    transport = httpx.ASGITransport(of.app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8420", **more)


def get(of: House, path: str, **more: Any) -> httpx.Response:
    """Ask once."""
    return send(of, "GET", path, **more)


def send(of: House, method: str, path: str, **more: Any) -> httpx.Response:
    """Ask once, with any method."""
    import asyncio

    async def ask() -> httpx.Response:
        async with client(of) as asking:
            return await asking.request(method, path, **more)

    return asyncio.run(ask())


@contextmanager
def listening(of: House) -> Generator[str]:
    """Serve on a free loopback port and give the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        config = uvicorn.Config(
            create_app(of.control), log_level="error", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield address
        finally:
            server.should_exit = True
            thread.join(20)


class Checkout:
    """A data scientist's working copy."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.git("init", "--quiet", "--initial-branch=main", str(path), at=path.parent)

    def git(self, *arguments: str, at: Path | None = None) -> subprocess.CompletedProcess[str]:
        who = {"NAME": "Ines Duarte", "EMAIL": "ines@example.org"}
        people = {f"GIT_{r}_{k}": v for r in ("AUTHOR", "COMMITTER") for k, v in who.items()}
        plain = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
        return subprocess.run(
            ["git", *arguments],
            cwd=at or self.path,
            env={"PATH": os.environ["PATH"], "GIT_TERMINAL_PROMPT": "0", **people, **plain},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def commit(self, message: str, **files: str) -> str:
        for name, content in files.items():
            (self.path / name.replace("__", ".")).write_text(content, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD").stdout.strip()


def passed(check: str, summary: str, **evidence: Any) -> CheckResult:
    return CheckResult(check, Verdict.PASSED, summary, evidence)
