from __future__ import annotations

import http.client
import json
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from penstock.domain import Environment, Role
from penstock.inference.prediction_log.counting import Arms
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


def test_an_answer_names_version_arm_and_prediction_and_is_logged_first(served: Rig) -> None:
    answer = served.ask(n=7)

    (entry,) = served.log()
    assert answer.status_code == 200
    assert (answer.json()["number"], answer.json()["n"]) == (1, 7)
    assert answer.headers["penstock-version"] == "m@1"
    assert answer.headers["penstock-arm"] == "champion"
    assert answer.headers["penstock-prediction-id"] == entry.id
    assert (entry.number, entry.role, entry.status, entry.rows) == (1, "champion", 200, 1)
    assert entry.outcome is Outcome.ANSWERED
    assert json.loads(entry.request) == {"n": 7}
    assert entry.reply == answer.content
    assert entry.ended_us > entry.arrived_us


def test_every_prediction_has_an_id_of_its_own(served: Rig) -> None:
    ids = [served.ask().headers["penstock-prediction-id"] for _ in range(20)]

    assert len(set(ids)) == 20
    assert [entry.id for entry in served.log()] == ids
    assert not any("." in each for each in ids)


def test_the_callers_own_id_is_kept_and_cannot_inject_a_header(served: Rig) -> None:
    plain = served.ask(id="loan 17")
    nasty = served.ask(id="a\r\nevil: é")

    assert plain.headers["penstock-prediction-id"] == "loan 17"
    assert "evil" not in nasty.headers
    assert nasty.headers["penstock-prediction-id"] == "a%0D%0Aevil: %C3%A9"
    assert [entry.id for entry in served.log()] == ["loan 17", "a\r\nevil: é"]


def test_the_split_sends_each_arm_its_share(rig: Rig) -> None:
    rig.serve_these(canary(30))

    answers = [rig.ask(n=n) for n in range(300)]

    arms = Counter(answer.headers["penstock-arm"] for answer in answers)
    assert arms["challenger"] == pytest.approx(90, abs=30)
    assert {answer.json()["number"] for answer in answers} == {1, 2}
    counts = Arms(rig.folder / "log/production/m").count(
        since_us=0, until_us=2**60, slow_ms=10_000
    )
    assert {role: count.requests for role, count in counts.items()} == arms
    assert {worker["number"]: worker["share_now"] for worker in rig.workers().values()} == {
        1: 70,
        2: 30,
    }


def test_requests_that_come_together_share_a_frame_and_get_their_own_answers(
    served: Rig,
) -> None:
    with ThreadPoolExecutor(max_workers=30) as pool, served.busy(n=-1) as first:
        asked = [pool.submit(served.ask, n=n) for n in range(30)]
        served.until(lambda: served.requests_held() == 31)
    answers = [one.result().json() for one in (first, *asked)]

    assert [answer["n"] for answer in answers] == [-1, *range(30)]
    assert max(answer["batch"] for answer in answers) > 10


def test_a_lease_that_runs_out_gives_the_champion_all_traffic(rig: Rig) -> None:
    rig.serve_these(canary(50, lease_until=rig.now() + timedelta(minutes=5)))
    before = {rig.ask().json()["number"] for _ in range(40)}

    rig.ahead = timedelta(minutes=5)
    after = {rig.ask().json()["number"] for _ in range(40)}

    assert (before, after) == ({1, 2}, {1})
    assert rig.workers()[2]["share_now"] == 0


def test_a_version_can_be_asked_for_by_number_and_no_canary_counts_it(rig: Rig) -> None:
    rig.serve_these([*canary(50), version(3, Role.PREVIOUS, 0)])

    answer = rig.post("/v2/models/m/versions/3/infer", n=1)
    missing = rig.post("/v2/models/m/versions/9/infer", n=1)

    assert answer.json()["number"] == 3
    assert answer.headers["penstock-arm"] == "explicit"
    assert [entry.role for entry in rig.log()] == ["explicit"]
    assert missing.status_code == 404
    assert missing.json()["code"] == "PS502"


