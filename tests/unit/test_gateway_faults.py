from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from penstock.domain import Role
from penstock.errors import IntegrityError
from penstock.inference.prediction_log.counting import ArmCount, Arms
from penstock.inference.prediction_log.segments import Outcome
from tests.unit.gateway_rig import Rig, a_rig, canary, running, version


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with a_rig(tmp_path) as made, running(made):
        yield made


@pytest.fixture
def served(rig: Rig) -> Rig:
    rig.serve_these([version(1)])
    return rig


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Rig]:
    """A gateway with a deadline of one second."""
    with a_rig(tmp_path, deadline_s=1.0) as made, running(made):
        yield made


def arms(rig: Rig) -> dict[str, ArmCount]:
    folder = rig.folder / "log/production/m"
    return Arms(folder).count(since_us=0, until_us=2**60, slow_ms=10_000)


def test_a_worker_killed_while_it_idles_is_replaced_before_anyone_asks(served: Rig) -> None:
    os.kill(served.pid(1), signal.SIGKILL)
    served.until(lambda: served.workers()[1]["restarts"] == 1)
    served.until(lambda: served.states() == {1: "ready"})

    assert served.ask().status_code == 200


def test_a_worker_killed_under_load_costs_no_request(served: Rig) -> None:
    statuses: Counter[int] = Counter()
    done = threading.Event()

    def load() -> None:
        with httpx.Client() as client:
            while not done.is_set():
                answer = client.post(served.url + "/v2/models/m/infer", json={}, timeout=20)
                statuses[answer.status_code] += 1

    callers = [threading.Thread(target=load) for _ in range(4)]
    for caller in callers:
        caller.start()
    for kills in range(1, 3):
        os.kill(served.pid(1), signal.SIGKILL)
        served.until(lambda kills=kills: served.workers()[1]["restarts"] == kills)
        served.until(lambda: served.states() == {1: "ready"})
    done.set()
    for caller in callers:
        caller.join()

    assert statuses.keys() == {200}
    assert len(served.log()) == statuses[200]


def test_a_poison_row_kills_two_workers_and_its_batch_mates_are_answered(served: Rig) -> None:
    first: list[dict[str, Any]] = [{"do": "sleep", "seconds": 0.3}]

    answers = served.ask_many([*first, {"do": "die"}, *({"n": n} for n in range(10))])

    assert [answer.status_code for answer in answers] == [200, 502] + [200] * 10
    assert answers[1].json()["code"] == "PS511"
    assert served.placed == [1, 1, 1]
    assert len(served.processes) == 1
    assert arms(served) == {"champion": ArmCount(12, 1, 0)}


def test_a_request_in_flight_at_a_death_is_asked_again(served: Rig, tmp_path: Path) -> None:
    answer = served.ask(do="die once", marker=str(tmp_path / "marker"), n=3)

    assert (answer.status_code, answer.json()["n"]) == (200, 3)
    assert [entry.outcome for entry in served.log()] == [Outcome.ANSWERED]


@pytest.mark.parametrize("do", ["garbage", "huge"])
def test_a_worker_that_talks_nonsense_is_replaced(served: Rig, do: str) -> None:
    answer = served.ask(do=do)

    assert (answer.status_code, answer.json()["code"]) == (502, "PS511")
    served.until(lambda: served.states() == {1: "ready"})
    assert served.ask().status_code == 200


def test_a_late_answer_is_an_error_of_its_arm_and_others_go_on(hasty: Rig) -> None:
    hasty.serve_these([version(1)])

    late = hasty.ask(do="sleep", seconds=60)
    hasty.until(lambda: hasty.states() == {1: "ready"})
    next_one = hasty.ask()

    assert (late.status_code, late.json()["code"]) == (504, "PS504")
    assert late.headers["penstock-version"] == "m@1"
    assert next_one.status_code == 200
    assert arms(hasty)["champion"] == ArmCount(2, 1, 0)
    assert hasty.workers()[1]["restarts"] == 1
    assert [entry.status for entry in hasty.log()] == [504, 200]


