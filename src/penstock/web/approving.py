"""The API of approvals: answers, comments, conditions, and votes handed to somebody else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from penstock.check import dossier
from penstock.deploy.approval import Answer
from penstock.domain import Approval
from penstock.records import approvals, conditions, delegations
from penstock.records.conditions import Condition
from penstock.records.delegations import Handing
from penstock.web import views
from penstock.web.access import caller_of, require
from penstock.web.control import Control
from penstock.web.envelope import answer, read_body


class Decision(BaseModel):
    """Body of a yes or no."""

    model_config = ConfigDict(extra="forbid")

    reason: str = ""
    dossier: str | None = None
    """Digest of the dossier that was read; another one now, and the decision is refused."""
    condition: str = ""
    due: date | None = None
    in_place_of: str | None = None
    """Whose vote it is."""


class Note(BaseModel):
    """Body of what is said beside a decision."""

    model_config = ConfigDict(extra="forbid")

    reason: str = ""


class Delegating(BaseModel):
    """Body that hands a vote over."""

    model_config = ConfigDict(extra="forbid")

    to: str
    until: date
    model: str | None = None
    approval: int | None = None
    reason: str = ""


async def decision_of(request: Request) -> Decision:
    """Read a decision; none is a yes or no without a word."""
    return read_body(Decision, await request.body() or b"{}")


async def note_of(request: Request) -> Note:
    """Read what is said."""
    return read_body(Note, await request.body() or b"{}")


async def delegating_of(request: Request) -> Delegating:
    """Read who gets the vote."""
    return read_body(Delegating, await request.body())


def decision_in(form: Mapping[str, str]) -> Decision:
    """Read a decision from a page's form; fields that were left empty are none."""
    known = {key: form[key] for key in Decision.model_fields if form.get(key, "").strip()}
    return read_body(Decision, json.dumps(known).encode())


DecisionBody = Annotated[Decision, Depends(decision_of)]
NoteBody = Annotated[Note, Depends(note_of)]
DelegatingBody = Annotated[Delegating, Depends(delegating_of)]


def routes(router: APIRouter, control: Control) -> None:
    """Add the routes of the API."""
    _look(router, control)
    _answers(router, control)
    _delegations(router, control)


def _look(router: APIRouter, control: Control) -> None:
    @router.get("/api/approvals")
    def asked(request: Request) -> Response:
        require(request, "read")
        with control.database.read() as connection:
            found = approvals.asked(connection)
        told = [
            {"id": a.id, "model": a.model, "number": a.number, "run": a.run_id, "needed": a.needed}
            | {"lead": a.dossier.get("lead"), "asked_at": a.asked_at, "expires_at": a.expires_at}
            for a in found
        ]
        return answer("approvals", {"approvals": told})

    @router.get("/api/approvals/{approval_id}")
    def one(request: Request, approval_id: int) -> Response:
        view = views.approval_view(control, approval_id)
        require(request, "read", view.approval.model)
        text = (
            dossier.markdown(view.approval.dossier)
            if view.approval.dossier.get("schema") == dossier.SCHEMA
            else None
        )
        told = {f: getattr(view.approval, f) for f in view.approval.__slots__}
        more = {"votes": view.votes, "comments": view.comments, "conditions": view.conditions}
        givers = control.acts.approving.givers(approval_id, caller_of(request).person)
        return answer("approval", {**told, **more, "may_vote_for": givers, "markdown": text})

    @router.get("/api/conditions")
    def unmet(request: Request, model: str | None = None) -> Response:
        require(request, "read", model or "*")
        with control.database.read() as connection:
            found = conditions.unmet(connection, model)
        now = control.clock()
        told = [condition_json(one, now) for one in found]
        return answer("conditions", {"conditions": told})


def condition_json(one: Condition, now: datetime) -> dict[str, Any]:
    """Return a condition as the API tells it."""
    told = {name: getattr(one, name) for name in one.__slots__}
    return {**told, "overdue": one.overdue(now)}


def _answers(router: APIRouter, control: Control) -> None:
    @router.post("/api/approvals/{approval_id}/approve")
    def approve(request: Request, approval_id: int, said: DecisionBody) -> Response:
        return answer("act", decide(control, request, approval_id, said, yes=True))

    @router.post("/api/approvals/{approval_id}/reject")
    def reject(request: Request, approval_id: int, said: DecisionBody) -> Response:
        return answer("act", decide(control, request, approval_id, said, yes=False))

    @router.post("/api/approvals/{approval_id}/withdraw")
    def withdraw(request: Request, approval_id: int, said: NoteBody) -> Response:
        return answer("act", take_back(control, request, approval_id, said.reason))

    @router.post("/api/approvals/{approval_id}/comment")
    def comment(request: Request, approval_id: int, said: NoteBody) -> Response:
        return answer("act", add_comment(control, request, approval_id, said.reason))

    @router.post("/api/conditions/{condition_id}/met")
    def met(request: Request, condition_id: int, said: NoteBody) -> Response:
        return answer("act", meet(control, request, condition_id, said.reason))


