"""How far a running step is, on a terminal: a bar below the lines, plain lines elsewhere."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Self

from penstock.cli.session import Session

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

TELL_S = 30.0
"""Without a terminal, a line as often as this."""


class Pacing:
    """Shows how far a step is, and steps aside for each line.

    Parameters
    ----------
    here
        Whose stderr is drawn on; stdout stays for results.
    """

    def __init__(self, here: Session) -> None:
        self._here = here
        self._draws = here.err.isatty() and here.environ.get("TERM") != "dumb"
        self._bar: tuple[Progress, TaskID] | None = None
        self._told_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.aside()

    def show(self, line: str) -> None:
        """Show what the server told in a line that begins with ``pace``."""
        told: dict[str, Any] = json.loads(line.removeprefix("pace "))
        if self._here.quiet or self._here.json or not (told["text"] or told["share"]):
            return
        if self._draws:
            self._draw(told)
        elif time.monotonic() - self._told_at >= TELL_S:
            self._told_at = time.monotonic()
            self._here.note(f"  ..    {told['step']:<18} {told['text']}")

    def aside(self) -> None:
        """Take the bar away, so that a line can be written."""
        self._told_at = time.monotonic()
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None

    def _draw(self, told: dict[str, Any]) -> None:
        share: float | None = told["share"]
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            drawn = Progress(
                BarColumn(28),
                TextColumn("{task.description}", markup=False),
                console=Console(file=self._here.err, no_color=not self._here.color),
                transient=True,
            )
            drawn.start()
            self._bar = (drawn, drawn.add_task("", total=1.0))
        progress, task = self._bar
        total = None if share is None else 1.0
        said = f"{told['step']}  {told['text']}"
        progress.update(task, total=total, completed=share or 0.0, description=said)


def is_pace(line: str) -> bool:
    """Say whether a line of the server's tells how far a step is.

    Examples
    --------
    >>> is_pace('pace {"step": "build/train"}'), is_pace("pace@3 · run 7")
    (True, False)
    """
    return line.startswith("pace {")
