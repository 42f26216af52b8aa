"""What training left behind: the model that counts, or a sentence that says why there is none.

A build counts only by a new model: exit code 0 alone proves nothing, and a model that was
committed is not one that was built. First comes what `[build] model` names, then what MLflow
knows (the newest version registered, else the only model logged), then a new file where models
lie. Nothing here opens a model.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from penstock.build.checkout import FILE_TIME_S
from penstock.build.project.model_files import CERTAIN_ENDINGS, MLMODEL, format_of, may_be_model
from penstock.build.results import failing, tracking
from penstock.build.results.tracking import Tracked
from penstock.build.train import Plan
from penstock.errors import StoppedError
from penstock.ports import Finished

_UNSURE_FOLDERS = ("output", "outputs")
"""Of these an adapter gets one only if a file in it may be a model: plots lie there, too."""
_NOT_SEARCHED = {".git", ".venv", "venv", "node_modules", "__pycache__", "mlruns"}


@dataclass(frozen=True, slots=True)
class Built:
    """The model that a build wrote."""

    format: str
    """``joblib``, ``skops``, ``adapter``, ``mlflow``, ``onnx``, ``xgboost``, ``lightgbm`` or
    ``catboost``."""
    path: Path
    """A file, or a folder: for an adapter, and for MLflow's format."""
    files: tuple[Path, ...]
    """All regular files of the model."""
    predict: str | None
    """The adapter, relative to the project."""
    logged: tracking.LoggedModel | None = None
    """Set when MLflow decided."""
    why: str = ""
    """Why it is this one."""


def collect(
    plan: Plan, finished: Finished, *, log: Path, tracked: Tracked = tracking.NOTHING
) -> Built:
    """Return the model that the finished command wrote.

    Raises
    ------
    StoppedError
        The command failed or took too long, wrote no new model, wrote several among which
        nothing decides, or one in a format that is not known.
    """
    if finished.timed_out or finished.returncode:
        failing.raise_failure(plan, finished, log)
    build = plan.config.build
    if build.predict is not None and not (plan.checkout / build.predict).is_file():
        what = f"[build] predict names {build.predict}, which the project does not have."
        raise StoppedError("PS231", what, hint="Commit the file, or mend the name.")
    if build.model is not None:
        if build.model.startswith(tracking.PREFIX):
            wanted = build.model.removeprefix(tracking.PREFIX)
            return _of_mlflow(tracking.pick(tracked, wanted), build.predict)
        return _of_files(plan, log)
    if build.predict is not None and any(_is_new(path) for path in _candidates(plan)):
        return _of_files(plan, log)
    picked = tracking.pick(tracked, None)
    return _of_mlflow(picked, build.predict) if picked else _of_files(plan, log)


def _of_mlflow(picked: tuple[tracking.LoggedModel, str] | None, predict: str | None) -> Built:
    assert picked is not None, "a name finds a model or raises"
    logged, why = picked
    assert logged.path is not None, "one that cannot be reached was refused"
    format_ = "adapter" if predict is not None else "mlflow"
    return Built(format_, logged.path, tuple(_files(logged.path)), predict, logged, why)


def _of_files(plan: Plan, log: Path) -> Built:
    build = plan.config.build
    found = list(_candidates(plan))
    new = [path for path in found if _is_new(path)]
    if not new:
        _raise_nothing_new(plan, found, log)
    named = "named by [build] model" if build.model else "the only new model"
    if build.predict is not None:
        return _for_adapter(plan, new, build.predict, named)
    readable = [path for path in new if format_of(path) is not None]
    chosen = _chosen(plan, readable or new)
    format_ = format_of(chosen)
    if format_ is None:
        known = f"joblib, skops, an MLflow folder, .{', .'.join(CERTAIN_ENDINGS[4:])}"
        what = f"{chosen.name} is in no format that can be read: {known}."
        raise StoppedError("PS226", what, hint="Save one of these, or set [build] predict.")
    more = f", the newest of {len(readable)}" if len(readable) > 1 else ""
    return Built(format_, chosen, tuple(_files(chosen)), None, why=f"{named}{more}")


def _for_adapter(plan: Plan, new: Sequence[Path], predict: str, named: str) -> Built:
    """Return what an adapter loads: a folder, a file, or several files that lie together."""
    together = [path for path in new if path.parent == max(new, key=_age).parent]
    if plan.config.build.model is None and len(together) < len(new):
        _raise_several(plan, new)
    newest = max(together, key=_age)
    if newest.is_dir() or len(together) == 1:
        if plan.config.build.model is None and len(new) > 1:
            _raise_several(plan, new)
        return Built("adapter", newest, tuple(_files(newest)), predict, why=named)
    files = tuple(path for path in together if not path.is_dir())
    return Built("adapter", newest.parent, files, predict, why=f"{len(files)} new files together")


