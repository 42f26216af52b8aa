"""The pages: records drawn as HTML by the server; acts are forms that work without a script.

`routes` lists every address. What moves by itself is in `live`, what pages are made of in `views`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from penstock.domain import JSON, ROLLOUT_ENDED, RUN_ENDED, Role, Rollout, Verdict
from penstock.errors import PenstockError, UsageError
from penstock.inference.gateway.examples import example_request
from penstock.records import fleet, journal, rollouts, runs
from penstock.web import charts, live, logs, served, serving, stages, views, words
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.drawing import Pages, fleet_csv

_STRIP = (
    ("Degraded or failed", "fail", None, "Degraded,Failed,Rolled back"),
    ("Approval or paused", "wait", None, "Approval,Paused"),
    ("Drifting", "warn", None, "Drifting"),
    ("Check overdue", "idle", None, "Check overdue"),
    ("Canary or build", "run", "can", "Queued,Building,Testing,Canary"),
    ("Healthy", "ok", None, "Healthy"),
)
"""Title, kind, icon and the states that are counted together."""
_QUEUE = 6
_LOG_LINES = 1000


def routes(draw: Pages) -> APIRouter:
    """Return every page's route."""
    router = APIRouter(default_response_class=HTMLResponse)
    for part in (_twins, _fleet, _model, _runs, _run_acts, _rollouts, _others):
        part(router, draw)
    return router


def _twins(router: APIRouter, draw: Pages) -> None:
    @router.get("/models.csv")
    def export(request: Request) -> Response:
        require(request, "read")
        return fleet_csv(draw.control)

    @router.get("/{page:path}.json")
    def twin(page: str) -> Response:
        # Anything but a plain path could lead to another site.
        plain = "/".join(part for part in page.split("/") if part not in {"", ".", ".."})
        return RedirectResponse(f"/api/{plain or 'models'}", 307)


