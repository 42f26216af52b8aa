"""What the gateway's processes need of the rest: hosts in the sandbox, and versions, proven."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from penstock.build.trust import path_proof, provenance
from penstock.build.trust.provenance import Claim
from penstock.build.trust.signing import Keys
from penstock.domain import Deployment
from penstock.errors import PenstockError
from penstock.inference.gateway.placed import First, Placed
from penstock.pipeline import first_rows
from penstock.pipeline.workers import Workers
from penstock.ports import ArtifactStore

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hosting:
    """Starts hosts and brings versions to them."""

    workers: Workers
    store: ArtifactStore
    home: Path
    memory_mb: int
    """For one host and all its workers."""

    def host(self, lock_digest: str, socket: Path, pool: Path) -> subprocess.Popen[bytes]:
        """Start the host program of an environment; it listens at `socket` and reads `pool`."""
        return self.workers.host(lock_digest, socket, pool, memory_mb=self.memory_mb)

    def place(self, deployment: Deployment, pool: Path) -> Placed:
        """Prove a version and show its folder in `pool`, where it lies then.

        The sandbox of a host sees the pool of its environment and no version of another. A path
        for which nothing that is signed speaks does not serve: the model's own call does.

        Raises
        ------
        IntegrityError, NotFoundError
            As `provenance.unpacked` does, at every load.
        """
        claim = Claim(
            deployment.model,
            deployment.number,
            deployment.artifact_digest,
            deployment.lock_digest,
            deployment.attestation_digest,
        )
        unpacked = provenance.unpacked(claim, self.store, self.home)
        shown = pool / deployment.artifact_digest
        if not shown.exists():
            with tempfile.TemporaryDirectory(prefix=".", dir=pool) as fresh:
                link_tree(unpacked, Path(fresh, "version"))
                with suppress(OSError):  # somebody was faster, with the same files
                    Path(fresh, "version").rename(shown)
        return self._answering(deployment, claim, shown)

    def _answering(self, deployment: Deployment, claim: Claim, folder: Path) -> Placed:
        """Return how a version answers, as far as it is proved, and what it is asked first."""
        path, digest = deployment.serving.get("path") or "own", deployment.serving.get("proof")
        if digest is None and path == "own":
            return Placed(folder)  # nothing was claimed
        try:
            found = path_proof.proved(claim, digest, self.store, Keys(self.home))
            if found.path != path:
                _logger.warning(
                    "PS148 %s serves by its own call: the records say %s, what is signed says %s",
                    claim,
                    path,
                    found.path,
                )
                path = "own"
        except PenstockError as error:
            _logger.warning("%s serves by its own call: %s %s", claim, error.code, error.what)
            return Placed(folder)
        return Placed(folder, path, self._first(claim, found))

    def _first(self, claim: Claim, found: path_proof.Proof) -> Sequence[First]:
        if found.first_rows is None:
            return ()
        try:
            with tempfile.TemporaryDirectory(prefix="penstock-") as name:
                file = Path(name, "rows.json")
                self.store.get(found.first_rows, file)
                return (first_rows.read(file, found.tolerance),)
        except (PenstockError, ValueError, KeyError, TypeError) as error:
            _logger.warning("%s starts without the rows that it answered: %s", claim, error)
            return ()


def link_tree(source: Path, target: Path) -> None:
    """Make `target` a tree of the same files as `source`: hard links, else copies."""
    for folder, _, names in os.walk(source):
        here = target / Path(folder).relative_to(source)
        here.mkdir(parents=True, exist_ok=True)
        for name in names:
            _link(Path(folder, name), here / name)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
