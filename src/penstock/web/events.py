"""What happens to a run or a rollout, as it happens: for terminals, hooks and pages alike.

`progress` looks at the records every 0.3 s and yields what is new. Run and engine live in other
processes, perhaps on other machines; the tables are the one place where all of them meet.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from penstock.domain import (
    RUN_ENDED,
    Approval,
    CheckResult,
    Rollout,
    RolloutState,
    Run,
    RunState,
    Step,
)
from penstock.records import approvals, rollouts, runs
from penstock.web.control import Control
from penstock.web.pacing import Pace, pace
from penstock.web.words import MARKS, duration

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[@-_])")
LOOK_S = 0.3
PACE_S = 0.9
"""How often a bar is told how far a step is."""
TELL_S = 30.0
"""After so long without a line, a terminal without a bar is told how far a step is."""
MAX_LOG_BYTES = 64 * 1024
"""Of a step's log, read at one look; the rest comes with the next."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands, all of it."""

    run: Run
    steps: Sequence[Step] = ()
    """Of its present attempt, and what earlier attempts had finished."""
    results: Sequence[CheckResult] = ()
    approval: Approval | None = None
    """The newest one."""
    rollout: Rollout | None = None
    pace: Pace | None = None
    """How far the running step is."""

    @property
    def running(self) -> Step | None:
        """The step in work."""
        return next((s for s in reversed(self.steps) if s.state == "running"), None)

    @property
    def shown(self) -> Step | None:
        """The step whose log matters now: the failed, the running, or the last one."""
        failed = next((s for s in self.steps if s.state == "failed"), None)
        return failed or self.running or (self.steps[-1] if self.steps else None)

    @property
    def exit_code(self) -> int | None:
        """What a client that waited exits with; None while the run goes on."""
        if self.run.state is RunState.AWAITING_APPROVAL:
            return 6
        if self.rollout is not None and self.rollout.state is RolloutState.PAUSED:
            return 6
        if self.run.state in RUN_ENDED:
            return 0 if self.run.state is RunState.SUCCEEDED else 5
        return None


@dataclass(frozen=True, slots=True)
class Update:
    """What one look found new."""

    standing: Standing
    lines: Sequence[str] = ()
    """For a terminal."""
    log: Sequence[str] = ()
    """Lines that the running step wrote."""
    changed: bool = False
    """Whether anything but the log is new."""


def standing(control: Control, run_id: int) -> Standing:
    """Read where a run stands."""
    with control.database.read() as connection:
        run = runs.get(connection, run_id)
        latest = {
            (s.stage, s.name): s
            for s in runs.steps(connection, run_id)
            if s.attempt == run.attempt or s.state == "passed"
        }
        asked = approvals.of_run(connection, run_id)
        at = Standing(
            run,
            sorted(latest.values(), key=lambda s: s.started_at),
            runs.results(connection, f"run:{run_id}:{run.attempt}"),
            asked[0] if asked else None,
            rollouts.of_run(connection, run_id),
        )
        return replace(at, pace=pace(connection, run.model, at.running, control.clock()))


@dataclass
class _Seen:
    """What was told already."""

    greeted: bool = False
    state: tuple[str, str] = ("", "")
    rollout: tuple[str, str] = ("", "")
    steps: dict[tuple[str, str, int], str] = field(default_factory=dict[tuple[str, str, int], str])
    results: dict[str, str] = field(default_factory=dict[str, str])
    logs: dict[str, int] = field(default_factory=dict[str, int])


async def progress(
    control: Control, run_id: int, *, through_waits: bool = False, beats: int | None = None
) -> AsyncIterator[Update]:
    """Yield what happens to a run until it has ended, or waits for a person.

    A page stays open while people decide: it asks to go on through such waits. After `beats`
    looks without anything new, an update without anything new is yielded.
    """
    seen = _Seen()
    quiet = 0
    while True:
        update = await run_in_threadpool(_look, control, run_id, seen)
        quiet = 0 if update.changed or update.log else quiet + 1
        if quiet in {0, beats}:
            quiet = 0
            yield update
        code = update.standing.exit_code
        ended = update.standing.run.state in RUN_ENDED if through_waits else code is not None
        if ended and not update.log:
            return
        await asyncio.sleep(LOOK_S)


async def text(control: Control, run_id: int, *, paced: bool = False) -> AsyncIterator[str]:
    """Yield a run's lines for a terminal; the last is ``exit N``.

    `paced`: each second also ``pace {…}``, how far the running step is, for a bar; else a line
    for people now and then.
    """
    code = 1
    beats = round((PACE_S if paced else TELL_S) / LOOK_S)
    async for update in progress(control, run_id, beats=beats):
        at = update.standing
        code = at.exit_code or 0
        for line in update.lines:
            yield f"{line}\n"
        if paced and at.pace is not None:
            yield f"pace {json.dumps(asdict(at.pace))}\n"
        elif at.pace is not None and at.pace.text and not update.lines:
            yield f"  ..    {at.pace.step:<18} {at.pace.text}\n"
    yield f"exit {code}\n"


