"""Rollouts, and who serves which share of the requests.

`split` is the one function that changes what is served: it replaces every row of a model in an
environment, raises the generation, and writes the whole split into the journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from penstock.domain import (
    JSON,
    ROLLOUT_ENDED,
    ROLLOUT_MOVES,
    Deployment,
    Environment,
    Role,
    Rollout,
    RolloutState,
)
from penstock.errors import ConflictError, NotFoundError
from penstock.records.database import Change, moved
from penstock.records.documents import PROOF
from penstock.records.schema import (
    LATEST,
    batch,
    deployment,
    document,
    rollout,
    route_change,
    version,
)


@dataclass(frozen=True, slots=True)
class Place:
    """One line of a split: which version serves in which role, with which share."""

    number: int
    role: Role
    share: int
    lease_until: datetime | None = None
    rollout_id: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How a rollout is to go."""

    model: str
    environment: Environment
    run_id: int | None
    kind: str
    challenger: int
    champion: int | None
    shares: tuple[int, ...]
    settings: JSON
    approval_id: int | None = None


def deployments(
    connection: sa.Connection,
    *,
    model_name: str | None = None,
    environment: Environment | None = None,
) -> list[Deployment]:
    """Return what runs, or should; the gateway makes it true."""
    query = (
        sa.select(
            deployment,
            version.c.lock_digest,
            version.c.signature,
            version.c.attestation_digest,
            version.c.config,
            version.c.path,
            document.c.digest.label("proof"),
        )
        .join(
            version,
            (version.c.model == deployment.c.model) & (version.c.number == deployment.c.number),
        )
        .outerjoin(
            document,
            (document.c.model == deployment.c.model)
            & (document.c.number == deployment.c.number)
            & (document.c.name == PROOF),
        )
        .order_by(
            deployment.c.model, deployment.c.environment, deployment.c.number, deployment.c.role
        )
    )
    if model_name is not None:
        query = query.where(deployment.c.model == model_name)
    if environment is not None:
        query = query.where(deployment.c.environment == environment)
    return [_deployment(row) for row in connection.execute(query)]


def champion(connection: sa.Connection, model_name: str) -> Deployment | None:
    """Return the version that serves production, or None before the first one."""
    return in_role(connection, model_name, Role.CHAMPION)


def in_role(
    connection: sa.Connection,
    model_name: str,
    role: Role,
    environment: Environment = Environment.PRODUCTION,
) -> Deployment | None:
    """Return the version that holds a role in an environment."""
    for found in deployments(connection, model_name=model_name, environment=environment):
        if found.role is role:
            return found
    return None


def split(
    change: Change,
    model_name: str,
    environment: Environment,
    places: Sequence[Place],
    *,
    reason: str,
) -> int:
    """Make `places` the whole truth about a model in an environment; return the generation.

    An empty `places` takes the model out of the environment.
    """
    serving = [place.share for place in places if place.role is not Role.SHADOW]
    assert not places or sum(serving) == 100, places
    connection = change.connection
    here = (deployment.c.model == model_name) & (deployment.c.environment == environment)
    generation = (
        connection.scalar(sa.select(sa.func.max(deployment.c.generation)).where(here)) or 0
    ) + 1
    connection.execute(deployment.delete().where(here))
    for place in places:
        digest = connection.scalar(
            sa.select(version.c.artifact_digest).where(
                version.c.model == model_name, version.c.number == place.number
            )
        )
        assert digest is not None, f"{model_name}@{place.number} is not sealed"
        connection.execute(
            deployment.insert().values(
                model=model_name,
                environment=environment,
                number=place.number,
                role=place.role,
                artifact_digest=digest,
                share=place.share,
                generation=generation,
                lease_until=place.lease_until,
                rollout_id=place.rollout_id,
            )
        )
    _note_change(connection, model_name, environment)
    change.journal(
        "traffic.split",
        {
            "model": model_name,
            "environment": environment,
            "generation": generation,
            "reason": reason,
            "split": [{"number": p.number, "role": p.role, "share": p.share} for p in places],
        },
    )
    return generation


def renew_lease(connection: sa.Connection, of: Rollout, until: datetime) -> None:
    """Let the challenger keep its share until `until`; no change of what is served."""
    connection.execute(
        deployment.update()
        .where(deployment.c.rollout_id == of.id, deployment.c.role == Role.CHALLENGER)
        .values(lease_until=until)
    )
    _note_change(connection, of.model, of.environment)


def _note_change(connection: sa.Connection, model_name: str, environment: Environment) -> None:
    """Let readers of routes see that they must read these again."""
    connection.execute(route_change.update().where(LATEST).values(mark=route_change.c.mark + 1))
    mark = connection.scalar(sa.select(route_change.c.mark).where(LATEST))
    here = (route_change.c.model == model_name) & (route_change.c.environment == environment)
    known = connection.execute(route_change.update().where(here).values(mark=mark))
    if not known.rowcount:
        connection.execute(
            route_change.insert().values(model=model_name, environment=environment, mark=mark)
        )


