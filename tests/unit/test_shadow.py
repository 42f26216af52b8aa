"""A shadow gets copies, and nobody notices it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.domain import Deployment, Role
from penstock.inference.gateway import shadowing
from penstock.inference.prediction_log.segments import Outcome
from tests.unit.gateway_rig import Rig, a_rig, canary, running, version


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with a_rig(tmp_path) as made, running(made):
        yield made


def shadowed(share: int = 100) -> list[Deployment]:
    return [version(1), version(3, Role.SHADOW, share)]


def copies(rig: Rig) -> list[Any]:
    return [entry for entry in rig.log() if entry.role == "shadow"]


def test_a_shadow_answers_a_copy_of_each_request_under_the_same_id(rig: Rig) -> None:
    rig.serve_these(shadowed())

    answers = [rig.ask(n=n) for n in range(10)]
    rig.until(lambda: len(copies(rig)) == 10)

    assert {answer.json()["number"] for answer in answers} == {1}
    assert {answer.headers["penstock-arm"] for answer in answers} == {"champion"}
    given = {answer.headers["penstock-prediction-id"]: answer.json()["n"] for answer in answers}
    assert {entry.id for entry in copies(rig)} == given.keys()
    assert {entry.number for entry in copies(rig)} == {3}
    shadow = rig.workers()[3]
    assert (shadow["copies"], shadow["copies_dropped"], shadow["share_now"]) == (10, 0, 0)


def test_a_shadow_gets_its_share_and_no_arm_loses_any(rig: Rig) -> None:
    rig.serve_these([*canary(50), version(3, Role.SHADOW, 30)])

    numbers = Counter(rig.ask(n=n).json()["number"] for n in range(200))
    rig.until(lambda: rig.workers()[3]["copies"] == len(copies(rig)))

    assert numbers.keys() == {1, 2}
    assert len(copies(rig)) == pytest.approx(60, abs=25)


def test_requests_that_name_a_version_are_not_copied(rig: Rig) -> None:
    rig.serve_these(shadowed())

    named = rig.post("/v2/models/m/versions/1/infer", n=1)
    shadow = rig.post("/v2/models/m/versions/3/infer", n=2)
    rig.ask(n=3)
    rig.until(lambda: len(copies(rig)) == 1)

    assert (named.json()["number"], shadow.json()["number"]) == (1, 3)
    assert [entry.role for entry in rig.log()] == ["explicit", "explicit", "champion", "shadow"]


@pytest.mark.parametrize("do", ["die", "fail", "sleep"])
def test_a_shadow_that_dies_fails_or_hangs_costs_no_caller_anything(
    tmp_path: Path, do: str
) -> None:
    asked: dict[str, Any] = {"do": do, "seconds": 30, "on": [3]}
    if do == "fail":
        asked |= {"do": "answer", "status": 500}
    with a_rig(tmp_path, deadline_s=1.0) as rig, running(rig):
        rig.serve_these(shadowed())

        began_s = time.monotonic()
        statuses = [rig.ask(n=n, **asked).status_code for n in range(5)]
        took_s = time.monotonic() - began_s
        rig.until(lambda: bool(copies(rig)))

        assert statuses == [200] * 5
        assert took_s < 4  # whoever waits for the shadow waits 1 s, five times
        assert {entry.outcome for entry in copies(rig)} == {Outcome.FAILED}
        assert all(e.outcome is Outcome.ANSWERED for e in rig.log() if e.role == "champion")


def test_a_shadow_is_no_fallback(rig: Rig) -> None:
    rig.serve_these(shadowed())

    assert rig.ask(do="answer", status=500, on=[1]).status_code == 500
    rig.deployments = [version(3, Role.SHADOW, 100)]
    rig.until(lambda: set(rig.workers()) == {3})
    assert rig.ask(n=1).json()["code"] == "PS503"


def test_copies_that_find_no_room_are_dropped_and_counted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadowing, "QUEUE", 4)
    rig.serve_these(shadowed())

    assert rig.ask(do="sleep", seconds=1, on=[3]).status_code == 200
    rig.until(lambda: rig.workers()[3]["copies"] == 1)
    statuses = [rig.ask(n=n).status_code for n in range(10)]
    rig.until(lambda: len(copies(rig)) == 5)

    assert statuses == [200] * 10
    assert (rig.workers()[3]["copies"], rig.workers()[3]["copies_dropped"]) == (5, 6)


def test_copies_wait_while_callers_are_many(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shadowing, "QUIET", 0)
    rig.serve_these([*shadowed(), version(2, model="other", serving={"isolated": True})])

    with rig.busy("/v2/models/other/infer"):
        rig.ask(n=1)
        time.sleep(0.1)
        during = len(copies(rig))
    rig.until(lambda: len(copies(rig)) == 1)

    assert during == 0
