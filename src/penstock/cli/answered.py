"""`penstock logs NAME --predictions`: rows of the prediction log in the terminal, or in a file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.cli.session import Session, columns
from penstock.errors import UsageError

MOST_IN_FILE = 1_000_000
_SHOWN = 4
"""Inputs of a row in the list."""


def show_predictions(
    here: Session,
    of: str,
    asked: Mapping[str, Any],
    *,
    csv: bool,
    parquet: Path | None,
) -> int:
    """Print rows, as a list, JSON or CSV, or write them into a Parquet file.

    Raises
    ------
    UsageError
        PS058: not a version; PS050: the file cannot be written.
    """
    name, at, number = of.partition("@")
    if at and not number.isdigit():
        raise UsageError("PS058", f"{of!r} is not a version.", hint=f"Write {name}@4.")
    wanted = {**asked, "version": int(number) if at else asked["version"]}
    client = here.client()
    if parquet is not None:
        kind = {**wanted, "limit": wanted["limit"] or MOST_IN_FILE}
        with client.predictions_file(name, "parquet", **kind) as rows:
            _write(parquet, rows)
        here.write(f"Written to {parquet}.", mark="passed")
        return 0
    if csv:
        kind = {**wanted, "limit": wanted["limit"] or MOST_IN_FILE}
        with client.predictions_file(name, "csv", **kind) as rows:
            for line in rows:
                here.out.write(line.decode())
        return 0
    data = client.predictions(name, **wanted)
    here.data("predictions", data)
    found: list[dict[str, Any]] = data["predictions"]
    if wanted["id"] is not None:
        for row in found:
            _one(here, row)
    else:
        lines = [("When", "Version", "Prediction", "Label", "ms", "Id", "Inputs")]
        lines += [_cells(row) for row in found]
        for line in columns(lines) if found else ():
            here.write(line)
    if not found:
        here.write("No prediction that fits.")
    return 0


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    inputs = list(row["inputs"].items())
    told = ", ".join(f"{key} {_short(value)}" for key, value in inputs[:_SHOWN])
    more = f", and {len(inputs) - _SHOWN} more" if len(inputs) > _SHOWN else ""
    return (
        str(row["ts"])[:19].replace("T", " "),
        f"v{row['number']} {row['role']}",
        _answer(row),
        "" if row["label"] is None else str(row["label"]),
        f"{row['latency_ms']:.1f}",
        str(row["prediction_id"]),
        told + more,
    )


def _answer(row: Mapping[str, Any]) -> str:
    if row["prediction"] is None:
        return f"error {row['code'] or row['status']}" if row["status"] >= 400 else "none"
    return _short(row["prediction"])


def _one(here: Session, row: Mapping[str, Any]) -> None:
    facts = [(key, value) for key, value in row.items() if key != "inputs" and value is not None]
    facts += [(f"input {key}", value) for key, value in row["inputs"].items()]
    for line in columns([(str(key), str(value)) for key, value in facts]):
        here.write(line)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:23] + "…"


def _write(target: Path, rows: Any) -> None:
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with part.open("xb") as file:
            shutil.copyfileobj(rows, file)
        part.replace(target)
    except OSError as error:
        raise UsageError(
            "PS050",
            f"{target} cannot be written: {error.strerror}.",
            hint="Choose another file.",
        ) from error
    finally:
        part.unlink(missing_ok=True)
