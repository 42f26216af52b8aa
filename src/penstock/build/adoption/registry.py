"""Models of an MLflow registry or store, as files; nothing is loaded.

    models:/name/3   models:/name@alias   models:/name/latest   runs:/id/path

The store is a folder (``mlruns``), a SQLite file, or a tracking server's REST interface. Only
files are copied: what they hold is the gate's business, on the server.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, Protocol, cast

import yaml

from penstock.errors import NotFoundError, UnreachableError, UsageError

_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+|latest)|@(?P<alias>[^/@]+))")
_RUN = re.compile(r"runs:/(?P<run>[0-9a-f]{32})/(?P<path>[\w./-]+)")
_MAX_BYTES = 20 << 30
_TIMEOUT_S = 30.0


class Store(Protocol):
    """Where MLflow keeps models."""

    def model(self, name: str, version: str | None, alias: str | None) -> str:
        """Return the address at which a registered version's files lie."""
        ...

    def run(self, run: str, path: str) -> str:
        """Return the address of an artifact of an MLflow run."""
        ...

    def copy(self, address: str, target: Path) -> None:
        """Copy the files below an address."""
        ...


def fetch(source: str, store: Store, target: Path) -> None:
    """Copy the files of ``models:/…`` or ``runs:/…`` to `target`.

    Raises
    ------
    UsageError
        PS294, the source is written in none of these ways.
    NotFoundError, UnreachableError
        PS295 the store has no such model; PS296 it does not answer.
    """
    model, run = _MODEL.fullmatch(source), _RUN.fullmatch(source)
    if model is not None:
        version = None if model["version"] == "latest" else model["version"]
        address = store.model(model["name"], version, model["alias"])
    elif run is not None and ".." not in run["path"].split("/"):
        address = store.run(run["run"], run["path"])
    else:
        raise UsageError(
            "PS294",
            f"{source!r} names no model of MLflow.",
            hint="Write models:/name/3, models:/name@alias, models:/name/latest or runs:/id/path.",
        )
    store.copy(address, target)


def open_store(uri: str, environ: Mapping[str, str]) -> Store:
    """Return the store that ``--tracking-uri`` names."""
    if uri.startswith(("http://", "https://")):
        return RestStore(uri.rstrip("/"), _credentials(environ))
    path = Path(uri.removeprefix("sqlite:///").removeprefix("file://"))
    if path.is_dir():
        return FolderStore(path)
    if path.is_file():
        return SqliteStore(path)
    raise NotFoundError(
        "PS295",
        f"There is no MLflow store at {uri}.",
        hint="Name its folder, its SQLite file (sqlite:///mlflow.db) or its server.",
    )


def _credentials(environ: Mapping[str, str]) -> dict[str, str]:
    if token := environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    name = environ.get("MLFLOW_TRACKING_USERNAME")
    if name is None:
        return {}
    pair = f"{name}:{environ.get('MLFLOW_TRACKING_PASSWORD', '')}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _missing(what: str) -> NotFoundError:
    return NotFoundError(
        "PS295",
        f"The MLflow store has no {what}.",
        hint="Look at its registry for the names and versions that it has.",
    )


def _copy_local(address: str, target: Path, base: Path) -> None:
    raw = urllib.parse.unquote(address.removeprefix("file://"))
    place = Path(raw) if Path(raw).is_absolute() else base / raw
    if "://" in raw or not place.exists():
        raise NotFoundError(
            "PS295",
            f"The files of the model are not here: {address}.",
            hint="Run it where the store's files are, or name the tracking server.",
        )
    if place.is_dir():
        shutil.copytree(place, target, symlinks=True, dirs_exist_ok=True)
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place, target / place.name)


@dataclass(frozen=True, slots=True)
class SqliteStore:
    """A store in a SQLite file; it is read, never written, so never migrated."""

    path: Path

    def _rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        address = f"{self.path.resolve().as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(address, uri=True)) as connection:
                connection.row_factory = sqlite3.Row
                return [dict(row) for row in connection.execute(query, values)]
        except sqlite3.Error as error:
            raise UnreachableError(
                "PS296",
                f"{self.path} cannot be read as an MLflow store: {error}.",
                hint="Name the SQLite file that MLflow writes, usually mlflow.db.",
            ) from error

    def model(self, name: str, version: str | None, alias: str | None) -> str:
        """Return the address at which a registered version's files lie."""
        if alias is not None:
            query = "SELECT version FROM registered_model_aliases WHERE name=? AND alias=?"
            rows = self._rows(query, name, alias)
            version = str(rows[0]["version"]) if rows else "-1"
        query = "SELECT * FROM model_versions WHERE name=? ORDER BY version DESC"
        for row in self._rows(query, name):
            if version is None or str(row["version"]) == version:
                return self._place(str(row.get("storage_location") or row["source"]))
        raise _missing(f"{name}@{alias}" if alias else f"{name}, version {version or 'latest'}")

    def _place(self, source: str) -> str:
        logged = re.fullmatch(r"models:/(m-[0-9a-f]+)", source)
        if logged is None:
            return source
        query = "SELECT artifact_location FROM logged_models WHERE model_id=?"
        rows = self._rows(query, logged[1])
        if not rows:
            raise _missing(f"logged model {logged[1]}")
        return str(rows[0]["artifact_location"])

    def run(self, run: str, path: str) -> str:
        """Return the address of an artifact of an MLflow run."""
        rows = self._rows("SELECT artifact_uri FROM runs WHERE run_uuid=?", run)
        if not rows:
            raise _missing(f"run {run}")
        return f"{rows[0]['artifact_uri']}/{path}"

    def copy(self, address: str, target: Path) -> None:
        """Copy the files below an address."""
        _copy_local(address, target, self.path.parent)


