"""Measure serving: ``python -m bench.serving``, as ``make bench-serving`` does.

    --quick                     a second a window, one repeat, no peers: does it run?
    --servers bentoml,echo      only these
    --minutes 40                leaves out what does not fit, the least important first
    --check                     no load: start each server and compare its answers
    --render                    only write docs/benchmarks.md anew from the results

Needs wrk (Debian's package of that name). Environments and models stay in a cache folder.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.serving import load, peers, report, running, targets
from bench.serving.ours import KINDS, Built
from bench.serving.peers import At, Server
from penstock import __version__

RESULTS = Path(__file__).parents[1] / "results" / "serving.json"
SCENARIOS = ((1, 1), (1, 64), (64, 16), (1, 16), (64, 1), (64, 64))
"""Rows and connections, the most important first; one connection before many, for a server that
learns how long to wait for more would wait in vain after them."""
READY_S = 240.0
SETTLE_S = 1.3
"""Beside its seconds what a window costs: warm-up and the start of the load generator."""
BODIES = {1: 128, 64: 8}
"""How many different bodies of so many rows are posted in turn."""
AGAIN = 1
"""So often a window in which something else was busy is measured again at once."""


def main() -> int:
    """Run what was asked for; 0 unless a target was missed."""
    options = _options()
    if options.render:
        report.write(json.loads(RESULTS.read_text()))
        return 0
    names = options.servers
    found: list[dict[str, Any]] = []
    began = time.monotonic()
    with ExitStack() as held:
        work = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        kinds = [KINDS[name] for name in names if name in KINDS]
        built = held.enter_context(Built(kinds)) if kinds else None
        servers = {server.name: server for server in (*peers.SERVERS, *peers.ECHOES)}
        if built is not None:
            servers |= {name: built.server(name) for name in names if name in KINDS}
        left_s = options.minutes * 60 - (time.monotonic() - began)
        plan, left_out = _plan([servers[n] for n in names if n in servers], options, left_s)
        for repeat in range(1, options.repeats + 1):
            if not options.check:
                found += _inprocess(names, options.seconds, repeat)
            for server, scenarios in plan:
                found += _measured(server, scenarios, repeat, options, work)
    _say(found)
    if options.check or options.quick:
        return 0 if all(one.get("errors", 1) == 0 for one in found) else 1
    facts = _facts(found, options, names, left_out)
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
    report.write(facts)
    print(f"targets met: {facts['targets_met']}")
    return 1 if facts["targets_met"] is False else 0


def _options() -> argparse.Namespace:
    servers = (*peers.ECHOES, *peers.SERVERS)
    known = ["inprocess", *(server.name for server in servers), *KINDS]
    parser = argparse.ArgumentParser(prog="bench.serving", description="Measure serving.")
    parser.add_argument("--servers", help=f"of {','.join(known)}; default: all")
    parser.add_argument("--seconds", type=int, default=8, help="of a window")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=40, help="for all of it")
    parser.add_argument("--quick", action="store_true", help="does it run?")
    parser.add_argument("--check", action="store_true", help="only compare the answers")
    parser.add_argument("--render", action="store_true", help="only write the page anew")
    options = parser.parse_args()
    if options.quick or options.check:
        options.seconds, options.repeats = 1, 1
    default = (
        ["echo", "echo-callback", "penstock-own", "penstock-null-canary"]
        if options.quick
        else known
    )
    options.servers = options.servers.split(",") if options.servers else default
    unknown = sorted(set(options.servers) - set(known))
    if unknown:
        parser.error(f"no server is called {', '.join(unknown)}; known: {', '.join(known)}")
    if not load.installed() and not (options.check or options.render):
        parser.error("wrk is not installed; on Debian: apt-get install wrk")
    return options


def _model(name: str) -> str:
    return "lr" if "-lr-" in name else "pipe"


def _plan(
    servers: Sequence[Server], options: argparse.Namespace, left_s: float
) -> tuple[list[tuple[Server, list[tuple[int, int]]]], list[str]]:
    """Return what each server is asked, within the time; and what is left out."""
    scenarios = list(SCENARIOS[:2] if options.quick else SCENARIOS)
    plan = [(server, list(scenarios)) for server in servers]
    for server, asked in plan:
        if "-lr-" in server.name or "null" in server.name or server.name == "echo-callback":
            del asked[2:]
    left_out: list[str] = []

    def takes_s() -> float:
        each = options.seconds + SETTLE_S
        once = sum(server.start_s + each * len(asked) for server, asked in plan)
        return options.repeats * (once + 4 * options.seconds)

    while takes_s() > left_s and len(scenarios) > 1 and not options.check:
        rows, connections = scenarios.pop()
        left_out.append(f"{rows} rows, {connections} connections")
        plan = [(server, [s for s in asked if s in scenarios]) for server, asked in plan]
    print(f"about {takes_s() / 60:.0f} minutes; left out: {left_out or 'nothing'}", flush=True)
    return plan, left_out


def _measured(
    server: Server,
    scenarios: Sequence[tuple[int, int]],
    repeat: int,
    options: argparse.Namespace,
    work: Path,
) -> list[dict[str, Any]]:
    """Start a server, compare its answers with the model's own, and load it."""
    model = _model(server.name)
    table = json.loads((peers.models(model) / f"{model}.rows.json").read_text())
    facts: dict[str, Any] = {"server": server.name, "model": model, "repeat": repeat}
    try:
        with _started(server, model, table, work) as (process, port, start_s):
            path = server.path.format(model=model)
            compared = _compare(server, port, path, table)
            facts |= {"start_s": start_s, "seconds": options.seconds, "checked": compared}
            if options.check:
                return [{**facts, "errors": 0, "pss_mb": load.pss_mb(process.pid)}]
            found: list[dict[str, Any]] = []
            for rows, connections in scenarios:
                posts = work / f"{server.name}.{rows}.posts"
                posts.write_text(_posts(server, path, table, rows))
                window = load.window(process.pid, port, posts, connections, options.seconds)
                for _ in range(0 if options.quick else AGAIN):
                    if window.other_cpu <= load.CLEAN:
                        break
                    window = load.window(process.pid, port, posts, connections, options.seconds)
                asked = {"rows": rows, "connections": connections}
                found.append({**facts, **asked, **asdict(window), "clean": window.clean})
                print(_line(found[-1]), flush=True)
            return found
    except RuntimeError as error:
        print(f"{server.name}: {error}", file=sys.stderr, flush=True)
        return [{**facts, "failed": str(error)[:500]}]


