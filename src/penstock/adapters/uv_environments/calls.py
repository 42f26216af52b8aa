"""uv, called in the sandbox: what it may see and write, and what its failures mean."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uv

from penstock.adapters.uv_environments.interpreters import Interpreter, outside
from penstock.errors import NotFoundError, StoppedError, UnreachableError
from penstock.ports import Command, Sandbox, Use

_TIMEOUT_S = 1800
_UNREACHABLE = re.compile(
    r"failed to fetch|error sending request|dns error|could not connect|connection refused"
    r"|operation timed out|network is unreachable|network was disabled",
    re.IGNORECASE,
)
_OPERATOR = re.compile(r"UV_[A-Z_]+|SSL_CERT_(FILE|DIR)|(HTTPS?|ALL|NO)_PROXY", re.IGNORECASE)
_NO_WHEEL = re.compile(
    r"Wheels are required for `([^`]+)`|([A-Za-z0-9._-]+)[=<>!~][^ ]* has no usable wheels"
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of uv."""

    argv: Sequence[str]
    cwd: Path
    read: Sequence[Path] = ()
    write: Sequence[Path] = ()
    env: dict[str, str] = field(default_factory=dict[str, str])
    network: bool = True


@dataclass(frozen=True, slots=True)
class Uv:
    """Runs uv with the operator's settings and none of a project's.

    Parameters
    ----------
    index
        uv's own options that name package indexes, from the operator.
    """

    sandbox: Sandbox
    cache: Path
    index: Sequence[str] = ()

    def run(
        self, call: Call, interpreter: Interpreter, log: Path, *, file: str | None = None
    ) -> str:
        """Run it and return what it printed; raise what its failure means.

        Parameters
        ----------
        file
            Whose requirements are resolved; None where an environment is made from a lock.
        """
        code, output, errors = self.tried(call, interpreter, log)
        if code:
            raise failure(errors, file, interpreter)
        return output

    def tried(self, call: Call, interpreter: Interpreter, log: Path) -> tuple[int, str, str]:
        """Run it and return its exit code, its output, and what it said."""
        program = uv_program()
        self.cache.mkdir(parents=True, exist_ok=True)
        operator = operators_settings()
        command = Command(
            argv=[str(program), *call.argv, "--no-config", "--no-progress", "--color", "never"],
            cwd=call.cwd,
            read=[program, *outside(interpreter.folder), *self._places(operator), *call.read],
            write=[self.cache, *call.write],
            env={
                **operator,
                "UV_CACHE_DIR": str(self.cache),
                "UV_PYTHON_DOWNLOADS": "never",
                **call.env,
            },
            network=call.network,
            use=Use.FETCH,
        )
        process = self.sandbox.start(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            output, errors = process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            errors += f"operation timed out after {_TIMEOUT_S} s".encode()
        said = errors.decode(errors="replace")
        note(log, f"$ uv {' '.join(call.argv)}\n{said}")
        return process.returncode, output.decode(errors="replace"), said

    def _places(self, operator: dict[str, str]) -> list[Path]:
        """Find the folders that the operator's settings name, so that uv can see them."""
        values = [*self.index, *(v for k, v in operator.items() if k != "UV_CACHE_DIR")]
        words = [word for value in values for word in re.split(r"[ ,=]", value)]
        paths = (Path(urllib.parse.unquote(word.removeprefix("file://"))) for word in words)
        return [path for path in paths if path.is_absolute() and path.exists()]


def operators_settings() -> dict[str, str]:
    """Return the variables by which the operator tells uv of indexes, proxies, certificates."""
    return {k: v for k, v in os.environ.items() if _OPERATOR.fullmatch(k)}


def failure(errors: str, file: str | None, interpreter: Interpreter) -> Exception:
    """Return what a failure of uv means."""
    reason = reason_of(errors)
    if "No space left on device" in errors:
        return UnreachableError(
            "PS215",
            f"The environment could not be written: {reason}",
            hint="Make room on the disk (penstock prune), then: penstock retry.",
        )
    if _UNREACHABLE.search(errors):
        return UnreachableError(
            "PS214",
            f"The package index did not answer: {reason}",
            hint="Look at the network of the server, then: penstock retry.",
        )
    if file is None:
        return StoppedError(
            "PS218",
            f"The environment could not be made from its lock: {reason}",
            hint="If a package was changed or withdrawn, pin another version of it.",
        )
    if (package := without_wheel(errors)) is not None:
        return StoppedError(
            "PS260",
            f"{package}, which {file} asks for, has no wheel for Python {interpreter.minor}, "
            f"and nothing is built from source here: {reason}",
            hint=f'Take a version that has one: [environment] override = ["{package}>=..."] in '
            f'penstock.toml; or ask the operator for source_builds = ["{package}"] under '
            "[environment] in server.toml.",
        )
    return StoppedError(
        "PS211",
        f"The requirements of {file} cannot be met: {reason}",
        hint=f"Loosen or mend {file}, or set [environment] override in penstock.toml.",
    )


def without_wheel(errors: str) -> str | None:
    """Return the package for which uv found no wheel; None where that is not the reason."""
    found = _NO_WHEEL.search(" ".join(errors.split()))
    return (found[1] or found[2]) if found else None


def bounds_of(package: str, errors: str) -> str:
    """Return the versions of a package without wheel that uv would have taken.

    Examples
    --------
    >>> bounds_of("a", "Because a>=4.9,<=4.9.3 has no usable wheels and b depends on a==4.9.*")
    '==4.9.*,>=4.9,<=4.9.3'
    """
    text, name = " ".join(errors.split()), rf"(?<![\w.-]){re.escape(package)}"
    found = re.findall(rf"depends on {name}([<>=!~][^ ]*)", text)[-1:]
    found += re.findall(rf"{name}([<>=!~][^ ]*) has no usable wheels", text)[:1]
    return ",".join(found)


def reason_of(errors: str) -> str:
    """Give uv's own reason as one paragraph, without its drawing."""
    lines = [re.sub(r"^[\s×│╰─▶├]+|^error:\s*", "", line) for line in errors.splitlines()]
    told = [line for line in lines if line and not line.startswith(("Using ", "Creating "))]
    return " ".join(told)[:1200] or "uv gave no reason."


def note(log: Path, text: str) -> None:
    """Add to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(text.rstrip("\n") + "\n")


def uv_program() -> Path:
    """Return uv itself; NotFoundError where it is not installed."""
    try:
        return Path(uv.find_uv_bin())
    except FileNotFoundError:
        if (found := shutil.which("uv")) is not None:
            return Path(found)
    raise NotFoundError(
        "PS210", "The program uv is not installed.", hint="Install Penstock anew, with uv."
    )
