"""What people say to the question whether a version may go to production.

Here a decision meets the evidence that it rests on: what was read, what the records say now.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from penstock.check import dossier, dossier_changes
from penstock.check.dossier_changes import Difference
from penstock.config import ServerSettings
from penstock.deploy import approval
from penstock.deploy.approval import Answer, Voter
from penstock.domain import Approval, RunState
from penstock.errors import ConflictError, NotAllowedError, UsageError
from penstock.ports import Engine
from penstock.records import approvals, conditions, delegations, runs, tokens, watch
from penstock.records.conditions import Condition
from penstock.records.database import Change, Database
from penstock.records.delegations import Delegation, Handing

LONGEST = timedelta(days=90)
"""For which a vote can be handed to somebody else."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Approving:
    """Every act on a question; each is one transaction, done by `actor`."""

    database: Database
    engine: Engine
    settings: ServerSettings

    def answer(
        self, actor: str, approval_id: int, answer: Answer, *, read: str | None = None
    ) -> None:
        """Take one person's yes or no.

        Parameters
        ----------
        read
            Digest of the dossier that the person has read; None where nobody can say.

        Raises
        ------
        ConflictError
            PS470: what was read is not what is asked now; PS472: the evidence has changed since
            people were asked, and the version is judged again.
        """
        with self.database.change(actor) as change:
            asked = _held(change, approval_id)
            self._as_read(change.connection, asked, read)
            changed = self._since(change.connection, asked)
            if changed is None:
                approval.vote(change, self.engine, asked, self._voter(change, actor), answer)
            else:
                reason = f"The evidence changed after people were asked: {_listed(changed)}."
                approval.ask_anew(change, self.engine, asked, reason=reason)
        if changed is not None:
            raise ConflictError(
                "PS472",
                f"The evidence of approval {approval_id} has changed since people were asked: "
                f"{_listed(changed)}.",
                hint="The version is judged again, and then people are asked anew.",
            )

    def withdraw(self, actor: str, approval_id: int, reason: str) -> None:
        """Take one's own yes back, as long as others are still asked."""
        with self.database.change(actor) as change:
            approval.withdraw(change, _held(change, approval_id), reason=reason)

    def comment(self, actor: str, approval_id: int, text: str) -> None:
        """Say something about a question without answering it."""
        with self.database.change(actor) as change:
            approval.comment(change, approvals.get(change.connection, approval_id), text)

    def meet(self, actor: str, condition_id: int, note: str) -> Condition:
        """Say that a condition is met."""
        with self.database.change(actor) as change:
            return conditions.meet(change, condition_id, note)

    def delegate(self, actor: str, handed: Handing) -> Delegation:
        """Hand one's vote to somebody else, for a time or for one question.

        Raises
        ------
        NotAllowedError
            PS474: one has no vote of one's own there.
        UsageError
            PS480: to oneself, to the author, to nobody, or for too long.
        """
        with self.database.change(actor) as change:
            of = None
            if handed.approval_id is not None:
                of = approvals.get(change.connection, handed.approval_id)
            elif handed.model is not None:
                runs.model_of(change.connection, handed.model)
            model = of.model if of is not None else handed.model
            if not tokens.may(change.connection, actor, "approve", model or "*", now=change.now):
                raise NotAllowedError(
                    "PS474",
                    f"{actor} has no vote on {model or 'every model'} to hand over.",
                    hint="Name a model that you may approve: --model NAME.",
                )
            _can_take(change, actor, handed, of)
            made = delegations.give(change, handed)
            return delegations.get(change.connection, made)

    def take_back(self, actor: str, delegation_id: int) -> Delegation:
        """End a delegation of one's own."""
        with self.database.change(actor) as change:
            return delegations.end(change, delegation_id)

    def givers(self, approval_id: int, taker: str) -> list[str]:
        """Return whose votes on a question a person may give besides their own."""
        with self.database.read() as connection:
            seen = Change(connection, taker, self.database.clock())
            return approval.givers(seen, approvals.get(connection, approval_id), taker)

    def changed(self, approval_id: int, read: str | None) -> list[Difference]:
        """Say what is not as it was when a dossier was read, as the records stand now."""
        with self.database.read() as connection:
            asked = approvals.get(connection, approval_id)
            questions = approvals.of_run(connection, asked.run_id)
            seen = next((one for one in questions if one.dossier_digest == read), asked)
            if questions[0].dossier_digest != seen.dossier_digest:
                return dossier_changes.differences(seen.dossier, questions[0].dossier)
            return _now(connection, seen)

    def _voter(self, change: Change, actor: str) -> Voter:
        accounts = tokens.any_exist(change.connection)
        return Voter(actor, accounts=accounts or not self.settings.approval.by_author)

    def _as_read(self, connection: sa.Connection, asked: Approval, read: str | None) -> None:
        """Refuse an answer to a question that has become another one."""
        newest = approvals.of_run(connection, asked.run_id)[0]
        if asked.state == "void" and newest.id != asked.id:
            changed = dossier_changes.differences(asked.dossier, newest.dossier)
            raise ConflictError(
                "PS470",
                f"Approval {asked.id} was asked anew as {newest.id}, because its evidence "
                f"changed: {_listed(changed)}.",
                hint=f"Read {newest.id} and decide there: penstock approve {newest.id}",
            )
        if asked.state == "void" and runs.get(connection, asked.run_id).state is RunState.TESTING:
            raise ConflictError(
                "PS470",
                f"The evidence of approval {asked.id} has changed; {asked.model}@{asked.number} "
                "is judged again.",
                hint="You are asked anew once that is done.",
            )
        if read is not None and read != asked.dossier_digest:
            raise ConflictError(
                "PS470",
                f"What you read is not what approval {asked.id} asks now: its dossier is "
                f"{asked.dossier_digest[:12]}, you read {read[:12]}.",
                hint=f"Read it again: penstock approve {asked.id}",
            )

    def _since(self, connection: sa.Connection, asked: Approval) -> list[Difference] | None:
        """Return what changed since people were asked; None where everything holds."""
        if asked.state != "asked" or asked.evidence_digest is None:
            return None
        version = runs.version_of(connection, asked.model, asked.number)
        found = runs.results(connection, _occasion(connection, asked))
        whole = dossier.digest(asked.dossier) == asked.dossier_digest
        if whole and dossier_changes.evidence_digest(version, found) == asked.evidence_digest:
            return None
        changed = _now(connection, asked)
        return changed or [Difference("the dossier", "as it was written", "altered")]


