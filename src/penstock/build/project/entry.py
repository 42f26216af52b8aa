"""The command that trains: what penstock.toml says, else what the project itself declares.

    MLproject > dvc.yaml > kedro > train.py, src/train.py, main.py > the only file that fits

Where two files could be meant, a person is asked by an error that names both.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

from penstock.build.project import declared
from penstock.build.project.facts import Fact, text_of
from penstock.config import ModelConfig
from penstock.errors import StoppedError

RUN_FILES = ("train.py", "src/train.py", "main.py")
OVERRULE = "Set [build] run in penstock.toml."

_FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_FITS = re.compile(r"(?:\.fit|\.train|\bfit|\bfit_model)\(")
_GUARD = re.compile(r"""^if\s+__name__\s*==\s*['"]__main__['"]""", re.MULTILINE)
_SERVES = re.compile(
    r"^\s*(?:from|import)\s+(fastapi|flask|streamlit|gradio|dash|uvicorn|django|bottle)\b",
    re.MULTILINE,
)
_NOT_OURS = frozenset(
    {"tests", "test", "venv", "env", "node_modules", "site-packages", "build", "dist", "docs"}
)
_MOST_FILES = 2000


def run_command(project: Path, config: ModelConfig) -> Fact:
    """Return the command that trains, for a shell, or ``module:function``.

    Raises
    ------
    StoppedError
        PS030 there is none; PS032 two files could be meant; PS033 there is only a notebook;
        PS034 to PS036 what the project declares cannot be used; PS037 the function is not there.
    """
    run = config.build.run
    if config.build.adopt is not None:
        overrule = "Set [build] adopt in penstock.toml."
        return Fact("run", f"adopt {config.build.adopt}", "penstock.toml", overrule)
    if run is not None:
        if is_function(run):
            _require_function(project, run)
        return Fact("run", run, "penstock.toml", OVERRULE)
    declares: Mapping[str, Callable[[], str | None]] = {
        "MLproject": lambda: declared.mlproject(project),
        "dvc.yaml": lambda: declared.dvc(project, config.environment.extra),
        "pyproject.toml": lambda: declared.kedro(project),
    }
    for source, find in declares.items():
        if (command := find()) is not None:
            return Fact("run", command, source, OVERRULE)
    script = _script(project)
    return Fact("run", f"python {_as_argument(project, script)}", script, OVERRULE)


def is_function(run: str) -> bool:
    """Whether a command is ``module:function``, which is imported and called.

    Examples
    --------
    >>> is_function("scoring.fit:train"), is_function("python train.py")
    (True, False)
    """
    return _FUNCTION.fullmatch(run.strip()) is not None


def has_code(project: Path) -> bool:
    """Whether there is anything that could train, or that somebody began to write."""
    named = ("MLproject", "dvc.yaml")
    pieces = ("*.py", "*/*.py", "*/*/*.py", "*.ipynb", "*/*.ipynb")
    return (
        any((project / name).is_file() for name in named)
        or declared.kedro(project) is not None
        or any(path for pattern in pieces for path in project.glob(pattern))
    )


def python_files(project: Path) -> Iterator[Path]:
    """Yield the project's own Python files, at most three folders deep, in order."""
    found = (
        path
        for pattern in ("*.py", "*/*.py", "*/*/*.py")
        for path in sorted(project.glob(pattern))
        if not any(part in _NOT_OURS or part[0] == "." for part in _folders(project, path))
        and path.is_file()
    )
    for _, path in zip(range(_MOST_FILES), found, strict=False):
        yield path


def _folders(project: Path, path: Path) -> tuple[str, ...]:
    return path.relative_to(project).parts[:-1]


def _script(project: Path) -> str:
    for name in RUN_FILES:
        if (project / name).is_file() and not (name == "main.py" and _serves(project / name)):
            return name
    trainers = list(_trainers(project))
    runnable = [name for name in trainers if _GUARD.search(text_of(project / name))]
    if len(runnable) == 1:
        return runnable[0]
    if runnable:
        what = f"{' and '.join(runnable[:5])} could each be what trains."
        said = " or ".join(f'run = "python {name}"' for name in runnable[:2])
        raise StoppedError("PS032", what, hint=f"Say which: [build] {said} in penstock.toml.")
    raise _nothing(project, trainers)


def _serves(path: Path) -> bool:
    """Whether a file is a web service; one that trains too is not passed over."""
    text = text_of(path)
    return _SERVES.search(text) is not None and _FITS.search(text) is None


def _nothing(project: Path, trainers: list[str]) -> StoppedError:
    notebooks = [
        path.relative_to(project).as_posix()
        for pattern in ("*.ipynb", "*/*.ipynb")
        for path in sorted(project.glob(pattern))
        if ".ipynb_checkpoints" not in path.parts
    ]
    if notebooks and not trainers:
        name = next((one for one in notebooks if "train" in one.lower()), notebooks[0])
        script = f"{name.removesuffix('.ipynb')}.py"
        return StoppedError(
            "PS033",
            f"{name} is a notebook, and there is no script to run.",
            hint=f"Make one: jupyter nbconvert --to script {name}, commit {script}. Or add "
            "nbconvert and ipykernel to the dependencies and set [build] run = "
            f'"jupyter nbconvert --to notebook --execute --inplace {name}".',
        )
    example = trainers[0] if trainers else "train.py"
    seen = f" These look like training: {', '.join(trainers[:5])}." if trainers else ""
    return StoppedError(
        "PS030",
        f"There is no {RUN_FILES[0]}, {RUN_FILES[1]} or {RUN_FILES[2]} to run.{seen}",
        hint=f'Set [build] run = "python {example}" in penstock.toml.',
    )


def _trainers(project: Path) -> Iterator[str]:
    """Yield Python files that seem to fit a model when run."""
    for path in python_files(project):
        named = path.name.startswith("test_") or path.name in ("conftest.py", "setup.py")
        if not named and _FITS.search(text_of(path)):
            yield path.relative_to(project).as_posix()


def _as_argument(project: Path, name: str) -> str:
    """Return ``-m src.train`` for a file that imports from its own package."""
    if "/" not in name:
        return name
    module = name.removesuffix(".py").replace("/", ".")
    root = module.split(".", maxsplit=1)[0]
    own = rf"^\s*(?:(?:from|import)\s+{re.escape(root)}\b|from\s+\.)"
    return f"-m {module}" if re.search(own, text_of(project / name), re.MULTILINE) else name


def _require_function(project: Path, run: str) -> None:
    module, _, function = run.strip().partition(":")
    place = module.replace(".", "/")
    files = [f"{root}{place}{end}" for root in ("", "src/") for end in (".py", "/__init__.py")]
    file = next((name for name in files if (project / name).is_file()), None)
    if file is None:
        what = f"[build] run names the module {module}, and there is no {files[0]}."
        raise StoppedError("PS037", what, hint="Commit the file, or mend the name.")
    try:
        tree = ast.parse(text_of(project / file))
    except (SyntaxError, ValueError, RecursionError):
        return  # Python itself says better where it is wrong
    names = list(_bound(tree))
    if function in names or "*" in names:
        return
    near = get_close_matches(function, names, n=1)
    hint = f'Did you mean "{module}:{near[0]}"?' if near else f"Write def {function}(): in it."
    raise StoppedError("PS037", f"{file} has no function {function}.", hint=hint)


def _bound(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module binds at its top, in branches too."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (one.asname or one.name for one in node.names)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
