"""A rollout: start the challenger, raise its share look by look, promote it or give back.

    queued -> starting -> canary (look, look, ...) -> promoting -> full
                             |-> paused (a person, or too little evidence) -> ...
                             `-> rolling back -> rolled back

Every decision is one transaction: the rollout's state, the split of the traffic, the run's
state, the journal, and the work that follows. Giving back needs neither engine nor gateway to
be up: the gateway reads the new split when it can, and the lease ends the challenger's share
when nobody renews it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from penstock.config import ModelConfig
from penstock.deploy import places
from penstock.deploy.canary import Batch, Judgement, may_step
from penstock.domain import (
    Environment,
    Role,
    Rollout,
    RolloutState,
    Run,
    RunState,
    Verdict,
    Version,
)
from penstock.errors import ConflictError
from penstock.ports import Engine
from penstock.records import approvals, rollouts, runs, watch
from penstock.records.database import Change
from penstock.records.rollouts import Place, Plan

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


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the last days' requests to the champion say before a canary starts."""

    requests_per_day: float
    slow_ms: float
    """A request that takes longer counts as slow; fixed for the whole canary."""


def default_shares(requests_per_day: float) -> tuple[int, ...]:
    """Return the steps of a canary that names none: the more traffic, the more careful."""
    if requests_per_day > 100_000:
        return (1, 5, 25, 50)
    return (5, 25, 50) if requests_per_day > 10_000 else (50,)


def begin(change: Change, of: Rollout, traffic: Traffic) -> Rollout:
    """Load the challenger beside the champion; it gets no request yet."""
    shares = of.shares or default_shares(traffic.requests_per_day)
    started = rollouts.move(
        change,
        of,
        RolloutState.STARTING,
        reason=f"{of.model}@{of.challenger} is being loaded.",
        shares=list(shares) if of.champion is not None else [],
        settings={**of.settings, "slow_ms": traffic.slow_ms},
    )
    places.split(change, started, share=0 if of.champion is not None else 100)
    return started


def first_share(change: Change, engine: Engine, of: Rollout) -> Rollout:
    """Give a loaded challenger its first share; without a champion, all of the traffic."""
    if of.champion is None:
        return release(change, engine, of, reason="There is no champion to compare it with.")
    return _share(change, engine, of, step=0, reason=f"{of.shares[0]} % of the requests.")


def decide(
    change: Change,
    engine: Engine,
    of: Rollout,
    judgement: Judgement,
    here: Sequence[Batch],
) -> Rollout:
    """Act on a judgement: next share, promote, hold, give back, or look again.

    `here` are the batches at the present share.
    """
    if judgement.verdict is Verdict.FAILED:
        return give_back(change, engine, of, reason=judgement.sentence)
    last = of.step == len(of.shares) - 1
    if not last and may_step(here):
        share = of.shares[of.step + 1]
        return _share(change, engine, of, step=of.step + 1, reason=f"No harm seen; now {share} %.")
    if last and judgement.verdict is Verdict.PASSED and may_step(here):
        return release(change, engine, of, reason=judgement.sentence)
    if change.now >= _window_ends(of):
        return hold(
            change,
            of,
            reason=f"Undecided at the end of its window: {judgement.needs} A person decides.",
        )
    return _look_again(change, engine, of, reason=_both(judgement))


def _both(judgement: Judgement) -> str:
    return f"{judgement.sentence} {judgement.needs}".strip()


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


def go_on(change: Change, engine: Engine, of: Rollout) -> Rollout:
    """Let a held rollout continue at its share, with a new window."""
    if of.state is not RolloutState.PAUSED:
        raise _not(of, "resumed")
    resumed = {**of.settings, "resumed_at": change.now.isoformat()}
    return _share(
        change,
        engine,
        of,
        step=of.step,
        reason=f"Resumed by {change.actor}.",
        settings=resumed,
    )


def step_now(change: Change, engine: Engine, of: Rollout, share: int | None) -> Rollout:
    """Go to the next share, to a named one, or (100) to full traffic: a person's word."""
    if of.state not in {RolloutState.CANARY, RolloutState.PAUSED}:
        raise _not(of, "promoted")
    reason = f"By {change.actor}."
    later = [step for step, s in enumerate(of.shares) if s > of.share]
    if share is None:
        wanted = later[0] if later else None
    elif share >= 100:
        wanted = None
    else:
        fitting = [step for step in later if of.shares[step] >= share]
        wanted = fitting[0] if fitting else None
    if wanted is None:
        return release(change, engine, of, reason=reason)
    return _share(change, engine, of, step=wanted, reason=reason)


