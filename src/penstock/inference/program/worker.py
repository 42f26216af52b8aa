"""The worker: the one program of ours that runs in a model's own environment.

    python -I worker.py --folder DIR --socket PATH    serve the packed version in DIR
    python -I worker.py --folder DIR --describe       print what it is, as one line of JSON

With its neighbours it needs the standard library of Python 3.9 and nothing else; it imports a
framework when the model does. A batch of requests comes as one frame and is one call of the
model: `requests.understand` turns each body into columns, `Version.predict` asks the model that
formats.py loaded, `Server.answer` splits, `replies.answered` encodes. A body that cannot be read
spoils no other, and a batch that the model does not stand is asked body by body.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import resource
import socket
import sys
import time
import traceback
import types
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from penstock.inference.program import bodies, formats, frames, replies, requests, rows
    from penstock.inference.program.rows import Answer, AnswerError
else:
    # A package of its own name, so that our folder is not on the model's path.
    _package = sys.modules["penstock_worker"] = types.ModuleType("penstock_worker")
    _package.__path__ = [str(Path(__file__).parent)]
    from penstock_worker import bodies, formats, frames, replies, requests, rows
    from penstock_worker.rows import Answer, AnswerError


class Pending(NamedTuple):
    """A request that was read and awaits its answer."""

    place: int
    """In the frame."""
    request: requests.Request


class Version:
    """A packed version, loaded.

    Parameters
    ----------
    folder
        Where it is unpacked.
    path
        Which call of the model answers: ``own``, or one of accelerated.py.
    """

    def __init__(self, folder: Path, path: str = "own") -> None:
        started = time.perf_counter()
        self.manifest: dict[str, Any] = json.loads((folder / "penstock.json").read_text("utf-8"))
        signature: dict[str, Any] | None = self.manifest.get("signature")
        self.columns = bodies.signature_columns(signature)
        told = signature or self.manifest
        task = told.get("task") or self.manifest.get("task")
        stated = rows.Stated(task, told.get("classes"), told.get("positive"))
        for place in (folder / "code" / "src", folder / "code"):
            sys.path.insert(0, str(place))
        source = formats.Source(folder, folder / self.manifest["path"], self.manifest, stated)
        self.model = formats.load(source, path)
        self.path = path
        self.about = replies.About(
            self.manifest["model"], self.manifest["number"], self.model.classes
        )
        self._ask = self.model.ask
        self.load_s = time.perf_counter() - started

    def describe(self) -> dict[str, Any]:
        """Return what the version is, as plain JSON."""
        return {
            "ok": True,
            "format": self.manifest["format"],
            "path": self.path,
            **self.model.describe(),
            "python": platform.python_version(),
            "load_s": round(self.load_s, 6),
        }

    def predict(self, asked: bodies.Asked) -> Answer:
        """Ask the model once; AnswerError when it does not answer row by row."""
        answer = self._ask(asked)
        if len(answer.prediction) != asked.rows:
            raise AnswerError(f"{len(answer.prediction)} answers for {asked.rows} rows")
        return answer


class Server:
    """Answers frames, one at a time."""

    def __init__(self, version: Version) -> None:
        self.version = version

    def answer(self, parts: Sequence[frames.RequestPart]) -> list[frames.Reply]:
        """Return the replies to the parts of one frame, in their order."""
        replied: dict[int, frames.Reply] = {}
        groups: dict[tuple[bodies.Column, ...], list[Pending]] = {}
        for place, part in enumerate(parts):
            name = part.id.decode("utf-8", "replace")
            if part.kind == frames.METADATA:
                facts = {**self.version.describe(), "rss_bytes": _rss_bytes()}
                replied[place] = frames.Reply(200, name, 0, replies.plain(facts))
                continue
            try:
                request = requests.understand(
                    part.kind, part.body, self.version.columns, id=name, wants=part.wants
                )
            except bodies.RequestError as error:
                replied[place] = replies.refused(
                    error.status, error.id, error.code, str(error), part.kind
                )
            else:
                columns = request.asked.columns
                signed = columns is self.version.columns  # the usual case, not hashed
                groups.setdefault(() if signed else columns, []).append(Pending(place, request))
        for group in groups.values():
            replied.update(zip((pending.place for pending in group), self._ask(group)))
        return [replied[place] for place in range(len(parts))]

    def _ask(self, group: list[Pending]) -> list[frames.Reply]:
        """Ask the model once for requests with the same columns."""
        try:
            answer = self.version.predict(_joined([pending.request.asked for pending in group]))
        except Exception as error:  # noqa: BLE001  whatever a model raises is told, not died of
            if len(group) > 1:
                return [self._ask([pending])[0] for pending in group]
            code, sentence = "PS554", f"The model raised {type(error).__name__}: {error}"
            if isinstance(error, AnswerError):
                code, sentence = "PS555", f"The model answered {error}."
            request = group[0].request
            return [replies.refused(500, request.id, code, sentence, request.kind)]
        told: list[frames.Reply] = []
        start = 0
        for pending in group:
            rows = slice(start, start + pending.request.asked.rows)
            probability = None if answer.probability is None else answer.probability[rows]
            part = Answer(answer.prediction[rows], probability)
            told.append(replies.answered(pending.request, part, self.version.about))
            start = rows.stop
        return told

    def serve(self, path: str) -> None:
        """Listen at `path` until killed; one connection at a time, one frame at a time."""
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(16)
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionError, frames.FrameError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        buffer = bytearray(1 << 16)
        while _receive(connection, memoryview(buffer)[: frames.HEADER.size]):
            (size,) = frames.HEADER.unpack_from(buffer)
            if size > frames.MAX_FRAME_BYTES:
                raise frames.FrameError(f"A frame of {size} bytes is too large.")
            if size > len(buffer):
                buffer = bytearray(size)
            payload = memoryview(buffer)[:size]
            if not _receive(connection, payload):
                return
            replied = self.answer(frames.decode_request(payload))
            connection.sendall(frames.encode_reply(replied))


def _receive(connection: socket.socket, target: memoryview) -> bool:
    """Fill `target`; False when the other side has gone."""
    while target:
        count = connection.recv_into(target)
        if count == 0:
            return False
        target = target[count:]
    return True


def _joined(requests: list[bodies.Asked]) -> bodies.Asked:
    if len(requests) == 1:
        return requests[0]
    columns = requests[0].columns
    every = zip(*(request.values for request in requests))
    values = [list(chain.from_iterable(parts)) for parts in every]
    return bodies.Asked(columns, values, sum(request.rows for request in requests))


def _rss_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:  # no /proc: the most that it ever was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def _describe(folder: Path) -> dict[str, Any]:
    try:
        return Version(folder).describe()
    except Exception as error:  # noqa: BLE001  why a model does not load is the answer
        told: dict[str, Any] = {"error": f"{type(error).__name__}: {error}"}
        if isinstance(error, formats.LoadError):
            told = {"error": str(error), "code": error.code, "hint": error.hint}
        return {"ok": False, **told, "traceback": traceback.format_exc()}


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Serve one packed version of a model.")
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--path", default="own", help="which call of the model answers")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--socket", help="where to listen")
    task.add_argument("--describe", action="store_true", help="print one line of JSON and end")
    options = parser.parse_args()
    folder = options.folder.resolve()
    sys.dont_write_bytecode = True  # the folder is what its digest says, and stays so
    if options.describe:
        answer = os.dup(1)
        os.dup2(2, 1)  # what the model prints while it loads must not spoil the line
        line = json.dumps(_describe(folder)) + "\n"
        os.write(answer, line.encode())
        return
    try:
        version = Version(folder, options.path)
    except formats.LoadError as error:
        cause = "" if error.__cause__ is None else traceback.format_exc()
        sys.exit(f"{cause}{error.code} {error} {error.hint}")
    # What was imported and loaded stays: to look through it at each full collection takes the
    # collector tens of milliseconds, which one request in some hundreds would wait for.
    gc.collect()
    gc.freeze()
    Server(version).serve(options.socket)


if __name__ == "__main__":
    main()
