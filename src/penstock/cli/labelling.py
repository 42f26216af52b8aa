"""True answers, from a CSV or Parquet file to the server."""

from __future__ import annotations

import csv
import json as json_
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from penstock.cli.session import Session, session
from penstock.errors import UsageError

ROWS_A_REQUEST = 5_000
COUNTS = ("kept", "new", "same", "corrected", "older", "bad", "matched", "unmatched")
_SHOWN = 5


def label(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A model.")],
    file: Annotated[Path, typer.Argument(help="A CSV or Parquet file with the right answers.")],
    *,
    id_: Annotated[str, typer.Option("--id", help="Column with prediction ids.")] = "id",
    of: Annotated[str, typer.Option("--label", help="Column with the right answer.")] = "value",
    at: Annotated[str | None, typer.Option("--at", help="Column with its time.")] = None,
) -> None:
    """Join late answers to logged predictions."""
    here = session(ctx)
    client, model = here.client(), name.partition("@")[0]
    counts: Counter[str] = Counter()
    examples: dict[str, list[Any]] = {"bad": [], "corrected": [], "unmatched": []}
    columns = {"prediction_id": id_, "label": of} | ({"at": at} if at else {})
    rows, whole = _rows(file, columns)
    sent = 0
    while some := list(islice(rows, ROWS_A_REQUEST)):
        answer = cast("Mapping[str, Any]", client.label(model, some))
        counts.update({key: int(answer.get(key) or 0) for key in COUNTS})
        told: Mapping[str, Any] = answer.get("examples") or {}
        for key, shown in examples.items():
            found = [_moved(one, sent) for one in told.get(key) or ()]
            shown.extend(found[: _SHOWN - len(shown)])
        sent += len(some)
        _progress(here, sent, whole)
    _progress(here, sent, whole, over=True)
    _tell(here, counts, examples)
    here.data("label", {**{key: counts[key] for key in COUNTS}, "examples": examples})
    here.following(f"penstock monitor {model} --run day")


def _moved(one: Any, sent: int) -> object:
    """Count a bad row from the beginning of the file."""
    if not isinstance(one, dict) or "row" not in one:
        return cast("object", one)
    row = cast("dict[str, Any]", one)
    return {**row, "row": int(row["row"]) + sent}


def _tell(here: Session, counts: Counter[str], examples: Mapping[str, list[Any]]) -> None:
    words = (("new", "new"), ("same", "the same already"), ("corrected", "corrected"))
    parts = [
        f"{counts[key]:,} {word}" for key, word in (*words, ("older", "older")) if counts[key]
    ]
    here.write(
        f"{counts['kept']:,} labels are kept" + (f": {', '.join(parts)}" if parts else ""),
        mark="passed",
    )
    if counts["matched"]:
        here.write(f"{counts['matched']:,} belong to a logged prediction", mark="passed")
    if counts["unmatched"]:
        some = ", ".join(map(str, examples["unmatched"]))
        here.write(f"{counts['unmatched']:,} belong to none yet: {some}", mark="undecided")
    if counts["bad"]:
        here.write(f"{counts['bad']:,} rows are no labels", mark="warning")
        for one in examples["bad"]:
            here.write(f"    row {one['row']}: {one['why']}")


def _progress(here: Session, sent: int, whole: int, *, over: bool = False) -> None:
    """Draw a bar on a terminal, while there is more than one request."""
    if here.quiet or here.json or not here.err.isatty() or whole <= ROWS_A_REQUEST:
        return
    share = min(1.0, sent / max(whole, 1))
    bar = "#" * round(share * 30)
    here.err.write("\r" + " " * 60 + "\r" if over else f"\r{bar:<30} {sent:,} of {whole:,}")
    here.err.flush()


def _rows(file: Path, columns: Mapping[str, str]) -> tuple[Iterator[dict[str, Any]], int]:
    """Return the rows of a file as the server wants them, and how many there are."""
    try:
        with file.open("rb") as opened:
            if opened.read(4) == b"PAR1":
                return _parquet(file, columns)
            opened.seek(0)
            lines = sum(piece.count(b"\n") for piece in iter(lambda: opened.read(1 << 20), b""))
    except OSError as error:
        raise _unreadable(file, str(error.strerror)) from error
    return _csv(file, columns), lines


def _csv(file: Path, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            _require(file, columns, list(reader.fieldnames or ()))
            for row in reader:
                told: dict[str, Any] = {key: row[name] for key, name in columns.items()}
                yield {**told, "label": _value(told["label"])}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(file, str(error)) from error


def _parquet(file: Path, columns: Mapping[str, str]) -> tuple[Iterator[dict[str, Any]], int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(file)
    except pa.ArrowException as error:
        raise _unreadable(file, str(error)) from error
    _require(file, columns, list(opened.schema_arrow.names))

    def rows() -> Iterator[dict[str, Any]]:
        for batch in opened.iter_batches(columns=list(columns.values()), batch_size=10_000):
            for row in batch.to_pylist():
                told: dict[str, Any] = {key: row[name] for key, name in columns.items()}
                if told.get("at") is not None:
                    told["at"] = told["at"].isoformat()
                yield told

    return rows(), opened.metadata.num_rows


def _require(file: Path, columns: Mapping[str, str], there: list[str]) -> None:
    missing = [name for name in columns.values() if name not in there]
    if missing:
        raise UsageError(
            "PS055",
            f"{file} has no column {missing[0]!r}; it has {', '.join(there) or 'none'}.",
            hint="Name the columns: --id COLUMN --label COLUMN",
        )


def _unreadable(file: Path, why: str) -> UsageError:
    what = f"{file} cannot be read: {why}."
    return UsageError("PS056", what, hint="Give a CSV file in UTF-8, or a Parquet file.")


def _value(text: str | None) -> Any:
    """Read a CSV cell: a number, true, false, or text."""
    try:
        value = json_.loads((text or "").lower())
    except ValueError:
        return text
    return value if isinstance(value, (int, float)) else text


COMMANDS = (label,)
