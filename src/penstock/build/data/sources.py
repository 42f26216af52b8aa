"""What the server reads for a project: by the operator's leave, once, and verified.

Deny by default. A prefix in server.toml ``[data] allow``, or in a named secret that the model may
use, lets an address be read; a file of the server is read as long as no path is listed there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from penstock.build.data import remote
from penstock.build.named_secrets import NamedSecrets
from penstock.config import Address, address
from penstock.errors import PenstockError, StoppedError, UnreachableError

MOST_S = 6 * 3600.0
"""A file that takes longer is given up, however slowly it still comes."""

_CHUNK = 1 << 20
_SAY_EACH_S = 5.0
_SYSTEM = ("/proc", "/sys", "/dev", "/run")


class Digest(NamedTuple):
    """What a file must be."""

    kind: str
    """``sha256``, or ``md5`` for what DVC keeps."""
    hexdigest: str
    legacy: bool = False
    """True: an md5 of DVC 1 and 2, taken of text files with their line ends made ``\\n``."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Reads for one server."""

    home: Path
    allow: tuple[Address, ...] = ()
    max_bytes: int = 20 * 10**9

    @property
    def secrets(self) -> NamedSecrets:
        """What the operator gave names."""
        return NamedSecrets(self.home)

    def options(
        self, at: Address, model: str, secret: str | None, *, shown: str
    ) -> tuple[Mapping[str, Any], Sequence[Address]]:
        """Return the storage options for an address, and the prefixes that let it be read.

        Raises
        ------
        StoppedError
            PS250 no prefix lets it be read; PS253 the model may not use the secret.
        """
        if secret is not None:
            used = self.secrets.usable(secret, model, at, shown=shown)
            return used.options, used.allow
        if not any(at.within(prefix) for prefix in self.allow):
            what = f"{shown}: the operator does not let {at} be read."
            hint = f'Ask the operator to add "{at.folder}" to [data] allow in server.toml.'
            raise StoppedError("PS250", what, hint=hint)
        return {}, self.allow

    def for_tool(self, at: Address, model: str) -> str | None:
        """Return the name of the secret to use where the project's own tool cannot name one."""
        found = self.secrets.fitting(model, at)
        return found.name if found is not None else None

    def local(self, at: Address, *, shown: str, listed: bool = False) -> Path:
        """Return a file of the server that may be read.

        `listed` demands that its folder stands in ``[data] allow``; else that is only needed
        once any path stands there.

        Raises
        ------
        StoppedError
            PS229 there is none to give, PS250 it lies elsewhere.
        """
        origin = Path(at.path).resolve()
        home = self.home.resolve()
        system = any(origin.is_relative_to(place) for place in _SYSTEM)
        paths = [prefix for prefix in self.allow if prefix.scheme == "file"]
        real = address(str(origin))
        # Also as it resolves: a link in an allowed folder must not lead out of it.
        if (paths or listed) and not any(real.within(_resolved(one)) for one in paths):
            what = f"{shown}: the operator does not let {at} be read."
            hint = f'Ask the operator to add "{at.folder}" to [data] allow in server.toml.'
            raise StoppedError("PS250", what, hint=hint)
        if system or origin.is_relative_to(home) or not origin.is_file():
            what = f"{shown}: the server has no file {at.path} to give."
            raise StoppedError("PS229", what, hint="Copy it to the server, or mend the path.")
        return origin

    def fetched(
        self,
        at: Address,
        digest: Digest,
        *,
        model: str,
        secret: str | None,
        shown: str,
        say: Callable[[str], None],
    ) -> Path:
        """Return a verified copy of a remote file, fetched once for all who may read it.

        Raises
        ------
        StoppedError
            PS228 or PS256 it is another file, PS252 it is too large, and as `options` and
            `remote.opened` say.
        """
        options, prefixes = self.options(at, model, secret, shown=shown)
        # The address is part of the name: whoever knows a digest has not thereby the right to it.
        place = hashlib.sha256(str(at).encode()).hexdigest()[:16]
        target = self.home / "cache" / "data" / f"{digest.kind}-{digest.hexdigest}-{place}"
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.with_suffix(".lock")):
            if target.is_file():
                os.utime(target)  # pruning goes by the last use
                return target
            part = target.with_suffix(".part")
            try:
                with remote.opened(at, options, prefixes, shown=shown) as stream:
                    self._copied(stream, part, digest, shown, say)
                part.replace(target)
            except PenstockError as error:
                raise self._redacted(error) from None
            finally:
                part.unlink(missing_ok=True)
        return target

    def _copied(
        self,
        stream: remote.Stream,
        part: Path,
        digest: Digest,
        shown: str,
        say: Callable[[str], None],
    ) -> None:
        if stream.size is not None and stream.size > self.max_bytes:
            raise self._too_large(shown, stream.size)
        began = said = time.monotonic()
        done = 0
        with _writing(shown, part) as file:
            hashing = Hashing(digest)
            for chunk in _chunks(stream.file):
                done += len(chunk)
                if done > self.max_bytes:
                    raise self._too_large(shown, done)
                hashing.update(chunk)
                file.write(chunk)
                now = time.monotonic()
                if now - began > MOST_S:
                    raise _cut_short(shown, f"not whole after {MOST_S / 3600:g} h")
                if now - said > _SAY_EACH_S:
                    say(f"{shown}: {_megabytes(done, stream.size)}")
                    said = now
        if stream.size is not None and done != stream.size:
            raise _cut_short(shown, f"{done:,} of {stream.size:,} bytes came")
        hashing.require(shown)
        say(f"{shown}: fetched, {_megabytes(done, None)} in {time.monotonic() - began:.1f} s")

    def _too_large(self, shown: str, size: int) -> StoppedError:
        what = f"{shown} has more than {self.max_bytes / 1e6:,.0f} MB ({size / 1e6:,.0f} so far)."
        hint = "Use a smaller file, or ask the operator to raise [data] max_mb in server.toml."
        return StoppedError("PS252", what, hint=hint)

    def _redacted(self, error: PenstockError) -> PenstockError:
        redact = self.secrets.redact
        return type(error)(error.code, redact(error.what), hint=redact(error.hint))


