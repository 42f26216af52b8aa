"""What the stages work with, and how a step is done, noted and logged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from penstock.build.data.sources import Sources
from penstock.check.evaluation import Evaluation, read_evaluation
from penstock.check.gate import decides
from penstock.config import LimitSettings, ModelConfig
from penstock.deploy import rollout
from penstock.domain import JSON, CheckResult, Document, Environment, Run, Verdict, Version
from penstock.errors import PenstockError
from penstock.inference.asking import Told
from penstock.inference.endpoint import Endpoint
from penstock.inference.prediction_log.counting import Arms
from penstock.pipeline.prediction_logs import PredictionLogs
from penstock.pipeline.warm_hosts import WarmHosts
from penstock.pipeline.workers import Workers
from penstock.ports import (
    ArtifactStore,
    Clock,
    Engine,
    Environments,
    Notifier,
    Sandbox,
)
from penstock.records import documents, runs
from penstock.records.database import Database


@dataclass(frozen=True, slots=True)
class Tools:
    """The collaborators of the pipeline, chosen once in wiring.py."""

    home: Path
    database: Database
    engine: Engine
    store: ArtifactStore
    sandbox: Sandbox
    environments: Environments
    workers: Workers
    hosts: WarmHosts
    """Of the builds under way."""
    notifier: Notifier
    clock: Clock
    predict_url: str
    """The gateway's, ``http://127.0.0.1:8421``."""
    url: str
    """The dashboard's, for messages to people."""
    limits: LimitSettings
    """The operator's, for builds."""
    reached: Callable[[str], None]
    """Told of every point at which a crash must do no harm; tests crash there."""
    sources: Sources
    """Where data of projects is read."""
    build_threads: int = 1
    """That the libraries of one build may use: the processors, shared by concurrent builds."""
    adopt_allow: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """By model, names that the operator lets adopted models contain besides the gate's list."""

    least_people: Mapping[str, int] = field(default_factory=dict[str, int])
    """By risk, the fewest people who approve a version."""

    _arms: dict[str, Arms] = field(default_factory=dict[str, Arms])

    logs_url: str | None = None
    """Where the prediction logs' hours lie; None: in the home."""
    log_bytes: int = 10**10
    """Of one model's prediction log in one environment."""

    @property
    def logs(self) -> PredictionLogs:
        """The prediction logs of all models."""
        return PredictionLogs(
            self.home, self.database, self.logs_url, self.log_bytes, self.reached
        )

    def arms(self, model: str) -> Arms:
        """Return what counts a model's arms in production, with what it has read before."""
        if model not in self._arms:
            self._arms[model] = Arms(self.home / "log" / Environment.PRODUCTION / model)
        return self._arms[model]

    def redact(self, text: str) -> str:
        """Return a text that is written down without the value of any secret in it."""
        return self.sources.secrets.redact(text)

    def folder(self, of: Run) -> Path:
        """Return the folder of a run's files."""
        return self.home / "runs" / str(of.id)

    def endpoint(self, model: str, number: int | None, environment: Environment) -> Endpoint:
        """Return a version's endpoint at the gateway."""
        return Endpoint(self.predict_url, model, number, environment)