def test_the_test_environment_has_versions_paths_and_a_log_of_its_own(rig: Rig) -> None:
    tried = version(2, environment=Environment.TEST)
    rig.serve_these([version(1), tried])

    production, test = rig.ask(n=1), rig.post("/test/v2/models/m/infer", n=2)
    invoked = rig.post("/test/models/m/invocations", n=3)

    assert [each.json()["number"] for each in (production, test, invoked)] == [1, 2, 2]
    assert invoked.json()["kind"] == 2
    assert [entry.number for entry in rig.log()] == [1]
    assert [entry.number for entry in rig.log("test")] == [2, 2]


def test_invocations_need_no_name_while_one_model_serves(served: Rig) -> None:
    alone = served.post("/invocations", n=1)
    served.serve_these([version(1), version(2, model="other")])
    two = served.post("/invocations", n=1)

    assert alone.json()["number"] == 1
    assert (two.status_code, two.json()["code"]) == (404, "PS515")
    assert served.get("/models/other/ping").status_code == 200


def test_the_protocols_own_questions_are_answered_from_the_signature(served: Rig) -> None:
    described = served.get("/v2/models/m").json()

    assert served.get("/v2").json()["name"] == "penstock"
    assert served.get("/v2/health/live").status_code == 200
    assert served.get("/v2/health/ready").json()["ready"] is True
    assert served.get("/v2/models/m/ready").json() == {"name": "m", "ready": True}
    assert served.get("/v2/models/m/versions/1").json() == described
    assert served.get("/v2/models/m/versions/1/ready").status_code == 200
    assert served.get("/ping").status_code == 200
    assert described["versions"] == ["1"]
    assert described["inputs"] == [{"name": "age", "datatype": "FP64", "shape": [-1]}]
    assert described["outputs"][1] == {
        "name": "probability",
        "datatype": "FP64",
        "shape": [-1, 2],
    }


def test_the_workers_are_described(served: Rig) -> None:
    worker = served.workers()[1]

    assert worker["rss_bytes"] > 10**6
    assert 0 < worker.pop("cold_start_s") < 20
    assert worker.pop("pid") > 1
    assert 0 <= worker.pop("size_bytes") < 10**7
    assert 0 <= worker.pop("idle_s") < 20
    assert worker.pop("figures")["errors"] == 0
    assert worker | {"rss_bytes": 0} == {
        "environment": "production",
        "model": "m",
        "number": 1,
        "role": "champion",
        "state": "ready",
        "shared_with": 0,
        "rss_bytes": 0,
        "restarts": 0,
        "reason": "",
        "share_now": 100,
        "log_drops": 0,
        "log_dropped_us": None,
    }


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v2/models/none/infer", 404, "PS501"),
        ("POST", "/v2/models/..%2Fm/infer", 404, "PS509"),
        ("GET", "/v2/models/none", 404, "PS501"),
        ("GET", "/v2/models/m/versions/9", 404, "PS502"),
        ("GET", "/v2/models/m/infer", 405, "PS508"),
        ("DELETE", "/v2/models/m", 405, "PS508"),
        ("GET", "/favicon.ico", 404, "PS509"),
    ],
)
def test_what_is_not_there_is_refused_with_a_code(
    served: Rig, method: str, path: str, status: int, code: str
) -> None:
    answer = served.client.request(
        method, served.url + path, headers={"content-type": "application/json"}
    )

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["hint"]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content-type": "text/plain"}, 415, "PS507"),
        ({"content-type": "application/json", "origin": "http://evil.example"}, 403, "PS537"),
        ({"content-type": "application/json", "origin": "null"}, 403, "PS537"),
        ({"inference-header-content-length": "3"}, 400, "PS535"),
        ({"inference-header-content-length": "x"}, 400, "PS535"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415, "PS514"),
        ({"content-type": "application/json", "host": "evil.example"}, 403, "PS510"),
    ],
)
def test_a_request_with_wrong_headers_is_refused_unread(
    served: Rig, headers: dict[str, str], status: int, code: str
) -> None:
    url = served.url + "/v2/models/m/infer"
    answer = served.client.post(url, content=b"{}", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert served.log() == []


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "[::1]:8421", "models.bank"])
def test_the_hosts_allowed_are_the_loopback_and_those_configured(
    tmp_path: Path, host: str
) -> None:
    with a_rig(tmp_path, allowed_hosts=("models.bank",)) as rig, running(rig):
        assert rig.get("/v2/health/live", host=host).status_code == 200


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_too_large_is_refused_and_the_next_caller_is_served(
    tmp_path: Path, declared: bool
) -> None:
    def pieces() -> Iterator[bytes]:
        yield from [b"x" * 400] * 3

    with a_rig(tmp_path, body_bytes=1000) as rig, running(rig):
        rig.serve_these([version(1)])
        answer = rig.client.post(
            rig.url + "/v2/models/m/infer",
            content=b"x" * 1001 if declared else pieces(),
            headers={"content-type": "application/json"},
        )

        assert (answer.status_code, answer.json()["code"]) == (413, "PS506")
        assert rig.ask().status_code == 200
        assert len(rig.log()) == 1


