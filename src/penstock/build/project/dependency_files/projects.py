"""What a project asks for in its own settings: pyproject.toml, Pipfile, setup.cfg, setup.py.

Groups for development are left out. Nothing of the project runs: setup.py is parsed, and a
list that it computes cannot be read.
"""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from packaging.specifiers import SpecifierSet

from penstock.build.project.dependency_files import pip_files
from penstock.build.project.dependency_files.draft import (
    Draft,
    as_list,
    as_table,
    as_text,
    python_rule,
    refuse,
    table_in,
    text_of,
    toml_of,
)
from penstock.build.project.dependency_files.specs import bounds, python_wish
from penstock.ports import Requirements

_ELSEWHERE = ("git", "path", "url", "file", "hg", "svn")


def pyproject(project: Path) -> Requirements | None:
    """Read ``[project]`` or ``[tool.poetry]`` of pyproject.toml; None where it has neither."""
    name = "pyproject.toml"
    if not (project / name).is_file():
        return None
    content = toml_of(project / name, name)
    about = table_in(content, "project")
    draft = Draft(name)
    for source in as_list(table_in(content, "tool", "poetry").get("source"), f"{name}: source"):
        table = as_table(source, f"{name}: a source of poetry")
        if table.get("url"):
            draft.index(str(table["url"]), f"{name}: source {table.get('name')}")
    if "dependencies" in about:
        rule = about.get("requires-python")
        draft.requires_python = python_rule(rule, f"{name}: requires-python")
        for one in as_list(about["dependencies"], f"{name}: dependencies"):
            line = as_text(one, f"{name}: a dependency")
            draft.add(line, name)
        return draft.done()
    dynamic = about.get("dynamic")
    if isinstance(dynamic, list) and "dependencies" in cast("list[object]", dynamic):
        return _dynamic(project, content, draft)
    poetry = table_in(content, "tool", "poetry")
    return _poetry(poetry, draft) if "dependencies" in poetry else None


def _dynamic(project: Path, content: Mapping[str, Any], draft: Draft) -> Requirements:
    """Read dependencies that setuptools takes from a file; others would need its build to run."""
    where = table_in(content, "tool", "setuptools", "dynamic", "dependencies").get("file")
    files = [where] if isinstance(where, str) else where
    if not isinstance(files, list):
        refuse(
            "pyproject.toml says that its dependencies are dynamic: its build would have to run.",
            "List them under [project] dependencies, or in requirements.txt.",
        )
    for one in cast("list[object]", files):
        path = (project / as_text(one, "pyproject.toml: a file of dependencies")).resolve()
        if not path.is_relative_to(project.resolve()) or not path.is_file():
            what = f"pyproject.toml takes its dependencies from {one}, which is not there."
            refuse(what, "Commit the file, or mend the name.")
        pip_files.collect(project, path, draft)
    return draft.done()


def _poetry(poetry: Mapping[str, Any], draft: Draft) -> Requirements:
    for title, said in table_in(poetry, "dependencies").items():
        where = f"{draft.file}: {title}"
        if title.lower() == "python":
            draft.requires_python = bounds(as_text(said, where), where) or None
            continue
        choices = cast("list[object]", said) if isinstance(said, list) else [said]
        for choice in choices:
            line = _poetry_line(title, choice, where, draft)
            if line is not None:
                draft.add(line, where)
    return draft.done()


def _poetry_line(title: str, said: object, where: str, draft: Draft) -> str | None:
    if isinstance(said, str):
        return f"{title}{bounds(said, where)}"
    table = as_table(said, where)
    _refuse_elsewhere(where, table)
    if table.get("optional"):
        return None
    draft.prereleases = draft.prereleases or bool(table.get("allow-prereleases"))
    markers = [f"({table['markers']})"] if table.get("markers") else []
    if table.get("python"):
        pythons = bounds(as_text(table["python"], where), where)
        markers += [_python_marker(one.operator, one.version) for one in SpecifierSet(pythons)]
    if table.get("platform"):
        markers.append(f"sys_platform == '{table['platform']}'")
    version = bounds(as_text(table.get("version", "*"), where), where)
    marker = " and ".join(sorted(markers))
    return _line(title, table, version, marker, where)


