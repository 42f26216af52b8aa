"""A database with one model, its acts over a fake engine, and time that the test sets."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from penstock.config import ServerSettings, parse, resolve
from penstock.deploy import approval, rollout
from penstock.deploy.approval import Bound
from penstock.deploy.canary import ArmCounts, Batch, judge
from penstock.deploy.proposing import Here
from penstock.deploy.ways import Traffic
from penstock.domain import Role, Rollout, Run, RunState
from penstock.pipeline.acts import Acts
from penstock.records import rollouts, runs
from penstock.records.database import Database
from penstock.records.runs import Push, Seal
from tests.fakes import MemoryStore
from tests.replay_engine import ReplayEngine

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOML = '[model]\nname = "credit"\nrisk = "{risk}"\n[canary]\n{canary}\n'
STEPS = "steps = [25, 50]\nbatch_s = 60"
QUIET = Traffic(requests_per_day=1000, slow_ms=50)
HEALTHY = Batch(ArmCounts(400, 0, 0), ArmCounts(1200, 0, 0))
HARMFUL = Batch(ArmCounts(400, 80, 0), ArmCounts(1200, 0, 0))
SILENT = Batch(ArmCounts(0, 0, 0), ArmCounts(0, 0, 0))


class House:
    """A database with acts over a fake engine; time is set by the test."""

    def __init__(self, folder: Path, canary: str = STEPS) -> None:
        self.now = START
        self.canary = canary
        self.database = Database(f"sqlite:///{folder / 'penstock.db'}", clock=lambda: self.now)
        self.database.migrate()
        self.engine = ReplayEngine()
        for name in ("build", "test", "start", "look", "monitor"):
            self.engine.register(name, _nothing)
        self.acts = Acts(self.database, self.engine, ServerSettings(), Path(), MemoryStore())
        self.acts.register_model("ada", "credit")

    def config(self, risk: str = "medium") -> dict[str, Any]:
        """What is pushed."""
        text = TOML.format(risk=risk, canary=self.canary)
        return resolve(parse(text), None).model_dump(mode="json")

    def tested(self, number: int, risk: str = "medium") -> Run:
        """A run whose version is sealed and has passed its tests."""
        config = self.config(risk)
        push = Push("credit", "main", f"{number:040x}", "a change", "ada", config)
        run = self.acts.start_run("ada", push)
        with self.database.change("penstock") as change:
            version = runs.version_of(change.connection, "credit", run.number)
            runs.seal(change, version, Seal(f"{number:064x}", "b" * 64, None, None, "full"))
            run = runs.move(change, run, RunState.BUILDING, reason="")
            return runs.move(change, run, RunState.TESTING, reason="")

    def asked(self, number: int, risk: str = "medium") -> int:
        """A run that waits for approval; returns the approval's id."""
        run = self.tested(number, risk)
        with self.database.change("penstock") as change:
            version = runs.version_of(change.connection, "credit", run.number)
            people = approval.ask(change, run, version, {"lead": "?"}, Bound("d" * 64), needed=1)
        return people.id

    def live(self, number: int) -> None:
        """A version in production."""
        self.acts.approve("bob", self.asked(number), "")
        self.begin()

    def begin(self) -> Rollout:
        """Load the queued rollout and give it its first share."""
        with self.database.change("penstock") as change:
            (queued,) = rollouts.live(change.connection)
            started = rollout.begin(change, queued, QUIET)
            return rollout.first_share(change, self.engine, started)

    def look(
        self, *batches: Batch, labels: int = 0, requests_per_s: float | None = None
    ) -> Rollout:
        """Judge these batches as all that was seen, the last one at the present share."""
        with self.database.change("penstock") as change:
            (of,) = rollouts.live(change.connection)
            here = Here(batches[-1:], labels, requests_per_s)
            return rollout.decide(change, self.engine, of, judge(batches), here)

    def run(self, number: int) -> Run:
        with self.database.read() as connection:
            return next(
                run for run in runs.runs(connection, model_name="credit") if run.number == number
            )

    def serving(self) -> dict[Role, tuple[int, int]]:
        with self.database.read() as connection:
            found = rollouts.deployments(connection, model_name="credit")
        return {one.role: (one.number, one.share) for one in found if one.environment != "test"}


async def _nothing(argument: str) -> None:
    assert argument
