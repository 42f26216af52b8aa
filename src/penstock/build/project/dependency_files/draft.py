"""What one file says, while it is read: requirements that are safe to hand to a resolver.

Only names, bounds, markers and digests are taken. An address or a path is refused, an index is
noted with its place: where packages come from is the operator's to say.
"""

from __future__ import annotations

import codecs
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from penstock.build.project.distributions import ALIASES, LEFT_OUT, is_standard, meant
from penstock.errors import StoppedError
from penstock.ports import IndexNamed, Requirements

MAX_BYTES = 32 << 20
_ADDRESS = re.compile(
    r"://|^(git|hg|svn|bzr)\+|^\.{1,2}([/\\]|$)|^[/\\~]|\.(whl|zip|tar\.gz|tgz)$"
)
_DIGEST = re.compile(r"sha(256|384|512):[0-9a-f]{64,128}")
_LOCAL = re.compile(r"(===?\s*[0-9][0-9A-Za-z.!]*?)\+[0-9A-Za-z][0-9A-Za-z.]*")
_NO_STAR = re.compile(r"((?:>=|<=|>|<|~=)\s*[0-9][0-9.]*?)\.\*")


@dataclass
class Draft:
    """A dependency file that is being read."""

    file: str
    lines: list[str] = field(default_factory=list[str])
    constraints: list[str] = field(default_factory=list[str])
    hashes: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    indexes: list[IndexNamed] = field(default_factory=list[IndexNamed])
    notes: list[str] = field(default_factory=list[str])
    files: list[str] = field(default_factory=list[str])
    requires_python: str | None = None
    python: str | None = None
    complete: bool = False
    prereleases: bool = False
    itself: bool = False
    """Whether it asks for the project's own package."""
    left_out: list[str] = field(default_factory=list[str])
    """Packages of conda that are none of Python."""

    def add(
        self, text: str, where: str, *, constraint: bool = False, hashes: Iterable[str] = ()
    ) -> Requirement | None:
        """Add one requirement; None where it names nothing that could be installed."""
        wanted = requirement(text, where, self.notes)
        if wanted is None:
            return None
        (self.constraints if constraint else self.lines).append(str(wanted))
        pin = pinned_version(wanted)
        given = {digest for digest in hashes if _DIGEST.fullmatch(digest)}
        if pin is not None and given:
            key = f"{canonicalize_name(wanted.name)}=={pin}"
            self.hashes.setdefault(key, set()).update(given)
        return wanted

    def note(self, sentence: str) -> None:
        """Tell a person, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def index(self, url: str, where: str) -> None:
        """Take down an index that the file names."""
        self.indexes.append(IndexNamed(url, where))

    def done(self) -> Requirements:
        """Return what was read."""
        if names := list(dict.fromkeys(self.left_out)):
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            count = "1 package is" if len(names) == 1 else f"{len(names)} packages are"
            self.note(f"{self.file}: {count} no part of Python and left out ({shown}).")
        return Requirements(
            file=self.file,
            lines=tuple(dict.fromkeys(self.lines)),
            constraints=tuple(dict.fromkeys(self.constraints)),
            hashes={key: frozenset(given) for key, given in self.hashes.items()},
            complete=self.complete,
            requires_python=self.requires_python,
            python=self.python,
            python_from=self.file if self.python is not None else "",
            prereleases=self.prereleases,
            indexes=tuple(self.indexes),
            files=tuple(dict.fromkeys([self.file, *self.files])),
            notes=tuple(dict.fromkeys(self.notes)),
        )


def requirement(text: str, where: str, notes: list[str] | None = None) -> Requirement | None:
    """Read one requirement of PEP 508, as people write it; None where it names nothing.

    Parameters
    ----------
    where
        ``requirements.txt line 4``, for sentences.
    notes
        Gets a sentence for everything that was understood otherwise than written.

    Raises
    ------
    StoppedError
        PS212, it is no requirement, or it says where the package comes from.
    """
    told = notes if notes is not None else []
    text = text.strip()
    name, at, rest = text.partition("@")
    if at and "://" in rest and (found := _of_another_computer(name, rest, where, told)):
        text = found
    name = text.partition(";")[0].strip()
    if _ADDRESS.search(name) or "@" in name or "$" in text or "\\" in text:
        what = f"{where} names a package by address or path: {text[:200]!r}."
        refuse(what, "Name the package and its bounds; copy the project's own code into git.")
    mended = _LOCAL.sub(r"\1", _NO_STAR.sub(r"\1", text))
    try:
        wanted = Requirement(mended)
    except (InvalidRequirement, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it cannot be parsed"
        single = re.fullmatch(r"([A-Za-z0-9._-]+)\s*=\s*([0-9][^=\s]*)", name)
        hint = "Mend the line and push again."
        hint = f'Did you mean "{single[1]}=={single[2]}"?' if single else hint
        refuse(f"{where} is no requirement: {text[:200]!r} ({reason}).", hint)
    if _LOCAL.search(text):
        told.append(f"{where}: {text} is taken without its local label, as {mended}.")
    return _known(wanted, where, told)


def _of_another_computer(name: str, address: str, where: str, notes: list[str]) -> str | None:
    """Read ``numpy @ file:///tmp/build/…``, which pip freeze writes in a conda environment."""
    address = address.strip()
    if not address.startswith("file:///"):
        return None
    path, _, marker = address.partition(" ;")
    built = re.search(r"/([^/]+)-([0-9][^/-]*)-[^/]*\.whl$", path.partition("#")[0])
    version = f"=={built[2]}" if built else ""
    how = f"version {built[2]}" if built else "any version"
    notes.append(f"{where}: {name.strip()} lies on another computer ({path}); {how} is taken.")
    return f"{name.strip()}{version}" + (f" ;{marker}" if marker else "")


