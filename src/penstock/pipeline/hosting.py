"""What the gateway's processes need of the rest: hosts in the sandbox, and versions, proven."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from penstock.build.trust import provenance
from penstock.domain import Deployment
from penstock.pipeline.workers import Workers
from penstock.ports import ArtifactStore


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

    def place(self, deployment: Deployment, pool: Path) -> Path:
        """Prove a version and show its folder in `pool`; return where it lies there.

        The sandbox of a host sees the pool of its environment and no version of another.

        Raises
        ------
        IntegrityError, NotFoundError
            As `provenance.unpacked` does, at every load.
        """
        claim = provenance.Claim(
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
        return shown


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
