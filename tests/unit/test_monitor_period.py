from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.check.answers import Answers
from penstock.check.quality import interval, value
from penstock.domain import CheckResult, Verdict
from penstock.errors import UnreachableError
from penstock.monitor.period import (
    PeriodSettings,
    PeriodSources,
    Reference,
    reference,
    run_period,
)
from penstock.monitor.tables import PredictionTable, Window

START = datetime(2026, 11, 23, tzinfo=UTC)
WINDOW = Window(START, START + timedelta(days=1), number=12)
ROWS = 1000
K = np.arange(ROWS)
AGE = 20.0 + (K * 7919 % 10007) / 10007 * 50
REGION = np.array(["north", "south", "west"])[K % 3]
SCORE = (K * 37 % 101) / 101
BAD = SCORE + (K * 53 % 97) / 97 > 1.2
"""The true class: goes with the score."""
SETTINGS = PeriodSettings(
    WINDOW,
    now=WINDOW.until,
    task="classification",
    primary="roc_auc",
    classes=(0, 1),
    positive=1,
    limits={"roc_auc": (0.8, None)},
    p95_ms=100,
)


@dataclass(frozen=True)
class Log:
    """Rows of a prediction log, one a request unless `row` says otherwise."""

    age: Any = field(default_factory=lambda: AGE)
    region: Any = field(default_factory=lambda: REGION)
    score: Any = field(default_factory=lambda: SCORE)
    number: int = 12
    environment: str = "production"
    latency_ms: float = 20.0
    failed: int = 0
    """So many requests without an answer, after the others."""
    at: datetime = START + timedelta(hours=6)
    prediction: Any = None

    def table(self) -> pa.Table:
        n, lost = len(self.score), self.failed
        said = np.where(np.asarray(self.score) > 0.5, "1", "0").tolist()
        said = said if self.prediction is None else list(self.prediction)
        none = [None] * lost
        return pa.table(
            {
                "prediction_id": [f"p{k}" for k in range(n + lost)],
                "row": pa.array([0] * (n + lost), pa.int32()),
                "request_id": [f"p{k}" for k in range(n + lost)],
                "ts": pa.array([self.at] * (n + lost), pa.timestamp("us", tz="UTC")),
                "number": pa.array([self.number] * (n + lost), pa.int32()),
                "role": ["champion"] * (n + lost),
                "environment": [self.environment] * (n + lost),
                "status": pa.array([200] * n + [500] * lost, pa.int32()),
                "outcome": ["answered"] * n + ["failed"] * lost,
                "latency_ms": [self.latency_ms] * (n + lost),
                "prediction": pa.array([*said, *none], pa.string()),
                "score": pa.array([*self.score, *none], pa.float64()),
                "x_age": pa.array([*self.age, *none], pa.float64()),
                "x_region": pa.array([*self.region, *none], pa.string()),
            }
        )

    def write(self, folder: Path, *, name: str = "one") -> Path:
        folder.mkdir(exist_ok=True)
        pq.write_table(self.table(), folder / f"{name}.parquet")
        return folder


def features(age: Any = AGE, region: Any = REGION) -> pa.Table:
    return pa.table({"age": age, "region": region})


def answers(score: Any = SCORE) -> Answers:
    return Answers((score > 0.5).astype(int), np.column_stack([1 - score, score]), (0, 1), 1)


PROFILE = reference(features(), answers())
LABELS = {f"p{k}": str(int(BAD[k])) for k in range(ROWS)}


def table_in(folder: Path) -> PredictionTable:
    return PredictionTable([str(path) for path in sorted(folder.glob("*.parquet"))])


def sources(folder: Path, labels: Mapping[str, str] = LABELS) -> PeriodSources:
    return PeriodSources(table_in(folder), PROFILE, labels)


def by_name(results: list[CheckResult]) -> dict[str, CheckResult]:
    found = {result.check: result for result in results}
    assert len(found) == len(results), "two results of one name"
    return found