def _known(wanted: Requirement, where: str, notes: list[str]) -> Requirement | None:
    name = canonicalize_name(wanted.name)
    if name in LEFT_OUT or is_standard(name):
        why = LEFT_OUT.get(name, "comes with Python itself")
        notes.append(f"{where}: {wanted.name} {why}; left out.")
        return None
    if (real := ALIASES.get(name)) is not None:
        notes.append(f"{where}: {wanted.name} is taken as {real}, its name on the index.")
        other = Requirement(real)
        other.marker = wanted.marker
        return other
    if (near := meant(name)) is not None:
        notes.append(f'{where}: "{wanted.name}" is one letter from "{near}". Meant?')
    return wanted


def pinned_version(wanted: Requirement) -> str | None:
    """Return the one version that a requirement admits; None if it admits several."""
    for one in wanted.specifier:
        if one.operator in ("==", "===") and not one.version.endswith(".*"):
            return one.version
    return None


def with_configured(
    wanted: Requirements, extra: Iterable[str], override: Iterable[str]
) -> Requirements:
    """Add what penstock.toml says under ``[environment]``: it goes on top."""
    notes = list(wanted.notes)
    added = [requirement(text, "penstock.toml", notes) for text in extra]
    beats = [requirement(text, "penstock.toml", notes) for text in override]
    more = [one for one in added if one is not None]
    over = [one for one in beats if one is not None]
    names = {canonicalize_name(one.name) for one in over}
    hashes = {k: v for k, v in wanted.hashes.items() if k.partition("==")[0] not in names}
    return replace(
        wanted,
        lines=(*wanted.lines, *map(str, more)),
        overrides=(*wanted.overrides, *map(str, over)),
        hashes=hashes,
        added=tuple(canonicalize_name(one.name) for one in (*more, *over)),
        notes=tuple(dict.fromkeys(notes)),
    )


def refuse(what: str, hint: str) -> NoReturn:
    """Stop with the sentence of a file that cannot be used."""
    raise StoppedError("PS212", what, hint=hint)


def text_of(path: Path, shown: str) -> str:
    """Read a text file of the project, in UTF-8, or in what its byte order mark says."""
    if path.stat().st_size > MAX_BYTES:
        refuse(f"{shown} has more than {MAX_BYTES >> 20} MB.", "Name packages and bounds only.")
    raw = path.read_bytes()
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"{shown} is not UTF-8 text (byte {error.start})."
        raise StoppedError("PS212", what, hint="Save it as UTF-8 and push again.") from error


def toml_of(path: Path, shown: str) -> Mapping[str, Any]:
    """Read a TOML file of the project."""
    try:
        return tomllib.loads(text_of(path, shown))
    except (ValueError, RecursionError) as error:
        what = f"{shown} is not TOML: {_reason(error)}."
        raise StoppedError("PS212", what, hint="Mend the line and push again.") from error


def json_of(path: Path, shown: str) -> Mapping[str, Any]:
    """Read a JSON object of the project."""
    try:
        content: object = json.loads(text_of(path, shown))
    except (ValueError, RecursionError) as error:
        what = f"{shown} is not JSON: {_reason(error)}."
        raise StoppedError("PS212", what, hint="Mend it and push again.") from error
    return as_table(content, shown)


def yaml_of(path: Path, shown: str) -> Mapping[str, Any]:
    """Read a YAML mapping of the project, every value as the text that stands there.

    A Python of 3.10 is no number: as one it would be 3.1.
    """
    try:
        content: object = yaml.load(text_of(path, shown), Loader=yaml.BaseLoader)  # noqa: S506 -- texts only
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = f"{shown} is not YAML: {_reason(error)}."
        raise StoppedError("PS212", what, hint="Mend the line and push again.") from error
    return as_table(content if content not in (None, "") else {}, shown)


def as_table(value: object, what: str) -> Mapping[str, Any]:
    """Take a value as a table, or refuse the file."""
    if not isinstance(value, dict):
        refuse(f"{what} is not a table of names and values.", "Mend it and push again.")
    return cast("Mapping[str, Any]", value)


def as_list(value: object, what: str) -> list[object]:
    """Take a value as a list, or refuse the file; nothing is an empty list."""
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        refuse(f"{what} is not a list.", "Mend it and push again.")
    return cast("list[object]", value)


def as_text(value: object, what: str) -> str:
    """Take a value as a text, or refuse the file."""
    if not isinstance(value, str):
        refuse(f"{what} is not a text.", "Mend it and push again.")
    return value


def table_in(content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return a table inside a table; an empty one where it is missing or something else."""
    for key in keys:
        found: object = content.get(key)
        content = cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}
    return content


def python_rule(value: object, where: str) -> str | None:
    """Return a ``requires-python`` that can be judged; None without one."""
    if value is None:
        return None
    text = as_text(value, where)
    try:
        SpecifierSet(text)
    except ValueError:
        refuse(f"{where} is no bound of Python versions: {text[:80]!r}.", 'Write ">=3.10".')
    return text


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return " ".join(str(error).split())[:300]
