"""What a push would run: each fact with the file that it came from and how to overrule it.

What penstock.toml says always wins. Nothing here runs or imports the project's code.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock.config import ModelConfig
from penstock.errors import StoppedError

RUN_FILES = ("train.py", "src/train.py", "main.py")
MODEL_FOLDERS = ("model", "models", "artifacts", ".")
MODEL_ENDINGS = ("joblib", "pkl", "skops")
NOT_READ = {
    "pylock.toml": "uv export --format requirements-txt > requirements.txt",
    "poetry.lock": "poetry export -o requirements.txt",
    "Pipfile.lock": "pipenv requirements > requirements.txt",
    "Pipfile": "pipenv requirements > requirements.txt",
    "conda.yaml": "list its pip packages in requirements.txt",
    "python_env.yaml": "list its packages in requirements.txt",
    "MLproject": "list its packages in requirements.txt",
    "environment.yml": "list its pip packages in requirements.txt",
}
"""Dependency files that this version cannot read, and the way from each to one that it can."""

_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[^\]]*\])?\s*===?\s*[^*\s]+(\s*;.*)?")
_MAX_SOURCE_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that was found out."""

    name: str
    """``run``, ``model`` or ``dependencies``."""
    value: str
    source: str
    """The file that it came from."""
    overrule: str
    """What to write, and where, for another answer."""


@dataclass(frozen=True, slots=True)
class Detected:
    """What a push would run."""

    run: Fact
    model: Fact
    dependencies: Fact | None
    """None: no dependency file, so the environment holds nothing but Python."""
    model_globs: tuple[str, ...]
    """Where a new model is looked for, in this order."""
    notes: tuple[str, ...]
    """What a person should know, as sentences."""

    @property
    def facts(self) -> tuple[Fact, ...]:
        """All that was found."""
        return tuple(fact for fact in (self.run, self.model, self.dependencies) if fact)


def detect(project: Path, config: ModelConfig) -> Detected:
    """Find out how the project in a folder is built.

    Raises
    ------
    StoppedError
        PS030 there is no command to run; PS031 its only dependency file cannot be read.
    """
    globs, model = model_places(config)
    dependencies, notes = dependency_file(project)
    return Detected(run_command(project, config), model, dependencies, globs, notes)


def run_command(project: Path, config: ModelConfig) -> Fact:
    """Return the command that trains."""
    overrule = "Set [build] run in penstock.toml."
    if config.build.run is not None:
        return Fact("run", config.build.run, "penstock.toml", overrule)
    for name in RUN_FILES:
        if (project / name).is_file():
            return Fact("run", f"python {_as_argument(project, name)}", name, overrule)
    looks_like = sorted(_trainers(project))
    example = looks_like[0] if looks_like else "train.py"
    seen = f" These look like training: {', '.join(looks_like[:5])}." if looks_like else ""
    raise StoppedError(
        "PS030",
        f"There is no {RUN_FILES[0]}, {RUN_FILES[1]} or {RUN_FILES[2]} to run.{seen}",
        hint=f'Set [build] run = "python {example}" in penstock.toml.',
    )


def model_places(config: ModelConfig) -> tuple[tuple[str, ...], Fact]:
    """Return the globs under which a new model is looked for, and the fact to show."""
    overrule = "Set [build] model in penstock.toml."
    if config.build.model is not None:
        return (config.build.model,), Fact("model", config.build.model, "penstock.toml", overrule)
    globs = tuple(
        f"{folder}/*.{ending}".removeprefix("./")
        for folder in MODEL_FOLDERS
        for ending in MODEL_ENDINGS
    )
    if config.build.predict is not None:
        globs = (*(folder for folder in MODEL_FOLDERS if folder != "."), *globs)
    where = f"a new .{', .'.join(MODEL_ENDINGS)} in {', '.join(MODEL_FOLDERS[:-1])} or the root"
    return globs, Fact("model", where, "convention", overrule)


def dependency_file(project: Path) -> tuple[Fact | None, tuple[str, ...]]:
    """Return the dependency file that decides, and notes on the ones that do not.

    First hit wins: uv.lock, a fully pinned requirements.txt, pyproject.toml with [project],
    any other requirements.txt.
    """
    there = list(_readable(project))
    unread = [name for name in NOT_READ if (project / name).is_file()]
    if not there and unread:
        raise StoppedError(
            "PS031",
            f"{unread[0]} is the project's dependency file, and it is not supported yet.",
            hint=f"Write one that is: {NOT_READ[unread[0]]}",
        )
    if not there:
        return None, ("No dependency file: the environment holds nothing but Python.",)
    used = there[0]
    others = [*there[1:], *unread]
    notes = (f"Used {used}, not {', '.join(others)}.",) if others else ()
    overrule = "Add or remove a dependency file, or set [environment] override and extra."
    return Fact("dependencies", used, used, overrule), notes


def is_pinned(text: str) -> bool:
    r"""Whether every line of a requirements file names one exact version.

    Examples
    --------
    >>> is_pinned("numpy==2.1.0  # fast\npandas==2.2.3"), is_pinned("numpy>=2")
    (True, False)
    """
    joined = text.replace("\\\n", " ")
    lines = [re.sub(r"(^|\s)#.*|\s+--hash=\S+", "", line).strip() for line in joined.splitlines()]
    wanted = [line for line in lines if line]
    return bool(wanted) and all(_PINNED.fullmatch(line) for line in wanted)


def _readable(project: Path) -> Iterator[str]:
    """Yield the dependency files that can be read, the one that decides first."""
    requirements = project / "requirements.txt"
    pinned = requirements.is_file() and is_pinned(_text(requirements))
    if (project / "uv.lock").is_file() and (project / "pyproject.toml").is_file():
        yield "uv.lock"
    if pinned:
        yield "requirements.txt"
    if _declares_project(project / "pyproject.toml"):
        yield "pyproject.toml"
    if requirements.is_file() and not pinned:
        yield "requirements.txt"


def _declares_project(path: Path) -> bool:
    """Whether a pyproject.toml has dependencies in the standard table."""
    try:
        return "dependencies" in tomllib.loads(_text(path)).get("project", {})
    except (OSError, tomllib.TOMLDecodeError):
        return False


def _as_argument(project: Path, name: str) -> str:
    """Return ``-m src.train`` for a file that imports from its own folder as a package."""
    module = name.removesuffix(".py").replace("/", ".")
    root = module.split(".", maxsplit=1)[0]
    imports = re.search(rf"^\s*(from|import)\s+{root}\b", _text(project / name), re.MULTILINE)
    return f"-m {module}" if "/" in name and imports else name


def _trainers(project: Path) -> Iterator[str]:
    """Yield Python files, at most two folders deep, that seem to fit a model when run."""
    for pattern in ("*.py", "*/*.py"):
        for path in project.glob(pattern):
            small = path.is_file() and path.stat().st_size <= _MAX_SOURCE_BYTES
            if small and re.search(r"\.(fit|train)\(", _text(path)):
                yield path.relative_to(project).as_posix()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