@contextmanager
def _started(
    server: Server, model: str, table: peers.Table, work: Path
) -> Generator[tuple[subprocess.Popen[bytes], int, float]]:
    """Start a server; end it with all that it started."""
    programs = peers.environment(server.environment) if server.environment else Path(sys.prefix)
    state = work / server.name
    state.mkdir(exist_ok=True)
    port, *spare = running.free_ports(3)
    at = At(model, peers.models(model), port, spare, state)
    environ = {
        **os.environ,
        **peers.QUIET,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "BENCH_MODEL": str(at.models / f"{model}.joblib"),
        **server.environ,
    }
    argv = server.command(programs, at)
    began = time.monotonic()
    with running.program(argv, environ, state, work / f"{server.name}.log") as process:
        try:
            _until_ready(server, process, port, model, table)
            yield process, port, time.monotonic() - began
        except RuntimeError as error:
            said = (work / f"{server.name}.log").read_text(errors="replace")[-400:]
            raise RuntimeError(f"{error} It said: …{said}") from error


def _until_ready(
    server: Server,
    process: subprocess.Popen[bytes],
    port: int,
    model: str,
    table: peers.Table,
) -> None:
    body = json.dumps(server.body(table["columns"], table["rows"][:1])).encode()
    ends, last = time.monotonic() + READY_S, "no connection"
    while time.monotonic() < ends and process.poll() is None:
        try:
            status, told = running.post(port, server.path.format(model=model), body)
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        else:
            if status == 200:
                return
            last = f"{status} {told[:200]!r}"
        time.sleep(0.05)
    raise RuntimeError(f"not ready in {READY_S:g} s, exit code {process.poll()}: {last}.")