def decide(
    control: Control, request: Request, approval_id: int, said: Decision, *, yes: bool
) -> dict[str, Any]:
    """Record one person's yes or no, and say what came of it."""
    asked = _asked(control, approval_id)
    person, giver = _voter(control, request, asked, said.in_place_of)
    due = None if said.due is None else end_of(said.due)
    given = Answer(yes, said.reason, said.condition, due, giver)
    version = f"{asked.model}@{asked.number}"
    control.acts.approving.answer(person, approval_id, given, read=said.dossier)
    if not yes:
        return {"text": f"{version} is rejected.", "next": f"penstock history {asked.model}"}
    with control.database.read() as connection:
        now = approvals.get(connection, approval_id)
        count = sum(v.vote == "approve" for v in approvals.votes(connection, approval_id))
    if now.state == "asked":
        text = f"Your yes to {version} is kept: {count} of {now.needed}."
        return {"text": text, "next": f"penstock status {asked.model}"}
    text = f"{version} is approved and goes to production."
    return {"text": text, "next": f"penstock watch {asked.run_id}"}


def take_back(control: Control, request: Request, approval_id: int, reason: str) -> dict[str, Any]:
    """Withdraw the caller's own yes."""
    asked = _asked(control, approval_id)
    person = require(request, "read", asked.model)
    control.acts.approving.withdraw(person, approval_id, reason)
    text = f"Your yes to {asked.model}@{asked.number} is withdrawn."
    return {"text": text, "next": f"penstock approvals {approval_id}"}


def add_comment(control: Control, request: Request, approval_id: int, text: str) -> dict[str, Any]:
    """Keep what the caller says about a question."""
    asked = _asked(control, approval_id)
    control.acts.approving.comment(require(request, "read", asked.model), approval_id, text)
    return {"text": "Your comment is kept.", "next": f"penstock approvals {approval_id}"}


def meet(control: Control, request: Request, condition_id: int, note: str) -> dict[str, Any]:
    """Say that a condition is met: whoever may approve the model may."""
    with control.database.read() as connection:
        found = conditions.get(connection, condition_id)
    person = require(request, "approve", found.model)
    control.acts.approving.meet(person, condition_id, note)
    text = f"Condition {condition_id} of {found.model}@{found.number} is met."
    return {"text": text, "next": f"penstock conditions {found.model}"}


def _delegations(router: APIRouter, control: Control) -> None:
    @router.get("/api/delegations")
    def mine(request: Request) -> Response:
        person = caller_of(request).person
        with control.database.read() as connection:
            found = delegations.live(connection, control.clock())
        told = [one for one in found if person in {one.giver, one.taker}]
        return answer("delegations", {"delegations": told})

    @router.post("/api/delegations")
    def give(request: Request, handed: DelegatingBody) -> Response:
        until = end_of(handed.until)
        to = Handing(handed.to.strip(), until, handed.approval, handed.model, handed.reason)
        made = control.acts.approving.delegate(caller_of(request).person, to)
        text = f"{made.taker} holds your vote until {made.until:%Y-%m-%d}, as number {made.id}."
        told = {"text": text, "next": f"penstock delegate --end {made.id}", "delegation": made}
        return answer("act", told)

    @router.post("/api/delegations/{delegation_id}/end")
    def end(request: Request, delegation_id: int) -> Response:
        ended = control.acts.approving.take_back(caller_of(request).person, delegation_id)
        text = f"{ended.taker} no longer holds your vote."
        return answer("act", {"text": text, "next": "penstock delegate"})


def end_of(day: date) -> datetime:
    """Return a day's last second, UTC: what is due on a day may come until its end."""
    return datetime.combine(day, time(23, 59, 59), UTC)


def _asked(control: Control, approval_id: int) -> Approval:
    with control.database.read() as connection:
        return approvals.get(connection, approval_id)


def _voter(
    control: Control, request: Request, asked: Approval, giver: str | None
) -> tuple[str, str | None]:
    """Return who votes, and in whose place: without a right of one's own, whoever gave theirs."""
    caller = caller_of(request)
    if giver == caller.person:
        giver = None
    if giver is None and not caller.may("approve", asked.model):
        givers = control.acts.approving.givers(asked.id, caller.person)
        if not givers:
            require(request, "approve", asked.model)
        giver = givers[0]
    if giver is not None:
        require(request, "read", asked.model)
    return caller.person, giver
