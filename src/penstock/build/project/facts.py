"""What was found out about a project, and how its text files are read. Nothing here runs code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from penstock.errors import StoppedError

MAX_TEXT_BYTES = 1_000_000
"""Longer files are not looked into: code and settings of people are shorter."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that was found out."""

    name: str
    """``run``, ``model``, ``metrics``, ``dependencies``, ``python``, ``data``, ``evaluate`` or
    ``task``."""
    value: str
    source: str
    """The file that it came from."""
    overrule: str
    """What to write, and where, for another answer."""


def text_of(path: Path) -> str:
    """Return a text file of the project; nothing of one that is not there or too long."""
    try:
        if path.is_file() and path.stat().st_size <= MAX_TEXT_BYTES:
            return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        pass
    return ""


def table(value: object) -> dict[str, Any]:
    """Return a table of a YAML or TOML file with its keys as text; empty for anything else."""
    if not isinstance(value, dict):
        return {}
    return {str(key): one for key, one in cast("dict[object, Any]", value).items()}


def yaml_of(project: Path, name: str) -> dict[str, Any]:
    """Return a YAML file of the project as a table.

    Raises
    ------
    StoppedError
        PS034, it is not YAML, too large, or no table.
    """
    path = project / name
    reason = ""
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            reason = f"it has {path.stat().st_size:,} bytes"
        else:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
            if isinstance(loaded, dict):
                return table(cast("object", loaded))
            reason = "it is not a table of keys"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"line {mark.line + 1}: " if mark is not None else ""
        reason = f"{at}{getattr(error, 'problem', None) or 'it is not YAML'}"
    except RecursionError:
        reason = "it is nested too deep"
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = str(error).splitlines()[0]
    what = f"{name} cannot be read: {reason}."
    raise StoppedError("PS034", what, hint="Mend the file, or set [build] run in penstock.toml.")
