"""Models, runs, versions, steps and what checks found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from penstock.domain import (
    JSON,
    MODEL_NAME,
    RUN_LIVE,
    RUN_MOVES,
    CheckResult,
    Document,
    Model,
    Run,
    RunState,
    Step,
    Verdict,
    Version,
)
from penstock.errors import ConflictError, NotFoundError, UsageError
from penstock.records import documents
from penstock.records.database import Change, moved
from penstock.records.schema import check_result, model, run, step, version


@dataclass(frozen=True, slots=True)
class Push:
    """What starts a run: a commit that arrived on a branch."""

    model: str
    branch: str
    commit: str
    message: str
    pusher: str
    config: JSON
    """penstock.toml of the commit, defaults filled in."""
    card: str = ""


def model_of(connection: sa.Connection, name: str) -> Model:
    """Return a model; NotFoundError names those that exist."""
    row = connection.execute(sa.select(model).where(model.c.name == name)).first()
    if row is None:
        names = connection.scalars(sa.select(model.c.name).order_by(model.c.name).limit(6)).all()
        raise NotFoundError(
            "PS105",
            f"There is no model {name!r}; known: {', '.join(names) or 'none yet'}.",
            hint="Check the spelling, or push it: penstock push.",
        )
    return Model(row.name, row.owner, row.team, row.risk, row.release_branch, row.created_at)


def known(connection: sa.Connection, name: str) -> bool:
    """Say whether a model of that name was registered."""
    return connection.scalar(sa.select(model.c.name).where(model.c.name == name)) is not None


def names(connection: sa.Connection) -> list[str]:
    """Return the names of all models, sorted."""
    return list(connection.scalars(sa.select(model.c.name).order_by(model.c.name)))


def register_model(change: Change, name: str) -> None:
    """Make a model known when its repository is made; a known one stays as it is."""
    if not MODEL_NAME.fullmatch(name):
        raise UsageError(
            "PS106",
            f"{name!r} is no name for a model.",
            hint="Use small letters, digits and hyphens, at most 63, not at the ends.",
        )
    if not known(change.connection, name):
        change.connection.execute(model.insert().values(name=name, created_at=change.now))
        change.journal("model.registered", {"model": name})
    else:  # two first pushes at once
        change.journal("model.known", {"model": name})


def start(change: Change, push: Push) -> tuple[Run, bool]:
    """Make the run of a push, numbered and queued; the same push again is the same run.

    Returns the run and whether it is new.
    """
    connection = change.connection
    row = connection.execute(
        sa.select(model).where(model.c.name == push.model).with_for_update()
    ).one()
    release = row.release_branch or push.branch
    trigger = "push" if push.branch == release else f"branch-{push.branch}"
    same = connection.execute(
        sa.select(run).where(
            run.c.model == push.model, run.c.commit_sha == push.commit, run.c.trigger == trigger
        )
    ).first()
    if same is not None:
        change.journal("run.known", {"model": push.model, "run": same.id})
        return _run(same), False
    number, seq = row.last_number + 1, row.last_seq + 1
    facts = push.config["model"]
    connection.execute(
        model.update()
        .where(model.c.name == push.model)
        .values(
            last_number=number,
            last_seq=seq,
            release_branch=release,
            owner=facts["owner"],
            team=facts["team"],
            risk=facts["risk"],
        )
    )
    made = connection.execute(
        run.insert()
        .values(
            model=push.model,
            number=number,
            commit_sha=push.commit,
            trigger=trigger,
            seq=seq,
            state=RunState.QUEUED,
            reason="Waits for its turn.",
            created_by=push.pusher,
            message=push.message,
            created_at=change.now,
            updated_at=change.now,
        )
        .returning(run.c.id)
    ).scalar_one()
    connection.execute(
        version.insert().values(
            model=push.model,
            number=number,
            run_id=made,
            commit_sha=push.commit,
            config=dict(push.config),
            card=push.card,
            created_at=change.now,
        )
    )
    change.journal(
        "run.queued",
        {
            "model": push.model,
            "number": number,
            "run": made,
            "commit": push.commit,
            "branch": push.branch,
        },
    )
    return get(connection, made), True


def get(connection: sa.Connection, run_id: int) -> Run:
    """Return one run."""
    row = connection.execute(sa.select(run).where(run.c.id == run_id)).first()
    if row is None:
        raise NotFoundError(
            "PS107", f"There is no run {run_id}.", hint="List them: penstock history NAME."
        )
    return _run(row)


def hold(connection: sa.Connection, run_id: int) -> None:
    """Be the only one who decides about a run until the transaction ends.

    Every decision begins here, or by moving the run, so that no two wait for each other.
    """
    connection.execute(sa.select(run.c.id).where(run.c.id == run_id).with_for_update())


def runs(
    connection: sa.Connection,
    *,
    model_name: str | None = None,
    before: int | None = None,
    most: int = 100,
) -> list[Run]:
    """Return runs, newest first; `before` is the cursor."""
    query = sa.select(run).order_by(run.c.id.desc()).limit(most)
    if model_name is not None:
        query = query.where(run.c.model == model_name)
    if before is not None:
        query = query.where(run.c.id < before)
    return [_run(row) for row in connection.execute(query)]


def live(connection: sa.Connection, model_name: str | None = None) -> list[Run]:
    """Return every run that has not ended, newest first, however many there are."""
    of = sa.true() if model_name is None else run.c.model == model_name
    query = sa.select(run).where(run.c.state.in_(sorted(RUN_LIVE)), of).order_by(run.c.id.desc())
    return [_run(row) for row in connection.execute(query)]


def of_commit(connection: sa.Connection, model_name: str, commit: str) -> list[Run]:
    """Return the runs of a commit, whatever started them."""
    query = sa.select(run).where(run.c.model == model_name, run.c.commit_sha == commit)
    return [_run(row) for row in connection.execute(query)]


def move(
    change: Change,
    of: Run,
    to: RunState,
    *,
    reason: str,
    ended_by: str | None = None,
    more: JSON | None = None,
) -> Run:
    """Take a run to its next state, if nobody was faster and the move is allowed."""
    if to not in RUN_MOVES.get(of.state, frozenset()):
        raise ConflictError(
            "PS108",
            f"Run {of.id} is {of.state.replace('_', ' ')}; it cannot become "
            f"{to.replace('_', ' ')}.",
            hint=f"See where it stands: penstock status {of.version}.",
        )
    attempt = of.attempt + 1 if to is RunState.QUEUED else of.attempt
    result = change.connection.execute(
        run.update()
        .where(run.c.id == of.id, run.c.state == of.state, run.c.state_version == of.state_version)
        .values(
            state=to,
            state_version=of.state_version + 1,
            attempt=attempt,
            reason=reason,
            ended_by=ended_by,
            updated_at=change.now,
        )
    )
    moved(result, f"Run {of.id}")
    change.journal(
        f"run.{to}",
        {
            "model": of.model,
            "number": of.number,
            "run": of.id,
            "from": of.state,
            "reason": reason,
            **(more or {}),
        },
    )
    return get(change.connection, of.id)


def enqueued(connection: sa.Connection, of: Run, stretch: str) -> None:
    """Remember under which id the engine has the run's next work."""
    connection.execute(run.update().where(run.c.id == of.id).values(stretch=stretch))


