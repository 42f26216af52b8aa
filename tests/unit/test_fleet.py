from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from penstock.domain import Deployment, Environment, Role
from penstock.inference.gateway.placing import CHILD_BYTES
from tests.unit.gateway_rig import Rig, a_rig, canary, running, version

MB = 2**20


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with a_rig(tmp_path, shared=1) as made, running(made):
        yield made


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Rig]:
    """A gateway with a deadline of two seconds."""
    with a_rig(tmp_path, shared=1, deadline_s=2.0) as made, running(made):
        yield made


def models(*numbers: int, **changes: Any) -> list[Deployment]:
    """Champions of models of their own, named by their number."""
    return [version(n, model=f"m{n}", artifact_digest=f"digest{n}", **changes) for n in numbers]


def ask(rig: Rig, number: int, **asked: Any) -> httpx.Response:
    return rig.post(f"/v2/models/m{number}/infer", **asked)


@contextmanager
def load(rig: Rig, path: str) -> Generator[Counter[int]]:
    """Ask all the time, from two callers; count the statuses. Both have an answer at the start."""
    statuses: Counter[int] = Counter()
    done = threading.Event()
    asking = threading.Barrier(3)

    def call() -> None:
        with httpx.Client() as client:
            client.post(rig.url + path, json={}, timeout=20)
            asking.wait(20)
            while True:
                statuses[client.post(rig.url + path, json={}, timeout=20).status_code] += 1
                if done.is_set():
                    return

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        asking.wait(20)
        yield statuses
    finally:
        done.set()
        for caller in callers:
            caller.join()


def test_versions_of_one_environment_share_a_process_and_answer_for_themselves(rig: Rig) -> None:
    rig.serve_these([*models(1, 2), *models(3, lock_digest="another")])

    answers = {n: ask(rig, n).json() for n in (1, 2, 3)}
    workers = rig.workers()

    assert {n: answer["number"] for n, answer in answers.items()} == {1: 1, 2: 2, 3: 3}
    assert workers[1]["pid"] == workers[2]["pid"] == answers[1]["pid"] != workers[3]["pid"]
    assert [workers[n]["shared_with"] for n in (1, 2, 3)] == [1, 1, 0]
    assert len(rig.processes) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"serving": {"isolated": True}},
        {"environment": Environment.TEST},
        {"role": Role.SHADOW, "share": 0},
    ],
    ids=["isolated", "test", "shadow"],
)
def test_who_must_not_be_disturbed_has_a_process_of_its_own(
    rig: Rig, changes: dict[str, Any]
) -> None:
    rig.serve_these([*models(1, 3), *models(2, **changes)])

    assert rig.pid(2) != rig.pid(1) == rig.pid(3)
    assert len(rig.processes) == 1


def test_a_rollout_that_begins_and_ends_moves_both_versions_without_a_failed_request(
    rig: Rig,
) -> None:
    rig.loads = {1: {"seconds": 0.3}, 2: {"seconds": 0.3}}
    rig.serve_these([version(1), *models(7)])
    shared = rig.pid(7)

    with load(rig, "/v2/models/m/infer") as statuses:
        rig.deployments = [*canary(50), *models(7)]
        rig.until(lambda: rig.states() == {1: "ready", 2: "ready", 7: "ready"})
        rig.until(lambda: len({rig.pid(1), rig.pid(2), rig.pid(7)}) == 3)
        rig.deployments = [version(1, Role.PREVIOUS, 0), version(2), *models(7)]
        rig.until(lambda: rig.workers()[2]["shared_with"] == 2)

    assert {rig.pid(n) for n in (1, 2, 7)} == {shared}
    assert statuses.keys() == {200}
    assert statuses[200] > 50


