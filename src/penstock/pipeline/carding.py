"""The card of a version, put together from the records and from the reports of its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from penstock.build import card
from penstock.deploy import rollout
from penstock.domain import JSON, Version
from penstock.pipeline.tools import Work
from penstock.records import runs
from penstock.records.database import Database

REPORTS = ("inputs", "tracking", "explain", "environment", "format", "facts", "fairness", "speed")


def measured(database: Database, home: Path, model: str, number: int) -> card.Measured:
    """Return what is known of a version; reports that are not there are left out."""
    with database.read() as connection:
        version = runs.version_of(connection, model, number)
        run = runs.get(connection, version.run_id)
        results = runs.results(connection, f"run:{run.id}:{run.attempt}")
    reports = {
        name: found for name in REPORTS if (found := report(home, version, name)) is not None
    }
    return card.Measured(version, results, rollout.settings(version).model.risk, reports)


def report(home: Path, version: Version, name: str) -> JSON | None:
    """Return a report of the run that built a version; None where there is none to read."""
    path = home / "runs" / str(version.run_id) / "reports" / f"{name}.json"
    try:
        told: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None  # pyright: ignore[reportUnknownVariableType]  # JSON


def keep(work: Work) -> None:
    """Store the card as the version's document ``card``; one that was there is replaced."""
    of = measured(work.tools.database, work.tools.home, work.run.model, work.run.number)
    path = work.folder / "documents" / "card.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(work.tools.redact(card.written(of)), encoding="utf-8")
    work.document("card", path, card.MEDIA_TYPE)
