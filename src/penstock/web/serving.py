"""How a model is served now: what the gateway says, beside the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi import APIRouter, Request
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
_ORDER = {role.value: place for place, role in enumerate(Role)}


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

    return router


def serving_of(control: Control, name: str) -> dict[str, Any]:
    """Say how a model is served.

    Returns
    -------
    dict
        ``reachable`` and ``why`` not; ``versions``: one for each that runs or should, with what
        the gateway says of it, ``state`` ``unknown`` where it says nothing; ``share`` is planned,
        ``share_now`` is what it gets, known while the gateway answers; ``example``, a request of
        the champion's columns or None.
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
        if not why:  # of a version that the gateway has not taken up yet it says nothing
            found = {"share_now": 0, **found}
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
