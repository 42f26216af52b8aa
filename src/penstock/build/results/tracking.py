"""What a build tracked with MLflow: its runs, the models it logged, the versions it registered.

Training gets a tracking store of its own (train.py). Afterwards `reading` reads that store and
what else the project wrote, without MLflow, by a program in the sandbox. `understood` takes its
answer as what it is, the word of foreign code: every path is looked at again. `pick` says which
model counts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from penstock.build.checkout import FILE_TIME_S
from penstock.build.project.model_files import MLMODEL, flavours
from penstock.build.train import Plan, hidden, interpreter_folders
from penstock.domain import JSON
from penstock.errors import StoppedError
from penstock.ports import Command, Limits, Use

PROGRAM = Path(__file__).with_name("tracking_reader.py")
PREFIX = "mlflow:"
"""Begins a ``[build] model`` that names a model of MLflow's."""
MAX_ANSWER_BYTES = 64 << 20
MAX_KEPT_BYTES = 256 << 20
"""Artifacts of one build that are stored, in all."""
MAX_ARTIFACTS = 1000
_MAX_HASHED_BYTES = 4 << 30
_READING_S = 120.0
_READING_MEMORY = 2 << 30


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A model that training logged with MLflow, or registered."""

    id: str
    """MLflow's; of MLflow 2, which gives none, the run's and the name."""
    name: str
    run: str | None
    path: Path | None
    """The folder with its MLmodel; None where it was logged to another machine."""
    uri: str
    """Where MLflow says that it lies."""
    created_ms: int
    registered: tuple[tuple[str, str, int], ...] = ()
    """Names and versions under which it was registered, with the time in ms."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """What one build tracked."""

    stores: tuple[str, ...] = ()
    runs: tuple[Mapping[str, Any], ...] = ()
    """As the reader tells them."""
    models: tuple[LoggedModel, ...] = ()
    notes: tuple[str, ...] = ()
    artifacts: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """Each run's folder of artifacts, by its id."""

    def run_name(self, run: str | None) -> str:
        """Return a run's name; empty for one that is not there."""
        return next((str(one["name"]) for one in self.runs if one["id"] == run), "")

    @property
    def summary(self) -> str:
        """What was found, as one line."""
        registered = sum(len(model.registered) for model in self.models)
        experiments = len({run["experiment"] for run in self.runs})
        return (
            f"MLflow: {_count(len(self.runs), 'run')} in {_count(experiments, 'experiment')}, "
            f"{_count(len(self.models), 'model')} logged, {registered} registered"
        )


NOTHING = Tracked()


def reading(plan: Plan, copies: Path) -> Command:
    """Return the command that reads what training tracked; it writes JSON to its output."""
    copies.mkdir(parents=True, exist_ok=True)
    store = plan.scratch / "mlflow.db"
    argv = [str(plan.python), "-I", "-S", str(PROGRAM), str(plan.checkout), str(copies)]
    return Command(
        argv=[*argv, str(FILE_TIME_S), str(plan.began_ms), str(store)],
        cwd=copies,
        read=[PROGRAM, *interpreter_folders(plan.python)],
        # It writes to the last only. The others are handed over because training may have made
        # its files readable to itself alone.
        write=[plan.checkout, plan.scratch, copies],
        mask=hidden(plan),
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        use=Use.CHECK,
        limits=Limits(seconds=_READING_S, memory_bytes=_READING_MEMORY),
    )


def understood(answer: Path, plan: Plan) -> Tracked:
    """Return what the reader told; an answer that cannot be used is a note, not a failure."""
    try:
        if answer.stat().st_size > MAX_ANSWER_BYTES:
            return Tracked(notes=("What was tracked is too much to be kept.",))
        told = cast("dict[str, Any]", json.loads(answer.read_text("utf-8")))
        return _understood(told, plan)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return Tracked(notes=(f"What was tracked with MLflow cannot be read: {error!r}.",))


def pick(tracked: Tracked, wanted: str | None) -> tuple[LoggedModel, str] | None:
    """Return the model that counts, with the reason; None if nothing was logged.

    Parameters
    ----------
    wanted
        The name behind ``mlflow:`` in ``[build] model``: of a registered or logged model, or
        ``run name/model name``.

    Raises
    ------
    StoppedError
        PS282 nothing decides between several; PS287 none has the name that is wanted; PS289 the
        one that counts was logged to another machine.
    """
    if wanted is not None:
        return _reachable(*_named(tracked, wanted))
    versions = sorted(_versions(tracked.models), key=lambda found: found[1][2])
    if versions:
        model, (name, version, _) = versions[-1]
        more = f", the newest of {len(versions)}" if len(versions) > 1 else ""
        return _reachable(model, f"registered in this build as {name} version {version}{more}")
    if len(tracked.models) > 1:
        names = ", ".join(dict.fromkeys(_title(tracked, model) for model in tracked.models))
        raise StoppedError(
            "PS282",
            f"{len(tracked.models)} models logged, none registered. "
            "Register one or set [build] model.",
            hint=f'[build] model = "{PREFIX}NAME" takes the newest of a name. There are: '
            f"{names[:300]}.",
        )
    if tracked.models:
        return _reachable(tracked.models[0], "the only model logged in this build")
    return None


