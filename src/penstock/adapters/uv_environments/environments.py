"""Python environments by uv: one per lock, made once, shared by every version with that lock.

    uv.lock | requirements.txt | pyproject.toml -> names and bounds -> pins with hashes -> venv

A push chooses packages, never where they come from: an index, an address or a path in its
files is refused, and uv gets names and bounds only, in a file of our own. Wheels only, so no
code of a package runs here. uv itself runs in the sandbox: the cache and the environment are
all that it can write, the network is open to it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uv

from penstock.adapters.uv_environments.dependency_files import (
    Requirements,
    admits,
    pins,
    read_requirements,
)
from penstock.errors import NotFoundError, StoppedError, UnreachableError
from penstock.ports import Command, Sandbox, Use

_TIMEOUT_S = 1800
_LOCK_NAME = "requirements.lock"
_UNREACHABLE = re.compile(
    r"failed to fetch|error sending request|dns error|could not connect|connection refused"
    r"|operation timed out|network is unreachable|network was disabled",
    re.IGNORECASE,
)
_OPERATOR = re.compile(r"UV_[A-Z_]+|SSL_CERT_(FILE|DIR)|(HTTPS?|ALL|NO)_PROXY", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Interpreter:
    path: Path
    version: str
    """``3.11.7``."""
    folder: Path
    """Its prefix; must be visible in the sandbox."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of uv."""

    argv: Sequence[str]
    cwd: Path
    read: Sequence[Path] = ()
    write: Sequence[Path] = ()
    env: dict[str, str] = field(default_factory=dict[str, str])
    network: bool = True


