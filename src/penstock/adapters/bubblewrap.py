"""The sandbox: bubblewrap where it works, plain limits and a loud reason where it does not.

Inside there is /usr, a private /tmp, /proc and /dev, and what the command names. No network,
no other processes, no capabilities, no way to make namespaces of its own, user 65534. Whether
that holds is found by running a probe that tries to break it, not by looking for a program.

Started as root, the sandboxed process stays root towards the files that it sees, but without
any capability; a user of its own, and with it a limit on processes, is not there yet: Linux
does not count root's processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from penstock.errors import NotFoundError, StoppedError
from penstock.ports import Command, Limits, SandboxLevel

ADDRESS_SPACE_FACTOR = 8
"""Address space per resident byte: frameworks reserve several times what they use."""

_TMP_BYTES = 64 << 20
_PROBE_SECONDS = 30
_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",  # noqa: S108 (the sandbox's own, private)
    "LANG": "C.UTF-8",
    "USER": "penstock",  # nobody inside has an entry in /etc/passwd; libraries ask for a name
    "LOGNAME": "penstock",
}
_NETWORK_FILES = ("resolv.conf", "hosts", "nsswitch.conf", "ssl", "pki", "ca-certificates")

# bubblewrap dies with the *thread* that started it (PR_SET_PDEATHSIG); this one never ends
# before the process does.
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-starter")

_PROBE = """
import json, os, socket, sys
canary, hidden, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
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
    "tcp": tried(dial),
    "pids": sum(name.isdigit() for name in os.listdir("/proc")),
}))
"""


class Bubblewrap:
    """Runs commands that are not ours under bubblewrap.

    Parameters
    ----------
    home
        PENSTOCK_HOME; the probe makes sure that the sandbox can see what lies below it.
    mode
        ``auto``: the best level that works here. ``required``: refuse to run anything below
        ``full``.
    program
        The bubblewrap to run.
    """

    def __init__(self, home: Path, mode: str = "auto", *, program: str = "bwrap") -> None:
        assert mode in ("auto", "required"), f"unknown sandbox mode {mode!r}"
        self._home = home
        self._mode = mode
        self._program = program

    def level(self) -> SandboxLevel:
        """Probe by running, once; the same answer later."""
        return self._level

    def argv(self, command: Command) -> tuple[list[str], dict[str, str]]:
        """Return the command line and environment that `start` would use, for other starters.

        The starter must make the command a session leader, and the thread that starts it must
        outlive it.

        Raises
        ------
        NotFoundError
            A path that the command names is not there.
        StoppedError
            The mode is ``required`` and the sandbox does not hold.
        """
        level = self.level()
        if level.level != "full" and self._mode == "required":
            raise StoppedError(
                "PS206",
                f"The server demands a full sandbox and has none: {level.reason}",
                hint="Install bubblewrap 0.8 or newer and allow user namespaces (on Ubuntu the "
                "AppArmor profile bwrap-userns-restrict), then run penstock doctor.",
            )
        for path in (*command.read, *command.write, command.cwd):
            if not path.exists():
                what = f"The sandbox should show {path}, which does not exist."
                raise NotFoundError("PS205", what, hint="Start the run again: penstock retry.")
        line = self._isolated(command) if level.level == "full" else _plain(command)
        # The command's own variables stand in the argument list: LD_PRELOAD and its like must
        # not act on bubblewrap itself, which still runs outside.
        return line, {"PATH": _ENVIRONMENT["PATH"], "LANG": _ENVIRONMENT["LANG"]}

    def start(self, command: Command, **popen: Any) -> subprocess.Popen[bytes]:
        """Start it, as the leader of a process group of its own; it dies with this process."""
        line, environment = self.argv(command)
        return _STARTER.submit(_popen, line, environment, popen).result()

    @cached_property
    def _level(self) -> SandboxLevel:
        if shutil.which(self._program) is None:
            return _none("bubblewrap is not installed.")
        if shutil.which("prlimit") is None:
            return _none("prlimit (of util-linux) is not installed.")
        failure = self._probe(self._home)
        if failure is None:
            return SandboxLevel("full", "")
        with tempfile.TemporaryDirectory(prefix="penstock-probe-") as folder:
            if self._probe(Path(folder)) is None:
                return _none(f"the sandbox cannot see PENSTOCK_HOME {self._home} ({failure}).")
        return _none(f"bubblewrap does not hold here ({failure}).")

    def _probe(self, folder: Path) -> str | None:
        """Try to break out; None if nothing did, else what went wrong."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (
                tempfile.TemporaryDirectory(prefix=".probe-", dir=folder) as name,
                socket.create_server(("127.0.0.1", 0)) as listener,
            ):
                return self._run_probe(Path(name), listener.getsockname()[1])
        except OSError as error:
            return f"{folder}: {error.strerror}"

    def _run_probe(self, folder: Path, port: int) -> str | None:
        seen, hidden = folder / "seen", folder / "hidden"
        seen.mkdir()
        (seen / "canary").write_text("canary")
        hidden.write_text("hidden")
        command = Command(
            argv=[
                *(sys.executable, "-I", "-S", "-c", _PROBE),
                *(str(seen / "canary"), str(hidden), str(port)),
            ],
            cwd=seen,
            read=[seen, *_own_interpreter()],
        )
        process = _popen(self._isolated(command), dict(_ENVIRONMENT), {"stdout": -1, "stderr": -1})
        try:
            output, errors = process.communicate(timeout=_PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            kill(process)
            process.communicate()
            return f"the probe did not end within {_PROBE_SECONDS} s"
        if process.returncode:
            return errors.decode(errors="replace").strip()[-300:] or "the probe failed"
        return _breach(json.loads(output))

    def _isolated(self, command: Command) -> list[str]:
        environment = {**_ENVIRONMENT, **command.env}
        line = [
            *(self._program, "--unshare-all", "--unshare-user", "--uid", "65534"),
            *("--gid", "65534", "--disable-userns", "--die-with-parent", "--new-session"),
            *("--cap-drop", "ALL", "--clearenv"),
            *_system(),
            *("--proc", "/proc", "--dev", "/dev"),
            *("--size", str(_TMP_BYTES), "--tmpfs", "/tmp"),  # noqa: S108 (private)
        ]
        if command.network:
            line.append("--share-net")
            for name in _NETWORK_FILES:
                line += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        line += _binds(command)
        for name, value in environment.items():
            line += ["--setenv", name, value]
        return [*line, "--chdir", str(command.cwd), "--", *_limited(command)]


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


def _none(why: str) -> SandboxLevel:
    consequence = "Model code can read what the server can, evaluation data too, and use the net."
    return SandboxLevel("none", f"{why[0].upper()}{why[1:]} {consequence}")


def _breach(found: Mapping[str, Any]) -> str | None:
    if found["canary"] != "canary":
        return "the sandbox cannot read a file that was given to it"
    if found["hidden"] is not None:
        return "the sandbox reads files that were not given to it"
    if found["tcp"] is not None:
        return "the sandbox reaches the machine's network"
    if found["pids"] > 3:
        return "the sandbox sees other processes"
    return None


def _own_interpreter() -> list[Path]:
    """Return the folders of this Python; for the probe only."""
    folders = dict.fromkeys(Path(prefix) for prefix in (sys.prefix, sys.base_prefix))
    return [folder for folder in folders if not folder.is_relative_to("/usr")]


def _system() -> Iterator[str]:
    yield from ("--ro-bind", "/usr", "/usr")
    for name in ("bin", "sbin", "lib", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        else:
            yield from ("--ro-bind-try", str(path), str(path))
    for path in ("/etc/alternatives", "/etc/ld.so.cache"):
        yield from ("--ro-bind-try", path, path)


def _binds(command: Command) -> Iterator[str]:
    """Give binds with parents first, so that a nested one wins; masks win over all."""
    ways = dict.fromkeys(command.read, "--ro-bind")
    ways |= dict.fromkeys(command.write, "--bind")
    for path in sorted(ways, key=lambda path: len(path.parts)):
        yield from (ways[path], str(path), str(path))
    for path in command.mask:
        if path.is_dir():
            yield from ("--tmpfs", str(path), "--remount-ro", str(path))
        elif path.exists():
            yield from ("--ro-bind", "/dev/null", str(path))


def _limited(command: Command) -> list[str]:
    return [*_prlimit(command.limits), *command.argv]


def _prlimit(limits: Limits) -> Sequence[str]:
    line = [shutil.which("prlimit") or "prlimit", "--core=0"]
    if limits.processes is not None:
        line.append(f"--nproc={limits.processes}")
    if limits.file_bytes is not None:
        line.append(f"--fsize={limits.file_bytes}")
    if limits.memory_bytes is not None:
        line.append(f"--as={limits.memory_bytes * ADDRESS_SPACE_FACTOR}")
    return [*line, "--"]


def _plain(command: Command) -> list[str]:
    """Give the command with its limits and nothing else: the level ``none``."""
    environment = {**_ENVIRONMENT, **command.env}
    line = ["env", "-i", "-C", str(command.cwd), *(f"{k}={v}" for k, v in environment.items())]
    if shutil.which("setpriv"):
        line += ["setpriv", "--pdeathsig", "KILL"]
    if shutil.which("prlimit") is None:
        return [*line, *command.argv]
    # A limit on processes counts all of the user's here, also those outside: left out.
    limits = Limits(
        memory_bytes=command.limits.memory_bytes,
        processes=None,
        file_bytes=command.limits.file_bytes,
    )
    return [*line, *_prlimit(limits), *command.argv]
