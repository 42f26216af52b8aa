"""A rollout: start the challenger, raise its share look by look, promote it or give back.

    queued -> starting -> shadow (look, look, ...) -> canary (look, look, ...) -> promoting -> full
                             |-> paused (a person, or too little evidence) -> ...
                             `-> rolling back -> rolled back

Shadow and canary are left out where the block [canary] has none (see `ways`). What a judgement
leads to is in `proposing`, what a person says to a rollout in `steering`.

Every decision is one transaction: the rollout's state, the split of the traffic, the run's
state, the journal, and the work that follows. Giving back needs neither engine nor gateway to
be up: the gateway reads the new split when it can, and the lease ends the challenger's share
when nobody renews it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from penstock.config import ModelConfig
from penstock.deploy import places, ways
from penstock.deploy.canary import Judgement
from penstock.deploy.proposing import Here, Next, Proposal, propose
from penstock.deploy.ways import Traffic, Way
from penstock.domain import (
    Rollout,
    RolloutState,
    Run,
    RunState,
    Verdict,
    Version,
)
from penstock.ports import Engine
from penstock.records import approvals, rollouts, runs, watch
from penstock.records.database import Change
from penstock.records.rollouts import Plan

REST = timedelta(minutes=10)
"""How long a challenger gets no request after harm in a burst; once in a rollout."""
PERIODS = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    "month": timedelta(days=30),
}


def settings(version: Version) -> ModelConfig:
    """Return a version's penstock.toml as it was pushed, defaults filled in."""
    return ModelConfig.model_validate_json(json.dumps(version.config))


def look_id(of: Rollout, look: int) -> str:
    """Return the id of the stretch that does a look."""
    return f"rollout-{of.id}-look-{look}"


def queue(change: Change, engine: Engine, plan: Plan) -> Rollout:
    """Make a rollout and let it start."""
    made = rollouts.queue(change, plan)
    engine.enqueue(
        change.connection,
        "start",
        str(made.id),
        id=f"rollout-{made.id}-start",
        queue="deploy",
        partition=plan.model,
    )
    return made


def begin(change: Change, of: Rollout, traffic: Traffic) -> Rollout:
    """Load the challenger beside the champion; it gets no request yet."""
    alone = of.champion is None
    shares = () if alone else ways.shares(of.shares, ways.of(of), traffic)
    started = rollouts.move(
        change,
        of,
        RolloutState.STARTING,
        reason=f"{of.model}@{of.challenger} is being loaded.",
        shares=list(shares),
        settings=ways.first_settings(of.settings, traffic),
    )
    places.split(change, started, share=100 if alone else 0)
    return started


def first_share(change: Change, engine: Engine, of: Rollout, *, no_control: str = "") -> Rollout:
    """Give a loaded challenger what comes first: copies, its first share, or all requests.

    `no_control` says why a control arm that was to run does not; the champion is the control then.
    """
    if of.kind == "rollback":
        return release(change, engine, of, reason=of.reason)
    if of.champion is None:
        return release(change, engine, of, reason="There is no champion to compare it with.")
    if of.state is RolloutState.STARTING and of.settings.get("shadow_s"):
        return shadow(change, engine, of)
    if ways.of(of) is Way.BLUE_GREEN:
        return release(change, engine, of, reason="It gets all requests at once, as configured.")
    reason = f"{of.shares[0]} % of the requests."
    if places.wants_control(of):
        of = replace(of, settings={**of.settings, "control": not no_control})
        champion = f"{of.model}@{of.champion}"
        if no_control:
            reason += f" There is no control arm: {no_control}. {champion} itself is compared."
        else:
            reason += f" As many go to a second worker of {champion}, which is compared with it."
    return share(change, engine, of, of.shares[0], reason=reason)


def shadow(change: Change, engine: Engine, of: Rollout, *, reason: str = "") -> Rollout:
    """Give the challenger copies of the requests for its time; nobody gets its answers."""
    until = change.now + timedelta(seconds=of.settings["shadow_s"])
    shadowing = rollouts.move(
        change,
        of,
        RolloutState.SHADOW,
        reason=reason or "It gets copies of the requests; nobody gets its answers.",
        step=-1,
        share=0,
        look=of.look + 1,
        next_look_at=_next(change.now, of),
        hold_until=None,
        settings={**of.settings, **_since(change, of), "shadow_until": until.isoformat()},
    )
    places.shadow(change, shadowing)
    _enqueue_look(change, engine, shadowing)
    return shadowing


