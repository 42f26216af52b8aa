"""Watching production: the tick, and one period of a monitor."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from penstock.check.quality import primary_metric
from penstock.deploy import rollout
from penstock.domain import JSON, CheckResult, Environment, Rollout, RolloutState, Version
from penstock.errors import PenstockError
from penstock.inference.prediction_log.table import Of
from penstock.monitor import alerts
from penstock.monitor.period import PeriodSettings, PeriodSources, Reference, run_period
from penstock.monitor.tables import Window
from penstock.pipeline import acts, approving
from penstock.pipeline.prediction_logs import tell_gaps
from penstock.pipeline.tools import Tools
from penstock.records import rollouts, runs, watch
from penstock.records.database import Change


def tick(tools: Tools, due: str, heal: Callable[[], None]) -> JSON:
    """Do what is due each minute; every part of it may be done twice."""
    acts.expired(tools.database, tools.engine)
    approving.remind(tools.database)
    acts.cool(tools.database)
    heal()
    begun = enqueue_due(tools)
    sent = send_messages(tools)
    return {"due": due, "monitors": begun, "messages": sent}


def enqueue_due(tools: Tools) -> int:
    """Let every monitor whose time has come do its period, once."""
    now = tools.clock()
    with tools.database.read() as connection:
        found = watch.due(connection, now)
    for monitor in found:
        coming = monitor.next_due
        while coming <= now:  # what was missed while no engine ran is checked once, not each
            coming += rollout.PERIODS[monitor.name]
        due = monitor.next_due.isoformat(timespec="microseconds")
        with tools.database.change("penstock") as change:
            change.journal(
                "monitor.due", {"model": monitor.model, "monitor": monitor.name, "due": due}
            )
            if watch.advance(change.connection, monitor, coming):
                tools.engine.enqueue(
                    change.connection,
                    "monitor",
                    f"{monitor.model}|{monitor.name}|{due}",
                    id=f"mon-{monitor.model}-{monitor.name}-{due}",
                    queue="monitor",
                    partition=monitor.model,
                )
    return len(found)


def send_messages(tools: Tools) -> int:
    """Send what the outbox holds; what cannot be sent is tried again at the next tick."""
    with tools.database.read() as connection:
        waiting = watch.unsent(connection)
    for message_id, message in waiting:
        sent_at: datetime | None = tools.clock()
        try:
            tools.notifier.send({**message, "url": tools.url + str(message.get("path", ""))})
        except PenstockError:
            sent_at = None
        with tools.database.write() as connection:
            watch.tried(connection, message_id, sent_at=sent_at)
    return len(waiting)


def heal_rollout(tools: Tools, of: Rollout) -> None:
    """Take up a rollout whose start or look was lost with a crash of the database's host."""
    if of.state in {RolloutState.QUEUED, RolloutState.STARTING}:
        name, stretch, argument = "start", f"rollout-{of.id}-start", str(of.id)
    elif of.state in {RolloutState.SHADOW, RolloutState.CANARY}:
        name, stretch, argument = "look", rollout.look_id(of, of.look), f"{of.id}:{of.look}"
    else:
        return
    state = tools.engine.states([stretch]).get(stretch)
    if state in {"waiting", "running"}:
        return
    with tools.database.change("penstock") as change:
        fresh = rollouts.get(change.connection, of.id)
        change.journal("rollout.healed", {"model": of.model, "rollout": of.id})
        if (fresh.state, fresh.state_version) != (of.state, of.state_version):
            return
        if state == "failed":
            reason = "The engine could not judge it any further; see engine.log."
            rollout.give_back(change, tools.engine, fresh, reason=reason)
            return
        tools.engine.enqueue(
            change.connection,
            name,
            argument,
            id=f"{stretch}-{change.now:%y%m%d%H%M%S%f}",
            queue="deploy",
            partition=of.model,
        )


async def monitor(tools: Tools, argument: str) -> None:
    """Check one period of a model in production."""
    model, period, due = argument.split("|")
    await tools.engine.step("monitor/table", lambda: tabulate(tools, model))
    tools.reached("monitor/table:after")
    await tools.engine.step("monitor/period", lambda: check_period(tools, model, period, due))
    tools.reached("monitor/period:after")


def tabulate(tools: Tools, model: str) -> JSON:
    """Turn closed segments of the prediction log into Parquet."""
    return {"hours": tools.logs.tabulate(Of(Environment.PRODUCTION, model), tools.clock())}


