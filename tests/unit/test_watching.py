from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from penstock.inference.gateway.watching import is_stopped
from tests.unit.gateway_rig import Rig, a_rig, canary, running, version

MB = 2**20
DEADLINE_S = 4.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with a_rig(tmp_path, shared=1, deadline_s=DEADLINE_S) as made, running(made):
        made.serve_these([version(1, serving={"isolated": True})])
        yield made


@contextmanager
def callers(rig: Rig, count: int = 3) -> Generator[Counter[int]]:
    """Ask all the time; count the statuses."""
    statuses: Counter[int] = Counter()
    done = threading.Event()
    asking = threading.Barrier(count + 1)

    def call() -> None:
        with httpx.Client() as client:
            client.post(f"{rig.url}/v2/models/m/infer", json={}, timeout=20)
            asking.wait(20)
            while not done.is_set():
                answer = client.post(f"{rig.url}/v2/models/m/infer", json={}, timeout=20)
                statuses[answer.status_code] += 1

    threads = [threading.Thread(target=call) for _ in range(count)]
    for each in threads:
        each.start()
    try:
        asking.wait(20)
        yield statuses
    finally:
        done.set()
        for each in threads:
            each.join()


def test_a_stopped_worker_is_told_to_go_on_and_costs_no_request(rig: Rig) -> None:
    pid = rig.pid(1)

    with callers(rig) as statuses:
        os.kill(pid, signal.SIGSTOP)
        before = statuses[200]
        rig.until(lambda: statuses[200] > before + 3)

    assert statuses.keys() == {200}
    assert rig.pid(1) == pid


def test_a_stopped_host_is_told_to_go_on(rig: Rig) -> None:
    pid = rig.processes[0].pid

    os.kill(pid, signal.SIGSTOP)
    rig.until(lambda: not is_stopped(pid))

    assert rig.ask(do="die").status_code == 502
    rig.until(lambda: rig.states() == {1: "ready"})
    assert len(rig.processes) == 1


@pytest.mark.parametrize("which", ["worker", "host"])
def test_what_does_not_go_on_is_replaced_and_costs_no_request(rig: Rig, which: str) -> None:
    first = rig.pid(1)
    stopped = first if which == "worker" else rig.processes[0].pid

    with callers(rig) as statuses:
        while psutil.pid_exists(stopped) and is_alive(stopped):
            os.kill(stopped, signal.SIGSTOP)
            time.sleep(0.001)
        rig.until(lambda: rig.workers()[1]["pid"] not in {None, first})
        before = statuses[200]
        rig.until(lambda: statuses[200] > before)

    assert statuses.keys() == {200}


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_request_that_hangs_costs_no_other(rig: Rig) -> None:
    with callers(rig) as statuses:
        hung = rig.ask(do="sleep", seconds=60)
        before = statuses[200]
        rig.until(lambda: statuses[200] > before)

    assert (hung.status_code, hung.json()["code"]) == (504, "PS504")
    assert statuses.keys() == {200}


def test_requests_in_the_frame_of_one_that_hangs_are_answered_elsewhere(
    rig: Rig, tmp_path: Path
) -> None:
    marker = tmp_path / "sleeps"

    with ThreadPoolExecutor(1) as behind:
        first = behind.submit(rig.ask, do="sleep", seconds=0.2, marker=str(marker))
        rig.until(marker.exists)
        # While the first is answered these become one frame.
        together = [{"n": 1}, {"n": 2}, {"do": "sleep", "seconds": 60, "n": 3}, {"n": 4}]
        answers = rig.ask_many(together)

    assert first.result().status_code == 200
    assert [answer.status_code for answer in answers] == [200, 200, 504, 200]
    assert len({entry.id for entry in rig.log()}) == len(rig.log()) == 5


def test_a_slow_request_is_finished_while_the_others_are_answered_beside(rig: Rig) -> None:
    with callers(rig) as statuses:
        before = statuses[200]
        with ThreadPoolExecutor(1) as behind:
            slow = behind.submit(rig.ask, do="sleep", seconds=2.0, n=9)
            rig.until(lambda: len(rig.placed) == 2)
            rig.until(lambda: statuses[200] > before + 20)
            others_first = not slow.done()
            answer = slow.result()

    assert (answer.status_code, answer.json()["n"]) == (200, 9)
    assert others_first
    assert statuses.keys() == {200}
    assert rig.workers()[1]["restarts"] == 0


def test_who_is_slow_by_nature_gets_no_second_process(rig: Rig) -> None:
    assert rig.ask(do="sleep", seconds=1.0).status_code == 200

    answers = rig.ask_many([{"do": "sleep", "seconds": 0.9}, {"do": "sleep", "seconds": 0.9}])

    assert [answer.status_code for answer in answers] == [200, 200]
    assert rig.placed == [1]


def test_a_challenger_that_hangs_costs_no_request(rig: Rig) -> None:
    rig.serve_these(canary(50))

    with callers(rig) as statuses:
        hung = [rig.ask(do="sleep", seconds=60, on=[2]) for _ in range(2)]
        before = statuses[200]
        rig.until(lambda: statuses[200] > before)

    assert {one.status_code for one in hung} == {200}
    assert statuses.keys() == {200}


def test_a_process_that_grows_is_replaced_before_its_bound_and_costs_no_request(
    tmp_path: Path,
) -> None:
    bound = 160 * MB
    with a_rig(tmp_path, shared=1, worker_memory_bytes=bound) as made, running(made) as rig:
        rig.serve_these([version(1, serving={"isolated": True})])
        first = rig.pid(1)

        with callers(rig) as statuses:
            time.sleep(0.6)  # it is seen once before it grows
            for _ in range(7):
                assert rig.ask(do="keep", bytes=20 * MB).status_code == 200
            rig.until(lambda: rig.pid(1) != first)
            rig.until(lambda: not psutil.pid_exists(first) or not is_alive(first))

        assert statuses.keys() == {200}
        assert rig.workers()[1]["restarts"] == 0
        assert rig.placed == [1, 1]


def test_what_a_model_needs_anyway_is_no_reason_to_replace_its_process(tmp_path: Path) -> None:
    with a_rig(tmp_path, shared=1, worker_memory_bytes=160 * MB) as made, running(made) as rig:
        rig.loads = {1: {"bytes": 140 * MB}}
        rig.serve_these([version(1, serving={"isolated": True})])
        first = rig.pid(1)

        time.sleep(1.0)  # four looks

        assert rig.pid(1) == first
