"""A/A canaries with real workers: how often is a version called harmful beside itself?

    nice -n 19 python -m bench.arms [RUNS]

Challenger, champion and control arm are the same code in workers of their own, behind a real
gateway, and are asked by real callers. Each run is judged by the errors and slow requests of its
batches as a canary is, against the control arm and against the champion; with the threshold for
slow of a canary (twice the champion's p95) and with a hard one (its p95 itself), at which the
size of an arm is known to pass for slowness.
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import random
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from penstock import __version__
from penstock.deploy.canary import ArmCounts, Batch, compared, judge
from penstock.domain import Deployment, Role, Verdict
from penstock.inference.prediction_log.counting import ArmCount, Arms
from tests.unit.gateway_rig import RealHosts, a_rig, running, version
from tests.unit.packed_versions import SIGNATURE, pack

RESULT = Path(__file__).parent / "results" / "arms.json"
SHARE = 10
CALLERS = 6
THINK_S = 0.005
WARM_S, BATCH_S, LOOKS = 2.0, 1.0, 8
THRESHOLDS = {"twice_p95": 2.0, "p95": 1.0}
"""Times the champion's p95 before the canary."""
ADAPTER = """
def load(folder):
    return 0.01

def predict(model, frame):
    return [min(1.0, model * age + 0.0 * sum(range(4000))) for age in frame["age"]]
"""


class Alike(RealHosts):
    """All versions are the same code."""

    def pack(self, deployment: Deployment, folder: Path) -> None:
        pack(folder, ADAPTER, model=deployment.model, number=deployment.number)


def three(generation: int, share: int) -> list[Deployment]:
    """Champion, challenger and a control arm with the challenger's share."""
    until = datetime.now(UTC) + timedelta(hours=1)
    champion = version(1, share=100 - 2 * share, generation=generation, signature=SIGNATURE)
    challenger = version(
        2, Role.CHALLENGER, share, lease_until=until, generation=generation, signature=SIGNATURE
    )
    return [champion, challenger, replace(champion, role=Role.CONTROL, share=share)]


@contextmanager
def asked(url: str, seed: int) -> Generator[None]:
    """Ask from several callers, one request after the other each, until the end of the block."""
    over = threading.Event()
    place = urlsplit(url)

    def caller(number: int) -> None:
        draw = random.Random(seed * 100 + number)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
        while not over.is_set():
            data = {"age": draw.uniform(18, 90), "visits": 1, "member": True}
            kinds = {"age": "FP64", "visits": "INT64", "member": "BOOL"}
            inputs = [
                {"name": name, "shape": [1], "datatype": kinds[name], "data": [value]}
                for name, value in data.items()
            ]
            connection.request("POST", "/v2/models/m/infer", json.dumps({"inputs": inputs}))
            connection.getresponse().read()
            over.wait(draw.expovariate(1 / THINK_S))
        connection.close()

    callers = [threading.Thread(target=caller, args=(n,)) for n in range(CALLERS)]
    for one in callers:
        one.start()
    try:
        yield
    finally:
        over.set()
        for one in callers:
            one.join()


def one_canary(rig: RealHosts, run: int, looks: int = LOOKS) -> dict[str, Any]:
    """Run one A/A canary; return what was found against each arm, by threshold.

    Returns
    -------
    dict
        ``requests`` of the challenger, ``p95_ms``, and ``found``: verdicts by
        ``<arm> <threshold>``.
    """
    generation = 2 * run + 1
    rig.deployments = three(generation, 0)
    rig.until(lambda: _ready(rig) == 3, timeout_s=60)
    arms = Arms(rig.folder / "log" / "production" / "m")
    with asked(rig.url, run):
        began_us = _now_us()
        time.sleep(WARM_S)
        before = arms.latencies_ms("champion", since_us=began_us)
        p95_ms = float(before[int(0.95 * (len(before) - 1))])
        rig.deployments = three(generation + 1, SHARE)
        seen: dict[str, list[Batch]] = {}
        since = _now_us()
        for _ in range(looks):
            time.sleep(BATCH_S)
            until = max(since, arms.watermark() or 0)
            for name, times in THRESHOLDS.items():
                counts = arms.count(
                    since_us=since,
                    until_us=until,
                    slow_ms=times * p95_ms,
                    generations=[generation + 1],
                )
                _add(seen, name, counts)
            since = until
    found = {name: str(_ever(batches)) for name, batches in seen.items()}
    requests = sum(one.challenger.requests for one in seen["control p95"])
    return {"requests": requests, "p95_ms": p95_ms, "found": found}


def _add(seen: dict[str, list[Batch]], name: str, counts: dict[str, ArmCount]) -> None:
    none = ArmCount(0, 0, 0)
    challenger, champion, control = (
        ArmCounts(*counts.get(role, none)) for role in ("challenger", "champion", "control")
    )
    against = compared(challenger, champion, control)[1]
    seen.setdefault(f"control {name}", []).append(Batch(challenger, against))
    seen.setdefault(f"champion {name}", []).append(Batch(challenger, champion))


def _ever(batches: Sequence[Batch]) -> Verdict:
    """Return the verdict of all looks: harm latches, so the last one has it."""
    return judge(batches).verdict


def _ready(rig: RealHosts) -> int:
    return sum(one["state"] == "ready" for one in rig.get("/penstock/workers").json())


def _now_us() -> int:
    return int(time.time() * 1e6)


@contextmanager
def served() -> Generator[RealHosts]:
    """Serve the versions from a throw-away folder."""
    with tempfile.TemporaryDirectory() as name, a_rig(Path(name)) as plain:
        rig = Alike(Path(name), replace(plain.settings, seed=None))
        with running(rig):
            rig.serve_these([version(1, signature=SIGNATURE)])  # its folder is there for both
            yield rig
        rig.client.close()


def main(runs: int) -> None:
    """Run them all, and keep what was found."""
    with served() as rig:
        told = [one_canary(rig, run) for run in range(runs)]
    found = {
        name: {
            verdict: sum(one["found"][name] == verdict for one in told)
            for verdict in ("failed", "passed", "undecided")
        }
        for name in told[0]["found"]
    }
    result = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "penstock": __version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "runs": runs,
        "share": SHARE,
        "batches": LOOKS,
        "batch_s": BATCH_S,
        "requests_median": sorted(one["requests"] for one in told)[runs // 2],
        "p95_ms_median": sorted(one["p95_ms"] for one in told)[runs // 2],
        "found": found,
        "targets": {"failed against the control arm, of 20": 1},
        "targets_met": found["control twice_p95"]["failed"] * 20 <= runs,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