def keep_logs(tools: Tools) -> JSON:
    """Bring every prediction log forward, and tell people of gaps in one."""
    told = tools.logs.keep(tools.clock())
    endpoint = tools.endpoint("any", None, Environment.PRODUCTION)
    try:
        workers = endpoint.workers()
    except PenstockError:  # the gateway is away: then nothing is answered, nor lost
        return told
    finally:
        endpoint.close()
    return {**told, "gaps": tell_gaps(tools.database, workers, tools.clock())}


def check_period(tools: Tools, model: str, period: str, due: str) -> JSON:
    """Run the checks of a period, keep what they found, and open, continue or close alerts."""
    until = datetime.fromisoformat(due)
    with tools.database.read() as connection:
        champion = rollouts.champion(connection, model)
        if champion is None:
            return {}
        version = runs.version_of(connection, model, champion.number)
        run = runs.get(connection, version.run_id)
        labels = watch.labels_of(connection, model)
        asked = {one.name: one for one in watch.monitors(connection, model)}[period]
    window = Window(until - rollout.PERIODS[period], until, champion.number)
    reports = tools.folder(run) / "reports"
    judged = _json(reports / "quality.json")
    settings = _settings(tools, version, window, tuple(asked.settings["checks"]))
    if judged is not None:
        settings = replace(settings, primary=str(judged["metric"]))
    of = Of(Environment.PRODUCTION, model)
    with tools.logs.table(of, window.since, window.until) as log:
        report = run_period(
            settings,
            PeriodSources(
                log=log,
                profile=_json(reports / "profile.json"),
                labels=labels,
                quality=_judged_before(judged),
            ),
        )
    occasion = f"monitor:{model}:{period}:{due}"
    with tools.database.change("penstock") as change:
        of = (model, champion.number)
        runs.add_results(change.connection, of, occasion, report.results, now=change.now)
        change.journal(
            "monitor.checked",
            {"model": model, "monitor": period, "due": due, "rows": report.rows},
        )
        _alert(change, of, until, report.results)
    return {"rows": report.rows, "labelled": report.labelled}


def _settings(
    tools: Tools, version: Version, window: Window, checks: tuple[str, ...]
) -> PeriodSettings:
    config = rollout.settings(version)
    signature = version.signature or {"task": "regression", "classes": None, "positive": None}
    classes = tuple(signature["classes"] or ())
    task = str(signature["task"])
    return PeriodSettings(
        window=window,
        now=tools.clock(),
        task=task,
        primary=config.quality.primary or primary_metric(task, len(classes)),
        classes=classes or None,
        positive=signature["positive"],
        limits={name: (one.min, one.max) for name, one in config.quality.limits.items()},
        p95_ms=config.speed.p95_ms,
        checks=checks,
    )


def _judged_before(told: JSON | None) -> Reference | None:
    """Return the quality on the evaluation data, with its interval, when it was judged."""
    if told is None or told["interval"] is None:
        return None
    low, high = told["interval"]
    return Reference(float(told["values"][told["metric"]]), float(low), float(high))


def _json(path: Path) -> JSON | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _alert(
    change: Change, of: tuple[str, int], due: datetime, results: Sequence[CheckResult]
) -> None:
    model, number = of
    known = {one.kind: one for one in watch.open_alerts(change.connection, model)}
    moves = alerts.decide(results, {kind: frozenset(one.checks) for kind, one in known.items()})
    for one in moves:
        cause = watch.Cause(due, number, one.summary, one.checks)
        if one.move is alerts.Move.OPEN:
            watch.open_alert(change, model, one.kind, cause)
        elif one.move is alerts.Move.CONTINUE:
            watch.continue_alert(change, known[one.kind], cause)
            continue
        else:
            watch.close_alert(change, known[one.kind], reason=one.summary)
        watch.tell(
            change.connection,
            f"alert:{model}:{one.kind}:{one.move}:{due.isoformat()}",
            {
                "kind": f"alert.{one.move}",
                "model": model,
                "subject": f"{model}@{number}: {_WORDS[one.kind]} {_MOVED[one.move]}",
                "text": one.summary,
                "path": f"/models/{model}",
            },
            now=change.now,
        )


_WORDS = {"quality": "quality", "drift": "inputs or predictions", "service": "service"}
_MOVED = {alerts.Move.OPEN: "need a look", alerts.Move.CLOSE: "as before again"}
