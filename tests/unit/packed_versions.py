"""Packed versions made on the spot, and real workers that serve them."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from penstock.domain import JSON
from penstock.inference.asking import PROGRAM, Worker
from penstock.inference.program import frames
from penstock.inference.programs import Program

Say = Callable[[Sequence[frames.RequestPart]], list[frames.Reply]]
Ask = Callable[[Sequence[tuple[int, bytes, bytes]]], list[frames.Reply]]

SIGNATURE: JSON = {
    "columns": [
        {"name": "age", "datatype": "FP64", "optional": False},
        {"name": "city", "datatype": "BYTES", "optional": True},
        {"name": "visits", "datatype": "INT64", "optional": False},
        {"name": "member", "datatype": "BOOL", "optional": False},
    ],
    "task": "classification",
    "classes": ["no", "yes"],
    "positive": "yes",
}
ADAPTER = """
def load(folder):
    return 0.01

def predict(model, frame):
    # Pure Python: the probability of "yes" grows with the age.
    return [min(1.0, model * age) for age in frame["age"]]
"""


def pack(
    folder: Path, code: str = ADAPTER, signature: JSON | None = SIGNATURE, **manifest: Any
) -> Path:
    """Write a version whose model is an adapter."""
    (folder / "model").mkdir(parents=True)
    (folder / "code").mkdir()
    (folder / "code" / "adapter.py").write_text(code)
    told = {
        "schema": 1,
        "model": "credit",
        "number": 3,
        "format": "adapter",
        "path": "model",
        "predict": "code/adapter.py",
        "task": None,
        "positive": None,
        "signature": signature,
    }
    (folder / "penstock.json").write_text(json.dumps({**told, **manifest}))
    return folder


def start(
    folder: Path, *arguments: str, packages: bool = False, stdout: int | None = None
) -> subprocess.Popen[bytes]:
    """Start the worker program; without `packages` only the standard library is there."""
    switches = ["-I"] if packages else ["-I", "-S"]
    argv = [sys.executable, *switches, str(PROGRAM), "--folder", str(folder), *arguments]
    return _started(argv, stdout)


def _started(argv: list[str], stdout: int | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv, env={"OMP_NUM_THREADS": "1"}, stdout=stdout, stderr=subprocess.PIPE
    )


@contextlib.contextmanager
def empty(
    place: Path, *, packages: bool = False, timeout_s: float = 30, python: str = sys.executable
) -> Generator[Worker]:
    """Start a worker program without a version, and ask it."""
    path = place / "e.sock"
    switches = ["-I"] if packages else ["-I", "-S"]
    process = _started([python, *switches, str(PROGRAM), "--socket", str(path)])
    with Worker(Program(process), path, start_timeout_s=timeout_s) as worker:
        yield worker


def described(folder: Path, *, packages: bool = False, timeout_s: float = 30) -> JSON:
    """Load a version and return what it is, or why it does not load."""
    with empty(folder, packages=packages, timeout_s=timeout_s) as worker:
        return worker.load(folder)


@contextlib.contextmanager
def asking(folder: Path, *, packages: bool = False) -> Generator[Worker]:
    """Serve a version and ask it by tables."""
    path = folder / "w.sock"
    process = start(folder, "--socket", str(path), packages=packages)
    with Worker(Program(process), path) as worker:
        yield worker


@contextlib.contextmanager
def serving(folder: Path, *, packages: bool = False) -> Generator[Ask]:
    """Serve a version and ask it by frames."""
    with asking(folder, packages=packages) as worker:
        # The worker serves one connection at a time: the next takes the place of the first.
        worker.disconnect()
        with connected(folder / "w.sock") as ask:
            yield ask


@contextlib.contextmanager
def connected(path: Path) -> Generator[Ask]:
    """Connect to a worker and ask it by frames, of kind, id and body."""
    with speaking(path) as say:
        yield lambda parts: say([frames.RequestPart(*part) for part in parts])


@contextlib.contextmanager
def speaking(path: Path) -> Generator[Say]:
    """Connect to a worker and ask it by frames, of whole parts."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))

        def say(parts: Sequence[frames.RequestPart]) -> list[frames.Reply]:
            connection.sendall(frames.encode_request(parts))
            (size,) = frames.HEADER.unpack(_exactly(connection, frames.HEADER.size))
            return frames.decode_reply(memoryview(_exactly(connection, size)))

        yield say


def _exactly(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = connection.recv(size - len(got))
        assert more, "the worker hung up"
        got += more
    return got


def v2(**columns: list[Any]) -> bytes:
    """Return an Open Inference Protocol body with these columns of SIGNATURE."""
    types = {column["name"]: column["datatype"] for column in SIGNATURE["columns"]}
    inputs = [
        {"name": n, "shape": [len(v)], "datatype": types.get(n, "FP64"), "data": v}
        for n, v in columns.items()
    ]
    return json.dumps({"inputs": inputs}).encode()


def people(*ages: float, **others: Any) -> bytes:
    """Return a body that is in order, unless `others` replaces a column."""
    count = len(ages)
    columns: dict[str, list[Any]] = {
        "age": list(ages),
        "city": ["Bern"] * count,
        "visits": [1] * count,
        "member": [True] * count,
    }
    return v2(**{**columns, **others})
