from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain import Role
from penstock.inference.gateway.caching import OVERHEAD_BYTES, Asked, Cache, Kept
from penstock.inference.program.frames import Reply
from tests.unit.gateway_rig import Rig, a_rig, canary, running, version

CACHING = {"cache_mb": 1}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with a_rig(tmp_path) as made, running(made):
        made.serve_these([version(1, serving=CACHING)])
        yield made


def test_the_same_request_gets_the_same_answer_under_an_id_of_its_own_and_is_logged(
    rig: Rig,
) -> None:
    first = rig.ask(do="tell id")
    second = rig.ask(do="tell id")
    other = rig.ask(do="tell id", n=1)

    assert "penstock-cached" not in first.headers
    assert second.headers["penstock-cached"] == "yes"
    assert second.json()["at"] == first.json()["at"] != other.json()["at"]
    ids = [each.headers["penstock-prediction-id"] for each in (first, second, other)]
    assert len(set(ids)) == 3
    assert [each.json()["id"] for each in (first, second, other)] == ids
    assert [entry.id for entry in rig.log()] == ids
    assert [entry.reply for entry in rig.log()][1] == second.content


def test_a_callers_own_id_comes_back_with_the_answer(rig: Rig) -> None:
    answers = [rig.ask(do="tell id", id="loan 17") for _ in range(2)]

    assert answers[0].content == answers[1].content
    assert answers[1].headers["penstock-cached"] == "yes"
    assert answers[1].headers["penstock-prediction-id"] == "loan 17"


@pytest.mark.parametrize(
    "asked",
    [{"do": "answer", "status": 422}, {"do": "answer", "status": 500}],
    ids=["refused", "failed"],
)
def test_what_cannot_be_given_again_is_asked_again(rig: Rig, asked: dict[str, Any]) -> None:
    answers = [rig.ask(**asked) for _ in range(2)]

    assert all("penstock-cached" not in answer.headers for answer in answers)


def test_versions_and_those_that_keep_nothing_are_not_confused(rig: Rig) -> None:
    lease = rig.now().replace(year=2999)
    both = [
        version(1, share=0, serving=CACHING),
        version(2, Role.CHALLENGER, 100, lease_until=lease),
    ]
    rig.ask(do="tell id")

    rig.serve_these(both)
    answers = [rig.ask(do="tell id") for _ in range(2)]

    assert [answer.json()["number"] for answer in answers] == [2, 2]
    assert answers[0].json()["at"] != answers[1].json()["at"]
    assert canary(50)[0].serving == {}


def test_a_version_that_leaves_takes_its_answers_along(rig: Rig) -> None:
    rig.ask(do="tell id")
    rig.serve_these([version(2)])
    rig.serve_these([version(1, serving=CACHING)])

    assert "penstock-cached" not in rig.ask(do="tell id").headers


bodies = st.binary(max_size=40)


@given(st.lists(st.tuples(bodies, bodies), max_size=30), st.integers(0, 5 * OVERHEAD_BYTES))
def test_a_cache_is_right_and_within_its_limit(
    asked: list[tuple[bytes, bytes]], limit: int
) -> None:
    cache = Cache()
    truth: dict[bytes, bytes] = {}

    for body, answer in asked:
        cache.keep(Asked("d", "own", 1, 0, body), Kept(Reply(200, "c", 1, answer), ""), limit)
        truth[body] = answer

    found = {body: cache.find(Asked("d", "own", 1, 0, body), "x") for body in truth}
    kept = {body: reply.body for body, reply in found.items() if reply is not None}
    assert kept.items() <= truth.items()
    assert sum(OVERHEAD_BYTES + len(b) + len(a) for b, a in kept.items()) <= limit
    if asked and limit >= OVERHEAD_BYTES + 80:
        assert asked[-1][0] in kept


def test_what_was_asked_least_recently_goes_first_and_versions_that_leave_take_theirs() -> None:
    cache = Cache()
    asked = [Asked("d", "own", 1, 0, b"%d" % n) for n in range(3)]
    room = 2 * (OVERHEAD_BYTES + 10)
    for each in asked[:2]:
        cache.keep(each, Kept(Reply(200, "c", 1, each.body), ""), room)

    cache.find(asked[0], "x")
    cache.keep(asked[2], Kept(Reply(200, "c", 1, b"2"), ""), room)
    kept = [each.body for each in asked if cache.find(each, "x")]
    cache.forget_all_but({"another"})

    assert kept == [b"0", b"2"]
    assert cache.find(asked[0], "x") is None