def _python_marker(operator: str, version: str) -> str:
    full = version.removesuffix(".*").count(".") > 1
    return f"python_{'full_' if full else ''}version {operator} '{version}'"


def _line(title: str, table: Mapping[str, Any], version: str, marker: str, where: str) -> str:
    extras = ",".join(str(one) for one in as_list(table.get("extras"), f"{where}: extras"))
    name = f"{title}[{extras}]" if extras else title
    return f"{name}{version}" + (f" ; {marker}" if marker else "")


def pipfile(project: Path) -> Requirements | None:
    """Read the packages of a Pipfile."""
    name = "Pipfile"
    if not (project / name).is_file():
        return None
    content = toml_of(project / name, name)
    draft = Draft(name)
    for source in as_list(content.get("source"), f"{name}: source"):
        url = as_table(source, f"{name}: a source").get("url")
        if url:
            draft.index(str(url), f"{name}: source")
    wanted = table_in(content, "requires")
    python = wanted.get("python_full_version", wanted.get("python_version"))
    draft.python = python_wish(str(python)) if python is not None else None
    draft.prereleases = bool(table_in(content, "pipenv").get("allow_prereleases"))
    for title, said in table_in(content, "packages").items():
        where = f"{name}: {title}"
        table = {"version": said} if isinstance(said, str) else dict(as_table(said, where))
        if table.get("path") in (".", "./"):
            draft.note(f"{where} is the project itself; its folder is on the path anyway.")
            continue
        _refuse_elsewhere(where, table)
        draft.add(_line(title, table, *_pipenv_bounds(table, where), where), where)
    return draft.done()


def _pipenv_bounds(table: Mapping[str, Any], where: str) -> tuple[str, str]:
    version = bounds(as_text(table.get("version", "*"), where), where)
    markers = [f"({table['markers']})"] if table.get("markers") else []
    keys = ("sys_platform", "os_name", "platform_machine", "python_version")
    markers += [f"{key} {as_text(table[key], where)}" for key in keys if key in table]
    return version, " and ".join(markers)


def _refuse_elsewhere(where: str, table: Mapping[str, Any]) -> None:
    for kind in _ELSEWHERE:
        if kind in table:
            what = f"{where} comes from a {kind} source, not from an index."
            refuse(what, "Use a published package; copy the project's own code into git.")


def setup_cfg(project: Path) -> Requirements | None:
    """Read ``install_requires`` of setup.cfg."""
    name = "setup.cfg"
    if not (project / name).is_file():
        return None
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text_of(project / name, name))
    except configparser.Error as error:
        refuse(f"{name} cannot be read: {error.message}.", "Mend it and push again.")
    if not parser.has_option("options", "install_requires"):
        return None
    draft = Draft(name)
    rule = parser.get("options", "python_requires", fallback=None)
    draft.requires_python = python_rule(rule, f"{name}: python_requires")
    for line in parser.get("options", "install_requires").splitlines():
        if line.strip():
            draft.add(line, name)
    return draft.done()


def setup_py(project: Path) -> Requirements | None:
    """Read ``install_requires`` of a setup.py that writes it down as a list of texts."""
    name = "setup.py"
    if not (project / name).is_file():
        return None
    try:
        tree = ast.parse(text_of(project / name, name))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        refuse(f"{name} is no Python: {error}.", "List the packages in requirements.txt.")
    draft = Draft(name)
    for key, value in _setup_arguments(tree):
        if key == "python_requires":
            draft.requires_python = python_rule(_literal(value), f"{name}: python_requires")
        elif key == "install_requires":
            listed = _literal(value)
            if not isinstance(listed, list):
                what = f"{name} computes its install_requires: it would have to run."
                refuse(what, "List the packages in requirements.txt, one a line.")
            for one in cast("list[object]", listed):
                draft.add(as_text(one, f"{name}: install_requires"), name)
    return draft.done() if draft.lines or draft.requires_python else None


def _setup_arguments(tree: ast.Module) -> Iterator[tuple[str | None, ast.expr]]:
    """Give the keywords of ``setup(…)``; a name stands for the list that it was set to once."""
    known = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else None
            called = node.func.id if isinstance(node.func, ast.Name) else called
            if called == "setup":
                for keyword in node.keywords:
                    value = keyword.value
                    named = known.get(value.id) if isinstance(value, ast.Name) else None
                    yield keyword.arg, named or value


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
