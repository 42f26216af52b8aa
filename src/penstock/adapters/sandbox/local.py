"""The sandbox of this machine: the strongest level that a probe shows to hold.

full      bubblewrap: nothing of the machine is there but what the command names; no network, no
          other processes, no capabilities, a private /tmp, no way to make namespaces
partial   Landlock and seccomp: only the named files can be opened, no network; the machine's
          processes can be seen, though not touched
none      limits only
external  what the operator says that Penstock runs in; then only limits

At every level: limits, the whole group ends together, and where the server is root each command
has a user of its own. Whether a level holds is found by running a probe that tries to break it,
not by looking for a program.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from penstock.adapters.sandbox import holder
from penstock.adapters.sandbox.isolation import (
    NETWORK_FILES,
    SYSTEM_FILES,
    SYSTEM_LINKS,
    isolated,
)
from penstock.adapters.sandbox.users import (
    FIRST,
    Users,
    open_for_reading,
    require_reachable,
)
from penstock.errors import NotFoundError, PenstockError, StoppedError
from penstock.ports import Command, Limits, SandboxLevel, Use

ADDRESS_SPACE_FACTOR = 8
"""Address space per resident byte: frameworks reserve several times what they use."""
FIX = (
    "install bubblewrap 0.8 or newer and allow user namespaces (on Ubuntu load the AppArmor "
    "profile bwrap-userns-restrict)."
)

_PROBE_SECONDS = 30
_NICENESS = 10
_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",  # noqa: S108 (the sandbox's own, private)
    "LANG": "C.UTF-8",
    "USER": "penstock",  # nobody inside has an entry in /etc/passwd; libraries ask for a name
    "LOGNAME": "penstock",
}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "shm")
_FACTS = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/proc/version")
_CONSEQUENCE = {
    "partial": "Model code sees which processes run, shares /dev/shm, and has no private /tmp.",
    "none": "Model code can read what the server can, evaluation data too, and use the net.",
    "own user": "Model code can read what every user of this machine can, and use the net.",
}

# bubblewrap dies with the *thread* that started it (PR_SET_PDEATHSIG); this one never ends
# before the process does.
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-starter")

_PROBE = """
import ctypes, json, os, socket, sys
canary, hidden, private, port, server = *sys.argv[1:4], *map(int, sys.argv[4:])
def tried(action):
    try:
        return action()
    except OSError:
        return None
def dial():
    socket.create_connection(("127.0.0.1", port), timeout=2).close()
    return True
