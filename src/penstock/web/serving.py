"""How a model is served now, and a place to ask it: what the gateway says, beside the records."""

from __future__ import annotations

import contextlib
import http.client
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, Response

from penstock.domain import Environment, Role
from penstock.errors import UnreachableError
from penstock.inference.endpoint import Endpoint
from penstock.inference.gateway.examples import example_request
from penstock.records import rollouts, runs
from penstock.web import traffic
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.drawing import Pages
from penstock.web.envelope import answer

_UNTOLD: Mapping[str, Any] = {
    "share_now": None,
    "rss_bytes": None,
    "restarts": 0,
    "log_drops": 0,
    "shared_with": None,
    "reason": "",
    "figures": {
        "requests": 0,
        "errors": 0,
        "p50_ms": None,
        "p95_ms": None,
        "rates": (),
        "latencies": (),
    },
}
"""What is drawn of a version of which the gateway says nothing."""
_LOOK_S = 2.0
_ASK_S = 30.0
_ORDER = {role.value: place for place, role in enumerate(Role)}
MOST_BODY = 2**20


def api(router: APIRouter, control: Control) -> None:
    """Add the API's route."""

    @router.get("/api/models/{name}/serving")
    def serving(request: Request, name: str) -> Response:
        require(request, "read", name)
        return answer("serving", serving_of(control, name))


def routes(draw: Pages) -> APIRouter:
    """Return the pages' routes."""
    router = APIRouter(default_response_class=HTMLResponse)
    control = draw.control

    @router.get("/models/{name}/serving")
    def part(request: Request, name: str) -> Response:
        require(request, "read", name)
        told = drawn(serving_of(control, name))
        return HTMLResponse(draw.fragment("_serving.html", served=told))

    @router.get("/models/{name}/try")
    def form(request: Request, name: str) -> Response:
        require(request, "read", name)
        told = serving_of(control, name)
        return _page(draw, request, (name, told), laid_out(told["example"]))

    @router.post("/models/{name}/try")
    async def ask(request: Request, name: str) -> Response:
        require(request, "read", name)
        given = await request.form()
        told = await run_in_threadpool(serving_of, control, name)
        body, target = str(given.get("body", "")), str(given.get("version", ""))
        why = given.get("why") is not None
        said = await run_in_threadpool(_asked, control, (name, target), body, why=why)
        return _page(draw, request, (name, told), body, said=said, target=target)

    return router


def serving_of(control: Control, name: str) -> dict[str, Any]:
    """Say how a model is served.

    Returns
    -------
    dict
        ``reachable`` and ``why`` not; ``versions``: one for each that runs or should, with what
        the gateway says of it, ``state`` ``unknown`` where it says nothing; ``example``, a
        request of the champion's columns or None.
    """
    with control.database.read() as connection:
        runs.model_of(connection, name)
        deployments = rollouts.deployments(connection, model_name=name)
    endpoint = Endpoint(control.predict_url, name, None, Environment.PRODUCTION, timeout_s=_LOOK_S)
    why, workers = "", list[dict[str, Any]]()
    try:
        workers = [one for one in endpoint.workers() if one["model"] == name]
    except UnreachableError as error:
        why = error.what
    finally:
        endpoint.close()
    known = {_place(one["environment"], one["number"], one["role"]): one for one in workers}
    versions: list[dict[str, Any]] = []
    for of in deployments:
        key = _place(of.environment.value, of.number, of.role)
        planned = {"environment": key[0], "number": of.number, "role": of.role.value}
        found = known.get(key, {"state": "unknown", "reason": ""})
        versions.append({**planned, "share": of.share, **found})
    versions.sort(key=lambda one: (one["environment"], _ORDER.get(one["role"], 9), one["number"]))
    signed = next((of.signature for of in deployments if of.signature), None)
    return {
        "model": name,
        "reachable": not why,
        "why": why,
        "versions": versions,
        "example": None if signed is None else example_request(signed),
    }


def _place(environment: str, number: int, role: str) -> tuple[str, int, bool]:
    """Name where a version runs; its role may have changed since, but for a control arm's."""
    return environment, number, role == Role.CONTROL


