"""Locks: uv.lock, pylock.toml, poetry.lock, Pipfile.lock. Their versions count, and digests.

poetry.lock names no markers of its own in its older forms: there its versions bound what the
pyproject.toml beside it asks for, so that a resolver walks the groups, extras and markers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from packaging.markers import InvalidMarker, Marker
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from penstock.build.project.dependency_files import projects
from penstock.build.project.dependency_files.draft import (
    Draft,
    as_list,
    as_table,
    as_text,
    json_of,
    python_rule,
    refuse,
    table_in,
    toml_of,
)
from penstock.build.project.dependency_files.specs import python_wish
from penstock.ports import Requirements


def uv_lock(project: Path) -> Requirements | None:
    """Read uv.lock as far as needed: that every package comes from an index."""
    name = "uv.lock"
    if not (project / name).is_file() or not (project / "pyproject.toml").is_file():
        return None
    for package in _packages(toml_of(project / name, name), "package", name):
        source = table_in(package, "source")
        own = source.get("virtual", source.get("editable"))
        if "registry" not in source and own != ".":
            _refuse_source(name, package, next(iter(source), "unknown"))
    about = table_in(toml_of(project / "pyproject.toml", "pyproject.toml"), "project")
    bound = python_rule(about.get("requires-python"), "pyproject.toml: requires-python")
    return Requirements(name, requires_python=bound, uv_lock=project, complete=True, files=(name,))


def pylock(project: Path) -> Requirements | None:
    """Read pylock.toml (PEP 751)."""
    name = "pylock.toml"
    if not (project / name).is_file():
        return None
    content = toml_of(project / name, name)
    draft = Draft(name, complete=True)
    draft.requires_python = python_rule(content.get("requires-python"), f"{name}: requires-python")
    groups = content.get("default-groups", [])
    chosen = frozenset(str(one) for one in as_list(groups, f"{name}: default-groups"))
    for package in _packages(content, "packages", name):
        own = table_in(package, "directory").get("path") == "."
        for kind in ("vcs", "directory", "archive"):
            if kind in package and not own:
                _refuse_source(name, package, kind)
        marker = package.get("marker")
        if own or (marker is not None and (marker := _applies(str(marker), chosen)) is None):
            continue
        version = package.get("version")
        if version is None:
            what = f"{name} has no version of {package.get('name')}."
            refuse(what, "Lock it anew from an index.")
        files = [package.get("sdist"), *as_list(package.get("wheels"), f"{name}: wheels")]
        digests = [
            f"sha256:{one}"
            for file in files
            if isinstance(file, dict)
            and (one := table_in(cast("Mapping[str, Any]", file), "hashes").get("sha256"))
        ]
        line = f"{package.get('name')}=={version}" + (f" ; {marker}" if marker else "")
        draft.add(line, name, hashes=digests)
    return draft.done()


def _applies(marker: str, groups: frozenset[str]) -> str | None:
    """Return what is left of a marker without groups and extras; None where it says no."""
    if not re.search(r"\b(dependency_groups|extras)\b", marker):
        return marker
    try:
        holds = Marker(marker).evaluate(
            {"extras": frozenset[str](), "dependency_groups": groups}, context="lock_file"
        )
    except (InvalidMarker, KeyError, ValueError):
        return None
    return "" if holds else None


def poetry_lock(project: Path) -> Requirements | None:
    """Read poetry.lock, of any form since poetry 1.0, with the pyproject.toml beside it."""
    name = "poetry.lock"
    if not (project / name).is_file():
        return None
    asked = projects.pyproject(project)
    if asked is None:
        return None
    content = toml_of(project / name, name)
    draft = Draft(name, lines=list(asked.lines), complete=True)
    draft.requires_python, draft.prereleases = asked.requires_python, True
    draft.notes += asked.notes
    # Locks before 1.5 of poetry have the digests of all files in a table at the end.
    listed = table_in(content, "metadata", "files")
    versions = defaultdict[str, list[str]](list)
    needed = _closure(content, asked)
    for package in _packages(content, "package", name):
        title = canonicalize_name(str(package.get("name")))
        if title not in needed:
            continue
        _from_index(name, package, draft)
        version = as_text(package.get("version"), f"{name}: the version of {title}")
        versions[title].append(version)
        files = package.get("files", listed.get(str(package.get("name"))))
        digests = [
            str(cast("Mapping[str, Any]", file).get("hash"))
            for file in as_list(files, f"{name}: files of {title}")
            if isinstance(file, dict)
        ]
        draft.hashes.setdefault(f"{title}=={version}", set()).update(
            digest for digest in digests if re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
        )
    draft.hashes = {key: given for key, given in draft.hashes.items() if given}
    for title, found in sorted(versions.items()):
        draft.add(f"{title}{_pin(found, f'{name}: {title}')}", name, constraint=True)
    return draft.done()


def _pin(versions: list[str], where: str) -> str:
    """Give one version as a pin; several, of which markers choose one, as a range."""
    try:
        order = sorted(versions, key=Version)
    except InvalidVersion:
        refuse(f"{where} has a version that is none: {versions}.", "Lock it anew.")
    return f"=={order[0]}" if len(order) == 1 else f">={order[0]},<={order[-1]}"


def _closure(content: Mapping[str, Any], asked: Requirements) -> frozenset[str]:
    """Return the names that the asked ones need, however: groups of tools are not in it."""
    needs = defaultdict[str, set[str]](set)
    for package in _packages(content, "package", "poetry.lock"):
        own = canonicalize_name(str(package.get("name")))
        needs[own] |= {canonicalize_name(one) for one in table_in(package, "dependencies")}
        for listed in table_in(package, "extras").values():
            words = (str(one) for one in as_list(listed, "poetry.lock: extras"))
            needs[own] |= {canonicalize_name(re.split(r"[ \[(<>=!~;]", w)[0]) for w in words}
    found = set[str]()
    left: list[str] = [
        canonicalize_name(re.split(r"[ \[(<>=!~;]", line)[0]) for line in asked.lines
    ]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left.extend(needs.get(name, ()))
    return frozenset(found)


def _from_index(name: str, package: Mapping[str, Any], draft: Draft) -> None:
    source = table_in(package, "source")
    kind = source.get("type")
    if kind in ("git", "url", "directory", "file"):
        _refuse_source(name, package, str(kind))
    if kind == "legacy" and not package.get("files"):
        draft.index(str(source.get("url")), f"{name}: {package.get('name')}")


def pipfile_lock(project: Path) -> Requirements | None:
    """Read the group ``default`` of Pipfile.lock."""
    name = "Pipfile.lock"
    if not (project / name).is_file():
        return None
    content = json_of(project / name, name)
    draft = Draft(name, complete=True, prereleases=True)
    wanted = table_in(content, "_meta", "requires")
    python = wanted.get("python_full_version", wanted.get("python_version"))
    draft.python = python_wish(str(python)) if python is not None else None
    for title, said in table_in(content, "default").items():
        package = as_table(said, f"{name}: {title}")
        if package.get("path") in (".", "./"):
            continue
        for kind in ("git", "path", "file", "hg", "svn"):
            if kind in package:
                _refuse_source(name, {"name": title}, kind)
        extras = ",".join(str(one) for one in as_list(package.get("extras"), f"{name}: extras"))
        markers = package.get("markers")
        line = f"{title}[{extras}]" if extras else title
        line += str(package.get("version", "")) + (f" ; {markers}" if markers else "")
        digests = [str(one) for one in as_list(package.get("hashes"), f"{name}: hashes")]
        draft.add(line, f"{name}: {title}", hashes=digests)
    return draft.done()


def _packages(content: Mapping[str, Any], key: str, file: str) -> Iterator[Mapping[str, Any]]:
    for one in as_list(content.get(key), f"{file}: {key}"):
        yield as_table(one, f"{file}: a package")


def _refuse_source(file: str, package: Mapping[str, Any], kind: str) -> None:
    what = f"{file} takes {package.get('name')} from a {kind} source, not from an index."
    refuse(what, "Use a published package; copy the project's own code into git.")
