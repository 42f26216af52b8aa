"""What the project's code imports and its dependency file does not name. Parsed, never run.

Only files that the training command reaches are looked at: a project also holds tests,
dashboards and experiments, and what those need is not missing from a build.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from penstock.build.project.dependency_files import versions
from penstock.build.project.distributions import BRINGS, distribution_of, is_standard
from penstock.build.project.facts import text_of
from penstock.ports import Requirements

_MOST_FILES = 400


@dataclass(frozen=True, slots=True)
class Missing:
    """An import that nothing in the environment serves."""

    file: str
    line: int
    module: str
    distribution: str

    def sentence(self, lacking: str) -> str:
        """Say which file imports what, and which dependency file lacks it."""
        return f"{self.file} imports {self.module}, which {lacking} lacks."

    def fix(self, lacking: str) -> str:
        """Say what to do."""
        where = lacking if lacking != "penstock.toml" else "a requirements.txt"
        return f"Add {self.distribution} to {where} or to [environment] extra."


def missing(
    project: Path, command: str, installed: Collection[str], *, also: Collection[str] = ()
) -> list[Missing]:
    """Return the imports that no package of the environment serves, one of each module.

    Parameters
    ----------
    command
        The command that trains; from its scripts the project's own imports are followed. A
        command that names none of them is not judged.
    installed
        Names of packages: those of a lock, or `named` of a file.
    also
        Files that are imported beside the command, such as the adapter.
    """
    have = {canonicalize_name(name) for name in installed}
    found = dict[str, Missing]()
    for path, line, module in _imports(project, [*_scripts(project, command), *also]):
        top = module.split(".")[0]
        package = distribution_of(module)
        names = {canonicalize_name(package), canonicalize_name(top)}
        if is_standard(top) or top in found or names & have or _served(top, have):
            continue
        found[top] = Missing(path, line, top, package)
    return list(found.values())


def named(wanted: Requirements) -> frozenset[str]:
    """Return the packages that a dependency file names, and what those are known to bring."""
    names = {canonicalize_name(name) for name in versions(wanted)}
    names |= {canonicalize_name(Requirement(line).name) for line in wanted.overrides}
    left = list(names)
    while left:
        more = {canonicalize_name(one) for one in BRINGS.get(left.pop(), ())} - names
        names |= more
        left += more
    return frozenset(names)


def _served(module: str, have: Collection[str]) -> bool:
    """Whether a variant of a package serves a module: opencv-python for cv2, for one."""
    name = canonicalize_name(distribution_of(module))
    stem = re.sub(r"-(headless|cpu|gpu|binary)$", "", name)
    variants = {name, stem, *(f"{stem}-{end}" for end in ("headless", "cpu", "gpu", "binary"))}
    variants |= {f"{stem}-contrib", f"{stem}-contrib-headless", f"py{module}", f"python-{module}"}
    variants |= {f"{module}-skinny", f"{module}-core", f"{module}-base", f"{module}-intel"}
    return any(canonicalize_name(one) in have for one in variants)


def _scripts(project: Path, command: str) -> Iterator[str]:
    """Give the project's files that a command names: ``train.py``, ``-m a.b``, ``a.b:train``."""
    try:
        words = shlex.split(command)
    except ValueError:
        return
    for word in words:
        module = word.partition(":")[0].replace(".", "/")
        for name in (word, f"{module}.py", f"{module}/__main__.py", f"src/{module}.py"):
            if name.endswith(".py") and _inside(project, name):
                yield name


def _imports(project: Path, begin: list[str]) -> Iterator[tuple[str, int, str]]:
    """Give every import of the files and of what they import of the project's own."""
    left, seen = list(begin), set[str]()
    while left and len(seen) < _MOST_FILES:
        name = left.pop(0)
        if name in seen:
            continue
        seen.add(name)
        for line, module in _of_file(project / name):
            own = _own(project, name, module)
            if own is None:
                yield name, line, module
            left += own or ()


def _of_file(path: Path) -> Iterator[tuple[int, str]]:
    try:
        tree = ast.parse(text_of(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in _walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.lineno, node.module
            yield from (
                (node.lineno, f"{node.module}.{alias.name}")
                for alias in node.names
                if alias.name != "*"
            )
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            dot = "" if base.endswith(".") else "."
            yield from ((node.lineno, f"{base}{dot}{alias.name}") for alias in node.names)
            yield node.lineno, base


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs at import: not what is tried, and not what only a type checker reads."""
    for child in ast.iter_child_nodes(tree):
        tried = isinstance(child, ast.Try) and any(map(_catches_imports, child.handlers))
        checked = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        if not tried and not checked:
            yield child
            yield from _walk(child)


def _catches_imports(handler: ast.ExceptHandler) -> bool:
    caught = "" if handler.type is None else ast.dump(handler.type)
    return handler.type is None or bool(
        re.search(r"'(ImportError|ModuleNotFoundError|Exception|BaseException)'", caught)
    )


def _own(project: Path, importer: str, module: str) -> list[str] | None:
    """Return the project's files behind a module; None where it is none of the project's."""
    folder = Path(importer).parent
    level = len(module) - len(module.lstrip("."))
    if level:
        for _ in range(level - 1):
            folder = folder.parent
        places = [folder]
    else:
        places = list(dict.fromkeys([folder, Path(), Path("src")]))
    parts = module.lstrip(".").split(".")
    for place in places:
        top = place / parts[0]
        if level or _inside(project, f"{top}.py") or (project / top).is_dir():
            files = [_file_of(project, place, parts[:n]) for n in range(1, len(parts) + 1)]
            found = [one for one in files if one is not None]
            if found or level or _holds_python(project / top):
                return found
    return None


def _holds_python(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.py"))


def _file_of(project: Path, place: Path, parts: list[str]) -> str | None:
    base = place.joinpath(*parts) if all(parts) else place
    for name in (f"{base}.py", f"{base}/__init__.py"):
        if _inside(project, name):
            return Path(name).as_posix()
    return None


def _inside(project: Path, name: str) -> bool:
    path = project / name
    try:
        return path.is_file() and path.resolve().is_relative_to(project.resolve())
    except (OSError, ValueError):
        return False
