"""Small rules that several settings share, and how a block reports that one was broken.

Pydantic stops at a validator's first exception. So a rule here returns `Broken` values, and a
block raises all of its own in one go; `reading` unpacks them into faults.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Annotated, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

BROKEN = "penstock"
"""The type of the pydantic error that carries `Broken` values in its context."""

Positive = Annotated[float, Field(gt=0)]
UNIT_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|h|d)")


class Broken(NamedTuple):
    """One broken rule. `key` is relative to the value that was being checked."""

    code: str
    key: tuple[str | int, ...]
    reason: str
    fix: str


class Block(BaseModel):
    """A table of a configuration file: frozen, strict in its types, no unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def refuse(broken: Iterable[Broken]) -> None:
    """Raise what pydantic understands when any rule was broken."""
    found = tuple(broken)
    if found:
        raise PydanticCustomError(BROKEN, "broken rules", {"broken": found})


def wrong(reason: str, fix: str, *key: str | int) -> Broken:
    """Say that a value cannot be right."""
    return Broken("PS015", key, reason, fix)


def clash(reason: str, fix: str, *key: str | int) -> Broken:
    """Say that two values cannot both be right."""
    return Broken("PS016", key, reason, fix)


def not_yet(reason: str, fix: str, *key: str | int) -> Broken:
    """Say that a word is known and not available in this version."""
    return Broken("PS017", key, reason, fix)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that looks most like `word`, if one is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return near[0] if near else None


def duration_s(text: str) -> float:
    """Return the seconds of ``14 d``, ``24 h``, ``30 min`` or ``10 s``.

    Examples
    --------
    >>> duration_s("14 d"), duration_s("1.5h")
    (1209600.0, 5400.0)
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"not a duration: {text!r}")
    return float(match[1]) * UNIT_S[match[2]]


def _duration(text: str) -> str:
    try:
        duration_s(text)
    except ValueError:
        refuse([wrong(f'"{text}" is not a duration.', 'Write a number and a unit: "14 d".')])
    return text


def path_rule(text: str, *key: str | int, ends: Sequence[str] = ()) -> list[Broken]:
    """Check that a path stays inside the project and, with `ends`, has one of these endings."""
    path = PurePosixPath(text)
    if not text.strip() or path.is_absolute() or ".." in path.parts or "\0" in text:
        fix = "Write a path inside the project, relative to penstock.toml."
        return [wrong(f'"{text}" is not a path inside the project.', fix, *key)]
    if ends and not path.name.lower().endswith(tuple(ends)):
        wanted = " or ".join(ends)
        return [wrong(f'"{text}" does not end in {wanted}.', f"Name a {wanted} file.", *key)]
    return []


def _inside(text: str) -> str:
    refuse(path_rule(text))
    return text


def _scalar(value: object) -> object:
    if not isinstance(value, (str, int, float)):
        refuse([Broken("PS014", (), "is a list or a table.", "Write one value: text or number.")])
    return value


def _filled(text: str) -> str:
    if not text.strip():
        refuse([wrong("is empty.", "Write something, or take the key out.")])
    return text


def _matching(pattern: str, what: str, fix: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if compiled.fullmatch(text) is None:
            refuse([wrong(f'"{text}" {what}.', fix)])
        return text

    return AfterValidator(check)


def _ending(*ends: str) -> AfterValidator:
    def check(text: str) -> str:
        refuse(path_rule(text, ends=ends))
        return text

    return AfterValidator(check)


def _once(columns: tuple[str, ...]) -> tuple[str, ...]:
    refuse(
        wrong(f'"{column}" stands there {count} times.', "Name each column once.")
        for column, count in Counter(columns).items()
        if count > 1
    )
    return columns


Scalar = Annotated[bool | int | float | str, BeforeValidator(_scalar)]
Duration = Annotated[str, AfterValidator(_duration)]
Filled = Annotated[str, AfterValidator(_filled)]
ProjectPath = Annotated[str, AfterValidator(_inside)]
PythonFile = Annotated[str, _ending(".py")]
TableFile = Annotated[str, _ending(".csv", ".csv.gz", ".parquet")]
SecretName = Annotated[
    str,
    _matching(
        r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?",
        "cannot name a secret",
        "Use small letters, digits and hyphens, at most 63.",
    ),
]
Variable = Annotated[
    str,
    _matching(
        r"[A-Za-z_][A-Za-z0-9_]*",
        "cannot name a variable",
        "Use letters, digits and underscores, such as SEED.",
    ),
]
Sha256 = Annotated[
    str,
    _matching(
        r"[0-9a-f]{64}",
        "is not 64 small hex digits",
        "Write what sha256sum prints for the file.",
    ),
]
PythonVersion = Annotated[
    str,
    _matching(
        r"3\.[0-9]{1,2}(\.[0-9]{1,2})?", "is not a Python version", 'Write python = "3.11".'
    ),
]
Requirement = Annotated[
    str,
    # No option, address or second line: the text ends in a requirements file.
    _matching(
        r"(?!.* -)[A-Za-z0-9][A-Za-z0-9._-]*[ ]*(\[[A-Za-z0-9._, -]*\])?"
        r"""[A-Za-z0-9 ._,;<>=!~*'"()+-]*""",
        "is not a requirement",
        'Write a name and its bounds, such as "numpy<2".',
    ),
]
Columns = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_once)]
T = TypeVar("T")
Several = Annotated[tuple[T, ...], Field(strict=False)]
"""A list: TOML and JSON have no tuples, a frozen value has no lists."""
