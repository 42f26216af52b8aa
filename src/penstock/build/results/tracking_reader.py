"""Reads MLflow's tracking stores; a program of its own, on the standard library alone.

    python -I -S tracking_reader.py PROJECT COPIES FILE_TIME_S BEGAN_MS [STORE ...]

What it reads was written by foreign code, so it runs in the sandbox, by the python that trained
(3.9 or newer). SQLite stores are read
from a copy below COPIES, since SQLite may write to what it opens; file stores by their files. A
STORE is a database of this build alone; what else lies in PROJECT counts only where it is newer
than the build: files of the time FILE_TIME_S were committed, and a run that began before
BEGAN_MS is not of this build.

It writes one JSON object: ``stores``, ``runs``, ``models``, ``versions``, ``notes``. All of it is
bounded. Layouts: MLflow 1.x to 3.x, where a SQLite table or column that is not there counts as
empty.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_RUNS = 500
MAX_MODELS = 500
MAX_PAIRS = 200
"""Parameters, metrics and tags of one run, each."""
MAX_TEXT = 500
MAX_META_BYTES = 64 << 10
MAX_METRIC_BYTES = 8 << 20
MAX_DATABASE_BYTES = 1 << 30
MAX_STORES = 20

_SQLITE = b"SQLite format 3\0"
_SKIPPED = {".git", ".venv", "venv", "node_modules", "__pycache__", ".dvc", ".trash"}
_RUN_STATES = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}

Row = dict[str, Any]


class Reader:
    """Collects what the stores hold."""

    def __init__(self, project: Path, copies: Path, file_time_s: int, began_ms: int) -> None:
        self.project = project
        self.copies = copies
        self.file_time_ns = file_time_s * 10**9
        self.began_ms = began_ms
        self.runs: list[Row] = []
        self.models: list[Row] = []
        self.versions: list[Row] = []
        self.stores: list[str] = []
        self.notes: list[str] = []

    def told(self) -> Row:
        """Return everything, as it is written out."""
        newest = sorted(self.runs, key=lambda run: run["began_ms"] or 0)[-MAX_RUNS:]
        return {
            "stores": self.stores,
            "runs": newest,
            "models": self.models[-MAX_MODELS:],
            "versions": self.versions[-MAX_MODELS:],
            "notes": self.notes[:50],
        }

    def is_new(self, path: Path) -> bool:
        """Whether a file was written by this build."""
        return path.lstat().st_mtime_ns != self.file_time_ns

    # SQLite

    def database(self, path: Path, *, own: bool) -> None:
        """Read a SQLite store; `own` if it is of this build alone."""
        name = path.name if own else path.relative_to(self.project).as_posix()
        try:
            copy = self._copied(path)
            if copy is None:
                self.notes.append(f"The tracking store {name} is too large to be read.")
                return
            connection = sqlite3.connect(str(copy))
            try:
                self._tables(Tables(connection), name, 0 if own else self.began_ms)
            finally:
                connection.close()
        except (OSError, sqlite3.Error) as error:
            self.notes.append(f"The tracking store {name} cannot be read: {error}")

    def _copied(self, path: Path) -> Path | None:
        """Copy a database with what SQLite keeps beside it; None if it is too large."""
        folder = self.copies / str(len(self.stores))
        folder.mkdir(parents=True)
        for suffix in ("", "-wal", "-journal"):
            beside = path.with_name(path.name + suffix)
            if beside.is_file() and not beside.is_symlink():
                if beside.stat().st_size > MAX_DATABASE_BYTES:
                    return None
                shutil.copyfile(beside, folder / f"store.db{suffix}")
        return folder / "store.db"

    def _tables(self, tables: Tables, name: str, since_ms: int) -> None:
        if not tables.has("experiments") or not tables.has("runs"):
            return
        self.stores.append(name)
        experiments = {
            row["experiment_id"]: row["name"]
            for row in tables.rows("experiments", "experiment_id", "name")
        }
        new = [row for row in tables.runs() if (row["start_time"] or 0) >= since_ms]
        new.sort(key=lambda row: row["start_time"] or 0)
        if len(new) > MAX_RUNS:
            self.notes.append(f"{name}: only the newest {MAX_RUNS} of {len(new)} runs are kept.")
        self.runs += [tables.run(row, experiments) for row in new[-MAX_RUNS:]]
        columns = ("model_id", "name", "artifact_location", "source_run_id")
        for row in tables.rows(
            "logged_models", *columns, "creation_timestamp_ms", "lifecycle_stage"
        ):
            created = row["creation_timestamp_ms"] or 0
            if created >= since_ms and row["lifecycle_stage"] != "deleted":
                self.models.append(
                    {
                        "id": row["model_id"],
                        "name": row["name"],
                        "run": row["source_run_id"],
                        "location": row["artifact_location"],
                        "created_ms": created,
                    }
                )
        columns = ("name", "version", "source", "run_id", "storage_location", "creation_time")
        for row in tables.rows("model_versions", *columns):
            if (row["creation_time"] or 0) >= since_ms:
                self.versions.append(_version(row, row["creation_time"]))

    # Files

    def files(self, store: Path) -> None:
        """Read a file store, its new runs only."""
        self.stores.append(store.relative_to(self.project).as_posix())
        for experiment in _folders(store):
            told = _meta(experiment)
            if "experiment_id" in told and "artifact_location" in told:
                self._experiment(experiment, told.get("name") or experiment.name)
        for model in _folders(store / "models"):
            for version in _folders(model):
                told = _meta(version)
                if "version" in told and self.is_new(version / "meta.yaml"):
                    self.versions.append(_version(told, _number(told.get("creation_timestamp"))))

    def _experiment(self, folder: Path, name: str) -> None:
        for run in _folders(folder):
            told = _meta(run)
            is_run = "run_id" in told or "run_uuid" in told
            deleted = told.get("lifecycle_stage") == "deleted"
            if is_run and not deleted and self.is_new(run / "meta.yaml"):
                self.runs.append(_file_run(run, told, name))
        for model in _folders(folder / "models"):
            told = _meta(model)
            if "model_id" in told and self.is_new(model / "meta.yaml"):
                self.models.append(
                    {
                        "id": told["model_id"],
                        "name": told.get("name"),
                        "run": told.get("source_run_id"),
                        "location": told.get("artifact_location"),
                        "created_ms": _number(told.get("creation_timestamp")) or 0,
                    }
                )

    def search(self) -> None:
        """Read what the project has besides: file stores, and databases that were written."""
        found = 0
        for parent, folders, names in os.walk(self.project, followlinks=False):
            folders[:] = sorted(name for name in folders if name not in _SKIPPED)
            here = Path(parent)
            for name in sorted(names):
                if found < MAX_STORES and self._is_written_database(here / name):
                    found += 1
                    self.database(here / name, own=False)
            if found < MAX_STORES and any(_is_experiment(here / name) for name in folders):
                found += 1
                self.files(here)
                folders.clear()

    def _is_written_database(self, path: Path) -> bool:
        if path.suffix not in (".db", ".sqlite", ".sqlite3"):
            return False
        seen = path.lstat()
        if not stat.S_ISREG(seen.st_mode) or seen.st_mtime_ns == self.file_time_ns:
            return False
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE


class Tables:
    """A SQLite store's tables; one that is not there is empty, a column that is not is None."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = _decoded
        # Schemas can hold expressions; those of a foreign file must not call anything.
        connection.execute("PRAGMA trusted_schema = OFF")
        self._connection = connection
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        self._names = {row[0] for row in connection.execute(query)}

    def has(self, table: str) -> bool:
        """Whether there is such a table."""
        return table in self._names

    def rows(self, table: str, *columns: str, of: str | None = None) -> Iterator[Row]:
        """Yield a table's rows, those of one run if it is named."""
        if not self.has(table):
            return
        there = {row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")}
        wanted = ", ".join(name if name in there else f"NULL AS {name}" for name in columns)
        query = f"SELECT {wanted} FROM {table}"  # noqa: S608  names of ours alone
        where, values = (" WHERE run_uuid = ?", (of,)) if of is not None else ("", ())
        limit = MAX_PAIRS + 1 if of is not None else 20 * MAX_RUNS
        for row in self._connection.execute(f"{query}{where} LIMIT {limit}", values):
            yield dict(zip(columns, row))

    def runs(self) -> list[Row]:
        """Return the rows of runs that were not deleted."""
        columns = ("run_uuid", "name", "status", "start_time", "end_time", "artifact_uri")
        rows = self.rows("runs", *columns, "experiment_id", "lifecycle_stage")
        return [row for row in rows if row["lifecycle_stage"] != "deleted"]

    def run(self, row: Row, experiments: Row) -> Row:
        """Return a run with its parameters, metrics and tags."""
        of = row["run_uuid"]
        tags = {r["key"]: r["value"] for r in self.rows("tags", "key", "value", of=of)}
        params = {r["key"]: r["value"] for r in self.rows("params", "key", "value", of=of)}
        metrics = {
            r["key"]: math.nan if r["is_nan"] else r["value"]
            for r in self.rows("latest_metrics", "key", "value", "is_nan", of=of)
        }
        history: Row = {}
        if self.has("metrics"):
            query = "SELECT key, count(*) FROM metrics WHERE run_uuid = ? GROUP BY key LIMIT ?"
            history = dict(self._connection.execute(query, (of, MAX_PAIRS)))
        return _run(
            of,
            name=row["name"],
            experiment=experiments.get(row["experiment_id"], ""),
            status=row["status"],
            times=(row["start_time"], row["end_time"]),
            artifacts=row["artifact_uri"],
            values=(params, metrics, history, tags),
        )


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _run(  # noqa: PLR0913  by name
    id_: str,
    *,
    name: str | None,
    experiment: str,
    status: object,
    times: tuple[int | None, int | None],
    artifacts: str | None,
    values: tuple[Row, Row, Row, Row],
) -> Row:
    params, metrics, history, tags = values
    numbers = {key: float(value) for key, value in metrics.items() if _is_real(value)}
    return {
        "id": id_,
        "name": name or tags.get("mlflow.runName") or "",
        "parent": tags.get("mlflow.parentRunId"),
        "experiment": experiment,
        "status": status,
        "began_ms": times[0],
        "ended_ms": times[1],
        "artifact_uri": artifacts,
        "params": _few({key: _cut(value) for key, value in params.items()}),
        "metrics": _few(numbers),
        "history": _few({key: history.get(key, 1) for key in numbers}),
        "no_number": sorted(metrics.keys() - numbers.keys())[:MAX_PAIRS],
        "tags": _few({key: _cut(value) for key, value in tags.items()}),
    }


def _file_run(folder: Path, told: Row, experiment: str) -> Row:
    metrics: Row = {}
    history: Row = {}
    for key, path in _keys(folder / "metrics"):
        points = _points(path)
        if points:
            # MLflow's own rule for the last value: step, then time, then value.
            metrics[key] = max(points)[2]
            history[key] = len(points)
    params = {key: _text(path) for key, path in _keys(folder / "params")}
    tags = {key: _text(path) for key, path in _keys(folder / "tags")}
    status = _number(told.get("status"))
    return _run(
        str(told.get("run_id") or told.get("run_uuid")),
        name=told.get("run_name") or told.get("name"),
        experiment=experiment,
        status=_RUN_STATES.get(status, "") if status is not None else told.get("status"),
        times=(_number(told.get("start_time")), _number(told.get("end_time"))),
        artifacts=told.get("artifact_uri"),
        values=(params, metrics, history, tags),
    )


def _points(path: Path) -> set[tuple[int, int, float]]:
    """Return a metric's history as (step, time in ms, value).

    MLflow 3 writes a point once more when it links it to a logged model; it is one point.
    """
    points: set[tuple[int, int, float]] = set()
    for line in _text(path, MAX_METRIC_BYTES).splitlines():
        parts = line.split()
        with contextlib.suppress(ValueError, IndexError):
            points.add((int(parts[2]) if len(parts) > 2 else 0, int(parts[0]), float(parts[1])))
    return points


def _version(row: Row, created: int | None) -> Row:
    return {
        "name": row.get("name"),
        "version": str(row.get("version")),
        "source": row.get("source"),
        "storage": row.get("storage_location"),
        "run": row.get("run_id"),
        "created_ms": created or 0,
    }


def _is_experiment(folder: Path) -> bool:
    if not (folder / "meta.yaml").is_file():
        return False
    told = _meta(folder)
    return "experiment_id" in told and "artifact_location" in told and "run_id" not in told


def _meta(folder: Path) -> Row:
    """Return the flat YAML that MLflow keeps in a folder; empty without one.

    Values are text, or None for null. Long text is folded over several lines.
    """
    lines: list[str] = []
    for line in _text(folder / "meta.yaml", MAX_META_BYTES).splitlines():
        if line[:1].isspace() and lines:
            lines[-1] += " " + line.strip()
        elif line.strip():
            lines.append(line)
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): _scalar(value.strip()) for key, colon, value in pairs if colon}


