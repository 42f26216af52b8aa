"""One program that tries what a hostile model would try, and what may come of it at each level.

Run as ``python -m tests.contract.sandbox_attacks FOLDER`` it attacks every level from within,
as whatever user it is, and prints what succeeded: so the tests can be another user, too.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from penstock.adapters.sandbox.local import LocalSandbox, kill
from penstock.ports import Command

CANARY = "canary-7f3a"
LEVELS: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "partial": {"program": "no-such-program"},
    "none": {"program": "no-such-program", "landlock": False},
}
EVERYWHERE = frozenset({"own file", "temporary file", "subprocess", "thread"})
"""What an honest program does: it must work at every level."""
AS_ROOT: Mapping[str, frozenset[str]] = {
    "full": EVERYWHERE,
    "partial": EVERYWHERE,
    "none": EVERYWHERE
    | {"world-readable model", "loopback", "datagram", "abstract socket", "namespace", "bwrap"}
    | {"list processes"},
}
"""What succeeds where the server is root, so that each command has a user of its own."""
AS_USER: Mapping[str, frozenset[str]] = {
    "full": EVERYWHERE,
    "partial": EVERYWHERE,
    "none": AS_ROOT["none"]
    | {"private model", "database", "secret", "write outside", "environment of others"}
    | {"link to a secret", "hard link to a secret", "end others", "trace others"}
    | {"read others' memory", "a file of Python's own"},
}
"""What may succeed where commands have the server's own user."""

PROGRAM = r"""
import ctypes, json, os, resource, socket, subprocess, sys, threading
facts = json.loads(sys.argv[1])
MORE = 1 << 20
METADATA = socket.AF_INET, socket.SOCK_STREAM, ("169.254.169.254", 80)
libc = ctypes.CDLL(None, use_errno=True)
def read(path):
    with open(path) as file:
        return facts["canary"] in file.read()
def write(path):
    with open(path, "w") as file:
        file.write("x")
    return True
def dial(family, kind, address, send=b""):
    with socket.socket(family, kind) as one:
        one.settimeout(1)
        one.connect(address)
        one.send(send or b"x")
    return True
def through(way):
    target = os.path.join(os.getcwd(), way.__name__)
    way(facts["secret"], target)
    return read(target)
def environments():
    own = {os.getpid(), os.getppid()}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in own:
            try:
                if facts["canary"] in open(f"/proc/{name}/environ", errors="replace").read():
                    return True
            except OSError:
                pass
    return False
def thread():
    one = threading.Thread(target=lambda: None)
    one.start()
    one.join()
    return True
def is_victim():  # the number may be another's in a namespace of its own
    return open(f"/proc/{facts['victim']}/cmdline").read().startswith("sleep")
def ran(line):
    return subprocess.run(line, capture_output=True).returncode == 0
def forked(action):
    child = os.fork()
    if child == 0:
        os._exit(0 if action() == 0 else 1)
    return os.waitpid(child, 0)[1] == 0
attacks = {
    "own file": lambda: write("own") and os.path.exists("own"),
    "temporary file": lambda: write(__import__("tempfile").mkstemp()[1]),
    "subprocess": lambda: ran(["true"]),
    "thread": thread,
    "shadow": lambda: bool(open("/etc/shadow").read()),
    "world-readable model": lambda: read(facts["model"]),
    "private model": lambda: read(facts["private"]),
    "database": lambda: read(facts["database"]),
    "secret": lambda: read(facts["secret"]),
    "write outside": lambda: write(facts["outside"]),
    "write to the system": lambda: write("/usr/bin/penstock-attack"),
    "link to a secret": lambda: through(os.symlink),
    "hard link to a secret": lambda: through(os.link),
    "loopback": lambda: dial(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", facts["port"])),
    "datagram sent": lambda: dial(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", facts["port"])),
    "abstract socket": lambda: dial(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + facts["abstract"]),
    "list processes": lambda: sum(name.isdigit() for name in os.listdir("/proc")) > 6,
    "environment of others": environments,
    "end others": lambda: os.kill(facts["victim"], 0) is None and is_victim(),
    "trace others": lambda: libc.ptrace(16, facts["victim"], 0, 0) == 0,
    "read others' memory": lambda: open(f"/proc/{facts['victim']}/mem", "rb") is not None,
    "namespace": lambda: forked(lambda: libc.unshare(0x10000000)),
    "namespace by clone": lambda: ran(["unshare", "--user", "true"]) and facts["level"] != "none",
    "bwrap": lambda: ran(["bwrap", "--ro-bind", "/", "/", "true"]),
    "mount": lambda: forked(lambda: libc.mount(b"none", os.getcwd().encode(), b"tmpfs", 0, None)),
    "a file of Python's own": lambda: os.path.exists(facts["outside"] + "-imported"),
    "become root": lambda: forked(lambda: libc.setuid(0)) and os.geteuid() != 0,
    "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (MORE, MORE)) is None,
    "cloud metadata": lambda: facts["level"] != "none" and dial(*METADATA),
}
def succeeded(attack):
    try:
        return bool(attack())
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
print(json.dumps([name for name, attack in attacks.items() if succeeded(attack)]))
"""


