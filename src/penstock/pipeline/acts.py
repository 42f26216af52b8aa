"""What people do: start a run, approve, abort, promote, roll back. Each act is one transaction.

The command line, the pages and the API call these same functions; the engine need not be up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock.config import ServerSettings
from penstock.deploy import places, rollout, staging, steering
from penstock.deploy.approval import Answer
from penstock.domain import (
    JSON,
    Document,
    Role,
    Rollout,
    RolloutState,
    Run,
    RunState,
    Verification,
)
from penstock.errors import ConflictError, NotAllowedError, NotFoundError
from penstock.pipeline import approving, exporting, labelling, proving
from penstock.pipeline.approving import Approving
from penstock.pipeline.prediction_logs import PredictionLogs
from penstock.pipeline.proving import Places
from penstock.ports import ArtifactStore, Engine
from penstock.records import documents, rollouts, runs, served, verifications, watch
from penstock.records.database import Change, Database

_WORKING = {RunState.QUEUED, RunState.BUILDING, RunState.TESTING}
_ABORTABLE = _WORKING | {RunState.AWAITING_APPROVAL}


@dataclass(frozen=True, slots=True)
class Acts:
    """Every act that a person can do, with the records and the engine that it needs."""

    database: Database
    engine: Engine
    settings: ServerSettings
    home: Path
    store: ArtifactStore

    @property
    def places(self) -> Places:
        """Where versions are kept."""
        return Places(self.home, self.database, self.store)

    @property
    def approving(self) -> Approving:
        """What people say to questions."""
        return Approving(self.database, self.engine, self.settings)

    @property
    def logs(self) -> PredictionLogs:
        """Where predictions are logged."""
        return PredictionLogs(self.home, self.database, self.settings.serving.log_url)

    def register_model(self, actor: str, model: str) -> None:
        """Make a model known, before its repository is made."""
        with self.database.read() as connection:
            if runs.known(connection, model):
                return
        with self.database.change(actor) as change:
            runs.register_model(change, model)

    def start_run(self, actor: str, push: runs.Push) -> Run:
        """Start the run of a pushed commit; the same push again gives the same run."""
        with self.database.change(actor) as change:
            run, new = runs.start(change, push)
            if new:
                rollout.enqueue_stage(change, self.engine, run, "build")
            return run

    def approve(self, actor: str, approval_id: int, reason: str) -> None:
        """Say yes to an approval."""
        self.approving.answer(actor, approval_id, Answer(yes=True, reason=reason))

    def reject(self, actor: str, approval_id: int, reason: str) -> None:
        """Say no to an approval; the run ends."""
        self.approving.answer(actor, approval_id, Answer(yes=False, reason=reason))

    def abort(self, actor: str, run_id: int, reason: str) -> Run:
        """End a run; the champion keeps or gets back all traffic."""
        said = f"Aborted by {actor}" + (f": {reason}" if reason else ".")
        with self.database.change(actor) as change:
            run = runs.get(change.connection, run_id)
            live = rollouts.of_run(change.connection, run_id)
            aborting = runs.move(change, run, RunState.ABORTING, reason=said)
            if run.state is RunState.ROLLING_OUT and live is not None:
                rollout.give_back(change, self.engine, live, reason=said)
            else:
                assert run.state in _ABORTABLE, run.state
                rollout.void_approvals(change, run, reason=said)
                runs.move(change, aborting, RunState.ABORTED, reason=said)
                staging.leave(change, run, keep=False, reason=said)
            rollout.wake(change, self.engine, run.model)
        if run.state in _WORKING and run.stretch is not None:
            self.engine.cancel(run.stretch)
        with self.database.read() as connection:
            return runs.get(connection, run_id)

    def retry(self, actor: str, run_id: int) -> Run:
        """Go on with a failed run: a sealed version is not built again."""
        with self.database.change(actor) as change:
            run = runs.get(change.connection, run_id)
            again = runs.move(change, run, RunState.QUEUED, reason=f"Tried again by {actor}.")
            rollout.enqueue_stage(change, self.engine, again, "build")
            return again

    def promote(self, actor: str, model: str, share: int | None, reason: str = "") -> Rollout:
        """Take the live rollout to its next share, to `share`, or to full traffic."""
        with self.database.change(actor) as change:
            live = self._live(change, model)
            return steering.step_to(change, self.engine, live, share, reason=reason)

    def pause(self, actor: str, model: str) -> Rollout:
        """Hold the live rollout at its share."""
        with self.database.change(actor) as change:
            live = self._live(change, model)
            return steering.pause(change, live, reason=f"Paused by {actor}.")

    def resume(self, actor: str, model: str) -> Rollout:
        """Let a held rollout go on."""
        with self.database.change(actor) as change:
            return steering.go_on(change, self.engine, self._live(change, model))

    def roll_back(self, actor: str, model: str, to: int | None, reason: str) -> Rollout:
        """End a canary, or go back to the previous champion or another loaded version."""
        said = f"Rolled back by {actor}" + (f": {reason}" if reason else ".")
        with self.database.change(actor) as change:
            live = rollouts.live(change.connection, model)
            if live and to in {None, live[0].champion}:
                return rollout.give_back(change, self.engine, live[0], reason=said)
            if live:
                rollout.give_back(change, self.engine, live[0], reason=said)
            if to is None:
                previous = rollouts.in_role(change.connection, model, Role.PREVIOUS)
                if previous is None:
                    runs.model_of(change.connection, model)
                    raise ConflictError(
                        "PS409",
                        f"{model} has no canary and no previous version to go back to.",
                        hint=f"See what is loaded: penstock status {model}.",
                    )
                to = previous.number
            return steering.go_back_to(change, self.engine, model, to, reason=said)

    def run_monitor(self, actor: str, model: str, period: str) -> str:
        """Let a monitor's period be checked now; return the occasion of its results."""
        with self.database.change(actor) as change:
            runs.model_of(change.connection, model)
            known = {m.name: m for m in watch.monitors(change.connection, model)}
            if period not in known:
                raise NotFoundError(
                    "PS610",
                    f"{model} has no monitor {period!r}; it has: {', '.join(known) or 'none'}.",
                    hint="A monitor begins when a version is in production.",
                )
            due = change.now.isoformat(timespec="microseconds")
            change.journal("monitor.asked", {"model": model, "monitor": period, "due": due})
            self.engine.enqueue(
                change.connection,
                "monitor",
                f"{model}|{period}|{due}",
                id=f"mon-{model}-{period}-{due}",
                queue="monitor",
                partition=model,
            )
            return f"monitor:{model}:{period}:{due}"

    def verify(
        self, actor: str, model: str, number: int | None, *, rebuild: bool, seed: int | None
    ) -> Verification:
        """Let a version, or all of a model's, be verified; with `rebuild`, be built again."""
        with self.database.change(actor) as change:
            runs.model_of(change.connection, model)
            if number is not None:
                runs.version_of(change.connection, model, number)
            settings = {"rebuild": rebuild, "seed": seed}
            asked = verifications.ask(change, model, number, settings)
            self.engine.enqueue(
                change.connection,
                "verification",
                str(asked.id),
                id=f"verification-{asked.id}",
                # A rebuild is a build; it waits for no build of its model, nor they for it.
                queue="build" if rebuild else "monitor",
                partition=f"verification-{asked.id}",
            )
            return asked

    def verification(self, verification_id: int) -> Verification:
        """Return a verification; one whose work the engine gave up has failed."""
        with self.database.read() as connection:
            found = verifications.get(connection, verification_id)
        if found.state in verifications.ENDED:
            return found
        stretch = f"verification-{found.id}"
        if self.engine.states([stretch]).get(stretch) in {"waiting", "running"}:
            return found
        with self.database.change("penstock") as change:
            fresh = verifications.get(change.connection, verification_id)
            text = "PS142 The engine could not go on with it; see engine.log, then ask again."
            verifications.end(change, fresh, passed=False, result={"sentence": text})
            return verifications.get(change.connection, verification_id)

    def export(self, model: str, number: int, *, signed: bool) -> Iterator[bytes]:
        """Give a version as an archive, piece by piece; it is proved before the first."""
        (version,) = proving.sealed(self.places, model, number)
        return exporting.prepared(self.places, version, signed=signed).stream()

    def document(self, model: str, number: int, name: str) -> tuple[Document, Iterator[bytes]]:
        """Return one of a version's documents and its bytes, verified before the first."""
        with self.database.read() as connection:
            runs.version_of(connection, model, number)
            of = documents.get(connection, model, number, name)
            if name in documents.PRIVATE:
                raise NotAllowedError(
                    "PS867",
                    f'The document "{name}" of {model}@{number} stays on the server.',
                    hint="It holds rows of data; what rests on them is in the other documents.",
                )
        return of, exporting.stored(self.store, of.digest)

    def add_labels(self, model: str, rows: Iterable[labelling.Given]) -> JSON:
        """Keep true answers by prediction id; say what became of each."""
        return labelling.add(self.logs, model, rows)

    def labels(self, model: str) -> JSON:
        """Say how many labels a model has, and which wait for their prediction."""
        return labelling.standing(self.logs, model)

    def _live(self, change: Change, model: str) -> Rollout:
        live = rollouts.live(change.connection, model)
        if not live:
            runs.model_of(change.connection, model)
            raise ConflictError(
                "PS410",
                f"{model} has no rollout going on.",
                hint=f"See where it stands: penstock status {model}.",
            )
        return live[0]


def expired(database: Database, engine: Engine) -> None:
    """Close what waited too long for people: approvals expire, held rollouts go back."""
    approving.expired(database)
    now = database.clock()
    with database.read() as connection:
        held = [
            r
            for r in rollouts.live(connection)
            if r.state is RolloutState.PAUSED and r.hold_until is not None and r.hold_until <= now
        ]
    for one in held:
        with database.change("penstock") as change:
            fresh = rollouts.get(change.connection, one.id)
            if fresh.state is RolloutState.PAUSED:
                rollout.give_back(
                    change, engine, fresh, reason="Held, and nobody decided in time."
                )


def cool(database: Database) -> None:
    """Unload versions whose time in the rollback window is over."""
    now = database.clock()
    with database.read() as connection:
        models = served.cooled(connection, now=now)
        going = {one.model for one in rollouts.live(connection)} if models else set[str]()
    for model in models:
        if model not in going:
            with database.change("penstock") as change:
                places.cool(change, model)