def test_a_quiet_period_passes_everything(tmp_path: Path) -> None:
    bounds = interval("roc_auc", BAD.astype(int), answers())
    assert bounds is not None
    before = Reference(value("roc_auc", BAD.astype(int), answers()), *bounds)

    report = run_period(
        replace(SETTINGS, limits={"roc_auc": (0.7, None)}),
        replace(sources(Log().write(tmp_path / "log")), quality=before),
    )

    found = by_name(report.results)
    assert (report.rows, report.labelled) == (ROWS, ROWS)
    assert {name: str(one.verdict) for name, one in found.items()} == {
        "drift.age": "passed",
        "drift.region": "passed",
        "drift.prediction": "passed",
        "quality.roc_auc": "passed",
        # Two times 1000 rows cannot exclude that the area fell by .02.
        "quality.as_before": "undecided",
        "service.errors": "passed",
        "service.p95": "passed",
    }
    assert found["quality.roc_auc"].evidence["value"] == pytest.approx(before.value, abs=1e-12)
    assert found["quality.as_before"].evidence["difference"] == pytest.approx(0, abs=1e-12)
    assert found["quality.roc_auc"].evidence["coverage"] == 1


def test_inputs_and_answers_that_moved_fail(tmp_path: Path) -> None:
    log = Log(age=AGE + 20, region=np.repeat("south", ROWS), score=np.sqrt(SCORE))

    found = by_name(run_period(SETTINGS, sources(log.write(tmp_path / "log"))).results)

    for column in ("age", "region", "prediction"):
        assert found[f"drift.{column}"].verdict is Verdict.FAILED


def test_quality_far_below_its_limit_fails_and_near_it_is_undecided(tmp_path: Path) -> None:
    log = Log().write(tmp_path / "log")
    wrong = {name: str(1 - int(text)) for name, text in LABELS.items()}
    area = value("roc_auc", BAD.astype(int), answers())

    worse = by_name(run_period(SETTINGS, sources(log, wrong)).results)
    near = replace(SETTINGS, limits={"roc_auc": (area + 0.005, None)})
    close = by_name(run_period(near, sources(log)).results)

    assert worse["quality.roc_auc"].verdict is Verdict.FAILED
    assert close["quality.roc_auc"].verdict is Verdict.UNDECIDED
    assert close["quality.roc_auc"].evidence["reading"] == "too close"


def test_quality_worse_than_when_it_was_judged_fails(tmp_path: Path) -> None:
    log = Log().write(tmp_path / "log")
    before = Reference(0.99, 0.985, 0.995)

    found = by_name(run_period(SETTINGS, replace(sources(log), quality=before)).results)

    assert found["quality.as_before"].verdict is Verdict.FAILED
    assert found["quality.as_before"].evidence["reading"] == "worse"


@pytest.mark.parametrize(
    ("labels", "delay_s", "reading"),
    [(40, None, "40 of 1,000 answers, 50 needed"), (500, None, "90% needed"), (500, 0, None)],
)
def test_quality_waits_for_labels(
    tmp_path: Path, labels: int, delay_s: float | None, reading: str | None
) -> None:
    some = dict(list(LABELS.items())[:labels])
    settings = replace(SETTINGS, label_delay_s=delay_s)

    report = run_period(settings, sources(Log().write(tmp_path / "log"), some))

    found = by_name(report.results)
    assert report.labelled == labels
    if reading is None:
        assert found["quality.roc_auc"].evidence["coverage"] == 0.5
    else:
        assert found["quality.labels"].verdict is Verdict.UNDECIDED
        assert reading in found["quality.labels"].summary


def test_errors_and_slow_requests_fail_the_service(tmp_path: Path) -> None:
    log = Log(failed=60, latency_ms=150).write(tmp_path / "log")

    found = by_name(run_period(SETTINGS, sources(log)).results)

    assert found["service.errors"].verdict is Verdict.FAILED
    assert found["service.errors"].summary == "5.7 % errors, 60 of 1,060; limit 1%"
    assert found["service.p95"].verdict is Verdict.FAILED
    assert found["service.p95"].summary == "p95 150 ms; limit 100 ms"
    # The rows without an answer count for the service alone.
    assert found["drift.age"].verdict is Verdict.PASSED


