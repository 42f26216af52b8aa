"""conda's files, and MLflow's: conda.yaml, environment.yml, python_env.yaml, MLproject.

Packages come from the index of the server, under their names there. What is no package of
Python (compilers, CUDA, libraries) is left out and said. Channels count for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from penstock.build.project.dependency_files import pip_files
from penstock.build.project.dependency_files.draft import Draft, as_list, as_text, refuse, yaml_of
from penstock.build.project.dependency_files.specs import add_conda, python_wish
from penstock.ports import Requirements


def conda_yaml(project: Path) -> Requirements | None:
    """Read conda.yaml."""
    return _file(project, "conda.yaml")


def environment_yml(project: Path) -> Requirements | None:
    """Read environment.yml, or environment.yaml."""
    return _file(project, "environment.yml") or _file(project, "environment.yaml")


def python_env(project: Path) -> Requirements | None:
    """Read python_env.yaml."""
    return _file(project, "python_env.yaml")


def mlproject(project: Path) -> Requirements | None:
    """Read the file that an MLproject names under ``conda_env`` or ``python_env``."""
    if not (project / "MLproject").is_file():
        return None
    content = yaml_of(project / "MLproject", "MLproject")
    for key in ("python_env", "conda_env"):
        named: object = content.get(key)
        if isinstance(named, str) and named:
            path = (project / named).resolve()
            if not path.is_relative_to(project.resolve()) or not path.is_file():
                what = f"MLproject names {named} as its {key}, which the project does not have."
                refuse(what, "Commit the file, or mend the name.")
            return _file(project, path.relative_to(project.resolve()).as_posix())
    return None


def _file(project: Path, name: str) -> Requirements | None:
    if not (project / name).is_file():
        return None
    content = yaml_of(project / name, name)
    draft = Draft(name)
    if "python" in content:  # MLflow's python_env.yaml
        draft.python = python_wish(as_text(content["python"], f"{name}: python"))
        for one in as_list(content.get("dependencies"), f"{name}: dependencies"):
            _pip_line(project, name, as_text(one, f"{name}: a dependency"), draft)
        return draft.done()
    for one in as_list(content.get("dependencies"), f"{name}: dependencies"):
        if isinstance(one, dict):
            _sub_list(project, name, cast("Mapping[str, Any]", one), draft)
        else:
            add_conda(as_text(one, f"{name}: a dependency"), name, draft)
    return draft.done()


def _sub_list(project: Path, name: str, table: Mapping[str, Any], draft: Draft) -> None:
    for installer, listed in table.items():
        if installer != "pip":
            draft.note(f"{name}: the packages of {installer} are left out.")
            continue
        for one in as_list(listed, f"{name}: pip"):
            _pip_line(project, name, as_text(one, f"{name}: a package of pip"), draft)


def _pip_line(project: Path, name: str, line: str, draft: Draft) -> None:
    """Add a line of a pip list; it may include a requirements file beside its own."""
    folder = (project / name).parent
    pip_files.add_included(project, folder, line.strip(), name, draft)
