"""Which names a pickle would import, found by reading its opcodes and never by loading it.

A small machine walks the opcodes with symbols in place of objects: it knows strings, numbers
and tuples, and a name for all else. It needs that much to skip what joblib writes between
opcodes: the raw bytes of arrays, whose size only the pickle itself tells.

What can be listed is no safety check: a listed name may be harmless or not, and a hostile file
can hide from any listing. The sandbox holds; this tells people what a file would use.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

MOST_OPCODES = 400_000
"""Read per file; about a second. A longer pickle's list is marked as cut."""
MOST_BYTES = 4 << 30
"""Read per file, after decompression."""
_MOST_NAMES = 2_000
_LONG = 1 << 20
_ENDINGS = (".joblib", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin")
_WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
_DTYPE = re.compile(r"[<>|=]?[a-zA-Z][0-9]*")


@dataclass(slots=True)
class Listing:
    """What a file would import."""

    names: set[str] = field(default_factory=set[str])
    """``module.name``; ``?`` stands for a part that is only known when it is loaded."""
    whole: bool = True
    """False: the file is longer than was read, or not readable to its end."""


class _CutError(Exception):
    """The file is longer than what is read of it."""


@dataclass(frozen=True, slots=True)
class _Name:
    text: str


@dataclass(slots=True)
class _Made:
    """What a call would return."""

    by: Any
    arguments: Any = None


_MARK = _Name("(mark)")
_THING = _Name("(thing)")


def listed(path: Path) -> Listing | None:
    """List the names in a file; None when it is no pickle.

    Plain and compressed pickles, joblib's included, and those inside a torch archive.
    """
    found = Listing()
    if zipfile.is_zipfile(path):
        return _in_archive(path, found)
    with path.open("rb") as file:
        head = file.read(6)
        file.seek(0)
        opened = _decompressed(file, head, path.suffix)
        if opened is None:
            return None
        with closing(opened):
            _walk_all(opened, found)
    return found


def _in_archive(path: Path, found: Listing) -> Listing | None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".pkl")]
            for member in members[:100]:
                with archive.open(member) as file:
                    _walk_all(file, found)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError):
        found.whole = False
        return found
    return found if members else None


def _decompressed(file: IO[bytes], head: bytes, suffix: str) -> IO[bytes] | None:
    """Return the pickle behind a file, or None when it does not look like one."""
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return file
    if suffix not in _ENDINGS and suffix not in (".gz", ".z", ".bz2", ".xz", ".lzma"):
        return None
    kinds: Mapping[bytes, Callable[[], Any]] = {
        b"\x1f\x8b": lambda: gzip.GzipFile(fileobj=file),
        b"BZ": lambda: bz2.BZ2File(file),
        b"\xfd7": lambda: lzma.open(file),  # noqa: SIM115  `listed` closes it
        b"\x5d\x00": lambda: lzma.open(file, format=lzma.FORMAT_ALONE),  # noqa: SIM115
        b"\x78\x01": lambda: io.BufferedReader(_Zlib(file)),
        b"\x78\x5e": lambda: io.BufferedReader(_Zlib(file)),
        b"\x78\x9c": lambda: io.BufferedReader(_Zlib(file)),
        b"\x78\xda": lambda: io.BufferedReader(_Zlib(file)),
    }
    opener = kinds.get(head[:2])
    return file if opener is None else cast("IO[bytes]", opener())


class _Zlib(io.RawIOBase):
    """A zlib stream as a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._stream = zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._stream.eof:
            more = self._stream.unconsumed_tail or self._file.read(1 << 16)
            piece = self._stream.decompress(more, len(buffer))
            if piece or not more:
                buffer[: len(piece)] = piece
                return len(piece)
        return 0


def _walk_all(file: IO[bytes], found: Listing) -> None:
    try:
        _Machine(_Counted(file), found).run()
    except _CutError:
        found.whole = False
    except (ValueError, IndexError, KeyError, TypeError, OSError, EOFError, OverflowError):
        found.whole = False  # not a pickle to its end, or a trick with the stack
    except (zlib.error, lzma.LZMAError, zipfile.BadZipFile, RecursionError, MemoryError):
        found.whole = False


class _Counted:
    """A file of which at most `MOST_BYTES` are read, and no piece larger than the rest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.at = 0

    def read(self, size: int = -1) -> bytes:
        if size > _LONG:
            # Text or bytes that name nothing: their room is taken, their content is not.
            self.skip(size)
            return bytes(size)
        if size < 0:
            raise _CutError
        content = self._file.read(size)
        self.at += len(content)
        return content

    def readline(self) -> bytes:
        line = self._file.readline(1 << 16)
        self.at += len(line)
        return line

    def skip(self, size: int) -> None:
        if not 0 <= size <= MOST_BYTES - self.at:
            raise _CutError
        while size:
            piece = self._file.read(min(size, 1 << 20))
            if not piece:
                raise EOFError
            self.at += len(piece)
            size -= len(piece)