def _fleet(router: APIRouter, draw: Pages) -> None:
    control = draw.control

    def top(first: views.FleetPage | None = None) -> dict[str, Any]:
        """Count the states and name who waits; `first` is the whole fleet, where it was read."""
        with control.database.read() as connection:
            counted = fleet.counts(connection, now=control.clock())
        strip = [
            (title, kind, icon, states, sum(counted.get(s, 0) for s in states.split(",")))
            for title, kind, icon, states in _STRIP
        ]
        first = first or views.fleet_page(control, fleet.Filter(), None, most=_QUEUE)
        waits = sum(counted.get(state, 0) for state in fleet.NEEDS_A_PERSON)
        queue = views.FleetPage(first.rows[: min(_QUEUE, waits)], None, waits)  # worst first
        return {"strip": strip, "queue": queue, "models": sum(counted.values())}

    @router.get("/")
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
        with control.database.read() as connection:
            teams = fleet.teams(connection)
        whole = page if after is None and which == fleet.Filter() else None
        told: dict[str, Any] = {"page": page, "which": which, "teams": teams, **top(whole)}
        return draw.page(
            request,
            "fleet.html",
            title="Models",
            nav="Models",
            address=control.settings.address,
            **told,
        )

    @router.get("/rows")
    def rows(
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
        return HTMLResponse(draw.fragment("_rows.html", page=page, which=which))

    @router.get("/top")
    def above(request: Request) -> Response:
        require(request, "read")
        return HTMLResponse(draw.fragment("_top.html", **top()))

    @router.get("/go")
    def go(request: Request, q: str = "") -> Response:
        require(request, "read")
        wanted = q.strip()
        if wanted.isdigit():
            return RedirectResponse(f"/runs/{wanted}", 303)
        with control.database.read() as connection:
            known = bool(wanted) and runs.known(connection, wanted)
        if known:
            return RedirectResponse(f"/models/{wanted}", 303)
        return RedirectResponse(f"/?{urlencode({'q': wanted})}", 303)


def _model(router: APIRouter, draw: Pages) -> None:
    control = draw.control

    @router.get("/models/{name}")
    def model(request: Request, name: str) -> Response:
        require(request, "read", name)
        view = views.model_view(control, name)
        return draw.page(
            request,
            "model.html",
            title=name,
            nav="Models",
            view=view,
            served=serving.drawn(serving.serving_of(control, name)),
            history=_quality_history(view),
            champions=served.champions(control, name),
            curl=_curl(control, view),
        )

    @router.post("/models/{name}/{act}")
    async def do(request: Request, name: str, act: str) -> Response:
        form = await request.form()
        person = require(request, "rollback" if act == "rollback" else "operate", name)
        await run_in_threadpool(_operate, control, person, (name, act), dict(form))
        return RedirectResponse(_back(form.get("back"), f"/models/{name}"), 303)


def _operate(control: Control, person: str, what: tuple[str, str], form: dict[str, Any]) -> None:
    """Do what a button says."""
    name, act = what
    reason = str(form.get("reason", ""))
    to = str(form.get("to", ""))
    number = int(to) if to.isdigit() else None
    acts = control.acts
    known: dict[str, Callable[[], object]] = {
        "promote": lambda: acts.promote(person, name, number, reason),
        "pause": lambda: acts.pause(person, name),
        "resume": lambda: acts.resume(person, name),
        "rollback": lambda: acts.roll_back(person, name, number, reason),
        "monitor": lambda: acts.run_monitor(person, name, str(form.get("run", "day"))),
    }
    if act not in known:
        raise UsageError("PS837", f"{act!r} is no act on a model.", hint="Use a page's buttons.")
    known[act]()


def _back(given: object, otherwise: str) -> str:
    """Return where a form leads back to: only to a path of our own."""
    text = str(given or "")
    return text if text.startswith("/") and not text.startswith(("//", "/\\")) else otherwise


def _quality_history(view: views.ModelView) -> dict[str, Any] | None:
    """Return the primary measure over the periods, oldest first, with its limit."""
    found = [
        result
        for period in reversed(view.periods)
        for result in period.results
        if result.check == "quality.as_before" and result.evidence.get("value") is not None
    ]
    judged = view.row.results.get("quality.measured")
    values = [float(result.evidence["value"]) for result in found]
    if judged is not None and judged.evidence.get("value") is not None:
        values.insert(0, float(judged.evidence["value"]))
    if len(values) < 2:
        return None
    evidence: JSON = found[-1].evidence if found else {}
    before, margin = evidence.get("champion"), evidence.get("margin")
    limit = None
    if before is not None and margin is not None:
        better = before - margin
        lower_is_better = str(evidence.get("metric")) in {"mae", "rmse", "log_loss"}
        limit = before + margin if lower_is_better else better
    return {"spark": charts.spark(values, limit, width=320, height=72), "limit": limit}


def _curl(control: Control, view: views.ModelView) -> str:
    """Return a command that asks the model, with one row of its own columns."""
    address = f"{control.predict_url}/v2/models/{view.row.at.name}"
    serving = [d for d in view.deployments if d.role is Role.CHAMPION and d.signature]
    signature: JSON = serving[0].signature if serving else {"columns": ()}
    columns = cast("Sequence[JSON]", signature["columns"])
    if not columns or len(columns) > 12 or any(column.get("shape") for column in columns):
        return f"curl {address}"
    body = json.dumps(example_request(signature), separators=(",", ":"), ensure_ascii=False)
    return f"curl {address}/infer -d {shlex.quote(body)}"


def _runs(router: APIRouter, draw: Pages) -> None:
    control = draw.control

    @router.get("/runs")
    def listed(request: Request, model: str = "", before: int | None = None) -> Response:
        require(request, "read", model or "*")
        with control.database.read() as connection:
            found = runs.runs(connection, model_name=model or None, before=before)
        more = found[-1].id if len(found) == fleet.PAGE else None
        return draw.page(
            request, "runs.html", title="Runs", nav="Runs", runs=found, model=model, more=more
        )

    @router.get("/runs/{run_id}")
    def run(
        request: Request, run_id: int, step: str | None = None, q: str = "", within: str = ""
    ) -> Response:
        view = views.run_view(control, run_id)
        require(request, "read", view.at.run.model)
        found = None
        if q.strip():
            found = logs.search(logs.of_run(control, view.at, within or None), q)
        return draw.page(
            request,
            "run.html",
            title=f"Run {run_id}",
            nav="Runs",
            found=found,
            q=q,
            within=within,
            **run_parts(control, view, step),
        )

    @router.get("/runs/{run_id}/events")
    def run_events(request: Request, run_id: int) -> Response:
        with control.database.read() as connection:
            require(request, "read", runs.get(connection, run_id).model)

        def parts() -> dict[str, str]:
            told = run_parts(control, views.run_view(control, run_id), None)
            return {name: draw.fragment(f"_run_{name}.html", **told) for name in live.RUN_PARTS}

        def log_lines(lines: list[str]) -> str:
            return draw.fragment("_log.html", lines=lines)

        return live.stream(live.run(control, run_id, parts, log_lines))


def _run_acts(router: APIRouter, draw: Pages) -> None:
    control = draw.control

    @router.post("/runs/{run_id}/{act}")
    async def do(request: Request, run_id: int, act: str) -> Response:
        form = await request.form()
        await run_in_threadpool(do_now, request, run_id, act, str(form.get("reason", "")))
        return RedirectResponse(f"/runs/{run_id}", 303)

    def do_now(request: Request, run_id: int, act: str, reason: str) -> None:
        with control.database.read() as connection:
            person = require(request, "push", runs.get(connection, run_id).model)
        if act == "abort":
            control.acts.abort(person, run_id, reason)
        elif act == "retry":
            control.acts.retry(person, run_id)
        else:
            raise UsageError("PS837", f"{act!r} is no act on a run.", hint="Use a page's buttons.")


def run_parts(control: Control, view: views.RunView, step: str | None) -> dict[str, Any]:
    """Return what a run's page and its live parts are drawn from."""
    at, now = view.at, control.clock()
    shown = at.shown
    if step is not None:
        shown = next((s for s in at.steps if f"{s.stage}/{s.name}" == step), shown)
    counted = dict.fromkeys(Verdict, 0)
    for result in at.results:
        counted[result.verdict] += 1
    return {
        "view": view,
        "at": at,
        "run": at.run,
        "shown": shown,
        "rail": stages.rail(at, now),
        "lines": stages.lines(at, now),
        "counted": counted,
        "log": live.log_tail(control, shown, _LOG_LINES),
        "ended": at.run.state in RUN_ENDED,
        "bad": [r for r in at.results if r.verdict == "failed"],
    }


def _rollouts(router: APIRouter, draw: Pages) -> None:
    control = draw.control

    @router.get("/rollouts/{rollout_id}")
    def rollout(request: Request, rollout_id: int) -> Response:
        view = views.rollout_view(control, rollout_id)
        require(request, "read", view.rollout.model)
        told = rollout_parts(view)
        title = f"{view.rollout.model} v{view.rollout.challenger} rollout"
        return draw.page(request, "rollout.html", title=title, nav="Runs", **told)

    @router.get("/rollouts/{rollout_id}/events")
    def rollout_events(request: Request, rollout_id: int) -> Response:
        with control.database.read() as connection:
            require(request, "read", rollouts.get(connection, rollout_id).model)

        def parts(view: views.RolloutView) -> dict[str, str]:
            told = rollout_parts(view)
            return {
                name: draw.fragment(f"_rollout_{name}.html", **told) for name in live.ROLLOUT_PARTS
            }

        return live.stream(live.rollout(control, rollout_id, parts))


def rollout_parts(view: views.RolloutView) -> dict[str, Any]:
    """Return what a rollout's page and its live parts are drawn from."""
    of = view.rollout
    here = [b for b in view.batches if b["share"] == of.share]
    seen = sum(b["counts"]["challenger"]["requests"] for b in here)
    return {
        "view": view,
        "of": of,
        "look": words.ROLLOUT_LOOKS[of.state],
        "ended": of.state in ROLLOUT_ENDED,
        "headline": _headline(of),
        "seen": seen,
        "total": sum(b["counts"]["challenger"]["requests"] for b in view.batches),
        "following": next((s for s in of.shares if s > of.share), 100),
        "series": charts.series(view.batches, of.settings),
        "happened": _happened(view),
    }


def _happened(view: views.RolloutView) -> list[dict[str, Any]]:
    """Return what changed, newest first; a look that changed nothing is left out."""
    told: list[dict[str, Any]] = []
    before: tuple[str, Any] = ("", None)
    for entry in map(views.entry_json, view.events):
        word = str(entry["action"]).removeprefix("rollout.")
        now = (word, entry["body"].get("share"))
        passing = word in {"rolling_back", "promoting"}
        if not passing and now != before:
            reason = entry["body"].get("reason", "")
            look = words.ROLLOUT_LOOKS.get(word)
            title = word.replace("_", " ") if look is None else look.word
            told.append({**entry, "text": f"{title}: {reason}" if reason else f"{title}."})
            before = now
    return told[::-1]


def _headline(of: Rollout) -> str:
    """Say in one sentence how it stands; the reason below says why."""
    return {
        "queued": "It has not begun yet.",
        "starting": f"v{of.challenger} is being loaded; it gets no request yet.",
        "canary": f"{of.share} % of the requests go to v{of.challenger}. No harm is proven.",
        "paused": f"Held at {of.share} %: a person decides.",
        "promoting": f"v{of.challenger} is becoming the champion.",
        "rolling_back": f"All requests go back to v{of.champion}.",
        "full": f"v{of.challenger} serves all requests.",
        "rolled_back": (
            f"v{of.champion} serves all requests again."
            if of.champion is not None
            else f"v{of.challenger} was taken out."
        ),
    }[of.state.value]


def _others(router: APIRouter, draw: Pages) -> None:
    control = draw.control

    @router.get("/monitoring")
    def monitoring(request: Request) -> Response:
        require(request, "read")
        which = fleet.Filter(state="Degraded,Drifting,Check overdue,Canary,Healthy")
        page = views.fleet_page(control, which, request.query_params.get("after"))
        return draw.page(
            request, "monitoring.html", title="Monitoring", nav="Monitoring", page=page
        )

    @router.get("/audit")
    def audit(request: Request, model: str = "", before: int | None = None) -> Response:
        require(request, "read")
        broken: PenstockError | None = None
        count = 0
        with control.database.read() as connection:
            entries = journal.entries(connection, before=before, model=model or None)
            try:
                count = journal.verify(connection)
            except PenstockError as error:
                broken = error
        told = [views.entry_json(entry) for entry in entries]
        more = entries[-1].seq if len(entries) == fleet.PAGE else None
        return draw.page(
            request,
            "audit.html",
            title="Audit",
            nav="Audit",
            entries=told,
            count=count,
            broken=broken,
            model=model,
            more=more,
        )
