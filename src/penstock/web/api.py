"""The API: what pages show and do, as JSON, for the command line and for scripts.

Every answer is ``{"schema": "penstock.<thing>/1", "data": …}`` or ``{"error": …}``. An act answers
with ``text``, what was done as a sentence, and ``next``, the command that usually follows.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response, StreamingResponse

from penstock import __version__
from penstock.domain import Run
from penstock.records import fleet, rollouts, runs
from penstock.web import (
    approving,
    comparing,
    events,
    experiments,
    explaining,
    fairness,
    git,
    labels,
    log_routes,
    predictions,
    served,
    serving,
    trust,
    versions,
    views,
)
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.envelope import answer, read_body
from penstock.web.words import duration

_STREAM_HEADERS = {"X-Accel-Buffering": "no"}


class Act(BaseModel):
    """Body of an act: who does it is known already."""

    model_config = ConfigDict(extra="forbid")

    reason: str = ""
    to: int | None = None
    """A share in percent, or a version's number, as the act says."""


class MonitorRun(BaseModel):
    """Body that asks for a period to be checked now."""

    model_config = ConfigDict(extra="forbid")

    run: str


class PushedRef(BaseModel):
    """What a hook tells."""

    model_config = ConfigDict(extra="forbid")

    model: str
    ref: str
    commit: str
    config: str | None = None
    pusher: str = ""


async def act_of(request: Request) -> Act:
    """Read an act's body; none is an act without a reason."""
    return read_body(Act, await request.body() or b"{}")


async def monitor_run_of(request: Request) -> MonitorRun:
    """Read which period to check."""
    return read_body(MonitorRun, await request.body())


async def pushed_ref_of(request: Request) -> PushedRef:
    """Read what a hook tells."""
    return read_body(PushedRef, await request.body())


ActBody = Annotated[Act, Depends(act_of)]
MonitorBody = Annotated[MonitorRun, Depends(monitor_run_of)]
Pushed = Annotated[PushedRef, Depends(pushed_ref_of)]


def routes(control: Control) -> APIRouter:
    """Return every route below /api and /internal."""
    router = APIRouter()
    for part in (_look, _models, _runs, approving.routes, _operate, trust.routes, _hooks):
        part(router, control)
    experiments.routes(router, control)
    explaining.api(router, control)
    fairness.api(router, control)
    comparing.api(router, control)
    labels.api(router, control)
    serving.api(router, control)
    versions.api(router, control)
    log_routes.routes(router, control)
    predictions.api(router, control)
    return router


def _look(router: APIRouter, control: Control) -> None:
    @router.get("/api/health")
    def health(request: Request) -> Response:
        require(request, "read")
        with control.database.read() as connection:
            counted = fleet.counts(connection, now=control.clock())
        return answer(
            "health",
            {
                "version": __version__,
                "predict_url": control.predict_url,
                "models": counted,
                "now": control.clock(),
            },
        )

    @router.get("/api/journal")
    def entries(request: Request, after: int = 0) -> Response:
        require(request, "read")
        with control.database.read() as connection:
            found = fleet.journal_after(connection, after)
        told = [views.entry_json(entry) for entry in found]
        more = found[-1].seq if len(found) == fleet.PAGE else None
        return answer("journal", {"entries": told, "next": more})


def _models(router: APIRouter, control: Control) -> None:
    @router.get("/api/models")
    def models(
        request: Request,
        q: str = "",
        state: str = "",
        team: str = "",
        risk: str = "",
        after: str | None = None,
    ) -> Response:
        require(request, "read")
        which = fleet.Filter(q, state, team, risk)
        page = views.fleet_page(control, which, after)
        told = [views.fleet_json(row) for row in page.rows]
        return answer("models", {"models": told, "next": page.next, "total": page.total})

    @router.get("/api/models/{name}")
    def model(request: Request, name: str) -> Response:
        require(request, "read", name)
        view = views.model_view(control, name)
        return answer(
            "model",
            {
                **views.fleet_json(view.row),
                "release_branch": view.model.release_branch,
                "predict_url": f"{control.predict_url}/v2/models/{name}/infer",
                "deployments": view.deployments,
                "alerts": view.row.at.alerts,
                "versions": [
                    {"number": v.number, "run": v.run_id, "artifact_digest": v.artifact_digest}
                    for v in view.versions
                ],
            },
        )

    @router.get("/api/models/{name}/history")
    def history(request: Request, name: str, at: str = "") -> Response:
        require(request, "read", name)
        return answer("history", served.history(control, name, at))

    @router.get("/api/models/{name}/monitor")
    def monitor(request: Request, name: str) -> Response:
        require(request, "read", name)
        view = views.model_view(control, name)
        told = {"monitors": view.monitors, "alerts": view.alerts, "periods": view.periods[:30]}
        return answer("monitor", told)


