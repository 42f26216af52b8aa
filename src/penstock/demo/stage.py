"""What the demo is played on: a server of its own in a throw-away home, and what it knows."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from penstock import wiring
from penstock.build.project import dependency_files
from penstock.client import Client
from penstock.config import ServerSettings
from penstock.demo.repository import Repository, diabetes_files, digits_files, requirements
from penstock.demo.voice import Voice
from penstock.domain import (
    Alert,
    CheckResult,
    Deployment,
    Rollout,
    RolloutState,
    Run,
    RunState,
    Verdict,
)
from penstock.errors import PenstockError, UnreachableError
from penstock.records import approvals, rollouts, runs, watch
from penstock.records.database import Database

T = TypeVar("T")
DIGITS, DIABETES = "digits", "diabetes-progression"
SERVER = """
from penstock.wiring import end_with_parent
end_with_parent()
from penstock.cli import main
main()
"""
"""`penstock serve` that ends when the demo is gone, be it by signal 9."""
PREDICT_PORT = 8421
READY_S = 60.0
RUN_S = 180.0
ASK_EVERY_S = 0.2
BEFORE_PRODUCTION = frozenset({RunState.QUEUED, RunState.BUILDING, RunState.TESTING})
MOVING = BEFORE_PRODUCTION | {RunState.ROLLING_OUT, RunState.ABORTING}


class Stage:
    """A server in a throw-away home, with two repositories that push to it.

    Parameters
    ----------
    port
        The dashboard's; 0 for any free one.
    keep
        Leave the home on disk.
    """

    def __init__(self, voice: Voice, *, port: int, keep: bool) -> None:
        self.voice = voice
        self.settings = ServerSettings(
            port=port or free_port(), predict_port=free_port(PREDICT_PORT)
        )
        self.url = self.settings.address
        self.client = Client(self.url)
        self._keep = keep
        # Short, because a socket's path has at most 107 bytes.
        self._root = Path(tempfile.mkdtemp(prefix="pst-demo-"))
        self._root.chmod(0o711)  # models run as nobody and must find their files
        self.home = self._root / "home"
        self._server: subprocess.Popen[bytes] | None = None
        self._records: Database | None = None

    def set_up(self) -> None:
        """Make the environment that both models share, then start the server."""
        os.environ.setdefault("UV_CACHE_DIR", str(Path.home() / ".cache" / "penstock" / "uv"))
        self._records = wiring.database(self.home, self.settings)
        sandbox = wiring.sandbox(self.home, self.settings).level()
        if sandbox.warning:
            self.voice.say(sandbox.warning, "warning")
        project = self._root / "environment"
        project.mkdir()
        (project / "requirements.txt").write_text(requirements(), encoding="utf-8")
        environments = wiring.workers(self.home, self.settings).environments
        lock, log = project / "lock.txt", self._root / "set-up.log"
        self.voice.moving("the environment is resolved")
        environments.lock(dependency_files.read(project), lock, log=log)
        self.voice.moving("the environment is made")
        environments.ready(lock, log=log)
        self._serve()
        self.until(self._answers, "the server starts", READY_S)

    def _serve(self) -> None:
        with (self.home / "serve.log").open("ab") as output:
            self._server = subprocess.Popen(
                [
                    *(sys.executable, "-c", SERVER, "serve"),
                    *("--port", str(self.settings.port)),
                    *("--predict-port", str(self.settings.predict_port)),
                ],
                env={**os.environ, "PENSTOCK_HOME": str(self.home)},
                stdin=subprocess.PIPE,  # closed when we die, whatever kills us
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends it in order
            )

    def close(self) -> None:
        """End the server; remove its home unless it is to be kept."""
        if self._server is not None:
            with self._server as server:
                server.terminate()
                try:
                    server.wait(20)
                except subprocess.TimeoutExpired:
                    server.kill()  # its parts end with it
        if self._records is not None:
            self._records.close()
        if self._keep:
            self.voice.say(f"Kept: {self._root}")
            return
        for folder, _, _ in os.walk(self._root):
            Path(folder).chmod(0o755)  # models are kept read-only
        shutil.rmtree(self._root, ignore_errors=True)

    def repositories(self) -> tuple[Repository, Repository]:
        """Make the repositories of digits and of the progression of diabetes."""
        return (
            Repository(self._root / DIGITS, "digits", digits_files(), self._git(DIGITS)),
            Repository(self._root / DIABETES, "diabetes", diabetes_files(), self._git(DIABETES)),
        )

    def _git(self, model: str) -> str:
        return f"{self.url}/git/{model}"

    def _answers(self) -> bool:
        if self._server is not None and self._server.poll() is not None:
            told = (self.home / "serve.log").read_text(encoding="utf-8")[-400:].strip()
            raise UnreachableError(
                "PS881",
                f"The server ended by itself:\n{told}",
                hint="Mend what it says; where a port is taken: penstock demo --port 0.",
            )
        try:
            self.client.health()
        except PenstockError:
            return False
        with socket.socket() as gateway:
            return gateway.connect_ex(("127.0.0.1", self.settings.predict_port)) == 0

    # ---- waiting

    def wait(self, found: Callable[[], T], what: str | Callable[[], str], seconds: float) -> T:
        """Ask until something is there or the time is over; return the last answer.

        What is waited for is shown all along.
        """
        ends = time.monotonic() + seconds
        while not (answer := found()) and time.monotonic() < ends:
            self.voice.moving(what if isinstance(what, str) else what())
            time.sleep(ASK_EVERY_S)
        self.voice.rest()
        return answer

    def until(self, found: Callable[[], T], what: str, seconds: float) -> T:
        """Ask until something is there; PS880 when it does not come."""
        if answer := self.wait(found, what, seconds):
            return answer
        raise _late(what, seconds)

    def past(self, states: frozenset[RunState], model: str, number: int, seconds: float) -> bool:
        """Wait until a run has left some states; False when it is still in one."""

        def left() -> bool:
            run = self.run(model, number)
            return run is not None and run.state not in states

        return self.wait(left, lambda: self._where(model, number), seconds)

    def ended(self, model: str, number: int, seconds: float = RUN_S) -> Run:
        """Wait until a run has ended or waits for a person; PS880 when it does neither."""
        over = self.past(MOVING, model, number, seconds)
        run = self.run(model, number)
        if run is None or not over:
            raise _late(self._where(model, number), seconds)
        return run

    def _where(self, model: str, number: int) -> str:
        run = self.run(model, number)
        if run is None:
            return f"{model}@{number} is pushed"
        rolling = self.rollout(run)
        if rolling is not None and rolling.state is RolloutState.CANARY:
            return f"{model}@{number} canary at {rolling.share} %: {rolling.reason}"
        return f"{model}@{number} {run.state.replace('_', ' ')}: {run.reason}"

    # ---- what the server's records say

    @property
    def records(self) -> Database:
        """The server's records, to read."""
        assert self._records is not None, "set_up makes it"
        return self._records

    def run(self, model: str, number: int) -> Run | None:
        """Return the run of a version."""
        with self.records.read() as connection:
            found = runs.runs(connection, model_name=model)
        return next((run for run in found if run.number == number), None)

    def rollout(self, run: Run) -> Rollout | None:
        """Return the rollout that a run led to."""
        with self.records.read() as connection:
            return rollouts.of_run(connection, run.id)

    def champion(self, model: str) -> Deployment | None:
        """Return what serves."""
        with self.records.read() as connection:
            return rollouts.champion(connection, model)

    def failed_checks(self, run: Run) -> list[CheckResult]:
        """Return what failed in stages build and test."""
        with self.records.read() as connection:
            found = runs.results(connection, f"run:{run.id}:{run.attempt}")
        return [one for one in found if one.verdict is Verdict.FAILED]

    def harm(self, rollout: Rollout) -> list[str]:
        """Name what the canary's last look found harmful."""
        with self.records.read() as connection:
            found = runs.results(connection, f"rollout:{rollout.id}:{rollout.look}")
        return [one.check for one in found if one.verdict is Verdict.FAILED]

    def alerts(self, model: str) -> list[Alert]:
        """Return the open alerts of a model."""
        with self.records.read() as connection:
            return watch.open_alerts(connection, model)

    def asked(self) -> list[int]:
        """Return the approvals that wait for a person."""
        with self.records.read() as connection:
            return [one.id for one in approvals.asked(connection)]

    def checked(self, model: str, occasion: str) -> bool:
        """Say whether a period of a monitor has its results."""
        with self.records.read() as connection:
            return bool(runs.occasions(connection, occasion, model_name=model, most=1))


def _late(what: str, seconds: float) -> UnreachableError:
    return UnreachableError(
        "PS880",
        f"Waited {seconds:g} s in vain: {what}.",
        hint="Play it on a less busy machine, or with --keep, and read the logs it leaves.",
    )


def free_port(wanted: int = 0) -> int:
    """Return `wanted` when nothing holds it, else any free port of the loopback."""
    for port in (wanted, 0):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(("127.0.0.1", port))
            return int(found.getsockname()[1])
    raise UnreachableError("PS882", "No port is free on 127.0.0.1.", hint="Close something.")
