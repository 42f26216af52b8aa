"""The promise of durability, on real processes: kill -9 anywhere, and the same end is reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.journey.server import Project, Server, Traffic, toy_row

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]

BUILD = (
    "build/begin:after", "build/train: prepare:before", "build/train: prepare:after",
    "build/train:command", "build/train: collect:before", "build/train: collect:after",
    "build/store:before", "build/store:after", "build/checks:before", "build/checks:after",
    "build/end:before",
)  # fmt: skip
TEST = (
    "test/deploy:before", "test/deploy:after", "test/quality:before", "test/quality:after",
    "test/speed:before", "test/speed:after", "test/end:before", "test/decide:begun",
)  # fmt: skip
PRODUCTION = (
    "production/load:after", "production/wait:after", "production/first share:after",
    "production/count:after", "production/decide:inside", "production/decide:after",
)  # fmt: skip


def life(tmp_path: Path, points: tuple[str, ...]) -> dict[str, Any]:
    """Bring two versions to production, with the engine killed at each point; say the end."""
    with Server({"PENSTOCK_FAIL": ",".join(points)}) as server:
        project = Project.toy(tmp_path / "project")
        project.push(server)
        first = server.ended(1, seconds=240)
        with Traffic(server, toy_row) as traffic:
            project.change("train.py", "1.0", "1.05")
            project.commit("second")
            project.push(server)
            second = server.ended(2, seconds=240)
        killed = {path.name for path in (server.home / "run").glob("killed-*")}
        actions = server.journal()
        return {
            "killed": len(killed),
            "runs": [(first.state, first.attempt), (second.state, second.attempt)],
            "serving": {role: (d.number, d.share) for role, d in server.serving().items()},
            "artifacts": [
                row.artifact_digest
                for row in server.rows("SELECT artifact_digest FROM version ORDER BY number")
            ],
            "checks": [
                tuple(row)
                for row in server.rows(
                    "SELECT number, check_name, verdict FROM check_result WHERE occasion LIKE "
                    "'run:%' AND check_name NOT LIKE 'speed.%' "
                    "AND check_name NOT LIKE 'replay.%' ORDER BY number, check_name"
                )
            ],
            "sealed": actions.count("version.sealed"),
            "promoted": actions.count("rollout.full"),
            "approved_twice": actions.count("run.rolling_out"),
            "failed_requests": sum(n for status, n in traffic.statuses.items() if status != 200),
            "lost_ids": len(traffic.answers) - len({one for one, _ in traffic.answers}),
        }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return life(tmp_path_factory.mktemp("undisturbed"), ())


def test_two_versions_reach_production_undisturbed(undisturbed: dict[str, Any]) -> None:
    assert undisturbed["runs"] == [("succeeded", 1), ("succeeded", 1)]
    assert undisturbed["serving"] == {"champion": (2, 100), "previous": (1, 0)}
    assert undisturbed["failed_requests"] == 0
    assert (undisturbed["sealed"], undisturbed["promoted"]) == (2, 2)


@pytest.mark.parametrize("points", [BUILD, TEST, PRODUCTION], ids=["build", "test", "production"])
def test_an_engine_killed_at_every_point_of_a_stage_reaches_the_same_end(
    undisturbed: dict[str, Any], tmp_path: Path, points: tuple[str, ...]
) -> None:
    found = life(tmp_path, points)

    assert found.pop("killed") == len(points)
    assert found == {key: value for key, value in undisturbed.items() if key != "killed"}


def test_gateway_worker_and_control_killed_under_requests_lose_nothing(tmp_path: Path) -> None:
    with Server() as server:
        project = Project.toy(tmp_path / "project")
        project.push(server)
        server.ended(1)
        with Traffic(server, toy_row) as traffic:
            server.until(lambda: traffic.statuses[200] > 200, "answers")

            server.kill("control")
            server.until(lambda: not server.answers("/api/health", server.port), "control to die")
            server.until(lambda: server.answers("/api/health", server.port), "control", 60)
            assert traffic.refused == 0

            workers = server.request("GET", "/penstock/workers", predict=True)[1]
            assert [one["state"] for one in workers] == ["ready"]
            kill_worker(server)
            before = traffic.statuses[200]
            server.until(lambda: traffic.statuses[200] > before + 200, "answers again")
            assert traffic.refused == 0
            assert set(traffic.statuses) == {200}

            server.kill("gateway")
            server.until(lambda: traffic.refused > 0, "the gateway to be away")
            before = traffic.statuses[200]
            server.until(lambda: traffic.statuses[200] > before + 200, "answers again")

        answered = {name for name, _ in traffic.answers}
        assert set(traffic.statuses) <= {200, 503}
        assert answered <= logged_ids(server)
        server.journal()


def kill_worker(server: Server) -> None:
    """Kill the only worker's own process: a child of the gateway that listens on a socket."""
    import psutil

    gateway = psutil.Process(int((server.home / "run" / "gateway.pid").read_text()))
    mine = [
        child
        for child in gateway.children(recursive=True)
        if any("worker.py" in part for part in child.cmdline()) and not child.children()
    ]
    assert len(mine) == 1, mine
    mine[0].kill()


def logged_ids(server: Server) -> set[str]:
    from penstock.inference.prediction_log import segments as prediction_log

    folder = server.home / "log" / "production" / "toy"
    return {entry.id for entry in prediction_log.read(folder)}