def _runs(router: APIRouter, control: Control) -> None:
    @router.get("/api/runs")
    def listed(request: Request, model: str | None = None, before: int | None = None) -> Response:
        require(request, "read", model or "*")
        with control.database.read() as connection:
            if model is not None:
                runs.model_of(connection, model)
            found = runs.runs(connection, model_name=model, before=before, most=fleet.PAGE)
        more = found[-1].id if len(found) == fleet.PAGE else None
        return answer("runs", {"runs": found, "next": more})

    @router.get("/api/runs/{run_id}")
    def run(request: Request, run_id: int) -> Response:
        _run_for(control, request, "read", run_id)
        return answer("run", views.run_json(events.standing(control, run_id)))

    @router.get("/api/runs/{run_id}/stream")
    def stream(request: Request, run_id: int, *, paced: bool = False) -> Response:
        _run_for(control, request, "read", run_id)
        return _text_stream(control, run_id, paced=paced)

    @router.post("/api/runs/{run_id}/abort")
    def abort(request: Request, run_id: int, act: ActBody) -> Response:
        person, run = _run_for(control, request, "push", run_id)
        control.acts.abort(person, run_id, act.reason)
        return _done(f"Run {run_id} of {run.version} ends.", f"penstock status {run.model}")

    @router.post("/api/runs/{run_id}/retry")
    def retry(request: Request, run_id: int) -> Response:
        person, run = _run_for(control, request, "push", run_id)
        again = control.acts.retry(person, run_id)
        text = f"Run {run_id} of {run.version} goes on, attempt {again.attempt}."
        return _done(text, f"penstock watch {run_id}")


def _operate(router: APIRouter, control: Control) -> None:
    @router.get("/api/rollouts/{rollout_id}")
    def rollout(request: Request, rollout_id: int) -> Response:
        view = views.rollout_view(control, rollout_id)
        require(request, "read", view.rollout.model)
        return answer("rollout", view)

    @router.post("/api/models/{name}/promote")
    def promote(request: Request, name: str, act: ActBody) -> Response:
        person = require(request, "operate", name)
        after = control.acts.promote(person, name, act.to, act.reason)
        text = f"{name}@{after.challenger} gets {after.share} % of the requests."
        return _done(text, f"penstock status {name}")

    @router.post("/api/models/{name}/pause")
    def pause(request: Request, name: str, _act: ActBody) -> Response:
        after = control.acts.pause(require(request, "operate", name), name)
        until = after.hold_until
        held = duration((until - control.clock()).total_seconds()) if until else "a while"
        text = f"{name}@{after.challenger} stays at {after.share} %; unanswered, back in {held}."
        return _done(text, f"penstock resume {name}")

    @router.post("/api/models/{name}/resume")
    def resume(request: Request, name: str, _act: ActBody) -> Response:
        after = control.acts.resume(require(request, "operate", name), name)
        text = f"{name}@{after.challenger} goes on at {after.share} %."
        return _done(text, f"penstock status {name}")

    @router.post("/api/models/{name}/rollback")
    def rollback(request: Request, name: str, act: ActBody) -> Response:
        person = require(request, "rollback", name)
        after = control.acts.roll_back(person, name, act.to, act.reason)
        if after.ended_at is None:
            text = f"{name}@{after.challenger} is not loaded: it is loaded, then takes over."
            return _done(text, f"penstock status {name}")
        with control.database.read() as connection:
            champion = rollouts.champion(connection, name)
        serves = "No version" if champion is None else f"{name}@{champion.number}"
        return _done(f"{serves} gets all requests.", f"penstock history {name}")

    @router.post("/api/models/{name}/monitor")
    def monitor(request: Request, name: str, asked: MonitorBody) -> Response:
        person = require(request, "operate", name)
        occasion = control.acts.run_monitor(person, name, asked.run)
        told = {"text": f"The {asked.run} of {name} is being checked.", "occasion": occasion}
        return answer("monitor", {**told, "next": f"penstock monitor {name}"})


def _hooks(router: APIRouter, control: Control) -> None:
    @router.post("/internal/git/check")
    def check(pushed: Pushed) -> Response:
        lines = git.check(pushed.model, pushed.config)
        return answer("check", {"ok": not lines, "lines": lines})

    @router.post("/internal/git/received")
    def received(pushed: Pushed) -> Response:
        run = git.received(control, pushed.model, pushed.ref, pushed.commit, pusher=pushed.pusher)
        watch = f"penstock watch {run.id}"
        lines = [
            f"Penstock run {run.id} for {run.version} started",
            f"  follow  {watch}      or {control.settings.address}/runs/{run.id}",
        ]
        return answer("received", {"run": run.id, "lines": lines})

    @router.get("/internal/runs/{run_id}/stream")
    def stream(run_id: int) -> Response:
        with control.database.read() as connection:
            runs.get(connection, run_id)
        return _text_stream(control, run_id)


def _run_for(control: Control, request: Request, action: str, run_id: int) -> tuple[str, Run]:
    with control.database.read() as connection:
        run = runs.get(connection, run_id)
    return require(request, action, run.model), run


def _text_stream(control: Control, run_id: int, *, paced: bool = False) -> Response:
    lines = events.text(control, run_id, paced=paced)
    return StreamingResponse(lines, headers=_STREAM_HEADERS, media_type="text/plain")


def _done(text: str, following: str) -> Response:
    return answer("act", {"text": text, "next": following})
