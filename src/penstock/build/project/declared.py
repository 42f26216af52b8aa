"""Commands that a project declares for another tool: MLproject, dvc.yaml, kedro.

Each is turned into one command for a shell, without the tool where the tool is not needed.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, cast

from penstock.build.project.facts import table, text_of, yaml_of
from penstock.config import ModelConfig
from penstock.errors import StoppedError

_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]*)\}")
_TEMPLATE = re.compile(r"\$\{([^}]*)\}")
_DEPENDENCY_FILES = (
    *("requirements.txt", "pyproject.toml", "uv.lock", "pylock.toml", "poetry.lock", "Pipfile"),
    *("Pipfile.lock", "environment.yml", "environment.yaml", "conda.yaml", "python_env.yaml"),
)
_SET = "Set [build] run in penstock.toml to the command that trains."


def mlproject(project: Path) -> str | None:
    """Return the command of an MLproject's entry point ``main``, defaults filled in.

    None without the file or without a command in it.

    Raises
    ------
    StoppedError
        PS034 it cannot be read; PS035 a parameter has no usable default.
    """
    if not (project / "MLproject").is_file():
        return None
    points = table(yaml_of(project, "MLproject").get("entry_points"))
    # One entry point under another name is what `mlflow run -e NAME` would be told.
    main = table(points.get("main")) or (table(*points.values()) if len(points) == 1 else {})
    command = main.get("command")
    if not isinstance(command, str) or not command.strip():
        return None
    parameters = table(main.get("parameters"))
    values = {name: _default(name, told) for name, told in parameters.items()}

    def filled(match: re.Match[str]) -> str:
        value = values.get(match[1])
        if value is None:
            what = f"MLproject: the parameter {match[1]} of entry point main has no default."
            raise StoppedError("PS035", what, hint=f"Give it a default. {_SET}")
        return shlex.quote(value)

    return _PLACE.sub(filled, command).strip()


def _default(name: str, told: object) -> str | None:
    """Return a parameter's default as text, of the type that it declares."""
    declared = table(told)
    if not declared:
        return None  # `alpha: float` declares a type and no default
    default, kind = declared.get("default"), str(declared.get("type", "string"))
    if default is None:
        return None
    if kind == "float":
        try:
            float(str(default))
        except ValueError:
            what = f"MLproject: the default {default!r} of the parameter {name} is no number."
            raise StoppedError("PS035", what, hint="Write a number, or type: string.") from None
    if kind in ("path", "uri") and "://" in str(default):
        what = f"MLproject: the parameter {name} is {default}; builds fetch nothing by themselves."
        hint = "Declare the file in [data], and let the default be its path in the project."
        raise StoppedError("PS035", what, hint=hint)
    return str(default)


def dvc(project: Path, extra: Sequence[str]) -> str | None:
    """Return the command that runs the stages of a dvc.yaml; None without stages.

    With DVC among the dependencies it is DVC's own; else the stages' commands one after another,
    in the order in which they need each other.

    Raises
    ------
    StoppedError
        PS034 it cannot be read; PS036 DVC is not there and a stage is more than a command.
    """
    if not (project / "dvc.yaml").is_file():
        return None
    stages = table(yaml_of(project, "dvc.yaml").get("stages"))
    if not stages:
        return None
    if depends_on(project, "dvc", extra):
        # A checkout has no history, and a stage that did not change must train all the same.
        return "dvc config --local core.no_scm true && dvc repro --force"
    commands: dict[str, str] = {}
    for name, told in stages.items():
        stage = table(told)
        commands[name] = _stage_command(project, name, stage)
    return " && ".join(commands[name] for name in _in_order(stages))


def kedro(project: Path) -> str | None:
    """Return ``kedro run`` where pyproject.toml says that this is a kedro project."""
    try:
        tool = table(tomllib.loads(text_of(project / "pyproject.toml")).get("tool"))
    except tomllib.TOMLDecodeError:
        return None
    return "kedro run" if "kedro" in tool else None


def depends_on(project: Path, package: str, extra: Sequence[str] = ()) -> bool:
    """Whether a dependency file of the project, or `extra`, names a package."""
    named = re.compile(rf"""(?mi)(^|["'\s-]){re.escape(package)}(?=$|["'\s\[=<>~!;,:])""")
    texts = (text_of(project / name) for name in _DEPENDENCY_FILES)
    return any(named.search(re.sub(r"(?m)#.*$", "", text)) for text in (*extra, *texts))


