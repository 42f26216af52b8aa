"""One call of the program: its global options, its streams, its server.

stdout is for results, stderr for everything else. Marks have ASCII twins, a word always follows
a mark, and colours appear only on a terminal.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import typer

from penstock.client import DEFAULT_URL, Client
from penstock.errors import UsageError

MARKS: Mapping[str, tuple[str, str, int | None]] = {
    "passed": ("✓", "ok", 32),
    "failed": ("✗", "FAIL", 31),
    "undecided": ("▲", "?", 33),
    "warning": ("▲", "!", 33),
    "running": ("●", "*", 34),
    "waits": ("‖", "=", 35),
    "idle": ("–", "-", None),
}
"""Kind of mark: its shape, its ASCII twin and its colour (an ANSI number)."""


@dataclass(frozen=True)
class Session:
    """What the global options say."""

    server: str | None
    json: bool
    quiet: bool
    verbose: bool
    color: bool
    no_input: bool
    environ: Mapping[str, str]
    out: TextIO
    err: TextIO

    def write(self, text: str = "", *, mark: str | None = None) -> None:
        """Write a line of the result, for people; with --json there is none."""
        if not self.json:
            self._line(self.out, text, mark)

    def note(self, text: str, *, mark: str | None = None) -> None:
        """Write a line beside the result: progress, a warning, the next command."""
        if not self.quiet and not self.json:
            self._line(self.err, text, mark)

    def complain(self, text: str, *, mark: str | None = None) -> None:
        """Write a line of an error, quiet or not."""
        self._line(self.err, text, mark)

    def following(self, command: str) -> None:
        """Say which command comes next."""
        self.note(f"Next:  {command}")

    def data(self, thing: str, data: Any) -> None:
        """Write the result as JSON when --json asks for it."""
        if self.json:
            self.out.write(as_json({"schema": f"penstock.{thing}/1", "data": data}))
            self.out.flush()

    def confirm(self, question: str, *, yes: bool) -> None:
        """Go on only if a person says so; ``--yes`` says it before."""
        if yes:
            return
        self._need_a_person()
        self.err.write(f"{question} [y/N] ")
        self.err.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UsageError("PS053", "Nothing was changed.", hint="Answer y, or add --yes.")

    def typed(self, question: str, wanted: str, *, yes: bool) -> None:
        """Go on only if a person types `wanted`."""
        if yes:
            return
        self._need_a_person()
        self.err.write(f"{question}: ")
        self.err.flush()
        answer = sys.stdin.readline().strip()
        if answer != wanted:
            raise UsageError(
                "PS053",
                f'"{answer}" is not {wanted}; nothing was changed.',
                hint=f"Type {wanted}, or add --yes.",
            )

    def client(self) -> Client:
        """Return the client of the server that is meant."""
        predict_url = self.environ.get("PENSTOCK_PREDICT_URL")
        return Client(self.address(), self.token(), predict_url=predict_url)

    def address(self) -> str:
        """Return the server: option, environment, this repository, this computer."""
        stated = self.server or self.environ.get("PENSTOCK_SERVER")
        return stated or git_setting("penstock.url") or DEFAULT_URL

    def token(self) -> str | None:
        """Return the token; the repository's goes only to the repository's own server."""
        if stated := self.environ.get("PENSTOCK_TOKEN"):
            return stated
        kept_for = git_setting("penstock.url")
        if kept_for is None or kept_for.rstrip("/") != self.address().rstrip("/"):
            return None
        return git_setting("penstock.token")

    def _need_a_person(self) -> None:
        asks = sys.stdin.isatty() and self.err.isatty() and not self.environ.get("CI")
        if self.no_input or self.json or not asks:
            raise UsageError(
                "PS052",
                "This changes production and nobody is there to confirm it.",
                hint="Add --yes.",
            )

    def _line(self, stream: TextIO, text: str, mark: str | None) -> None:
        stream.write(f"{self.mark(mark, stream)} {text}\n" if mark else f"{text}\n")
        stream.flush()

    def mark(self, kind: str, stream: TextIO | None = None) -> str:
        """Return a mark as `stream` can show it."""
        stream = stream or self.out
        shape, ascii_twin, color = MARKS[kind]
        if not (stream.encoding or "").lower().startswith("utf"):
            shape = ascii_twin
        if color is None or not self._colored(stream):
            return shape
        return f"\x1b[{color}m{shape}\x1b[0m"

    def _colored(self, stream: TextIO) -> bool:
        if not self.color or self.environ.get("NO_COLOR"):
            return False
        if self.environ.get("FORCE_COLOR"):
            return True
        return stream.isatty() and self.environ.get("TERM") != "dumb"


def session(ctx: typer.Context) -> Session:
    """Return the session that the root callback made."""
    found = ctx.find_root().obj
    assert isinstance(found, Session), "the root callback makes the session"
    return found


def as_json(document: Any) -> str:
    """Write one JSON object on one line."""
    return json.dumps(document, ensure_ascii=False, default=str) + "\n"


def columns(rows: Iterable[Iterable[str]]) -> list[str]:
    """Align rows of cells; two spaces part the columns.

    Examples
    --------
    >>> columns([("a", "bb", "c"), ("aaa", "b", "")])
    ['a    bb  c', 'aaa  b']
    """
    table = [tuple(row) for row in rows]
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(_padded, row, widths)).rstrip() for row in table]


def _width(cell: str) -> int:
    """Return the length of a cell as it is seen: colours take no room."""
    return len(re.sub(r"\x1b\[\d+m", "", cell))


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - _width(cell))


def git(*arguments: str, cwd: Path | None = None) -> str | None:
    """Return what git prints, stripped; None when it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=cwd, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def git_setting(key: str) -> str | None:
    """Return a setting of the repository in the current folder."""
    return git("config", "--get", key) or None