def decide_shadow(
    change: Change, engine: Engine, of: Rollout, verdict: Verdict, sentence: str
) -> Rollout:
    """Act on what the copies say: give back, look again, go on to the first share, or ask."""
    assert of.state is RolloutState.SHADOW, of.state
    if verdict is Verdict.FAILED:
        return give_back(change, engine, of, reason=sentence)
    if change.now < datetime.fromisoformat(of.settings["shadow_until"]):
        return _look_again(change, engine, of, reason=sentence)
    if ways.of(of) is Way.SHADOW:
        return hold(change, of, reason=f"Its time as a shadow is over. {sentence}")
    return first_share(change, engine, of)


def decide(
    change: Change,
    engine: Engine,
    of: Rollout,
    judgement: Judgement,
    here: Here,
    *,
    waits: str = "",
) -> Rollout:
    """Act on a judgement: next share, promote, hold, give back, or look again.

    `waits` says why the challenger may not get more for now; it never keeps it from giving back.
    """
    proposed = propose(of, judgement, here, now=change.now)
    if waits and proposed.next in {Next.STEP, Next.RELEASE}:
        proposed = Proposal(Next.LOOK, waits)
    if proposed.next is Next.BACK:
        return give_back(change, engine, of, reason=proposed.reason)
    if proposed.next is Next.REST:
        return _rest(change, engine, of, reason=proposed.reason)
    if proposed.next is Next.HOLD:
        return hold(change, of, reason=proposed.reason)
    if proposed.next is Next.RELEASE:
        return release(change, engine, of, reason=proposed.reason)
    if proposed.next is Next.STEP:
        assert proposed.share is not None, "a step without its share"
        return share(change, engine, of, proposed.share, reason=proposed.reason)
    return _look_again(change, engine, of, reason=proposed.reason, here=here)


def hold(change: Change, of: Rollout, *, reason: str) -> Rollout:
    """Keep the share as it is and ask a person; nobody answers in time: it goes back."""
    until = change.now + timedelta(seconds=of.settings["hold_s"])
    held = rollouts.move(
        change,
        of,
        RolloutState.PAUSED,
        reason=reason,
        hold_until=until,
        next_look_at=None,
    )
    rollouts.renew_lease(change.connection, held, until + places.LEASE_LEAST)
    _tell(change, held, f"{held.model}@{held.challenger} is held at {held.share} %", reason)
    return held


def release(change: Change, engine: Engine, of: Rollout, *, reason: str) -> Rollout:
    """Make the challenger the champion; the old champion stays loaded as previous."""
    promoting = rollouts.move(change, of, RolloutState.PROMOTING, reason=reason, share=100)
    places.release(change, of)
    full = rollouts.move(
        change,
        promoting,
        RolloutState.FULL,
        reason=reason,
        next_look_at=None,
        hold_until=None,
    )
    _end_run(change, full, RunState.SUCCEEDED, reason="It serves all requests.")
    _tell(change, full, f"{full.model}@{full.challenger} is in production", reason)
    _watch(change, full)
    _void_stale(change, engine, full)
    wake(change, engine, of.model)
    return full


def give_back(change: Change, engine: Engine, of: Rollout, *, reason: str) -> Rollout:
    """Send all requests to the champion again, now."""
    if of.state is RolloutState.QUEUED:
        back = rollouts.move(change, of, RolloutState.ROLLED_BACK, reason=reason)
    else:
        going = rollouts.move(change, of, RolloutState.ROLLING_BACK, reason=reason, share=0)
        places.split_back(change, going)
        back = rollouts.move(
            change,
            going,
            RolloutState.ROLLED_BACK,
            reason=reason,
            next_look_at=None,
            hold_until=None,
        )
    _end_run(change, back, RunState.ROLLED_BACK, reason=reason)
    was = "could not be gone back to" if back.kind == "rollback" else "was rolled back"
    _tell(change, back, f"{back.model}@{back.challenger} {was}", reason)
    wake(change, engine, of.model)
    return back


def wake(change: Change, engine: Engine, model: str) -> None:
    """Let the next queued run of the model begin, now that no rollout is in its way."""
    waiting = [run for run in runs.live(change.connection, model) if run.state is RunState.QUEUED]
    if waiting:
        enqueue_stage(change, engine, min(waiting, key=lambda run: run.seq), "build")


def enqueue_stage(change: Change, engine: Engine, of: Run, stage: str) -> None:
    """Let a stage of a run be done. Twice does no harm: a stage begins only from its state."""
    stretch = f"run-{of.id}-{stage}-{of.state_version}-{change.now:%y%m%d%H%M%S%f}"
    engine.enqueue(
        change.connection,
        stage,
        str(of.id),
        id=stretch,
        queue="build",
        partition=of.model,
    )
    runs.enqueued(change.connection, of, stretch)