def test_a_version_that_hangs_is_set_apart_and_costs_the_others_no_request(hasty: Rig) -> None:
    hasty.serve_these(models(1, 2, 3))
    shared = hasty.pid(1)

    with load(hasty, "/v2/models/m2/infer") as statuses:
        hung = ask(hasty, 1, do="sleep", seconds=60)
        hasty.until(lambda: set(hasty.states().values()) == {"ready"})
        again = ask(hasty, 1, do="sleep", seconds=60)

    assert (hung.status_code, again.status_code) == (504, 504)
    assert statuses.keys() == {200}
    workers = hasty.workers()
    assert workers[2]["pid"] == workers[3]["pid"] not in {shared, workers[1]["pid"]}
    assert [workers[n]["shared_with"] for n in (1, 2, 3)] == [0, 1, 1]
    assert (workers[2]["restarts"], workers[2]["reason"]) == (1, "")


def test_a_slow_request_is_finished_in_a_process_of_its_own_while_others_wait(
    hasty: Rig,
) -> None:
    hasty.serve_these(models(1, 2))

    with load(hasty, "/v2/models/m2/infer") as statuses:
        slow = ask(hasty, 1, do="sleep", seconds=0.9, n=4)

    assert (slow.status_code, slow.json()["n"]) == (200, 4)
    assert statuses.keys() == {200}
    assert hasty.workers()[1]["shared_with"] == 0


def test_a_version_that_loads_for_too_long_holds_up_its_neighbours_but_once(
    hasty: Rig, tmp_path: Path
) -> None:
    hasty.loads = {2: {"seconds": 1.4}}
    hasty.serve_these(models(1))

    with load(hasty, "/v2/models/m1/infer") as statuses:
        hasty.serve_these(models(1, 2))

    assert statuses.keys() == {200}
    assert hasty.workers()[2]["shared_with"] == 0
    sizes = tmp_path / "run" / "sizes.json"
    hasty.until(lambda: sizes.exists() and "digest2" in json.loads(sizes.read_text()))
    assert json.loads(sizes.read_text())["digest2"][1] > 1.4


def test_a_poison_row_ends_a_shared_process_once_and_then_its_own(rig: Rig) -> None:
    rig.serve_these(models(1, 2))

    poison = ask(rig, 1, do="die")
    rig.until(lambda: rig.states() == {1: "ready", 2: "ready"})

    assert (poison.status_code, poison.json()["code"]) == (502, "PS511")
    assert Counter(rig.placed) == {1: 3, 2: 2}
    assert ask(rig, 1).status_code == ask(rig, 2).status_code == 200


def test_the_first_request_loads_a_version_that_waits_for_it(rig: Rig) -> None:
    rig.deployments = models(1, serving={"load": "first request"})
    rig.until(lambda: rig.states() == {1: "unloaded"})
    ready = rig.get("/v2/models/m1/ready")
    assert rig.placed == []

    answer = ask(rig, 1, n=5)

    assert (ready.status_code, answer.status_code, answer.json()["n"]) == (200, 200, 5)
    assert rig.states() == {1: "ready"}
    assert rig.placed == [1]


def test_the_first_request_of_a_version_that_does_not_load_says_why(rig: Rig) -> None:
    rig.loads = {1: {"do": "fail"}}
    rig.deployments = models(1, serving={"load": "first request"})
    rig.until(lambda: rig.states() == {1: "unloaded"})

    answer = ask(rig, 1)

    assert (answer.status_code, answer.json()["code"]) == (503, "PS503")
    assert "PS570 No module named yaml Lock it." in answer.json()["error"]
    assert rig.states() == {1: "failed"}


def budget(versions: int) -> int:
    """Return room for so many versions of 64 MB in one process, and half a one more."""
    return CHILD_BYTES + int((versions + 0.5) * 64 * MB)


def test_memory_goes_to_those_who_are_asked_and_the_least_recently_used_leaves(
    tmp_path: Path,
) -> None:
    with a_rig(tmp_path, shared=1, memory_bytes=budget(2)) as rig, running(rig):
        rig.loads = {n: {"bytes": 64 * MB} for n in (1, 2, 3)}
        rig.deployments = models(1, 2, 3)
        rig.until(lambda: Counter(rig.states().values()) == {"ready": 2, "unloaded": 1})
        started = sorted(rig.placed)

        asked = [ask(rig, n).status_code for n in (1, 2, 3, 3, 2, 1)]
        states = rig.states()

        assert set(asked) == {200}
        assert states == {1: "ready", 2: "ready", 3: "unloaded"}
        assert len(started) == 2
        sizes = [rig.workers()[n]["size_bytes"] for n in (1, 2, 3)]
        assert sizes == [pytest.approx(64 * MB, rel=0.1)] * 3
        assert rig.workers()[1]["rss_bytes"] < budget(3)


