"""What a failed command said, as one sentence: its own error first, with file and line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TAIL_BYTES = 256 << 10
_FRAME = re.compile(r'\s+File "(?P<file>.+)", line (?P<line>[0-9]+)')
_MODULE = re.compile(r"ModuleNotFoundError: No module named '(?P<module>[\w.]+)'")
_NETWORK = re.compile(
    r"name resolution|Name or service not known|nodename nor servname|Network is unreachable"
    r"|Failed to resolve|No route to host"
)
_STOPPED = "sandbox: ended, "
_HOST = re.compile(r"""(?:host=|https?://)['"]?(?P<host>[\w-]+(?:\.[\w-]+)+)""")


@dataclass(frozen=True, slots=True)
class Failure:
    """The last error in a log."""

    where: str | None
    """``train.py line 41``, the deepest line of the project's own code; None if there is none."""
    error: str
    """``ValueError: could not convert string to float: '?'``."""
    module: str | None
    """The module that could not be imported."""
    host: str | None
    """The host that could not be reached; empty when it is not named."""

    def __str__(self) -> str:
        return f"{self.where}: {self.error}" if self.where else self.error


def failure(log: Path, project: Path) -> Failure | None:
    """Find the last Python error in a log; None if there is none."""
    lines = _tail(log)
    frames = [number for number, line in enumerate(lines) if _FRAME.match(line)]
    if not frames:
        return None
    told = (line for line in lines[frames[-1] + 1 :] if line and not line[0].isspace())
    error = next(told, "")
    if not error:
        return None
    begun = max((n for n, line in enumerate(lines) if line.startswith("Traceback (")), default=0)
    module = _MODULE.match(error)
    unreachable = _NETWORK.search(error)
    host = _HOST.search(error)
    return Failure(
        _own_place(lines[min(begun, frames[-1]) :], project),
        error[:600],
        module["module"] if module else None,
        (host["host"] if host else "") if unreachable else None,
    )


def stopped_for(log: Path) -> str | None:
    """Return why the sandbox ended the command, as it noted it last in the log."""
    told = [line for line in _tail(log) if line.startswith(_STOPPED)]
    return told[-1].removeprefix("sandbox: ") if told else None


def excerpt(log: Path, lines: int = 6) -> str:
    """Return the last lines that say something, on one line."""
    said = [line.strip() for line in _tail(log) if line.strip()][-lines:]
    return f" Its last lines: {' / '.join(said)[:600]}" if said else " It printed nothing."


def _tail(log: Path) -> Sequence[str]:
    if not log.exists():
        return []
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()


def _own_place(lines: Sequence[str], project: Path) -> str | None:
    for line in reversed(lines):
        frame = _FRAME.match(line)
        if frame is None:
            continue
        file = project / frame["file"]
        if file.is_relative_to(project) and file.is_file():
            return f"{file.relative_to(project).as_posix()} line {frame['line']}"
    return None