class UvEnvironments:
    """Makes environments below ``home/envs``.

    Parameters
    ----------
    home
        PENSTOCK_HOME. The download cache is ``cache/uv`` below it, unless the operator has
        set ``UV_CACHE_DIR``.
    sandbox
        Where uv runs.
    python
        The interpreter of the environments. By default this program's own; where that lies in
        a private folder, which no sandboxed user could see, the system's.
    index
        uv's own options that name package indexes, such as ``("--no-index", "--find-links",
        "/srv/wheels")``: from the operator, never from a push.
    """

    def __init__(
        self,
        home: Path,
        sandbox: Sandbox,
        python: Path | None = None,
        *,
        index: Sequence[str] = (),
    ) -> None:
        self._envs = home / "envs"
        self._sandbox = sandbox
        self._python = python or _default_python()
        self._index = tuple(index)
        self._cache = Path(os.environ.get("UV_CACHE_DIR") or home / "cache" / "uv").resolve()
        self._known: dict[Path, _Interpreter] = {}

    def lock(
        self,
        project: Path,
        out: Path,
        *,
        log: Path,
        extra: Sequence[str] = (),
        override: Sequence[str] = (),
        python: str | None = None,
    ) -> str:
        """Resolve the project's own dependency file into a hash-pinned lock at `out`."""
        interpreter = self._interpreter(python)
        wanted = read_requirements(project)
        if not admits(wanted.requires_python, interpreter.version):
            raise StoppedError(
                "PS213",
                f"{wanted.file} requires Python {wanted.requires_python}; installed here: "
                f"{interpreter.version}.",
                hint="Ask the operator to install one that fits, or loosen requires-python.",
            )
        _note(log, wanted.note)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".lock-", dir=out.parent) as name:
            work = Path(name).resolve()
            text = ""
            if wanted.uv_lock is not None:
                text = self._export(project.resolve(), interpreter, log)
                wanted = Requirements(wanted.file, tuple(pins(text, hashes=False)))
            wanted = wanted.plus(extra, override)
            if wanted.lines and (not text or extra or override):
                text = self._compile(wanted, work, interpreter, log)
            draft = work / _LOCK_NAME
            draft.write_text(f"# python {interpreter.version}\n{text}", encoding="utf-8")
            draft.replace(out)
        return lock_digest(out)

    def ready(self, lock: Path, *, log: Path) -> Path:
        """Return the python of the lock's environment, made now if it was not there."""
        folder = self._envs / lock_digest(lock)
        python = folder / "bin" / "python"
        if not _marker(folder).exists():
            with _only_one(folder):
                if not _marker(folder).exists():
                    self._make(folder, lock, log)
        return python

    def python(self, lock_digest: str) -> Path:
        """Return the python of an environment that was made; NotFoundError if it is gone."""
        folder = self._envs / lock_digest
        if not re.fullmatch(r"[0-9a-f]{64}", lock_digest) or not _marker(folder).exists():
            raise NotFoundError(
                "PS216",
                f"The environment {lock_digest[:12]} is not at {self._envs}.",
                hint="Make it again: penstock retry the run that built the version.",
            )
        return folder / "bin" / "python"

    def _make(self, folder: Path, lock: Path, log: Path) -> None:
        text = lock.read_text(encoding="utf-8")
        minor = ".".join(_locked_python(text).split(".")[:2])
        interpreter = self._interpreter(minor)
        self._envs.mkdir(parents=True, exist_ok=True)
        envs = self._envs.resolve()
        shutil.rmtree(envs / folder.name, ignore_errors=True)  # of a builder that died
        venv = ["venv", "--no-project", "--python", str(interpreter.path)]
        self._run(
            _Call([*venv, str(envs / folder.name)], envs, write=[envs], network=False),
            interpreter,
            log,
        )
        if any(pins(text)):
            self._sync(envs / folder.name, text, interpreter, log)
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o555)
        _marker(folder).touch()

    def _sync(self, folder: Path, lock: str, interpreter: _Interpreter, log: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".sync-", dir=self._envs) as name:
            work = Path(name).resolve()
            (work / _LOCK_NAME).write_text(lock, encoding="utf-8")
            argv = [
                *("pip", "sync", "--require-hashes", "--no-build", *self._index),
                *("--python", str(folder / "bin" / "python"), _LOCK_NAME),
            ]
            # A worker cannot write into its environment: without bytecode each start compiles.
            env = {"UV_COMPILE_BYTECODE": "1", "UV_LINK_MODE": "copy"}
            call = _Call(argv, work, read=[work], write=[folder], env=env)
            self._run(call, interpreter, log)

    def _export(self, project: Path, interpreter: _Interpreter, log: Path) -> str:
        argv = [
            *("export", "--locked", "--offline", "--no-dev", "--no-emit-project", "--no-build"),
            *("--no-header", "--no-annotate", "--python", str(interpreter.path)),
        ]
        call = _Call(argv, project, read=[project], network=False)
        code, output, errors = self._call(call, interpreter, log)
        if code:
            raise StoppedError(
                "PS217",
                f"uv.lock does not fit pyproject.toml: {_reason(errors)}",
                hint="Run `uv lock` in the project, commit uv.lock and push again.",
            )
        return output

    def _compile(
        self, wanted: Requirements, work: Path, interpreter: _Interpreter, log: Path
    ) -> str:
        argv = [
            *("pip", "compile", "--generate-hashes", "--no-header", "--no-annotate"),
            *("--no-build", "--python", str(interpreter.path), *self._index),
        ]
        files = {"--constraint": wanted.constraints, "--override": wanted.overrides}
        for option, lines in files.items():
            if lines:
                name = f"{option[2:]}.txt"
                (work / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
                argv += [option, name]
        (work / "requirements.in").write_text("\n".join(wanted.lines) + "\n", encoding="utf-8")
        call = _Call(
            [*argv, "requirements.in", "--output-file", "resolved.txt"], work, write=[work]
        )
        self._run(call, interpreter, log, file=wanted.file)
        return (work / "resolved.txt").read_text(encoding="utf-8")

    def _run(
        self, call: _Call, interpreter: _Interpreter, log: Path, *, file: str | None = None
    ) -> None:
        code, _, errors = self._call(call, interpreter, log)
        if not code:
            return
        reason = _reason(errors)
        if "No space left on device" in errors:
            raise UnreachableError(
                "PS215",
                f"The environment could not be written: {reason}",
                hint="Make room on the disk, then: penstock retry.",
            )
        if _UNREACHABLE.search(errors):
            raise UnreachableError(
                "PS214",
                f"The package index did not answer: {reason}",
                hint="Look at the network of the server, then: penstock retry.",
            )
        if file is None:
            raise StoppedError(
                "PS218",
                f"The environment could not be made from its lock: {reason}",
                hint="If a package was changed or withdrawn, pin another version of it.",
            )
        raise StoppedError(
            "PS211",
            f"The requirements of {file} cannot be met: {reason}",
            hint=f"Loosen or mend {file}, or set [environment] override in penstock.toml.",
        )

    def _call(self, call: _Call, interpreter: _Interpreter, log: Path) -> tuple[int, str, str]:
        program = _uv()
        self._cache.mkdir(parents=True, exist_ok=True)
        operator = {k: v for k, v in os.environ.items() if _OPERATOR.fullmatch(k)}
        command = Command(
            argv=[str(program), *call.argv, "--no-config", "--no-progress", "--color", "never"],
            cwd=call.cwd,
            read=[program, *_outside(interpreter.folder), *self._places(operator), *call.read],
            write=[self._cache, *call.write],
            env={
                **operator,
                "UV_CACHE_DIR": str(self._cache),
                "UV_PYTHON_DOWNLOADS": "never",
                **call.env,
            },
            network=call.network,
            use=Use.FETCH,
        )
        process = self._sandbox.start(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            output, errors = process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            errors += f"operation timed out after {_TIMEOUT_S} s".encode()
        said = errors.decode(errors="replace")
        _note(log, f"$ uv {' '.join(call.argv)}\n{said}")
        return process.returncode, output.decode(errors="replace"), said

    def _places(self, operator: dict[str, str]) -> list[Path]:
        """Find the folders that the operator's settings name, so that uv can see them."""
        values = [*self._index, *(v for k, v in operator.items() if k != "UV_CACHE_DIR")]
        words = [word for value in values for word in re.split(r"[ ,=]", value)]
        paths = (Path(urllib.parse.unquote(word.removeprefix("file://"))) for word in words)
        return [path for path in paths if path.is_absolute() and path.exists()]

    def _interpreter(self, wish: str | None) -> _Interpreter:
        minor = ".".join((wish or "").split(".")[:2])
        candidates = [self._python]
        if wish is not None:
            candidates += [Path(f"/usr/bin/python{minor}"), Path(f"/usr/local/bin/python{minor}")]
        found = [self._look(path) for path in candidates if path.exists()]
        for interpreter in found:
            if wish is None or f"{interpreter.version}.".startswith(f"{wish}."):
                return interpreter
        installed = ", ".join(dict.fromkeys(one.version for one in found))
        raise StoppedError(
            "PS213",
            f"The project asks for Python {wish}; installed here: {installed or 'none'}.",
            hint=f"Ask the operator to install Python {wish}, or change [environment] python.",
        )

    def _look(self, path: Path) -> _Interpreter:
        if path not in self._known:
            program = (
                "import json, sys; print(json.dumps([sys.version_info[:3], sys.base_prefix]))"
            )
            answer = subprocess.run([path, "-I", "-c", program], check=True, capture_output=True)
            version, prefix = json.loads(answer.stdout)
            text = ".".join(str(part) for part in version)
            self._known[path] = _Interpreter(path, text, Path(prefix))
        return self._known[path]


def lock_digest(lock: Path) -> str:
    """Return the digest of a lock: SHA-256 over the Python version and the sorted pins."""
    text = lock.read_text(encoding="utf-8")
    facts = [f"python {_locked_python(text)}", *sorted(pins(text))]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _locked_python(lock: str) -> str:
    head = re.match(r"# python ([0-9.]+)\n", lock)
    assert head is not None, "a lock begins with its Python version"
    return head[1]


def _default_python() -> Path:
    own = Path(sys.base_prefix)
    if any(not folder.stat().st_mode & 0o001 for folder in (own, *own.parents)):
        for name in ("python3", "python3.13", "python3.12", "python3.11"):
            if (system := Path("/usr/bin", name)).exists():
                return system
    return own / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"


def _outside(folder: Path) -> list[Path]:
    return [] if folder.is_relative_to("/usr") else [folder]


def _uv() -> Path:
    try:
        return Path(uv.find_uv_bin())
    except FileNotFoundError:
        if (found := shutil.which("uv")) is not None:
            return Path(found)
    raise NotFoundError(
        "PS210", "The program uv is not installed.", hint="Install Penstock anew, with uv."
    )


def _marker(folder: Path) -> Path:
    return folder / ".ready"


@contextmanager
def _only_one(folder: Path) -> Generator[None]:
    """Let one builder at a time make the environment; the others wait and find it made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _reason(errors: str) -> str:
    """Give uv's own reason as one paragraph, without its drawing."""
    lines = [re.sub(r"^[\s×│╰─▶├]+|^error:\s*", "", line) for line in errors.splitlines()]
    told = [line for line in lines if line and not line.startswith(("Using ", "Creating "))]
    return " ".join(told)[:1200] or "uv gave no reason."


def _note(log: Path, text: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(text.rstrip("\n") + "\n")