def test_without_a_limit_latency_is_told(tmp_path: Path) -> None:
    log = Log(latency_ms=150).write(tmp_path / "log")

    found = by_name(run_period(replace(SETTINGS, p95_ms=None), sources(log)).results)

    assert (found["service.p95"].verdict, found["service.p95"].evidence["reading"]) == (
        Verdict.PASSED,
        "no limit",
    )


@pytest.mark.parametrize(
    "other",
    [
        Log(number=11),
        Log(environment="test"),
        Log(at=START + timedelta(days=1)),
        Log(at=START - timedelta(microseconds=1)),
        None,
    ],
)
def test_no_rows_of_the_version_in_the_period_decide_nothing(
    tmp_path: Path, other: Log | None
) -> None:
    folder = tmp_path / "log"
    if other is not None:
        other.write(folder)

    report = run_period(SETTINGS, sources(folder))

    assert (report.rows, report.labelled) == (0, 0)
    assert {one.verdict for one in report.results} == {Verdict.UNDECIDED}
    assert len(report.results) == 6


def test_files_of_versions_with_other_inputs_lie_side_by_side(tmp_path: Path) -> None:
    folder = Log().write(tmp_path / "log")
    older = replace(Log(), number=11).table().drop_columns(["x_region"])
    pq.write_table(older.append_column("x_gone", pa.array(AGE)), folder / "older.parquet")

    found = by_name(run_period(SETTINGS, sources(folder)).results)

    assert found["drift.region"].verdict is Verdict.PASSED


def test_only_the_checks_that_are_asked_run(tmp_path: Path) -> None:
    settings = replace(SETTINGS, checks=("service",))

    report = run_period(settings, sources(Log().write(tmp_path / "log")))

    assert sorted(by_name(report.results)) == ["service.errors", "service.p95"]


def test_without_a_reference_drift_is_undecided(tmp_path: Path) -> None:
    unjudged = replace(sources(Log().write(tmp_path / "log")), profile=None)

    found = by_name(run_period(SETTINGS, unjudged).results)

    assert found["drift.inputs"].verdict is Verdict.UNDECIDED


def test_a_regression_is_judged_by_its_numbers(tmp_path: Path) -> None:
    score = 100 * SCORE
    log = Log(score=score, prediction=[str(one) for one in score]).write(tmp_path / "log")
    labels = {f"p{k}": str(score[k] + 2) for k in range(ROWS)}
    settings = replace(
        SETTINGS, task="regression", primary="mae", classes=None, limits={"mae": (None, 1.0)}
    )
    evidence = replace(
        sources(log, labels),
        profile=reference(features(), Answers(score)),
        quality=Reference(2.0, 1.99, 2.01),
    )

    found = by_name(run_period(settings, evidence).results)

    assert found["quality.mae"].verdict is Verdict.FAILED
    assert found["quality.mae"].evidence["value"] == pytest.approx(2)
    assert found["quality.as_before"].verdict is Verdict.PASSED
    assert found["drift.prediction"].verdict is Verdict.PASSED


@pytest.mark.parametrize("text", ["none", "nan"])
def test_a_label_that_is_no_number_is_named_and_blinds_no_other_check(
    tmp_path: Path, text: str
) -> None:
    log = Log(prediction=[str(one) for one in SCORE]).write(tmp_path / "log")
    settings = replace(SETTINGS, task="regression", primary="mae", classes=None, limits={})

    found = by_name(run_period(settings, sources(log, LABELS | {"p7": text})).results)

    assert found["quality.labels"].verdict is Verdict.UNDECIDED
    assert found["quality.labels"].summary == f'the label "{text}" is not a number'
    assert found["service.errors"].verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("primary", "summary"),
    [("roc_auc", "not known from before"), ("log_loss", "do not define log loss")],
)
def test_quality_without_something_to_compare_with_is_undecided(
    tmp_path: Path, primary: str, summary: str
) -> None:
    holes = SCORE if primary == "roc_auc" else np.where(K % 9 == 0, np.nan, SCORE)
    log = Log(score=holes).write(tmp_path / "log")

    found = by_name(run_period(replace(SETTINGS, primary=primary), sources(log)).results)

    assert found["quality.as_before"].verdict is Verdict.UNDECIDED
    assert summary in found["quality.as_before"].summary


