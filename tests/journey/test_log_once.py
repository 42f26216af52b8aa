"""Kill everything with signal 9, again and again: each answer is logged once, as it was given."""

from __future__ import annotations

import math
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.domain import Environment
from penstock.inference.prediction_log import segments
from penstock.inference.prediction_log.table import Of
from penstock.monitor.tables import Wanted
from penstock.pipeline.prediction_logs import PredictionLogs
from tests.journey.server import Project, Server, Traffic

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

ROUNDS = 2
EVER = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def told_row(draw: random.Random) -> Any:
    """One row whose id tells its value, so that a row that is logged can be checked."""
    value = round(draw.gauss(0, 2), 6)
    one = {"name": "x", "shape": [1], "datatype": "FP64", "data": [value]}
    return {"id": f"{value!r}:{draw.getrandbits(60):x}", "inputs": [one]}


def table(server: Server, *, later_by: timedelta | None = None) -> list[dict[str, Any]]:
    """Return all rows as monitors see them, after the log was brought forward to a later time."""
    logs = PredictionLogs(server.home, server.records)
    of = Of(Environment.PRODUCTION, "toy")
    if later_by is not None:
        newest = max(one["ts"] for one in table(server))
        logs.tabulate(of, newest + later_by)
    with logs.table(of, *EVER) as rows:
        return rows.rows(Wanted(*EVER, limit=10**6)).to_pylist()


def test_after_kill_9_of_everything_each_answer_is_logged_once_as_it_was_given(
    tmp_path: Path,
) -> None:
    draw = random.Random(20261201)
    killed: Counter[str] = Counter()
    with Server() as server:
        project = Project.toy(tmp_path / "project")
        project.push(server)
        assert server.ended(1).state == "succeeded"
        with Traffic(server, told_row, callers=3, pause_s=0.02) as traffic:
            for _ in range(ROUNDS):
                before = traffic.statuses[200]
                server.until(lambda: traffic.statuses[200] > before + 80, "answers")  # noqa: B023
                killed.update(server.kill_all(draw))
                server.launch()
            before = traffic.statuses[200]
            server.until(lambda: traffic.statuses[200] > before + 80, "answers again")
        server.kill_all(draw)

        answered = [name for name, _ in traffic.answers]
        folder = server.home / "log" / "production" / "toy"
        logged = Counter(entry.id for entry in segments.read(folder))
        fresh = table(server)
        moved = table(server, later_by=timedelta(hours=2))

    assert sum(killed.values()) >= 5 * ROUNDS
    assert set(traffic.statuses) <= {200, 503}
    assert len(answered) > 80 * (ROUNDS + 1)
    assert {name: logged[name] for name in answered if logged[name] != 1} == {}
    assert [name for name, times in logged.items() if times != 1] == []
    for rows in (fresh, moved):
        by_id = {one["prediction_id"]: one for one in rows}
        assert len(by_id) == len(rows)
        assert set(answered) <= set(by_id)
        for name in answered:
            value = float(name.partition(":")[0])
            assert by_id[name]["x_x"] == value
            assert math.isclose(by_id[name]["score"], 1 / (1 + math.exp(-value)))
