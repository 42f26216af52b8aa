"""Python environments by uv: one per lock, made once, shared by every version with that lock.

    names and bounds, as of a date -> pins with hashes -> venv

A push chooses packages, never where they come from: an index that its files name counts only
if it is the operator's own. uv gets names and bounds, in a file of ours. Wheels only, so no
code of a package runs here. uv itself runs in the sandbox: the cache and the environment are
all that it can write, the network is open to it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from penstock.adapters.uv_environments import origins
from penstock.adapters.uv_environments.calls import (
    Call,
    Uv,
    bounds_of,
    failure,
    note,
    reason_of,
    without_wheel,
)
from penstock.adapters.uv_environments.interpreters import (
    Interpreter,
    Interpreters,
    chosen,
    default_python,
)
from penstock.adapters.uv_environments.locks import (
    NAME,
    lock_digest,
    locked_python,
    narrowed,
    pins,
)
from penstock.adapters.uv_environments.sizes import require_room
from penstock.adapters.uv_environments.source_builds import SourceBuilds
from penstock.errors import NotFoundError, StoppedError
from penstock.ports import AsOf, MadeEnvironment, Requirements, Sandbox

_MOST_BUILDS = 20
"""Packages that one project may have built from source, one after another."""


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
    source_builds
        Names of packages that may be built from source, in the sandbox.
    free
        Gives the bytes that are free where a path lies.
    """

    def __init__(
        self,
        home: Path,
        sandbox: Sandbox,
        python: Path | None = None,
        *,
        index: Sequence[str] = (),
        source_builds: Sequence[str] = (),
        free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self._envs = home / "envs"
        self._index = tuple(index)
        cache = Path(os.environ.get("UV_CACHE_DIR") or home / "cache" / "uv").resolve()
        self._uv = Uv(sandbox, cache, self._index)
        self._pythons = Interpreters(python or default_python(), home)
        allowed = frozenset(canonicalize_name(name) for name in source_builds)
        self._builds = SourceBuilds(self._uv, home / "wheels", allowed)
        self._free = free

    def lock(
        self,
        wanted: Requirements,
        out: Path,
        *,
        log: Path,
        python: str | None = None,
        as_of: AsOf | None = None,
    ) -> str:
        """Resolve what a project asks for into a hash-pinned lock at `out`."""
        began = time.monotonic()
        interpreter, told = chosen(self._pythons.installed(), wanted, python)
        for sentence in (told, *origins.judged(wanted, self._index)):
            if sentence:
                note(log, f"WARNING {sentence}")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".lock-", dir=out.parent) as name:
            work = Path(name).resolve()
            text, when = self._resolved(wanted, work, interpreter, log, as_of)
            draft = work / NAME
            text = narrowed(text, self._builds.known(wanted.hashes), wanted.file)
            draft.write_text(f"# python {interpreter.version}\n{text}", encoding="utf-8")
            draft.replace(out)
        digest = lock_digest(out)
        count = sum(1 for _ in pins(text))
        packages = "1 package" if count == 1 else f"{count} packages"
        note(
            log,
            f"Locked {packages} from {wanted.file}{when}, Python {interpreter.version}: "
            f"lock {digest[:12]}, {time.monotonic() - began:.1f} s.",
        )
        for sentence in origins.remarks(text):
            note(log, sentence)
        return digest

    def ready(self, lock: Path, *, log: Path) -> Path:
        """Return the python of the lock's environment, made now if it was not there."""
        began = time.monotonic()
        folder = self._envs / lock_digest(lock)
        python = folder / "bin" / "python"
        how = "reused"
        if not _marker(folder).exists():
            with _only_one(folder):
                if not _marker(folder).exists():
                    self._make(folder, lock, log)
                    how = "made"
        os.utime(_marker(folder))  # asked for now: not the next to be pruned
        took = time.monotonic() - began
        note(log, f"Environment {folder.name[:12]} {how}, {took:.1f} s.")
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

    def made(self) -> Iterator[MadeEnvironment]:
        """Give every environment on the disk, half-made ones too."""
        for folder in sorted(self._envs.glob("[0-9a-f]" * 64)):
            marker = _marker(folder)
            used = marker if marker.exists() else folder
            yield MadeEnvironment(folder.name, folder, used.stat().st_mtime)

    def remove(self, lock_digest: str) -> None:
        """Remove an environment; who asks for it afterwards gets it made anew."""
        folder = self._envs / lock_digest
        assert re.fullmatch(r"[0-9a-f]{64}", lock_digest), "the digest of a lock"
        with _only_one(folder):
            _marker(folder).unlink(missing_ok=True)  # from now on nobody takes it for whole
            gone = folder.with_name(f".gone-{uuid.uuid4().hex}")
            folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def prune_cache(self, *, log: Path) -> None:
        """Let uv remove from its download cache what nothing refers to."""
        interpreter = self._pythons.installed()[0]
        self._envs.mkdir(parents=True, exist_ok=True)
        self._uv.run(Call(["cache", "prune"], self._envs, network=False), interpreter, log)

    @property
    def cache(self) -> Path:
        """The folder of downloads."""
        return self._uv.cache

    def _resolved(
        self,
        wanted: Requirements,
        work: Path,
        interpreter: Interpreter,
        log: Path,
        as_of: AsOf | None,
    ) -> tuple[str, str]:
        """Return the lock's lines, and ``as of …`` for the log."""
        text = ""
        if wanted.uv_lock is not None:
            text = self._export(wanted.uv_lock.resolve(), interpreter, log)
            locked = tuple(pins(text, hashes=False))
            if wanted.lines or wanted.overrides:
                over = {canonicalize_name(Requirement(o).name) for o in wanted.overrides}
                hashes = _hashes(text, without=over)
                wanted = replace(wanted, lines=(*locked, *wanted.lines), hashes=hashes)
                text = ""
            elif not locked:
                return "", ""
        if text or not wanted.lines:
            return text, ""
        if as_of is None or (wanted.complete and not wanted.added):
            return self._compile(wanted, work, interpreter, log), ""
        return self._dated(wanted, work, interpreter, log, as_of)

    def _dated(
        self, wanted: Requirements, work: Path, interpreter: Interpreter, log: Path, as_of: AsOf
    ) -> tuple[str, str]:
        begin = wheels_since(interpreter.minor)
        dates = AsOf(max(as_of.files, begin), max(as_of.added, as_of.files, begin))
        if as_of.files < begin:
            note(
                log,
                f"{wanted.file} is of {as_of.files:%Y-%m-%d}; wheels for Python "
                f"{interpreter.minor} begin about {begin:%Y-%m-%d}, so that date counts.",
            )
        try:
            text = self._compile(wanted, work, interpreter, log, dates)
        except StoppedError as error:
            try:
                text = self._compile(wanted, work, interpreter, log)
            except StoppedError:
                raise error from None
            note(
                log,
                f"WARNING as of {dates.files:%Y-%m-%d} the requirements of {wanted.file} cannot "
                f"be met ({error.what}) Today's packages are used instead. To choose the date: "
                "[environment] as_of.",
            )
            return text, " as of today"
        return text, f" as of {dates.files:%Y-%m-%d}"

    def _make(self, folder: Path, lock: Path, log: Path) -> None:
        text = lock.read_text(encoding="utf-8")
        minor = ".".join(locked_python(text).split(".")[:2])
        asked = Requirements(lock.name)
        interpreter, _ = chosen(self._pythons.installed(), asked, minor)
        self._envs.mkdir(parents=True, exist_ok=True)
        envs = self._envs.resolve()
        shutil.rmtree(envs / folder.name, ignore_errors=True)  # of a builder that died
        venv = ["venv", "--no-project", "--python", str(interpreter.path)]
        call = Call([*venv, str(envs / folder.name)], envs, write=[envs], network=False)
        self._uv.run(call, interpreter, log)
        if any(pins(text)):
            self._sync(envs / folder.name, text, interpreter, log)
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o555)
        _marker(folder).touch()

    def _sync(self, folder: Path, lock: str, interpreter: Interpreter, log: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".sync-", dir=self._envs) as name:
            work = Path(name).resolve()
            (work / NAME).write_text(lock, encoding="utf-8")
            options = [*self._index, *self._builds.options()]
            room = Call(options, work, self._builds.places(), [work])
            require_room(self._uv, room, interpreter, log, self._free)
            argv = [
                *("pip", "sync", "--require-hashes", "--no-build", *options),
                *("--python", str(folder / "bin" / "python"), NAME),
            ]
            # A worker cannot write into its environment: without bytecode each start compiles.
            env = {"UV_COMPILE_BYTECODE": "1", "UV_LINK_MODE": "copy"}
            read = [work, *self._builds.places()]
            call = Call(argv, work, read=read, write=[folder], env=env)
            self._uv.run(call, interpreter, log)

    def _export(self, project: Path, interpreter: Interpreter, log: Path) -> str:
        argv = [
            *("export", "--locked", "--offline", "--no-dev", "--no-emit-project", "--no-build"),
            *("--no-header", "--no-annotate", "--python", str(interpreter.path)),
        ]
        call = Call(argv, project, read=[project], network=False)
        code, output, errors = self._uv.tried(call, interpreter, log)
        if code:
            raise StoppedError(
                "PS217",
                f"uv.lock does not fit pyproject.toml: {reason_of(errors)}",
                hint="Run `uv lock` in the project, commit uv.lock and push again.",
            )
        return output

    def _compile(
        self,
        wanted: Requirements,
        work: Path,
        interpreter: Interpreter,
        log: Path,
        as_of: AsOf | None = None,
    ) -> str:
        argv = [
            *("pip", "compile", "--generate-hashes", "--no-header", "--no-annotate"),
            *("--no-build", "--python", str(interpreter.path), *self._index),
            *("--output-file", "resolved.txt", "requirements.in"),
        ]
        if as_of is not None:
            argv += ["--exclude-newer", _stamp(as_of.files)]
            for name in dict.fromkeys(wanted.added):
                argv += ["--exclude-newer-package", f"{name}={_stamp(as_of.added)}"]
        if wanted.prereleases:
            argv += ["--prerelease", "allow"]
        files = {"--constraint": wanted.constraints, "--override": wanted.overrides}
        for option, lines in files.items():
            if lines:
                name = f"{option[2:]}.txt"
                (work / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
                argv += [option, name]
        (work / "requirements.in").write_text("\n".join(wanted.lines) + "\n", encoding="utf-8")
        before = as_of.files if as_of is not None else None
        built = 0
        while True:
            call = Call([*argv, *self._builds.options()], work, self._builds.places(), [work])
            code, _, errors = self._uv.tried(call, interpreter, log)
            if not code:
                return (work / "resolved.txt").read_text(encoding="utf-8")
            built += 1
            lacking = without_wheel(errors) if built <= _MOST_BUILDS else None
            missing = Requirement(f"{lacking}{bounds_of(lacking, errors)}") if lacking else None
            if missing is None or not self._builds.build(
                missing, wanted, interpreter, log, before
            ):
                raise failure(errors, wanted.file, interpreter)


def wheels_since(minor: str) -> datetime:
    """Return about when the usual packages had wheels for a Python.

    Python 3.N appears in October of 2011 + N since 3.9, and the wheels follow within weeks.
    """
    return datetime(2011 + int(minor.split(".")[1]), 11, 30, tzinfo=UTC)


def _hashes(lock: str, *, without: Container[str]) -> dict[str, frozenset[str]]:
    found = dict[str, frozenset[str]]()
    for line in pins(lock):
        words = line.split()
        one = Requirement(" ".join(word for word in words if not word.startswith("--hash=")))
        if canonicalize_name(one.name) not in without:
            key = f"{canonicalize_name(one.name)}{one.specifier}"
            found[key] = frozenset(word[7:] for word in words if word.startswith("--hash="))
    return found


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _marker(folder: Path) -> Path:
    return folder / ".ready"


@contextmanager
def _only_one(folder: Path) -> Generator[None]:
    """Let one builder at a time make the environment; the others wait and find it made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