@dataclass(frozen=True, slots=True)
class Work:
    """One stage of one run: does its steps, each noted and logged."""

    tools: Tools
    run: Run
    stage: str

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return self.tools.folder(self.run)

    @property
    def occasion(self) -> str:
        """Under which the run's check results are kept."""
        return f"run:{self.run.id}:{self.run.attempt}"

    @property
    def actor(self) -> str:
        """Who the journal says did it."""
        return "penstock"

    def version(self) -> Version:
        """Return the run's version as the records have it now."""
        with self.tools.database.read() as connection:
            return runs.version_of(connection, self.run.model, self.run.number)

    def config(self) -> ModelConfig:
        """Return the version's penstock.toml."""
        return rollout.settings(self.version())

    def log(self, step: str) -> Path:
        """Return the file of a step's output."""
        path = self.folder / f"{self.stage}-{step}-{self.run.attempt}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def say(self, step: str, line: str) -> None:
        """Add a line to a step's log."""
        with self.log(step).open("a", encoding="utf-8") as file:
            file.write(f"{self.tools.clock():%H:%M:%S} {self.tools.redact(line)}\n")

    def report(self, name: str) -> Path:
        """Return the file of a report, kept with the run."""
        path = self.folder / "reports" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def document(self, name: str, path: Path, media_type: str) -> str:
        """Store a file as one of the version's documents; return its digest."""
        digest = self.tools.store.put(path)
        of = Document(
            self.run.model,
            self.run.number,
            name,
            media_type,
            digest,
            path.stat().st_size,
            self.tools.clock(),
        )
        with self.tools.database.write() as connection:
            documents.add(connection, of)
        return digest

    def progress(
        self, step: str, share: float | None, left_s: float | None = None, *, doing: str = ""
    ) -> None:
        """Note how far a running step is, from 0 to 1, the seconds still to come, what it does.

        With a `share` of None, pages estimate it from the model's earlier runs.
        """
        at = (self.stage, step)
        with self.tools.database.write() as connection:
            runs.progress(connection, self.run, at, share=share, left_s=left_s, doing=doing)

    def keep(self, results: Sequence[CheckResult]) -> None:
        """Keep what checks found."""
        with self.tools.database.write() as connection:
            runs.add_results(
                connection,
                (self.run.model, self.run.number),
                self.occasion,
                results,
                now=self.tools.clock(),
            )

    def results(self) -> list[CheckResult]:
        """Return what this attempt's checks found so far."""
        with self.tools.database.read() as connection:
            return runs.results(connection, self.occasion)

    async def step(self, name: str, action: Callable[[], JSON]) -> JSON:
        """Do one step durably: noted when it begins, noted how it ended.

        `action` returns plain JSON; its ``state`` and ``reason`` are noted.
        """

        async def noted() -> JSON:
            await asyncio.to_thread(self.begin, name)
            return await asyncio.to_thread(self._ended, name, action)

        return await self.durable(name, noted)

    async def durable(self, name: str, action: Callable[[], Any]) -> Any:
        """Do an action once, durably, without noting a step."""
        at = f"{self.stage}/{name}"
        self.tools.reached(f"{at}:before")
        result = await self.tools.engine.step(at, action)
        self.tools.reached(f"{at}:after")
        return result

    def _ended(self, name: str, action: Callable[[], JSON]) -> JSON:
        try:
            result = action()
        except PenstockError as error:
            self.end(name, "failed", error.what)
            raise
        self.end(name, str(result.get("state", "passed")), str(result.get("reason", "")))
        return result

    def begin(self, name: str) -> None:
        """Note that a step began."""
        log = self.log(name).relative_to(self.tools.home)
        with self.tools.database.write() as connection:
            runs.begin_step(
                connection,
                self.run,
                (self.stage, name),
                log=str(log),
                now=self.tools.clock(),
            )

    def end(self, name: str, state: str, reason: str) -> None:
        """Note how a step ended."""
        if reason:
            self.say(name, reason)
        with self.tools.database.write() as connection:
            runs.end_step(
                connection,
                self.run,
                (self.stage, name),
                state=state,
                reason=self.tools.redact(reason),
                now=self.tools.clock(),
            )


def evaluation_file(work: Work, ending: str) -> Path:
    """Return where a run keeps its evaluation data."""
    return work.folder / f"evaluation{ending}"


def evaluation_of(work: Work, config: ModelConfig) -> Evaluation | None:
    """Read the run's evaluation data; None without ``[evaluate]``."""
    if config.evaluate is None:
        return None
    return read_evaluation(evaluation_file(work, config.evaluate.ending), config.evaluate)


def written(told: Told) -> JSON:
    """Return a version's answers as JSON, to be kept beside the run."""
    return dict(told)


def read_told(path: Path) -> Told:
    """Read answers that were kept."""
    return cast("Told", json.loads(path.read_text(encoding="utf-8")))


def worst(results: Sequence[CheckResult]) -> str:
    """Return the state of a step from its checks: failed, else undecided, else passed."""
    verdicts = {result.verdict for result in results if decides(result)}
    for verdict in (Verdict.FAILED, Verdict.UNDECIDED):
        if verdict in verdicts:
            return str(verdict)
    return str(Verdict.PASSED)


def reasons(results: Sequence[CheckResult]) -> str:
    """Return the sentences of what did not pass, or how many passed."""
    told = [f"{r.check}: {r.summary}" for r in results if r.verdict is not Verdict.PASSED]
    return "; ".join(told) or f"{len(results)} check{'' if len(results) == 1 else 's'} passed"


Stretch = Callable[[str], Awaitable[None]]
