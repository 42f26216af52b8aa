"""Files that DVC keeps: read from its own files, fetched from its remote, without DVC.

A ``.dvc`` file or ``dvc.lock`` names a path and the md5 of its bytes; the remote of
``.dvc/config`` holds them under that md5, in the layout of DVC 3 (``files/md5/ab/cdef…``) or of
the releases before it (``ab/cdef…``). A folder is a list of files, kept in the same way.
"""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, cast

from penstock.build.data.bindings import Origin, placed
from penstock.build.data.sources import Digest, Sources
from penstock.build.project.facts import table, text_of, yaml_of
from penstock.config import Address, ModelConfig, address
from penstock.errors import PenstockError, StoppedError, UnreachableError

MOST_FILES = 100_000

_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
_FOLDERS = ("", "*/", "*/*/", "*/*/*/")


@dataclass(frozen=True, slots=True)
class Kept:
    """One file or folder that DVC keeps."""

    path: str
    """In the project."""
    md5: str
    """32 hex digits; ``….dir`` for a folder."""
    legacy: bool
    """True: written by DVC 1 or 2."""
    remote: str | None
    """The remote's name, where it is not the project's default."""
    file: str
    """The file that says so."""


@dataclass(frozen=True, slots=True)
class Remote:
    """Where DVC pushed to."""

    name: str
    url: str


def kept(project: Path, config: ModelConfig, *, stages_run: bool) -> tuple[Kept, ...]:
    """Return what has to be fetched before the build.

    All that ``.dvc`` files name; of ``dvc.lock`` the evaluation data, and unless the stages run
    in the build, what other stages need.

    Raises
    ------
    StoppedError
        PS034 or PS255, a file of DVC cannot be read.
    """
    found = [one for file in _dvc_files(project) for one in _of_file(project, file)]
    masked = config.evaluate.data if config.evaluate else None
    if config.evaluate is not None and config.evaluate.made_by_build:
        masked = None
    for one, needed in _of_lock(project):
        evaluates = masked is not None and _holds(one.path, masked)
        absent = not (project / one.path).exists()
        if absent and (evaluates or (needed and not stages_run)):
            found.append(one)
    return tuple(one for one in found if one.path not in config.data)


def keeps(project: Path, config: ModelConfig, path: str) -> bool:
    """Whether DVC keeps a file, or a folder that holds it."""
    try:
        named = [one for file in _dvc_files(project) for one in _of_file(project, file)]
        named += [one for one, _ in _of_lock(project)]
    except StoppedError:
        return False
    return any(_holds(one.path, path) for one in named if one.path not in config.data)


def remote_of(project: Path, of: Kept) -> Remote:
    """Return the remote of a file.

    Raises
    ------
    StoppedError
        PS257, ``.dvc/config`` names none that could be used.
    """
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        parser.read_string(text_of(project / ".dvc" / "config"))
    except configparser.Error as error:
        _refuse(of, f".dvc/config cannot be read: {str(error).splitlines()[0]}")
    sections = {name.strip("'\" ").replace('"', ""): dict(parser[name]) for name in parser}
    name = of.remote or sections.get("core", {}).get("remote")
    names = [key.removeprefix("remote ") for key in sections if key.startswith("remote ")]
    if name is None and len(names) == 1:
        name = names[0]
    if name is None:
        _refuse(of, ".dvc/config names no remote")
    url = sections.get(f"remote {name}", {}).get("url")
    if not url:
        _refuse(of, f'.dvc/config has no url for the remote "{name}"')
    return Remote(name, url)


def pull(
    project: Path,
    config: ModelConfig,
    sources: Sources,
    *,
    stages_run: bool,
    model: str,
    say: Callable[[str], None],
) -> dict[str, Origin]:
    """Fetch what DVC keeps into a checkout; return each file with its origin."""
    pulled: dict[str, Origin] = {}
    for one in kept(project, config, stages_run=stages_run):
        remote = remote_of(project, one)
        root = _root(one, remote)
        fetch = _Fetch(project, one, remote, root, sources, model, say)
        if one.md5.endswith(".dir"):
            for path, member in fetch.members():
                pulled[path] = fetch.file(path, member)
            say(f"{one.path}: {len(pulled):,} files from DVC's remote {remote.name}")
        else:
            pulled[one.path] = fetch.file(one.path, one.md5)
    return pulled


