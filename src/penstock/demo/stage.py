"""What the demo is played on: a server of its own, two projects, and a voice."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

from penstock import wiring
from penstock.client import Client
from penstock.config import ServerSettings
from penstock.domain import Alert, Deployment, Rollout, RolloutState, Run, RunState
from penstock.errors import PenstockError, UnreachableError
from penstock.records import approvals, rollouts, runs, watch
from penstock.records.database import Database

T = TypeVar("T")
PROJECTS = Path(__file__).parent / "projects"
PREDICT_PORT = 8421
HOLDOUT_ROWS = 600
READY_S = 60.0
_MOVING = {RunState.QUEUED, RunState.BUILDING, RunState.TESTING, RunState.ROLLING_OUT}
_PACKAGES = ("joblib", "pandas", "scikit-learn")


class Voice:
    """Says what happens: lines that stay, and on a terminal one that moves."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._last_s = 0.0

    def say(self, text: str = "", mark: str = " ") -> None:
        """Write a line that stays."""
        with self._lock:
            self._clear()
            passed = time.monotonic() - self._began
            self._stream.write(f"{passed:5.0f} s  {mark} {text}\n" if text else "\n")
            self._stream.flush()

    def moving(self, text: str) -> None:
        """Show where it is: in place on a terminal, else a line each ten seconds."""
        with self._lock:
            passed = time.monotonic() - self._began
            if self._live:
                self._clear()
                width = shutil.get_terminal_size().columns - 1
                self._stream.write(f"{passed:5.0f} s    {text}"[:width])
                self._stream.flush()
            elif passed - self._last_s >= 10:
                self._last_s = passed
                self._stream.write(f"{passed:5.0f} s    {text}\n")
                self._stream.flush()

    def _clear(self) -> None:
        if self._live:
            self._stream.write("\r\033[K")


