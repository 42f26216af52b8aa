"""What a person says to a rollout: go on, go to a share, take over, go back."""

from __future__ import annotations

import dataclasses

from penstock.deploy import rollout, ways
from penstock.deploy.ways import Way
from penstock.domain import Environment, Role, Rollout, RolloutState
from penstock.errors import ConflictError, UsageError
from penstock.ports import Engine
from penstock.records import rollouts
from penstock.records.database import Change
from penstock.records.rollouts import Plan

GOING = frozenset({RolloutState.SHADOW, RolloutState.CANARY, RolloutState.PAUSED})
"""States in which a person may change how much the challenger gets."""


def pause(change: Change, of: Rollout, *, reason: str) -> Rollout:
    """Hold a rollout as it is until a person says more, or its hold has passed."""
    if of.state not in {RolloutState.SHADOW, RolloutState.CANARY}:
        raise _not(of, "paused")
    return rollout.hold(change, of, reason=reason)


def go_on(change: Change, engine: Engine, of: Rollout) -> Rollout:
    """Let a held rollout continue as it was, with a new window."""
    if of.state is not RolloutState.PAUSED:
        raise _not(of, "resumed")
    reason = f"Resumed by {change.actor}."
    again = _windowed(change, of)
    if of.share == 0:
        return rollout.shadow(change, engine, again, reason=reason)
    return rollout.share(change, engine, again, of.share, reason=reason)


def step_to(
    change: Change, engine: Engine, of: Rollout, share: int | None, *, reason: str = ""
) -> Rollout:
    """Go to the next share, to a named one, up or down, or (100) to full traffic."""
    if of.state not in GOING:
        raise _not(of, "promoted")
    if share is not None and not 0 < share <= 100:
        raise UsageError(
            "PS450", f"{share} % is no share of the requests.", hint="Name 1 to 100 percent."
        )
    said = f"By {change.actor}" + (f": {reason}" if reason.strip() else ".")
    wanted = ways.next_share(of) if share is None else share
    if wanted is None or wanted == 100:
        return rollout.release(change, engine, of, reason=said)
    again = _windowed(change, of)
    if ways.of(of) is Way.SHADOW:  # it was to be looked at only, and now it is to take over
        again = dataclasses.replace(again, settings={**again.settings, "way": str(Way.CANARY)})
    return rollout.share(change, engine, again, wanted, reason=said)


def _windowed(change: Change, of: Rollout) -> Rollout:
    """Return it with a new window."""
    kept = {**of.settings, "window_since": change.now.isoformat()}
    return dataclasses.replace(of, settings=kept)


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
    return rollout.release(change, engine, starting, reason=reason)


def _not(of: Rollout, what: str) -> ConflictError:
    return ConflictError(
        "PS405",
        f"Rollout {of.id} of {of.model} is {of.state.replace('_', ' ')}; it cannot be {what}.",
        hint=f"See where it stands: penstock status {of.model}.",
    )
