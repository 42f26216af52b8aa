"""What a shadow would have answered, beside what callers got."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.deploy import shadow
from penstock.deploy.etest import log_e_above
from penstock.domain import Environment, Verdict
from penstock.inference.prediction_log.hour_store import HourStore
from penstock.inference.prediction_log.hours import Hours
from penstock.inference.prediction_log.records import Entry, Outcome
from penstock.inference.prediction_log.segments import PredictionLog
from penstock.inference.prediction_log.table import Of
from penstock.monitor.tables import PredictionTable
from penstock.records import rollouts
from tests.unit import web_seed
from tests.unit.log_rig import BEGIN, entry, signature_of
from tests.unit.web_rig import get, house


def pair(answer: str | None, caller: str | None = "yes", **more: Any) -> dict[str, Any]:
    return {
        "prediction_id": "p", "row": 0, "failed": answer is None, "ms": 3.0, "caller_ms": 2.0,
        "answer": answer, "caller_answer": caller, "score": 0.7, "caller_score": 0.5,
        "x_city": "Ulm", **more,
    }  # fmt: skip


def tally(pairs: Iterable[dict[str, Any]], *, numeric: bool = False) -> Any:
    return shadow.tally(list(pairs), numeric=numeric, slices=["city"])


def test_other_decisions_are_counted_by_slice_and_shown() -> None:
    found = tally([pair("yes"), pair("no"), pair("no", x_city="Bonn"), pair(None)])

    assert (found["copies"], found["failed"], found["rows"], found["changed"]) == (4, 1, 3, 2)
    assert found["slices"] == [["city", "Bonn", 1, 1], ["city", "Ulm", 2, 1]]
    assert found["moved"] == pytest.approx(0.6)
    assert [one["inputs"] for one in found["examples"]] == [{"city": "Ulm"}, {"city": "Bonn"}]


def test_a_number_is_another_decision_when_it_moves_more_than_a_tenth_of_their_spread() -> None:
    rows = [pair(str(x + 0.05), str(x)) for x in (0.0, 10.0)] + [pair("12", "10.0")]

    assert tally(rows, numeric=True)["changed"] == 1


def test_looks_add_up_to_what_one_look_would_have_counted() -> None:
    rows = [pair("yes" if n % 3 else "no", ms=1.0 + n, x_city=f"{n % 4}") for n in range(60)]

    one = shadow.together([tally(rows)])
    many = shadow.together([tally(rows[:7]), tally(rows[7:40]), tally([]), tally(rows[40:])])

    names = ("copies", "failed", "rows", "changed", "scored", "ms", "caller_ms", "slices")
    assert {name: many[name] for name in names} == {name: one[name] for name in names}


@pytest.mark.parametrize(
    ("failing", "verdict"),
    [(0, Verdict.PASSED), (8, Verdict.UNDECIDED), (80, Verdict.FAILED)],
)
def test_errors_of_the_copies_are_judged_and_other_decisions_are_told(
    failing: int, verdict: Verdict
) -> None:
    rows = [pair(None if n < failing else "no") for n in range(800)]

    found, sentence, (errors, changed) = shadow.judged([tally(rows)], p_max_errors=0.01)

    assert (found, errors.verdict) == (verdict, verdict)
    assert changed.verdict is Verdict.PASSED
    assert sentence == f"{failing} of 800 copies of requests failed; {changed.summary}."


def test_without_a_copy_nothing_is_known() -> None:
    verdict, sentence, checks = shadow.judged([], p_max_errors=0.01)

    assert {verdict, *(one.verdict for one in checks)} == {Verdict.UNDECIDED}
    assert sentence == ("0 of 0 copies of requests failed; no copy has an answer to compare yet.")


def test_a_rate_at_the_limit_is_called_too_high_in_at_most_one_of_twenty_at_any_look() -> None:
    draw = np.random.default_rng(5)
    alarms = 0
    for _ in range(400):
        events = np.cumsum(draw.binomial(50, 0.01, size=100)).astype(np.float64)
        requests = 50 * np.arange(1, 101, dtype=np.float64)
        alarms += bool((log_e_above(events, requests, 0.01) >= shadow.LOG_PROVEN).any())

    assert alarms <= 20 + 9  # two standard deviations


# ---- from a real log -----------------------------------------------------------------------


@dataclass
class Log:
    folder: Path

    def write(self, *entries: Entry) -> None:
        log = PredictionLog(self.folder / "log", clock_us=lambda: int(BEGIN.timestamp() * 1e6))
        log.append("production", "m", entries)
        log.close()

    def copies(self) -> list[dict[str, Any]]:
        hours = Hours(
            Of(Environment.PRODUCTION, "m"),
            self.folder / "log" / "production" / "m",
            self.folder / "parquet",
            HourStore(str(self.folder / "store")),
        )
        since, until = BEGIN, BEGIN + timedelta(minutes=1)
        with hours.found(since, until, signature_of) as found:
            table = PredictionTable(found.files, found.filesystem)
            return table.copies(since, until, most=100)


def copy_of(of: Entry, **more: Any) -> Entry:
    return of._replace(**{"role": "shadow", "number": 2, **more})


def test_each_copy_is_found_beside_the_answer_that_its_own_caller_got(tmp_path: Path) -> None:
    first, again = entry("own id", BEGIN), entry("own id", BEGIN + timedelta(seconds=1), x=4.0)
    alone = entry("alone", BEGIN)
    other = json.dumps({"predictions": [9.0]}).encode()
    log = Log(tmp_path)
    log.write(
        first,
        again,
        alone,
        copy_of(first, reply=other),
        copy_of(again, outcome=Outcome.FAILED, status=504, reply=b"", rows=0),
    )

    changed, failed = log.copies()

    assert (changed["answer"], changed["caller_answer"]) == ("9.0", "2.5")
    assert changed["failed"] is False
    assert changed["x_x"] == 1.5
    assert (failed["answer"], failed["failed"]) == (None, True)


def test_what_its_caller_was_refused_too_is_no_error_of_the_copy(tmp_path: Path) -> None:
    refused = entry("a", BEGIN)._replace(status=400, reply=b"{}", rows=0)
    log = Log(tmp_path)
    log.write(refused, copy_of(refused))

    (found,) = log.copies()

    assert not found["failed"]


# ---- on the rollout's page -----------------------------------------------------------------


def test_the_page_of_a_rollout_shows_what_the_copies_said_and_runs_nothing_of_it(
    tmp_path: Path,
) -> None:
    home = house(tmp_path)
    web_seed.live(home, "spam")
    run = web_seed.check_in_test(home, web_seed.build(home, home.push("spam")))
    web_seed.ask(home, run)
    going = web_seed.release(home, run)
    rows = [pair("no" if n < 3 else "yes", x_city="<script>1</script>") for n in range(300)]
    none = {"requests": 0, "errors": 0, "slow": 0}
    counts = {"challenger": none, "champion": none, "copies": tally(rows)}
    with home.database.write() as connection:
        of = replace(rollouts.get(connection, going.id), share=0)
        rollouts.add_batch(connection, of, 0, window_us=(0, 1), counts=counts)

    page = get(home, f"/rollouts/{going.id}").text

    assert "0 of 300 copies of requests failed" in page
    assert "1 % of 300 decisions would have been others" in page
    assert "3 answers that would have been others" in page
    assert "&lt;script&gt;1&lt;/script&gt;" in page
    assert "<script>1" not in page
