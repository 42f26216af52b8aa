"""Logs over HTTP: a piece, the last lines, the whole as a file, the lines that hold a text."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from penstock.errors import NotFoundError
from penstock.records import runs
from penstock.web import events, logs
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.envelope import answer


def routes(router: APIRouter, control: Control) -> None:
    """Add the routes."""

    @router.get("/api/runs/{run_id}/log")
    def log(
        request: Request,
        run_id: int,
        step: str | None = None,
        after: int = 0,
        tail: Annotated[int | None, Query(ge=1)] = None,
    ) -> Response:
        at = _standing(control, request, run_id)
        return answer("log", log_piece(control, at, step, max(0, after), tail=tail))

    @router.get("/api/runs/{run_id}/log/whole")
    def whole_log(request: Request, run_id: int, step: str | None = None) -> Response:
        at = _standing(control, request, run_id)
        name = "-".join(["run", str(run_id), *re.findall(r"[a-z]+", step or "")])
        headers = {"Content-Disposition": f'attachment; filename="{name}.log"'}
        kept = logs.whole(logs.of_run(control, at, step))
        return StreamingResponse(kept, headers=headers, media_type="text/plain")

    @router.get("/api/runs/{run_id}/log/search")
    def in_log(request: Request, run_id: int, q: str, step: str | None = None) -> Response:
        at = _standing(control, request, run_id)
        return _found(logs.search(logs.of_run(control, at, step), q))

    @router.get("/api/models/{name}/log/search")
    def in_logs(request: Request, name: str, q: str) -> Response:
        require(request, "read", name)
        with control.database.read() as connection:
            runs.model_of(connection, name)
        return _found(logs.search(logs.of_model(control, name), q))


def _standing(control: Control, request: Request, run_id: int) -> events.Standing:
    with control.database.read() as connection:
        require(request, "read", runs.get(connection, run_id).model)
    return events.standing(control, run_id)


def _found(found: logs.Found) -> Response:
    return answer("found", {**asdict(found), "sentence": found.sentence})


def log_piece(
    control: Control,
    at: events.Standing,
    step: str | None,
    after: int,
    *,
    tail: int | None = None,
) -> dict[str, Any]:
    """Return a piece of a step's log, or of all steps' logs one behind the other.

    `tail`: from so many lines before the end, wherever that is; `after` does not count then.
    """
    steps = at.steps
    if step is not None:
        stage, _, name = step.rpartition("/")
        steps = [s for s in steps if s.name == name and stage in {"", s.stage}]
        if not steps:
            there = ", ".join(f"{s.stage}/{s.name}" for s in at.steps) or "none yet"
            raise NotFoundError(
                "PS836",
                f"Run {at.run.id} has no step {step!r}; it has {there}.",
                hint="Leave the step out to see all.",
            )
    files = [control.home / s.log for s in steps if s.log is not None]
    if tail is not None:
        after = logs.tail_start(files, tail)
    text, next_, more = _piece(files, after)
    ended = at.exit_code is not None and at.running is None
    return {"text": text, "next": next_, "more": more, "ended": ended}


def _piece(logs: list[Path], after: int) -> tuple[str, int, bool]:
    """Read from the logs as if they were one file; each only grows while it is the last."""
    begins = 0
    for number, path in enumerate(logs):
        size = path.stat().st_size if path.exists() else 0
        if after < begins + size:
            content = events.read_log(path, after - begins)
            if after - begins + len(content) < size:
                # In the midst of the file: up to a whole line, if there is one.
                content = content[: content.rfind(b"\n") + 1] or content
            lines = events.plain_lines(content)
            end = after + len(content)
            more = end < begins + size or number < len(logs) - 1
            return "".join(f"{line}\n" for line in lines), end, more
        begins += size
    return "", after, False
