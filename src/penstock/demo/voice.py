"""What the demo says: lines that stay, and on a terminal one that moves."""

from __future__ import annotations

import threading
import time
from typing import TextIO

from rich.console import Console
from rich.status import Status
from rich.text import Text

from penstock.cli.session import MARKS

EVERY_S = 10.0
"""Where nothing can move, a line is written this often."""
_STYLES = {32: "green", 31: "red", 33: "yellow", 34: "blue", 35: "magenta"}


class Voice:
    """Says things with the seconds since it began; may be used from several threads."""

    def __init__(self, stream: TextIO) -> None:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal of ASCII shall not end the demo
        self._ascii = not (stream.encoding or "").lower().startswith("utf")
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._status = Status("", console=self._console, spinner="line", refresh_per_second=4)
        self._began = time.monotonic()
        self._last_s = 0.0
        self._lock = threading.Lock()

    @property
    def passed_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def say(self, text: str = "", mark: str | None = None) -> None:
        """Write a line that stays; `mark` is a kind of the command line's marks."""
        self._console.print(self._line(text, mark) if text else "", soft_wrap=True)

    def quote(self, text: str) -> None:
        """Write a line that another program said."""
        self._console.print(Text(f"{'':11}{text}", style="dim"), soft_wrap=True)

    def moving(self, text: str) -> None:
        """Show where it is: in place on a terminal, else as a line now and then."""
        if self._console.is_terminal:
            line = Text(text, no_wrap=True, overflow="ellipsis")
            self._status.update(line)
            self._status.start()
            return
        with self._lock:
            due = self.passed_s - self._last_s >= EVERY_S
            self._last_s = self.passed_s if due else self._last_s
        if due:
            self.say(text)

    def rest(self) -> None:
        """Take the moving line away."""
        self._status.stop()

    def _line(self, text: str, mark: str | None) -> Text:
        shape, twin, color = MARKS[mark] if mark else (" ", " ", None)
        return Text.assemble(
            (f"{self.passed_s:5.0f} s  ", "dim"),
            (f"{twin if self._ascii else shape} ", _STYLES.get(color or 0, "")),
            text,
        )
