"""Stage production: start the challenger, look at its canary, batch by batch.

Each look closes one batch, counts it from the prediction log, judges all batches so far, and
decides in one transaction. Nothing runs between two looks.
"""

from __future__ import annotations

from penstock.deploy import rollout
from penstock.deploy.canary import ArmCounts, Batch, judge
from penstock.deploy.rollout import Traffic
from penstock.domain import (
    JSON,
    CheckResult,
    Environment,
    Rollout,
    RolloutState,
    Version,
)
from penstock.errors import PenstockError
from penstock.inference.prediction_log.counting import ArmCount
from penstock.pipeline.tools import Tools
from penstock.records import rollouts, runs

READY_S = 120.0
TRAFFIC_S = 600.0
"""How much of the champion's last traffic sets the threshold for slow."""
SLOW_LEAST_MS = 20.0
"""Below this, a request is never slow: timers and the scheduler are not the version's fault."""


async def start(tools: Tools, argument: str) -> None:
    """Load the challenger and give it its first share, or give back when it does not start."""
    rollout_id = int(argument)
    found = await tools.engine.step("production/load", lambda: _load(tools, rollout_id))
    tools.reached("production/load:after")
    if not found["go"]:
        return
    loaded = await tools.engine.step("production/wait", lambda: _wait(tools, rollout_id))
    tools.reached("production/wait:after")
    await tools.engine.step(
        "production/first share", lambda: _first_share(tools, rollout_id, str(loaded["error"]))
    )
    tools.reached("production/first share:after")


def _load(tools: Tools, rollout_id: int) -> JSON:
    with tools.database.read() as connection:
        of = rollouts.get(connection, rollout_id)
        version = runs.version_of(connection, of.model, of.challenger)
    if of.state is RolloutState.QUEUED:
        traffic = champion_traffic(tools, of, version)
        with tools.database.change("penstock") as change:
            rollout.begin(change, rollouts.get(change.connection, rollout_id), traffic)
        return {"go": True}
    return {"go": of.state is RolloutState.STARTING}


def champion_traffic(tools: Tools, of: Rollout, version: Version) -> Traffic:
    """Read the champion's last traffic: how much there is, and how fast it is answered."""
    since_us = int((tools.clock().timestamp() - TRAFFIC_S) * 1e6)
    latencies = tools.arms(of.model).latencies_ms("champion", since_us=since_us)
    p95_ms = float(latencies[int(0.95 * (len(latencies) - 1))]) if len(latencies) else 0.0
    stated = rollout.settings(version).speed.p95_ms
    slow_ms = stated if stated is not None else max(SLOW_LEAST_MS, 2 * p95_ms)
    return Traffic(requests_per_day=len(latencies) / TRAFFIC_S * 86_400, slow_ms=slow_ms)


def _wait(tools: Tools, rollout_id: int) -> JSON:
    with tools.database.read() as connection:
        of = rollouts.get(connection, rollout_id)
    endpoint = tools.endpoint(of.model, of.challenger, Environment.PRODUCTION)
    try:
        endpoint.wait_ready(READY_S)
    except PenstockError as error:
        return {"error": error.what}
    finally:
        endpoint.close()
    return {"error": ""}


def _first_share(tools: Tools, rollout_id: int, error: str) -> JSON:
    with tools.database.change("penstock") as change:
        of = rollouts.get(change.connection, rollout_id)
        if of.state is not RolloutState.STARTING:
            change.journal("rollout.passed_over", {"model": of.model, "rollout": of.id})
        elif error:
            rollout.give_back(change, tools.engine, of, reason=error)
        else:
            rollout.first_share(change, tools.engine, of)
    return {}


async def look(tools: Tools, argument: str) -> None:
    """Close a batch, judge, and decide."""
    rollout_id, number = (int(part) for part in argument.split(":"))
    await tools.engine.step("production/count", lambda: _count(tools, rollout_id, number))
    tools.reached("production/count:after")
    await tools.engine.step("production/decide", lambda: _decide(tools, rollout_id, number))
    tools.reached("production/decide:after")


def _count(tools: Tools, rollout_id: int, number: int) -> JSON:
    """Count the requests that arrived since the batch before, all of which have ended."""
    with tools.database.read() as connection:
        of = rollouts.get(connection, rollout_id)
        before = rollouts.batches(connection, rollout_id)
        challenger = next(
            (
                found
                for found in rollouts.deployments(
                    connection, model_name=of.model, environment=of.environment
                )
                if found.rollout_id == of.id
            ),
            None,
        )
    if of.state is not RolloutState.CANARY or of.look != number or challenger is None:
        return {}
    arms = tools.arms(of.model)
    since = int(before[-1]["until_us"]) if before else int(of.started_at.timestamp() * 1e6)
    until = max(since, arms.watermark() or 0)
    # Requests drawn under another split belong to another batch: the share must be constant.
    counts = arms.count(
        since_us=since,
        until_us=until,
        slow_ms=float(of.settings["slow_ms"]),
        generations=[challenger.generation],
    )
    none = ArmCount(0, 0, 0)
    told = {role: counts.get(role, none)._asdict() for role in ("challenger", "champion")}
    with tools.database.write() as connection:
        rollouts.add_batch(connection, of, number, window_us=(since, until), counts=told)
    return told


def _decide(tools: Tools, rollout_id: int, number: int) -> JSON:
    with tools.database.read() as connection:
        of = rollouts.get(connection, rollout_id)
        rows = rollouts.batches(connection, rollout_id)
    if of.state is not RolloutState.CANARY or of.look != number:
        return {}
    batches = [_batch(row["counts"]) for row in rows]
    here = [_batch(row["counts"]) for row in rows if row["share"] == of.share]
    judgement = judge(
        batches,
        p_max_errors=float(of.settings["p_max_errors"]),
        p_max_slow=float(of.settings["p_max_slow"]),
    )
    evidence = judgement.evidence()
    results = [
        CheckResult(
            f"canary.{name}",
            one.verdict,
            f"{one.events} of {one.requests:,} requests, {one.expected:.1f} expected",
            {
                **evidence["metrics"][name],
                "value": one.events / one.requests if one.requests else None,
                "limit": one.p_max,
                "reading": {"passed": "no harm", "failed": "harm", "undecided": "too early"}[
                    one.verdict
                ],
                "question": _QUESTIONS[name],
            },
        )
        for name, one in judgement.metrics.items()
    ]
    with tools.database.change("penstock") as change:
        fresh = rollouts.get(change.connection, rollout_id)
        if fresh.state is not RolloutState.CANARY or fresh.look != number:
            change.journal("look.passed_over", {"model": of.model, "rollout": of.id})
            return {}
        runs.add_results(
            change.connection,
            (of.model, of.challenger),
            f"rollout:{of.id}:{number}",
            results,
            now=change.now,
        )
        after = rollout.decide(change, tools.engine, fresh, judgement, here)
        tools.reached("production/decide:inside")
    return {"state": after.state, "verdict": str(judgement.verdict)}


_QUESTIONS = {
    "errors": "Does it fail more often than what serves today?",
    "slow": "Is it slower than what serves today?",
}


def _batch(counts: JSON) -> Batch:
    def arm(of: JSON) -> ArmCounts:
        return ArmCounts(of["requests"], of["errors"], of["slow"])

    return Batch(challenger=arm(counts["challenger"]), champion=arm(counts["champion"]))