def test_a_body_that_does_not_arrive_is_given_up(tmp_path: Path) -> None:
    with a_rig(tmp_path, deadline_s=0.3) as rig, running(rig):
        connection = http.client.HTTPConnection(rig.url.removeprefix("http://"))
        connection.putrequest("POST", "/v2/models/m/infer")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "10")
        connection.endheaders(b"{")
        answer = connection.getresponse()

        assert answer.status == 408
        assert json.loads(answer.read())["code"] == "PS513"
        connection.close()


def test_the_watermark_never_passes_a_request_that_has_not_ended(rig: Rig) -> None:
    rig.serve_these(canary(50))
    folder = rig.folder / "log/production/m"
    before_us = int(rig.now().timestamp() * 1e6)
    rig.until(lambda: (Arms(folder).watermark() or 0) > before_us)

    with socket.create_connection(("127.0.0.1", int(rig.url.rpartition(":")[2]))) as slow:
        body = b'{"do": "sleep", "seconds": 1.2}'
        head = "POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        sent_us = int(rig.now().timestamp() * 1e6)
        slow.sendall(head.encode() + body)
        seen: list[int] = []
        while (mark_us := Arms(folder).watermark() or 0) and not rig.log():
            seen.append(mark_us)  # read first: what is said after the end may be later
        assert slow.recv(12) == b"HTTP/1.1 200"

    (entry,) = rig.log()
    assert entry.arrived_us >= sent_us
    assert max(seen) <= entry.arrived_us
    rig.until(lambda: (Arms(folder).watermark() or 0) > entry.ended_us)


def test_a_canary_batch_below_the_watermark_is_complete(rig: Rig) -> None:
    rig.serve_these(canary(50))
    folder = rig.folder / "log/production/m"
    from_us = int(rig.now().timestamp() * 1e6)

    counted: list[tuple[int, int]] = []
    for _ in range(4):
        rig.ask_many([{"n": n} for n in range(40)])
        mark_us = Arms(folder).watermark() or 0
        counts = Arms(folder).count(since_us=from_us, until_us=mark_us, slow_ms=10_000)
        counted.append((mark_us, sum(count.requests for count in counts.values())))

    arrivals = [entry.arrived_us for entry in rig.log()]
    for mark_us, requests in counted:
        assert requests == sum(arrived < mark_us for arrived in arrivals)
    assert len(arrivals) == 160


def test_a_change_of_roles_is_answered_by_the_new_champion_at_once(rig: Rig) -> None:
    rig.serve_these(canary(50))

    rig.deployments = [version(2, generation=2), version(1, Role.PREVIOUS, 0, generation=2)]
    rig.until(lambda: rig.workers()[2]["role"] == "champion")

    assert {rig.ask().json()["number"] for _ in range(20)} == {2}
    assert rig.log()[-1].generation == 2


def test_a_version_that_leaves_the_routes_is_ended_after_its_last_answer(rig: Rig) -> None:
    rig.serve_these([version(1), version(2, Role.WARM, 0, serving={"isolated": True})])
    process = Path("/proc", str(rig.pid(2)))

    with rig.busy("/v2/models/m/versions/2/infer") as asked:
        rig.deployments = [version(1)]
        rig.until(lambda: rig.get("/v2/models/m/versions/2").status_code == 404)
        was_there = process.exists()

    assert was_there
    assert asked.result().json()["number"] == 2
    rig.until(lambda: set(rig.workers()) == {1})
    rig.until(lambda: not process.exists())
    assert rig.states() == {1: "ready"}


def test_an_unknown_model_is_known_as_soon_as_the_routes_have_it(rig: Rig) -> None:
    refused = rig.ask()

    rig.serve_these([replace(version(1), signature={})])

    assert refused.json()["code"] == "PS501"
    assert rig.ask().status_code == 200