def _raise_nothing_new(plan: Plan, found: Sequence[Path], log: Path) -> NoReturn:
    if found:
        stale = found[0].relative_to(plan.checkout).as_posix()
        what = f"{stale} comes from commit {plan.commit[:7]}; this build did not write it, "
        what += "so it is not taken."
        hint = f"Let `{plan.run}` write the model, and take {stale} out of git."
        raise StoppedError("PS224", what, hint=hint)
    elsewhere = next(_elsewhere(plan.checkout), None)
    if plan.config.build.model is not None:
        looked = plan.config.build.model
    else:
        folders = dict.fromkeys(glob.partition("/")[0] for glob in plan.model_globs if "/" in glob)
        looked = ", ".join(["MLflow", *(f"{name}/" for name in folders if name != "*")])
        looked += " and the root"
    failing.raise_no_model(plan, log, looked=looked, elsewhere=elsewhere)


def _elsewhere(checkout: Path) -> Iterator[str]:
    """Give new files that are models for sure, but lie where nobody looks."""
    for parent, folders, names in os.walk(checkout, followlinks=False):
        folders[:] = sorted(name for name in folders if name not in _NOT_SEARCHED)
        for name in sorted(names):
            path = Path(parent, name)
            if name == MLMODEL or name.rpartition(".")[2] in CERTAIN_ENDINGS:
                plain = stat.S_ISREG(path.lstat().st_mode)
                model = path.parent if name == MLMODEL else path
                if plain and _is_new(path) and format_of(model) is not None:
                    yield model.relative_to(checkout).as_posix()


def _candidates(plan: Plan) -> Iterator[Path]:
    """Give what lies where models lie, new or not; a folder is one model for an adapter."""
    seen = list[Path]()
    for glob in plan.model_globs:
        for match in sorted(plan.checkout.glob(glob.rstrip("/"))):
            _require_plain(plan, match)
            path = match.parent if match.name == MLMODEL else match
            if any(path.is_relative_to(earlier) for earlier in seen):
                continue
            for one in _models_at(plan, path):
                seen.append(one)
                yield one


def _models_at(plan: Plan, path: Path) -> Iterator[Path]:
    """Give the models that a matched path stands for."""
    build = plan.config.build
    if path.is_dir() and build.predict is None and format_of(path) is None:
        yield from _models_in(path)
    elif build.model is not None:
        yield path
    elif not path.is_dir():
        if may_be_model(path):
            yield path
    elif path.name not in _UNSURE_FOLDERS or any(map(may_be_model, _files(path))):
        yield path


def _models_in(folder: Path) -> Iterator[Path]:
    """Give the models in a folder that is none itself."""
    inner = list[Path]()
    for file in _files(folder):
        if file.name == MLMODEL:
            inner.append(file.parent)
            yield file.parent
    for file in _files(folder):
        if format_of(file) is not None and not any(map(file.is_relative_to, inner)):
            yield file


def _require_plain(plan: Plan, path: Path) -> None:
    """Refuse links: the command could point one at any file of the server."""
    if path.resolve() != plan.checkout.resolve() / path.relative_to(plan.checkout):
        what = f"{path.relative_to(plan.checkout).as_posix()} is a link, or lies behind one."
        raise StoppedError("PS230", what, hint="Let the build write the model as a plain file.")


def _files(path: Path) -> list[Path]:
    """Return the regular files at or below a path, in order; links and bytecode aside."""
    paths = [path] if not path.is_dir() else sorted(_walk(path))
    return [one for one in paths if stat.S_ISREG(one.lstat().st_mode)]


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (Path(parent, name) for name in names)


def _is_new(path: Path) -> bool:
    return any(file.stat().st_mtime_ns != FILE_TIME_S * 10**9 for file in _files(path))


def _age(path: Path) -> tuple[int, str]:
    return max((file.stat().st_mtime_ns for file in _files(path)), default=0), str(path)


def _chosen(plan: Plan, new: Sequence[Path]) -> Path:
    if len(new) > 1 and plan.config.build.model is None:
        _raise_several(plan, new)
    return max(new, key=_age)


def _raise_several(plan: Plan, new: Sequence[Path]) -> NoReturn:
    names = ", ".join(path.relative_to(plan.checkout).as_posix() for path in new[:6])
    what = f"`{plan.run}` wrote {len(new)} models: {names}."
    hint = "Say which one counts: set [build] model. Several files that are one model need "
    raise StoppedError("PS225", what, hint=f"{hint}[build] predict.")
