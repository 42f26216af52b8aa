"""Trying a version: a form of its columns or a request as JSON, and the answer in words."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, Response

from penstock.domain import JSON, Environment
from penstock.inference.gateway.examples import example_request
from penstock.pipeline import carding
from penstock.records import runs
from penstock.web import curves
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.drawing import Pages
from penstock.web.fields import Field, blamed, fields_of, filled, request_of
from penstock.web.serving import serving_of
from penstock.web.words import number

MOST_BODY = 2**20
_ASK_S = 30.0
_TARGET = re.compile(r"(production|test)@(\d{1,9})")
_AT = "/models/{name}/try"


@dataclass(frozen=True, slots=True)
class Target:
    """The version that is asked, and where."""

    environment: Environment
    number: int
    signature: JSON
    fields: list[Field] | None
    """A typical row; None where a form would be too long."""
    label: str
    """What it predicts, by the name of the label's column."""

    @property
    def name(self) -> str:
        """As an address names it, ``production@12``."""
        return f"{self.environment}@{self.number}"


def routes(draw: Pages) -> APIRouter:
    """Return the pages' routes."""
    router = APIRouter(default_response_class=HTMLResponse)
    control = draw.control

    @router.get(_AT)
    def form(request: Request, name: str, version: str = "", body: str = "") -> Response:
        require(request, "read", name)
        served = serving_of(control, name)
        target = _target(control, name, served, version)
        shown = _shown(target, as_json=body == "json")
        return _page(draw, request, name, {"served": served, "target": target, **shown})

    @router.post(_AT)
    async def ask(request: Request, name: str) -> Response:
        require(request, "read", name)
        given = {key: str(value) for key, value in (await request.form()).items()}
        drawn = await run_in_threadpool(_answered, control, name, given)
        return _page(draw, request, name, drawn)

    return router


def _page(draw: Pages, request: Request, name: str, told: Mapping[str, Any]) -> Response:
    more: dict[str, Any] = {"said": None, "percent": percent, "name": name, **told}
    return draw.page(request, "try.html", title=f"Try {name}", nav="Models", **more)


def _target(control: Control, name: str, served: JSON, asked: str) -> Target | None:
    """Return the version that is asked for; by default the one that serves, if any."""
    found = _TARGET.fullmatch(asked)
    if found is None:
        first = next((f"{v['environment']}@{v['number']}" for v in served["versions"]), "")
        found = _TARGET.fullmatch(first)
    if found is None:
        return None
    return target_of(control, name, Environment(found[1]), int(found[2]))


def target_of(control: Control, name: str, environment: Environment, number: int) -> Target:
    """Return a version as it is tried, with a field for each of its columns."""
    with control.database.read() as connection:
        version = runs.version_of(connection, name, number)
    signature: JSON = version.signature or {"columns": []}
    profile = carding.report(control.home, version, "profile")
    evaluate: JSON = version.config.get("evaluate") or {}
    serving: JSON = version.config.get("serving") or {}
    return Target(
        environment,
        version.number,
        signature,
        fields_of(signature, profile, serving.get("log_without") or ())
        if signature["columns"]
        else None,
        str(evaluate.get("label") or ""),
    )


def _shown(target: Target | None, *, as_json: bool) -> dict[str, Any]:
    """Return what the form starts with."""
    fields = None if target is None or as_json else target.fields
    example = None if target is None else example_request(target.signature)
    return {"fields": fields, "body": laid_out(example)}


