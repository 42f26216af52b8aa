"""One window of load on one server, and what the processor did meanwhile."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

POST = Path(__file__).parent / "programs" / "post.lua"
CLEAN = 0.15
"""CPU-seconds a second that neither the server nor the caller used: above it, something else was
busy, and the window does not count."""


@dataclass(frozen=True, slots=True)
class Window:
    """What one window showed. Processor figures are of the server's whole process tree."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_us: float
    """A request."""
    server_cpu: float
    """CPU-seconds a second, as the next two."""
    caller_cpu: float
    other_cpu: float
    pss_mb: float

    @property
    def clean(self) -> bool:
        """Whether it may be counted."""
        return self.other_cpu <= CLEAN and self.errors == 0


def installed() -> bool:
    """Whether the load generator is there."""
    return shutil.which("wrk") is not None


def window(
    pid: int, port: int, posts: Path, connections: int, seconds: int, *, warm_up_s: int = 1
) -> Window:
    """Warm up, then load for `seconds`; on a connection the next request follows each answer.

    Parameters
    ----------
    posts
        A file whose lines are posted in turn, each a path, a blank and a body.
    """
    if warm_up_s:
        _wrk(port, posts, connections, warm_up_s)
    began = time.monotonic()
    machine, server, caller = _machine_s(), _tree_s(pid), _children_s()
    requests, took_s, errors, p50_ms, p99_ms = _wrk(port, posts, connections, seconds)
    server, caller = _tree_s(pid) - server, _children_s() - caller
    wall_s = time.monotonic() - began
    other = _machine_s() - machine - server - caller
    return Window(
        requests_per_s=requests / took_s,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        errors=errors,
        cpu_us=server / max(requests, 1) * 1e6,
        server_cpu=server / wall_s,
        caller_cpu=caller / wall_s,
        other_cpu=max(0.0, other / wall_s),
        pss_mb=pss_mb(pid),
    )


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and all below it."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def pss_mb(pid: int) -> float:
    """Return the memory of a process tree, each shared page counted once."""
    found = 0
    for each in tree(pid):
        try:
            found += each.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found / 2**20


def _wrk(
    port: int, posts: Path, connections: int, seconds: int
) -> tuple[int, float, int, float, float]:
    argv = ["wrk", "--threads", "1", "--connections", str(connections), "--timeout", "10s"]
    argv += ["--duration", f"{seconds}s", "--script", str(POST), f"http://127.0.0.1:{port}"]
    argv += ["--", str(posts)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    found = re.search(r"^FOUND (.*)$", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk says: {(done.stdout + done.stderr).strip()[:300]}")
    requests, took_us, errors, p50_us, p99_us = map(int, found[1].split())
    return requests, took_us / 1e6, errors, p50_us / 1000, p99_us / 1000


def _tree_s(pid: int) -> float:
    spent = 0.0
    for each in tree(pid):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        spent += times.user + times.system
    return spent


def _children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _machine_s() -> float:
    times = psutil.cpu_times()
    # Time as a guest is counted as user time already.
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
