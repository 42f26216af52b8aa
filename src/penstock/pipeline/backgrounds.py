"""The background of a version: rows that say what is usual, for explaining single answers.

A hundred rows of its evaluation data, kept as a document that no page shows. The gateway reads
them when the first answer of the version is explained, and from then on from a file of its own,
so that the database may be away.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.domain import Deployment
from penstock.errors import NotFoundError
from penstock.ports import ArtifactStore
from penstock.records import documents
from penstock.records.database import Database

if TYPE_CHECKING:  # the gateway needs none of the steps
    from penstock.pipeline.tools import Work

NAME = "background"
ROWS = 100


def keep(work: Work, rows: pa.Table) -> None:
    """Keep some of the rows, always the same of the same data."""
    chosen = np.random.default_rng(0).permutation(rows.num_rows)[:ROWS]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "background.parquet"
        pq.write_table(rows.take(pa.array(chosen)), file, compression="zstd")
        work.document(NAME, file, "application/vnd.apache.parquet")


@dataclass(frozen=True, slots=True)
class Backgrounds:
    """Finds the backgrounds of versions that run."""

    database: Database
    store: ArtifactStore
    folder: Path
    """Of ours alone; a file a version that was asked for."""

    def __call__(self, deployment: Deployment) -> Path | None:
        """Return the file of a version; None where it has none, or cannot be had now."""
        file = self.folder / f"{deployment.artifact_digest}.parquet"
        if file.exists():
            return file
        try:
            with self.database.read() as connection:
                of = documents.get(connection, deployment.model, deployment.number, NAME)
        except NotFoundError:
            return None
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        coming = file.with_suffix(f".{os.getpid()}")
        self.store.get(of.digest, coming)  # verified by its digest
        coming.replace(file)
        return file