def _look(control: Control, run_id: int, seen: _Seen) -> Update:
    now = standing(control, run_id)
    lines: list[str] = []
    log: list[str] = []
    if not seen.greeted:
        seen.greeted = True
        run = now.run
        lines.append(f"{run.version} · run {run.id} · {run.commit[:7]} {run.message}".rstrip())
    if now.exit_code is None:
        lines += _state_lines(control, now, seen)
    for step in now.steps:
        known = seen.steps.get(_key(step))
        if known == step.state and known != "running":
            continue
        fresh = _log_lines(control, step, seen)
        log += fresh
        lines += [f"    | {line}" for line in fresh]
        if known != step.state:
            lines.append(_step_line(step))
            seen.steps[_key(step)] = step.state
        if step.state != "running":
            lines += _result_lines(now, seen)
    lines += _rollout_lines(now, seen)
    lines += _state_lines(control, now, seen)
    return Update(now, lines, log, len(lines) > len(log))


def _key(step: Step) -> tuple[str, str, int]:
    return (step.stage, step.name, step.attempt)


def _step_line(step: Step) -> str:
    name = f"{step.stage}/{step.name}"
    mark = MARKS.get(step.state, "")
    if step.ended_at is None:
        return f"  {mark:<5} {name}"
    took = duration((step.ended_at - step.started_at).total_seconds())
    return f"  {mark:<5} {name:<18} {step.state} {took}  {step.reason}".rstrip()


def _result_lines(now: Standing, seen: _Seen) -> list[str]:
    lines: list[str] = []
    for result in now.results:
        if seen.results.get(result.check) != result.summary:
            seen.results[result.check] = result.summary
            lines.append(f"    {MARKS[result.verdict]:<5} {result.check:<24} {result.summary}")
    return lines


def _log_lines(control: Control, step: Step, seen: _Seen) -> list[str]:
    """Return the whole lines that a step's log has got since the last look."""
    if step.log is None:
        return []
    after = seen.logs.get(step.log, 0)
    piece = read_log(control.home / step.log, after)
    if step.state == "running" and len(piece) < MAX_LOG_BYTES:
        piece = piece[: piece.rfind(b"\n") + 1]
    seen.logs[step.log] = after + len(piece)
    return plain_lines(piece) if piece else []


def read_log(path: Path, after: int, most: int = MAX_LOG_BYTES) -> bytes:
    """Read a log from a byte on; one that is not there yet is empty."""
    try:
        with path.open("rb") as file:
            file.seek(after)
            return file.read(most)
    except FileNotFoundError:
        return b""


def plain_lines(piece: bytes) -> list[str]:
    r"""Split into lines without colours and other control characters.

    Examples
    --------
    >>> plain_lines(b"\x1b[31mred\x1b[0m\r\n10 %\r20 %\nlast")
    ['red', '20 %', 'last']
    """
    lines: list[str] = []
    for line in piece.decode(errors="replace").split("\n"):
        # A progress bar overwrites its line: only what it says last is kept.
        last = _ESCAPES.sub("", line).rstrip("\r").rsplit("\r", 1)[-1]
        lines.append("".join(c for c in last if c == "\t" or c.isprintable()))
    return lines[:-1] if lines[-1] == "" else lines


def _rollout_lines(now: Standing, seen: _Seen) -> list[str]:
    rollout = now.rollout
    if rollout is None or (rollout.state.value, rollout.reason) == seen.rollout:
        return []
    seen.rollout = (rollout.state.value, rollout.reason)
    word = rollout.state.replace("_", " ")
    share = f" {rollout.share} %" if rollout.state is RolloutState.CANARY else ""
    return [f"  {MARKS['running']:<5} production/{word}{share}  {rollout.reason}".rstrip()]


_ENDS = {
    RunState.SUCCEEDED: "ok",
    RunState.FAILED: "FAIL",
    RunState.REJECTED: "FAIL",
    RunState.ROLLED_BACK: "FAIL",
    RunState.AWAITING_APPROVAL: "=",
}


def _state_lines(control: Control, now: Standing, seen: _Seen) -> list[str]:
    run = now.run
    if (run.state.value, run.reason) == seen.state:
        return []
    seen.state = (run.state.value, run.reason)
    word = run.state.replace("_", " ")
    lines = [f"{_ENDS.get(run.state, MARKS['running'])} {run.version} {word}  {run.reason}"]
    address = control.settings.address
    if run.state is RunState.AWAITING_APPROVAL and now.approval is not None:
        lines.append(f"  read the dossier and decide: {address}/approvals/{now.approval.id}")
        lines.append(f"  or: penstock approve {now.approval.id}")
    elif run.state is RunState.FAILED:
        lines.append(
            f"  look: penstock logs {run.id}   then push again, or: penstock retry {run.id}"
        )
    return lines