@dataclass(frozen=True, slots=True)
class _Fetch:
    project: Path
    of: Kept
    remote: Remote
    root: Address
    sources: Sources
    model: str
    say: Callable[[str], None]

    def file(self, path: str, md5: str) -> Origin:
        """Put one file where the project reads it."""
        digest = Digest("md5", md5, legacy=self.of.legacy)
        origin, at = self._kept(path, md5, digest)
        placed(origin, self.project / path, digest, shown=path)
        return Origin("dvc", str(at))

    def members(self) -> Iterator[tuple[str, str]]:
        """Give the files of a folder, each with its md5."""
        manifest, _ = self._kept(
            self.of.path, self.of.md5, Digest("md5", self.of.md5.removesuffix(".dir"))
        )
        try:
            listed = cast("list[dict[str, Any]]", json.loads(manifest.read_bytes()))
            members = [(_inside(str(one["relpath"])), str(one["md5"])) for one in listed]
        except (ValueError, KeyError, TypeError):
            self._damaged("its list of files cannot be read")
        if len(members) > MOST_FILES or not all(_MD5.fullmatch(md5) for _, md5 in members):
            self._damaged("its list of files is not one of DVC's, or is too long")
        for path, md5 in members:
            yield f"{self.of.path}/{path}", md5

    def _kept(self, path: str, md5: str, digest: Digest) -> tuple[Path, Address]:
        """Return a file of the remote: where DVC 3 keeps it, else where DVC 2 did."""
        layouts = [f"files/md5/{md5[:2]}/{md5[2:]}", f"{md5[:2]}/{md5[2:]}"]
        for number, layout in enumerate(layouts[:: -1 if self.of.legacy else 1]):
            at = _below(self.root, layout)
            try:
                return self._read(path, at, digest), at
            except StoppedError as error:
                if error.code not in ("PS258", "PS229") or number == len(layouts) - 1:
                    raise self._told(path, error) from error
            except UnreachableError as error:
                raise self._told(path, error) from error
        raise AssertionError("the last layout returns or raises")

    def _read(self, path: str, at: Address, digest: Digest) -> Path:
        if at.scheme == "file":
            return self.sources.local(at, shown=path, listed=True)
        return self.sources.fetched(
            at,
            digest,
            model=self.model,
            secret=self.sources.for_tool(at, self.model),
            shown=path,
            say=self.say,
        )

    def _told(self, path: str, error: PenstockError) -> PenstockError:
        name = self.remote.name
        if error.code == "PS251" and isinstance(error, UnreachableError):
            what = f'{path} is kept by DVC; its remote "{name}" does not answer.'
            return UnreachableError("PS254", f"{what} ({error.what})", hint=error.hint)
        if error.code in ("PS258", "PS229"):
            what = f'{path} is kept by DVC; its remote "{name}" does not have it.'
            return StoppedError("PS254", what, hint="Run dvc push, then push again.")
        if error.code == "PS250":
            what = f'{path} is kept by DVC; the operator does not let its remote "{name}" be read.'
            prefix = f"{str(self.root).rstrip('/')}/"
            hint = f'Ask the operator to add "{prefix}" to [data] allow in server.toml.'
            return StoppedError("PS250", what, hint=hint)
        return error

    def _damaged(self, why: str) -> NoReturn:
        what = f"{self.of.path} is kept by DVC; {why}."
        raise StoppedError("PS255", what, hint="Run dvc push again, then push again.")


def _root(of: Kept, remote: Remote) -> Address:
    if "://" not in remote.url and not remote.url.startswith("/"):
        what = f'{of.path} is kept by DVC; its remote "{remote.name}" is {remote.url}, a folder '
        what += "beside your copy of the project, which the server does not have."
        hint = "dvc remote add -d NAME s3://… (or a folder of the server), dvc push, push again."
        raise StoppedError("PS257", what, hint=hint)
    try:
        return address(remote.url)
    except ValueError as error:
        _refuse(of, f'its remote "{remote.name}", {remote.url}, {error}')


def _below(root: Address, layout: str) -> Address:
    return address(f"{str(root).rstrip('/')}/{layout}")


def _dvc_files(project: Path) -> list[Path]:
    found = [path for folder in _FOLDERS for path in sorted(project.glob(f"{folder}*.dvc"))]
    return [
        path
        for path in found
        if path.is_file() and ".dvc" not in path.relative_to(project).parts[:-1]
    ]


def _of_file(project: Path, file: Path) -> Iterator[Kept]:
    name = file.relative_to(project).as_posix()
    told = yaml_of(project, name)
    folder = PurePosixPath(name).parent / str(told.get("wdir", "."))
    yield from _outs(name, folder, told.get("outs"))


def _of_lock(project: Path) -> Iterator[tuple[Kept, bool]]:
    """Give the outputs of stages, each with whether another stage needs it."""
    if not (project / "dvc.lock").is_file():
        return
    whole = yaml_of(project, "dvc.lock")
    # Before DVC 2 the stages stood at the top.
    stages = [table(one) for one in table(whole.get("stages", whole)).values()]
    needs = [str(table(one).get("path")) for stage in stages for one in _list(stage.get("deps"))]
    for stage in stages:
        for one in _outs("dvc.lock", PurePosixPath(), stage.get("outs")):
            wanted = any(_holds(one.path, n) or _holds(n, one.path) for n in needs)
            yield one, wanted


def _outs(file: str, folder: PurePosixPath, listed: object) -> Iterator[Kept]:
    for one in _list(listed):
        told = table(one)
        md5 = str(told.get("md5") or told.get("checksum") or "")
        try:
            path = _inside((folder / str(told["path"])).as_posix())
        except (KeyError, ValueError):
            what = f"{file} names a path that does not lie in the project: {told.get('path')!r}."
            raise StoppedError("PS255", what, hint="Mend the file, or take it out.") from None
        if told.get("cache") is False or not md5:
            continue  # git keeps it, or it was never pushed
        if _MD5.fullmatch(md5) is None:
            what = f"{file} has no md5 for {path}: {md5[:40]!r}."
            raise StoppedError("PS255", what, hint="Run dvc commit and push again.")
        remote = told.get("remote")
        yield Kept(path, md5, told.get("hash") != "md5", str(remote) if remote else None, file)


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _holds(folder: str, path: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)


def _inside(path: str) -> str:
    """Return a path inside the project, normal; ValueError if it leads out of it."""
    parts = list[str]()
    for part in path.split("/"):
        if part == "..":
            parts.pop() if parts else _outside(path)
        elif part not in ("", "."):
            parts.append(part)
    if path.startswith("/") or not parts or "\0" in path:
        _outside(path)
    return "/".join(parts)


def _outside(path: str) -> NoReturn:
    raise ValueError(path)


def _refuse(of: Kept, why: str) -> NoReturn:
    what = f"{of.path} is kept by DVC ({of.file}); {why}."
    hint = "Commit .dvc/config with a remote that the server can reach, and run dvc push."
    raise StoppedError("PS257", what, hint=hint)
