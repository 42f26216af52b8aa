"""Training: the project's own command in the sandbox, and the model that it leaves behind.

`training_command` says how it runs, the engine runs it, `collect` takes the model. A build
counts only by a new model: exit code 0 alone proves nothing, and a model that was committed
is not one that was built. Nothing here opens a model.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from penstock.build.checkout import FILE_TIME_S
from penstock.build.log_reading import Failure, excerpt, failure
from penstock.config import DataSource, ModelConfig
from penstock.errors import StoppedError, UnreachableError
from penstock.ports import Command, Finished, Limits

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

_QUIET: Mapping[str, str] = {
    "DO_NOT_TRACK": "true",
    "KEDRO_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NML_DISABLE_USAGE_LOGGING": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that training depends on."""

    config: ModelConfig
    commit: str
    checkout: Path
    """Of this run alone, made by `checkout`; training writes into it."""
    scratch: Path
    """A folder of this run alone, for temporary files and the private tracking store."""
    python: Path
    """Of the locked environment."""
    run: str
    """The command, for a shell, in the project's folder."""
    model_globs: Sequence[str]
    """Where a new model is looked for."""
    dependency_file: str | None = None
    """For sentences: the file that lacks a package."""
    threads: int = 1


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


def interpreter_folders(python: Path) -> tuple[Path, ...]:
    """Return the folders that a sandbox must show for this python to run.

    Its environment, and the interpreter behind it where that does not lie below /usr.
    """
    folders = {python.parent.parent: None, python.resolve().parent.parent: None}
    settings = python.parent.parent / "pyvenv.cfg"
    if settings.is_file():
        pairs = (line.partition("=") for line in settings.read_text("utf-8").splitlines())
        homes = [Path(value.strip()) for key, _, value in pairs if key.strip() == "home"]
        folders |= {home.parent: None for home in homes}
    return tuple(folder for folder in folders if not folder.is_relative_to("/usr"))


def training_command(plan: Plan) -> Command:
    """Return the project's own command, as the sandbox shall run it."""
    build, evaluate = plan.config.build, plan.config.evaluate
    plan.scratch.mkdir(parents=True, exist_ok=True)
    hidden = [] if evaluate is None or evaluate.made_by_build else [plan.checkout / evaluate.data]
    return Command(
        argv=["/bin/sh", "-c", plan.run],
        cwd=plan.checkout,
        read=interpreter_folders(plan.python),
        write=[plan.checkout, plan.scratch],
        mask=hidden,
        env=_environment(plan),
        network=build.network,
        limits=Limits(seconds=build.timeout_s),
    )


def _environment(plan: Plan) -> dict[str, str]:
    build = plan.config.build
    own = {
        "PATH": f"{plan.python.parent}:/usr/local/bin:/usr/bin:/bin",
        "TMPDIR": str(plan.scratch),
        "PYTHONPATH": f"{plan.checkout}:{plan.checkout / 'src'}",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "PENSTOCK_SEED": "0",
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": str(plan.threads),
        "MLFLOW_EXPERIMENT_NAME": plan.config.model.name,
        "MLFLOW_ALLOW_FILE_STORE": "true",
        **_QUIET,
    }
    if not build.network:
        own["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    own |= build.env
    own["MLFLOW_TRACKING_URI"] = f"sqlite:///{plan.scratch / 'mlflow.db'}"
    own.pop("MLFLOW_RUN_ID", None)  # it makes projects crash that set their own experiment
    return own


def bind_data(data: Mapping[str, DataSource], checkout: Path, *, home: Path) -> None:
    """Copy what ``[data]`` names to where the project reads it, verified.

    Nothing below `home`, Penstock's own folder, is ever given to a project.

    Raises
    ------
    StoppedError
        A file is not there, or is not the one that penstock.toml means.
    """
    for path, source in data.items():
        origin = Path(source.path).resolve()
        if not origin.is_file() or origin.is_relative_to(home.resolve()):
            what = f"[data] {path}: the server has no file {source.path} to give."
            raise StoppedError("PS229", what, hint="Copy it to the server, or mend the path.")
        target = checkout / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copyfile(origin, target)
            os.utime(target, (FILE_TIME_S, FILE_TIME_S))
        except OSError as error:
            what = f"{source.path} could not be copied to {path}: {error.strerror}."
            hint = "Make room on the disk or mend its rights, then: penstock retry."
            raise UnreachableError("PS232", what, hint=hint) from error
        found = _sha256(target)
        if found != source.sha256:
            # Cut short: whoever may name a path must not learn the digest of any file.
            what = f"{path} has sha256 {found[:8]}…, penstock.toml says {source.sha256[:8]}…."
            hint = "Set [data] sha256 to that of the file which is meant, or restore the file."
            raise StoppedError("PS228", what, hint=hint)


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