def _scalar(text: str) -> str | None:
    if text in ("", "null", "~"):
        return None
    if text[0] == "'" and text[-1] == "'" and len(text) > 1:
        return text[1:-1].replace("''", "'")
    if text[0] == '"' and text[-1] == '"' and len(text) > 1:
        with contextlib.suppress(ValueError):
            return str(json.loads(text))
    return text


def _number(text: object) -> int | None:
    try:
        return int(float(str(text)))
    except (ValueError, OverflowError):
        return None


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, by name; links aside."""
    try:
        return sorted(
            Path(one.path) for one in os.scandir(folder) if one.is_dir(follow_symlinks=False)
        )
    except OSError:
        return []


def _keys(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield a file store's keys with their files; a key may have slashes."""
    count = 0
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            count += 1
            if count > MAX_PAIRS + 1:
                return
            yield (Path(parent) / name).relative_to(folder).as_posix(), Path(parent) / name


def _text(path: Path, limit: int = MAX_META_BYTES) -> str:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return ""
        with path.open("rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _cut(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _few(pairs: Row) -> Row:
    return dict(sorted(pairs.items())[:MAX_PAIRS])


def main() -> None:
    """Read what the arguments name, and write it to stdout."""
    project, copies, file_time_s, began_ms, *own = sys.argv[1:]
    reader = Reader(Path(project), Path(copies), int(file_time_s), int(began_ms))
    for store in own:
        if Path(store).is_file() and not Path(store).is_symlink():
            reader.database(Path(store), own=True)
    reader.search()
    json.dump(reader.told(), sys.stdout, allow_nan=False)


if __name__ == "__main__":
    main()