def test_a_rollouts_versions_stay_while_others_take_turns(tmp_path: Path) -> None:
    with a_rig(tmp_path, shared=1, memory_bytes=budget(3) + 2 * CHILD_BYTES) as rig, running(rig):
        rig.loads = {n: {"bytes": 64 * MB} for n in (1, 2, 5, 6)}
        rig.serve_these(canary(50))
        both = {rig.pid(1), rig.pid(2)}
        rig.deployments = [*canary(50), *models(5, 6)]
        rig.until(lambda: len(rig.states()) == 4 and "starting" not in rig.states().values())

        asked = {ask(rig, n).status_code for n in (5, 6, 5, 6)}

        assert asked == {200}
        assert {rig.pid(1), rig.pid(2)} == both
        assert Counter(rig.placed)[1] == Counter(rig.placed)[2] == 1


def test_a_challenger_without_room_beside_its_champion_is_failed_with_the_figures(
    tmp_path: Path,
) -> None:
    sizes = tmp_path / "run" / "sizes.json"
    sizes.parent.mkdir()
    sizes.write_text(json.dumps({"digest2": [1500 * MB, 1]}))

    with a_rig(tmp_path, memory_bytes=1536 * MB) as rig, running(rig):
        rig.loads = {1: {"bytes": 64 * MB}}
        rig.serve_these([version(1)])
        rig.deployments = canary(50)
        rig.until(lambda: rig.states() == {1: "ready", 2: "failed"})

        reason = rig.workers()[2]["reason"]
        assert reason.startswith("champion and challenger need 1.6 GB of 1.5 (PS525). Raise")
        assert {rig.ask().json()["number"] for _ in range(10)} == {1}
        assert 2 not in rig.placed


