"""requirements.txt, as pip reads it and as people write it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from penstock.build.project.dependency_files.draft import Draft, pinned_version, refuse, text_of
from penstock.build.project.dependency_files.specs import add_conda
from penstock.ports import Requirements

NAME = "requirements.txt"

_INCLUDE = re.compile(r"(-r|--requirement|-c|--constraint)[ =]*(\S+)")
_EDITABLE = re.compile(r"(?:(?:-e|--editable)[ =]*)?(\.|\./|file:\.|file:///?\.)(\[[^\]]*\])?")
_INDEX = re.compile(
    r"(-i|--index-url|--pypi-url|--extra-index-url|-f|--find-links)[ =]*[\"']?([^\"'\s]+)[\"']?"
)
_HARMLESS = re.compile(
    r"(--no-index|--prefer-binary|--require-hashes|--no-cache-dir|--only-binary|--no-binary"
    r"|--trusted-host|--use-feature|--use-pep517|--no-deps|--upgrade|-U)([ =].*)?"
)
_HASH = re.compile(r"\s+--hash[ =]\s*(\S+)")
_CONDA_LINE = re.compile(r"[A-Za-z0-9._-]+=[0-9][^=\s]*=[A-Za-z0-9_.]+")
_DEPTH = 8


def read(project: Path) -> tuple[Requirements, bool] | None:
    """Read requirements.txt; ``complete`` is never said of it, for it may name only a few.

    Returns also whether it asks for the project itself, by ``-e .``.
    """
    if not (project / NAME).is_file():
        return None
    draft = Draft(NAME)
    collect(project, project / NAME, draft)
    return draft.done(), draft.itself


def is_pinned(wanted: Requirements) -> bool:
    """Whether every requirement names one exact version."""
    return bool(wanted.lines) and all(
        pinned_version(Requirement(line)) is not None for line in wanted.lines
    )


def collect(project: Path, file: Path, draft: Draft, *, constraint: bool = False) -> None:
    """Add what a requirements file and the files that it includes ask for."""
    _collect(project.resolve(), file.resolve(), draft, constraint=constraint, seen=())


def _collect(
    project: Path, file: Path, draft: Draft, *, constraint: bool, seen: tuple[Path, ...]
) -> None:
    shown = file.relative_to(project).as_posix()
    if file in seen or len(seen) > _DEPTH:
        refuse(f"{shown} is included in a circle or too deep.", "Write one requirements.txt.")
    draft.files.append(shown)
    for number, line in _logical(text_of(file, shown)):
        where = f"{shown} line {number}"
        found = _included(project, file.parent, line, where)
        if found is None:
            add_line(line, where, draft, constraint=constraint)
        else:
            limits = constraint or found[1]
            _collect(project, found[0], draft, constraint=limits, seen=(*seen, file))


def _included(project: Path, folder: Path, line: str, where: str) -> tuple[Path, bool] | None:
    """Return the file that a line includes, and whether it only limits; None without one."""
    included = _INCLUDE.fullmatch(line)
    if included is None:
        return None
    other = (folder / included[2]).resolve()
    if not other.is_relative_to(project) or not other.is_file():
        what = f"{where} includes {included[2]}, which the project does not have."
        refuse(what, "Commit the file, or take the line out.")
    return other, included[1] in ("-c", "--constraint")


def add_included(project: Path, folder: Path, line: str, where: str, draft: Draft) -> None:
    """Add a line of pip's that stands in another kind of file; it may include one beside that."""
    root = project.resolve()
    found = _included(root, folder.resolve(), line, where)
    if found is None:
        add_line(line, where, draft)
    else:
        _collect(root, found[0], draft, constraint=found[1], seen=())


def add_line(line: str, where: str, draft: Draft, *, constraint: bool = False) -> None:
    """Add one line of a requirements file that includes nothing."""
    if _EDITABLE.fullmatch(line):
        draft.itself = True
        draft.note(f"{where}: {line} is the project itself; its folder is on the path anyway.")
        return
    if (named := _INDEX.fullmatch(line)) is not None:
        draft.index(named[2], where)
        return
    if line.split("=")[0].split(" ")[0] == "--pre":
        draft.prereleases = True
        return
    if _HARMLESS.fullmatch(line):
        draft.note(f"{where}: {line.split()[0]} is left out; only wheels are installed here.")
        return
    if _CONDA_LINE.fullmatch(line):
        add_conda(line, where, draft)
        return
    digests = _HASH.findall(line)
    text = _HASH.sub("", line).strip()
    if re.search(r"(^|\s)-", text):
        what = f"{where} has an option that is not known here: {line[:200]!r}."
        refuse(what, "Take it out; the operator of the server names the indexes.")
    draft.add(text, where, constraint=constraint, hashes=digests)


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
