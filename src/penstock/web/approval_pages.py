"""The pages of approvals: the dossier with its decision, and a place to try both versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from penstock.client import Client
from penstock.deploy.approval import wrote
from penstock.domain import JSON, Deployment, Environment
from penstock.errors import PenstockError, UsageError
from penstock.inference.gateway.examples import example_request
from penstock.records import conditions, fleet, rollouts, tokens
from penstock.web import approving, views
from penstock.web.access import caller_of, require
from penstock.web.control import Control
from penstock.web.drawing import Pages

_ASK_S = 30.0
MOST_FIELDS = 60
"""Columns that the form for trying has room for."""


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
            found = rollouts.deployments(
                connection, model_name=asked.model, environment=Environment.TEST
            )
        found.sort(key=lambda one: one.number == asked.number)
        signature = view.version.signature or {"columns": ()}
        fields = fields_of(signature)
        values = (
            {one["name"]: given.get(f"c:{one['name']}", "") for one in fields} if given else {}
        )
        said: list[JSON] = []
        fault = ""
        if given is not None:
            try:
                request_body = asked_with(fields, values)
            except ValueError as error:
                fault = str(error)
            else:
                said = [_answer(control, one, request_body) for one in found]
        return draw.page(
            request,
            "approval_try.html",
            title=f"Try {asked.model}@{asked.number}",
            nav="Approvals",
            view=view,
            there=found,
            fields=fields,
            values=values if given else {one["name"]: one["value"] for one in fields},
            said=said,
            fault=fault,
        )

    @router.get("/approvals/{approval_id}/try")
    def form(request: Request, approval_id: int) -> Response:
        return page(request, approval_id, None)

    @router.post("/approvals/{approval_id}/try")
    async def ask(request: Request, approval_id: int) -> Response:
        given = {key: str(value) for key, value in (await request.form()).items()}
        return await run_in_threadpool(page, request, approval_id, given)


def fields_of(signature: JSON) -> list[dict[str, Any]]:
    """Return a field for each column, with a typical value; none for tensors or too many.

    Examples
    --------
    >>> fields_of({"columns": [{"name": "age", "datatype": "FP64", "example": 41.5}]})
    [{'name': 'age', 'datatype': 'FP64', 'value': '41.5', 'optional': False}]
    """
    columns = cast("Sequence[JSON]", signature.get("columns") or ())
    if len(columns) > MOST_FIELDS or any(column.get("shape") for column in columns):
        return []
    example = {one["name"]: one["data"][0] for one in example_request(signature)["inputs"]}
    return [
        {
            "name": str(column["name"]),
            "datatype": str(column["datatype"]),
            "value": str(example[column["name"]]),
            "optional": bool(column.get("optional")),
        }
        for column in columns
    ]


def asked_with(fields: Sequence[Mapping[str, Any]], values: Mapping[str, str]) -> dict[str, Any]:
    """Make a request of one row from what people typed; ValueError says what cannot be read."""
    inputs: list[dict[str, Any]] = []
    wrong: list[str] = []
    for one in fields:
        name, kind = str(one["name"]), str(one["datatype"])
        try:
            value = typed(values.get(name, "").strip(), kind)
        except ValueError:
            wrong.append(f"{name}: {values.get(name, '')!r} is not {_KINDS.get(kind, 'text')}")
            continue
        inputs.append({"name": name, "shape": [1], "datatype": kind, "data": [value]})
    if wrong:
        raise ValueError("; ".join(wrong))
    return {"inputs": inputs}


_KINDS = {"FP64": "a number", "INT64": "a whole number", "BOOL": "true or false"}


def typed(text: str, kind: str) -> object:
    """Read a value of a datatype; empty is missing.

    Examples
    --------
    >>> typed("41,5", "FP64"), typed("yes", "BOOL"), typed("", "INT64"), typed("7", "BYTES")
    (41.5, True, None, '7')
    """
    if not text:
        return None
    if kind == "BOOL":
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in known:
            raise ValueError(text)
        return known[text.lower()]
    if kind.startswith("FP"):
        return float(text.replace(",", "."))
    if kind.startswith(("INT", "UINT")):
        return int(text)
    return text


def _answer(control: Control, of: Deployment, body: Mapping[str, Any]) -> JSON:
    """Ask one version in the test environment; a refusal is an answer, too."""
    caller = Client(control.settings.address, predict_url=control.predict_url, timeout_s=_ASK_S)
    told: dict[str, Any] = {"number": of.number, "role": of.role.value, "error": None, "rows": []}
    try:
        said: Any = caller.ask(f"/test/v2/models/{of.model}/versions/{of.number}/infer", body)
    except PenstockError as error:
        return {**told, "error": error.what}
    outputs: dict[str, Any] = {one["name"]: one for one in said.get("outputs") or ()}
    rows = [(name, outputs[name]["data"][:8]) for name in outputs if name != "probability"]
    likely = outputs.get("probability")
    if likely is not None:
        parameters = cast("JSON", said.get("parameters") or {})
        classes = cast("Sequence[Any]", parameters.get("classes") or range(len(likely["data"])))
        shares = zip(classes, likely["data"], strict=False)
        rows += [(f"probability of {name}", [share]) for name, share in list(shares)[:12]]
    return {**told, "rows": rows}
