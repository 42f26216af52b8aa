"""Find the line of a dotted key in a TOML text.

The standard parser keeps no positions. Penstock's files are small and plain, so one pass over
the lines suffices: it follows table headers and keys at the start of a line, and skips
multi-line strings. A key inside an inline table has the line of the key that holds it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

Key = tuple[str | int, ...]

_PART = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]")
_ASSIGNED = re.compile(rf"\s*({_DOTTED})\s*=")
_FENCE = re.compile(r'"""|\'\'\'')


def line_index(text: str) -> Mapping[Key, int]:
    """Map the path of each table and key of a TOML text to its line, counted from 1."""
    found: dict[Key, int] = {}
    table: Key = ()
    arrays = Counter[Key]()
    inside_string = False
    for number, line in enumerate(text.splitlines(), start=1):
        fences = len(_FENCE.findall(line))
        if inside_string:
            inside_string = fences % 2 == 0
            continue
        inside_string = fences % 2 == 1
        if header := _HEADER.match(line):
            table = _parts(header[2])
            if header[1] == "[[":
                found.setdefault(table, number)
                arrays[table] += 1
                table = (*table, arrays[table] - 1)
            found.setdefault(table, number)
        elif assigned := _ASSIGNED.match(line):
            key = (*table, *_parts(assigned[1]))
            for depth in range(len(table) + 1, len(key) + 1):
                found.setdefault(key[:depth], number)
    return found


def line_of(index: Mapping[Key, int], key: Sequence[str | int]) -> int | None:
    """Return the line of `key`, or of the nearest thing around it that has one."""
    for depth in range(len(key), 0, -1):
        if (line := index.get(tuple(key[:depth]))) is not None:
            return line
    return None


def dotted(key: Sequence[str | int]) -> str:
    """Write a path as TOML does.

    Examples
    --------
    >>> dotted(("data", "data/train.csv", "source")), dotted(("monitor", 1, "every"))
    ('data."data/train.csv".source', 'monitor[1].every')
    """
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", part)
            text += ("." if text else "") + (part if bare else f'"{part}"')
    return text


def _parts(text: str) -> Key:
    return tuple(part[1:-1] if part[0] in "\"'" else part for part in re.findall(_PART, text))