def _compare(server: Server, port: int, path: str, table: peers.Table) -> int:
    """Ask all rows, 64 at a time; what is answered must be what the model says."""
    if server in peers.ECHOES or "null" in server.name:
        return 0
    for start in range(0, len(table["rows"]), 64):
        rows = table["rows"][start : start + 64]
        body = json.dumps(server.body(table["columns"], rows)).encode()
        status, told = running.post(port, path, body)
        if status != 200:
            raise RuntimeError(f"answered {status} {told[:200]!r} to 64 rows.")
        answers = server.answer(json.loads(told))
        wanted = table["probabilities"][start : start + 64]
        if server.decides:
            wanted = [float(probability > 0.5) for probability in wanted]
        worst = max(abs(a - b) for a, b in zip(answers, wanted, strict=True))
        if worst > 1e-6:
            raise RuntimeError(f"answers that differ from the model's own by {worst:g}.")
    return len(table["rows"])


def _posts(server: Server, path: str, table: peers.Table, rows: int) -> str:
    chunks = [table["rows"][i * rows : (i + 1) * rows] for i in range(BODIES[rows])]
    texts = [json.dumps(server.body(table["columns"], chunk)) for chunk in chunks]
    return "".join(f"{path} {text}\n" for text in texts)


def _inprocess(names: Sequence[str], seconds: int, repeat: int) -> list[dict[str, Any]]:
    """Time the model's own call, in an environment as the model's."""
    found: list[dict[str, Any]] = []
    if "inprocess" not in names:
        return found
    for model in ("pipe", "lr"):
        python = peers.environment("mlflow") / "python"
        argv = [python, peers.PROGRAMS / "inprocess.py", peers.models(model), model, str(seconds)]
        environ = {**os.environ, **peers.QUIET}
        before, began = _other_s(), time.monotonic()
        done = subprocess.run(argv, check=True, capture_output=True, env=environ)
        other = (_other_s() - before) / (time.monotonic() - began)
        for line in done.stdout.splitlines():
            told = json.loads(line)
            facts = {"server": "inprocess", "model": model, "repeat": repeat, "seconds": seconds}
            clean = other <= load.CLEAN
            shown = {"connections": 1, "requests_per_s": 1000 / told["p50_ms"], "errors": 0}
            found.append({**facts, **told, **shown, "other_cpu": other, "clean": clean})
            print(_line(found[-1]), flush=True)
    return found


def _other_s() -> float:
    """Return the machine's busy seconds that none of our children used."""
    times, own = psutil.cpu_times(), os.times()
    busy = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
    return busy - own.children_user - own.children_system


def _line(one: dict[str, Any]) -> str:
    return (
        f"{one['server']:<21} {one['model']:<5} {one['rows']:>2} rows c={one['connections']:<3}"
        f"{one['requests_per_s']:>9.1f}/s  p50 {one['p50_ms']:>8.2f}  p99 {one['p99_ms']:>8.2f} ms"
        f"  {one['cpu_us']:>8.1f} us  other {one['other_cpu']:.2f}"
        f"{'' if one['clean'] else '  does not count'}"
    )


def _say(found: Sequence[dict[str, Any]]) -> None:
    for one in found:
        if "failed" in one:
            print(f"{one['server']:<21} FAILED {one['failed']}")
        elif "rows" not in one:
            print(
                f"{one['server']:<21} answers, {one['checked']} rows compared; "
                f"started in {one['start_s']:.1f} s"
            )


def _facts(
    found: Sequence[dict[str, Any]],
    options: argparse.Namespace,
    names: Sequence[str],
    left_out: Sequence[str],
) -> dict[str, Any]:
    rows = targets.medians(found)
    judged = targets.judge(rows)
    return {
        "name": "serving",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "penstock": __version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "seconds": options.seconds,
        "repeats": options.repeats,
        "versions": {
            server.peer: peers.version(server.name)
            for server in peers.SERVERS
            if server.name in names
        },
        "left_out": list(left_out),
        "failed": [one for one in found if "failed" in one],
        "rows": rows,
        **judged,
    }


if __name__ == "__main__":
    sys.exit(main())
