"""Looking into logs of any size: lines that hold a text, and the last lines.

A log is never read whole: it goes through in blocks, and what is kept is bounded. What is found
is shown as a terminal would leave it, without colours, a progress bar in its last state.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.domain import Step
from penstock.errors import UsageError
from penstock.records import runs
from penstock.web.control import Control
from penstock.web.events import Standing, plain_lines

BLOCK = 1 << 20
MOST_FOUND = 200
MOST_RUNS = 50
LONGEST = 400
"""Characters of a line that are shown around what was found."""
SEARCH_S = 20.0
"""One search takes at most so long; then it says how far it came."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line that holds what was looked for."""

    run: int
    step: str
    """Such as ``build/train``."""
    attempt: int
    line: int
    """From 1."""
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found."""

    text: str
    lines: Sequence[Line]
    searched_bytes: int
    all_bytes: int
    ended: str
    """``end`` of the logs, ``most`` lines found, or out of ``time``."""

    @property
    def sentence(self) -> str:
        """What it came to, in words.

        Examples
        --------
        >>> Found("loss", (), 10, 10, "end").sentence
        'No line holds “loss”.'
        """
        count = len(self.lines)
        lines = "No line holds" if not count else "1 line holds" if count == 1 else None
        said = f"{lines or f'{count} lines hold'} “{self.text}”"
        if self.ended == "most":
            return f"The first {count} lines that hold “{self.text}”; there may be more."
        if self.ended == "time":
            done, size = self.searched_bytes >> 20, self.all_bytes >> 20
            return f"{said} in the first {done:,} of {size:,} MB; the search ended for its time."
        return f"{said}."


@dataclass(frozen=True, slots=True)
class Kept:
    """A step's log."""

    run: int
    step: Step
    path: Path

    @property
    def bytes(self) -> int:
        """Its size now; 0 where nothing was written."""
        return self.path.stat().st_size if self.path.is_file() else 0


def of_run(control: Control, at: Standing, name: str | None) -> list[Kept]:
    """Return the logs of a run's steps, of every attempt, or of one step's."""
    with control.database.read() as connection:
        steps = runs.steps(connection, at.run.id)
    stage, _, step = (name or "").rpartition("/")
    return [
        Kept(at.run.id, one, control.home / one.log)
        for one in steps
        if one.log is not None
        and (not step or step == one.name)
        and (not stage or stage == one.stage)
    ]


def of_model(control: Control, model: str) -> list[Kept]:
    """Return the logs of a model's newest runs."""
    with control.database.read() as connection:
        newest = runs.runs(connection, model_name=model, most=MOST_RUNS)
        return [
            Kept(run.id, step, control.home / step.log)
            for run in newest
            for step in runs.steps(connection, run.id)
            if step.log is not None
        ]


def search(logs: Sequence[Kept], text: str, *, seconds: float = SEARCH_S) -> Found:
    """Find the lines that hold a text, great or small letters alike.

    Raises
    ------
    UsageError
        PS840: there is nothing to look for.
    """
    if not text.strip() or "\n" in text:
        raise UsageError(
            "PS840",
            "A search needs a text of one line.",
            hint='Try: penstock logs 12 --grep "loss"',
        )
    looking = _Search(text, time.monotonic() + seconds)
    for log in logs:
        if log.bytes and not looking.through(log):
            break
    whole = sum(log.bytes for log in logs)
    return Found(text, looking.lines, looking.searched, whole, looking.ended)


def tail_start(paths: Sequence[Path], lines: int) -> int:
    """Return where the last `lines` lines begin, in bytes of the logs one behind the other."""
    sizes = [path.stat().st_size if path.is_file() else 0 for path in paths]
    left = lines
    for number in range(len(paths) - 1, -1, -1):
        if not sizes[number]:
            continue
        at, left = _back(paths[number], sizes[number], left)
        if not left:
            return sum(sizes[:number]) + at
    return 0


def whole(logs: Sequence[Kept]) -> Iterator[bytes]:
    """Give logs as plain text, a block at a time."""
    for log in logs:
        for piece, _ in _pieces(log.path):
            yield "".join(f"{line}\n" for line in plain_lines(piece)).encode()


class _Search:
    """One search, over any number of logs."""

    def __init__(self, text: str, until: float) -> None:
        self._text = text.lower()
        self._bytes = self._text.encode()
        # What is not ASCII has other great letters than bytes know of: each line is looked at.
        self._plain = text.isascii()
        self._until = until
        self.lines: list[Line] = []
        self.searched = 0
        self.ended = "end"

    def through(self, log: Kept) -> bool:
        """Look through one log; False when the search has ended."""
        number = 0
        for piece, whole_lines in _pieces(log.path):
            if self._plain and b"\x1b" not in piece and self._bytes not in piece.lower():
                number += piece.count(b"\n")
            else:
                number = self._lines(log, piece, number)
                number -= not whole_lines
            self.searched += len(piece)
            if len(self.lines) >= MOST_FOUND:
                self.ended = "most"
            elif time.monotonic() > self._until:
                self.ended = "time"
            if self.ended != "end":
                return False
        return True

    def _lines(self, log: Kept, piece: bytes, number: int) -> int:
        for line in plain_lines(piece):
            number += 1
            at = line.lower().find(self._text)
            if at >= 0 and len(self.lines) < MOST_FOUND:
                step = f"{log.step.stage}/{log.step.name}"
                cut = _around(line, at)
                self.lines.append(Line(log.run, step, log.step.attempt, number, cut))
        return number


def _around(line: str, at: int) -> str:
    if len(line) <= LONGEST:
        return line
    begin = max(0, at - LONGEST // 2)
    end = begin + LONGEST
    return f"{'…' if begin else ''}{line[begin:end]}{'…' if end < len(line) else ''}"


def _pieces(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Give a log in pieces of whole lines; a line without end is cut, and said to be."""
    rest = b""
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                rest += block
                end = rest.rfind(b"\n") + 1
                if end:
                    yield rest[:end], True
                    rest = rest[end:]
                elif len(rest) >= BLOCK:
                    yield rest, False
                    rest = b""
    except FileNotFoundError:
        return
    if rest:
        yield rest, True


def _back(path: Path, size: int, lines: int) -> tuple[int, int]:
    """Return where a log's last lines begin, and how many of them are lacking."""
    with path.open("rb") as file:
        end, wanted = size, lines
        file.seek(size - 1)
        if file.read(1) == b"\n":
            wanted += 1  # the last line's own end
        while end:
            begin = max(0, end - BLOCK)
            file.seek(begin)
            block = file.read(end - begin)
            count = block.count(b"\n")
            if count >= wanted:
                at = len(block)
                for _ in range(wanted):
                    at = block.rfind(b"\n", 0, at)
                return begin + at + 1, 0
            wanted -= count
            end = begin
    return 0, max(wanted - 1, 0)
