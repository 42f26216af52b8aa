"""Data that git does not keep: bound to the path where the project reads it, by digest."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from penstock.build.checkout import FILE_TIME_S
from penstock.config import DataSource
from penstock.errors import StoppedError, UnreachableError


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