def test_a_version_larger_than_the_budget_is_refused_and_said(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sizes.json").write_text('{"digest1": [2000000000, 1]}')

    with a_rig(tmp_path, memory_bytes=1024 * MB) as rig, running(rig):
        rig.deployments = models(1)
        rig.until(lambda: rig.states() == {1: "failed"})

        assert rig.workers()[1]["reason"].startswith("it needs 1.9 GB of 1.0 (PS525)")


def test_a_process_of_which_nothing_is_left_ends(rig: Rig) -> None:
    rig.serve_these(models(1, 2))
    process = Path("/proc", str(rig.pid(1)))

    rig.deployments = []
    rig.until(lambda: rig.workers() == {})

    rig.until(lambda: not process.exists())


def test_what_the_host_says_of_a_process_that_it_ended_is_the_reason(rig: Rig) -> None:
    rig.serve_these(models(1, serving={"isolated": True}))

    answer = ask(rig, 1, do="grow")
    rig.loads = {1: {"seconds": 30}}
    seen = rig.workers()[1]

    assert answer.status_code == 502
    assert seen["restarts"] == 2
    rig.until(lambda: rig.workers()[1]["reason"] in {"used 812 MB of 800", ""})


def test_a_host_that_is_killed_comes_back_with_all_its_versions(rig: Rig) -> None:
    rig.serve_these(models(1, 2))

    with load(rig, "/v2/models/m2/infer") as statuses:
        os.kill(rig.processes[0].pid, signal.SIGKILL)
        rig.until(lambda: len(rig.processes) == 2)
        rig.until(lambda: rig.states() == {1: "ready", 2: "ready"})

    assert statuses.keys() == {200}
    assert rig.processes[0].poll() is not None


def test_several_processes_share_the_requests_of_a_version(rig: Rig) -> None:
    rig.serve_these([version(1, serving={"workers": 2})])

    with rig.busy() as one, rig.busy() as other:
        pass  # both were in a worker's hands at one time

    with load(rig, "/v2/models/m/infer") as statuses:
        os.kill(rig.pid(1), signal.SIGKILL)
        rig.until(lambda: rig.workers()[1]["restarts"] == 1)
        rig.until(lambda: rig.placed == [1, 1, 1])

    assert one.result().json()["pid"] != other.result().json()["pid"]
    assert statuses.keys() == {200}


TYPICAL = {"columns": [{"name": "age", "datatype": "FP64", "example": 41.5}]}
NEUTRAL = {"columns": [{"name": "age", "datatype": "FP64"}]}


@pytest.mark.parametrize(
    ("signature", "first", "state"),
    [
        (TYPICAL, {"do": "answer", "status": 500}, "failed"),
        (TYPICAL, {"do": "answer", "status": 422}, "ready"),
        (NEUTRAL, {"do": "answer", "status": 500}, "ready"),
        (NEUTRAL, {"do": "die"}, "failed"),
        (TYPICAL, {}, "ready"),
    ],
)
def test_a_version_is_ready_once_it_answered_a_typical_row(
    rig: Rig, signature: dict[str, Any], first: dict[str, Any], state: str
) -> None:
    rig.loads = {1: {"first": first}}
    rig.deployments = models(1, signature=signature)

    rig.until(lambda: rig.states() == {1: state})

    assert rig.log() == []
    assert (rig.workers()[1]["reason"] != "") == (state == "failed")


def test_a_version_whose_processes_keep_dying_is_tried_by_one_request_at_a_time(
    tmp_path: Path,
) -> None:
    with a_rig(tmp_path, shared=1) as rig, running(rig):
        rig.serve_these(models(1))
        for kills in range(1, 4):
            os.kill(rig.pid(1), signal.SIGKILL)
            rig.until(lambda kills=kills: rig.workers()[1]["restarts"] == kills)
            rig.until(lambda: rig.states()[1] in {"ready", "failed"})
        rig.until(lambda: rig.states() == {1: "ready"})

        def sizes() -> list[int]:
            with ThreadPoolExecutor(8) as pool, rig.busy("/v2/models/m1/infer") as first:
                asked = [pool.submit(ask, rig, 1, n=n) for n in range(8)]
                rig.until(lambda: rig.requests_held() == 9)
            return [one.result().json()["batch"] for one in (first, *asked)]

        assert min(sizes()) == 1
        assert max(sizes()) > 1


def test_large_requests_of_one_version_let_small_ones_of_another_in_between(
    tmp_path: Path,
) -> None:
    with a_rig(tmp_path, shared=1, turn_bytes=100) as rig, running(rig):
        rig.serve_these(models(1, 2))
        ended: list[int] = []

        def one(number: int, pad: str) -> None:
            ask(rig, number, do="sleep", seconds=0.05, pad=pad)
            ended.append(number)

        with ThreadPoolExecutor(max_workers=11) as pool, rig.busy("/v2/models/m1/infer"):
            for _ in range(10):
                pool.submit(one, 1, "x" * 100)
            pool.submit(one, 2, "")
            rig.until(lambda: rig.requests_held() == 12)

        assert len(ended) == 11
        assert ended.index(2) < 5


def test_many_versions_are_loaded_one_after_the_other_and_who_is_asked_for_first(
    rig: Rig,
) -> None:
    rig.loads = {n: {"seconds": 0.05} for n in range(1, 31)}
    rig.deployments = models(*range(1, 31))
    rig.until(lambda: len(rig.placed) > 2)

    answer = ask(rig, 30)

    assert answer.status_code == 200
    assert rig.placed.index(30) < 25
    rig.until(lambda: set(rig.states().values()) == {"ready"})
    assert sorted(rig.placed) == list(range(1, 31))


def test_a_version_whose_digest_changes_under_its_number_is_loaded_anew(rig: Rig) -> None:
    first = version(1)
    rig.serve_these([first])

    rig.deployments = [replace(first, artifact_digest="other")]

    rig.until(lambda: rig.placed == [1, 1] and rig.states() == {1: "ready"})
