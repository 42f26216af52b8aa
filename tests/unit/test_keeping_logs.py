"""The prediction logs are brought forward each minute, kept within a bound, and gaps are said."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from penstock.domain import Environment
from penstock.inference.prediction_log.records import Entry, Outcome
from penstock.inference.prediction_log.segments import PredictionLog, segments
from penstock.inference.prediction_log.table import Of
from penstock.inference.program.frames import INVOCATIONS
from penstock.monitor.tables import Wanted
from penstock.pipeline.prediction_logs import PredictionLogs, tell_gaps
from penstock.records import watch
from penstock.records.schema import journal
from tests.unit.web_rig import House, house

OF = Of(Environment.PRODUCTION, "churn")


@pytest.fixture
def home(tmp_path: Path) -> House:
    made = house(tmp_path)
    made.seal(made.push("churn"))
    return made


def answer(of: House, rows: int, model: str = "churn", environment: str = "production") -> None:
    """Log some requests, in a segment that is closed."""
    now_us = int(of.now.timestamp() * 1e6)
    log = PredictionLog(of.control.home / "log", clock_us=lambda: now_us)
    one = Entry(
        arrived_us=now_us,
        ended_us=now_us + 1,
        number=1,
        role="champion",
        status=200,
        outcome=Outcome.ANSWERED,
        generation=1,
        rows=1,
        kind=INVOCATIONS,
        id="r",
        request=b'{"inputs": {"age": [1]}}',
        reply=b'{"predictions": [1]}',
    )
    log.append(environment, model, [one] * rows)
    log.close()


def logs(of: House, **more: Any) -> PredictionLogs:
    return PredictionLogs(of.control.home, of.database, **more)


def told(of: House) -> list[dict[str, Any]]:
    with of.database.read() as connection:
        return [message for _, message in watch.unsent(connection)]


def journal_of(of: House, action: str) -> list[str]:
    with of.database.read() as connection:
        query = sa.select(journal.c.body).where(journal.c.action == action)
        return list(connection.scalars(query))


def test_every_model_of_every_environment_is_brought_forward(home: House) -> None:
    answer(home, 2)
    answer(home, 3, environment="test")
    home.later(hours=2)

    assert logs(home).keep(home.now) == {"hours": 2, "failed": 0}
    assert logs(home).keep(home.now) == {"hours": 0, "failed": 0}
    for environment, rows in ((Environment.PRODUCTION, 2), (Environment.TEST, 3)):
        of = Of(environment, "churn")
        with logs(home).table(of, home.now - timedelta(days=1), home.now) as table:
            wanted = Wanted(home.now - timedelta(days=1), home.now)
            assert table.rows(wanted).num_rows == rows


def test_one_log_that_cannot_be_kept_holds_up_no_other(home: House) -> None:
    answer(home, 2)
    answer(home, 2, model="aaa")
    (home.control.home / "parquet" / "production").mkdir(parents=True)
    (home.control.home / "parquet" / "production" / "aaa").write_text("in the way")
    home.later(hours=2)

    assert logs(home).keep(home.now) == {"hours": 1, "failed": 1}


def test_what_is_dropped_stands_in_the_journal_and_is_said_once_a_day(home: House) -> None:
    for _ in range(3):
        answer(home, 400)
        home.later(hours=1)
    home.later(hours=1)
    small = logs(home, most_bytes=1)
    small.keep(home.now)
    answer(home, 5)
    home.later(hours=2)
    small.keep(home.now)

    (message,) = told(home)
    assert message["kind"] == "log.dropped"
    assert "1,200 rows of the 3 oldest hours" in message["text"]
    assert "2026-11-23 15:00 UTC" in message["text"]
    assert len(journal_of(home, "log.dropped")) == 2


def test_a_log_that_loses_answers_is_an_alert_until_it_is_whole_again(home: House) -> None:
    def workers(dropped: datetime | None, drops: int) -> list[dict[str, Any]]:
        when = None if dropped is None else int(dropped.timestamp() * 1e6)
        one = {"model": "churn", "number": 1, "log_drops": drops, "log_dropped_us": when}
        return [one, {**one, "number": 2}, {**one, "model": "other", "log_dropped_us": None}]

    assert tell_gaps(home.database, workers(None, 0), home.now) == 0
    lost_at = home.now
    assert tell_gaps(home.database, workers(lost_at, 1200), home.now) == 1
    assert tell_gaps(home.database, workers(home.later(minutes=1), 1500), home.now) == 1
    with home.database.read() as connection:
        (alert,) = watch.open_alerts(connection, "churn")
    assert (alert.kind, alert.occurrences) == ("log", 1)
    assert tell_gaps(home.database, workers(home.now, 1500), home.later(minutes=11)) == 0
    with home.database.read() as connection:
        assert watch.open_alerts(connection, "churn") == []
    assert tell_gaps(home.database, workers(home.now, 1), home.now) == 1

    subjects = [message["subject"] for message in told(home)]
    assert subjects == [
        "churn: the prediction log has gaps",
        "churn: the prediction log is whole again",
        "churn: the prediction log has gaps",
    ]
    assert "1,200 answers" in told(home)[0]["text"]


def test_segments_go_an_hour_after_they_became_parquet(home: House) -> None:
    answer(home, 2)
    folder = home.control.home / "log" / "production" / "churn"
    now = datetime.now(UTC)  # noqa: TID251  files have the true time
    logs(home).tabulate(OF, now)
    kept = len(segments(folder))
    logs(home).tabulate(OF, now + timedelta(hours=2))

    assert (kept, len(segments(folder))) == (1, 0)


_FULL = """
import resource, signal, sys
from pathlib import Path
from penstock.inference.prediction_log.records import Entry, Outcome
from penstock.inference.prediction_log.segments import PredictionLog, read
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
root = Path(sys.argv[1])
log = PredictionLog(root, clock_us=lambda: 7)
def one(number):
    of = (1, 2, number, "champion", 200, Outcome.ANSWERED, 4, 1, 1, "a", bytes(3000), b"")
    return log.append("production", "m", [Entry(*of)])
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
full = [one(number) for number in range(6)]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
room = [one(number) for number in range(6, 9)]
log.close()
print(full, room, [e.number for e in read(root / "production" / "m")], sum(log.drops.values()))
"""


def test_a_full_disk_costs_entries_until_there_is_room_again(tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk: a write gets through in part, then none."""
    argv = [sys.executable, "-c", _FULL, str(tmp_path)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)

    expected = f"{[True] * 3 + [False] * 3} {[True] * 3} [0, 1, 2, 6, 7, 8] 3"
    assert done.stdout.strip() == expected