def metrics_of(tracked: Tracked, model: LoggedModel | None) -> dict[str, float]:
    """Return the metrics of the run that made a model, else of the newest run with any.

    A nested run without metrics has those of the run around it.
    """
    by_id = {run["id"]: run for run in tracked.runs}
    run = by_id.get(model.run) if model is not None else None
    for _ in range(len(by_id)):
        if run is None or run["metrics"]:
            break
        run = by_id.get(run["parent"])
    if run is None and model is None:
        told = [one for one in tracked.runs if one["metrics"]]
        outer = [one for one in told if one["parent"] is None]
        run = next(reversed(outer or told), None)
    return dict(run["metrics"]) if run is not None else {}


def report(tracked: Tracked, *, hold: Callable[[Path], str], but: Path | None) -> dict[str, Any]:
    """Return runs and models as they are kept, with the digests of their files.

    Parameters
    ----------
    hold
        Stores a file and returns its SHA-256; called until `MAX_KEPT_BYTES` are stored.
    but
        The folder of the model that counts: the version holds it already.
    """
    keeper = _Keeper(hold)
    runs = [_told_run(run, keeper.files(tracked.artifacts.get(run["id"]))) for run in tracked.runs]
    models = [
        {
            "id": model.id,
            "name": model.name,
            "run": model.run,
            "created": _moment(model.created_ms),
            "flavors": flavours(model.path) if model.path else [],
            "registered": [{"name": n, "version": v} for n, v, _ in model.registered],
            "artifacts": keeper.files(model.path, store=model.path != but),
        }
        for model in tracked.models
    ]
    notes = [*tracked.notes, *keeper.notes()]
    return {"stores": list(tracked.stores), "runs": runs, "models": models, "notes": notes}


def _named(tracked: Tracked, wanted: str) -> tuple[LoggedModel, str]:
    versions = [found for found in _versions(tracked.models) if found[1][0] == wanted]
    if versions:
        model, (name, version, _) = max(versions, key=lambda found: found[1][2])
        return model, f"{name} version {version}, named by [build] model"
    named = [
        model
        for model in tracked.models
        if wanted in (model.name, f"{tracked.run_name(model.run)}/{model.name}")
    ]
    if not named:
        names = ", ".join(dict.fromkeys(_title(tracked, model) for model in tracked.models))
        raise StoppedError(
            "PS287",
            f"[build] model names {PREFIX}{wanted}, and this build logged no such model.",
            hint=f"It logged {names[:300]}." if names else "It logged none at all.",
        )
    more = f", the newest of {len(named)} of that name" if len(named) > 1 else ""
    newest = max(named, key=lambda model: model.created_ms)
    return newest, f"{wanted}, named by [build] model{more}"


def _reachable(model: LoggedModel, why: str) -> tuple[LoggedModel, str]:
    if model.path is None:
        raise StoppedError(
            "PS289",
            f"Model {model.name} was logged to {model.uri}, where no MLmodel can be read.",
            hint="Let MLflow keep artifacts in the project's folder: set no artifact location.",
        )
    return model, why


def _versions(models: Iterable[LoggedModel]) -> Iterator[tuple[LoggedModel, tuple[str, str, int]]]:
    yield from ((model, version) for model in models for version in model.registered)


def _title(tracked: Tracked, model: LoggedModel) -> str:
    """Return the name under which ``mlflow:`` finds a model and no other."""
    same = [one for one in tracked.models if one.name == model.name]
    run = tracked.run_name(model.run)
    return f"{run}/{model.name}" if len(same) > 1 and run else model.name


def _understood(told: Mapping[str, Any], plan: Plan) -> Tracked:
    runs = tuple(sorted(told["runs"], key=lambda run: (run["began_ms"] or 0, run["id"])))
    folders = {run["id"]: _local(run["artifact_uri"], plan) for run in runs}
    artifacts = {run: folder for run, folder in folders.items() if folder is not None}
    models = [
        LoggedModel(
            str(one["id"]),
            str(one["name"]),
            one["run"],
            _model_folder(_local(one["location"], plan)),
            str(one["location"]),
            int(one["created_ms"]),
        )
        for one in told["models"]
    ]
    for run, folder in artifacts.items():
        models += [
            LoggedModel(
                f"{run}/{path.relative_to(folder).as_posix()}",
                path.relative_to(folder).as_posix(),
                run,
                path,
                f"runs:/{run}/{path.relative_to(folder).as_posix()}",
                (path / MLMODEL).stat().st_mtime_ns // 10**6,
            )
            for path in _models_below(folder)
        ]
    # MLflow 3 notes a model before it is written: one without files never was.
    whole = [one for one in models if one.path is not None or _local(one.uri, plan) is None]
    for version in told["versions"]:
        _register(whole, version, plan, artifacts)
    return Tracked(
        stores=tuple(map(str, told["stores"])),
        runs=runs,
        models=tuple(sorted(whole, key=lambda model: (model.created_ms, model.id))),
        notes=tuple(map(str, told["notes"])),
        artifacts=artifacts,
    )