def release(change: Change, engine: Engine, of: Rollout, *, reason: str) -> Rollout:
    """Make the challenger the champion; the old champion stays loaded as previous."""
    promoting = rollouts.move(change, of, RolloutState.PROMOTING, reason=reason, share=100)
    serving = [Place(of.challenger, Role.CHAMPION, 100)]
    if of.champion is not None:
        serving.append(Place(of.champion, Role.PREVIOUS, 0))
    serving += places.still_warm(change, of)
    rollouts.split(
        change,
        of.model,
        of.environment,
        serving,
        reason=f"{of.model}@{of.challenger} is the champion",
    )
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
    _tell(change, back, f"{back.model}@{back.challenger} was rolled back", reason)
    wake(change, engine, of.model)
    return back


def go_back_to(change: Change, engine: Engine, model: str, number: int, *, reason: str) -> Rollout:
    """From full traffic, back to a version that is still loaded: one transaction, no build."""
    present = rollouts.deployments(
        change.connection, model_name=model, environment=Environment.PRODUCTION
    )
    champion = next((d for d in present if d.role is Role.CHAMPION), None)
    target = next((d for d in present if d.number == number), None)
    if champion is None or target is None or target.role is Role.CHAMPION:
        loaded = ", ".join(f"@{d.number}" for d in present if d.role is not Role.CHAMPION)
        raise ConflictError(
            "PS404",
            f"{model}@{number} is not loaded beside the champion; loaded: {loaded or 'none'}.",
            hint="Push the commit again to build it anew.",
        )
    plan = Plan(
        model=model,
        environment=Environment.PRODUCTION,
        run_id=None,
        kind="rollback",
        challenger=number,
        champion=champion.number,
        shares=(),
        settings={},
    )
    made = rollouts.queue(change, plan)
    starting = rollouts.move(change, made, RolloutState.STARTING, reason=reason)
    return release(change, engine, starting, reason=reason)


def wake(change: Change, engine: Engine, model: str) -> None:
    """Let the next queued run of the model begin, now that no rollout is in its way."""
    waiting = [
        run
        for run in runs.runs(change.connection, model_name=model, live=True)
        if run.state is RunState.QUEUED
    ]
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


def _window_ends(of: Rollout) -> datetime:
    """Return when an undecided canary is held; a resumed one has its whole window again."""
    resumed_at = of.settings.get("resumed_at")
    began = of.started_at if resumed_at is None else datetime.fromisoformat(resumed_at)
    return began + timedelta(seconds=of.settings["horizon_s"])


def _share(
    change: Change, engine: Engine, of: Rollout, *, step: int, reason: str, **columns: Any
) -> Rollout:
    shared = rollouts.move(
        change,
        of,
        RolloutState.CANARY,
        reason=reason,
        step=step,
        share=of.shares[step],
        look=of.look + 1,
        next_look_at=_next(change.now, of),
        hold_until=None,
        **columns,
    )
    places.split(change, shared, share=shared.share)
    _enqueue_look(change, engine, shared)
    return shared


def _look_again(change: Change, engine: Engine, of: Rollout, *, reason: str) -> Rollout:
    again = rollouts.move(
        change,
        of,
        RolloutState.CANARY,
        reason=reason,
        look=of.look + 1,
        next_look_at=_next(change.now, of),
    )
    rollouts.renew_lease(change.connection, again, places.lease(change.now, again))
    _enqueue_look(change, engine, again)
    return again


def _enqueue_look(change: Change, engine: Engine, of: Rollout) -> None:
    engine.enqueue(
        change.connection,
        "look",
        f"{of.id}:{of.look}",
        id=look_id(of, of.look),
        delay_s=of.settings["batch_s"],
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
    for run in runs.runs(change.connection, model_name=of.model, live=True):
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


def _not(of: Rollout, what: str) -> ConflictError:
    return ConflictError(
        "PS405",
        f"Rollout {of.id} of {of.model} is {of.state.replace('_', ' ')}; it cannot be {what}.",
        hint=f"See where it stands: penstock status {of.model}.",
    )
