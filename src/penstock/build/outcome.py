"""What training left behind: the model that counts, or a sentence that says why there is none.

A build counts only by a new model: exit code 0 alone proves nothing, and a model that was
committed is not one that was built. Nothing here opens a model.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from penstock.build.checkout import FILE_TIME_S
from penstock.build.log_reading import Failure, excerpt, failure, stopped_for
from penstock.build.train import Plan
from penstock.errors import StoppedError
from penstock.ports import Finished

FORMATS: Mapping[str, str] = {
    ".joblib": "joblib",
    ".pkl": "joblib",
    ".pickle": "joblib",
    ".skops": "skops",
}
"""The format of a model file by its ending. A pickle is read as joblib reads it."""

_DISTRIBUTIONS: Mapping[str, str] = {
    "PIL": "Pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
"""Modules whose package has another name."""


@dataclass(frozen=True, slots=True)
class Built:
    """The model that a build wrote."""

    format: str
    """``joblib``, ``skops`` or ``adapter``."""
    path: Path
    """A file; for an adapter a file or a folder."""
    files: tuple[Path, ...]
    """All regular files of the model."""
    predict: str | None
    """The adapter, relative to the project."""


def collect(plan: Plan, finished: Finished, *, log: Path) -> Built:
    """Return the model that the finished command wrote.

    Raises
    ------
    StoppedError
        The command failed or took too long, wrote no new model, wrote several among which
        nothing decides, or one in a format that is not known.
    """
    if finished.timed_out:
        limit = plan.config.build.timeout_s
        what = f"`{plan.run}` did not end within {limit:g} s.{excerpt(log)}"
        raise StoppedError("PS222", what, hint="Make it faster, or raise [build] timeout_s.")
    if finished.returncode:
        _raise_failure(plan, finished.returncode, log)
    predict = plan.config.build.predict
    if predict is not None and not (plan.checkout / predict).is_file():
        what = f"[build] predict names {predict}, which the project does not have."
        raise StoppedError("PS231", what, hint="Commit the file, or mend the name.")
    found = list(_candidates(plan))
    new = [path for path in found if _is_new(path)]
    if not new:
        _raise_nothing_new(plan, found, log)
    return _built(_chosen(plan, new), predict)


def _raise_failure(plan: Plan, code: int, log: Path) -> NoReturn:
    if (ended := stopped_for(log)) is not None:
        hint = "Make it use less, or raise [build] memory_mb, up to what the operator allows."
        raise StoppedError("PS209", f"`{plan.run}` was {ended}", hint=hint)
    found = failure(log, plan.checkout)
    if found is None:
        how = f"was ended by signal {code - 128 if code > 128 else -code}"
        how = how if code > 128 or code < 0 else f"ended with {code}"
        out_of_memory = " It may have run out of memory." if code in (137, -9) else ""
        what = f"`{plan.run}` {how}.{out_of_memory}{excerpt(log)}"
        raise StoppedError("PS220", what, hint="Run it in a clean copy of the project, mend it.")
    if found.module is not None:
        _raise_missing_module(plan, found, found.module)
    if found.host is not None and not plan.config.build.network:
        what = f"{found.where or plan.run} tried to reach {found.host or 'the network'}; "
        what += f"builds have no network. ({found.error})"
        hint = "Declare the file in [data], or set [build] network = true."
        raise StoppedError("PS227", what, hint=hint)
    raise StoppedError("PS220", f"{found}.", hint="Mend it and push again.")


def _raise_missing_module(plan: Plan, found: Failure, module: str) -> NoReturn:
    top = module.split(".")[0]
    file = (found.where or plan.run).partition(" line ")[0]
    lacking = plan.dependency_file or "the project without a dependency file"
    package = _DISTRIBUTIONS.get(top, top)
    where = plan.dependency_file or "a requirements.txt"
    hint = f"Add {package} to {where} or to [environment] extra, and push again."
    if any((plan.checkout / place).exists() for place in (top, f"{top}.py")):
        hint = f"{top} is the project's own: mend the import, or commit the missing file."
    raise StoppedError("PS221", f"{file} imports {module}, which {lacking} lacks.", hint=hint)


def _raise_nothing_new(plan: Plan, found: Sequence[Path], log: Path) -> NoReturn:
    if found:
        stale = found[0].relative_to(plan.checkout).as_posix()
        what = f"{stale} comes from commit {plan.commit[:7]}; this build did not write it, "
        what += "so it is not taken."
        hint = f"Let `{plan.run}` write the model, and take {stale} out of git."
        raise StoppedError("PS224", what, hint=hint)
    looked = ", ".join(plan.model_globs)
    what = f"`{plan.run}` ended with 0 but wrote no model (looked for {looked}).{excerpt(log)}"
    raise StoppedError("PS223", what, hint="If it writes elsewhere, set [build] model.")


def _candidates(plan: Plan) -> Iterator[Path]:
    """Give what lies where models lie, new or not; a folder is one model for an adapter."""
    seen = list[Path]()
    for glob in plan.model_globs:
        for path in sorted(plan.checkout.glob(glob.rstrip("/"))):
            _require_plain(plan, path)
            if not any(path.is_relative_to(earlier) for earlier in seen):
                if path.is_dir() and plan.config.build.predict is None:
                    yield from (file for file in _files(path) if file.suffix in FORMATS)
                else:
                    seen.append(path)
                    yield path


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
        names = ", ".join(path.relative_to(plan.checkout).as_posix() for path in new[:6])
        what = f"`{plan.run}` wrote {len(new)} models: {names}."
        raise StoppedError("PS225", what, hint="Say which one counts: set [build] model.")
    return max(new, key=_age)


def _built(path: Path, predict: str | None) -> Built:
    if predict is not None:
        return Built("adapter", path, tuple(_files(path)), predict)
    if path.suffix not in FORMATS:
        known = ", ".join(FORMATS)
        what = f"{path.name} is in no format that can be read: {known}."
        raise StoppedError("PS226", what, hint="Save one of these, or set [build] predict.")
    return Built(FORMATS[path.suffix], path, (path,), None)
