"""Answered rows: the last ones of a model, one by its id, and all of a span of time as a file."""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from penstock.domain import Environment
from penstock.errors import NotFoundError, UsageError
from penstock.inference.prediction_log.records import Entry
from penstock.inference.prediction_log.table import Of
from penstock.monitor.tables import FEATURE_PREFIX, Wanted
from penstock.pipeline.prediction_logs import PredictionLogs
from penstock.records import runs, watch
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.drawing import Pages
from penstock.web.envelope import answer, plain

MOST_SHOWN = 10_000
MOST_IN_FILE = 1_000_000
PAGE = 100
ARMS = ("champion", "challenger", "shadow", "explicit", "previous", "warm")
_OF_AN_ID = timedelta(days=400)
_FILES = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}


def api(router: APIRouter, control: Control) -> None:
    """Add the route of rows as JSON, CSV or Parquet."""

    @router.get("/api/models/{name}/predictions")
    def listed(  # noqa: PLR0913 -- each is a parameter of the address
        request: Request,
        name: str,
        *,
        since: str = "",
        until: str = "",
        version: Annotated[int | None, Query(ge=1)] = None,
        arm: str = "",
        id: str = "",  # noqa: A002
        errors: bool = False,
        environment: Environment = Environment.PRODUCTION,
        limit: Annotated[int, Query(ge=1, le=MOST_IN_FILE)] = PAGE,
        format: str = "json",  # noqa: A002
    ) -> Response:
        require(request, "read", name)
        if format == "json" and limit > MOST_SHOWN:
            raise UsageError(
                "PS684",
                f"{limit:,} rows are too many for one answer; at most {MOST_SHOWN:,} are given.",
                hint="Ask for format=csv or format=parquet, or for a shorter time.",
            )
        start, end = span(since, until, control.clock(), of_an_id=bool(id))
        wanted = Wanted(start, end, version, arm or None, id or None, errors, limit)
        found = rows(control, Of(environment, name), wanted)
        if format in _FILES:
            content = _csv(found) if format == "csv" else _parquet(found)
            headers = {"Content-Disposition": f'attachment; filename="{name}.{format}"'}
            return Response(content, headers=headers, media_type=_FILES[format])
        if format != "json":
            raise UsageError(
                "PS684",
                f"{format[:20]!r} is no form of rows.",
                hint="Ask for json, csv or parquet.",
            )
        told = with_labels(control, name, found)
        return answer("predictions", {"predictions": told, "since": start, "until": end})


def routes(draw: Pages) -> APIRouter:
    """Return the pages' routes."""
    router = APIRouter()
    control = draw.control

    @router.get("/models/{name}/predictions")
    def page(  # noqa: PLR0913 -- each is a field of the form
        request: Request,
        name: str,
        *,
        version: str = "",
        arm: str = "",
        errors: str = "",
        since: str = "",
        id: str = "",  # noqa: A002
    ) -> Response:
        require(request, "read", name)
        now = control.clock()
        start, end = span(since, "", now, of_an_id=bool(id))
        number = int(version) if version.isdigit() else None
        wanted = Wanted(start, end, number, arm or None, id or None, bool(errors), PAGE)
        found = with_labels(control, name, rows(control, Of(Environment.PRODUCTION, name), wanted))
        with control.database.read() as connection:
            numbers = [one.number for one in runs.versions(connection, name)]
        if id and not found:
            raise NotFoundError(
                "PS685",
                f"{name} has no prediction {id[:100]!r} in its log.",
                hint="Look at the id; the oldest rows are dropped when the log is full.",
            )
        return draw.page(
            request,
            "predictions.html",
            title=f"Predictions of {name}",
            nav="Models",
            name=name,
            rows=found,
            asked={"version": version, "arm": arm, "errors": errors, "since": since, "id": id},
            numbers=numbers,
            arms=ARMS,
            start=start,
        )

    return router


def span(since: str, until: str, now: datetime, *, of_an_id: bool) -> tuple[datetime, datetime]:
    """Return the time that is asked for: by default the last day, for an id all that there is.

    Examples
    --------
    >>> at = datetime(2026, 11, 30, tzinfo=UTC)
    >>> span("2026-11-29", "", at, of_an_id=False)[0].isoformat()
    '2026-11-29T00:00:00+00:00'
    """
    default = now - (_OF_AN_ID if of_an_id else timedelta(days=1))
    return _moment(since, default), _moment(until, now + timedelta(minutes=1))


def _moment(text: str, default: datetime) -> datetime:
    if not text:
        return default
    try:
        # A plus of the zone arrives as a space where it was not escaped.
        moment = datetime.fromisoformat(text.replace(" +", "+").strip())
    except ValueError:
        raise UsageError(
            "PS683",
            f"{text[:40]!r} is no moment.",
            hint="Write 2026-11-30 or 2026-11-30T08:00, in UTC unless it says otherwise.",
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def rows(control: Control, of: Of, wanted: Wanted) -> pa.Table:
    """Return rows of a model's log, newest first; those too that were answered just now."""
    with control.database.read() as connection:
        runs.model_of(connection, of.model)
    logs = PredictionLogs(control.home, control.database, control.settings.serving.log_url)
    with logs.table(of, wanted.since, wanted.until, _fitting(wanted)) as table:
        return table.rows(wanted)


def _fitting(wanted: Wanted) -> Callable[[Iterable[Entry]], Iterable[Entry]]:
    """Return what leaves out, of entries not yet in Parquet, those that nobody asked for."""
    since_us, until_us = (int(at.timestamp() * 1e6) for at in (wanted.since, wanted.until))

    def fits(entry: Entry) -> bool:
        return (
            since_us <= entry.arrived_us < until_us
            and wanted.number in (None, entry.number)
            and wanted.role in (None, entry.role)
            and (wanted.id is None or wanted.id.startswith(entry.id))
            and (not wanted.errors or entry.status >= 400)
        )

    def only(entries: Iterable[Entry]) -> Iterable[Entry]:
        return deque((entry for entry in entries if fits(entry)), maxlen=wanted.limit)

    return only


def with_labels(control: Control, name: str, found: pa.Table) -> list[dict[str, Any]]:
    """Return rows as plain values: facts, `inputs` by name, and `label` where it has come."""
    told: list[dict[str, Any]] = []
    for row in found.to_pylist():
        facts = {key: v for key, v in row.items() if not key.startswith(FEATURE_PREFIX)}
        inputs = {
            key.removeprefix(FEATURE_PREFIX): value
            for key, value in row.items()
            if key.startswith(FEATURE_PREFIX) and value is not None
        }
        told.append({**facts, "inputs": inputs})
    ids = [str(one["prediction_id"]) for one in told]
    with control.database.read() as connection:
        labels = watch.of_predictions(connection, name, ids)
    return [{**one, "label": labels.get(str(one["prediction_id"]))} for one in told]


def _csv(found: pa.Table) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(found.column_names)
    for batch in found.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            writer.writerow([_cell(value) for value in row.values()])
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(plain(value))
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bool):
        return str(value).lower()
    text = value if isinstance(value, str) else None
    # A sheet must not take a caller's text for a formula.
    return f"'{text}" if text and text[0] in "=+-@\t\r" and not _is_number(text) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parquet(found: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(found, out, compression="zstd")
    return out.getvalue()