def note(connection: sa.Connection, of: Run, reason: str, *, now: datetime) -> None:
    """Say anew why a run stands where it stands; its state stays."""
    connection.execute(
        run.update()
        .where(run.c.id == of.id, run.c.state == of.state)
        .values(reason=reason, updated_at=now)
    )


def version_of(connection: sa.Connection, model_name: str, number: int) -> Version:
    """Return one version."""
    row = connection.execute(
        sa.select(version).where(version.c.model == model_name, version.c.number == number)
    ).first()
    if row is None:
        raise NotFoundError(
            "PS109",
            f"There is no version {model_name}@{number}.",
            hint=f"List them: penstock history {model_name}.",
        )
    return _version(row)


def versions(connection: sa.Connection, model_name: str, *, most: int = 100) -> list[Version]:
    """Return a model's versions, newest first."""
    query = (
        sa.select(version)
        .where(version.c.model == model_name)
        .order_by(version.c.number.desc())
        .limit(most)
    )
    return [_version(row) for row in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class Seal:
    """What the build found out about a version; from now on it never changes."""

    artifact_digest: str
    lock_digest: str
    data_digest: str | None
    signature: JSON | None
    sandbox_level: str
    attestation_digest: str | None = None
    """Of the signed statement of its origin; a version without one is not served."""


def seal(change: Change, of: Version, seal: Seal) -> None:
    """Freeze a version. A second time with the same digests is a no-op; with others, a fault."""
    result = change.connection.execute(
        version.update()
        .where(
            version.c.model == of.model,
            version.c.number == of.number,
            version.c.sealed_at.is_(None),
        )
        .values(
            artifact_digest=seal.artifact_digest,
            lock_digest=seal.lock_digest,
            data_digest=seal.data_digest,
            signature=dict(seal.signature) if seal.signature is not None else None,
            sandbox_level=seal.sandbox_level,
            attestation_digest=seal.attestation_digest,
            sealed_at=change.now,
        )
    )
    moved(result, f"{of}, which is sealed already,")
    change.journal(
        "version.sealed",
        {
            "model": of.model,
            "number": of.number,
            "artifact": seal.artifact_digest,
            "lock": seal.lock_digest,
            "data": seal.data_digest,
            "sandbox": seal.sandbox_level,
            "attestation": seal.attestation_digest,
        },
    )


def answer_by(change: Change, of: Version, path: str, proof: Document) -> None:
    """Note which call of a version's model answers, and keep the signed statement that says so."""
    assert of.sealed_at is not None, f"{of} is not sealed"
    documents.add(change.connection, proof)
    change.connection.execute(
        version.update()
        .where(version.c.model == of.model, version.c.number == of.number)
        .values(path=path)
    )
    told = {"model": of.model, "number": of.number, "path": path, "before": of.path}
    told |= {"proof": proof.digest, "reason": f"answers by {path}"}
    change.journal("version.path", told)


def begin_step(
    connection: sa.Connection, of: Run, at: tuple[str, str], *, log: str | None, now: datetime
) -> None:
    """Note that step `at` (stage, name) began; one repeated after a crash begins anew."""
    stage, name = at
    key = (
        (step.c.run_id == of.id)
        & (step.c.stage == stage)
        & (step.c.name == name)
        & (step.c.attempt == of.attempt)
    )
    connection.execute(step.delete().where(key))
    connection.execute(
        step.insert().values(
            run_id=of.id,
            stage=stage,
            name=name,
            attempt=of.attempt,
            state="running",
            started_at=now,
            log=log,
        )
    )


def end_step(
    connection: sa.Connection,
    of: Run,
    at: tuple[str, str],
    *,
    state: str,
    reason: str,
    now: datetime,
) -> None:
    """Note how a step ended: ``passed``, ``failed``, ``undecided`` or ``skipped``."""
    connection.execute(
        step.update()
        .where(
            step.c.run_id == of.id,
            step.c.stage == at[0],
            step.c.name == at[1],
            step.c.attempt == of.attempt,
        )
        .values(state=state, reason=reason, ended_at=now)
    )


def progress(
    connection: sa.Connection,
    of: Run,
    at: tuple[str, str],
    *,
    share: float | None,
    left_s: float | None,
    doing: str = "",
) -> None:
    """Note how far a running step is, from 0 to 1, the seconds still to come, what it does."""
    connection.execute(
        step.update()
        .where(
            step.c.run_id == of.id,
            step.c.stage == at[0],
            step.c.name == at[1],
            step.c.attempt == of.attempt,
            step.c.state == "running",
        )
        .values(progress=share, left_s=left_s, doing=doing)
    )


def steps(connection: sa.Connection, run_id: int) -> list[Step]:
    """Return a run's steps in the order in which they began."""
    query = sa.select(step).where(step.c.run_id == run_id).order_by(step.c.started_at)
    return [Step(**row) for row in connection.execute(query).mappings()]


def add_results(
    connection: sa.Connection,
    of: tuple[str, int],
    occasion: str,
    results: Sequence[CheckResult],
    *,
    now: datetime,
) -> None:
    """Keep what checks found; the same check on the same occasion is replaced.

    Parameters
    ----------
    of
        Model and version number.
    occasion
        ``run:1842:1`` (run and attempt), ``rollout:77:3`` (look), ``monitor:<name>:<due>``.
    """
    for result in results:
        connection.execute(
            check_result.delete().where(
                check_result.c.occasion == occasion, check_result.c.check_name == result.check
            )
        )
        connection.execute(
            check_result.insert().values(
                occasion=occasion,
                check_name=result.check,
                model=of[0],
                number=of[1],
                verdict=result.verdict,
                summary=result.summary,
                evidence=dict(result.evidence),
                at=now,
            )
        )


def results(connection: sa.Connection, occasion: str) -> list[CheckResult]:
    """Return what checks found on one occasion, in their order."""
    query = (
        sa.select(check_result)
        .where(check_result.c.occasion == occasion)
        .order_by(check_result.c.id)
    )
    return [_result(row) for row in connection.execute(query)]


def occasions(
    connection: sa.Connection, prefix: str, *, model_name: str, most: int = 400
) -> list[tuple[str, datetime, int, CheckResult]]:
    """Return results whose occasion begins with `prefix`, newest first."""
    query = (
        sa.select(check_result)
        .where(check_result.c.model == model_name, check_result.c.occasion.startswith(prefix))
        .order_by(check_result.c.id.desc())
        .limit(most)
    )
    return [(row.occasion, row.at, row.number, _result(row)) for row in connection.execute(query)]


def _result(row: Any) -> CheckResult:
    return CheckResult(row.check_name, Verdict(row.verdict), row.summary, row.evidence)


def _run(row: Any) -> Run:
    fields: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 -- SQLAlchemy's public name
    fields["commit"] = fields.pop("commit_sha")
    fields["state"] = RunState(fields["state"])
    return Run(**fields)


def _version(row: Any) -> Version:
    fields: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 -- SQLAlchemy's public name
    fields["commit"] = fields.pop("commit_sha")
    return Version(**fields)
