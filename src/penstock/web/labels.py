"""True answers, as they are sent: JSON, CSV or Parquet, read to a file and then row by row."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import IO, Annotated, Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from penstock.errors import UsageError
from penstock.pipeline.labelling import Given, given_of
from penstock.web.access import require
from penstock.web.control import Control
from penstock.web.envelope import answer

MAX_LABELS = 100_000
_IN_MEMORY = 1 << 20
_PARQUET = frozenset({"application/vnd.apache.parquet", "application/parquet"})
_HINT = "Send the columns prediction_id and label, and at where it is known."


class Sent(NamedTuple):
    """A request's body, and what it is."""

    file: IO[bytes]
    media: str


async def sent_of(request: Request) -> AsyncGenerator[Sent]:
    """Read the body to a file, in memory while it is small, for as long as it is answered."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        async for piece in request.stream():
            file.write(piece)
        file.seek(0)
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        yield Sent(cast("IO[bytes]", file), media)


Labels = Annotated[Sent, Depends(sent_of)]


def api(router: APIRouter, control: Control) -> None:
    """Add the routes of the API."""

    @router.post("/api/models/{name}/labels")
    def add(request: Request, name: str, sent: Labels) -> Response:
        require(request, "label", name)
        return answer("labels", control.acts.add_labels(name, _few(rows_of(sent))))

    @router.get("/api/models/{name}/labels")
    def standing(request: Request, name: str) -> Response:
        require(request, "read", name)
        return answer("labels", control.acts.labels(name))


def rows_of(sent: Sent) -> Iterator[Given]:
    """Yield the rows of a body.

    Raises
    ------
    UsageError
        PS829: it is no such body.
    """
    read = _csv if sent.media == "text/csv" else _json
    try:
        yield from (_parquet if sent.media in _PARQUET else read)(sent.file)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        csv.Error,
        pa.ArrowException,
    ) as error:
        what = f"These are no labels ({type(error).__name__}: {str(error)[:120]})."
        raise UsageError("PS829", what, hint=_HINT) from None


def _json(file: IO[bytes]) -> Iterator[Given]:
    document: Any = json.load(file)
    rows: Any = document["labels"]
    if not isinstance(rows, list):
        raise TypeError("labels is no list")
    yield from (given_of(cast("Mapping[str, Any]", row)) for row in cast("list[Any]", rows))


def _csv(file: IO[bytes]) -> Iterator[Given]:
    reader = csv.DictReader(io.TextIOWrapper(file, "utf-8-sig", newline=""))
    _require(reader.fieldnames or ())
    for row in reader:
        yield given_of(row)


def _parquet(file: IO[bytes]) -> Iterator[Given]:
    opened = pq.ParquetFile(file)
    _require(opened.schema_arrow.names)
    names = {"prediction_id", "id", "label", "value", "at"}
    wanted = [name for name in opened.schema_arrow.names if name in names]
    for batch in opened.iter_batches(columns=wanted, batch_size=10_000):
        yield from map(given_of, batch.to_pylist())


def _require(there: Any) -> None:
    names = set(there)
    if not (names & {"prediction_id", "id"} and names & {"label", "value"}):
        raise KeyError(f"the columns are {', '.join(map(str, there)) or 'none'}")


def _few(rows: Iterator[Given]) -> Iterator[Given]:
    for place, row in enumerate(rows):
        if place >= MAX_LABELS:
            raise UsageError(
                "PS829",
                f"There are more than {MAX_LABELS:,} labels in one request; these were kept.",
                hint="Send them in parts; those that came already are counted as the same.",
            )
        yield row