def attack(folder: Path) -> dict[str, list[str]]:
    """Attack every level; return what succeeded."""
    home = folder / "home"
    model, private = home / "models" / "other" / "model.bin", home / "models" / "private.bin"
    secret, database = home / "secrets" / "key", home / "penstock.db"
    for path in (model, private, secret, database):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CANARY)
    private.chmod(0o600)
    database.chmod(0o600)
    secret.parent.chmod(0o700)
    home.chmod(0o711)
    abstract = f"penstock-{os.getpid()}"
    found: dict[str, list[str]] = {}
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as near,
    ):
        near.bind(f"\0{abstract}")
        near.listen(8)
        datagrams.bind(listener.getsockname())
        datagrams.settimeout(0.1)
        for level, options in LEVELS.items():
            sandbox = LocalSandbox(home, **options)
            assert sandbox.level().level == level, sandbox.level()
            victim = _victim(sandbox, folder / f"victim-{level}")
            work = folder / f"work-{level}"
            work.mkdir()
            outside = str(home / "models" / f"new-{level}")
            facts = {
                "level": level,
                "canary": CANARY,
                "model": str(model),
                "private": str(private),
                "secret": str(secret),
                "database": str(database),
                "outside": outside,
                "port": listener.getsockname()[1],
                "abstract": abstract,
                "victim": _innermost(victim.pid),
            }
            evil = f"open({outside + '-imported'!r}, 'w')\n"
            (work / "sitecustomize.py").write_text(evil)
            (work / "evil.pth").write_text(f"import os; {evil}")
            command = Command(
                ["/usr/bin/python3", "-c", PROGRAM, json.dumps(facts)],
                work,
                write=[work],
                env={"PYTHONPATH": str(work), "PYTHONSTARTUP": str(work / "sitecustomize.py")},
            )
            process = sandbox.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            told, complaints = process.communicate(timeout=60)
            kill(victim)
            assert process.returncode == 0, complaints.decode()
            # Sent is not received: in a network of its own everything can be sent.
            found[level] = [name for name in json.loads(told) if name != "datagram sent"]
            with suppress(TimeoutError):
                datagrams.recv(10)
                found[level].append("datagram")
    return found


def _victim(sandbox: LocalSandbox, folder: Path) -> subprocess.Popen[bytes]:
    """Start another model's process, with something in its environment."""
    folder.mkdir()
    command = Command(["sleep", "60"], folder, write=[folder], env={"SECRET": CANARY})
    return sandbox.start(command)


def _innermost(pid: int) -> int:
    """Wait for the process that `sleep` became, below its starters."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        fresh = [pid]
        while fresh:
            for one in fresh:
                try:
                    line = Path(f"/proc/{one}/cmdline").read_bytes()
                except OSError:
                    continue
                if line.startswith(b"sleep\0"):
                    return one
            fresh = [
                int(child)
                for one in fresh
                for tasks in Path(f"/proc/{one}/task").glob("*/children")
                for child in tasks.read_text().split()
            ]
        time.sleep(0.02)
    raise AssertionError("the victim did not start")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(attack(Path(sys.argv[1]))))
