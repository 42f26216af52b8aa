"""What a person says to a rollout: go on, go to a share, take over, go back."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

from penstock.deploy import places, rollout, ways
from penstock.deploy.ways import Way
from penstock.domain import Deployment, Environment, Role, Rollout, RolloutState
from penstock.errors import ConflictError, UsageError
from penstock.ports import Engine
from penstock.records import rollouts, runs, served
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
    share = of.share or int(of.settings.get("resting", 0))
    if share == 0:
        return rollout.shadow(change, engine, again, reason=reason)
    return rollout.share(change, engine, again, share, reason=reason)


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
    """From full traffic, back to a version inside the rollback window: no build, no approval.

    One that is loaded takes over in this transaction; another is loaded first.
    """
    present = rollouts.deployments(
        change.connection, model_name=model, environment=Environment.PRODUCTION
    )
    champion = next((d for d in present if d.role is Role.CHAMPION), None)
    if champion is None or champion.number == number:
        raise ConflictError(
            "PS404",
            f"{model}@{number} serves already."
            if champion is not None
            else f"No version of {model} serves, so there is none to go back from.",
            hint=f"See what can be gone back to: penstock history {model}.",
        )
    is_loaded = any(d.number == number for d in present)
    if not is_loaded:
        _inside_window(change, champion, number)
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
    if is_loaded:
        made = rollouts.queue(change, plan)
        starting = rollouts.move(change, made, RolloutState.STARTING, reason=reason)
        return rollout.release(change, engine, starting, reason=reason)
    made = rollout.queue(change, engine, plan)
    loading = rollouts.move(change, made, RolloutState.STARTING, reason=reason)
    places.add_warm(change, loading)
    return loading


def _inside_window(change: Change, champion: Deployment, number: int) -> None:
    """Refuse a version that served too long ago, or never."""
    model = champion.model
    latest = served.last_served(change.connection, model)
    kept = rollout.settings(runs.version_of(change.connection, model, champion.number)).rollback
    since = change.now - timedelta(seconds=kept.window_s)
    inside = sorted(n for n, until in latest.items() if until is not None and until > since)
    if number in inside:
        return
    runs.version_of(change.connection, model, number)
    until = latest.get(number)
    when = f"served last on {until:%Y-%m-%d %H:%M} UTC" if until else "never served"
    names = ", ".join(f"@{one}" for one in inside) or "none"
    raise ConflictError(
        "PS453",
        f"{model}@{number} {when}; the window is {kept.window}. Inside it: {names}.",
        hint="Push its commit again, or make [rollback] window longer.",
    )


def _not(of: Rollout, what: str) -> ConflictError:
    return ConflictError(
        "PS405",
        f"Rollout {of.id} of {of.model} is {of.state.replace('_', ' ')}; it cannot be {what}.",
        hint=f"See where it stands: penstock status {of.model}.",
    )