def share(change: Change, engine: Engine, of: Rollout, percent: int, *, reason: str) -> Rollout:
    """Give the challenger a share of the requests, and look at it again."""
    awake = {name: value for name, value in of.settings.items() if name != "resting"}
    shared = rollouts.move(
        change,
        of,
        RolloutState.CANARY,
        reason=reason,
        step=sum(one <= percent for one in of.shares) - 1,
        share=percent,
        look=of.look + 1,
        next_look_at=_next(change.now, of),
        hold_until=None,
        settings={"window_since": change.now.isoformat(), **awake, **_since(change, of)},
    )
    places.split(change, shared, share=percent)
    _enqueue_look(change, engine, shared)
    return shared


def _rest(change: Change, engine: Engine, of: Rollout, *, reason: str) -> Rollout:
    """Take the challenger's share for a while: a stall of its worker may pass."""
    resting = rollouts.move(
        change,
        of,
        RolloutState.CANARY,
        reason=reason,
        share=0,
        look=of.look + 1,
        next_look_at=change.now + REST,
        settings={**of.settings, "rested": True, "resting": of.share},
    )
    places.split(change, resting, share=0)
    _enqueue_look(change, engine, resting, delay_s=REST.total_seconds())
    _tell(change, resting, f"{resting.model}@{resting.challenger} rests", reason)
    return resting


def _since(change: Change, of: Rollout) -> dict[str, Any]:
    """Return what says from when on, and from which look on, the present share is seen."""
    return {"since": change.now.isoformat(), "since_look": of.look + 1}


def _look_again(
    change: Change, engine: Engine, of: Rollout, *, reason: str, here: Here | None = None
) -> Rollout:
    per_s = None if here is None else here.requests_per_s
    kept = {**of.settings, "batch_s": ways.batch_by(of.settings, per_s)}
    again = rollouts.move(
        change,
        of,
        of.state,
        reason=reason,
        look=of.look + 1,
        next_look_at=change.now + timedelta(seconds=kept["batch_s"]),
        settings=kept,
    )
    rollouts.renew_lease(change.connection, again, places.lease(change.now, again))
    _enqueue_look(change, engine, again)
    return again


def _enqueue_look(
    change: Change, engine: Engine, of: Rollout, *, delay_s: float | None = None
) -> None:
    engine.enqueue(
        change.connection,
        "look",
        f"{of.id}:{of.look}",
        id=look_id(of, of.look),
        delay_s=of.settings["batch_s"] if delay_s is None else delay_s,
        queue="deploy",
        partition=of.model,
    )


def _next(now: datetime, of: Rollout) -> datetime:
    return now + timedelta(seconds=of.settings["batch_s"])


def _end_run(change: Change, of: Rollout, to: RunState, *, reason: str) -> None:
    if of.run_id is None:
        return
    run = runs.get(change.connection, of.run_id)
    if run.state is RunState.ABORTING:
        runs.move(change, run, RunState.ABORTED, reason=run.reason)
    elif run.state is RunState.ROLLING_OUT:
        runs.move(change, run, to, reason=reason)


def _watch(change: Change, of: Rollout) -> None:
    """Set the monitors of a version that has become the champion."""
    version = runs.version_of(change.connection, of.model, of.challenger)
    for monitor in settings(version).monitor:
        watch.set_monitor(
            change,
            of.model,
            monitor.every,
            due=change.now + PERIODS[monitor.every],
            settings={"checks": list(monitor.checks)},
        )


def _void_stale(change: Change, engine: Engine, of: Rollout) -> None:
    """Ask anew what waits for approval: it was judged against the champion before."""
    from_run = runs.get(change.connection, of.run_id).seq if of.run_id is not None else 0
    for run in runs.live(change.connection, of.model):
        if run.state is not RunState.AWAITING_APPROVAL:
            continue
        void_approvals(change, run, reason=f"{of.model}@{of.challenger} is the champion now.")
        if run.seq < from_run:
            runs.move(
                change,
                run,
                RunState.SUPERSEDED,
                reason=f"{of.model}@{of.challenger} came to production before it.",
            )
        else:
            tested = runs.move(
                change,
                run,
                RunState.TESTING,
                reason="The champion changed; it is compared with the new one.",
            )
            enqueue_stage(change, engine, tested, "test")


def void_approvals(change: Change, of: Run, *, reason: str) -> None:
    """End the questions of a run whose evidence no longer holds."""
    for question in approvals.asked(change.connection, run_id=of.id):
        approvals.close(change, question, "void", reason=reason)


def _tell(change: Change, of: Rollout, subject: str, text: str) -> None:
    watch.tell(
        change.connection,
        f"rollout:{of.id}:{of.state}:{of.state_version}",
        {
            "kind": f"rollout.{of.state}",
            "model": of.model,
            "subject": subject,
            "text": text,
            "path": f"/rollouts/{of.id}",
        },
        now=change.now,
    )
