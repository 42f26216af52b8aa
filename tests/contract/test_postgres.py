"""The records over PostgreSQL: the same promises as over SQLite, and a server that goes away."""

from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from penstock.domain import Deployment, Environment, Role
from penstock.errors import UnreachableError
from penstock.records import journal, labels, rollouts, runs
from penstock.records.database import Database
from penstock.records.labels import Label
from penstock.records.rollouts import Place, Plan
from penstock.records.routes import Routes
from penstock.records.runs import Push, Seal
from tests.postgres import Postgres, a_postgres
from tests.unit.gateway_rig import Rig, a_rig, running

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONFIG = {"model": {"owner": "ada", "team": "risk", "risk": "low"}}
PRODUCTION, TEST = Environment.PRODUCTION, Environment.TEST


@pytest.fixture(scope="module")
def server() -> Generator[Postgres]:
    with a_postgres() as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest, server: Postgres, tmp_path: Path
) -> Generator[Database]:
    url = f"sqlite:///{tmp_path / 'penstock.db'}" if request.param == "sqlite" else server.url
    made = Database(url, clock=lambda: NOW)
    made.migrate()
    yield made
    made.close()


def sealed(database: Database, model: str, *numbers: int) -> None:
    """Register a model with these versions."""
    with database.change("ada") as change:
        runs.register_model(change, model)
    for number in numbers:
        push = Push(model, "main", f"{number:040x}", f"commit {number}", "ada", CONFIG)
        with database.change("ada") as change:
            runs.start(change, push)
            version = runs.version_of(change.connection, model, number)
            runs.seal(change, version, Seal(f"{number:064x}", "b" * 64, None, None, "full"))


def split(database: Database, model: str, where: Environment, *places: Place) -> None:
    with database.change("test") as change:
        rollouts.split(change, model, where, places, reason="a test")


def test_both_databases_tell_the_same_routes_after_each_change(database: Database) -> None:
    sealed(database, "routed", 1, 2)
    routes = Routes(database)
    seen: list[list[tuple[str, int, int]]] = []

    def look() -> None:
        found = [one for one in routes() if one.model == "routed"]
        seen.append([(one.environment, one.number, one.share) for one in found])

    look()
    split(database, "routed", PRODUCTION, Place(1, Role.CHAMPION, 100))
    look()
    split(database, "routed", TEST, Place(2, Role.CHALLENGER, 100))
    split(
        database,
        "routed",
        PRODUCTION,
        Place(1, Role.CHAMPION, 80),
        Place(2, Role.CHALLENGER, 20, lease_until=NOW),
    )
    look()
    split(database, "routed", TEST)
    look()

    assert seen == [
        [],
        [(PRODUCTION, 1, 100)],
        [(PRODUCTION, 1, 80), (PRODUCTION, 2, 20), (TEST, 2, 100)],
        [(PRODUCTION, 1, 80), (PRODUCTION, 2, 20)],
    ]
    assert routes() is routes()
    with database.read() as connection:
        assert journal.verify(connection) > 0


def test_a_renewed_lease_comes_with_its_zone(database: Database) -> None:
    sealed(database, "leased", 1, 2)
    plan = Plan("leased", PRODUCTION, None, "canary", 2, 1, (20,), {})
    with database.change("test") as change:
        rollout = rollouts.queue(change, plan)
    lease = Place(2, Role.CHALLENGER, 20, lease_until=NOW, rollout_id=rollout.id)
    split(database, "leased", PRODUCTION, Place(1, Role.CHAMPION, 80), lease)
    routes = Routes(database)
    routes()
    later = NOW + timedelta(hours=3)

    with database.write() as connection:
        rollouts.renew_lease(connection, rollout, later)

    assert [one.lease_until for one in routes() if one.model == "leased"] == [None, later]


def test_labels_have_the_same_fates_in_both_databases(database: Database) -> None:
    sealed(database, "labelled")
    many = [Label(f"p{number}", "1") for number in range(3_000)]
    with database.write() as connection:
        first = labels.keep(connection, "labelled", many, now=NOW)
    changed = [Label("p0", "0"), Label("p1", "1"), Label("p2", "0", NOW - timedelta(days=1))]
    with database.write() as connection:
        second = labels.keep(connection, "labelled", changed, now=NOW + timedelta(minutes=1))

    assert first.new == 3_000
    assert (second.corrected, second.same, second.older) == ([("p0", "1", "0")], 1, 1)
    with database.read() as connection:
        assert labels.count(connection, "labelled") == 3_000
        assert [one[0] for one in labels.history(connection, "labelled", "p0")] == ["1"]


def test_a_gateway_serves_while_postgresql_is_down_and_sees_changes_once_it_is_back(
    tmp_path: Path,
) -> None:
    with a_postgres() as server, a_rig(tmp_path) as made:
        database = Database(server.url, clock=lambda: NOW)
        database.migrate()
        sealed(database, "m", 1, 2)
        split(database, "m", PRODUCTION, Place(1, Role.CHAMPION, 100))
        read = Routes(database)

        class Recorded(Rig):
            def routes(self) -> list[Deployment]:
                return list(read())

        rig = Recorded(tmp_path, made.settings)
        with running(rig):
            rig.until(lambda: rig.states() == {1: "ready"})
            server.stop()
            rig.until(lambda: "does not answer" in error_of(rig))
            down = rig.ask().status_code
            with pytest.raises(UnreachableError, match="PS101"), database.read():
                pass
            server.start()
            split(database, "m", PRODUCTION, Place(2, Role.CHAMPION, 100))
            rig.until(lambda: rig.states() == {2: "ready"})
            back = rig.ask()
        database.close()
        rig.client.close()

    assert (down, back.status_code) == (200, 200)


def error_of(rig: Rig) -> str:
    return str(rig.get("/v2/health/ready").json()["routes_error"])


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_parts_that_start_together_bring_the_schema_forward_once(
    kind: str, server: Postgres, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'penstock.db'}"
    if kind == "postgresql":
        url = sa.make_url(server.url).set(database="together").render_as_string(False)
        engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE together")
        engine.dispose()
    parts = [Database(url, clock=lambda: NOW) for _ in range(4)]
    ready = threading.Barrier(len(parts))

    def start(part: Database) -> None:
        ready.wait()
        part.migrate()

    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(start, parts))  # raises what any of them raised

    with parts[0].read() as connection:
        assert sa.inspect(connection).has_table("deployment")
    for part in parts:
        part.close()
