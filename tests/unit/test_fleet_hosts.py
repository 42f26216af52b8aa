"""The fleet with the real host program and real versions, without a sandbox."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.domain import Deployment
from tests.unit.gateway_rig import RealHosts, Rig, a_rig, running, version
from tests.unit.packed_versions import SIGNATURE, pack

ADAPTER = """
import features

def load(folder):
    return features.FACTOR

def predict(model, frame):
    if max(frame["age"]) > 500:
        import sys
        print("I give up", file=sys.stderr, flush=True)
        import os
        os.kill(os.getpid(), 9)
    if max(frame["age"]) > 200:
        import time
        held = b"x" * (400 << 20)
        time.sleep(5)
    return [min(1.0, model * age) for age in frame["age"]]
"""


class Adapters(RealHosts):
    def pack(self, deployment: Deployment, folder: Path) -> None:
        pack(folder, ADAPTER, model=deployment.model, number=deployment.number)
        factor = f"FACTOR = {deployment.number / 1000}"
        (folder / "code" / "features.py").write_text(factor)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with a_rig(tmp_path, shared=1, worker_memory_bytes=300 * 2**20) as made:
        real = Adapters(tmp_path, made.settings)
        with running(real):
            real.serve_these(three())
            yield real
        real.client.close()


def three(**changes: Any) -> list[Deployment]:
    return [
        version(n, model=f"m{n}", artifact_digest=f"d{n}", signature=SIGNATURE, **changes)
        for n in (1, 2, 3)
    ]


def asked(rig: Rig, number: int, age: float = 40.0) -> Any:
    row = {"age": age, "city": None, "visits": 1, "member": True}
    inputs = [
        {"name": c["name"], "shape": [1], "datatype": c["datatype"], "data": [row[c["name"]]]}
        for c in SIGNATURE["columns"]
        if row[c["name"]] is not None
    ]
    return rig.post(f"/v2/models/m{number}/infer", inputs=inputs)


def probability(rig: Rig, number: int) -> float:
    answer = asked(rig, number)
    assert answer.status_code == 200, answer.text
    return float(answer.json()["outputs"][1]["data"][1])


def test_three_versions_share_a_process_with_modules_of_their_own(rig: Rig) -> None:
    answers = [probability(rig, n) for n in (1, 2, 3)]
    workers = rig.workers()

    assert answers == pytest.approx([0.04, 0.08, 0.12])
    assert len({worker["pid"] for worker in workers.values()}) == len(rig.processes) == 1
    assert {worker["shared_with"] for worker in workers.values()} == {2}
    assert all(worker["size_bytes"] < 20 * 2**20 for worker in workers.values())


def test_a_version_moves_out_and_back_and_answers_the_same(rig: Rig) -> None:
    shared = rig.pid(3)

    rig.serve_these(
        [three()[0], *three(serving={"isolated": True})[1:2], three(serving={"workers": 2})[2]]
    )
    rig.until(lambda: len({rig.pid(n) for n in (1, 2, 3)}) == 3)
    apart = [probability(rig, n) for n in (1, 2, 3)]
    rig.serve_these(three())
    rig.until(lambda: {rig.pid(n) for n in (1, 2, 3)} == {shared})

    assert apart == [probability(rig, n) for n in (1, 2, 3)]


def test_who_crashes_a_process_is_set_apart_and_quoted(rig: Rig) -> None:
    crash = asked(rig, 1, age=600)
    rig.until(lambda: set(rig.states().values()) == {"ready"})

    assert (crash.status_code, crash.json()["code"]) == (502, "PS511")
    assert crash.json()["error"].endswith("I give up.")
    workers = rig.workers()
    assert workers[2]["pid"] == workers[3]["pid"] != workers[1]["pid"]
    assert [probability(rig, n) for n in (2, 3)] == pytest.approx([0.08, 0.12])


def test_a_worker_above_its_memory_is_ended_by_its_host_with_the_figures(rig: Rig) -> None:
    rig.serve_these([*three()[1:], *three(serving={"isolated": True})[:1]])
    rig.until(lambda: rig.pid(1) != rig.pid(2))

    grown = asked(rig, 1, age=300)

    assert grown.status_code == 502
    assert rig.workers()[1]["restarts"] == 2
    assert grown.json()["error"].endswith(" MB of 300.")
    assert probability(rig, 2) == pytest.approx(0.08)


def test_a_killed_host_is_started_again(rig: Rig) -> None:
    os.kill(rig.processes[0].pid, signal.SIGKILL)
    # Its workers die with it, but may answer a last time before they hear of it.
    rig.until(lambda: probability(rig, 1) > 0 and len(rig.processes) == 2)

    assert [probability(rig, n) for n in (1, 2, 3)] == pytest.approx([0.04, 0.08, 0.12])
    assert len(rig.processes) == 2
