"""The pages of approvals: the dossier with its decision, and a place to try both versions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from penstock.deploy.approval import wrote
from penstock.domain import Environment
from penstock.errors import PenstockError, UsageError
from penstock.records import conditions, fleet, rollouts, tokens
from penstock.web import approving, trying, views
from penstock.web.access import caller_of, require
from penstock.web.control import Control
from penstock.web.drawing import Pages
from penstock.web.fields import blamed, filled, request_of


def routes(draw: Pages) -> APIRouter:
    """Return the pages' routes."""
    router = APIRouter(default_response_class=HTMLResponse)
    for part in (_looks, _decides, _tries):
        part(router, draw)
    return router


def _looks(router: APIRouter, draw: Pages) -> None:
    control = draw.control

    @router.get("/approvals")
    def listed(request: Request) -> Response:
        require(request, "read")
        with control.database.read() as connection:
            found = fleet.recent_approvals(connection)
            unmet = conditions.unmet(connection)
        return draw.page(
            request,
            "approvals.html",
            title="Approvals",
            nav="Approvals",
            approvals=found,
            unmet=unmet,
        )

    @router.get("/approvals/{approval_id}")
    def approval(request: Request, approval_id: int) -> Response:
        return _page(draw, request, approval_id)


def _page(
    draw: Pages,
    request: Request,
    approval_id: int,
    fault: PenstockError | None = None,
    form: Mapping[str, str] | None = None,
) -> Response:
    control = draw.control
    view = views.approval_view(control, approval_id)
    asked = view.approval
    require(request, "read", asked.model)
    with control.database.read() as connection:
        accounts = tokens.any_exist(connection)
    caller = caller_of(request)
    given = form or {}
    changed = (
        control.acts.approving.changed(approval_id, given.get("dossier"))
        if fault is not None and fault.code in {"PS470", "PS472"}
        else []
    )
    told: dict[str, Any] = {
        "view": view,
        "dossier": asked.dossier,
        "accounts": accounts,
        "own": wrote(caller.person, view.run, asked),
        "may": caller.may("approve", asked.model),
        "givers": control.acts.approving.givers(approval_id, caller.person),
        "mine": any(v.actor == caller.person and v.vote == "approve" for v in view.votes),
        "fault": fault,
        "changed": changed,
        "given": given,
        "soonest": (control.clock() + timedelta(days=1)).date().isoformat(),
    }
    title = f"Approve {asked.model}@{asked.number}"
    status = 200 if fault is None else fault.status
    return draw.page(request, "approval.html", title=title, nav="Approvals", status=status, **told)


def _decides(router: APIRouter, draw: Pages) -> None:
    control = draw.control

    @router.post("/approvals/{approval_id}")
    async def decided(request: Request, approval_id: int) -> Response:
        form = {key: str(value) for key, value in (await request.form()).items()}
        return await run_in_threadpool(answer, request, approval_id, form)

    def answer(request: Request, approval_id: int, form: dict[str, str]) -> Response:
        try:
            _act(control, request, approval_id, form)
        except PenstockError as error:
            return _page(draw, request, approval_id, error, form)
        return RedirectResponse(f"/approvals/{approval_id}", 303)

    @router.post("/conditions/{condition_id}")
    async def met(request: Request, condition_id: int) -> Response:
        note = str((await request.form()).get("reason", ""))
        await run_in_threadpool(approving.meet, control, request, condition_id, note)
        with control.database.read() as connection:
            of = conditions.get(connection, condition_id)
        return RedirectResponse(f"/approvals/{of.approval_id}", 303)


def _act(control: Control, request: Request, approval_id: int, form: Mapping[str, str]) -> None:
    """Do what a button of the page says."""
    reason = form.get("reason", "")
    decision = form.get("decision")
    if decision == "comment":
        approving.add_comment(control, request, approval_id, reason)
    elif decision == "withdraw":
        approving.take_back(control, request, approval_id, reason)
    elif decision not in {"approve", "reject"}:
        raise UsageError("PS839", "No decision was sent.", hint="Press Approve or Reject.")
    elif decision == "approve" and not form.get("read"):
        raise UsageError(
            "PS839",
            "Nobody says yes to what they have not read.",
            hint="Tick that you have read the evidence, then press Approve again.",
        )
    else:
        said = approving.decision_in(form)
        if decision == "reject":  # the fields of a condition stand beside the yes only
            said = said.model_copy(update={"condition": "", "due": None})
        approving.decide(control, request, approval_id, said, yes=decision == "approve")


def _tries(router: APIRouter, draw: Pages) -> None:
    control = draw.control

    def page(request: Request, approval_id: int, given: Mapping[str, str] | None) -> Response:
        view = views.approval_view(control, approval_id)
        asked = view.approval
        require(request, "read", asked.model)
        with control.database.read() as connection:
            present = rollouts.deployments(
                connection, model_name=asked.model, environment=Environment.TEST
            )
        # The one in use first, as on every page; without the one that is asked about there is
        # nothing to try.
        numbers = sorted({one.number for one in present}, key=lambda n: n == asked.number)
        if asked.number not in numbers:
            numbers = []
        target = trying.target_of(control, asked.model, Environment.TEST, asked.number)
        fields, said = target.fields, dict[int, Any]()
        if given is not None and fields is not None:
            fields = filled(fields, given)
            body = trying.laid_out(request_of(fields))
            for number in numbers:
                of = trying.target_of(control, asked.model, Environment.TEST, number)
                said[number] = trying.ask_version(control, asked.model, of, body, why=False)
                fields = blamed(fields, str(said[number]["error"] or ""))
        return draw.page(
            request,
            "approval_try.html",
            title=f"Try {asked.model}@{asked.number}",
            nav="Approvals",
            view=view,
            fields=fields,
            sides=[{"number": number, "said": said.get(number)} for number in numbers],
        )

    @router.get("/approvals/{approval_id}/try")
    def form(request: Request, approval_id: int) -> Response:
        return page(request, approval_id, None)

    @router.post("/approvals/{approval_id}/try")
    async def ask(request: Request, approval_id: int) -> Response:
        given = {key: str(value) for key, value in (await request.form()).items()}
        return await run_in_threadpool(page, request, approval_id, given)