def queue(change: Change, plan: Plan) -> Rollout:
    """Make a rollout; one at a time for a model and environment."""
    live = change.connection.scalar(
        sa.select(rollout.c.id).where(
            rollout.c.model == plan.model,
            rollout.c.environment == plan.environment,
            rollout.c.state.not_in(sorted(ROLLOUT_ENDED)),
        )
    )
    if live is not None:
        raise ConflictError(
            "PS402",
            f"Rollout {live} of {plan.model} is still going on.",
            hint=f"Wait for it, or end it first: penstock rollback {plan.model}.",
        )
    made = change.connection.execute(
        rollout.insert()
        .values(
            model=plan.model,
            environment=plan.environment,
            run_id=plan.run_id,
            kind=plan.kind,
            challenger=plan.challenger,
            champion=plan.champion,
            approval_id=plan.approval_id,
            shares=list(plan.shares),
            state=RolloutState.QUEUED,
            settings=dict(plan.settings),
            started_at=change.now,
        )
        .returning(rollout.c.id)
    ).scalar_one()
    change.journal(
        "rollout.queued",
        {
            "model": plan.model,
            "number": plan.challenger,
            "rollout": made,
            "kind": plan.kind,
            "champion": plan.champion,
            "shares": list(plan.shares),
        },
    )
    return get(change.connection, made)


def get(connection: sa.Connection, rollout_id: int) -> Rollout:
    """Return one rollout."""
    row = connection.execute(sa.select(rollout).where(rollout.c.id == rollout_id)).first()
    if row is None:
        raise NotFoundError(
            "PS121", f"There is no rollout {rollout_id}.", hint="List them: penstock history NAME."
        )
    return _rollout(row)


def live(connection: sa.Connection, model_name: str | None = None) -> list[Rollout]:
    """Return the rollouts that have not ended."""
    query = sa.select(rollout).where(rollout.c.state.not_in(sorted(ROLLOUT_ENDED)))
    if model_name is not None:
        query = query.where(rollout.c.model == model_name)
    return [_rollout(row) for row in connection.execute(query.order_by(rollout.c.id))]


def of_model(connection: sa.Connection, model_name: str, *, most: int = 100) -> list[Rollout]:
    """Return a model's rollouts, newest first."""
    query = (
        sa.select(rollout)
        .where(rollout.c.model == model_name)
        .order_by(rollout.c.id.desc())
        .limit(most)
    )
    return [_rollout(row) for row in connection.execute(query)]


def of_run(connection: sa.Connection, run_id: int) -> Rollout | None:
    """Return the rollout that a run led to."""
    row = connection.execute(
        sa.select(rollout).where(rollout.c.run_id == run_id).order_by(rollout.c.id.desc()).limit(1)
    ).first()
    return None if row is None else _rollout(row)


def move(change: Change, of: Rollout, to: RolloutState, *, reason: str, **columns: Any) -> Rollout:
    """Take a rollout to its next state, if nobody was faster and the move is allowed.

    `columns` are set with it: step, share, look, next_look_at, hold_until.
    """
    if to not in ROLLOUT_MOVES.get(of.state, frozenset()):
        raise ConflictError(
            "PS403",
            f"Rollout {of.id} is {of.state.replace('_', ' ')}; it cannot become "
            f"{to.replace('_', ' ')}.",
            hint=f"See where it stands: penstock status {of.model}.",
        )
    result = change.connection.execute(
        rollout.update()
        .where(
            rollout.c.id == of.id,
            rollout.c.state == of.state,
            rollout.c.state_version == of.state_version,
        )
        .values(
            state=to,
            state_version=of.state_version + 1,
            reason=reason,
            ended_at=change.now if to in ROLLOUT_ENDED else None,
            **columns,
        )
    )
    moved(result, f"Rollout {of.id}")
    change.journal(
        f"rollout.{to}",
        {
            "model": of.model,
            "number": of.challenger,
            "rollout": of.id,
            "from": of.state,
            "reason": reason,
            **{key: columns[key] for key in ("share", "look") if key in columns},
        },
    )
    return get(change.connection, of.id)


def has_batch(connection: sa.Connection, of: Rollout, look: int) -> bool:
    """Say whether the counts of a look are kept already."""
    here = (batch.c.rollout_id == of.id) & (batch.c.look == look)
    return connection.scalar(sa.select(batch.c.look).where(here)) is not None


def add_batch(
    connection: sa.Connection, of: Rollout, look: int, *, window_us: tuple[int, int], counts: JSON
) -> None:
    """Keep the counts of one closed batch; the same look again changes nothing."""
    known = connection.scalar(
        sa.select(batch.c.look).where(batch.c.rollout_id == of.id, batch.c.look == look)
    )
    if known is None:
        connection.execute(
            batch.insert().values(
                rollout_id=of.id,
                look=look,
                share=of.share,
                since_us=window_us[0],
                until_us=window_us[1],
                counts=dict(counts),
            )
        )


def batches(connection: sa.Connection, rollout_id: int) -> list[dict[str, Any]]:
    """Return the closed batches of a rollout: look, share, since_us, until_us, counts."""
    query = sa.select(batch).where(batch.c.rollout_id == rollout_id).order_by(batch.c.look)
    return [dict(row) for row in connection.execute(query).mappings()]


def _rollout(row: Any) -> Rollout:
    fields: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 -- SQLAlchemy's public name
    del fields["approval_id"]
    fields["shares"] = tuple(fields["shares"])
    fields["state"] = RolloutState(fields["state"])
    fields["environment"] = Environment(fields["environment"])
    return Rollout(**fields)


def _deployment(row: Any) -> Deployment:
    fields: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 -- SQLAlchemy's public name
    fields["environment"] = Environment(fields["environment"])
    fields["role"] = Role(fields["role"])
    config: JSON = fields.pop("config")
    how = {name: fields.pop(name) for name in ("path", "proof")}
    speed: JSON = config.get("speed") or {}
    if speed.get("p95_ms") is not None:
        how["p95_ms"] = speed["p95_ms"]
    fields["serving"] = {**(config.get("serving") or {}), **how}
    canary: JSON = config.get("canary") or {}
    fields["key"], fields["redraw"] = canary.get("key"), canary.get("redraw") == "hour"
    return Deployment(**fields)
