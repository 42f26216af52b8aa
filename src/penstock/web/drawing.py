"""Drawing: templates, static files with their hashes, and tables for spreadsheets."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import starlette.staticfiles
from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from penstock.errors import PenstockError
from penstock.records import fleet
from penstock.web import charts, views, words
from penstock.web.access import caller_of
from penstock.web.control import Control

HERE = Path(__file__).parent
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Pages:
    """Draws pages over the records.

    Parameters
    ----------
    control
        Where everything comes from.
    """

    def __init__(self, control: Control) -> None:
        self.control = control
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        cast("dict[str, Any]", self._environment.filters).update(
            duration=words.duration,
            number=words.number,
            quality=words.quality_of,
            sentence=views.sentence,
        )
        cast("dict[str, Any]", self._environment.globals).update(
            static=static_url,
            limit_bar=charts.limit_bar,
            spark=charts.spark,
            plot=charts.plot,
            rates=charts.RATES,
            verdict_look=words.verdict_look,
            run_looks=words.RUN_LOOKS,
            rollout_looks=words.ROLLOUT_LOOKS,
            model_looks=words.MODEL_LOOKS,
            approval_looks=words.APPROVAL_LOOKS,
            marked=words.marked,
        )

    def fragment(self, template: str, **told: Any) -> str:
        """Draw a part of a page."""
        now = self.control.clock()
        self_ago: Callable[[datetime], str] = partial(words.ago, now=now)
        return self._environment.get_template(template).render(
            ago=self_ago, now=now, predict_url=self.control.predict_url, **told
        )

    def page(self, request: Request, template: str, *, status: int = 200, **told: Any) -> Response:
        """Draw a whole page."""
        person = caller_of(request).person
        with self.control.database.read() as connection:
            waiting = fleet.count_asked(connection)
        drawn = self.fragment(template, person=person, waiting=waiting, **told)
        return HTMLResponse(drawn, status)

    def error(self, request: Request, error: PenstockError) -> Response:
        """Draw what went wrong: what, why, what to do."""
        title = {404: "Not found", 403: "Not allowed", 500: "A fault"}.get(error.status, "Stopped")
        drawn = self.fragment(
            "error.html",
            person=caller_of(request).person,
            waiting=0,
            title=title,
            nav="",
            error=error,
        )
        return HTMLResponse(drawn, error.status)


class StaticFiles(starlette.staticfiles.StaticFiles):
    """The files of `static`; one asked for with its content's hash may be kept for ever."""

    def __init__(self) -> None:
        super().__init__(directory=HERE / "static")

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, with how long it may be kept."""
        answer = await super().get_response(path, scope)
        hashed = scope["query_string"].startswith(b"v=")
        answer.headers["Cache-Control"] = (
            "public, max-age=31536000, immutable" if hashed else "no-cache"
        )
        return answer


def static_url(path: str) -> str:
    """Return a static file's address with the hash of its content."""
    if path not in _HASHES:
        _HASHES[path] = hashlib.sha256((HERE / "static" / path).read_bytes()).hexdigest()[:12]
    return f"/static/{path}?v={_HASHES[path]}"


_HASHES: dict[str, str] = {}


def fleet_csv(control: Control) -> Response:
    """Return every model as a table for spreadsheets."""
    text = io.StringIO()
    out = csv.writer(text)
    columns = ("name", "team", "owner", "risk", "state", "reason", "champion", "challenger")
    out.writerow([*columns, "quality", "waits_for"])
    after: str | None = None
    while True:
        page = views.fleet_page(control, fleet.Filter(), after)
        for row in page.rows:
            told = views.fleet_json(row)
            out.writerow([_cell(told[key]) for key in (*columns, "quality", "waits_for")])
        after = page.next
        if after is None:
            break
    headers = {"Content-Disposition": 'attachment; filename="models.csv"'}
    return Response(text.getvalue(), headers=headers, media_type="text/csv")


def _cell(value: object) -> str:
    """Write a cell that no spreadsheet takes for a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
