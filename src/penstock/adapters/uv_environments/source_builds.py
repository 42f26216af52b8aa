"""Wheels from source distributions, for the packages that the operator allows.

Building runs a package's own code. So it is fetched first, from the operator's index, with the
digest that the index says; what its build asks for is installed from wheels; then it is built
in the sandbox without a network, as a user who can write to nothing that others use. The wheel
is kept below ``PENSTOCK_HOME/wheels``: a lock names it by its digest, and a second build of the
same source would give other bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import subprocess
import tarfile
import tempfile
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)

from penstock.adapters.uv_environments.calls import (
    Call,
    Uv,
    note,
    operators_settings,
    uv_program,
)
from penstock.adapters.uv_environments.interpreters import Interpreter, outside
from penstock.errors import StoppedError, UnreachableError
from penstock.ports import Command, Limits, Requirements, Use

MAX_SDIST_BYTES = 512 << 20
_BUILD_S = 900
_MEMORY_BYTES = 4 << 30
_INDEX_OPTIONS = ("--default-index", "--index-url", "-i", "--index", "--extra-index-url")
_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")
_PYPI = "https://pypi.org/simple"


@dataclass(frozen=True, slots=True)
class _Source:
    version: str
    file: str
    url: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class SourceBuilds:
    """Builds wheels of allowed packages and keeps them in a folder."""

    uv: Uv
    folder: Path
    allowed: frozenset[str]

    def options(self) -> list[str]:
        """Return the options by which uv finds what was built."""
        there = any(self.folder.glob("*.whl")) if self.allowed else False
        return ["--find-links", str(self.folder.resolve())] if there else []

    def places(self) -> list[Path]:
        """Return what the sandbox must show for them."""
        return [self.folder.resolve()] if self.options() else []

    def known(self, allowed: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        """Add to a project's digests those of wheels that were built from them."""
        widened = dict(allowed)
        for file in sorted(self.folder.glob("*.json")):
            told = json.loads(file.read_text(encoding="utf-8"))
            key = f"{told['name']}=={told['version']}"
            if f"sha256:{told['sdist']}" in allowed.get(key, ()):
                widened[key] = widened[key] | {f"sha256:{told['wheel']}"}
        return widened

    def build(
        self,
        missing: Requirement,
        wanted: Requirements,
        interpreter: Interpreter,
        log: Path,
        before: datetime | None,
    ) -> bool:
        """Build the newest wheel of a package that fits; False if that cannot help.

        Raises
        ------
        StoppedError
            PS264, it cannot be built.
        """
        title = canonicalize_name(missing.name)
        if title not in self.allowed:
            return False
        source = self._chosen(title, missing.specifier & _bounds(title, wanted), before)
        if source is None or self._is_there(title, source.version):
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as lock:
            # One at a time, and never twice: a lock has the digest of the first.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._is_there(title, source.version):
                note(log, f"Building {title} {source.version}: the operator allows it.")
                self._build(source, title, wanted, interpreter, log, before)
        return True

    def _build(
        self,
        source: _Source,
        title: str,
        wanted: Requirements,
        interpreter: Interpreter,
        log: Path,
        before: datetime | None,
    ) -> None:
        with tempfile.TemporaryDirectory(prefix=".build-", dir=self.folder) as place:
            work = Path(place).resolve()
            work.chmod(0o755)
            archive = work / source.file
            _fetch(source, archive)
            digest = _sha256(archive)
            key = f"{title}=={source.version}"
            if key in wanted.hashes and f"sha256:{digest}" not in wanted.hashes[key]:
                raise StoppedError(
                    "PS262",
                    f"The source of {title} {source.version} has a digest that {wanted.file} "
                    "does not allow.",
                    hint="Lock it anew, and find out why the file changed.",
                )
            self._prepare(archive, work, interpreter, log, before)
            wheel = self._run(archive, work, interpreter, log)
            self._keep(wheel, title, source.version, digest)

    def _is_there(self, title: str, version: str) -> bool:
        for wheel in self.folder.glob("*.whl"):
            name, found, _, _ = parse_wheel_filename(wheel.name)
            if name == title and str(found) == version:
                return True
        return False

    def _chosen(self, title: str, bounds: SpecifierSet, before: datetime | None) -> _Source | None:
        found = [
            one for index in _indexes(self.uv.index) for one in _sources(index, title, before)
        ]
        versions = list(bounds.filter(one.version for one in found))
        if not versions:
            return None
        best = max(versions, key=lambda text: parse_sdist_filename(f"x-{text}.tar.gz")[1])
        return next(one for one in found if one.version == best)

    def _prepare(
        self,
        archive: Path,
        work: Path,
        interpreter: Interpreter,
        log: Path,
        before: datetime | None,
    ) -> None:
        """Make an environment with what the build asks for, from wheels."""
        venv = work / "venv"
        make = ["venv", "--no-project", "--python", str(interpreter.path), str(venv)]
        self.uv.run(Call(make, work, write=[work], network=False), interpreter, log)
        needs = [*_build_requirements(archive), "wheel"]
        (work / "needs.in").write_text("\n".join(needs) + "\n", encoding="utf-8")
        argv = [
            "pip",
            "install",
            "--no-build",
            *self.uv.index,
            "--python",
            str(venv / "bin/python"),
        ]
        if before is not None:
            argv += ["--exclude-newer", before.strftime("%Y-%m-%dT%H:%M:%SZ")]
        call = Call([*argv, "-r", "needs.in"], work, write=[work], env={"UV_LINK_MODE": "copy"})
        self.uv.run(call, interpreter, log, file=f"the build of {archive.name}")

    def _run(self, archive: Path, work: Path, interpreter: Interpreter, log: Path) -> Path:
        out, cache = work / "out", work / "cache"
        out.mkdir()
        cache.mkdir()
        program, venv = uv_program(), work / "venv"
        command = Command(
            argv=[
                *(str(program), "build", "--wheel", "--no-build-isolation", "--offline"),
                *("--no-config", "--no-progress", "--color", "never", "--no-create-gitignore"),
                *("--python", str(venv / "bin" / "python"), "--out-dir", str(out), str(archive)),
            ],
            cwd=out,
            read=[program, archive, venv, *outside(interpreter.folder)],
            write=[out, cache],
            env={
                "UV_CACHE_DIR": str(cache),
                "UV_PYTHON_DOWNLOADS": "never",
                "PATH": f"{venv / 'bin'}:/usr/local/bin:/usr/bin:/bin",
                "TMPDIR": str(cache),
            },
            network=False,
            use=Use.TRAIN,
            limits=Limits(seconds=_BUILD_S, memory_bytes=_MEMORY_BYTES),
        )
        process = self.uv.sandbox.start(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            output, _ = process.communicate(timeout=_BUILD_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            output += f"\nit did not end within {_BUILD_S} s".encode()
        said = output.decode(errors="replace")
        note(log, f"$ uv build {archive.name}\n{said}")
        wheels = [one for one in out.glob("*.whl") if one.is_file() and not one.is_symlink()]
        if process.returncode or len(wheels) != 1:
            raise _failed(archive.name, said)
        return wheels[0]

    def _keep(self, wheel: Path, title: str, version: str, sdist: str) -> None:
        try:
            name, found, _, _ = parse_wheel_filename(wheel.name)
        except InvalidWheelFilename as error:
            raise _failed(title, str(error)) from error
        if name != title or str(found) != version:
            raise _failed(title, f"it made {wheel.name}, not {title} {version}")
        told = {"name": title, "version": version, "sdist": sdist, "wheel": _sha256(wheel)}
        copy = wheel.parent.parent / f"kept-{wheel.name}"  # ours, not the builder's file
        copy.write_bytes(wheel.read_bytes())
        copy.chmod(0o644)
        (self.folder / f"{wheel.name}.json").write_text(json.dumps(told), encoding="utf-8")
        copy.replace(self.folder / wheel.name)


def _bounds(title: str, wanted: Requirements) -> SpecifierSet:
    over = [Requirement(line) for line in wanted.overrides]
    over = [one for one in over if canonicalize_name(one.name) == title]
    lines = [Requirement(line) for line in (*wanted.lines, *wanted.constraints)]
    found = over or [one for one in lines if canonicalize_name(one.name) == title]
    return SpecifierSet(",".join(str(one.specifier) for one in found if one.specifier))


def _indexes(index: Sequence[str]) -> Iterator[str]:
    """Give the operator's indexes and folders of packages, as addresses."""
    found = list[str]()
    words = [word for option in index for word in option.split("=", 1)]
    for option, value in pairwise(words):
        if option in _INDEX_OPTIONS or option in ("--find-links", "-f"):
            found.append(value)
    settings = operators_settings()
    for name in (*_INDEX_VARIABLES, "UV_FIND_LINKS"):
        found += re.split(r"[ ,]+", settings[name]) if settings.get(name) else []
    closed = "--no-index" in index or settings.get("UV_NO_INDEX")
    named = any(option in words for option in ("--default-index", "--index-url", "-i"))
    named = named or "UV_DEFAULT_INDEX" in settings or "UV_INDEX_URL" in settings
    yield from (one.partition("=")[2] or one if "://" in one else one for one in found)
    if not closed and not named:
        yield _PYPI


def _sources(index: str, title: str, before: datetime | None) -> Iterator[_Source]:
    """Give the source distributions of a package that an index or a folder has."""
    if "://" not in index:
        for path in sorted(Path(index).glob("*.tar.gz")):
            if (version := _version(path.name, title)) is not None:
                yield _Source(version, path.name, path.resolve().as_uri(), None)
        return
    page = f"{index.rstrip('/')}/{title}/"
    request = urllib.request.Request(  # noqa: S310 -- the operator's own index
        page, headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 -- the same
            told = cast("dict[str, Any]", json.load(answer))
    except (OSError, ValueError, urllib.error.URLError):
        return  # this index does not have it, or speaks no JSON
    for file in cast("list[dict[str, Any]]", told.get("files", [])):
        version = _version(str(file.get("filename")), title)
        uploaded = file.get("upload-time")
        late = (
            before is not None
            and uploaded is not None
            and datetime.fromisoformat(str(uploaded)) >= before
        )
        if version is not None and not late and not file.get("yanked"):
            url = urllib.parse.urljoin(page, str(file.get("url")))
            digest = cast("dict[str, str]", file.get("hashes") or {}).get("sha256")
            yield _Source(version, str(file["filename"]), url, digest)


def _version(file: str, title: str) -> str | None:
    try:
        name, version = parse_sdist_filename(file)
    except InvalidSdistFilename:
        return None
    return str(version) if name == title and file.endswith(".tar.gz") else None


def _fetch(source: _Source, target: Path) -> None:
    digest, size = hashlib.sha256(), 0
    try:
        with (
            urllib.request.urlopen(source.url, timeout=60) as answer,  # noqa: S310 -- as above
            target.open("wb") as file,
        ):
            while chunk := answer.read(1 << 20):
                size += len(chunk)
                if size > MAX_SDIST_BYTES:
                    raise _failed(source.file, f"it has more than {MAX_SDIST_BYTES >> 20} MB")
                digest.update(chunk)
                file.write(chunk)
    except (OSError, urllib.error.URLError) as error:
        raise UnreachableError(
            "PS214",
            f"The package index did not give {source.file}: {error}.",
            hint="Look at the network of the server, then: penstock retry.",
        ) from error
    target.chmod(0o644)
    if source.sha256 is not None and digest.hexdigest() != source.sha256:
        raise _failed(source.file, "its bytes do not have the digest that the index says")


def _build_requirements(archive: Path) -> list[str]:
    """Return what a source distribution's build asks for, by its pyproject.toml."""
    default = ["setuptools"]
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for entry in tar:
                if entry.isfile() and re.fullmatch(r"[^/]+/pyproject\.toml", entry.name):
                    file = tar.extractfile(entry)
                    assert file is not None, "a regular file"
                    told = tomllib.loads(file.read(1 << 20).decode())
                    listed = told.get("build-system", {}).get("requires", default)
                    needs = [Requirement(str(one)) for one in listed]
                    if any(one.url for one in needs):
                        raise _failed(archive.name, "its build asks for a package by address")
                    return [str(one) for one in needs]
    except (tarfile.TarError, OSError, ValueError, InvalidRequirement, AttributeError) as error:
        raise _failed(archive.name, f"it cannot be read: {error}") from error
    return default


def _failed(what: str, reason: str) -> StoppedError:
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return StoppedError(
        "PS264",
        f"{what} could not be built from source: {' '.join(lines[-12:])[-1200:]}",
        hint="Take a version that has a wheel: [environment] override in penstock.toml; or give "
        "the server what the build lacks, such as a compiler.",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