def _answered(control: Control, name: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Ask what a form says, and return what the page then shows."""
    served = serving_of(control, name)
    target = _target(control, name, served, given.get("version", ""))
    if target is None:
        return {"served": served, "target": None, **_shown(None, as_json=True)}
    fields = None if "body" in given or target.fields is None else filled(target.fields, given)
    body = given.get("body", "") if fields is None else laid_out(request_of(fields))
    said = ask_version(control, name, target, body, why="why" in given)
    if fields is not None:
        fields = blamed(fields, str(said["error"] or ""))
    return {"served": served, "target": target, "fields": fields, "body": body, "said": said}


def laid_out(asked: Mapping[str, Any] | None) -> str:
    """Return a request as text, a column a line, to be read and changed by people."""
    inputs: list[Any] = [] if asked is None else asked["inputs"]
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in inputs)
    return f'{{"inputs": [\n{lines}\n]}}'


def ask_version(
    control: Control, name: str, of: Target, body: str, *, why: bool
) -> dict[str, Any]:
    """Ask the gateway about a body; what it says is shown, whatever it is."""
    prefix = "/test" if of.environment is Environment.TEST else ""
    path = f"{prefix}/v2/models/{name}/versions/{of.number}/{'explain' if why else 'infer'}"
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
    explained: list[Any] = (told.get("rows") or []) if why and status == 200 else []
    answered = None if why else answers(told)
    return {
        "status": status,
        "text": json.dumps(document, indent=1, ensure_ascii=False)[:20_000],
        "error": told.get("error"),
        "hint": told.get("hint"),
        "id": "" if why else str(told.get("id") or ""),
        "answers": answered,
        "words": in_words(of.label, answered) if answered else [],
        "rows": [{**one, "picture": waterfall(one)} for one in explained],
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


def in_words(label: str, told: Mapping[str, Any]) -> list[str]:
    r"""Say the answer to one row in two sentences at most; nothing of several rows.

    Parameters
    ----------
    label
        What is predicted; empty where the version does not say.

    Examples
    --------
    >>> row = {"prediction": 1, "probabilities": [0.379, 0.621]}
    >>> in_words("default", {"classes": ["0", "1"], "rows": [row]})
    ['default is 1.', 'The probability of that is 62.1\xa0%.']
    >>> in_words("", {"classes": [], "rows": [{"prediction": 12.5, "probabilities": []}]})
    ['The answer is 12.5.']
    """
    if len(told["rows"]) != 1:
        return []
    [row] = told["rows"]
    prediction, of = row["prediction"], label or "The answer"
    words = [f"{of} is {number(prediction)}."]
    chances = dict(zip(told["classes"], row["probabilities"], strict=False))
    chance = chances.get(str(prediction))
    if chance is None:
        return words
    best = max(chances, key=lambda name: chances[name])
    if chances[best] <= chance:
        return [*words, f"The probability of that is {percent(chance)}."]
    less = f"The probability of that is {percent(chance)}, less than the {percent(chances[best])}"
    return [*words, f"{less} of {best}: the model decides by a threshold of its own."]


def percent(share: float) -> str:
    r"""Write a probability as people read it; never as certain unless it is.

    Examples
    --------
    >>> [percent(share) for share in (0.621, 0.99999, 1.0, 0.00002)]
    ['62.1\xa0%', 'over 99.9\xa0%', '100\xa0%', 'under 0.1\xa0%']
    """
    if share in (0, 1):
        return f"{share * 100:.0f}\N{NO-BREAK SPACE}%"
    text = f"{share * 100:.1f}\N{NO-BREAK SPACE}%"
    if text.startswith("100"):
        return "over 99.9\N{NO-BREAK SPACE}%"
    return "under 0.1\N{NO-BREAK SPACE}%" if text.startswith("0.0") else text


def waterfall(row: Mapping[str, Any]) -> curves.Waterfall:
    """Place a local explanation's effects one behind the other, the great ones first."""
    effects = sorted(row["contributions"], key=lambda one: -abs(one["effect"]))
    return curves.waterfall({**row, "effects": effects})


def curl(address: str, body: str) -> str:
    """Return the command that sends a body as the page did."""
    # What is no JSON is sent as it stands: its refusal is what one wants to see.
    with contextlib.suppress(ValueError):
        body = json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False)
    kind = "'Content-Type: application/json'"
    return f"curl {address} -H {kind} --data-raw {shlex.quote(body)}"
