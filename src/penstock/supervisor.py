"""`penstock serve`: starts the three parts by handle, starts again what dies, ends them together.

The supervisor owns the socket that predictions come in by, so that it stays open whatever
becomes of a gateway. On SIGHUP (`penstock reload`) it starts a second gateway with the same
socket; when that one is ready, the first one leaves. A second one that does not get ready ends,
and the first stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from penstock.config import ServerSettings
from penstock.errors import ConflictError, PenstockError, UnreachableError
from penstock.inference.gateway.handover import Handover, Word, heard, listen

PARTS = ("control", "engine", "gateway")
PAUSES_S = (0.0, 0.2, 0.5, 1.0, 2.0)
"""Before a part that died is started again; the last one stays."""
STEADY_S = 30.0
TAKE_OVER_S = 150.0
"""A gateway that does not get ready by then does not take over."""
LEFT_S = 40.0
"""A gateway that was told to leave is killed after this."""
END_S = 15.0
RELOAD = "reload.json"
"""In ``run/``: how the last reload went."""
LEAVE = signal.SIGUSR1
_ASK_S = 5.0

Argv = Callable[[str], Sequence[str]]
"""Returns the command that runs a part."""


@dataclass(slots=True)
class Candidate:
    """A gateway that is to take over."""

    process: subprocess.Popen[bytes]
    pipe: int
    """Read end of where its word comes from."""
    began_s: float
    ready_before: frozenset[str]
    """Versions that were ready in the gateway that answers, ``environment/model@number``."""
    text: bytes = b""


@dataclass
class Supervisor:
    """Keeps the parts running."""

    home: Path
    settings: ServerSettings
    argv: Argv
    listening: socket.socket
    """Where predictions come in."""
    _stop: bool = field(default=False, init=False)
    _reload: bool = field(default=False, init=False)
    _candidate: Candidate | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._woken = threading.Event()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._leaving: dict[subprocess.Popen[bytes], float] = {}
        self._deaths: dict[str, list[float]] = {part: [] for part in PARTS}
        self._due_s: dict[str, float] = {}

    def run(self) -> None:
        """Keep the parts running until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._told)
        with held(self.home):
            for part in PARTS:
                self._start(part)
            sys.stderr.write(self._greeting())
            while not self._stop:
                self._woken.wait(0.1 if self._candidate is None else 0.02)
                self._woken.clear()
                self._look()
            self._end()

    def _look(self) -> None:
        self._look_at_parts()
        for part, due_s in list(self._due_s.items()):
            if time.monotonic() >= due_s:
                del self._due_s[part]
                self._start(part)
        for child, since_s in list(self._leaving.items()):
            if child.poll() is not None:
                del self._leaving[child]
            elif time.monotonic() - since_s > LEFT_S:
                _kill(child)
        if self._reload:
            self._reload = False
            self._begin_reload()
        if self._candidate is not None:
            self._hear(self._candidate)

    def _look_at_parts(self) -> None:
        for part, child in list(self._children.items()):
            if child.poll() is not None:
                self._died(part, child.returncode)
            elif _was_stopped(child):
                sys.stderr.write(f"! {part} was stopped by a signal; it is told to go on\n")
                child.send_signal(signal.SIGCONT)

    def _told(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        else:
            self._stop = True
        self._woken.set()

    def _greeting(self) -> str:
        predict = f"http://{self.settings.host}:{self.settings.predict_port}"
        return (
            f"Penstock · {self.settings.address} dashboard, API, git · {predict} predictions · "
            f"{self.home}\nOnly this computer may connect. Stop with Ctrl-C.\n"
        )

    def _start(self, part: str) -> None:
        handover = Handover(self.listening) if part == "gateway" else Handover()
        self._children[part] = self._popen(part, handover)
        self._note(part)

    def _popen(self, part: str, handover: Handover) -> subprocess.Popen[bytes]:
        named = {"PENSTOCK_HOME": str(self.home), "PENSTOCK_PART": part}
        with (self.home / f"{part}.log").open("ab") as log:
            return subprocess.Popen(
                self.argv(part),
                stdin=subprocess.PIPE,  # closed when we die, whatever kills us: it then ends
                stdout=log,
                stderr=log,
                env={**os.environ, **named, **handover.environ()},
                pass_fds=handover.fds,
                start_new_session=True,
            )

    def _note(self, part: str) -> None:
        path = self.home / "run" / f"{part}.pid"
        new = path.with_suffix(".new")
        new.write_text(str(self._children[part].pid))
        new.replace(path)  # whoever reads it finds a whole number

    def _died(self, part: str, code: int) -> None:
        if part == "gateway" and self._candidate is not None:
            sys.stderr.write(f"! gateway ended with {code}; the next one is being started\n")
            self._promote(self._candidate)
            return
        now = time.monotonic()
        deaths = [at for at in self._deaths[part] if now - at < STEADY_S]
        self._deaths[part] = [*deaths, now]
        pause_s = PAUSES_S[min(len(deaths), len(PAUSES_S) - 1)]
        sys.stderr.write(f"! {part} ended with {code}; starting it again in {pause_s:g} s\n")
        del self._children[part]
        self._due_s[part] = now + pause_s

    # ---- one gateway takes over from another -------------------------------------------

    def _begin_reload(self) -> None:
        if self._candidate is not None or "gateway" not in self._children:
            return  # one is being started already: it is as new as another would be
        try:
            workers = self._workers()
            _has_room(workers)
        except PenstockError as error:
            self._say(error)
            return
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        handover = Handover(self.listening, writing, takes_over=True)
        process = self._popen("gateway", handover)
        os.close(writing)
        ready = frozenset(_name(one) for one in workers if one["state"] == "ready")
        self._candidate = Candidate(process, reading, time.monotonic(), ready)

    def _workers(self) -> list[dict[str, Any]]:
        """Ask the gateway that answers what it runs."""
        connection = http.client.HTTPConnection(
            self.settings.host, self.settings.predict_port, timeout=_ASK_S
        )
        try:
            connection.request("GET", "/penstock/workers", headers={"Host": "localhost"})
            return json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UnreachableError(
                "PS548",
                f"The gateway that runs does not say what it serves: {error}.",
                hint="See gateway.log; nothing was changed.",
            ) from error
        finally:
            connection.close()

    def _hear(self, candidate: Candidate) -> None:
        with contextlib.suppress(BlockingIOError):
            candidate.text += os.read(candidate.pipe, 65536)
        word = heard(candidate.text)
        took_s = time.monotonic() - candidate.began_s
        if word is None:
            if candidate.process.poll() is not None:
                code = candidate.process.returncode
                self._give_up(candidate, f"it ended with {code}; see gateway.log")
            elif took_s > TAKE_OVER_S:
                self._give_up(candidate, f"it was not ready in {TAKE_OVER_S:g} s")
            return
        reason = _unfit(word, candidate.ready_before)
        if reason:
            self._give_up(candidate, reason)
            return
        self._promote(candidate)
        _write(self.home, {"done": True, "seconds": round(took_s, 3)})
        sys.stderr.write(f"gateway reloaded in {took_s:.1f} s\n")

    def _promote(self, candidate: Candidate) -> None:
        before = self._children.pop("gateway", None)
        self._children["gateway"] = candidate.process
        self._note("gateway")
        os.close(candidate.pipe)
        self._candidate = None
        if before is not None and before.poll() is None:
            before.send_signal(LEAVE)
            self._leaving[before] = time.monotonic()

    def _give_up(self, candidate: Candidate, reason: str) -> None:
        self._candidate = None
        os.close(candidate.pipe)
        if candidate.process.poll() is None:
            candidate.process.terminate()
            self._leaving[candidate.process] = time.monotonic() - LEFT_S + END_S
        self._say(
            ConflictError(
                "PS548",
                f"The new gateway cannot take over: {reason}.",
                hint="The old one goes on as it was; repair the cause and reload again.",
            )
        )

    def _say(self, error: PenstockError) -> None:
        sys.stderr.write(f"! {error.code} {error.what}\n")
        told = {"done": False, "code": error.code, "what": error.what, "hint": error.hint}
        _write(self.home, told)

    def _end(self) -> None:
        children = [*self._children.values(), *self._leaving]
        if self._candidate is not None:
            children.append(self._candidate.process)
        for child in children:
            child.terminate()
        ends = time.monotonic() + END_S
        for child in children:
            try:
                child.wait(max(0.1, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill(child)
                child.wait()


def serve(
    home: Path, settings: ServerSettings, argv: Callable[[str, ServerSettings], Sequence[str]]
) -> None:
    """Run the parts until SIGTERM or SIGINT."""
    listening = listen(settings.host, settings.predict_port)
    found = settings.model_copy(update={"predict_port": listening.getsockname()[1]})
    with listening:
        Supervisor(home, found, lambda part: argv(part, found), listening).run()


def reload(home: Path, timeout_s: float = TAKE_OVER_S + END_S) -> float:
    """Tell the supervisor of a home to replace its gateway; return the seconds that it took.

    Raises
    ------
    UnreachableError
        No server runs in this home, or it says nothing.
    ConflictError
        The new gateway cannot take over; the old one goes on.
    """
    pid = supervisor_pid(home)
    told = home / "run" / RELOAD
    told.unlink(missing_ok=True)
    os.kill(pid, signal.SIGHUP)
    latest_s = time.monotonic() + timeout_s
    while time.monotonic() < latest_s:
        with contextlib.suppress(FileNotFoundError):
            found = json.loads(told.read_text())
            if found["done"]:
                return float(found["seconds"])
            raise ConflictError(found["code"], found["what"], hint=found["hint"])
        time.sleep(0.05)
    raise UnreachableError(
        "PS549",
        f"The server in {home} has not said in {timeout_s:g} s how the reload went.",
        hint="See what penstock serve writes, and gateway.log.",
    )


def supervisor_pid(home: Path) -> int:
    """Return the process of the server that runs in a home."""
    path = home / "run" / "supervisor.pid"
    with contextlib.suppress(FileNotFoundError, ValueError), path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # held by the one whose number it is
            return int(file.read())
    raise UnreachableError(
        "PS549",
        f"No server runs in {home}.",
        hint="penstock serve, or set PENSTOCK_HOME to the server's.",
    )


@contextmanager
def held(home: Path) -> Generator[None]:
    """Note this process as the home's supervisor; a home has one at a time."""
    path = home / "run" / "supervisor.pid"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                "PS549",
                f"A server runs in {home} already.",
                hint="Stop it first, or give this one a PENSTOCK_HOME of its own.",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _has_room(workers: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to load everything a second time where the memory is not there."""
    import psutil  # noqa: PLC0415  only a reload needs it

    needed = sum(
        {one.get("pid") or i: one["rss_bytes"] or 0 for i, one in enumerate(workers)}.values()
    )
    free = psutil.virtual_memory().available
    if needed > free:
        raise ConflictError(
            "PS548",
            f"The workers of the new gateway need {needed / 1e9:.1f} GB beside the old ones, "
            f"and {free / 1e9:.1f} GB are free.",
            hint="Free memory, or stop the server and start it again.",
        )


def _unfit(word: Word, ready_before: frozenset[str]) -> str:
    """Say why a gateway must not take over; empty when it may."""
    worse = sorted(ready_before & word.unready.keys())
    if worse:
        return f"{worse[0]} is not ready there ({word.unready[worse[0]]})"
    return "" if word.settled else "its versions are still being loaded"


def _name(worker: Mapping[str, Any]) -> str:
    return f"{worker['environment']}/{worker['model']}@{worker['number']}"


def _write(home: Path, told: Mapping[str, Any]) -> None:
    """Say how a reload went, as a whole or not at all."""
    new = home / "run" / f"{RELOAD}.new"
    new.write_text(json.dumps(told))
    new.replace(home / "run" / RELOAD)


def _was_stopped(child: subprocess.Popen[bytes]) -> bool:
    """Say whether a signal stopped a child since the last look; a debugger is no such signal."""
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOHANG) is not None
    return False


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        assert child.pid > 1, "a process group of ours"
        os.killpg(child.pid, signal.SIGKILL)
