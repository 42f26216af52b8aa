"""What of the files on the disk the records still need."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from penstock.domain import RUN_ENDED
from penstock.records.schema import deployment, document, kept_step, metadata, run, version

RECENT = 5
"""Sealed versions of each model whose environments stay, whatever their age."""

RECENT_TIME = timedelta(days=30)
LEAST_AGE = timedelta(days=1)
"""What was made or used since is nobody's leftover yet."""


@dataclass(frozen=True, slots=True)
class Needed:
    """What must stay."""

    locks: frozenset[str]
    """Of environments: of all that is deployed, of live runs, of recent versions."""
    served: frozenset[str]
    """Artifacts that are unpacked for a reason: of all that is deployed, and of live runs."""
    artifacts: frozenset[str]
    """Manifests of every sealed version; what they list stays, too."""
    files: frozenset[str]
    """Every file that any record names: data, attestations, documents, what was approved."""
    json_files: frozenset[str]
    """Those of `files` that are JSON and may name further files."""
    ended: tuple[int, ...]
    """Runs that ended long enough ago."""
    before: datetime
    """Nothing that was used since this moment goes: the oldest live run began after it."""


def needed(connection: sa.Connection, *, now: datetime) -> Needed:
    """Return what every version, route, document and live run needs."""
    live = run.c.state.not_in([str(state) for state in RUN_ENDED])
    oldest: datetime | None = connection.scalar(
        sa.select(sa.func.min(run.c.created_at)).where(live)
    )
    before = now - LEAST_AGE if oldest is None else min(oldest, now - LEAST_AGE)
    deployed = sa.select(version.c.lock_digest, version.c.artifact_digest).join(
        deployment,
        (deployment.c.model == version.c.model) & (deployment.c.number == version.c.number),
    )
    running = sa.select(version.c.lock_digest, version.c.artifact_digest).join(
        run, run.c.id == version.c.run_id
    )
    used = [*connection.execute(deployed), *connection.execute(running.where(live))]
    manifests = connection.scalars(sa.select(version.c.artifact_digest))
    documents = list(connection.execute(sa.select(document.c.digest, document.c.media_type)))
    ended = sa.select(run.c.id).where(~live, run.c.updated_at < before).order_by(run.c.id)
    return Needed(
        locks=frozenset(filter(None, (*(row[0] for row in used), *_recent(connection, now)))),
        served=frozenset(row[1] for row in used if row[1]),
        artifacts=frozenset(filter(None, manifests)),
        files=frozenset(_named(connection)),
        json_files=frozenset(row.digest for row in documents if "json" in row.media_type),
        ended=tuple(connection.scalars(ended)),
        before=before,
    )


def _named(connection: sa.Connection) -> Iterator[str]:
    """Give every digest in any table, whatever it is of: rather too many than one too few."""
    for table in metadata.sorted_tables:
        for column in table.columns:
            if column.name.endswith("digest"):
                yield from filter(None, connection.scalars(sa.select(column).distinct()))
    for kept in connection.scalars(sa.select(kept_step.c.result)):
        yield from re.findall(r"[0-9a-f]{64}", json.dumps(kept))


def _recent(connection: sa.Connection, now: datetime) -> Iterator[str | None]:
    rank = (
        sa.func.row_number()
        .over(partition_by=version.c.model, order_by=version.c.number.desc())
        .label("rank")
    )
    sealed = version.c.sealed_at.is_not(None)
    newest = sa.select(version.c.lock_digest, rank).where(sealed).subquery()
    yield from connection.scalars(sa.select(newest.c.lock_digest).where(newest.c.rank <= RECENT))
    young = sa.select(version.c.lock_digest).where(version.c.sealed_at >= now - RECENT_TIME)
    yield from connection.scalars(young)
