"""What a project asks of its environment, whatever file says it: the one reader.

    a project's folder -> the first file of `ORDER` that says something -> Requirements

Locks come before files that leave versions open. Nothing of the project runs, and no address
in its files is opened: what is returned are names, bounds, markers and digests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from penstock.build.project.dependency_files import conda, locks, pip_files, projects
from penstock.build.project.dependency_files.comparing import disagreement, versions
from penstock.build.project.dependency_files.draft import text_of, with_configured
from penstock.build.project.dependency_files.specs import python_wish
from penstock.errors import StoppedError
from penstock.ports import Requirements

__all__ = ["FILES", "ORDER", "read", "versions", "with_configured"]


def _requirements(project: Path) -> Requirements | None:
    found = pip_files.read(project)
    if found is None:
        return None
    wanted, itself = found
    own = projects.pyproject(project) if itself else None
    if own is None:
        return wanted
    return replace(
        wanted,
        lines=tuple(dict.fromkeys([*wanted.lines, *own.lines])),
        requires_python=own.requires_python,
        files=(*wanted.files, own.file),
    )


def _pinned(project: Path) -> Requirements | None:
    found = _requirements(project)
    return found if found is not None and pip_files.is_pinned(found) else None


def _loose(project: Path) -> Requirements | None:
    found = _requirements(project)
    return found if found is not None and not pip_files.is_pinned(found) else None


ORDER: tuple[tuple[str, Callable[[Path], Requirements | None]], ...] = (
    ("uv.lock", locks.uv_lock),
    ("pylock.toml", locks.pylock),
    ("poetry.lock", locks.poetry_lock),
    ("Pipfile.lock", locks.pipfile_lock),
    ("requirements.txt", _pinned),
    ("pyproject.toml", projects.pyproject),
    ("requirements.txt", _loose),
    ("Pipfile", projects.pipfile),
    ("MLproject", conda.mlproject),
    ("conda.yaml", conda.conda_yaml),
    ("python_env.yaml", conda.python_env),
    ("environment.yml", conda.environment_yml),
    ("environment.yaml", conda.environment_yml),
    ("setup.cfg", projects.setup_cfg),
    ("setup.py", projects.setup_py),
)
"""The files that are read; the first that asks for something decides."""

FILES = tuple(dict.fromkeys(name for name, _ in ORDER))

_BELOW_A_LOCK: Mapping[str, tuple[str, ...]] = {
    "uv.lock": ("pyproject.toml",),
    "poetry.lock": ("pyproject.toml",),
    "Pipfile.lock": ("Pipfile",),
}
"""What a lock was made from: it differs by its nature."""


def read(project: Path) -> Requirements:
    """Read what the project in a folder asks of its environment.

    Without any file it asks for nothing: Python alone.

    Raises
    ------
    StoppedError
        PS212, the file that decides cannot be read, or says where packages come from.
    """
    used: Requirements | None = None
    empty: Requirements | None = None
    notes = list[str]()
    for name, reader in ORDER:
        if not (project / name).is_file():
            continue
        if used is None:
            used = reader(project)
            if used is None and name in ("uv.lock", "poetry.lock"):
                notes.append(f"{name} is not used: no pyproject.toml beside it asks for packages.")
            if used is not None and not used.lines and not used.complete:
                used, empty = None, empty or used  # a table that lists nothing decides nothing
        elif name != used.file and name not in _BELOW_A_LOCK.get(used.file, ()):
            notes += _beside(project, used, name, reader)
    used = used or empty
    if used is None:
        note = "No dependency file: the environment holds nothing but Python."
        used = Requirements("penstock.toml", notes=(note,))
    return _wish(project, replace(used, notes=tuple(dict.fromkeys([*used.notes, *notes]))))


def _beside(
    project: Path, used: Requirements, name: str, reader: Callable[[Path], Requirements | None]
) -> list[str]:
    """Say how a file that is not used differs; a broken one is said, too."""
    try:
        other = reader(project)
    except StoppedError as error:
        return [f"Used {used.file}; {name} cannot be compared: {error.what}"]
    if other is None or other.file == used.file:
        return []
    found = disagreement(used, other)
    return [found] if found is not None else []


def _wish(project: Path, wanted: Requirements) -> Requirements:
    """Add the Python of .python-version, where the dependency file wishes none."""
    path = project / ".python-version"
    if wanted.python is not None or wanted.requires_python is not None or not path.is_file():
        return wanted
    lines = [line.strip() for line in text_of(path, path.name).splitlines() if line.strip()]
    wish = python_wish(lines[0]) if lines else None
    return replace(wanted, python=wish, python_from=path.name if wish else "")
