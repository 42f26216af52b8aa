"""One version: what it is made of, what it read, what was tracked, its checks, its documents."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from penstock.records import documents, runs
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.envelope import answer

_AT = "/models/{name}/versions/{number}"


def api(router: APIRouter, control: Control) -> None:
    """Add the routes of the API."""

    @router.get(f"/api{_AT}")
    def one(request: Request, name: str, number: int) -> Response:
        require(request, "read", name)
        return answer("version", told(control, name, number))


def told(control: Control, name: str, number: int) -> dict[str, Any]:
    """Return a version as the API tells it."""
    with control.database.read() as connection:
        version = runs.version_of(connection, name, number)
        run = runs.get(connection, version.run_id)
        kept = documents.documents(connection, name, number)
        results = runs.results(connection, f"run:{run.id}:{run.attempt}")
    return {
        "model": name,
        "number": number,
        "run": run.id,
        "commit": version.commit,
        "artifact_digest": version.artifact_digest,
        "lock_digest": version.lock_digest,
        "data_digest": version.data_digest,
        "sandbox_level": version.sandbox_level,
        "sealed_at": version.sealed_at,
        "signature": version.signature,
        "documents": kept,
        "results": results,
    }
