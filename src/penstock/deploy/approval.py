"""The question to people: ask it, take votes, and act when it is answered.

An approval is bound to the digests of what was judged. The author of a version cannot approve
it where the server has accounts; in single-user mode that is allowed, and recorded as
"approved by its author".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from penstock.deploy import rollout, staging, ways
from penstock.domain import JSON, Approval, Environment, Run, RunState, Version
from penstock.errors import ConflictError, NotAllowedError, UsageError
from penstock.ports import Engine
from penstock.records import approvals, rollouts, runs, watch
from penstock.records.approvals import Question
from penstock.records.database import Change
from penstock.records.rollouts import Plan


@dataclass(frozen=True, slots=True)
class Voter:
    """Who votes, and whether the server knows its people."""

    person: str
    accounts: bool
    """False in single-user mode: whoever sits at the machine."""


def ask(
    change: Change, of: Run, version: Version, dossier: JSON, *, digest: str, needed: int
) -> Approval:
    """Put the dossier to people; older runs that wait for an answer are superseded."""
    expires_s = rollout.settings(version).approval.expires_s
    waiting = runs.move(
        change,
        of,
        RunState.AWAITING_APPROVAL,
        reason=f"Waits for {needed} {'person' if needed == 1 else 'people'} to approve.",
    )
    question = Question(
        needed=needed,
        dossier=dossier,
        dossier_digest=digest,
        expires_at=change.now + timedelta(seconds=expires_s),
    )
    asked = approvals.ask(change, waiting, version, question)
    for older in runs.runs(change.connection, model_name=of.model, live=True):
        if older.state is RunState.AWAITING_APPROVAL and older.seq < of.seq:
            rollout.void_approvals(change, older, reason=f"{of.version} asks now.")
            runs.move(
                change, older, RunState.SUPERSEDED, reason=f"{of.version} came to approval itself."
            )
    watch.tell(
        change.connection,
        f"approval:{asked.id}:asked",
        {
            "kind": "approval.asked",
            "model": of.model,
            "subject": f"{of.version} waits for approval",
            "text": str(dossier.get("lead", "")),
            "path": f"/approvals/{asked.id}",
        },
        now=change.now,
    )
    return asked


def vote(
    change: Change, engine: Engine, of: Approval, voter: Voter, *, yes: bool, reason: str
) -> None:
    """Take one person's answer; a refusal ends the run, enough yeses start the rollout."""
    run = runs.get(change.connection, of.run_id)
    if of.state != "asked" or run.state is not RunState.AWAITING_APPROVAL:
        raise ConflictError(
            "PS406",
            f"Approval {of.id} is {of.state}; nobody is asked any more.",
            hint=f"See what became of it: penstock status {run.version}.",
        )
    if not yes and not reason.strip():
        raise UsageError(
            "PS407",
            "A reason is needed to say no.",
            hint=f'Try: penstock reject {of.id} -m "…"',
        )
    own = voter.person == run.created_by
    if own and voter.accounts and yes:
        raise NotAllowedError(
            "PS408",
            f"{voter.person} pushed {run.version} and cannot approve it.",
            hint="Ask a colleague with the right approve.",
        )
    blocked = str(of.dossier.get("blocked") or "")
    if yes and blocked:
        raise ConflictError(
            "PS411",
            f"{run.version} cannot be approved: {blocked}",
            hint="Fill the field in CARD.md and push again, or reject it.",
        )
    said = reason or ("approved by its author" if own and not voter.accounts else "")
    count = approvals.vote(change, of, yes=yes, reason=said)
    if not yes:
        approvals.close(change, of, "refused", reason=reason)
        runs.move(change, run, RunState.REJECTED, reason=f"Rejected by {voter.person}: {reason}")
        staging.leave(change, run, keep=False, reason=f"{run.version} was rejected")
        return
    # In single-user mode there is one person, however many the policy asks for.
    if count >= of.needed or not voter.accounts:
        approvals.close(change, of, "granted", reason=said or f"Approved by {voter.person}.")
        release(change, engine, run, approval_id=of.id, reason=f"Approved by {voter.person}.")


def expire(change: Change, of: Approval) -> None:
    """End a question that nobody answered in time."""
    run = runs.get(change.connection, of.run_id)
    approvals.close(change, of, "expired", reason="Nobody answered in time.")
    if run.state is RunState.AWAITING_APPROVAL:
        runs.move(change, run, RunState.EXPIRED, reason="Nobody answered in time.")
        staging.leave(change, run, keep=False, reason=f"the approval of {run.version} expired")


def release(
    change: Change, engine: Engine, of: Run, *, approval_id: int | None, reason: str
) -> None:
    """Let a run that may go to production begin its rollout."""
    version = runs.version_of(change.connection, of.model, of.number)
    champion = rollouts.champion(change.connection, of.model)
    moved = runs.move(change, of, RunState.ROLLING_OUT, reason=reason)
    canary = rollout.settings(version).canary
    plan = Plan(
        model=of.model,
        environment=Environment.PRODUCTION,
        run_id=of.id,
        kind="release",
        challenger=of.number,
        champion=champion.number if champion is not None else None,
        shares=tuple(canary.steps or ()) if champion is not None else (),
        settings=ways.settings(canary),
        approval_id=approval_id,
    )
    rollout.queue(change, engine, plan)
    staging.leave(change, moved, keep=False, reason=f"{of.version} goes to production")