@dataclass(frozen=True, slots=True)
class FolderStore:
    """A store in a folder of YAML files."""

    path: Path

    def _yaml(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            return {}
        return cast("dict[str, Any]", yaml.safe_load(path.read_text("utf-8")) or {})

    def model(self, name: str, version: str | None, alias: str | None) -> str:
        """Return the address at which a registered version's files lie."""
        folder = self.path / "models" / name
        if alias is not None:
            file = folder / "aliases" / alias
            version = file.read_text("utf-8").strip() if file.is_file() else "-1"
        metas = {
            int(path.parent.name.removeprefix("version-")): path
            for path in folder.glob("version-*/meta.yaml")
        }
        if version is None and metas:
            version = str(max(metas))
        if not metas or version is None or int(version) not in metas:
            raise _missing(
                f"{name}@{alias}" if alias else f"{name}, version {version or 'latest'}"
            )
        told = self._yaml(metas[int(version)])
        source = str(told.get("storage_location") or told["source"])
        logged = re.fullmatch(r"models:/(m-[0-9a-f]+)", source)
        if logged is None:
            return source
        for meta in self.path.glob(f"*/models/{logged[1]}/meta.yaml"):
            return str(self._yaml(meta).get("artifact_location") or meta.parent / "artifacts")
        raise _missing(f"logged model {logged[1]}")

    def run(self, run: str, path: str) -> str:
        """Return the address of an artifact of an MLflow run."""
        for meta in self.path.glob(f"*/{run}/meta.yaml"):
            return f"{self._yaml(meta).get('artifact_uri') or meta.parent / 'artifacts'}/{path}"
        raise _missing(f"run {run}")

    def copy(self, address: str, target: Path) -> None:
        """Copy the files below an address."""
        _copy_local(address, target, self.path.parent)


@dataclass(frozen=True, slots=True)
class RestStore:
    """A tracking server, by its REST interface 2.0."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def _open(self, place: str, **query: str) -> HTTPResponse:
        address = f"{self.url}{place}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(address, headers=dict(self.headers))  # noqa: S310
        try:
            opened = urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310  http(s) only
            return cast("HTTPResponse", opened)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise _missing(f"answer to {place} {query}") from error
            raise self._silent(f"answers {error.code}") from error
        except OSError as error:
            raise self._silent(f"does not answer ({error})") from error

    def _silent(self, how: str) -> UnreachableError:
        return UnreachableError(
            "PS296",
            f"The tracking server {self.url} {how}.",
            hint="Look at the address, and at MLFLOW_TRACKING_TOKEN or _USERNAME and _PASSWORD.",
        )

    def _json(self, path: str, **query: str) -> dict[str, Any]:
        with self._open(f"/api/2.0/mlflow/{path}", **query) as answer:
            return cast("dict[str, Any]", json.load(answer))

    def model(self, name: str, version: str | None, alias: str | None) -> str:
        """Return the address at which a registered version's files lie."""
        if alias is not None:
            found = self._json("registered-models/alias", name=name, alias=alias)["model_version"]
        elif version is not None:
            found = self._json("model-versions/get", name=name, version=version)["model_version"]
        else:
            listed = self._json("model-versions/search", filter=f"name='{name}'")
            versions = cast("list[dict[str, Any]]", listed.get("model_versions", []))
            if not versions:
                raise _missing(f"{name}, version latest")
            found = max(versions, key=lambda one: int(one["version"]))
        query = {"name": str(found["name"]), "version": str(found["version"])}
        return str(self._json("model-versions/get-download-uri", **query)["artifact_uri"])

    def run(self, run: str, path: str) -> str:
        """Return the address of an artifact of an MLflow run."""
        return f"{self._json('runs/get', run_id=run)['run']['info']['artifact_uri']}/{path}"

    def copy(self, address: str, target: Path) -> None:
        """Copy the files below an address, through the server."""
        parts = urllib.parse.urlsplit(address)
        if parts.scheme != "mlflow-artifacts":
            raise NotFoundError(
                "PS295",
                f"The server keeps the model's files at {parts.scheme or 'a path of its own'}, "
                "which it does not hand out.",
                hint="Download them with mlflow artifacts download, then adopt the folder.",
            )
        left = _MAX_BYTES
        for path in self._below(parts.path.strip("/")):
            relative = path.removeprefix(parts.path.strip("/")).strip("/")
            if ".." in Path(relative).parts or Path(relative).is_absolute():
                raise self._silent("names files outside of the model")
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            quoted = urllib.parse.quote(path)
            with (
                self._open(f"/api/2.0/mlflow-artifacts/artifacts/{quoted}") as answer,
                (target / relative).open("wb") as file,
            ):
                while chunk := answer.read(1 << 20):
                    left -= len(chunk)
                    if left < 0:
                        raise self._silent(f"sends more than {_MAX_BYTES >> 30} GiB")
                    file.write(chunk)

    def _below(self, path: str, depth: int = 8) -> Iterator[str]:
        with self._open("/api/2.0/mlflow-artifacts/artifacts", path=path) as answer:
            listed = cast("dict[str, Any]", json.load(answer)).get("files", [])
        for entry in cast("list[dict[str, Any]]", listed):
            name = f"{path}/{Path(str(entry['path'])).name}"
            if entry.get("is_dir") and depth:
                yield from self._below(name, depth - 1)
            elif not entry.get("is_dir"):
                yield name