class Hashing:
    """Takes a digest while bytes pass by."""

    def __init__(self, wanted: Digest) -> None:
        self._wanted = wanted
        self._raw = hashlib.new(wanted.kind, usedforsecurity=False)
        self._unix = hashlib.new(wanted.kind, usedforsecurity=False) if wanted.legacy else None
        self._held = b""

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._raw.update(chunk)
        if self._unix is not None:
            chunk = self._held + chunk
            # A line end can be cut in two by the chunks.
            self._held = b"\r" if chunk.endswith(b"\r") else b""
            self._unix.update(chunk[: len(chunk) - len(self._held)].replace(b"\r\n", b"\n"))

    def require(self, shown: str) -> None:
        """Raise StoppedError if the bytes were not those of the digest."""
        found = self._raw.hexdigest()
        if self._unix is not None:
            self._unix.update(self._held)
            if self._unix.hexdigest() == self._wanted.hexdigest:
                return
        if found == self._wanted.hexdigest:
            return
        # Cut short: whoever may name a path must not learn the digest of any file.
        kind, wanted = self._wanted.kind, self._wanted.hexdigest
        if kind == "md5":
            what = f"{shown} has md5 {found[:8]}…, DVC says {wanted[:8]}…."
            raise StoppedError("PS256", what, hint="Run dvc push again from the right files.")
        what = f"{shown} has sha256 {found[:8]}…, penstock.toml says {wanted[:8]}…."
        hint = "Set [data] sha256 to that of the file which is meant, or restore the file."
        raise StoppedError("PS228", what, hint=hint)


def copied(origin: Path, target: Path, digest: Digest, *, shown: str) -> None:
    """Copy a file, verified while it is written; UnreachableError PS232 if it cannot be."""
    hashing = Hashing(digest)
    with _writing(shown, target) as file, origin.open("rb") as source:
        for chunk in _chunks(source):
            hashing.update(chunk)
            file.write(chunk)
    hashing.require(shown)


class _Written:
    """A file being written; what the disk says against it is its own error."""

    def __init__(self, file: IO[bytes], shown: str) -> None:
        self._file = file
        self._shown = shown

    def write(self, chunk: bytes) -> None:
        try:
            self._file.write(chunk)
        except OSError as error:
            raise _unwritable(self._shown, error) from error


@contextmanager
def _writing(shown: str, target: Path) -> Generator[_Written]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        file = target.open("xb", buffering=0)
    except OSError as error:
        raise _unwritable(shown, error) from error
    with file:
        yield _Written(file, shown)
        try:
            os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(shown, error) from error


def _unwritable(shown: str, error: OSError) -> UnreachableError:
    what = f"{shown} could not be written to its place: {error.strerror}."
    hint = "Make room on the disk or mend its rights, then: penstock retry."
    return UnreachableError("PS232", what, hint=hint)


def _cut_short(shown: str, why: str) -> UnreachableError:
    what = f"{shown} came incomplete: {why}."
    return UnreachableError("PS251", what, hint="Look at its source, then: penstock retry.")


def _chunks(source: IO[bytes]) -> Generator[bytes]:
    while chunk := source.read(_CHUNK):
        yield chunk


def _resolved(prefix: Address) -> Address:
    return address(str(Path(prefix.path).resolve()))


@contextmanager
def _alone(lock: Path) -> Generator[None]:
    """Wait until nobody else fetches the same file; let go when this process dies."""
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _megabytes(done: int, size: int | None) -> str:
    of = "" if size is None else f" of {size / 1e6:,.1f}"
    return f"{done / 1e6:,.1f}{of} MB"
