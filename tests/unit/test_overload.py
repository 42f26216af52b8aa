"""More than can be done: what is refused is refused at once, and the rest is answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain import Role
from penstock.inference.gateway.answers import RefusedError
from penstock.inference.gateway.overload import Pace, Room
from tests.unit.gateway_rig import Rig, a_rig, running, version

SERVICE_S = 0.05


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Rig]:
    with a_rig(tmp_path) as rig, running(rig):
        rig.serve_these([version(1)])
        yield rig


def test_a_pace_that_nobody_knows_refuses_nothing() -> None:
    pace = Pace()
    pace.waiting = 1

    assert pace.wait_s() == 0.0


def test_the_wait_is_what_is_before_it_at_the_pace_that_was_seen() -> None:
    pace = Pace()
    pace.waiting = 12
    pace.answered(2, 10.0, 10.5)
    pace.waiting -= 2

    assert pace.wait_s() == pytest.approx(2.5)


def test_a_faster_pace_is_believed_at_once_and_a_slower_one_by_and_by() -> None:
    pace = Pace()
    pace.waiting = 300
    pace.answered(1, 0.0, 1.0)
    slow_s = pace.wait_s()
    pace.answered(100, 0.5, 1.1)
    fast_s = pace.wait_s()
    for n in range(60):
        pace.answered(1, 1.1 + n, 2.1 + n)

    assert (slow_s, fast_s) == (pytest.approx(300), pytest.approx(0.3))
    assert pace.wait_s() == pytest.approx(300, rel=0.01)


def test_the_time_before_requests_are_sent_is_no_slow_pace() -> None:
    pace = Pace()
    pace.waiting = 1
    pace.answered(1, 0.0, 0.1)
    pace.answered(1, 1000.0, 1000.1)

    assert pace.wait_s() == pytest.approx(0.1)


def test_requests_that_waited_for_a_start_are_not_taken_for_a_slow_version(
    tmp_path: Path,
) -> None:
    with a_rig(tmp_path, deadline_s=4.0) as rig, running(rig):
        rig.loads[1] = {"seconds": 1.5}
        rig.deployments = [version(1)]
        rig.until(lambda: rig.states() == {1: "starting"})
        waited = rig.ask_many([{}] * 8)
        after = rig.ask_many([{}] * 8)

    assert [each.status_code for each in (*waited, *after)] == [200] * 16


@given(
    st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=60),
)
def test_room_is_never_overdrawn_and_all_of_it_comes_back(moves: list[tuple[int, bool]]) -> None:
    room = Room(max_requests=5, max_bytes=100)
    held: list[tuple[Any, int]] = []
    for size, leaves in moves:
        if leaves and held:
            held.pop()[0].__exit__(None, None, None)
        place = room.held(size)
        fits = len(held) < 5 and sum(each for _, each in held) + size <= 100
        try:
            place.__enter__()
        except RefusedError:
            assert not fits
        else:
            assert fits
            held.append((place, size))
    for place, _ in held:
        place.__exit__(None, None, None)

    with room.held(100):
        assert room.requests == 1


def test_what_all_callers_together_may_have_in_the_gateway_is_bounded(tmp_path: Path) -> None:
    with a_rig(tmp_path, held_requests=3) as rig, running(rig):
        rig.serve_these([version(1), version(2, model="other")])
        with ThreadPoolExecutor() as pool, rig.busy():
            waiting = [pool.submit(rig.ask) for _ in "ab"]
            rig.until(lambda: rig.requests_held() == 3)
            refused = rig.post("/v2/models/other/infer")
            told = rig.get("/v2/health/live")

        assert (refused.status_code, refused.json()["code"]) == (503, "PS546")
        assert int(refused.headers["retry-after"]) >= 1
        assert told.status_code == 200
        assert [each.result().status_code for each in waiting] == [200, 200]
        assert rig.ask().status_code == 200


def test_a_request_that_would_come_too_late_is_refused_at_once_and_not_sent(
    served: Rig,
) -> None:
    served.ask(do="sleep", seconds=0.3)
    with served.busy() as first:
        late = served.client.post(
            served.url + "/v2/models/m/infer", json={}, headers={"Penstock-Deadline-Ms": "100"}
        )
        waited_for_it = first.done()

    assert (late.status_code, late.json()["code"]) == (503, "PS505")
    assert "before this one" in late.json()["error"]
    assert int(late.headers["retry-after"]) >= 1
    assert not waited_for_it


@pytest.mark.parametrize(
    ("server_s", "version_ms", "asked_ms", "least_s"),
    [(0.3, None, None, 0.3), (15, 300, None, 0.3), (0.3, 900, None, 0.9),
     (15, None, "300", 0.3), (0.3, None, "15000", 0.3), (15, 300, "15000", 0.3)],
    ids=["server", "version is shorter", "version is longer", "caller", "caller may not wait",
         "nor longer than the version's"],
)  # fmt: skip
def test_the_deadline_is_the_versions_else_the_servers_and_a_caller_may_shorten_it(
    tmp_path: Path, server_s: float, version_ms: int | None, asked_ms: str | None, least_s: float
) -> None:
    serving = {} if version_ms is None else {"deadline_ms": version_ms}
    headers = {} if asked_ms is None else {"Penstock-Deadline-Ms": asked_ms}
    with a_rig(tmp_path, deadline_s=server_s) as rig, running(rig):
        rig.serve_these([version(1, serving=serving)])

        began_s = time.monotonic()
        answer = rig.client.post(
            rig.url + "/v2/models/m/infer",
            json={"do": "sleep", "seconds": 3},  # if the other deadline held, this were a 200
            headers=headers,
            timeout=20,
        )
        took_s = time.monotonic() - began_s

        assert (answer.status_code, answer.json()["code"]) == (504, "PS504")
        assert took_s >= least_s


@pytest.mark.parametrize("said", ["0", "soon", "-5", "1.5", ""])
def test_a_deadline_that_is_no_time_is_refused(served: Rig, said: str) -> None:
    answer = served.client.post(
        served.url + "/v2/models/m/infer", json={}, headers={"Penstock-Deadline-Ms": said}
    )

    assert (answer.status_code, answer.json()["code"]) == (400, "PS547")


def test_four_times_as_much_as_can_be_done_does_not_lower_what_is_done(tmp_path: Path) -> None:
    """One frame holds one request and takes 50 ms: the version does 20 requests a second."""
    body = json.dumps({"do": "sleep", "seconds": SERVICE_S})

    async def load(url: str, per_s: float, seconds: float) -> list[tuple[int, float]]:
        ended: list[tuple[int, float]] = []
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=400)
        async with httpx.AsyncClient(limits=limits, timeout=20) as client:

            async def one() -> None:
                began_s = time.monotonic()
                answer = await client.post(
                    url, content=body, headers={"content-type": "application/json"}
                )
                ended.append((answer.status_code, time.monotonic() - began_s))

            async with asyncio.TaskGroup() as group:
                for _ in range(int(per_s * seconds)):
                    group.create_task(one())
                    await asyncio.sleep(1 / per_s)
        return ended

    with a_rig(tmp_path, batch_requests=1, deadline_s=1.0) as rig, running(rig):
        rig.serve_these([version(1), version(2, Role.PREVIOUS, 0)])
        began_s = time.monotonic()
        for _ in range(20):
            rig.ask(do="sleep", seconds=SERVICE_S)
        calm_per_s = 20 / (time.monotonic() - began_s)
        began_s = time.monotonic()
        ended = asyncio.run(load(rig.url + "/v2/models/m/infer", 4 / SERVICE_S, 4))
        took_s = time.monotonic() - began_s

    good = [took_s for status, took_s in ended if status == 200]
    refused = [took_s for status, took_s in ended if status == 503]
    late = [took_s for status, took_s in ended if status == 504]
    assert len(good) / took_s > calm_per_s / 2, (len(good), len(refused), len(late))
    assert len(late) < len(good)  # the queue of a second is late when the machine stands still
    assert len(refused) > len(ended) / 4
    assert median(refused) < median(good) / 2  # who is refused does not wait with the others
