"""Stage production: start the challenger, look at its canary, batch by batch.

Each look closes one batch, counts it from the prediction log, judges all batches so far, and
decides in one transaction. Nothing runs between two looks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from penstock.deploy import places, rollout, shadow
from penstock.deploy.canary import ArmCounts, Batch, Customers, Judgement, both, compared, judge
from penstock.deploy.proposing import Here
from penstock.deploy.ways import Traffic
from penstock.domain import (
    JSON,
    CheckResult,
    Deployment,
    Environment,
    Role,
    Rollout,
    RolloutState,
    Verdict,
    Version,
)
from penstock.errors import PenstockError
from penstock.inference.endpoint import READY_EVERY_S, Endpoint
from penstock.inference.gateway.sticky import HOUR_US
from penstock.inference.prediction_log.counting import ArmCount, CustomerCounts
from penstock.inference.prediction_log.table import Of
from penstock.monitor.tables import Window
from penstock.pipeline.copies import COPIES_LATE_US, copies
from penstock.pipeline.customers import take
from penstock.pipeline.tools import Tools
from penstock.records import draws, rollouts, runs, watch

LOOKED_AT = frozenset({RolloutState.SHADOW, RolloutState.CANARY})
READY_S = 120.0
CONTROL_S = 30.0
"""How long a challenger that is ready waits for its control arm."""
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
        "production/first share", lambda: _first_share(tools, rollout_id, loaded)
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
        why = _control_missing(endpoint, of) if places.wants_control(of) else ""
    except PenstockError as error:
        return {"error": error.what}
    finally:
        endpoint.close()
    return {"error": "", "no_control": why}


def _control_missing(endpoint: Endpoint, of: Rollout) -> str:
    """Wait for the control arm; return why it does not come, empty when it is there."""
    ends_s = time.monotonic() + CONTROL_S
    while time.monotonic() < ends_s:
        arm = next((one for one in endpoint.workers() if _is_control(one, of)), None)
        state = None if arm is None else arm["state"]
        if state == "ready":
            return ""
        if arm is not None and state == "failed":
            return f"{arm['reason']}"
        if state == "unloaded":
            return "there is no memory for it beside what runs"
        time.sleep(READY_EVERY_S)
    return f"it was not ready after {CONTROL_S:g} s"


def _is_control(worker: JSON, of: Rollout) -> bool:
    where = (worker["environment"], worker["model"], worker["role"])
    return where == (of.environment, of.model, Role.CONTROL)


def _first_share(tools: Tools, rollout_id: int, loaded: JSON) -> JSON:
    error = str(loaded["error"])
    with tools.database.change("penstock") as change:
        of = rollouts.get(change.connection, rollout_id)
        if of.state is not RolloutState.STARTING:
            change.journal("rollout.passed_over", {"model": of.model, "rollout": of.id})
        elif error:
            rollout.give_back(change, tools.engine, of, reason=error)
        else:
            no_control = str(loaded.get("no_control", ""))
            rollout.first_share(change, tools.engine, of, no_control=no_control)
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
        present = rollouts.deployments(connection, model_name=of.model, environment=of.environment)
    own = {found.role: found for found in present if found.rollout_id == of.id}
    challenger = own.get(Role.CHALLENGER) or own.get(Role.SHADOW)
    if of.state not in LOOKED_AT or of.look != number or challenger is None:
        return {}
    arms = tools.arms(of.model)
    since = int(before[-1]["until_us"]) if before else int(of.started_at.timestamp() * 1e6)
    until = arms.watermark() or 0
    if of.state is RolloutState.SHADOW:
        until -= COPIES_LATE_US  # a copy ends after its request
    until = max(since, until)
    # Requests drawn under another split belong to another batch: the share must be constant.
    of_batch: dict[str, Any] = {
        "since_us": since,
        "until_us": until,
        "slow_ms": float(of.settings["slow_ms"]),
        "generations": [challenger.generation],
    }
    counts = arms.count(**of_batch)
    told = _told(counts, own)
    rows: CustomerCounts | None = None
    if challenger.key is not None and challenger.role is Role.CHALLENGER:
        told["alone"] = _told(arms.count(**of_batch, alone=True), own)
        told["against"] = "both" if Role.CONTROL in own else "champion"
        rows = arms.customers(**of_batch, draw_us=HOUR_US if challenger.redraw else None)
    if of.state is RolloutState.SHADOW:
        told["copies"] = copies(tools, of, since, until)
    with tools.database.write() as connection:
        if rows is not None and not rollouts.has_batch(connection, of, number):
            kept = draws.of_rollout(connection, of.id)
            changed, told["customers"] = take(of, challenger, rows, kept, since_us=since)
            for one in changed:
                draws.keep(connection, of.id, one)
        rollouts.add_batch(connection, of, number, window_us=(since, until), counts=told)
    return {"against": told["against"]}


def _told(counts: Mapping[str, ArmCount], own: Mapping[Role, Deployment]) -> dict[str, Any]:
    """Return what is kept of a batch's arms."""
    none = ArmCount(0, 0, 0)
    challenger = Role.CHALLENGER if Role.CHALLENGER in own else Role.SHADOW
    told: dict[str, Any] = {
        "challenger": counts.get(str(challenger), none)._asdict(),
        "champion": counts.get(str(Role.CHAMPION), none)._asdict(),
    }
    if Role.CONTROL in own:
        told["control"] = counts.get(str(Role.CONTROL), none)._asdict()
    told["against"] = compared(*_arms(told))[0]
    return told


