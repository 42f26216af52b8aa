"""CARD.md: a YAML head between ``---`` lines, then text under headings, as Hugging Face has it.

What people wrote is read with bounds and never refused: what is not understood is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import yaml

PARTS: Mapping[str, tuple[str, ...]] = {
    "benefit": ("benefit", "benefits", "gain", "what you gain"),
    "work": ("work", "cost", "costs", "what it costs"),
    "risks": ("risks", "risk", "what could go wrong"),
}
"""What only people know, and must be said at risk high: key of the head, headings that do too."""
USES = ("intended use", "intended uses", "uses", "use", "intended_use")
LIMITS = ("limitations", "limits", "bias, risks, and limitations", "out-of-scope use")
_MOST_HEAD = 64 << 10
_MOST_TEXT = 256 << 10
_MOST_DEPTH = 20
_EMPTY = frozenset({"", "todo", "tbd", "none yet", "...", "…", "-", "?", "null", "~"})
"""What stands where nobody has written yet."""


@dataclass(frozen=True, slots=True)
class Card:
    """What CARD.md says."""

    head: Mapping[str, str]
    """By key, in small letters; lists as lines with a dash."""
    sections: Mapping[str, str]
    """By heading, in small letters."""
    text: str = ""
    """All that stands below the head, without comments."""
    fields: Mapping[str, Any] | None = None
    """The head as YAML has it; None where it is none."""

    def part(self, key: str) -> str:
        r"""Return what is said of a part of `PARTS`; empty where nothing is.

        Examples
        --------
        >>> card = read_card("---\nwork: TODO\n---\n## Costs\nTwo hours a month.\n")
        >>> card.part("work"), card.part("risks")
        ('Two hours a month.', '')
        """
        return self.under(key, *PARTS[key])

    def under(self, *names: str) -> str:
        """Return the first text under one of several keys or headings; empty without one."""
        places = (self.head, self.sections)
        found = (place.get(name, "").strip() for place in places for name in names)
        return next((text for text in found if text.lower() not in _EMPTY), "")

    @property
    def gaps(self) -> list[str]:
        """The parts of which nothing is said."""
        return [key for key in PARTS if not self.part(key)]


def read_card(text: str) -> Card:
    r"""Read CARD.md.

    Examples
    --------
    >>> card = read_card("---\nbenefit: fewer losses\nrisks:\n  - drift\n---\n## Work\nNone.\n")
    >>> dict(card.head), dict(card.sections)
    ({'benefit': 'fewer losses', 'risks': '- drift'}, {'work': 'None.'})
    """
    plain = re.sub(r"<!--.*?(-->|\Z)", "", text[:_MOST_TEXT], flags=re.DOTALL)
    lines = plain.replace("\r\n", "\n").lstrip("\ufeff\n ").split("\n")
    head: list[str] = []
    if lines[0].strip() == "---":
        ends = [number for number, line in enumerate(lines) if number and line.strip() == "---"]
        if ends:
            head, lines = lines[1 : ends[0]], lines[ends[0] + 1 :]
    fields = _fields("\n".join(head))
    told = _lines_of(head) if fields is None else _texts(fields)
    return Card(told, _sections(lines), "\n".join(lines).strip(), fields)


class _Plain(yaml.SafeLoader):
    """YAML without aliases, which can make much of little, and not nested for ever."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent) or self._depth > _MOST_DEPTH:  # pyright: ignore[reportUnknownMemberType]
            raise yaml.YAMLError("not in a card")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _fields(head: str) -> Mapping[str, Any] | None:
    """Read the head as YAML; None where it is none, as with a colon in a sentence."""
    if len(head) > _MOST_HEAD:
        return None
    try:
        told: Any = yaml.load(head, Loader=_Plain)  # noqa: S506 -- a safe loader, made safer
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    if told is None:
        return {}
    if not isinstance(told, dict):
        return None
    return {str(key): value for key, value in cast("dict[object, Any]", told).items()}


def _texts(fields: Mapping[str, Any]) -> dict[str, str]:
    return {key.lower(): _text(value) for key, value in fields.items()}


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(f"- {_text(one)}" for one in cast("list[object]", value))
    if isinstance(value, dict):
        pairs = cast("dict[object, object]", value).items()
        return "\n".join(f"{key}: {_text(one)}" for key, one in pairs)
    return str(value).strip()


def _lines_of(lines: Sequence[str]) -> dict[str, str]:
    """Read a head that is no YAML line by line."""
    found: dict[str, list[str]] = {}
    key: str | None = None
    for line in lines:
        match = re.match(r"([A-Za-z_][\w-]*)\s*:(.*)$", line)
        if match:
            key = str(match[1]).lower()
            first = match[2].strip()
            # A lone | or > announces the lines that follow; it is no text.
            found[key] = [] if first in {"", "|", ">", "|-", ">-"} else [_unquoted(first)]
        elif key is not None and line.strip() and not line.lstrip().startswith("#"):
            found[key].append(line.strip())
    return {name: "\n".join(parts) for name, parts in found.items()}


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return re.split(r"\s+#", text, maxsplit=1)[0]


def _sections(lines: Sequence[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    heading: str | None = None
    fenced = False
    for line in lines:
        fenced ^= line.lstrip().startswith("```")
        match = None if fenced else re.match(r"(#{1,2})\s+(.+?)\s*#*$", line)
        if match:
            heading = str(match[2]).lower()
            found.setdefault(heading, [])
        elif heading is not None:
            found[heading].append(line)
    return {name: "\n".join(parts).strip() for name, parts in found.items()}