def _register(
    models: list[LoggedModel],
    version: Mapping[str, Any],
    plan: Plan,
    artifacts: Mapping[str, Path],
) -> None:
    """Note a version at the model that it is of; at a new one where nothing logged it."""
    source = str(version["source"] or "")
    label = (str(version["name"]), str(version["version"]), int(version["created_ms"]))
    path = _source(source, plan, artifacts) or _model_folder(
        _local(version["storage"] or "", plan)
    )
    for number, model in enumerate(models):
        same_id = source == f"models:/{model.id}"
        if same_id or (path is not None and model.path == path):
            models[number] = replace(model, registered=(*model.registered, label))
            return
    uri = source or str(version["storage"])
    models.append(LoggedModel(uri, label[0], version["run"], path, uri, label[2], (label,)))


def _source(uri: str, plan: Plan, artifacts: Mapping[str, Path]) -> Path | None:
    """Return the folder of ``runs:/<run>/<path>``, or of a path."""
    if not uri.startswith("runs:/"):
        return _model_folder(_local(uri, plan))
    run, _, path = uri.removeprefix("runs:/").partition("/")
    folder = artifacts.get(run)
    return _model_folder(_local(str(folder / path), plan)) if folder is not None else None


def _local(uri: object, plan: Plan) -> Path | None:
    """Return the folder that an address means; None if it lies outside of this build, or a link.

    Whoever wrote the tracking store chose the address: it must not lead anywhere else.
    """
    if not isinstance(uri, str) or not uri or "\0" in uri:
        return None
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        return None
    path = Path(os.path.normpath(plan.checkout / (unquote(parts.path) if parts.scheme else uri)))
    for base in (plan.checkout, plan.scratch):
        if path.is_relative_to(base) and path.is_dir():
            plain = path.resolve() == base.resolve() / path.relative_to(base)
            return path if plain else None
    return None


def _model_folder(folder: Path | None) -> Path | None:
    if folder is None:
        return None
    mlmodel = folder / MLMODEL
    return folder if mlmodel.is_file() and not mlmodel.is_symlink() else None


def _models_below(folder: Path) -> Iterator[Path]:
    for parent, folders, _ in os.walk(folder, followlinks=False):
        if _model_folder(Path(parent)) is not None:
            yield Path(parent)
            folders.clear()
        folders.sort()


class _Keeper:
    """Names the files of a build, and stores them while there is room."""

    def __init__(self, hold: Callable[[Path], str]) -> None:
        self._hold = hold
        self._kept_bytes = 0
        self._hashed_bytes = 0
        self._files = 0
        self._left_out = 0
        self._not_kept: list[int] = []

    def files(self, folder: Path | None, *, store: bool = True) -> list[dict[str, Any]]:
        """Return path, sha256, size of each file below a folder, logged models aside."""
        found: list[dict[str, Any]] = []
        for path in _plain_files(folder) if folder is not None else ():
            size = path.stat().st_size
            self._files += 1
            if self._files > MAX_ARTIFACTS or self._hashed_bytes + size > _MAX_HASHED_BYTES:
                self._left_out += 1
                continue
            self._hashed_bytes += size
            kept = store and self._kept_bytes + size <= MAX_KEPT_BYTES
            if kept:
                self._kept_bytes += size
            elif store:
                self._not_kept.append(size)
            digest = self._hold(path) if kept else _sha256(path)
            assert folder is not None, "there are files"
            name = path.relative_to(folder).as_posix()
            in_version = not store
            found.append(
                {"path": name, "sha256": digest, "bytes": size, "kept": kept or in_version}
            )
        return found

    def notes(self) -> Iterator[str]:
        """Yield what was not kept, as sentences."""
        if self._not_kept:
            yield (
                f"{_count(len(self._not_kept), 'artifact')} of {sum(self._not_kept):,} bytes not "
                f"stored: at most {MAX_KEPT_BYTES >> 20} MiB of a build's artifacts are."
            )
        if self._left_out:
            yield f"{_count(self._left_out, 'artifact')} left out: too many, or too large."


def _plain_files(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder, in order; those of a model in it aside."""
    for parent, folders, names in os.walk(folder, followlinks=False):
        if Path(parent) != folder and _model_folder(Path(parent)) is not None:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _told_run(run: Mapping[str, Any], artifacts: Sequence[JSON]) -> dict[str, Any]:
    tags = {
        key: value
        for key, value in run["tags"].items()
        if not key.startswith("mlflow.") or key == "mlflow.note.content"
    }
    return {
        "id": run["id"],
        "name": run["name"],
        "parent": run["parent"],
        "experiment": run["experiment"],
        "status": run["status"],
        "began": _moment(run["began_ms"]),
        "ended": _moment(run["ended_ms"]),
        "params": run["params"],
        "metrics": run["metrics"],
        "history": run["history"],
        "not_numbers": run["no_number"],
        "tags": tags,
        "artifacts": list(artifacts),
    }


def _moment(ms: int | None) -> str | None:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat() if ms else None
    except (OverflowError, OSError, ValueError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