def metrics_of(project: Path) -> tuple[str, ...]:
    """Return the metrics files that a dvc.yaml declares."""
    try:
        whole = yaml_of(project, "dvc.yaml") if (project / "dvc.yaml").is_file() else {}
    except StoppedError:
        return ()
    listed = [whole.get("metrics")]
    listed += [table(stage).get("metrics") for stage in table(whole.get("stages")).values()]
    return tuple(dict.fromkeys(path for one in listed for path in _paths(one)))


def require_apart(project: Path, config: ModelConfig) -> None:
    """Refuse evaluation data that a stage of this build writes, and that should be hidden.

    Raises
    ------
    StoppedError
        PS046.
    """
    spec = config.evaluate
    stage = maker_of(project, spec.data) if spec is not None and not spec.made_by_build else None
    if spec is not None and stage is not None:
        what = f"{spec.data} is written by the stage {stage} of dvc.yaml, so that it cannot be "
        what += "hidden from training."
        hint = "Set [evaluate] made_by_build = true, or name rows that no stage writes."
        raise StoppedError("PS046", what, hint=hint)


def maker_of(project: Path, path: str) -> str | None:
    """Return the stage of dvc.yaml that writes a file; None if none does."""
    stages = table(yaml_of(project, "dvc.yaml").get("stages")) if _has(project, "dvc.yaml") else {}
    wanted = PurePosixPath(path)
    for name, stage in stages.items():
        if any(wanted.is_relative_to(place) for place in _places(stage, "outs")):
            return name
    return None


def _stage_command(project: Path, name: str, stage: Mapping[str, Any]) -> str:
    odd = next((key for key in ("foreach", "matrix", "frozen") if stage.get(key)), None)
    told = stage.get("cmd")
    lines = cast("list[object]", told) if isinstance(told, list) else [told]
    if odd is not None or not all(isinstance(line, str) and line.strip() for line in lines):
        _refuse(name, f"it has {odd}" if odd else "it has no command")
    wdir = str(stage.get("wdir", "."))
    if PurePosixPath(wdir).is_absolute() or ".." in PurePosixPath(wdir).parts:
        _refuse(name, f"its folder {wdir} lies outside the project")
    command = " && ".join(_plain(project, name, str(line)) for line in lines)
    return command if wdir in (".", "") else f"(cd {shlex.quote(wdir)} && {command})"


def _plain(project: Path, name: str, command: str) -> str:
    """Fill ``${train.seed}`` in from params.yaml, as DVC does."""

    def filled(match: re.Match[str]) -> str:
        value: object = yaml_of(project, "params.yaml") if _has(project, "params.yaml") else {}
        for key in match[1].strip().split("."):
            value = table(value).get(key)
        if not isinstance(value, (str, int, float)):
            _refuse(name, f"params.yaml has no value for {match[0]}")
        return shlex.quote(str(value))

    return _TEMPLATE.sub(filled, command.strip())


def _has(project: Path, name: str) -> bool:
    return (project / name).is_file()


def _refuse(stage: str, why: str) -> NoReturn:
    what = f"dvc.yaml: the stage {stage} cannot be run without DVC: {why}."
    hint = f"Add dvc to the dependencies. {_SET}"
    raise StoppedError("PS036", what, hint=hint)


def _in_order(stages: Mapping[str, Any]) -> list[str]:
    """Return the names of the stages, those first whose outputs others need."""
    makes = {name: _places(stage, "outs", "metrics", "plots") for name, stage in stages.items()}
    needs = {name: _places(stage, "deps") for name, stage in stages.items()}
    before = {
        name: {
            other
            for other in stages
            if other != name and any(_touch(a, b) for a in needs[name] for b in makes[other])
        }
        for name in stages
    }
    order = list[str]()
    while len(order) < len(stages):
        ready = [n for n in stages if n not in order and before[n] <= set(order)]
        if not ready:
            circle = ", ".join(name for name in stages if name not in order)
            what = f"dvc.yaml: the stages {circle} wait for one another."
            raise StoppedError("PS036", what, hint=f"Mend their deps and outs. {_SET}")
        order.append(ready[0])
    return order


def _places(stage: object, *keys: str) -> list[PurePosixPath]:
    told = table(stage)
    folder = PurePosixPath(str(told.get("wdir", ".")))
    return [folder / path for key in keys for path in _paths(told.get(key))]


def _paths(listed: object) -> list[str]:
    """Return the paths of a list in which each is a text or a table of one key."""
    found = list[str]()
    for one in cast("list[object]", listed) if isinstance(listed, list) else []:
        found += [one] if isinstance(one, str) else [str(key) for key in table(one)]
    return found


def _touch(one: PurePosixPath, other: PurePosixPath) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)
