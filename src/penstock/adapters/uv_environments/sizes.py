"""How much an environment will take, before a byte of it is written."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from penstock.adapters.uv_environments.calls import Call, Uv
from penstock.adapters.uv_environments.interpreters import Interpreter
from penstock.errors import UnreachableError

LEAST_GROWTH = 2.0
"""An environment's bytes for each of its wheels', at the least. Measured: 4.3 for scikit-learn,
pandas, LightGBM and matplotlib with bytecode, and 3.3 more in the cache of downloads. CUDA's
libraries hardly shrink in a wheel, so less is demanded: a build that might fit is not refused."""


def require_room(
    uv: Uv,
    place: Call,
    interpreter: Interpreter,
    log: Path,
    free: Callable[[Path], int],
) -> None:
    """Stop before an environment is written that surely does not fit.

    Parameters
    ----------
    place
        The folder with the lock, which uv may write to, and its options that name indexes.
    free
        Gives the bytes that are free where a path lies.

    Raises
    ------
    UnreachableError
        PS261.
    """
    work = place.cwd
    argv = ["pip", "compile", "--no-deps", "--no-build", "--format", "pylock.toml", "--quiet"]
    argv += ["--no-header", *place.argv, "--python", str(interpreter.path), "requirements.lock"]
    argv += ["--output-file", "pylock.toml"]
    code, _, _ = uv.tried(Call(argv, work, place.read, place.write), interpreter, log)
    if code:
        return  # what is wrong is told by the sync
    packages = tomllib.loads((work / "pylock.toml").read_text(encoding="utf-8")).get(
        "packages", []
    )
    sizes = [_largest(one) for one in cast("list[Mapping[str, Any]]", packages)]
    needed, there = int(sum(sizes) * LEAST_GROWTH), free(work)
    if needed > there:
        raise UnreachableError(
            "PS261",
            f"The environment of {len(sizes)} packages takes at least {_gb(needed)}, and "
            f"{_gb(there)} are free at {work.parent}: {_gb(needed - there)} are missing.",
            hint="Make room (penstock prune), then: penstock retry. torch without a GPU is far "
            "smaller with UV_TORCH_BACKEND=cpu set for the server.",
        )


def _largest(package: Mapping[str, Any]) -> int:
    wheels = cast("list[Mapping[str, Any]]", package.get("wheels", []))
    return max((int(one.get("size", 0)) for one in wheels), default=0)


def _gb(count: int) -> str:
    return f"{count / 10**9:,.2f} GB"