def drawn(told: Mapping[str, Any]) -> dict[str, Any]:
    """Add what is drawn: every field of each version, and the plots of the last minutes."""
    known = cast("Sequence[Mapping[str, Any]]", told["versions"])
    versions = [{**_UNTOLD, **one} for one in known]
    return {**told, "versions": versions, "traffic": traffic.traffic(versions)}


def laid_out(asked: Mapping[str, Any] | None) -> str:
    """Return a request as text, a column a line, to be read and changed by people."""
    inputs: list[Any] = [] if asked is None else asked["inputs"]
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in inputs)
    return f'{{"inputs": [\n{lines}\n]}}'


def _page(
    draw: Pages,
    request: Request,
    of: tuple[str, Mapping[str, Any]],
    body: str,
    *,
    said: Mapping[str, Any] | None = None,
    target: str = "",
) -> Response:
    name, told = of
    return draw.page(
        request,
        "try.html",
        title=f"Try {name}",
        nav="Models",
        name=name,
        served=told,
        body=body,
        said=said,
        target=target,
    )


def _asked(control: Control, of: tuple[str, str], body: str, *, why: bool) -> dict[str, Any]:
    """Ask the gateway about a body; what it says is shown, whatever it is."""
    name, target = of
    environment, _, number = target.partition("@")
    prefix = "/test" if environment == Environment.TEST.value else ""
    version = f"/versions/{number}" if number.isdigit() else ""
    verb = "explain" if why else "infer"
    path = f"{prefix}/v2/models/{name}{version}/{verb}"
    place = urlsplit(control.predict_url)
    assert place.hostname is not None, control.predict_url
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=_ASK_S)
    try:
        payload = body.encode()[: MOST_BODY + 1]
        connection.request("POST", path, payload, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read(MOST_BODY).decode("utf-8", "replace")
        status = response.status
    except (OSError, http.client.HTTPException) as error:
        text, status = json.dumps({"error": f"The gateway does not answer: {error}."}), 503
    finally:
        connection.close()
    try:
        document: Any = json.loads(text)
    except ValueError:
        document = {"error": text[:500]}
    told = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    rows: list[Any] = told.get("rows") or []
    return {
        "status": status,
        "test": bool(prefix),
        "path": path,
        "text": json.dumps(document, indent=1, ensure_ascii=False)[:20_000],
        "rows": rows if why and status == 200 else [],
        "error": told.get("error"),
        "hint": told.get("hint"),
        "answers": None if why else answers(told),
        "curl": curl(control.predict_url + path, body),
    }


def answers(told: Mapping[str, Any]) -> dict[str, Any] | None:
    """Lay an answer out: a line a row, the prediction first, then each class's probability.

    Returns
    -------
    dict or None
        ``classes`` (names, empty without probabilities) and ``rows``, each with ``prediction``
        and ``probabilities``; None where the answer has no prediction of one value a row.
    """
    outputs: dict[str, Any] = {one["name"]: one for one in told.get("outputs") or ()}
    said = outputs.get("prediction")
    if said is None or len(said["shape"]) != 1:
        return None
    likely = outputs.get("probability")
    if likely is None or len(likely["shape"]) != 2:
        plain: list[dict[str, Any]] = [
            {"prediction": value, "probabilities": []} for value in said["data"]
        ]
        return {"classes": [], "rows": plain}
    width, flat = likely["shape"][1], likely["data"]
    rows = [
        {"prediction": value, "probabilities": flat[at * width : (at + 1) * width]}
        for at, value in enumerate(said["data"])
    ]
    parameters: Mapping[str, Any] = told.get("parameters") or {}
    named = cast("Sequence[Any]", parameters.get("classes") or range(width))
    return {"classes": [str(name) for name in named], "rows": rows}


def curl(address: str, body: str) -> str:
    """Return the command that sends a body as the page did."""
    # What is no JSON is sent as it stands: its refusal is what one wants to see.
    with contextlib.suppress(ValueError):
        body = json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False)
    kind = "'Content-Type: application/json'"
    return f"curl {address} -H {kind} --data-raw {shlex.quote(body)}"
