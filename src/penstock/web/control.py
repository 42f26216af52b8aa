"""What the web application works with; wiring.py makes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from penstock.config import ServerSettings
from penstock.domain import JSON, Document, Rollout, Run, Verification
from penstock.pipeline.approving import Approving
from penstock.pipeline.labelling import Given
from penstock.ports import Clock
from penstock.records.database import Database
from penstock.records.runs import Push


class Acts(Protocol):
    """Everything that a person can do; each is one transaction, done by `actor`."""

    @property
    def approving(self) -> Approving:
        """What people say to questions."""
        ...

    def register_model(self, actor: str, model: str) -> None:
        """Make a model known."""
        ...

    def start_run(self, actor: str, push: Push) -> Run:
        """Start the run of a pushed commit; the same push again gives the same run."""
        ...

    def approve(self, actor: str, approval_id: int, reason: str) -> None:
        """Say yes to an approval."""
        ...

    def reject(self, actor: str, approval_id: int, reason: str) -> None:
        """Say no to an approval."""
        ...

    def abort(self, actor: str, run_id: int, reason: str) -> Run:
        """End a run."""
        ...

    def retry(self, actor: str, run_id: int) -> Run:
        """Go on with a failed run."""
        ...

    def promote(self, actor: str, model: str, share: int | None, reason: str = "") -> Rollout:
        """Take the live rollout further."""
        ...

    def pause(self, actor: str, model: str) -> Rollout:
        """Hold the live rollout."""
        ...

    def resume(self, actor: str, model: str) -> Rollout:
        """Let a held rollout go on."""
        ...

    def roll_back(self, actor: str, model: str, to: int | None, reason: str) -> Rollout:
        """End a canary, or go back to a version that is still loaded."""
        ...

    def run_monitor(self, actor: str, model: str, period: str) -> str:
        """Let a period be checked now; return the occasion of its results."""
        ...

    def verify(
        self, actor: str, model: str, number: int | None, *, rebuild: bool, seed: int | None
    ) -> Verification:
        """Let a version, or all of a model's, be verified or built again."""
        ...

    def verification(self, verification_id: int) -> Verification:
        """Return a verification as it stands."""
        ...

    def export(self, model: str, number: int, *, signed: bool) -> Iterator[bytes]:
        """Give a proved version as an archive, piece by piece."""
        ...

    def document(self, model: str, number: int, name: str) -> tuple[Document, Iterator[bytes]]:
        """Return a version's document and its bytes."""
        ...

    def add_labels(self, model: str, rows: Iterable[Given]) -> JSON:
        """Keep true answers by prediction id; say what became of each."""
        ...

    def labels(self, model: str) -> JSON:
        """Say how many labels a model has, and which wait for their prediction."""
        ...


@dataclass(frozen=True, slots=True)
class Control:
    """The records, the acts, and where things are."""

    database: Database
    home: Path
    acts: Acts
    settings: ServerSettings
    predict_url: str
    """Where predictions are answered, ``http://127.0.0.1:8421``."""
    hook_secret: str
    """What git's hooks prove themselves with."""
    clock: Clock

    @property
    def repositories(self) -> Path:
        """Where the bare repositories lie."""
        return self.home / "repositories"