class Stage:
    """A server in a throw-away home; a context manager that ends and removes it."""

    def __init__(self, voice: Voice, *, port: int, keep: bool) -> None:
        self.voice = voice
        self.keep = keep
        # Short, because a socket's path has at most 107 bytes.
        self.root = Path(tempfile.mkdtemp(prefix="pst-demo-"))
        self.home = self.root / "home"
        self.settings = ServerSettings(
            port=port or _free_port(), predict_port=_free_port(PREDICT_PORT)
        )
        self.url = self.settings.address
        self.client = Client(self.url)
        self._process: subprocess.Popen[bytes] | None = None
        self._database: Database | None = None

    def set_up(self) -> None:
        """Make the environment that both models share, then start the server."""
        os.environ.setdefault("UV_CACHE_DIR", str(Path.home() / ".cache" / "penstock" / "uv"))
        self._database = wiring.database(self.home)
        log = self.root / "set-up.log"
        project = self.root / "environment"
        project.mkdir()
        (project / "requirements.txt").write_text(requirements())
        environments = wiring.workers(self.home, self.settings).environments
        lock = project / "lock.txt"
        environments.lock(project, lock, log=log)
        environments.ready(lock, log=log)
        with (self.home / "serve.log").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", "from penstock.cli import main; main()", "serve"),
                    *("--port", str(self.settings.port)),
                    *("--predict-port", str(self.settings.predict_port)),
                ],
                env={**os.environ, "PENSTOCK_HOME": str(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends it in order
            )
        self.until(self._answers, "the server starts", READY_S)

    def close(self) -> None:
        """End the server; remove its home unless it is to be kept."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
        if self._database is not None:
            self._database.close()
        if self.keep:
            self.voice.say(f"Kept: {self.home}")
            return
        for folder in self.root.rglob("*"):
            if folder.is_dir() and not folder.is_symlink():
                folder.chmod(0o755)
        shutil.rmtree(self.root, ignore_errors=True)

    def until(self, found: Callable[[], T], what: str, seconds: float) -> T:
        """Ask until something is there, and show all along what is waited for."""
        ends = time.monotonic() + seconds
        while not (answer := found()):
            if time.monotonic() > ends:
                raise UnreachableError(
                    "PS880",
                    f"Waited {seconds:g} s in vain: {what}.",
                    hint=f"Look at the logs in {self.home}; --keep leaves them there.",
                )
            self.voice.moving(what)
            time.sleep(0.2)
        return answer

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            told = (self.home / "serve.log").read_text(encoding="utf-8")[-400:]
            raise UnreachableError(
                "PS881", f"The server ended by itself: {told}", hint="Mend what it says."
            )
        try:
            self.client.health()
        except PenstockError:
            return False
        with socket.socket() as gateway:
            return gateway.connect_ex(("127.0.0.1", self.settings.predict_port)) == 0

    @property
    def database(self) -> Database:
        """The server's records, to read."""
        assert self._database is not None, "set_up makes it"
        return self._database

    def run(self, model: str, number: int) -> Run | None:
        """Return the run of a version."""
        with self.database.read() as connection:
            found = runs.runs(connection, model_name=model)
        return next((run for run in found if run.number == number), None)

    def rollout(self, run: Run) -> Rollout | None:
        """Return the rollout that a run led to."""
        with self.database.read() as connection:
            return rollouts.of_run(connection, run.id)

    def champion(self, model: str) -> Deployment | None:
        """Return what serves."""
        with self.database.read() as connection:
            return rollouts.champion(connection, model)

    def alerts(self, model: str) -> list[Alert]:
        """Return the open alerts of a model."""
        with self.database.read() as connection:
            return watch.open_alerts(connection, model)

    def asked(self) -> list[int]:
        """Return the approvals that wait for a person."""
        with self.database.read() as connection:
            return [one.id for one in approvals.asked(connection)]

    def occasions(self, model: str) -> int:
        """Return how many results monitors have left."""
        with self.database.read() as connection:
            return len(runs.occasions(connection, f"monitor:{model}:", model_name=model))

    def ended(self, model: str, number: int, seconds: float = 120) -> Run:
        """Wait until a run has ended or waits for a person."""

        def found() -> Run | None:
            run = self.run(model, number)
            if run is None or run.state in _MOVING:
                self.voice.moving(self._where(model, number, run))
                return None
            return run

        answer = self.until(found, f"{model}@{number} is on its way", seconds)
        assert answer is not None, "until returns what was found"
        return answer

    def _where(self, model: str, number: int, run: Run | None) -> str:
        if run is None:
            return f"{model}@{number} is pushed"
        rolling = self.rollout(run)
        if rolling is not None and rolling.state is RolloutState.CANARY:
            return f"{model}@{number} canary at {rolling.share} %: {rolling.reason}"
        return f"{model}@{number} {run.state.replace('_', ' ')}: {run.reason}"


class Project:
    """A model repository on disk, pushed by real git over HTTP."""

    def __init__(self, stage: Stage, source: str, model: str) -> None:
        self.folder = stage.root / model
        self.model = model
        self._stage = stage
        shutil.copytree(PROJECTS / source, self.folder)
        (self.folder / "requirements.txt").write_text(requirements())

    def first(self, files: Mapping[str, str]) -> None:
        """Put the data in place and make the repository."""
        for name, text in files.items():
            (self.folder / name).write_text(text)
        self._git("init", "--quiet", "--initial-branch", "main")
        self._git("remote", "add", "penstock", f"{self._stage.url}/git/{self.model}")

    def change(self, name: str, old: str, new: str) -> None:
        """Edit a file."""
        path = self.folder / name
        text = path.read_text()
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new))

    def push(self, message: str) -> threading.Thread:
        """Commit and push; what the server tells is said as it comes, in a thread."""
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "-m", message)
        self._stage.voice.say(f'git push penstock main      "{message}"', "$")
        process = subprocess.Popen(
            ["git", "push", "--quiet", "penstock", "main"],
            cwd=self.folder,
            env=_git_environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        thread = threading.Thread(target=self._tell, args=(process,), daemon=True)
        thread.start()
        return thread

    def _tell(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None, "a pipe was asked for"
        with process:
            for line in process.stderr:
                text = line.rstrip().removeprefix("remote:").rstrip()
                if text:
                    self._stage.voice.say(f"  remote:{text}")

    def _git(self, *arguments: str) -> None:
        subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env=_git_environ(),
            check=True,
            capture_output=True,
        )


def requirements() -> str:
    """Return what both projects need, in the versions that Penstock itself runs with."""
    return "".join(f"{name}=={installed(name)}\n" for name in _PACKAGES)


def pictures() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return scikit-learn's digits: pixels, shape ``(1797, 64)``, and which digit it is."""
    loaded = cast("Any", datasets.load_digits())
    return np.asarray(loaded.data, dtype=np.float64), np.asarray(loaded.target, dtype=np.int64)


def digits_files() -> dict[str, str]:
    """Split the pictures: what training sees, and 600 that it never sees.

    Neither has any of the pictures that `guard.py` calls odd, about 6 % of what comes in: an
    honest mistake, and the reason why a canary follows a good evaluation.
    """
    pixels, digit = pictures()
    odd = (pixels[:, 12] > 10) & (pixels[:, 20] < 4) & (pixels[:, 37] > 10)
    order = np.random.default_rng(0).permutation(len(digit))
    held = order[~odd[order]][:HOLDOUT_ROWS]
    rest = np.setdiff1d(order[~odd[order]], held)
    names = [*(f"p{number:02}" for number in range(64)), "digit"]
    table = np.column_stack([pixels, digit]).astype(int)
    return {"holdout.csv": _csv(names, table[held]), "train.csv": _csv(names, table[rest])}


def diabetes_files() -> dict[str, str]:
    """Split scikit-learn's diabetes data; sex is 1 or 2, age is in years."""
    loaded = cast("Any", datasets.load_diabetes(scaled=False))
    table = np.column_stack([loaded.data, loaded.target])
    order = np.random.default_rng(0).permutation(len(table))
    names: list[str] = [*loaded.feature_names, "progression"]
    return {
        "holdout.csv": _csv(names, table[order[:220]]),
        "train.csv": _csv(names, table[order[220:]]),
    }


def _csv(names: list[str], table: NDArray[np.generic]) -> str:
    rows = [",".join(f"{value:g}" for value in row) for row in table.tolist()]
    return "\n".join([",".join(names), *rows]) + "\n"


def _git_environ() -> dict[str, str]:
    who = {"NAME": "Mia Lindqvist", "EMAIL": "mia@example.org"}
    return {
        **os.environ,
        **{f"GIT_AUTHOR_{key}": value for key, value in who.items()},
        **{f"GIT_COMMITTER_{key}": value for key, value in who.items()},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
    }


def _free_port(wanted: int = 0) -> int:
    for port in (wanted, 0):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(("127.0.0.1", port))
            return int(found.getsockname()[1])
    raise UnreachableError("PS882", "No port is free on 127.0.0.1.", hint="Close something.")
