from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from penstock.domain import Deployment, Environment, Role
from penstock.inference.gateway.routing import ModelRoutes, choose, share_now, table

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
CHAMPION = Deployment(
    "m", Environment.PRODUCTION, 1, Role.CHAMPION, "a", "l", {}, 80, 7, None, None
)
CHALLENGER = Deployment(
    "m",
    Environment.PRODUCTION,
    2,
    Role.CHALLENGER,
    "b",
    "l",
    {},
    20,
    7,
    NOW + timedelta(seconds=10),
    1,
)
PREVIOUS = replace(CHAMPION, number=3, role=Role.PREVIOUS, share=0)


def routes(*deployments: Deployment) -> ModelRoutes:
    (found,) = table(deployments).values()
    return found


def everyone(_: Deployment) -> bool:
    return True


def chosen(
    among: ModelRoutes, *, now: datetime = NOW, unready: tuple[int, ...] = ()
) -> Counter[int | None]:
    draws = random.Random(3)
    counts: Counter[int | None] = Counter()
    for _ in range(2000):
        found = choose(
            among,
            drawn=draws.random() * 100,
            now=now,
            ready=lambda deployment: deployment.number not in unready,
        )
        counts[found.number if found else None] += 1
    return counts


def test_each_arm_gets_its_share() -> None:
    counts = chosen(routes(CHAMPION, CHALLENGER, PREVIOUS))

    assert counts.keys() == {1, 2}
    assert counts[2] == pytest.approx(400, abs=70)


@pytest.mark.parametrize("seconds", [10, 11, 3600])
def test_a_lease_that_has_passed_gives_the_champion_everything(seconds: int) -> None:
    counts = chosen(routes(CHAMPION, CHALLENGER), now=NOW + timedelta(seconds=seconds))

    assert counts == {1: 2000}


def test_a_challenger_without_a_lease_gets_nothing_in_production() -> None:
    assert chosen(routes(CHAMPION, replace(CHALLENGER, lease_until=None))) == {1: 2000}


def test_the_share_of_a_challenger_that_is_not_ready_goes_to_the_champion() -> None:
    assert chosen(routes(CHAMPION, CHALLENGER), unready=(2,)) == {1: 2000}


def test_only_champion_or_challenger_answer_when_the_champion_is_not_ready() -> None:
    counts = chosen(routes(CHAMPION, CHALLENGER, PREVIOUS), unready=(1,))

    assert counts.keys() == {2, None}


def test_in_the_test_environment_a_challenger_alone_answers_everything() -> None:
    alone = replace(CHALLENGER, environment=Environment.TEST, lease_until=None)

    assert chosen(routes(alone)) == {2: 2000}


def test_the_shares_of_the_moment_follow_lease_and_readiness() -> None:
    among = routes(CHAMPION, CHALLENGER, PREVIOUS)
    later = NOW + timedelta(minutes=1)

    assert [share_now(d, among, now=NOW, ready=everyone) for d in among.running.values()] == [
        80,
        20,
        0,
    ]
    assert [share_now(d, among, now=later, ready=everyone) for d in among.running.values()] == [
        100,
        0,
        0,
    ]


def test_models_and_environments_are_kept_apart() -> None:
    other = replace(CHAMPION, model="n", number=5)
    tried = replace(CHAMPION, environment=Environment.TEST, number=6, generation=9)

    found = table([CHAMPION, other, tried])

    assert {key: list(each.running) for key, each in found.items()} == {
        ("production", "m"): [1],
        ("production", "n"): [5],
        ("test", "m"): [6],
    }
    assert found["test", "m"].generation == 9