def test_several_classes_are_judged_by_the_answer_itself(tmp_path: Path) -> None:
    said = np.array(["a", "b", "c"])[K % 3]
    log = Log(prediction=said, score=np.full(ROWS, 0.9)).write(tmp_path / "log")
    labels = {f"p{k}": str(said[k]) if k % 5 else "a" for k in range(ROWS)}
    settings = replace(
        SETTINGS,
        primary="accuracy",
        classes=("a", "b", "c"),
        positive=None,
        limits={"accuracy": (0.8, None), "log_loss": (None, 0.5)},
    )
    profile = reference(features(), Answers(said, np.full((ROWS, 3), 1 / 3), ("a", "b", "c")))

    found = by_name(run_period(settings, replace(sources(log, labels), profile=profile)).results)

    assert found["quality.accuracy"].verdict is Verdict.PASSED
    assert found["quality.log_loss"].verdict is Verdict.UNDECIDED
    assert found["drift.prediction"].verdict is Verdict.PASSED


def test_an_input_may_be_called_prediction(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    table = Log().table().append_column("x_prediction", pa.array(AGE))
    pq.write_table(table, folder / "one.parquet")
    profile = reference(features().append_column("prediction", pa.array(AGE + 40)), answers())

    found = by_name(run_period(SETTINGS, replace(sources(folder), profile=profile)).results)

    assert found["drift.prediction"].verdict is Verdict.PASSED
    assert found["drift.x_prediction"].verdict is Verdict.FAILED


def test_a_request_of_several_rows_counts_once_for_the_service(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    table = Log().table()
    row = table.schema.get_field_index("row")
    pq.write_table(
        table.set_column(row, "row", pa.array(K % 4, pa.int32())), folder / "one.parquet"
    )

    found = table_in(folder).service(WINDOW, slow_ms=10)

    assert (found.requests, found.errors, found.slow, found.p95_ms) == (250, 0, 250, 20.0)


@pytest.mark.parametrize("statistics", [True, False])
def test_planted_nan_is_missing_in_every_query(tmp_path: Path, statistics: bool) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    # No infinity beside it: with one, engines find NaN again and the trap is hidden.
    table = Log(
        age=np.where(K % 5 == 0, np.nan, AGE), score=np.where(K % 4 == 0, np.nan, SCORE)
    ).table()
    late = table.schema.get_field_index("latency_ms")
    latency = np.where(K % 2 == 0, np.nan, 20.0)
    table = table.set_column(late, "latency_ms", pa.array(latency))
    pq.write_table(table, folder / "one.parquet", write_statistics=statistics)
    log = table_in(folder)

    inputs, labelled = log.inputs(WINDOW), log.labelled(WINDOW, LABELS)
    service = log.service(WINDOW, slow_ms=10)

    assert inputs.column("age").null_count == ROWS // 5
    assert inputs.column("score").null_count == ROWS // 4
    assert labelled.rows.column("score").null_count == ROWS // 4
    assert labelled.answered == ROWS
    assert (service.slow, service.p95_ms) == (ROWS // 2, 20.0)
    age = by_name(run_period(SETTINGS, sources(folder)).results)["drift.age"]
    assert age.verdict is Verdict.FAILED


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = Log().write(tmp_path / "log")
    (folder / "torn.parquet").write_bytes(b"PAR1 and no more")

    with pytest.raises(UnreachableError, match=r"PS601 .*torn\.parquet"):
        run_period(SETTINGS, sources(folder))
