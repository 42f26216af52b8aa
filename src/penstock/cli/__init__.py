"""The command line: parse, call, write. Start reading at `commands`.

`main` is the program's entry. It imports nothing heavy before it knows what is wanted, and it
turns every error into what happened, why, and what to do next.
"""

from __future__ import annotations

import os
import sys

from penstock import __version__

GLOBAL_FLAGS = frozenset({"--json", "--no-color", "--no-input"})


def main() -> None:
    """Run the program and leave with its exit code."""
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-V"]):
        sys.stdout.write(f"penstock {__version__}\n")
        return
    # Typer's own pretty tracebacks import rich, which costs a tenth of a second.
    os.environ.setdefault("_TYPER_STANDARD_TRACEBACK", "1")
    from penstock.cli.running import run

    sys.exit(run(in_front(arguments)))


def in_front(arguments: list[str]) -> list[str]:
    """Let ``penstock status --json`` mean ``penstock --json status``.

    Examples
    --------
    >>> in_front(["status", "--json", "x"]), in_front(["reject", "3", "-m", "--", "--json"])
    (['--json', 'status', 'x'], ['reject', '3', '-m', '--', '--json'])
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [word for word in arguments[:end] if word in GLOBAL_FLAGS]
    rest = [word for word in arguments[:end] if word not in GLOBAL_FLAGS]
    return [*flags, *rest, *arguments[end:]]
