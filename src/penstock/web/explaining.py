"""What a version looks at: a page, the same as one file to keep, and the report itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from penstock.errors import NotFoundError
from penstock.web import curves, reports, words
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.drawing import Pages
from penstock.web.envelope import answer

SCHEMA = "penstock.explain/1"
_AT = "/models/{name}/versions/{number}/explain"
CHANGES: Mapping[str, str] = {
    "started": "Matters now",
    "stopped": "No longer matters",
    "turned": "Effect turned",
    "more": "Matters more",
    "less": "Matters less",
    "same": "As before",
    "new": "New column",
    "gone": "Column gone",
}
DIRECTIONS: Mapping[str | None, str] = {
    "up": "higher raises it",
    "down": "higher lowers it",
    "mixed": "up and down",
    None: "",
}


def api(router: APIRouter, control: Control) -> None:
    """Add the report's route."""

    @router.get(f"/api{_AT}")
    def told(request: Request, name: str, number: int) -> Response:
        require(request, "read", name)
        return answer("explain", report_of(control, name, number))


def routes(draw: Pages) -> APIRouter:
    """Return the pages' routes; the page and the file draw the same template."""
    return reports.routes(draw, "explain", "What {name} v{number} looks at", _parts)


def report_of(control: Control, name: str, number: int) -> dict[str, Any]:
    """Return a version's explanation.

    Raises
    ------
    NotFoundError
        PS355: it has none, or one of another release.
    """
    missing = NotFoundError(
        "PS355",
        f"{name}@{number} has no explanation.",
        hint="It is made by step explain, when [evaluate] is set: penstock status.",
    )
    return reports.report_of(control, (name, number), "explain", SCHEMA, missing)


def _parts(control: Control, name: str, number: int) -> dict[str, Any]:
    report = report_of(control, name, number)
    change = cast("dict[str, Any]", report["change"] or {})
    compared = bool(change) and not change["why"]
    before = _by_column(change.get("curves"))
    sizes = [one["shap"]["high"] for one in report["columns"] if one["shap"]]
    was = _by_column(change.get("columns")) if compared else {}
    sizes += [one["before"] or 0.0 for one in was.values()]
    worths = [one["high"] or one["mean"] for one in (*report["columns"], *report["groups"])]
    return {
        "name": name,
        "number": number,
        "report": report,
        "change": change,
        "compared": compared,
        "was": was,
        "most_size": max(sizes, default=0.0),
        "most_worth": max(worths, default=0.0),
        "drawn": [_drawn(one, before.get(one["column"])) for one in report["curves"]],
        "waterfall": curves.waterfall,
        "span": curves.span,
        "width": curves.WIDTH,
        "height": curves.HEIGHT,
        "changes": CHANGES,
        "directions": DIRECTIONS,
        "unit": _unit(report),
        "metric": words.quality_of({"metric": report.get("metric"), "value": None}),
    }


def _by_column(found: Sequence[dict[str, Any]] | None) -> dict[str, dict[str, Any]]:
    return {str(one["column"]): one for one in found or ()}


def _drawn(one: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    place = curves.curve if one["kind"] == "number" else curves.categories
    return {"of": one, "before": before, "at": place(one, before)}


def _unit(report: Mapping[str, Any]) -> str:
    """Say what the effects are measured in."""
    target = cast("Mapping[str, Any]", report.get("target") or {"unit": "number"})
    if target["unit"] == "number":
        return "of the answer"
    if len(target["classes"]) == 1:
        return f"of the probability of {target['classes'][0]}"
    return "of the probability that moves between classes"
