"""The question to people: ask it, take votes, and act when it is answered.

An approval is bound to the digests of what was judged: code, data, environment, artifact,
evidence. Who wrote a version cannot approve it where the server has accounts; in single-user
mode that is allowed, and recorded as "approved by its author".

Every decision holds the run (`runs.hold`) before it reads the question, so that of two who
decide at once the second sees what the first did.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from penstock.deploy import rollout, staging, ways
from penstock.domain import JSON, Approval, Environment, Run, RunState, Version
from penstock.errors import ConflictError, NotAllowedError, UsageError
from penstock.ports import Engine
from penstock.records import approvals, conditions, delegations, rollouts, runs, tokens, watch
from penstock.records.approvals import Ballot, Question
from penstock.records.database import Change
from penstock.records.rollouts import Plan

MOST_TEXT = 4000
"""Characters of a reason, a comment or a condition."""
LAST_CALL = timedelta(days=1)
"""So long before the end the last reminder goes out."""


@dataclass(frozen=True, slots=True)
class Voter:
    """Who votes, and whether the server knows its people."""

    person: str
    accounts: bool
    """False in single-user mode: whoever sits at the machine."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody says to the question."""

    yes: bool
    reason: str = ""
    condition: str = ""
    """What has to happen, although the version may go to production."""
    due: datetime | None = None
    """When the condition has to be met."""
    in_place_of: str | None = None
    """Whose vote it is; None: one's own."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a question is bound to."""

    dossier_digest: str
    evidence_digest: str | None = None
    """Of the checks' results and the version; None where nobody looks whether they changed."""
    authors: tuple[str, ...] = ()
    """Names and addresses of those who wrote the version."""


def ask(
    change: Change,
    of: Run,
    version: Version,
    dossier: JSON,
    bound: Bound,
    *,
    needed: int,
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
        dossier_digest=bound.dossier_digest,
        expires_at=change.now + timedelta(seconds=expires_s),
        evidence_digest=bound.evidence_digest,
        authors=bound.authors,
    )
    asked = approvals.ask(change, waiting, version, question)
    for older in runs.live(change.connection, of.model):
        if older.state is RunState.AWAITING_APPROVAL and older.seq < of.seq:
            rollout.void_approvals(change, older, reason=f"{of.version} asks now.")
            runs.move(
                change, older, RunState.SUPERSEDED, reason=f"{of.version} came to approval itself."
            )
    text = str(dossier.get("lead", ""))
    _tell(change, asked, "asked", f"{of.version} waits for approval", text)
    return asked


def ask_anew(change: Change, engine: Engine, of: Approval, *, reason: str) -> None:
    """End a question whose evidence no longer holds, and let the version be judged again."""
    run = runs.get(change.connection, of.run_id)
    approvals.close(change, of, "void", reason=reason)
    tested = runs.move(change, run, RunState.TESTING, reason=reason)
    rollout.enqueue_stage(change, engine, tested, "test")


def vote(change: Change, engine: Engine, of: Approval, voter: Voter, answer: Answer) -> None:
    """Take one person's answer; a refusal ends the run, enough yeses start the rollout."""
    run = runs.get(change.connection, of.run_id)
    still_asked(change, of, run)
    _sound(of, run, answer)
    _allowed(change, of, run, voter, answer)
    own = wrote(voter.person, run, of)
    said = answer.reason or ("approved by its author" if own and not voter.accounts else "")
    count = approvals.vote(change, of, Ballot(answer.yes, said, answer.in_place_of))
    if not answer.yes:
        approvals.close(change, of, "refused", reason=said)
        runs.move(change, run, RunState.REJECTED, reason=f"Rejected by {voter.person}: {said}")
        staging.leave(change, run, keep=False, reason=f"{run.version} was rejected")
        return
    if answer.condition.strip():
        conditions.add(change, of, answer.condition.strip(), answer.due)
    # In single-user mode there is one person, however many the policy asks for.
    if count >= of.needed or not voter.accounts:
        approvals.close(change, of, "granted", reason=said or f"Approved by {voter.person}.")
        release(change, engine, run, approval_id=of.id, reason=f"Approved by {voter.person}.")


def withdraw(change: Change, of: Approval, *, reason: str) -> None:
    """Take the actor's yes back, with the condition that came with it; before the last yes."""
    still_asked(change, of, runs.get(change.connection, of.run_id))
    if not approvals.withdraw(change, of, reason=reason):
        raise ConflictError(
            "PS478",
            f"{change.actor} has given no yes to approval {of.id}.",
            hint=f"See who has: penstock approvals {of.id}.",
        )
    conditions.withdraw(change, of)


def comment(change: Change, of: Approval, text: str) -> int:
    """Keep what somebody says about a question; return its number."""
    _short(text.strip(), "A comment")
    return approvals.comment(change, of, text.strip())