def test_one_hanging_model_does_not_slow_another(rig: Rig) -> None:
    rig.serve_these([version(1), version(2, model="other")])

    with rig.busy() as hung:
        answers = [rig.post("/v2/models/other/infer") for _ in range(20)]
        waited_for_it = hung.done()

    assert {answer.status_code for answer in answers} == {200}
    assert not waited_for_it


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"do": "die"}, 502),
        ({"do": "garbage"}, 502),
        ({"do": "answer", "status": 500}, 500),
        ({"do": "answer", "status": 422}, 422),
        ({"do": "sleep", "seconds": 60}, 504),
    ],
    ids=["dies", "talks nonsense", "fails", "refuses", "hangs"],
)
def test_what_the_challenger_fails_the_champion_answers(
    hasty: Rig, asked: dict[str, Any], status: int
) -> None:
    hasty.serve_these(canary(100))

    answer = hasty.ask(on=[2], n=5, **asked)

    assert (answer.status_code, answer.json()["number"], answer.json()["n"]) == (200, 1, 5)
    assert answer.headers["penstock-version"] == "m@1"
    assert answer.headers["penstock-arm"] == "champion"
    attempt, fallback = hasty.log()
    assert (attempt.number, attempt.status, attempt.outcome) == (2, status, Outcome.FAILED)
    assert (fallback.number, fallback.outcome) == (1, Outcome.FALLBACK)
    assert attempt.arrived_us == fallback.arrived_us
    assert arms(hasty) == {"challenger": ArmCount(1, 1, 0)}


def test_what_both_refuse_is_the_callers_mistake(rig: Rig) -> None:
    rig.serve_these(canary(100))

    answer = rig.ask(do="answer", status=422)

    assert (answer.status_code, answer.json()["number"]) == (422, 1)
    assert [entry.outcome for entry in rig.log()] == [Outcome.DISMISSED, Outcome.FALLBACK]
    assert arms(rig) == {"challenger": ArmCount(1, 0, 0)}


def test_what_both_fail_is_an_error_of_the_arm_that_was_drawn(rig: Rig) -> None:
    rig.serve_these(canary(100))

    answer = rig.ask(do="answer", status=500)

    assert answer.status_code == 500
    assert arms(rig) == {"challenger": ArmCount(1, 1, 0)}


def test_a_champions_own_refusal_is_no_error(served: Rig) -> None:
    assert served.ask(do="answer", status=400).status_code == 400
    assert arms(served) == {"champion": ArmCount(1, 0, 0)}


def test_a_challenger_killed_with_requests_in_its_hands_costs_none(
    rig: Rig, tmp_path: Path
) -> None:
    rig.serve_these(canary(50))
    begun, never = tmp_path / "begun", tmp_path / "never"
    held = {"do": "hold", "on": [2], "marker": str(begun), "until": str(never)}

    with ThreadPoolExecutor(max_workers=40) as pool:
        asked = [pool.submit(rig.ask, **held) for _ in range(40)]
        rig.until(lambda: begun.exists() and rig.requests_held() + len(rig.log()) == 40)
        os.kill(rig.pid(2), signal.SIGKILL)

    assert [one.result().status_code for one in asked] == [200] * 40
    outcomes = Counter(entry.outcome for entry in rig.log())
    assert outcomes[Outcome.FAILED] == outcomes[Outcome.FALLBACK] > 5


def test_the_share_of_a_challenger_that_does_not_start_goes_to_the_champion(rig: Rig) -> None:
    rig.serve_these([version(1)])
    rig.start_error = IntegrityError("PS701", "The artifact changed.", hint="Restore it.")
    rig.deployments = canary(50)
    rig.until(lambda: rig.states() == {1: "ready", 2: "failed"})

    numbers = {rig.ask().json()["number"] for _ in range(20)}

    workers = rig.workers()
    assert numbers == {1}
    assert "The artifact changed." in workers[2]["reason"]
    assert (workers[1]["share_now"], workers[2]["share_now"]) == (100, 0)


def test_a_version_that_could_not_start_starts_once_the_cause_is_gone(rig: Rig) -> None:
    rig.start_error = OSError("disk on fire")
    rig.deployments = [version(1)]
    rig.until(lambda: rig.states() == {1: "failed"})
    refused = rig.ask()
    unready = rig.get("/v2/models/m/ready")

    rig.start_error = None
    rig.until(lambda: rig.states() == {1: "ready"})

    assert (refused.status_code, refused.json()["code"]) == (503, "PS503")
    assert refused.headers["retry-after"] == "1"
    assert unready.status_code == 503
    assert rig.ask().status_code == 200
    assert rig.workers()[1]["reason"] == ""