class _Machine:
    """Walks one pickle."""

    def __init__(self, file: _Counted, found: Listing, left: list[int] | None = None) -> None:
        self._file = file
        self._found = found
        self._left = left or [MOST_OPCODES]
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> None:
        for opcode, argument, _ in self._opcodes():
            self._left[0] -= 1
            if self._left[0] < 0 or len(self._found.names) > _MOST_NAMES:
                raise _CutError
            act = getattr(self, f"_{opcode.name.lower()}", None)
            if act is not None:
                act(argument)
            else:
                self._by_description(opcode, argument)

    def _opcodes(self) -> Iterator[tuple[Any, Any, int | None]]:
        # genops reads only what it yields, so that arrays can be skipped in between.
        yield from pickletools.genops(cast("IO[bytes]", self._file))

    def _by_description(self, opcode: Any, argument: Any) -> None:
        """Do what pickletools says of an opcode: take so many, push so many."""
        before, after = opcode.stack_before, opcode.stack_after
        if pickletools.markobject in before:
            self._pop_mark()
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            self._stack.pop()
        for _ in after:
            self._stack.append(argument if argument is not None else _THING)

    # What the description does not say

    def _mark(self, _argument: Any) -> None:
        self._stack.append(_MARK)

    def _pop(self, _argument: Any) -> None:
        self._stack.pop()

    def _pop_mark(self, _argument: Any = None) -> list[Any]:
        taken: list[Any] = []
        while (one := self._stack.pop()) is not _MARK:
            taken.append(one)
        return taken[::-1]

    def _dup(self, _argument: Any) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, argument: Any) -> None:
        self._memo[int(argument)] = self._stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _argument: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, argument: Any) -> None:
        self._stack.append(self._memo[int(argument)])

    _binget = _long_binget = _get

    def _tuple(self, _argument: Any) -> None:
        self._stack.append(tuple(self._pop_mark()))

    def _empty_tuple(self, _argument: Any) -> None:
        self._stack.append(())

    def _tuple1(self, _argument: Any) -> None:
        self._stack[-1:] = [tuple(self._stack[-1:])]

    def _tuple2(self, _argument: Any) -> None:
        self._stack[-2:] = [tuple(self._stack[-2:])]

    def _tuple3(self, _argument: Any) -> None:
        self._stack[-3:] = [tuple(self._stack[-3:])]

    def _empty_dict(self, _argument: Any) -> None:
        self._stack.append({})

    def _dict(self, _argument: Any) -> None:
        taken = self._pop_mark()
        self._stack.append(_pairs(taken))

    def _setitem(self, _argument: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _setitems(self, _argument: Any) -> None:
        self._update(self._pop_mark())

    def _update(self, taken: list[Any]) -> None:
        if isinstance(self._stack[-1], dict):
            cast("dict[Any, Any]", self._stack[-1]).update(_pairs(taken))

    def _global(self, argument: Any) -> None:
        self._stack.append(self._note(*str(argument).split(" ", 1)))

    def _stack_global(self, _argument: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(self._note(module, name))

    def _inst(self, argument: Any) -> None:
        self._pop_mark()
        self._stack.append(_Made(self._note(*str(argument).split(" ", 1))))

    def _obj(self, _argument: Any) -> None:
        taken = self._pop_mark()
        self._stack.append(_Made(taken[0], tuple(taken[1:])))

    def _reduce(self, _argument: Any) -> None:
        arguments, by = self._stack.pop(), self._stack.pop()
        self._stack.append(_Made(by, arguments))

    _newobj = _reduce

    def _newobj_ex(self, _argument: Any) -> None:
        self._stack.pop()
        self._reduce(None)

    def _ext1(self, argument: Any) -> None:
        self._found.names.add(f"copyreg extension {argument}")
        self._stack.append(_THING)

    _ext2 = _ext4 = _ext1

    def _build(self, _argument: Any) -> None:
        state = self._stack.pop()
        made = self._stack[-1]
        if isinstance(made, _Made) and made.by == _Name(_WRAPPER) and isinstance(state, dict):
            self._skip_array(cast("dict[str, Any]", state))

    def _note(self, module: Any, name: Any) -> _Name:
        words = [part if isinstance(part, str) else "?" for part in (module, name)]
        self._found.names.add(".".join(words)[:200])
        return _Name(".".join(words))

    # joblib

    def _skip_array(self, state: Mapping[str, Any]) -> None:
        """Skip the bytes that joblib writes behind an array's description."""
        described = state["dtype"]
        spelling = described.arguments[0] if isinstance(described, _Made) else None
        if not isinstance(spelling, str) or _DTYPE.fullmatch(spelling) is None:
            raise ValueError("an array of an unknown type")
        dtype = np.dtype(spelling)
        if dtype.hasobject:  # a whole pickle stands there
            _Machine(self._file, self._found, self._left).run()
            return
        aligned = state.get("numpy_array_alignment_bytes")
        if isinstance(aligned, int):
            self._file.skip(self._file.read(1)[0])
        self._file.skip(math.prod(int(side) for side in state["shape"]) * dtype.itemsize)


def _pairs(taken: list[Any]) -> dict[Any, Any]:
    keys, values = taken[::2], taken[1::2]
    return {k: v for k, v in zip(keys, values, strict=False) if isinstance(k, str)}
