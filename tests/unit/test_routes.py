"""What a gateway reads: every change at once, and nothing when nothing has changed."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from penstock.domain import Deployment, Environment, Role
from penstock.inference.gateway.cache import RouteCache
from penstock.inference.gateway.routing import table
from penstock.records import rollouts
from penstock.records.rollouts import Place
from penstock.records.routes import Routes
from tests.unit.gateway_rig import Rig, a_rig, running, version
from tests.unit.test_rollout import House


@pytest.fixture
def house(tmp_path: Path) -> Generator[House]:
    made = House(tmp_path)
    yield made
    made.database.close()


def split(house: House, environment: Environment, *places: Place) -> None:
    with house.database.change("test") as change:
        rollouts.split(change, "credit", environment, places, reason="a test")


def test_nothing_is_read_again_while_nothing_has_changed(house: House) -> None:
    house.tested(1)
    split(house, Environment.PRODUCTION, Place(1, Role.CHAMPION, 100))
    routes = Routes(house.database)
    asked: list[str] = []

    def note(*facts: Any) -> None:
        asked.append(facts[2])

    first = routes()
    with house.database.write() as connection:
        connection.execute(sa.text("UPDATE model SET owner = 'somebody'"))
    event.listen(house.database.engine, "before_cursor_execute", note)

    assert routes() is first
    assert [one.number for one in first] == [1]
    assert [query.split()[0] for query in asked] == ["BEGIN", "SELECT"]
    assert "FROM route_change" in asked[1]


def test_each_kind_of_change_is_seen_at_the_next_call(house: House) -> None:
    for number in (1, 2):
        house.tested(number)
    routes = Routes(house.database)
    production, test = Environment.PRODUCTION, Environment.TEST
    until = house.now + timedelta(minutes=1)

    assert list(routes()) == []
    split(house, production, Place(1, Role.CHAMPION, 100))
    one = list(routes())
    split(house, test, Place(2, Role.CHALLENGER, 100))
    split(
        house,
        production,
        Place(1, Role.CHAMPION, 80),
        Place(2, Role.CHALLENGER, 20, lease_until=until),
    )
    two = list(routes())
    split(house, test)
    three = list(routes())

    assert [(each.number, each.share) for each in one] == [(1, 100)]
    assert [(each.environment, each.number, each.share) for each in two] == [
        (production, 1, 80),
        (production, 2, 20),
        (test, 2, 100),
    ]
    assert three == two[:2]
    with house.database.read() as connection:
        assert three == rollouts.deployments(connection)


def test_a_renewed_lease_is_a_change(house: House) -> None:
    house.live(1)
    house.acts.approve("bob", house.asked(2), "")
    house.begin()
    routes = Routes(house.database)
    before = {each.role: each.lease_until for each in routes()}
    later = house.now + timedelta(hours=3)

    with house.database.write() as connection:
        (of,) = rollouts.live(connection)
        rollouts.renew_lease(connection, of, later)
    after = {each.role: each.lease_until for each in routes()}

    assert before[Role.CHALLENGER] != later
    assert after[Role.CHALLENGER] == later


def test_a_database_that_went_back_is_read_from_the_start(house: House) -> None:
    for number in (1, 2):
        house.tested(number)
    split(house, Environment.PRODUCTION, Place(1, Role.CHAMPION, 100))
    routes = Routes(house.database)
    routes()

    with house.database.write() as connection:
        connection.execute(sa.text("UPDATE deployment SET number = 2"))
        connection.execute(sa.text("UPDATE route_change SET mark = 1"))

    assert [one.number for one in routes()] == [2]


def test_a_table_keeps_what_has_not_changed() -> None:
    other = version(5, model="other")
    before = table([version(1), other])
    after = table([version(1, generation=2), other], before)

    assert after["production", "other"] is before["production", "other"]
    assert after["production", "m"].generation == 2


def test_cached_routes_are_read_as_they_were_written(tmp_path: Path) -> None:
    cache = RouteCache(tmp_path / "run" / "routes.json")
    facts: dict[str, Any] = {"serving": {"workers": 2}, "key": "id"}
    some = [version(1, **facts), version(2, Role.SHADOW, 30)]

    assert cache.read() is None
    cache.write(some)
    again = RouteCache(cache.path).read()
    cache.write([some[0], replace(some[1], share=40)])

    assert again == some
    assert [one.share for one in cache.read() or []] == [100, 40]
    cache.path.write_text("[")
    assert cache.read() is None


@pytest.mark.parametrize("what", ["gone", "locked"])
def test_a_gateway_serves_and_replaces_dead_workers_without_its_database(
    house: House, tmp_path: Path, what: str
) -> None:
    house.tested(1)
    split(house, Environment.PRODUCTION, Place(1, Role.CHAMPION, 100))
    read = Routes(house.database)

    class Recorded(Rig):
        def routes(self) -> list[Deployment]:
            return list(read())

    with a_rig(tmp_path) as made:
        rig = Recorded(tmp_path, made.settings)
        with running(rig):
            rig.until(lambda: rig.states() == {1: "ready"})
            lock = sqlite3.connect(tmp_path / "penstock.db", isolation_level=None)
            if what == "gone":
                for path in tmp_path.glob("penstock.db*"):
                    path.unlink()
                rig.until(lambda: rig.get("/v2/health/ready").json()["routes_error"] != "")
            else:
                house.database.close()
                lock.execute("PRAGMA locking_mode = EXCLUSIVE")
                lock.execute("BEGIN EXCLUSIVE")
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    read_now(tmp_path / "penstock.db")
            before = rig.post("/v2/models/credit/infer").status_code
            os.kill(rig.processes[0].pid, signal.SIGKILL)
            after = rig.post("/v2/models/credit/infer").status_code
            lock.close()

        assert (before, after) == (200, 200)
        assert len(rig.processes) == 2
        rig.client.close()


def read_now(path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=0)) as other:
        other.execute("SELECT * FROM route_change")