def expired(database: Database) -> None:
    """Close the questions that nobody answered in time."""
    now = database.clock()
    with database.read() as connection:
        old = [one for one in approvals.asked(connection) if one.expires_at <= now]
    for question in old:
        with database.change("penstock") as change:
            fresh = _held(change, question.id)
            if fresh.state == "asked":
                approval.expire(change, fresh)
            else:
                told = {"model": fresh.model, "approval": fresh.id}
                change.journal("approval.passed_over", told)


def remind(database: Database) -> None:
    """Tell people, once each, of questions that wait long and conditions that are due."""
    now = database.clock()
    with database.read() as connection:
        waiting = [(one, approval.reminder(one, now)) for one in approvals.asked(connection)]
        due = [one for one in conditions.unmet(connection) if one.due is not None]
    with database.write() as connection:
        for question, which in waiting:
            if which is not None and now < question.expires_at:
                said = approvals.votes(connection, question.id)
                missing = question.needed - len(said)
                people = "1 person" if missing == 1 else f"{missing} people"
                name = f"{question.model}@{question.number}"
                message = {
                    "kind": "approval.reminder",
                    "model": question.model,
                    "subject": f"{name} still waits for {people} to approve",
                    "text": f"Unanswered, it closes at {question.expires_at:%Y-%m-%d %H:%M} UTC.",
                    "path": f"/approvals/{question.id}",
                }
                watch.tell(connection, f"approval:{question.id}:{which}", message, now=now)
        for one in due:
            if (which := _due(one, now)) is not None:
                name = f"{one.model}@{one.number}"
                message = {
                    "kind": f"condition.{which}",
                    "model": one.model,
                    "subject": f"A condition of {name} is {which}",
                    "text": f"{one.text} (asked for by {one.set_by}, due {one.due:%Y-%m-%d})",
                    "path": f"/approvals/{one.approval_id}",
                }
                watch.tell(connection, f"condition:{one.id}:{which}", message, now=now)


def _due(one: Condition, now: datetime) -> str | None:
    assert one.due is not None, "only conditions with a date"
    if one.overdue(now):
        return "overdue"
    return "due" if now >= one.due - approval.LAST_CALL else None


def _held(change: Change, approval_id: int) -> Approval:
    """Return a question as it stands now, with its run held: nobody else decides meanwhile."""
    of = approvals.get(change.connection, approval_id)
    runs.hold(change.connection, of.run_id)
    return approvals.get(change.connection, approval_id)


def _occasion(connection: sa.Connection, of: Approval) -> str:
    run = runs.get(connection, of.run_id)
    return f"run:{run.id}:{run.attempt}"


def _now(connection: sa.Connection, of: Approval) -> list[Difference]:
    version = runs.version_of(connection, of.model, of.number)
    return dossier_changes.since(
        of.dossier, version, runs.results(connection, _occasion(connection, of))
    )


def _listed(changed: list[Difference]) -> str:
    more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    told = "; ".join(map(str, changed[:_SHOWN])) + more
    return told or "it was judged again, with the same answers"


def _can_take(change: Change, giver: str, handed: Handing, of: Approval | None) -> None:
    taker = handed.taker.strip()
    known = tokens.people(change.connection, now=change.now)
    wrote: set[str] = set()
    if of is not None:
        wrote = {runs.get(change.connection, of.run_id).created_by, *of.authors}
    fault = ""
    if taker == giver:
        fault = "is yourself"
    elif taker not in known:
        fault = "has no token here"
    elif taker.casefold() in {name.casefold() for name in wrote}:
        fault = "wrote the version"
    elif not change.now < handed.until <= change.now + LONGEST:
        fault = f"can have it from now on, for at most {LONGEST.days} days"
    if fault:
        raise UsageError(
            "PS480",
            f"{giver} cannot hand a vote to {taker or 'nobody'}: {taker or 'nobody'} {fault}.",
            hint="penstock delegate PERSON --model NAME --until 2026-12-31",
        )
