"""An engine in memory that forgets nothing but the process: the port's fake for fast tests.

`drain` runs what was enqueued, one stretch after another, the clock jumping to the next one
that was put off. A crash ends `drain`; the next `drain` goes on as a restarted engine would:
the stretch runs again from its start and gets the recorded results of the steps it had done.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import event

from penstock.errors import PenstockError
from penstock.ports import Finished

Stretch = Callable[[str], Awaitable[None]]


class Crash(BaseException):
    """The engine process died here."""


class Cancelled(BaseException):
    """The stretch was cancelled while it ran; it stops at its next step."""


@dataclass
class Waiting:
    """One stretch, with the results of the steps that it has done."""

    name: str
    argument: str
    due_s: float
    order: int
    state: str = "waiting"
    results: dict[int, tuple[str, str | PenstockError]] = field(
        default_factory=dict[int, tuple[str, str | PenstockError]]
    )


class ReplayEngine:
    """Port `Engine` without threads, files or a clock.

    Parameters
    ----------
    crash_after
        Die when this many more steps are done; None never dies. Each crash uses it up.
    lose_result
        Die before the last step's result is recorded, so that the step runs twice.
    """

    def __init__(self, crash_after: int | None = None, *, lose_result: bool = False) -> None:
        self.crash_after = crash_after
        self.lose_result = lose_result
        self.now_s = 0.0
        """Seconds since the start, moved by `drain` only."""
        self.steps_run: list[str] = []
        """Names of the steps that really ran, replays not among them."""
        self.schedules: dict[str, int] = {}
        self._stretches: dict[str, Stretch] = {}
        self._work: dict[str, Waiting] = {}
        self._current: Waiting | None = None
        self._position = 0

    def register(self, name: str, function: Stretch) -> None:
        self._stretches[name] = function

    def every(self, seconds: int, name: str) -> None:
        assert name in self._stretches, f"stretch {name!r} is not registered"
        self.schedules[name] = seconds

    def launch(self) -> None: ...

    def close(self) -> None: ...

    def enqueue(
        self,
        transaction: Any,
        name: str,
        argument: str,
        *,
        id: str,  # noqa: A002  the port's word
        delay_s: float = 0,
        queue: str = "deploy",
        partition: str | None = None,
    ) -> None:
        """Take it at the commit of an `sa.Connection`; without a transaction, at once."""
        assert name in self._stretches, f"stretch {name!r} is not registered"

        stretch = Waiting(name, argument, self.now_s + delay_s, len(self._work))
        if transaction is None:
            self._work.setdefault(id, stretch)
            return
        offered = [stretch]

        def take(_connection: object) -> None:
            for offer in offered:
                self._work.setdefault(id, offer)
            offered.clear()

        def drop(_connection: object) -> None:
            offered.clear()

        connection = cast("sa.Connection", transaction)
        event.listen(connection, "commit", take)
        event.listen(connection, "rollback", drop)

    def cancel(self, id: str) -> None:  # noqa: A002  the port's word
        found = self._work.get(id)
        if found is not None and found.state in {"waiting", "running"}:
            found.state = "cancelled"

    def states(self, ids: Sequence[str]) -> dict[str, str]:
        return {known: self._work[known].state for known in ids if known in self._work}

    def drain(self, *, seconds: float | None = None) -> None:
        """Run until nothing is left, or nothing that is due within the next `seconds`."""
        end_s = float("inf") if seconds is None else self.now_s + seconds
        while left := [w for w in self._work.values() if w.state in {"waiting", "running"}]:
            following = min(left, key=lambda w: (w.due_s, w.order))
            if following.due_s > end_s:
                break
            self.now_s = max(self.now_s, following.due_s)
            self._run(following)
        if seconds is not None:
            self.now_s = end_s

    def _run(self, stretch: Waiting) -> None:
        stretch.state = "running"
        self._current, self._position = stretch, 0
        try:
            asyncio.run(_awaited(self._stretches[stretch.name](stretch.argument)))
        except Cancelled:
            return
        except Exception:  # noqa: BLE001  the engine outlives any stretch
            stretch.state = "failed"
            return
        finally:
            self._current = None
        # A stretch may have cancelled itself.
        if stretch.state == "running":
            stretch.state = "done"

    async def step(self, name: str, action: Callable[[], Any]) -> Any:
        stretch = self._current
        assert stretch is not None, "a step outside a stretch"
        if stretch.state == "cancelled":
            raise Cancelled
        position, self._position = self._position, self._position + 1
        if position not in stretch.results:
            self.steps_run.append(name)
            result = await _outcome(action)
            if self.crash_after == 1 and self.lose_result:
                self._die()
            stretch.results[position] = (name, result)
            if self.crash_after is not None:
                self.crash_after -= 1
                if self.crash_after <= 0:
                    self._die()
        recorded, result = stretch.results[position]
        assert recorded == name, f"step {name} stands where {recorded} was recorded"
        if isinstance(result, PenstockError):
            raise result
        return json.loads(result)

    def _die(self) -> None:
        self.crash_after = None
        raise Crash

    async def command(
        self,
        name: str,
        start: Callable[[], tuple[list[str], dict[str, str]]],
        *,
        log: Path,
        timeout_s: float,
    ) -> Finished:
        def run() -> dict[str, Any]:
            argv, env = start()
            with log.open("ab") as output:
                child = subprocess.Popen(
                    argv,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                try:
                    return asdict(Finished(child.wait(timeout_s)))
                except subprocess.TimeoutExpired:
                    assert child.pid > 1
                    os.killpg(child.pid, signal.SIGKILL)
                    return asdict(Finished(child.wait(), timed_out=True))

        return Finished(**await self.step(name, run))


async def _outcome(action: Callable[[], Any]) -> str | PenstockError:
    for retries_left in (3, 2, 1, 0):
        try:
            result = action()
            return json.dumps(await result if asyncio.iscoroutine(result) else result)
        except PenstockError as error:
            if not error.retryable or not retries_left:
                return error
    raise AssertionError("the last attempt returns")


async def _awaited(stretch: Awaitable[None]) -> None:
    await stretch
