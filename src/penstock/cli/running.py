"""Run one command and turn what went wrong into words, JSON and an exit code."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, cast

import typer
from typer.main import get_command

from penstock.cli.commands import app
from penstock.cli.session import Session, as_json
from penstock.errors import ConfigurationError, PenstockError

INTERRUPTED = 130
DOCS = "docs/errors"


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code."""
    wants_json = "--json" in arguments
    command = get_command(app)
    try:
        # Not by calling the command: that would end the process itself on a broken pipe.
        with command.make_context("penstock", list(arguments)) as context:
            result = command.invoke(context)
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except typer.Exit as left:
        code = left.exit_code
    except PenstockError as error:
        _tell(error, wants_json=wants_json)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\nStopped. Nothing that the server does was ended by this.\n")
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader has left, as `| head` does; nothing more can be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except typer.TyperException as error:
        code = error.exit_code
        _usage(error, wants_json=wants_json)
    except Exception as error:  # noqa: BLE001  the last resort: a sentence, never a traceback
        _bug(error, wants_json=wants_json, verbose="-v" in arguments)
        code = 1
    return code


def _tell(error: PenstockError, *, wants_json: bool) -> None:
    if wants_json:
        sys.stdout.write(as_json({"error": error_json(error)}))
        return
    plain = _plain(sys.stderr)
    plain.complain(f"{error.code} {error.what}", mark="failed")
    if isinstance(error, ConfigurationError):
        for fault in error.faults:
            where = fault.file if fault.line is None else f"{fault.file}:{fault.line}"
            plain.complain(f"  {where}  {fault.key}: {fault.code} {fault.reason}")
            plain.complain(f"    {fault.fix}")
    else:
        plain.complain(f"  Try: {error.hint}")


def error_json(error: PenstockError) -> dict[str, Any]:
    """Return an error as the interface's JSON form has it."""
    document: dict[str, Any] = {
        "code": error.code,
        "name": type(error).__name__,
        "message": error.what,
        "cause": None,
        "next": [error.hint],
        "docs": f"{DOCS}#{error.code.lower()}",
    }
    if isinstance(error, ConfigurationError):
        document["faults"] = [
            {key: getattr(fault, key) for key in ("code", "file", "line", "key", "reason", "fix")}
            for fault in error.faults
        ]
    return document


def _usage(error: typer.TyperException, *, wants_json: bool) -> None:
    message = error.format_message()
    if wants_json:
        told = {"code": "PS051", "name": "UsageError", "message": message, "cause": None}
        sys.stdout.write(as_json({"error": {**told, "next": ["penstock --help"], "docs": DOCS}}))
    elif message.lstrip().startswith("Usage"):
        sys.stderr.write(f"{message}\n")
    else:
        plain = _plain(sys.stderr)
        plain.complain(f"PS051 {message}", mark="failed")
        plain.complain("  Try: penstock --help")


def _bug(error: Exception, *, wants_json: bool, verbose: bool) -> None:
    text = "".join(traceback.format_exception(error))
    handle, name = tempfile.mkstemp(prefix=f"penstock-{datetime.now(UTC):%Y%m%d-%H%M%S}-")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    what = f"Penstock has a fault of its own: {type(error).__name__}: {error}"
    hint = f"The traceback is in {Path(name)}; please report it."
    _tell(PenstockError("PS090", what, hint=hint), wants_json=wants_json)
    if verbose:
        sys.stderr.write(text)


def _plain(stream: TextIO) -> Session:
    return Session(
        server=None,
        json=False,
        quiet=False,
        verbose=False,
        color="--no-color" not in sys.argv,
        no_input=True,
        environ=cast("Mapping[str, str]", os.environ),
        out=sys.stdout,
        err=stream,
    )
