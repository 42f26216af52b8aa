"""What moves by itself on a page: server-sent events that carry parts of the page, drawn anew.

A message holds ``<hx-partial>`` elements; each names the place on the page that it replaces. When
there is nothing more to come, the event ``over`` tells the page to close its stream.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from penstock.domain import ROLLOUT_ENDED, Step
from penstock.web import charts, events, views
from penstock.web.control import Control

RUN_PARTS = ("head", "rail", "steps", "now", "title", "checks")
"""Each is the template ``_run_<part>.html`` and the element ``#<part>``."""
ROLLOUT_PARTS = ("head", "verdict", "traffic", "tests", "events")
BEAT_S = 3.0
"""A running step's bar and time move this often."""
QUIET_S = 15.0
"""After so long without an event a comment keeps proxies from closing the stream."""
_MAX_TAIL_BYTES = 256 * 1024


def stream(parts: AsyncIterator[str]) -> Response:
    """Answer with events as they come."""
    return StreamingResponse(
        parts, headers={"X-Accel-Buffering": "no"}, media_type="text/event-stream"
    )


async def run(
    control: Control,
    run_id: int,
    parts: Callable[[], Mapping[str, str]],
    log_lines: Callable[[list[str]], str],
) -> AsyncIterator[str]:
    """Yield the events of a run's page until the run has ended."""
    tail = _Tail(control)
    async for update in events.progress(
        control, run_id, through_waits=True, beats=round(BEAT_S / events.LOOK_S)
    ):
        if update.changed:
            yield _partials(await run_in_threadpool(parts))
        elif not update.log:
            # Nothing new but the time: the bars grow, and no proxy thinks the stream dead.
            drawn = await run_in_threadpool(parts)
            yield _partials({name: drawn[name] for name in ("rail", "steps")})
        lines, fresh = tail.lines(update.standing.shown)
        if lines or fresh:
            drawn = log_lines(lines)
            yield _message(_partial("log", drawn, "innerHTML" if fresh else "beforeend"))
    yield _partials(await run_in_threadpool(parts))
    yield "event: over\ndata: ended\n\n"


class _Tail:
    """Follows the log of whichever step matters."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._log: str | None = None
        self._after = 0

    def lines(self, step: Step | None) -> tuple[list[str], bool]:
        """Return new lines, and whether they begin another log."""
        log = None if step is None else step.log
        fresh = log != self._log
        if fresh:
            self._log, self._after = log, 0
        if log is None:
            return [], fresh
        piece = events.read_log(self._control.home / log, self._after)
        piece = piece[: piece.rfind(b"\n") + 1]
        self._after += len(piece)
        return (events.plain_lines(piece) if piece else []), fresh


def log_tail(control: Control, step: Step | None, most: int) -> list[str]:
    """Return the last lines of a step's log."""
    if step is None or step.log is None:
        return []
    path = control.home / step.log
    size = path.stat().st_size if path.exists() else 0
    piece = events.read_log(path, max(0, size - _MAX_TAIL_BYTES), _MAX_TAIL_BYTES)
    return events.plain_lines(piece)[-most:] if piece else []


async def rollout(
    control: Control,
    rollout_id: int,
    parts: Callable[[views.RolloutView], Mapping[str, str]],
) -> AsyncIterator[str]:
    """Yield the events of a rollout's page until the rollout has ended."""
    seen: tuple[Any, ...] = ()
    quiet_s = 0.0
    while True:
        view = await run_in_threadpool(views.rollout_view, control, rollout_id)
        of = view.rollout
        now = (of.state, of.state_version, of.reason, len(view.batches), len(view.events))
        if now != seen:
            seen, quiet_s = now, 0.0
            yield _partials(await run_in_threadpool(parts, view))
            drawn = json.dumps(charts.series(view.batches, of.settings))
            yield f"event: series\ndata: {drawn}\n\n"
        elif quiet_s >= QUIET_S:
            quiet_s = 0.0
            yield ": still here\n\n"
        if of.state in ROLLOUT_ENDED:
            yield "event: over\ndata: ended\n\n"
            return
        await asyncio.sleep(events.LOOK_S)
        quiet_s += events.LOOK_S


def _partials(parts: Mapping[str, str]) -> str:
    return _message("".join(_partial(name, html, "innerMorph") for name, html in parts.items()))


def _partial(name: str, html: str, swap: str) -> str:
    swap = f"{swap} scroll:bottom" if name == "log" else swap
    return f'<hx-partial hx-target="#{name}" hx-swap="{swap}">{html}</hx-partial>'


def _message(html: str) -> str:
    return "data: " + html.replace("\r", "").replace("\n", " ") + "\n\n"
