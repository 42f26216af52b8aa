"""Reads the names and bounds of a project's dependency file, and nothing that it could run.

Only names, bounds and markers are taken. An index, an address or a path of its own in a
pushed file is refused: the operator says where packages come from.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, cast

from penstock.errors import StoppedError

SUPPORTED = ("uv.lock", "requirements.txt", "pyproject.toml")
"""The first that is there wins, but pyproject.toml beats a requirements.txt without pins."""

NOT_YET = (
    *("pylock.toml", "poetry.lock", "Pipfile.lock", "Pipfile", "conda.yaml"),
    *("python_env.yaml", "environment.yml", "environment.yaml", "setup.py", "setup.cfg"),
)

_INCLUDE = re.compile(r"(-r|--requirement|-c|--constraint)[ =]*(\S+)")
_PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[^\]]*\])?\s*===?\s*[^*\s]+(\s*;.*)?")
_BOUND = re.compile(r"(?P<sign>[<>=!~]=|[<>])\s*(?P<version>[0-9]+(\.[0-9]+)*)(?P<any>\.\*)?")
_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a project asks for, in names and bounds."""

    file: str
    """Its file, for sentences; ``penstock.toml`` where there is none."""
    lines: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    requires_python: str | None = None
    uv_lock: Path | None = None
    """Set when the pins come from this file; then the rest is empty."""
    note: str = ""
    """What was used, for the log."""

    def plus(self, extra: Iterable[str], overrides: Iterable[str]) -> Requirements:
        """Add what penstock.toml adds."""
        added = tuple(_safe(line, "penstock.toml", None) for line in extra)
        beats = tuple(_safe(line, "penstock.toml", None) for line in overrides)
        return replace(self, lines=self.lines + added, overrides=self.overrides + beats)


def read_requirements(project: Path) -> Requirements:
    """Read the project's dependency file, by the order of `SUPPORTED`.

    Raises
    ------
    StoppedError
        It cannot be read, or names more than packages and bounds.
    """
    for read in (_uv_lock, _pinned, _pyproject, _loose):
        if (found := read(project)) is not None:
            return replace(found, note=f"Dependencies: {found.file}.")
    _refuse_hidden_dependencies(project)
    for name in NOT_YET:
        if (project / name).is_file():
            raise StoppedError(
                "PS212",
                f"{name} is not read yet; the environment comes from {', '.join(SUPPORTED)}.",
                hint="Write the packages into requirements.txt, one a line, and push again.",
            )
    note = "Dependencies: no uv.lock, requirements.txt or pyproject.toml: Python alone."
    return Requirements("penstock.toml", note=note)


def pins(lock: str, *, hashes: bool = True) -> Iterator[str]:
    """Give the requirements of a lock's text, each as one line, its hashes sorted."""
    for _, line in _logical(lock):
        words = line.split()
        found = sorted(word for word in words if word.startswith("--hash="))
        rest = [word for word in words if not word.startswith("--hash=")]
        yield " ".join([*rest, *found] if hashes else rest)


