"""The champion a second time, beside a challenger of the same share."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.deploy.canary import ArmCounts, compared
from penstock.domain import Deployment, Role
from penstock.inference.gateway import placing
from penstock.inference.gateway.routing import ModelRoutes, choose, share_now, table
from penstock.inference.gateway.state import State
from penstock.inference.prediction_log.counting import ArmCount, Arms
from penstock.inference.prediction_log.segments import Outcome
from penstock.records import database as records_database
from penstock.records.database import Database
from tests.unit.gateway_rig import Rig, a_rig, canary, running, version

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def arms(share: int) -> list[Deployment]:
    """Champion, challenger, and a control arm as large as the challenger."""
    champion, challenger = canary(share)
    control = replace(champion, role=Role.CONTROL, share=share)
    return [replace(champion, share=100 - 2 * share), challenger, control]


def routes(share: int) -> ModelRoutes:
    champion, challenger, control = arms(share)
    leased = replace(challenger, lease_until=NOW + timedelta(seconds=10))
    (found,) = table([control, champion, leased]).values()
    return found


def everyone(_: Deployment) -> bool:
    return True


def roles(
    among: ModelRoutes, *, now: datetime = NOW, away: frozenset[Role] = frozenset()
) -> Counter[Role]:
    draws = random.Random(3)

    def ready(deployment: Deployment) -> bool:
        return deployment.role not in away

    chosen = [choose(among, drawn=100 * draws.random(), now=now, ready=ready) for _ in range(3000)]
    return Counter(one.role for one in chosen if one is not None)


def test_the_control_arm_gets_as_many_requests_as_the_challenger() -> None:
    counts = roles(routes(20))

    assert counts[Role.CHALLENGER] == pytest.approx(600, abs=80)
    assert counts[Role.CONTROL] == pytest.approx(600, abs=80)
    assert counts[Role.CHAMPION] == pytest.approx(1800, abs=100)
    assert routes(20).running[1].role is Role.CHAMPION


@pytest.mark.parametrize(
    ("away", "seconds"),
    [({Role.CONTROL}, 0), ({Role.CHALLENGER}, 0), (set[Role](), 11)],
)
def test_its_requests_are_the_champions_when_it_or_the_challenger_is_away_or_the_lease_over(
    away: set[Role], seconds: int
) -> None:
    counts = roles(routes(20), now=NOW + timedelta(seconds=seconds), away=frozenset(away))

    assert Role.CONTROL not in counts
    assert counts.total() == 3000


@given(share=st.integers(1, 49), drawn=st.floats(0, 100, exclude_max=True))
def test_who_is_in_an_arm_stays_there_when_shares_rise(share: int, drawn: float) -> None:
    before = choose(routes(share), drawn=drawn, now=NOW, ready=everyone)
    after = choose(routes(min(share + 5, 49)), drawn=drawn, now=NOW, ready=everyone)

    assert before is not None
    assert after is not None
    if before.role is not Role.CHAMPION:
        assert after.role is before.role
    told = routes(share)
    shares = [share_now(one, told, now=NOW, ready=everyone) for one in (*told.running.values(),)]
    assert sum(shares) + share == 100


def test_a_change_of_the_control_arm_alone_is_a_change_of_the_routes() -> None:
    champion, challenger, control = arms(20)
    before = table([champion, challenger])

    assert table([champion, challenger], before) == before
    after = table([champion, challenger, control], before)

    ((_, found),) = after.items()
    assert found.control == control


def test_it_lives_in_a_process_of_its_own_and_pushes_nobody_out() -> None:
    champion, challenger, control = arms(20)
    places = placing.homes([champion, challenger, control])

    assert len({home for homes in places.values() for home in homes}) == 3
    assert placing.key_of(control) not in placing.rivals([champion, challenger, control])
    assert not placing.is_warm(control)


# ---- in a gateway --------------------------------------------------------------------------


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with a_rig(tmp_path) as made, running(made):
        yield made


def told(rig: Rig) -> dict[str, dict[str, Any]]:
    return {one["role"]: one for one in rig.get("/penstock/workers").json()}


def serve(rig: Rig, deployments: list[Deployment]) -> None:
    rig.deployments = deployments
    ready = {one.role.value: "ready" for one in deployments}
    rig.until(lambda: {role: one["state"] for role, one in told(rig).items()} == ready)


def counts(rig: Rig) -> dict[str, ArmCount]:
    return Arms(rig.folder / "log/production/m").count(since_us=0, until_us=2**60, slow_ms=10_000)


def test_champion_and_control_arm_answer_alike_from_workers_of_their_own(rig: Rig) -> None:
    serve(rig, arms(30))

    answers = [rig.ask(n=n) for n in range(200)]

    by_arm = Counter(answer.headers["penstock-arm"] for answer in answers)
    pids = {(a.headers["penstock-arm"], a.json()["number"], a.json()["pid"]) for a in answers}
    assert {(arm, number) for arm, number, _ in pids} == {
        ("champion", 1), ("challenger", 2), ("control", 1),
    }  # fmt: skip
    assert len({pid for *_, pid in pids}) == 3
    assert {role: count.requests for role, count in counts(rig).items()} == by_arm
    said = told(rig)
    assert {role: one["share_now"] for role, one in said.items()} == {
        "champion": 40, "challenger": 30, "control": 30,
    }  # fmt: skip
    assert {role: one["figures"]["requests"] for role, one in said.items()} == by_arm


def test_what_the_control_arm_fails_the_champion_answers_and_it_is_the_control_arms_failure(
    rig: Rig,
) -> None:
    serve(rig, arms(49))
    before = {role: one["pid"] for role, one in told(rig).items()}

    # The first request of version 1 ends its process: with the rig's seed the control arm's.
    marker = str(rig.folder / "died")
    answers = list[Any]()
    while "control" not in {entry.role for entry in rig.log()}:
        answers.append(rig.ask(do="die once", marker=marker, on=[1]))
    failed = [entry for entry in rig.log() if entry.outcome is Outcome.FAILED]

    assert {answer.status_code for answer in answers} == {200}
    assert {entry.role for entry in failed} == {"control"}
    rig.until(lambda: told(rig)["control"]["state"] == "ready")
    after = {role: one["pid"] for role, one in told(rig).items()}
    assert {role for role in after if after[role] != before[role]} == {"control"}


def test_it_ends_with_the_rollout_and_the_champion_answers(rig: Rig) -> None:
    serve(rig, arms(30))

    serve(rig, [version(1)])

    assert {rig.ask().headers["penstock-arm"] for _ in range(20)} == {"champion"}


def test_without_memory_for_it_the_champion_has_its_requests_and_the_gateway_says_so(
    tmp_path: Path,
) -> None:
    ballast = 60 * 2**20
    with a_rig(tmp_path, memory_bytes=230 * 2**20) as rig:
        rig.loads = {number: {"bytes": ballast} for number in (1, 2)}
        with running(rig):
            champion, challenger, control = arms(30)
            serve(rig, [champion, challenger])

            rig.deployments = [champion, challenger, control]
            rig.until(lambda: told(rig).get("control", {}).get("state") in NOT_THERE)
            arms_seen = {rig.ask().headers["penstock-arm"] for _ in range(60)}

            assert arms_seen == {"champion", "challenger"}
            assert told(rig)["control"]["share_now"] == 0


NOT_THERE = {State.UNLOADED.value, State.FAILED.value}

# ---- what the challenger is compared with --------------------------------------------------

_CHALLENGER, _CHAMPION = ArmCounts(100, 1, 5), ArmCounts(800, 8, 40)


@pytest.mark.parametrize(
    ("control", "name", "arm"),
    [
        (None, "champion", _CHAMPION),
        (ArmCounts(95, 2, 4), "control", ArmCounts(95, 2, 4)),
        (ArmCounts(160, 2, 4), "control", ArmCounts(160, 2, 4)),
        (ArmCounts(40, 1, 2), "both", ArmCounts(840, 9, 42)),
    ],
)
def test_a_batch_is_compared_with_the_control_arm_while_that_is_there(
    control: ArmCounts | None, name: str, arm: ArmCounts
) -> None:
    assert compared(_CHALLENGER, _CHAMPION, control) == (name, arm)


def test_a_silent_batch_says_nothing_about_the_control_arm() -> None:
    silent = ArmCounts(0, 0, 0)

    assert compared(silent, silent, silent) == ("control", silent)


# ---- in the records ------------------------------------------------------------------------


def test_what_runs_survives_the_change_of_the_tables_key(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    database = Database(f"sqlite:///{path}", clock=lambda: NOW)
    _migrate(database, "0008")
    champion = {
        "model": "m", "environment": "production", "number": 1, "role": "champion",
        "artifact_digest": "a", "share": 100, "generation": 7,
    }  # fmt: skip
    with closing(sqlite3.connect(path)) as plain:
        _insert(plain, "model", {"name": "m", "owner": "", "team": "", "risk": "low"})
        _insert(plain, "version", {"model": "m", "number": 1, "run_id": 1, "card": ""})
        _insert(plain, "deployment", champion)
        plain.commit()

    database.migrate()

    with closing(sqlite3.connect(path)) as plain:
        _insert(plain, "deployment", {**champion, "role": "control", "share": 0})
        with pytest.raises(sqlite3.IntegrityError):
            _insert(plain, "deployment", {**champion, "number": 2})
        found = plain.execute("SELECT role, share FROM deployment ORDER BY share").fetchall()
    assert found == [("control", 0), ("champion", 100)]
    database.close()


def _migrate(database: Database, to: str) -> None:
    config = alembic.config.Config()
    folder = Path(records_database.__file__).with_name("migrations")
    config.set_main_option("script_location", str(folder))
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, to)
        connection.commit()


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    for _, name, kind, not_null, default, _ in connection.execute(f"PRAGMA table_info({table})"):
        if not_null and default is None and name not in row:
            row[name] = 0 if "INT" in kind else "2026-11-24T12:00:00.000000+00:00"
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", [*row.values()])
