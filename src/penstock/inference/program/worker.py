"""The worker: the one program of ours that runs in a model's own environment.

    python -I worker.py --folder DIR --socket PATH    serve the packed version in DIR, slot 0
    python -I worker.py --socket PATH                 serve what orders will load
    python -I worker.py --host SOCKET                 fork workers, see host.py

With its neighbours it needs the standard library of Python 3.9 and nothing else; it imports a
framework when the model does. One process serves any number of versions, each in a slot. A batch
of requests comes as one frame and is one call of each model that it asks: `requests.read` turns
each body into columns, `bodies.checked` looks at the values of all, `Version.predict` asks the
model that formats.py loaded, `Server._ask` splits, `replies.answered` encodes. A body that cannot
be read spoils no other, and a batch that the model does not stand is asked body by body.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
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
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

if TYPE_CHECKING:
    from penstock.inference.program import (
        bodies,
        formats,
        frames,
        host,
        orders,
        own_modules,
        replies,
        requests,
        rows,
    )
    from penstock.inference.program.rows import Answer, AnswerError
else:
    # A package of its own name, so that our folder is not on the model's path.
    _package = sys.modules["penstock_worker"] = types.ModuleType("penstock_worker")
    _package.__path__ = [str(Path(__file__).parent)]
    from penstock_worker import (
        bodies,
        formats,
        frames,
        host,
        orders,
        own_modules,
        replies,
        requests,
        rows,
    )
    from penstock_worker.rows import Answer, AnswerError


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
        folder = folder.resolve()
        self.manifest: dict[str, Any] = json.loads((folder / "penstock.json").read_text("utf-8"))
        signature: dict[str, Any] | None = self.manifest.get("signature")
        self.columns = bodies.signature_columns(signature)
        told = signature or self.manifest
        task = told.get("task") or self.manifest.get("task")
        stated = rows.Stated(task, told.get("classes"), told.get("positive"))
        source = formats.Source(folder, folder / self.manifest["path"], self.manifest, stated)
        self.own = own_modules.OwnModules(folder)
        self.own.enter()
        try:
            self.model = formats.load(source, path)
        finally:
            self.own.leave()
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
        """Ask the model once, with its own modules in place.

        Raises
        ------
        AnswerError
            It does not answer row by row.
        """
        answer = self._ask(asked)
        if len(answer.prediction) != asked.rows:
            raise AnswerError(f"{len(answer.prediction)} answers for {asked.rows} rows")
        return answer


class Pending(NamedTuple):
    """A request that was read and awaits its answer."""

    place: int
    """In the frame."""
    version: Version
    request: requests.Request


class Server:
    """Answers frames, one at a time.

    Parameters
    ----------
    slots
        The versions that are loaded, by slot; orders change them.
    """

    def __init__(self, slots: dict[int, Version] | None = None) -> None:
        self.slots = slots or {}
        self._entered: Version | None = None

    def answer(self, parts: Sequence[frames.RequestPart]) -> list[frames.Reply]:
        """Return the replies to the parts of one frame, in their order."""
        replied: dict[int, frames.Reply] = {}
        groups: dict[tuple[Version, tuple[bodies.Column, ...]], list[Pending]] = {}
        for place, part in enumerate(parts):
            name = part.id.decode("utf-8", "replace")
            try:
                if part.kind == frames.METADATA or part.kind >= frames.LOAD:
                    self._answer(groups, replied)  # what came before the order
                    replied[place] = orders.reply(part, 200, self._obey(part))
                    continue
                version = self._in(part.slot)
                request = requests.read(
                    part.kind, part.body, version.columns, id=name, wants=part.wants
                )
            except orders.OrderError as error:
                replied[place] = orders.reply(part, error.status, error.told)
            except bodies.RequestError as error:
                replied[place] = _refused(error, error.id, part.kind)
            else:
                columns = request.asked.columns
                signed = columns is version.columns  # the usual case, not hashed
                pending = Pending(place, version, request)
                groups.setdefault((version, () if signed else columns), []).append(pending)
        self._answer(groups, replied)
        return [replied[place] for place in range(len(parts))]

    def _answer(self, groups: dict[Any, list[Pending]], replied: dict[int, frames.Reply]) -> None:
        for group in groups.values():
            asked = _checked(group, replied)
            if asked is not None:
                replied.update(zip((pending.place for pending in group), self._ask(group, asked)))
        groups.clear()

    def _obey(self, part: frames.RequestPart) -> dict[str, Any]:
        """Do what the gateway orders, and return what is to be told."""
        if part.kind == frames.METADATA:
            return {**self._in(part.slot).describe(), "rss_bytes": _rss_bytes()}
        order = orders.read(part)
        slot = order.get("slot", part.slot)
        if part.kind not in (frames.LOAD, frames.UNLOAD):
            raise orders.refused(part, "a worker does not know it", "It knows LOAD and UNLOAD.")
        if type(slot) is not int or not 0 <= slot < 1 << 16:
            raise orders.refused(part, f"slot is {slot!r}", "A slot is a number below 65536.")
        self._unload(slot)
        if part.kind == frames.UNLOAD:
            return {"slot": slot, "rss_bytes": _rss_bytes()}
        return self._load(slot, order)

    def _load(self, slot: int, order: dict[str, Any]) -> dict[str, Any]:
        self._enter(None)
        try:
            version = Version(Path(str(order.get("folder"))), str(order.get("path", "own")))
        except (Exception, SystemExit) as error:  # noqa: BLE001
            told = _hindrance(error)
            error.__traceback__ = None  # its frames hold what was loaded so far
            _give_back()
            raise told from None
        self.slots[slot] = version
        _keep()
        return {**version.describe(), "slot": slot, "rss_bytes": _rss_bytes()}

    def _unload(self, slot: int) -> None:
        version = self.slots.pop(slot, None)
        if version is not None:
            if version is self._entered:
                self._enter(None)
            version.own.forget()
            del version
            _give_back()

    def _in(self, slot: int) -> Version:
        version = self.slots.get(slot)
        if version is None:
            what = f"No version is loaded in slot {slot}."
            hint = "Ask again: it is loaded when it is asked for."
            raise orders.OrderError(503, "PS522", what, hint)
        return version

    def _enter(self, version: Version | None) -> None:
        """Put a version's own modules in place of those of the one before it."""
        if version is self._entered:
            return
        if self._entered is not None:
            self._entered.own.leave()
        self._entered = version
        if version is not None:
            version.own.enter()

    def _ask(self, group: list[Pending], asked: bodies.Asked) -> list[frames.Reply]:
        """Ask a model once for requests with the same columns, whose rows are `asked`."""
        version = group[0].version
        try:
            self._enter(version)
            answer = version.predict(asked)
        except (Exception, SystemExit) as error:  # noqa: BLE001  told, not died of
            if len(group) > 1:
                alone = [(p, bodies.checked(p.request.asked)) for p in group]
                return [self._ask([pending], asked)[0] for pending, asked in alone]
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
            told.append(replies.answered(pending.request, part, version.about))
            start = rows.stop
        return told

    def serve(self, path: str, listening: Callable[[], None] = lambda: None) -> None:
        """Listen at `path` until killed; one connection at a time, one frame at a time."""
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(16)
        listening()
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