print(json.dumps({
    "canary": tried(lambda: open(canary).read()),
    "hidden": tried(lambda: open(hidden).read()),
    "private": tried(lambda: open(private).read()),
    "tcp": tried(dial),
    "pids": tried(lambda: sum(name.isdigit() for name in os.listdir("/proc"))),
    "environ": tried(lambda: len(open(f"/proc/{server}/environ").read())),
    "namespace": ctypes.CDLL(None).unshare(0x10000000) == 0,
}))
"""


class LocalSandbox:
    """Runs commands that are not ours.

    Parameters
    ----------
    home
        PENSTOCK_HOME; the probe makes sure that the sandbox can see what lies below it.
    mode
        ``auto``: the best level that works here. ``required``: refuse to run anything below
        ``full``. ``external``: do not isolate, the operator has seen to it.
    program
        The bubblewrap to run.
    landlock
        Whether to try the level ``partial``.
    first_user
        Where the server is root: the first of the users that commands run as.
    """

    def __init__(
        self,
        home: Path,
        mode: str = "auto",
        *,
        program: str = "bwrap",
        landlock: bool = True,
        first_user: int = FIRST,
    ) -> None:
        assert mode in ("auto", "required", "external"), f"unknown sandbox mode {mode!r}"
        self._home = home
        self._mode = mode
        self._program = program
        self._tries_landlock = landlock
        self._folder = home / "run" / "sandbox"
        self._users = Users(self._folder, first_user) if os.geteuid() == 0 else None
        self._memory = _MemoryWatch()

    def level(self) -> SandboxLevel:
        """Probe by running, once; the same answer later."""
        return self._level

    def argv(self, command: Command) -> tuple[list[str], dict[str, str]]:
        """Return the command line and environment of one start, for other starters.

        The starter must make the command a session leader, and the thread that starts it must
        outlive it.

        Raises
        ------
        NotFoundError
            PS205: a path that the command names is not there.
        StoppedError
            PS206: the mode is ``required`` and the sandbox does not hold. PS207: a path is
            private and the command's user could not read it.
        """
        level = self._allowed(command)
        held = command.limits.memory_bytes is not None or command.limits.output_bytes is not None
        line = self._line(level, command, starter=None, holds_log=held)
        # The command's own variables stand in the argument list: LD_PRELOAD and its like must
        # not act on bubblewrap itself, which still runs outside.
        return line, {"PATH": _ENVIRONMENT["PATH"], "LANG": _ENVIRONMENT["LANG"]}

    def start(self, command: Command, **popen: Any) -> subprocess.Popen[bytes]:
        """Start it, as the leader of a process group of its own; it dies with this process."""
        level = self._allowed(command)
        line = self._line(level, command, starter=os.getpid(), holds_log=False)
        environment = {"PATH": _ENVIRONMENT["PATH"], "LANG": _ENVIRONMENT["LANG"]}
        process = _STARTER.submit(_popen, line, environment, popen).result()
        if level == "full" and command.limits.memory_bytes is not None:
            self._memory.add(process, command.limits.memory_bytes)
        return process

    def _allowed(self, command: Command) -> str:
        found = self.level()
        if found.level != "full" and self._mode == "required":
            raise StoppedError(
                "PS206",
                f"The server demands a full sandbox and has none: {found.reason}",
                hint=f"{(found.fix or FIX).capitalize()} Then run penstock doctor.",
            )
        for path in (*command.read, *command.write, command.cwd):
            if not path.exists():
                what = f"The sandbox should show {path}, which does not exist."
                raise NotFoundError("PS205", what, hint="Start the run again: penstock retry.")
        return found.level

    def _line(
        self, level: str, command: Command, *, starter: int | None, holds_log: bool
    ) -> list[str]:
        user = self._user(level, command)
        if level != "full":
            return [*_politely(command), *self._guarded(level, command, user, starter)]
        inside = [*_prlimit(command.limits), *command.argv]
        env = {**_ENVIRONMENT, **command.env}
        program = shutil.which(self._program)
        if user is not None and program is not None and not program.startswith("/usr/"):
            command = replace(command, read=[*command.read, Path(program)])  # it starts again
        line = isolated(program or self._program, command, env, inside, user)
        if holds_log:
            line = _held(
                line=line,
                memory_bytes=command.limits.memory_bytes,
                output_bytes=command.limits.output_bytes,
            )
        return [*_politely(command), *line]

    def _user(self, level: str, command: Command) -> int | None:
        """Return the user that the command becomes, after what it needs is made its own."""
        if self._users is None:
            return None
        fetching = command.use is Use.FETCH
        user = self._users.fetching() if fetching else self._users.take()
        for path in command.write:
            self._users.hand_over(path, user)
        for path in command.read:
            open_for_reading(path, self._home, user)
        if level != "full":
            for path in (*command.read, *command.write, self._folder):
                require_reachable(path, user)
        return user

    def _guarded(
        self, level: str, command: Command, user: int | None, starter: int | None
    ) -> list[str]:
        """Return the line of a level without bubblewrap."""
        token = secrets.token_hex(8)
        home = self._folder / token
        self._folder.mkdir(parents=True, exist_ok=True)
        limits = command.limits
        masked = [path for path in command.mask if path.exists()]
        return _held(
            line=[*_prlimit(limits, processes=user is not None), *command.argv],
            env={**_ENVIRONMENT, "HOME": str(home), "TMPDIR": str(home), **command.env},
            cwd=str(command.cwd),
            starter=starter,
            memory_bytes=limits.memory_bytes,
            output_bytes=limits.output_bytes if starter is None else None,
            guard=True,
            user=user,
            rules=_rules(command, home) if level == "partial" else None,
            home=str(home),
            away=[
                (str(path), str(self._folder / f"{token}-away-{n}" / "it"))
                for n, path in enumerate(masked)
            ],
        )

    @cached_property
    def _level(self) -> SandboxLevel:
        if self._mode == "external":
            return SandboxLevel("external", "")
        why = self._why_not_full()
        if why is None:
            return SandboxLevel("full", "")
        fix = f"set PENSTOCK_HOME to a folder outside private ones ({self._home} is not)."
        fix = fix if "PENSTOCK_HOME" in why else FIX
        if self._tries_landlock:
            failure = self._probe(self._home, "partial")
            if failure is None:
                reason = f"{why[0].upper()}{why[1:]} {_CONSEQUENCE['partial']}"
                return SandboxLevel("partial", reason, fix)
            why += f" Landlock and seccomp do not hold either ({failure})."
        consequence = _CONSEQUENCE["none" if self._users is None else "own user"]
        return SandboxLevel("none", f"{why[0].upper()}{why[1:]} {consequence}", fix)

    def _why_not_full(self) -> str | None:
        if shutil.which(self._program) is None:
            return "bubblewrap is not installed."
        if shutil.which("prlimit") is None or shutil.which("setpriv") is None:
            return "prlimit and setpriv (of util-linux) are not installed."
        failure = self._probe(self._home, "full")
        if failure is None:
            return None
        with tempfile.TemporaryDirectory(prefix="penstock-probe-") as folder:
            if self._probe(Path(folder), "full") is None:
                return f"the sandbox cannot see PENSTOCK_HOME {self._home} ({failure})."
        return f"bubblewrap does not hold here ({failure})."

    def _probe(self, folder: Path, level: str) -> str | None:
        """Try to break out; None if nothing did, else what went wrong."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (
                tempfile.TemporaryDirectory(prefix=".probe-", dir=folder) as name,
                socket.create_server(("127.0.0.1", 0)) as listener,
            ):
                Path(name).chmod(0o711)
                return self._run_probe(Path(name), level, listener.getsockname()[1])
        except PenstockError as error:
            return error.what.rstrip(".")
        except OSError as error:
            return f"{folder}: {error.strerror}"

    def _run_probe(self, folder: Path, level: str, port: int) -> str | None:
        seen, hidden = folder / "seen", folder / "hidden"
        seen.mkdir(mode=0o755)
        (seen / "canary").write_text("canary")
        (seen / "private").write_text("private")
        if self._users is not None:  # so it belongs to the server, and not to the command
            (seen / "private").chmod(0o600)
        hidden.write_text("hidden")
        python = Path(sys.executable) if level == "full" else self._python()
        command = Command(
            argv=[
                *(str(python), "-I", "-S", "-c", _PROBE),
                *(str(path) for path in (seen / "canary", hidden, seen / "private")),
                *(str(port), str(os.getpid())),
            ],
            cwd=seen,
            read=[seen, *_interpreter(python)],
            use=Use.WORKER,
        )
        line = self._line(level, command, starter=None, holds_log=False)
        process = _popen(line, dict(_ENVIRONMENT), {"stdout": -1, "stderr": -1})
        try:
            output, errors = process.communicate(timeout=_PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            kill(process)
            process.communicate()
            return f"the probe did not end within {_PROBE_SECONDS} s"
        if process.returncode:
            return errors.decode(errors="replace").strip()[-300:] or "the probe failed"
        return _breach(json.loads(output), level, own_user=self._users is not None)

    def _python(self) -> Path:
        """Return a Python that the command's user can reach."""
        own, system = Path(sys.executable), Path("/usr/bin/python3")
        if self._users is not None and system.exists():
            folders = {folder for place in _interpreter(own) for folder in (place, *place.parents)}
            if not all(folder.stat().st_mode & 0o001 for folder in folders):
                return system
        return own


class _MemoryWatch:
    """Ends what uses more memory than it may, where no holder stands beside the command."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[subprocess.Popen[bytes], int]] = {}

    def add(self, process: subprocess.Popen[bytes], most: int) -> None:
        """Watch a process and its descendants from now on."""
        with self._lock:
            idle = not self._watched
            self._watched[process.pid] = process, most
        if idle:
            threading.Thread(target=self._watch, daemon=True, name="sandbox-memory").start()

    def _watch(self) -> None:
        ended = threading.Event()
        while not ended.wait(holder.EVERY_S):
            above = holder.parents()
            for process, most in list(self._watched.values()):
                if process.returncode is None:
                    self._look(process, most, above)
            with self._lock:
                gone = [pid for pid, (one, _) in self._watched.items() if one.poll() is not None]
                for pid in gone:
                    del self._watched[pid]
                if not self._watched:
                    ended.set()

    def _look(self, process: subprocess.Popen[bytes], most: int, above: dict[int, int]) -> None:
        used = holder.resident(holder.tree(process.pid, above), most)
        if used > most and process.poll() is None:
            # Its own stderr is where its starter looks for the reason.
            with contextlib.suppress(OSError):
                stderr = os.open(f"/proc/{process.pid}/fd/2", os.O_WRONLY | os.O_APPEND)
                with os.fdopen(stderr, "ab", buffering=0) as file:
                    file.write(holder.too_much(used, most).encode())
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that `start` gave, with its whole group, and wait for it."""
    assert process.pid > 1, "no process of ours has this id"
    if process.returncode is None:  # not waited for yet, so the id is still its own
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _popen(
    line: list[str], environment: dict[str, str], options: Mapping[str, Any]
) -> subprocess.Popen[bytes]:
    return cast(
        "subprocess.Popen[bytes]",
        subprocess.Popen(line, env=environment, start_new_session=True, **options),
    )


def _breach(found: Mapping[str, Any], level: str, *, own_user: bool) -> str | None:
    escapes = {
        "the sandbox cannot read a file that was given to it": found["canary"] != "canary",
        "the sandbox reads files that were not given to it": found["hidden"] is not None,
        "the sandbox reads the server's private files": own_user and found["private"] is not None,
        "the sandbox reaches the machine's network": found["tcp"] is not None,
        "the sandbox reads the environment of other processes": found["environ"] is not None,
        "the sandbox can make user namespaces": found["namespace"],
        "the sandbox sees other processes": level == "full" and (found["pids"] or 0) > 4,
    }
    return next((what for what, happened in escapes.items() if happened), None)


def _interpreter(python: Path) -> list[Path]:
    """Return the folders of a Python, ours or the system's; for the probe only."""
    own = [sys.prefix, sys.base_prefix] if python == Path(sys.executable) else []
    folders = dict.fromkeys(Path(prefix) for prefix in own)
    return [folder for folder in folders if not folder.is_relative_to("/usr")]


def _held(**some: Any) -> list[str]:
    """Return the line of the holder."""
    held: holder.Held = {
        "line": [],
        "env": None,
        "cwd": "/",
        "starter": None,
        "memory_bytes": None,
        "output_bytes": None,
        "guard": False,
        "user": None,
        "rules": None,
        "home": None,
        "away": [],
    }
    held.update(cast("holder.Held", some))
    folder = str(Path(holder.__file__).parent)
    # Imported, not run as a file: so its bytecode is kept, which halves the time to its start.
    program = f"import sys; sys.path[:0] = [{folder!r}]; import holder; holder.start()"
    return [sys.executable, "-I", "-S", "-c", program, json.dumps(held)]


def _rules(command: Command, home: Path) -> holder.Rules:
    found = importlib.util.find_spec("pyseccomp")
    assert found is not None, "a dependency of ours"
    assert found.origin is not None, "a module with a file"
    read = [Path("/usr"), *(Path("/", name) for name in SYSTEM_LINKS)]
    read += [Path(name) for name in (*SYSTEM_FILES, *_FACTS, "/sys/devices/system/cpu")]
    read += [Path("/etc", name) for name in NETWORK_FILES if command.network]
    devices = [Path("/dev", name) for name in _DEVICES]
    return {
        "packages": str(Path(found.origin).parent),
        "read": [str(path) for path in (*read, *command.read) if path.exists()],
        "write": [str(path) for path in (*command.write, Path("/dev/shm"), home)],  # noqa: S108
        "devices": [str(path) for path in devices if path.exists() and not path.is_dir()],
        "network": command.network,
    }


def _politely(command: Command) -> list[str]:
    """Give the prefix by which production goes before builds and checks."""
    line: list[str] = []
    if command.use is not Use.WORKER:
        line += ["nice", "-n", str(_NICENESS)]
        if shutil.which("ionice"):
            line += ["ionice", "-t", "-c", "3"]
    if command.limits.cpus is not None and shutil.which("taskset"):
        usable = sorted(os.sched_getaffinity(0))[-command.limits.cpus :]
        line += ["taskset", "-c", ",".join(str(number) for number in usable)]
    return line


def _prlimit(limits: Limits, *, processes: bool = True) -> Sequence[str]:
    program = shutil.which("prlimit")
    if program is None:
        return []
    line = [program, "--core=0"]
    if limits.processes is not None and processes:
        line.append(f"--nproc={_at_most(resource.RLIMIT_NPROC, limits.processes)}")
    if limits.open_files is not None:
        line.append(f"--nofile={_at_most(resource.RLIMIT_NOFILE, limits.open_files)}")
    if limits.file_bytes is not None:
        line.append(f"--fsize={limits.file_bytes}")
    if limits.memory_bytes is not None:
        line.append(f"--as={limits.memory_bytes * ADDRESS_SPACE_FACTOR}")
    return [*line, "--"]


def _at_most(kind: int, wanted: int) -> int:
    """Return a limit that may be set: nobody but root can raise a hard one."""
    hard = resource.getrlimit(kind)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
