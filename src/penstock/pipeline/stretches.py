"""The stretches of a run: what the engine does, and how each begins and ends.

Every effect of a stretch stands in a step, every step may be done twice, and the last act of a
stretch is one transaction that stops if the row is not in the state it expects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from penstock.check import gate
from penstock.deploy import rollout, staging
from penstock.domain import Environment, Run, RunState
from penstock.errors import PenstockError
from penstock.pipeline import building, releasing, testing, verifying, watching
from penstock.pipeline.standing import Standing
from penstock.pipeline.tools import Tools, Work
from penstock.records import rollouts, runs, watch
from penstock.records.database import Change

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stretches of a run, over the tools that wiring.py chose."""

    tools: Tools

    def register(self, standing: Standing) -> None:
        """Make every stretch known to the engine, and the stages to who watches them."""
        register = self.tools.engine.register
        register("build", standing.seen(self.build))
        register("test", standing.seen(self.test))
        register("start", partial(releasing.start, self.tools))
        register("look", partial(releasing.look, self.tools))
        register("monitor", partial(watching.monitor, self.tools))
        register("verification", partial(verifying.verification, self.tools))
        register("tick", self.tick)
        register("logs", self.logs)

    async def build(self, argument: str) -> None:
        """Take a queued run through the stage build, and on to the stage test."""
        run = await self._enter(int(argument), RunState.QUEUED, RunState.BUILDING)
        if run is not None:
            await self._stage(Work(self.tools, run, "build"), building.build, self._built)

    async def test(self, argument: str) -> None:
        """Take a built run through the stage test, and on to people or to production."""
        run = await self._enter(int(argument), RunState.TESTING, RunState.TESTING)
        if run is not None:
            await self._stage(Work(self.tools, run, "test"), testing.test, testing.decide)

    async def tick(self, due: str) -> None:
        """Each minute: what is due, what waited too long, and what a crash left behind."""
        await self.tools.engine.step("tick", partial(watching.tick, self.tools, due, self.heal))
        await asyncio.to_thread(self.tools.database.tidy)  # of what the engine alone wrote

    async def logs(self, due: str) -> None:  # noqa: ARG002  every schedule's argument
        """Each minute: the prediction logs into Parquet."""
        await self.tools.engine.step("logs", partial(watching.keep_logs, self.tools))

    async def _enter(self, run_id: int, expected: RunState, to: RunState) -> Run | None:
        """Move the run into its stage; None when it is elsewhere, or must wait."""
        tools = self.tools
        with tools.database.read() as connection:
            run = runs.get(connection, run_id)
            in_the_way = rollouts.live(connection, run.model)
        if run.state is to:
            return run
        if run.state is not expected:
            return None
        if in_the_way and run.releases:
            self._wait(run, in_the_way[0].challenger)
            return None
        with tools.database.change("penstock") as change:
            return runs.move(change, run, to, reason=f"The stage {to.removesuffix('ing')} runs.")

    def _wait(self, run: Run, challenger: int) -> None:
        """Say why a queued run does not begin; the end of the rollout wakes it."""
        with self.tools.database.write() as connection:
            reason = f"Waits until the rollout of {run.model}@{challenger} has ended."
            runs.note(connection, run, reason, now=self.tools.clock())
            # It may have ended between the look and the note.
            if not rollouts.live(connection, run.model):
                change = Change(connection, "penstock", self.tools.clock())
                rollout.enqueue_stage(change, self.tools.engine, run, "build")

    async def _stage(
        self,
        work: Work,
        do: Callable[[Work], Awaitable[None]],
        end: Callable[[Work], None],
    ) -> None:
        """Do a stage; whatever stops it becomes a sentence on the run, never a lost run."""
        try:
            await do(work)
            self.tools.reached(f"{work.stage}/end:before")
            await self.tools.engine.step(f"{work.stage}/end", partial(_none, end, work))
        except PenstockError as error:
            text = f"{error.code} {error.what} {error.hint}"
            ended_by = "check" if error.exit_code == 5 else "error"
            await self._failed(work, text, ended_by)
        except Exception as error:
            _logger.exception("run %s, stage %s", work.run.id, work.stage)
            text = f"PS299 Penstock itself failed ({type(error).__name__}: {error})."
            await self._failed(work, text, "error")

    async def _failed(self, work: Work, reason: str, ended_by: str) -> None:
        def note() -> None:
            fail(self.tools, work.run.id, reason, ended_by=ended_by)

        await self.tools.engine.step(f"{work.stage}/failed", partial(_none, note))

    def _built(self, work: Work) -> None:
        """End the stage build: stop at a failed check, else let the test begin."""
        risk = work.config().model.risk
        judged = gate.gate("build", work.results(), risk=risk)
        with self.tools.database.change("penstock") as change:
            run = runs.get(change.connection, work.run.id)
            if run.state is not RunState.BUILDING:
                change.journal("run.passed_over", {"model": run.model, "run": run.id})
            elif gate.stops(judged.verdict, risk):
                runs.move(change, run, RunState.FAILED, reason=judged.summary, ended_by="check")
                rollout.wake(change, self.tools.engine, run.model)
            else:
                tested = runs.move(change, run, RunState.TESTING, reason=judged.summary)
                rollout.enqueue_stage(change, self.tools.engine, tested, "test")

    def heal(self) -> None:
        """Take up what a crash left: live rows whose stretch has ended or was never begun."""
        tools = self.tools
        with tools.database.read() as connection:
            live = runs.live(connection)
            going = rollouts.live(connection)
        blocked = {one.model for one in going}
        stages = {
            RunState.QUEUED: "build",
            RunState.BUILDING: "build",
            RunState.TESTING: "test",
        }
        states = tools.engine.states([run.stretch for run in live if run.stretch])
        for run in live:
            stage = stages.get(run.state)
            waits = run.state is RunState.QUEUED and run.releases and run.model in blocked
            if stage is not None and not waits:
                self._heal_run(run, stage, states.get(run.stretch or ""))
        for one in going:
            watching.heal_rollout(tools, one)

    def _heal_run(self, run: Run, stage: str, state: str | None) -> None:
        tools = self.tools
        if state == "failed":
            text = "PS298 The engine could not go on with it; see engine.log. Try: penstock retry."
            fail(tools, run.id, text, ended_by="recovery_exhausted")
        elif state not in {"waiting", "running"}:
            with tools.database.change("penstock") as change:
                fresh = runs.get(change.connection, run.id)
                change.journal("run.healed", {"model": run.model, "run": run.id})
                if (fresh.state, fresh.stretch) == (run.state, run.stretch):
                    rollout.enqueue_stage(change, tools.engine, fresh, stage)


def fail(tools: Tools, run_id: int, reason: str, *, ended_by: str) -> None:
    """End a run that could not go on; what it had in the test environment is cleared."""
    reason = tools.redact(reason)
    with tools.database.change("penstock") as change:
        run = runs.get(change.connection, run_id)
        if run.state not in {RunState.BUILDING, RunState.TESTING}:
            change.journal("run.passed_over", {"model": run.model, "run": run.id})
            return
        failed = runs.move(change, run, RunState.FAILED, reason=reason, ended_by=ended_by)
        if rollouts.deployments(
            change.connection, model_name=run.model, environment=Environment.TEST
        ):
            staging.leave(change, run, keep=False, reason=reason)
        watch.tell(
            change.connection,
            f"run:{run.id}:{failed.state_version}",
            {
                "kind": "run.failed",
                "model": run.model,
                "subject": f"{run.version} did not get through",
                "text": reason,
                "path": f"/runs/{run.id}",
            },
            now=change.now,
        )
        rollout.wake(change, tools.engine, run.model)


def _none(action: Callable[..., None], *arguments: Work) -> None:
    action(*arguments)
