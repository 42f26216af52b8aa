"""Asking the explainer from outside its environment: a question on stdin, an answer in a file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from penstock.domain import JSON

PROGRAM = Path(__file__).with_name("program") / "explainer.py"
"""Start it as ``python -I PROGRAM --folder DIR``."""
LIBRARIES = ("catboost", "lightgbm", "shap", "xgboost")
"""Without one of these the program has nothing to read trees with."""
MAX_BYTES = 32 << 20
"""Of an answer; the sandbox must not let the program write more."""


def exact(
    start: Callable[[IO[bytes]], subprocess.Popen[bytes]],
    tables: tuple[pa.Table, pa.Table],
    *,
    positive: str,
    timeout_s: float,
) -> JSON:
    """Ask for the exact values of some rows.

    Parameters
    ----------
    start
        Starts the program with this file as stdout and a pipe as stdin.
    tables
        The explained and the background rows.
    positive
        The class that answers speak of; empty for a number.

    Returns
    -------
    JSON
        What the program printed, or ``{"why": sentence}``. It is not to be believed.
    """
    explained, background = tables
    question = {
        "columns": explained.column_names,
        "rows": _rows(explained),
        "background": _rows(background),
        "positive": positive,
    }
    with tempfile.TemporaryFile() as out:
        process = start(out)
        with process:
            try:
                process.communicate(json.dumps(question, default=str).encode(), timeout_s)
            except subprocess.TimeoutExpired:
                return {"why": f"it took longer than the {timeout_s:.0f} s that were left"}
            finally:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
        out.seek(0)
        content = out.read(MAX_BYTES + 1)
    try:
        told: Any = json.loads(content)
    except ValueError:
        told = None
    if not isinstance(told, dict) or len(content) > MAX_BYTES:
        return {"why": f"the program ended without an answer (exit code {process.returncode})"}
    return cast("JSON", told)


def _rows(table: pa.Table) -> list[list[Any]]:
    columns = [table.column(name).to_pylist() for name in table.column_names]
    return [list(row) for row in zip(*columns, strict=True)]
