"""What the sandbox adds to the start of a program, at each level this machine offers."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock.adapters.sandbox.local import LocalSandbox
from penstock.ports import Command, Limits, Use

REPEATS = 25
MOST = 2.0
"""Times the start that the least of bubblewrap takes, in the same run."""
_LEVELS: dict[str, dict[str, Any]] = {
    "full": {},
    "partial": {"program": "no-such-program"},
    "none": {"program": "no-such-program", "landlock": False},
}


def measure() -> dict[str, Any]:
    """Start an empty Python in turn at each level; the same number of times, interleaved."""
    with tempfile.TemporaryDirectory(prefix="pst-") as name:
        home = Path(name)
        home.chmod(0o711)
        (home / "work").mkdir()
        ways = _ways(home)
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(REPEATS):
            for way, once in ways.items():
                began = time.perf_counter()
                once()
                times[way].append((time.perf_counter() - began) * 1000)
    medians = {way: statistics.median(values) for way, values in times.items()}
    # The least of many tells the cost itself; the median also what else the machine does.
    least = {way: min(values) for way, values in times.items()}
    added = {way: value - least["plain"] for way, value in least.items() if way != "plain"}
    return {
        "root": os.geteuid() == 0,
        "repeats": REPEATS,
        "load": os.getloadavg()[0],
        "median_ms": medians,
        "least_ms": least,
        "least_added_ms": added,
        "median_s": medians["full"] / 1000,
        "what": "from starting an empty Python to its end, in turn at each level",
        "targets": {"full_to_bubblewrap_by_hand": MOST},
        "full_to_bubblewrap_by_hand": least["full"] / least["bubblewrap by hand"],
        "targets_met": least["full"] <= MOST * least["bubblewrap by hand"],
    }


def _ways(home: Path) -> dict[str, Callable[[], None]]:
    system = Path("/usr/bin/python3")
    python = str(system if system.exists() else Path(sys.executable).resolve())
    argv = [python, "-I", "-S", "-c", "pass"]
    folders = [] if system.exists() else [Path(sys.base_prefix)]
    bare = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    ways: dict[str, Callable[[], None]] = {
        "plain": lambda: _ended(subprocess.Popen(argv)),
        "bubblewrap by hand": lambda: _ended(subprocess.Popen([*bare, *argv])),
    }
    for level, options in _LEVELS.items():
        sandbox = LocalSandbox(home, **options)
        if sandbox.level().level == level:
            worker = Command(argv, home / "work", read=[home / "work", *folders], use=Use.WORKER)
            ways[level] = _start(sandbox, worker)
            if level == "full":
                limits = Limits(memory_bytes=1 << 30, output_bytes=1 << 20)
                step = Command(argv, worker.cwd, read=worker.read, limits=limits)
                ways["full, a build's step"] = _step(sandbox, step)
    return ways


def _start(sandbox: LocalSandbox, command: Command) -> Callable[[], None]:
    return lambda: _ended(sandbox.start(command))


def _step(sandbox: LocalSandbox, command: Command) -> Callable[[], None]:
    def once() -> None:
        line, environment = sandbox.argv(command)
        _ended(subprocess.Popen(line, env=environment))

    return once


def _ended(process: subprocess.Popen[bytes]) -> None:
    assert process.wait(60) == 0, "an empty program ends well"