def test_a_worker_that_ends_at_once_is_failed_with_its_code_and_its_last_words(
    tmp_path: Path,
) -> None:
    class Ending(Rig):
        def host(self, lock_digest: str, socket: Path, pool: Path) -> subprocess.Popen[bytes]:
            argv = [
                "sh",
                "-c",
                "yes | head -c 200000 >&2; echo 'No module named yaml' >&2; exit 3",
            ]
            return subprocess.Popen(argv, start_new_session=True, stderr=subprocess.PIPE)

    with a_rig(tmp_path) as made:
        rig = Ending(tmp_path, made.settings)
        with running(rig):
            rig.deployments = [version(1)]
            rig.until(lambda: rig.states() == {1: "failed"})

            reason = rig.workers()[1]["reason"]
            assert reason.endswith("exit code 3 before it was ready: No module named yaml")
            assert rig.get("/v2/health/ready").status_code == 200
        rig.client.close()


def test_a_worker_that_never_listens_is_given_up(tmp_path: Path) -> None:
    class Silent(Rig):
        def host(self, lock_digest: str, socket: Path, pool: Path) -> subprocess.Popen[bytes]:
            started = subprocess.Popen(["sleep", "60"], start_new_session=True)
            self.processes.append(started)
            return started

    with a_rig(tmp_path, start_timeout_s=0.2) as made:
        rig = Silent(tmp_path, made.settings)
        with running(rig):
            rig.deployments = [version(1)]
            rig.until(lambda: rig.states() == {1: "failed"})

            assert "not ready in 0.2 s" in rig.workers()[1]["reason"]
            rig.until(lambda: rig.processes[0].poll() == -signal.SIGKILL)
        rig.client.close()


def test_too_many_waiting_requests_are_refused_and_logged_without_their_bodies(
    tmp_path: Path,
) -> None:
    with a_rig(tmp_path, queue_requests=3) as rig, running(rig):
        rig.serve_these([version(1)])
        with ThreadPoolExecutor(max_workers=8) as pool, rig.busy():
            asked = [pool.submit(rig.ask, n=n) for n in range(8)]
            rig.until(lambda: sum(one.done() for one in asked) == 5)
        answers = [one.result() for one in asked]

        statuses = Counter(answer.status_code for answer in answers)
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert statuses == {200: 3, 503: 5}
        assert refused.json()["code"] == "PS505"
        assert refused.headers["retry-after"] == "1"
        assert arms(rig) == {"champion": ArmCount(9, 5, 0)}
        assert {entry.request for entry in rig.log() if entry.status == 503} == {b""}


def test_routes_that_cannot_be_read_keep_serving_the_last_ones(served: Rig) -> None:
    served.routes_error = RuntimeError("database is locked")
    served.until(
        lambda: served.get("/v2/health/ready").json()["routes_error"] == "database is locked"
    )

    assert served.ask().status_code == 200
    os.kill(served.pid(1), signal.SIGKILL)
    assert served.ask().status_code == 200

    served.routes_error = None
    served.serve_these([version(1), version(2, Role.WARM, 0)])


def test_a_gateway_that_starts_while_the_database_is_away_serves_the_cached_routes(
    rig: Rig, tmp_path: Path
) -> None:
    rig.serve_these(canary(50))
    rig.until((tmp_path / "run/routes.json").exists)

    with a_rig(tmp_path) as second:
        second.routes_error = OSError("no database")
        with running(second):
            second.until(lambda: second.states() == {1: "ready", 2: "ready"})
            numbers = {second.ask().json()["number"] for _ in range(30)}
            second.ahead = timedelta(hours=1)
            later = {second.ask().json()["number"] for _ in range(30)}

    assert (numbers, later) == ({1, 2}, {1})


def test_a_broken_cache_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/routes.json").write_text('[{"model": "m"')

    with a_rig(tmp_path) as rig:
        rig.routes_error = OSError("no database")
        with running(rig):
            rig.until(lambda: rig.get("/v2/health/ready").json()["routes_error"] != "")

            assert rig.get("/v2/health/ready").status_code == 503
            assert rig.ask().status_code == 404


def test_a_log_that_cannot_be_written_costs_no_prediction(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where a folder should be")

    with a_rig(tmp_path) as rig, running(rig):
        rig.serve_these([version(1)])
        answers = [rig.ask().status_code for _ in range(3)]

        assert answers == [200] * 3
        assert rig.workers()[1]["log_drops"] == 3