def _checked(group: list[Pending], replied: dict[int, frames.Reply]) -> bodies.Asked | None:
    """Return the rows of a group as one, and take the requests from it that do not fit.

    The values of all are looked at together, and request by request only where one is wrong.
    """
    try:
        return bodies.checked(_joined([pending.request.asked for pending in group]))
    except bodies.RequestError:
        fit = [pending for pending in group if _fits(pending, replied)]
        group[:] = fit
    return bodies.checked(_joined([pending.request.asked for pending in fit])) if fit else None


def _fits(pending: Pending, replied: dict[int, frames.Reply]) -> bool:
    try:
        bodies.checked(pending.request.asked)
    except bodies.RequestError as error:
        replied[pending.place] = _refused(error, pending.request.id, pending.request.kind)
        return False
    return True


def _refused(error: bodies.RequestError, name: str, kind: int) -> frames.Reply:
    return replies.refused(error.status, name, error.code, str(error), kind)


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


def _hindrance(error: BaseException) -> orders.OrderError:
    """Say why a version does not load."""
    code, hint, what = "PS572", "", f"{type(error).__name__}: {error}"
    if isinstance(error, formats.LoadError):
        code, hint, what = error.code, error.hint, str(error)
    return orders.OrderError(500, code, what, hint, ok=False, traceback=traceback.format_exc())


def _keep() -> None:
    """Keep what was imported and loaded out of the collector's sight.

    To look through it at each full collection takes tens of milliseconds, which one request in
    some hundreds would wait for.
    """
    gc.collect()
    gc.freeze()


def _give_back() -> None:
    """Return to the machine what is not in use any more."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # only the GNU library has it
        ctypes.CDLL(None).malloc_trim(0)


def _fork_workers(path: str) -> None:
    os.dup2(2, 1)  # nobody reads what frameworks print

    def serve(at: str, listening: Callable[[], None]) -> None:
        Server().serve(at, listening)

    host.Host(path, serve, Path(__file__).resolve()).run()


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Serve packed versions of models.")
    parser.add_argument("--folder", type=Path, help="a version to serve in slot 0")
    parser.add_argument("--path", default="own", help="which call of the model answers")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--socket", help="where to listen")
    task.add_argument("--host", help="where to listen for orders to fork workers")
    parser.add_argument("--listens", type=int, help="a descriptor that is told of it")
    options = parser.parse_args()
    sys.dont_write_bytecode = True  # the folder is what its digest says, and stays so
    if options.host:
        _fork_workers(options.host)
        return
    slots: dict[int, Version] = {}
    if options.folder is not None:
        try:
            slots[0] = Version(options.folder, options.path)
        except formats.LoadError as error:
            cause = "" if error.__cause__ is None else traceback.format_exc()
            sys.exit(f"{cause}{error.code} {error} {error.hint}")
        _keep()
    told = options.listens
    Server(slots).serve(
        options.socket, lambda: None if told is None else host.tell_listening(told)
    )


if __name__ == "__main__":
    main()
