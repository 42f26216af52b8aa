"""Does the engine take its work? What stands is said in its log, with where each thread is.

A stage of a run that could begin and does not for half a minute has no error to show: nothing
failed, nothing happens. So it is looked for, from a thread of its own.
"""

from __future__ import annotations

import faulthandler
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TextIO

from penstock.domain import Run, RunState
from penstock.pipeline.tools import Tools
from penstock.records import rollouts, runs

STANDS_S = 30.0
EVERY_S = 5.0
_STAGES = frozenset({RunState.QUEUED, RunState.BUILDING, RunState.TESTING})

_logger = logging.getLogger(__name__)
Stretch = Callable[[str], Awaitable[None]]


class Standing:
    """Watches whether stages begin.

    Parameters
    ----------
    builds
        How many stages this engine does at the same time.
    """

    def __init__(self, tools: Tools, *, builds: int) -> None:
        self._tools = tools
        self._builds = builds
        self._doing: set[int] = set()
        self._since_s: dict[str, float] = {}
        self._told: set[str] = set()

    def seen(self, stage: Stretch) -> Stretch:
        """Return the stretch of a stage, noted while it is done."""

        async def noted(argument: str) -> None:
            self._doing.add(int(argument))
            try:
                await stage(argument)
            finally:
                self._doing.discard(int(argument))

        return noted

    def look(self, now_s: float) -> list[Run]:
        """Return the runs that newly stand: `STANDS_S` seconds long nothing was in their way."""
        tools = self._tools
        with tools.database.read() as connection:
            live = [run for run in runs.live(connection) if run.state in _STAGES]
            blocked = {one.model for one in rollouts.live(connection)}
        doing = self._doing.copy()
        busy = blocked | {run.model for run in live if run.id in doing}
        could = {run.stretch: run for run in live if run.stretch and run.model not in busy}
        if len(doing) >= self._builds:
            could = {}
        states = tools.engine.states(list(could))
        could = {name: run for name, run in could.items() if states.get(name) in _TAKEN}
        self._since_s = {name: self._since_s.get(name, now_s) for name in could}
        self._told &= could.keys()
        stand = {name for name, since_s in self._since_s.items() if now_s - since_s >= STANDS_S}
        new = stand - self._told
        self._told |= new
        return [could[name] for name in sorted(new)]

    def watch(self, log: TextIO) -> None:
        """Look again and again, in a thread that ends with the process."""

        def go() -> None:
            while True:
                time.sleep(EVERY_S)
                try:
                    standing = self.look(time.monotonic())
                except Exception as error:  # noqa: BLE001  whatever it is, it looks again
                    _logger.warning("whether work stands cannot be seen: %s", error)
                    continue
                self.tell(standing, log)

        threading.Thread(target=go, daemon=True, name="standing").start()

    @staticmethod
    def tell(standing: list[Run], log: TextIO) -> None:
        """Write down who stands, and where every thread is."""
        for run in standing:
            _logger.warning(
                "run %s of %s could begin (%s) and has not for %g s; every thread's place follows",
                *(run.id, run.model, run.state, STANDS_S),
            )
        if standing:
            faulthandler.dump_traceback(log, all_threads=True)


_TAKEN = frozenset({"waiting", "running"})
"""Enqueued, or claimed and not begun."""
