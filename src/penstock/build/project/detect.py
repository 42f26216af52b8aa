"""What a push would run: each fact with the file that it came from and how to overrule it.

What penstock.toml says always wins. Nothing here runs or imports the project's code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from penstock.build.project import declared, dependency_files
from penstock.build.project.entry import python_files, run_command
from penstock.build.project.facts import Fact, text_of
from penstock.build.project.model_files import ENDINGS, MLMODEL
from penstock.build.project.suggest import evaluation_facts
from penstock.config import ModelConfig
from penstock.errors import PenstockError

MODEL_FOLDERS = ("model", "models", "artifacts", "output", "outputs", ".")
_SCORES = re.compile(r"""['"]([\w./-]*(?:metrics|scores?)[\w.-]*\.(?:json|ya?ml))['"]""")


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
    others: tuple[Fact, ...] = ()
    """Facts that are told and decide nothing about the build."""

    @property
    def facts(self) -> tuple[Fact, ...]:
        """All that was found."""
        known = (self.run, self.model, self.dependencies, *self.others)
        return tuple(fact for fact in known if fact)


def detect(project: Path, config: ModelConfig) -> Detected:
    """Find out how the project in a folder is built.

    Raises
    ------
    StoppedError
        PS030 there is no command to run; PS212 its dependency file cannot be read.
    """
    globs, model = model_places(config)
    dependencies, notes = dependency_file(project)
    return Detected(
        run_command(project, config), model, dependencies, globs, notes, _others(project, config)
    )


def look(project: Path, config: ModelConfig) -> tuple[tuple[Fact, ...], tuple[PenstockError, ...]]:
    """Return every fact that can be found, and the errors of those that cannot."""
    facts: list[Fact] = []
    errors: list[PenstockError] = []
    for find in (
        lambda: run_command(project, config),
        lambda: model_places(config)[1],
        lambda: dependency_file(project)[0],
    ):
        try:
            found = find()
        except PenstockError as error:
            errors.append(error)
        else:
            facts += [found] if found is not None else []
    return (*facts, *_others(project, config)), tuple(errors)


def _others(project: Path, config: ModelConfig) -> tuple[Fact, ...]:
    found = (
        _metrics(project),
        _python(project, config),
        *evaluation_facts(project, config),
    )
    return tuple(fact for fact in found if fact is not None)


def _metrics(project: Path) -> Fact | None:
    """Return where the project writes its own figures: shown to people, never a gate."""
    overrule = "Shown only; gates measure on [evaluate] themselves."
    if listed := declared.metrics_of(project):
        return Fact("metrics", ", ".join(listed), "dvc.yaml", overrule)
    for path in python_files(project):
        text, name = text_of(path), path.relative_to(project).as_posix()
        if re.search(r"^\s*(import|from)\s+mlflow\b", text, re.MULTILINE):
            return Fact("metrics", "what is logged with MLflow", name, overrule)
        if written := _SCORES.search(text):
            return Fact("metrics", written[1], name, overrule)
    return None


def _python(project: Path, config: ModelConfig) -> Fact | None:
    overrule = "Set [environment] python in penstock.toml."
    if config.environment.python is not None:
        return Fact("python", config.environment.python, "penstock.toml", overrule)
    try:
        wanted = dependency_files.read(project)
    except PenstockError:
        return None  # said where the dependencies are looked at
    if wanted.requires_python is not None:
        return Fact("python", wanted.requires_python, wanted.file, overrule)
    if wanted.python is not None:
        return Fact("python", f"{wanted.python}, a wish", wanted.python_from, overrule)
    return None


def model_places(config: ModelConfig) -> tuple[tuple[str, ...], Fact]:
    """Return the globs under which a new model is looked for, and the fact to show."""
    overrule = "Set [build] model in penstock.toml."
    if config.build.model is not None:
        return (config.build.model,), Fact("model", config.build.model, "penstock.toml", overrule)
    patterns = (MLMODEL, f"*/{MLMODEL}", *(f"*.{ending}" for ending in ENDINGS))
    globs = tuple(
        f"{folder}/{pattern}".removeprefix("./")
        for folder in MODEL_FOLDERS
        for pattern in patterns
    )
    if config.build.predict is not None:
        globs = (*(folder for folder in MODEL_FOLDERS if folder != "."), *globs)
    where = f"MLflow, or a new model file in {', '.join(MODEL_FOLDERS[:-1])} or the root"
    return globs, Fact("model", where, "convention", overrule)


def dependency_file(project: Path) -> tuple[Fact | None, tuple[str, ...]]:
    """Return the dependency file that decides, and notes on what was found in it and beside it.

    Raises
    ------
    StoppedError
        PS212, it cannot be read.
    """
    wanted = dependency_files.read(project)
    if not wanted.files:
        return None, wanted.notes
    overrule = "Add or remove a dependency file, or set [environment] override and extra."
    return Fact("dependencies", wanted.file, wanted.file, overrule), wanted.notes
