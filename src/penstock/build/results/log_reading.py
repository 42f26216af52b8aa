"""What a failed command said: its own error with file and line, found in its log.

Python's tracebacks, chained ones and those of exception groups, and the boxes that rich draws
of them. A chain is told by its last error and by the first, which it came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TAIL_BYTES = 256 << 10
_MOST_CHARACTERS = 600
_BEGIN = re.compile(r"^\W*(Exception Group )?Traceback \(most recent call last\)")
_FRAME = re.compile(r'\s+File "(?P<file>.+)", line (?P<line>[0-9]+)')
_RICH_FRAME = re.compile(r"\s*[│|] (?P<file>\S+\.py):(?P<line>[0-9]+) in ")
_GROUP = re.compile(r"^\s+[|+] ?-*(?: [0-9]+ -+)?")
_CHAINED = re.compile(
    r"The above exception was the direct cause|During handling of the above exception"
)
_ERROR = re.compile(r"[A-Za-z_][\w.]*(?:\[[^\]]*\])?(?:: |:$|$)")
_MODULE = re.compile(r"ModuleNotFoundError: No module named '(?P<module>[\w.]+)'")
_NETWORK = re.compile(
    r"name resolution|Name or service not known|nodename nor servname|Network is unreachable"
    r"|Failed to resolve|No route to host|NameResolutionError|NewConnectionError"
    r"|Max retries exceeded|getaddrinfo failed|EndpointConnectionError|ConnectTimeout"
    r"|[Cc]onnection refused|couldn't connect to|LocalEntryNotFoundError|OfflineModeIsEnabled"
    r"|URLError|RemoteDisconnected"
)
_HOST = re.compile(
    r"""(?:host=|https?://|s3://|resolve )['"]?(?P<host>(?:[\w-]+\.)+[\w-]*\w|localhost)"""
)
_STOPPED = "sandbox: ended, "


@dataclass(frozen=True, slots=True)
class Failure:
    """The last error in a log."""

    where: str | None
    """``train.py line 41``, the deepest line of the project's own code; None if there is none."""
    error: str
    """``ValueError: could not convert string to float: '?'``, as it was printed."""
    cause: str | None = None
    """The first error of the chain that ended in this one, with its place."""
    module: str | None = None
    """The module that could not be imported."""
    package: str | None = None
    """The package, not the project's own, whose code stands deepest in the traceback."""
    host: str | None = None
    """The host that could not be reached; empty when it is not named."""
    text: str = field(default="", repr=False)
    """The whole chain as the log has it."""

    def __str__(self) -> str:
        error = self.error.rstrip(" .:")
        told = f"{self.where}: {error}" if self.where else error
        return f"{told} (it came from {self.cause})" if self.cause else told


@dataclass(slots=True)
class _Block:
    """One traceback: where it stands, its frames, its error."""

    begin: int
    end: int = 0
    frames: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    error: str = ""


def failure(log: Path, project: Path) -> Failure | None:
    """Find the last Python error in a log; None if there is none."""
    lines = tail(log)
    blocks = [block for block in _blocks(lines) if block.error and block.frames]
    if not blocks:
        return None
    last = blocks[-1]
    first = last
    for block in reversed(blocks[:-1]):
        if not any(_CHAINED.search(line) for line in lines[block.end : first.begin]):
            break
        first = block
    text = "\n".join(lines[first.begin : last.end + 1])
    module = _MODULE.match(last.error)
    return Failure(
        _own_place(last, project),
        last.error,
        _cause(first, project) if first is not last else None,
        module["module"] if module else None,
        _package(last),
        host_in(text),
        text,
    )


def stopped_for(log: Path) -> str | None:
    """Return why the sandbox ended the command, as it noted it last in the log."""
    told = [line for line in tail(log) if line.startswith(_STOPPED)]
    return told[-1].removeprefix("sandbox: ") if told else None


def host_in(text: str) -> str | None:
    """Return the host that could not be reached, empty if it is not named; None if it is not so.

    Examples
    --------
    >>> host_in("Failed to resolve 'data.example.org'"), host_in("ValueError: 1")
    ('data.example.org', None)
    """
    if not _NETWORK.search(text):
        return None
    # The error tells it best; a traceback also quotes lines of code with addresses in them.
    for line in reversed(text.splitlines()):
        found = _HOST.search(line)
        if found:
            return found["host"]
    return ""


def excerpt(log: Path, lines: int = 6) -> str:
    """Return the last lines that say something, on one line."""
    said = [line.strip() for line in tail(log) if line.strip()][-lines:]
    if not said:
        return " It printed nothing."
    return f" Its last lines: {' / '.join(said)[:_MOST_CHARACTERS]}"


def tail(log: Path) -> Sequence[str]:
    """Return the last lines of a log, at most a quarter of a MiB."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()


def _blocks(lines: Sequence[str]) -> Iterator[_Block]:
    block: _Block | None = None
    for number, raw in enumerate(lines):
        line = _GROUP.sub("", raw) if _GROUP.match(raw) else raw
        frame = _FRAME.match(raw) or _FRAME.match(f" {line}") or _RICH_FRAME.match(raw)
        if _BEGIN.match(raw) or (frame and (block is None or block.error)):
            if block is not None:
                yield block
            block = _Block(number)
        if block is None:
            continue
        if frame:
            block.frames.append((frame["file"], frame["line"]))
        elif block.frames and not block.error and _is_error(line):
            block.error, block.end = _whole(line, lines[number + 1 :]), number
    if block is not None:
        yield block


def _is_error(line: str) -> bool:
    return bool(line) and not line[0].isspace() and _ERROR.match(line) is not None


def _whole(line: str, following: Sequence[str]) -> str:
    """Return an error with its first words where these stand on the next line."""
    if line.rstrip().endswith(":"):
        words = next((one.strip() for one in following[:5] if one.strip()), "")
        line = f"{line.rstrip()} {words}"
    return line.strip()[:_MOST_CHARACTERS]


def _cause(block: _Block, project: Path) -> str:
    where = _own_place(block, project)
    return f"{where}: {block.error}" if where else block.error


def _own_place(block: _Block, project: Path) -> str | None:
    for name, line in reversed(block.frames):
        file = project / name
        own = file.is_relative_to(project) and "site-packages" not in file.parts
        if own and file.is_file():
            return f"{file.relative_to(project).as_posix()} line {line}"
    return None


def _package(block: _Block) -> str | None:
    deepest = Path(block.frames[-1][0])
    if "site-packages" not in deepest.parts:
        return None
    parts = deepest.parts[deepest.parts.index("site-packages") + 1 :]
    return parts[0].removesuffix(".py") if parts else None
