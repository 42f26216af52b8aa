"""Data that git does not keep: put where the project reads it, verified, before the build.

[data] of penstock.toml, then what DVC keeps (dvc.py); both through `sources`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.build.checkout import FILE_TIME_S
from penstock.build.data.sources import Digest, Sources, copied
from penstock.config import DataSource


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a file of the checkout came from, if not from git."""

    source: str
    """``data`` or ``dvc``."""
    uri: str


def bind_data(
    data: Mapping[str, DataSource],
    checkout: Path,
    sources: Sources,
    *,
    model: str,
    say: Callable[[str], None],
) -> dict[str, Origin]:
    """Put what ``[data]`` names where the project reads it; return each path with its origin.

    Raises
    ------
    StoppedError
        A file may not be read, is not there, or is not the one that penstock.toml means.
    """
    bound: dict[str, Origin] = {}
    for path, one in data.items():
        at, digest = one.address, Digest("sha256", one.sha256)
        if at.scheme == "file":
            origin = sources.local(at, shown=path)
        else:
            origin = sources.fetched(
                at, digest, model=model, secret=one.secret, shown=path, say=say
            )
        placed(origin, checkout / path, digest, shown=path)
        bound[path] = Origin("data", str(at))
    return bound


def placed(origin: Path, target: Path, digest: Digest, *, shown: str) -> None:
    """Copy a file into the checkout, verified, with the old time that every file has there."""
    try:
        copied(origin, target, digest, shown=shown)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    os.utime(target, (FILE_TIME_S, FILE_TIME_S))