def _decide(tools: Tools, rollout_id: int, number: int) -> JSON:
    with tools.database.read() as connection:
        of = rollouts.get(connection, rollout_id)
        rows = rollouts.batches(connection, rollout_id)
    if of.state not in LOOKED_AT or of.look != number:
        return {}
    here = _here(tools, of, rows)
    judgement, verdict, sentence = None, Verdict.UNDECIDED, ""
    if of.state is RolloutState.SHADOW:
        verdict, sentence, results = _shadow_seen(of, rows)
    else:
        judgement, results = _judged(of, rows)
        verdict = judgement.verdict
    with tools.database.change("penstock") as change:
        fresh = rollouts.get(change.connection, rollout_id)
        if fresh.state is not of.state or fresh.look != number:
            change.journal("look.passed_over", {"model": of.model, "rollout": of.id})
            return {}
        runs.add_results(
            change.connection,
            (of.model, of.challenger),
            f"rollout:{of.id}:{number}",
            results,
            now=change.now,
        )
        if judgement is None:
            after = rollout.decide_shadow(change, tools.engine, fresh, verdict, sentence)
        else:
            after = rollout.decide(change, tools.engine, fresh, judgement, here)
        tools.reached("production/decide:inside")
    return {"state": after.state, "verdict": str(verdict)}


def _here(tools: Tools, of: Rollout, rows: Sequence[JSON]) -> Here:
    """Return what was seen since the challenger got its present share."""
    since = int(of.settings.get("since_look", 0))
    now = [row for row in rows if row["share"] == of.share and row["look"] >= since]
    batches = [_batch(row["counts"]) for row in now]
    seconds = sum(row["until_us"] - row["since_us"] for row in now) / 1e6
    requests = sum(arm.requests for row in now for arm in _arms(row["counts"]) if arm is not None)
    labels = 0
    if now and of.settings.get("min_labels"):
        labels = _labels(tools, of, (now[0]["since_us"], now[-1]["until_us"]))
    return Here(batches, labels, requests / seconds if seconds > 0 else None)


def _labels(tools: Tools, of: Rollout, window_us: tuple[int, int]) -> int:
    """Count the challenger's answers of a span of time whose truth is known by now."""
    since, until = (datetime.fromtimestamp(us / 1e6, UTC) for us in window_us)
    with tools.database.read() as connection:
        known = watch.labels_of(connection, of.model)
    if not known:
        return 0
    with tools.logs.table(Of(of.environment, of.model), since, until) as log:
        return log.labelled(Window(since, until, of.challenger), known).rows.num_rows


def _shadow_seen(of: Rollout, rows: Sequence[JSON]) -> tuple[Verdict, str, list[CheckResult]]:
    """Say what the copies showed, beside the answers that their callers got."""
    looks = [row["counts"]["copies"] for row in rows if "copies" in row["counts"]]
    return shadow.judged(looks, p_max_errors=float(of.settings["p_max_errors"]))


def _judged(of: Rollout, rows: Sequence[JSON]) -> tuple[Judgement, list[CheckResult]]:
    """Judge every batch in which the challenger had a share of the requests."""
    judgement = judge(
        [_batch(row["counts"]) for row in rows if row["share"] > 0],
        p_max_errors=float(of.settings["p_max_errors"]),
        p_max_slow=float(of.settings["p_max_slow"]),
    )
    return judgement, judgement.results()


def _batch(counts: JSON) -> Batch:
    arms = _arms(counts)
    if (told := counts.get("customers")) is None:
        return Batch(challenger=arms[0], champion=compared(*arms)[1])
    # A customer is on the challenger or not: the champion's two arms are one.
    challenger, champion = _two(arms)
    return Batch(challenger, champion, Customers.from_json(told, *_two(_arms(counts["alone"]))))


def _two(arms: tuple[ArmCounts, ArmCounts, ArmCounts | None]) -> tuple[ArmCounts, ArmCounts]:
    challenger, champion, control = arms
    return challenger, champion if control is None else both(champion, control)


def _arms(counts: JSON) -> tuple[ArmCounts, ArmCounts, ArmCounts | None]:
    def arm(of: JSON) -> ArmCounts:
        return ArmCounts(of["requests"], of["errors"], of["slow"])

    control = arm(counts["control"]) if "control" in counts else None
    return arm(counts["challenger"]), arm(counts["champion"]), control