def admits(requires_python: str | None, version: str) -> bool:
    """Whether a project that says ``requires-python`` runs on a version of Python.

    What is written in another way than by comparisons is not judged: True.

    Examples
    --------
    >>> admits(">=3.9,<3.12", "3.11.2"), admits(">=3.12", "3.11.2"), admits("~=3.11", "3.12.0")
    (True, False, True)
    >>> admits("==3.11.*", "3.11.2"), admits("!=3.11.*", "3.11.2"), admits("<=3.11", "3.11.2")
    (True, False, False)
    """
    have = _numbers(version)
    for part in (requires_python or "").split(","):
        match = _BOUND.fullmatch(part.strip())
        if match is None:
            continue
        bound = _numbers(match["version"])
        same = have[: len(bound)] == bound if match["any"] else _padded(have) == _padded(bound)
        order = (_padded(have) > _padded(bound)) - (_padded(have) < _padded(bound))
        compatible = order >= 0 and have[: len(bound) - 1] == bound[:-1]
        holds = {"==": same, "!=": not same, ">=": order >= 0, "<=": order <= 0}
        holds |= {">": order > 0, "<": order < 0, "~=": compatible}
        if not holds[match["sign"]]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _padded(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return (*numbers, 0, 0, 0)[:3]


def _logical(text: str) -> Iterator[tuple[int, str]]:
    """Give each line that says something, with its number, continued lines joined."""
    begun, parts = 0, list[str]()
    for number, raw in enumerate(text.splitlines(), 1):
        begun = begun if parts else number
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        parts.append(line.removesuffix("\\").strip())
        if not line.endswith("\\"):
            if joined := " ".join(filter(None, parts)):
                yield begun, joined
            parts = []
    if joined := " ".join(filter(None, parts)):
        yield begun, joined


def _safe(line: str, file: str, number: int | None) -> str:
    where = file if number is None else f"{file} line {number}"
    if re.search(r"(^|\s)-", line):
        what = (
            f"{where} has an option of its own: {line!r}. Packages come from the server's index."
        )
        _refuse(what, "Take the line out; the operator names the indexes.")
    name, _, marker = line.partition(";")
    if re.search(r"[/\\@$]|^\.", name) or "$" in marker:
        what = f"{where} names a package by address or path: {line!r}."
        _refuse(what, "Name the package and its bounds; copy the project's own code into git.")
    return line


def _refuse(what: str, hint: str) -> NoReturn:
    raise StoppedError("PS212", what, hint=hint)


def _loose(project: Path) -> Requirements | None:
    if not (project / "requirements.txt").is_file():
        return None
    lines, constraints = list[str](), list[str]()
    _collect(project.resolve(), (project / "requirements.txt").resolve(), lines, constraints)
    return Requirements("requirements.txt", tuple(lines), tuple(constraints))


def _pinned(project: Path) -> Requirements | None:
    if not (project / "requirements.txt").is_file():
        return None
    lines = list(pins(_text(project / "requirements.txt", "requirements.txt"), hashes=False))
    exact = bool(lines) and all(_PIN.fullmatch(line) for line in lines)
    return _loose(project) if exact else None


def _collect(
    project: Path, file: Path, lines: list[str], constraints: list[str], depth: int = 0
) -> None:
    shown = file.relative_to(project).as_posix()
    if depth > _DEPTH:
        _refuse(f"{shown} is included in a circle or too deep.", "Write one requirements.txt.")
    for number, line in _logical(_text(file, shown)):
        included = _INCLUDE.fullmatch(line)
        if included is None:
            pin = " ".join(word for word in line.split() if not word.startswith("--hash="))
            lines.append(_safe(pin, shown, number))
            continue
        other = (file.parent / included[2]).resolve()
        if not other.is_relative_to(project) or not other.is_file():
            what = (
                f"{shown} line {number} includes {included[2]}, which the project does not have."
            )
            _refuse(what, "Commit the file, or take the line out.")
        target = lines if included[1] in ("-r", "--requirement") else constraints
        _collect(project, other, target, constraints, depth + 1)


def _text(file: Path, shown: str) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"{shown} is not UTF-8 text (byte {error.start})."
        raise StoppedError("PS212", what, hint="Save it as UTF-8 and push again.") from error


def _toml(file: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(_text(file, file.name))
    except tomllib.TOMLDecodeError as error:
        what = f"{file.name} is not TOML: {error}."
        raise StoppedError("PS212", what, hint="Mend the line and push again.") from error


def _pyproject(project: Path) -> Requirements | None:
    name = "pyproject.toml"
    if not (project / name).is_file():
        return None
    table = _table(_toml(project / name), "project")
    if "dependencies" not in table:
        return None  # a file of tool settings only
    listed = table["dependencies"]
    if not isinstance(listed, list) or not all(
        isinstance(line, str) for line in cast("list[object]", listed)
    ):
        _refuse("pyproject.toml: dependencies is not a list of texts.", "Mend it and push again.")
    lines = tuple(_safe(line, name, None) for line in cast("list[str]", listed))
    wish = table.get("requires-python")
    return Requirements(name, lines, requires_python=None if wish is None else str(wish))


def _refuse_hidden_dependencies(project: Path) -> None:
    if not (project / "pyproject.toml").is_file():
        return
    content = _toml(project / "pyproject.toml")
    if "poetry" in _table(content, "tool"):
        what = "pyproject.toml keeps its dependencies in [tool.poetry], which is not read yet."
        _refuse(what, "Write them into requirements.txt, one a line, and push again.")
    if "dependencies" in _table(content, "project").get("dynamic", ()):
        what = (
            "pyproject.toml says that its dependencies are dynamic: its build would have to run."
        )
        _refuse(what, "List them under [project] dependencies, or in requirements.txt.")


def _table(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = content.get(name)
    return cast("Mapping[str, Any]", table) if isinstance(table, dict) else {}


def _uv_lock(project: Path) -> Requirements | None:
    name = "uv.lock"
    if not (project / name).is_file() or not (project / "pyproject.toml").is_file():
        return None
    packages = cast("Sequence[Mapping[str, Any]]", _toml(project / name).get("package", []))
    for package in packages:
        source = cast("Mapping[str, Any]", package.get("source", {}))
        own = source.get("virtual", source.get("editable"))
        if "registry" not in source and own != ".":
            kind = next(iter(source), "unknown")
            what = f"uv.lock takes {package.get('name')} from a {kind} source, not from an index."
            _refuse(what, "Use a published package; copy the project's own code into git.")
    wish = _table(_toml(project / "pyproject.toml"), "project").get("requires-python")
    bound = None if wish is None else str(wish)
    return Requirements(name, requires_python=bound, uv_lock=project / name)
