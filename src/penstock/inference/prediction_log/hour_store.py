"""Where the hours of the prediction log lie: a folder, or any store that fsspec speaks to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import fsspec
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.errors import IntegrityError, PenstockError, UnreachableError

_CHUNK = 1 << 20
_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "az", "memory"})
"""Stores in which a file is there as a whole or not at all; elsewhere it is renamed into place."""
_S3 = {"config_kwargs": {"retries": {"total_max_attempts": 3}}}
"""s3fs itself tries five times, and we each minute: a store that is away is soon said to be."""
Got = TypeVar("Got")


class HourStore:
    """Files by name below one address.

    Parameters
    ----------
    url
        Such as ``s3://lake/predictions``, or the path of a folder.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._opened: tuple[Any, str] | None = None

    @property
    def filesystem(self) -> Any:
        """The fsspec file system that opens what `address` names; None for local files."""
        return None if self._is_local else self._at[0]

    def address(self, name: str) -> str:
        """Return what a reader opens: a path, or an address with its protocol."""
        fs, root = self._at
        path = f"{root}/{name}"
        return path if self._is_local else str(fs.unstrip_protocol(path))

    def put(self, source: Path, name: str) -> None:
        """Store a file, and read it back before it counts.

        Raises
        ------
        UnreachableError
            PS681: the store cannot be reached or written.
        IntegrityError
            PS682: what was read back is not what was written.
        """

        def do() -> None:
            fs, root = self._at
            path = f"{root}/{name}"
            whole = bool(_WHOLE.intersection(_protocols(fs)))
            written = path if whole else f"{path}.part"
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            fs.put_file(str(source), written)
            if _digest(fs, written) != _digest(None, str(source)):
                fs.rm_file(written)
                raise IntegrityError(
                    "PS682",
                    f"{name} was written to {self._url} and read back with other bytes.",
                    hint="It stays on this machine and is tried again; look at the store.",
                )
            if not whole:
                if self._is_local:
                    _sync_into_place(written, path)
                else:
                    fs.mv(written, path)

        self._do(do)

    def names(self, below: str) -> list[str]:
        """Return the files below a folder, in order."""
        return sorted(self.sizes(below))

    def sizes(self, below: str) -> dict[str, int]:
        """Map the files below a folder to their bytes."""

        def do() -> dict[str, int]:
            fs, root = self._at
            fs.invalidate_cache()
            found = cast("dict[str, dict[str, Any]]", fs.find(f"{root}/{below}", detail=True))
            return {
                path[len(root) + 1 :]: int(of["size"])
                for path, of in found.items()
                if path.endswith(".parquet") and "/date=" in path
            }

        return self._do(do)

    def footer(self, name: str) -> dict[bytes, bytes]:
        """Return what a file says of itself."""

        def do() -> dict[bytes, bytes]:
            fs, root = self._at
            with fs.open(f"{root}/{name}", "rb") as file:
                return pq.read_metadata(file).metadata or {}

        return self._do(do)

    def rows(self, name: str) -> dict[int, int]:
        """Return how many rows a file has of each version."""

        def do() -> dict[int, int]:
            fs, root = self._at
            with fs.open(f"{root}/{name}", "rb") as file:
                numbers: Any = pq.ParquetFile(file).read(columns=["number"])["number"]
            counted = pc.value_counts(numbers).to_pylist()
            return {one["values"]: one["counts"] for one in counted}

        return self._do(do)

    def delete(self, name: str) -> None:
        """Delete a file."""

        def do() -> None:
            fs, root = self._at
            fs.rm_file(f"{root}/{name}")

        self._do(do)

    @property
    def _at(self) -> tuple[Any, str]:
        if self._opened is None:
            options = _S3 if self._url.startswith(("s3://", "s3a://")) else {}
            found = cast("tuple[Any, str]", fsspec.core.url_to_fs(self._url, **options))
            self._opened = (found[0], found[1].rstrip("/"))
        return self._opened

    @property
    def _is_local(self) -> bool:
        return "file" in _protocols(self._at[0])

    def _do(self, action: Callable[[], Got]) -> Got:
        try:
            return action()
        except PenstockError:
            raise
        except Exception as error:  # whatever a store's library raises
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UnreachableError(
                "PS681",
                f"The prediction log's store {self._url} cannot be used: {reason}.",
                hint="Look at serving.log_url and the server's credentials; nothing is lost.",
            ) from error


def _protocols(fs: Any) -> set[str]:
    named = fs.protocol
    return {named} if isinstance(named, str) else set(named)


def _digest(fs: Any, path: str) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") if fs is None else fs.open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_into_place(written: str, path: str) -> None:
    handle = os.open(written, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    Path(written).replace(path)
    for folder in list(Path(path).parents)[:3]:  # of the hour, the date and the model: all new
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
