"""A report of a version: read from the files of its run, and drawn into a file of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from fastapi import APIRouter, Request
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from penstock.errors import NotFoundError
from penstock.records import runs
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.drawing import HERE, Pages


def report_of(
    control: Control, at: tuple[str, int], kind: str, schema: str, missing: NotFoundError
) -> dict[str, Any]:
    """Return a report of a version.

    Parameters
    ----------
    at
        Model and version number.
    kind
        The file's name, ``explain`` or ``fairness``.
    schema
        The one that this release draws.
    missing
        Raised where there is none, or one of another release.
    """
    with control.database.read() as connection:
        version = runs.version_of(connection, *at)
    path = control.home / "runs" / str(version.run_id) / "reports" / f"{kind}.json"
    try:
        report: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report = None
    if not isinstance(report, dict) or cast("dict[str, Any]", report).get("schema") != schema:
        raise missing
    return cast("dict[str, Any]", report)


def routes(
    draw: Pages,
    kind: str,
    title: str,
    parts: Callable[[Control, str, int], Mapping[str, Any]],
) -> APIRouter:
    """Return the routes of a report: its page, and the same as one file to keep.

    Parameters
    ----------
    kind
        The last part of the address; `<kind>.html` and `<kind>_file.html` draw it.
    title
        Of the page, with ``{name}`` and ``{number}``.
    parts
        What both are drawn from.
    """
    router = APIRouter()
    at = f"/models/{{name}}/versions/{{number}}/{kind}"

    @router.get(at)
    def page(request: Request, name: str, number: int) -> Response:
        require(request, "read", name)
        told = parts(draw.control, name, number)
        titled = title.format(name=name, number=number)
        return draw.page(request, f"{kind}.html", title=titled, nav="Models", **told)

    @router.get(f"{at}.html")
    def file(request: Request, name: str, number: int) -> Response:
        require(request, "read", name)
        return as_file(draw, (name, number), kind, **parts(draw.control, name, number))

    return router


def as_file(draw: Pages, at: tuple[str, int], kind: str, **parts: Any) -> Response:
    """Return ``<kind>_file.html`` as a file to keep: it needs no server and no other file."""
    sheets = [(HERE / "static" / one).read_text("utf-8") for one in ("tokens.css", "app.css")]
    style = Markup("\n".join(sheets))  # noqa: S704  our own sheets, which hold quotes
    drawn = draw.fragment(f"{kind}_file.html", style=style, **parts)
    # It carries its own style, which our policy for pages forbids; so it is never shown as one.
    named = f'attachment; filename="{at[0]}-{at[1]}-{kind}.html"'
    return HTMLResponse(drawn, headers={"Content-Disposition": named})
