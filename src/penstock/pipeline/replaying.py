"""Recent production requests, put to challenger and champion in stage test.

The rows come from the prediction log of the last days, evenly over time; both versions answer them
in the test environment. Nothing is judged by it: people see which decisions would have been
others.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.check import replay as check
from penstock.check.answers import Answers
from penstock.deploy import rollout
from penstock.domain import JSON, CheckResult, Environment, Verdict, Version
from penstock.errors import PenstockError
from penstock.inference.asking import WorkerAnswerError
from penstock.inference.prediction_log.table import Of
from penstock.monitor.tables import FEATURE_PREFIX
from penstock.pipeline.answering import answers_of
from penstock.pipeline.tools import Work
from penstock.records import rollouts, runs

SPAN = timedelta(days=7)


def replay(work: Work) -> JSON:
    """Replay, and keep what was found; a log that cannot be read stops nothing."""
    try:
        return _replay(work)
    except PenstockError as error:
        return _undecided(work, error.what, reading="not replayed")


def _replay(work: Work) -> JSON:
    version = work.version()
    config = rollout.settings(version)
    with work.tools.database.read() as connection:
        serving = rollouts.champion(connection, work.run.model)
        champion = (
            runs.version_of(connection, work.run.model, serving.number)
            if serving is not None and serving.number != work.run.number
            else None
        )
    if not config.speed.replay_rows:
        return {"state": "skipped", "reason": "[speed] replay_rows is 0"}
    if champion is None or version.signature is None or champion.signature is None:
        return {"state": "skipped", "reason": "no champion to compare with"}
    asked = _asked(work, champion, config.speed.replay_rows)
    if asked is None:
        return {"state": "skipped", "reason": f"production was asked nothing for {SPAN.days} days"}
    rows, ids, span_h = asked
    lacking = {one: _lacking(of, rows) for one, of in (("new", version), ("old", champion))}
    if lacking["new"] - lacking["old"]:
        names = sorted(lacking["new"] - lacking["old"])
        what = (
            f"{version} wants {', '.join(names)}, which production's requests do not have or the "
            "log may not hold"
        )
        return _undecided(work, what, reading="other columns", left_out=names)
    try:
        answers = [_answers(work, one, rows) for one in (champion, version)]
    except WorkerAnswerError as error:
        what = f"a request that production answered is refused: {error.message}"[:400]
        return _undecided(work, what, reading="refused")
    replayed = check.Replayed(
        rows, tuple(ids), answers[0], answers[1], tuple(sorted(lacking["old"])), span_h
    )
    slices: dict[str, NDArray[Any]] = {
        name: np.array(rows.column(name).to_pylist(), dtype=object)
        for name in config.quality.slices
        if name in rows.column_names
    }
    results = check.replay_checks(replayed, slices=slices)
    work.keep(results)
    return {"state": "passed", "reason": results[0].summary}


def _asked(work: Work, champion: Version, most: int) -> tuple[pa.Table, list[str], float] | None:
    """Return what callers asked the champion, their prediction ids, and the hours they span."""
    now = work.tools.clock()
    of = Of(Environment.PRODUCTION, work.run.model)
    with work.tools.logs.table(of, now - SPAN, now) as log:
        found = log.sample(now - SPAN, now, number=champion.number, rows=most)
    if not found.num_rows:
        return None
    moments = found.column("ts").to_pylist()
    span_h = (max(moments) - min(moments)).total_seconds() / 3600
    ids = [str(one) for one in found.column("prediction_id").to_pylist()]
    names = [name for name in found.column_names if name.startswith(FEATURE_PREFIX)]
    rows = found.select(names).rename_columns([n.removeprefix(FEATURE_PREFIX) for n in names])
    # A column of nothing but nulls is one that this version was never asked for, or that the
    # log must not hold.
    kept = [name for name in rows.column_names if rows.column(name).null_count < rows.num_rows]
    return rows.select(kept), ids, span_h


def _lacking(version: Version, rows: pa.Table) -> set[str]:
    wanted = {str(column["name"]) for column in (version.signature or {"columns": []})["columns"]}
    return wanted - set(rows.column_names)


def _undecided(work: Work, summary: str, **evidence: Any) -> JSON:
    told = {"question": check.QUESTION, "gate": False, **evidence}
    work.keep([CheckResult("replay.changed", Verdict.UNDECIDED, summary, told)])
    return {"state": "undecided", "reason": summary}


def _answers(work: Work, version: Version, rows: pa.Table) -> Answers:
    endpoint = work.tools.endpoint(version.model, version.number, Environment.TEST)
    try:
        return answers_of(endpoint.predict(rows, version.signature), version.signature)
    finally:
        endpoint.close()
