"""The copies that a shadow got in one look, beside the answers of their callers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from penstock.deploy import rollout, shadow
from penstock.domain import JSON, Environment, Rollout
from penstock.inference.prediction_log.records import Entry
from penstock.inference.prediction_log.table import Of
from penstock.pipeline.tools import Tools
from penstock.records import runs

COPIES_LATE_US = 5_000_000
"""A look leaves the newest copies to the next one: they may still be on their way."""
MOST_ROWS = 20_000
"""Of one look; what comes after is not compared."""


def copies(tools: Tools, of: Rollout, since_us: int, until_us: int) -> JSON:
    """Compare the copies of requests that arrived in ``[since_us, until_us)``."""

    def of_these(entries: Iterable[Entry]) -> Iterable[Entry]:
        return (one for one in entries if since_us <= one.arrived_us < until_us)

    with tools.database.read() as connection:
        version = runs.version_of(connection, of.model, of.challenger)
    signature = version.signature or {}
    known = {str(one["name"]) for one in signature.get("columns", ())}
    slices = [name for name in rollout.settings(version).quality.slices if name in known]
    since, until = (datetime.fromtimestamp(us / 1e6, UTC) for us in (since_us, until_us))
    pairs = list[JSON]()
    if since_us < until_us:
        place = Of(Environment.PRODUCTION, of.model)
        with tools.logs.table(place, since, until, of_these) as table:
            pairs = table.copies(since, until, most=MOST_ROWS)
    numeric = signature.get("task") != "classification"
    return shadow.tally(pairs, numeric=numeric, slices=slices)
