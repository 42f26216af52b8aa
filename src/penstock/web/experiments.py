"""What the build of a version tracked: its runs, the models that it logged, its own figures."""

from __future__ import annotations

import json
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from penstock.errors import NotFoundError
from penstock.records import runs
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.envelope import answer


def routes(router: APIRouter, control: Control) -> None:
    """Add the routes."""

    @router.get("/api/models/{name}/experiments")
    def experiments(request: Request, name: str, number: int | None = None) -> Response:
        require(request, "read", name)
        return answer("experiments", tracked(control, name, number))


def tracked(control: Control, name: str, number: int | None) -> dict[str, Any]:
    """Return what a version's build tracked; without a number, the newest build that has ended.

    Raises
    ------
    NotFoundError
        PS105, PS109: no such model or version. PS125: its training has not ended yet.
    """
    with control.database.read() as connection:
        runs.model_of(connection, name)
        versions = runs.versions(connection, name)
        if number is not None or not versions:
            versions = [runs.version_of(connection, name, number or 1)]
        for version in versions:
            report = control.home / "runs" / str(version.run_id) / "reports" / "tracking.json"
            if report.is_file():
                told = cast("dict[str, Any]", json.loads(report.read_text("utf-8")))
                of = {"model": name, "number": version.number, "run": version.run_id}
                return {**of, **told}
    raise NotFoundError(
        "PS125",
        f"{name}@{versions[0].number} has no record of experiments: its training has not ended.",
        hint=f"penstock status {name}",
    )