def still_asked(change: Change, of: Approval, run: Run) -> None:
    """Refuse what comes too late."""
    if of.state != "asked" or run.state is not RunState.AWAITING_APPROVAL:
        raise ConflictError(
            "PS406",
            f"Approval {of.id} is {of.state}; nobody is asked any more.",
            hint=f"See what became of it: penstock status {run.version}.",
        )
    if of.expires_at <= change.now:
        raise ConflictError(
            "PS471",
            f"Approval {of.id} closed at {of.expires_at:%Y-%m-%d %H:%M} UTC, unanswered.",
            hint=f"Push again to ask anew; see penstock status {run.version}.",
        )


def _sound(of: Approval, run: Run, answer: Answer) -> None:
    """Refuse an answer that says too little, or what cannot be."""
    if not answer.yes and not answer.reason.strip():
        raise UsageError(
            "PS407",
            "A reason is needed to say no.",
            hint=f'Try: penstock reject {of.id} -m "…"',
        )
    if answer.reason:
        _short(answer.reason, "A reason")
    if answer.condition.strip():
        _short(answer.condition, "A condition")
    if (answer.condition.strip() and not answer.yes) or (
        answer.due is not None and not answer.condition.strip()
    ):
        raise UsageError(
            "PS473",
            "A condition belongs to a yes, and a date to a condition.",
            hint=f'Try: penstock approve {of.id} --condition "…" --due 2026-12-31',
        )
    blocked = str(of.dossier.get("blocked") or "")
    if answer.yes and blocked:
        raise ConflictError(
            "PS411",
            f"{run.version} cannot be approved: {blocked}",
            hint="Fill the field in CARD.md and push again, or reject it.",
        )


def _allowed(change: Change, of: Approval, run: Run, voter: Voter, answer: Answer) -> None:
    """Refuse a yes of whoever wrote the version, by whatever way, and a vote of nobody's."""
    giver = answer.in_place_of
    for person in (voter.person, giver):
        if person is not None and answer.yes and voter.accounts and wrote(person, run, of):
            pushed = "pushed" if person == run.created_by else "wrote a part of"
            raise NotAllowedError(
                "PS408",
                f"{person} {pushed} {run.version} and cannot approve it"
                + (f", nor can {voter.person} in their place." if person == giver else "."),
                hint="Ask a colleague with the right approve.",
            )
    if giver is not None and giver not in givers(change, of, voter.person):
        raise NotAllowedError(
            "PS474",
            f"{giver} has not handed their vote on {run.version} to {voter.person}, or has no "
            "right to approve it themselves.",
            hint=f"They hand it over with: penstock delegate {voter.person} --approval {of.id}",
        )


def givers(change: Change, of: Approval, taker: str) -> list[str]:
    """Return who has handed their vote on a question to a person, and has the right to it now.

    A vote that was handed on is nobody's to hand on again: the giver's own right counts.
    """
    return [
        one.giver
        for one in delegations.live(change.connection, change.now, taker=taker)
        if one.covers(of, change.now)
        and tokens.may(change.connection, one.giver, "approve", of.model, now=change.now)
    ]


def wrote(person: str, run: Run, of: Approval) -> bool:
    """Say whether a person pushed a version, or is named in a commit of it."""
    names = {run.created_by, *of.authors}
    return person.strip().casefold() in {name.strip().casefold() for name in names}


def _short(text: str, what: str) -> None:
    if not text.strip() or len(text) > MOST_TEXT:
        raise UsageError(
            "PS479",
            f"{what} has 1 to {MOST_TEXT:,} characters, not {len(text):,}.",
            hint="Write what matters, and put the rest where a link leads to.",
        )


def expire(change: Change, of: Approval) -> None:
    """End a question that nobody answered in time."""
    run = runs.get(change.connection, of.run_id)
    approvals.close(change, of, "expired", reason="Nobody answered in time.")
    if run.state is RunState.AWAITING_APPROVAL:
        runs.move(change, run, RunState.EXPIRED, reason="Nobody answered in time.")
        staging.leave(change, run, keep=False, reason=f"the approval of {run.version} expired")


def reminder(of: Approval, now: datetime) -> str | None:
    """Say which reminder of a question is due: after half its time, a day before its end.

    Examples
    --------
    >>> from datetime import UTC
    >>> begin = datetime(2026, 3, 1, tzinfo=UTC)
    >>> asked = Approval(
    ...     1, 1, "m", 1, "asked", 0, 1, "a", "d", {}, begin, begin + timedelta(days=14)
    ... )
    >>> [reminder(asked, begin + timedelta(days=day)) for day in (6, 7, 13)]
    [None, 'half', 'last']
    """
    half = of.asked_at + (of.expires_at - of.asked_at) / 2
    last = of.expires_at - LAST_CALL
    if last > half and now >= last:
        return "last"
    return "half" if now >= half else None


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


def _tell(change: Change, of: Approval, what: str, subject: str, text: str) -> None:
    watch.tell(
        change.connection,
        f"approval:{of.id}:{what}",
        {
            "kind": f"approval.{what}",
            "model": of.model,
            "subject": subject,
            "text": text,
            "path": f"/approvals/{of.id}",
        },
        now=change.now,
    )
