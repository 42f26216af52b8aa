"""Where two dependency files of a project disagree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, cast

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from penstock.build.project.dependency_files.draft import pinned_version, toml_of
from penstock.ports import Requirements

_SHOWN = 3


def versions(wanted: Requirements) -> dict[str, frozenset[str]]:
    """Return the pinned versions of each package by name; empty where it is not pinned."""
    found = defaultdict[str, set[str]](set)
    if wanted.uv_lock is not None:
        content = toml_of(wanted.uv_lock / "uv.lock", "uv.lock")
        for package in cast("list[Mapping[str, Any]]", content.get("package", [])):
            found[canonicalize_name(str(package.get("name")))].add(str(package.get("version")))
    for line in (*wanted.lines, *wanted.constraints):
        one = Requirement(line)
        pin = pinned_version(one)
        found[canonicalize_name(one.name)] |= {pin} if pin is not None else set()
    return {name: frozenset(pins) for name, pins in found.items()}


def disagreement(used: Requirements, other: Requirements) -> str | None:
    """Say in which packages another file differs from the one that is used; None if in none.

    A bound that the used version keeps is no difference.
    """
    have = versions(used)
    asked = dict(_asked(other))
    found = [
        f"{name} {_shown(have.get(name), name, used)} | {said}"
        for name, (said, admits) in sorted(asked.items())
        if not _agrees(have.get(name), admits, name, used)
    ]
    if not found:
        return None
    listed = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
    count = "1 package" if len(found) == 1 else f"{len(found)} packages"
    return f"Used {used.file}; {other.file} differs in {count} ({listed})."


def _asked(other: Requirements) -> Iterator[tuple[str, tuple[str, Requirement | frozenset[str]]]]:
    if other.uv_lock is not None:
        for name, pins in versions(other).items():
            yield name, (" or ".join(sorted(pins)), pins)
    lines = (*other.lines, *other.constraints) if other.complete else other.lines
    for line in lines:
        one = Requirement(line)
        pin = pinned_version(one)
        yield canonicalize_name(one.name), (pin or str(one.specifier) or "any", one)


def _agrees(
    have: frozenset[str] | None,
    admits: Requirement | frozenset[str],
    name: str,
    used: Requirements,
) -> bool:
    if have is None:  # a lock of everything may hold what this one leaves to others
        return isinstance(admits, frozenset)
    if isinstance(admits, frozenset):
        return not have or bool(have & admits)
    if have:
        return any(_admitted(admits, version) for version in have)
    mine = next(
        Requirement(line)
        for line in used.lines
        if canonicalize_name(Requirement(line).name) == name
    )
    pin = pinned_version(admits)
    return _admitted(mine, pin) if pin is not None else True


def _admitted(wanted: Requirement, version: str) -> bool:
    try:
        return wanted.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _shown(have: frozenset[str] | None, name: str, used: Requirements) -> str:
    if have is None:
        return "-"
    if have:
        return " or ".join(sorted(have))
    for line in used.lines:
        one = Requirement(line)
        if canonicalize_name(one.name) == name:
            return str(one.specifier) or "any"
    return "any"
