"""The host of an environment: imports its frameworks once, and forks workers that have them.

    gateway --connection--> host ----fork----> worker child --its own socket-- gateway
                             |  `---fork----> worker child
                             watches their memory, reaps them, keeps their last words

One connection, owned by whoever started the host: when it closes, the children end and so does
the host. Orders on it (kinds of frames.py, bodies in JSON):

    LOAD  {"imports": [...]}                       import ahead  -> 200 {"imports", "threads"}
    FORK  {"socket", "memory_bytes", "imports"}    a child listens at the socket -> 200 {"pid"}
    END   {"socket"}                               end that child -> 200 {"reason", "words"}: why
                                                   it had ended before, empty where it lived
    METADATA                                       -> 200 {"children": [{"socket", "pid", ...}]}

The host has one thread and never opens a model: what a version brings is loaded in a child. Where
an import did start threads, a fork would copy their locks; children are then started afresh.
Linux only; standard library of Python 3.9.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, NoReturn, cast

if TYPE_CHECKING:
    from penstock.inference.program import frames, orders
else:
    from penstock_worker import frames, orders

NOT_AHEAD = ("onnxruntime", "torch", "tensorflow", "jax", "keras", "ray", "pyspark")
"""Frameworks that start threads when they are imported: a child imports them itself."""
LOOK_EVERY_S = 0.25
"""Between two looks at the memory of children."""
LAST_WORDS = 4096
"""Bytes of what a child wrote last that are kept."""
START_S = 30.0
"""How long a child may take until it listens; it has only to be scheduled."""
UNWANTED_S = 120.0
"""A host that nobody connects to for so long has lost who started it: a kill between its fork and
the moment at which it was bound to its parent leaves nobody who would end it."""
_SEND_S = 10.0
_FORKS_WELL = (b"jemalloc_bg_thd",)
"""Threads of pyarrow's allocator, which stops and forgets them around each fork."""
_AT_ONCE = 4
"""Reads of one child's words before the others have their turn."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG = 1
_HAS_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT

Serve = Callable[[str, Callable[[], None]], None]
"""Serves at a path until killed; calls back once it listens."""


class Child:
    """A worker that was forked."""

    def __init__(self, pid: int, path: str, most: int | None, words: int) -> None:
        self.pid = pid
        self.path = path
        self.most = most
        """Resident bytes that it may use."""
        self.words: int | None = words
        """Where to read what it writes; None at its end."""
        self.last = b""
        self.reason = ""
        """Why it ended by itself, or was ended for its memory."""
        self.lives = True


class _Bonds(NamedTuple):
    """What still ties a child to its host."""

    host: int
    words: int
    """Where it writes."""
    listens: int
    """Where it tells that it listens."""


class Host:
    """Forks, watches and ends workers.

    Parameters
    ----------
    path
        Where to listen for the one connection.
    serve
        What a child does.
    program
        The worker program, for children that cannot be forked.
    """

    def __init__(self, path: str, serve: Serve, program: Path) -> None:
        self._path = path
        self._serve = serve
        self._program = program
        self._children: dict[str, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._connection: socket.socket | None = None
        self._buffer = bytearray()
        self._look_at_s = 0.0
        self._open: list[Any] = [self._selector]

    def run(self) -> None:
        """Do what the connection orders, until it closes; nothing if nobody connects."""
        _remove(self._path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self._path)
        listener.listen(1)
        listener.settimeout(UNWANTED_S)
        try:
            self._connection, _ = listener.accept()
        except socket.timeout:
            return
        finally:
            listener.close()
        self._connection.settimeout(_SEND_S)
        ends, told = os.pipe()
        os.set_blocking(ends, False)
        os.set_blocking(told, False)
        signal.signal(signal.SIGCHLD, _noted)  # not ignored, so that it wakes the selector
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        self._open += [self._connection, os.fdopen(ends, "rb", 0), os.fdopen(told, "wb", 0)]
        self._selector.register(self._connection, selectors.EVENT_READ)
        self._selector.register(ends, selectors.EVENT_READ, lambda: os.read(ends, 4096))
        try:
            while self._turn():
                pass
        finally:
            for child in list(self._children.values()):
                self._end(child)

    def _turn(self) -> bool:
        """Wait for something and do what is due; False when the connection has closed."""
        watched = any(child.most is not None and child.lives for child in self._children.values())
        goes_on = True
        for key, _ in self._selector.select(LOOK_EVERY_S if watched else None):
            if key.data is None:
                goes_on = self._receive()
            else:
                key.data()
        self._reap()
        if watched and time.monotonic() >= self._look_at_s:
            self._look_at_s = time.monotonic() + LOOK_EVERY_S * 0.9
            self._hold_memory()
        return goes_on

    # ---- the connection ----

    def _receive(self) -> bool:
        assert self._connection is not None, "run connects first"
        try:
            chunk = self._connection.recv(1 << 16)
            self._buffer += chunk
            while True:
                frame = self._frame()
                if frame is None:
                    return bool(chunk)
                parts = frames.decode_request(memoryview(frame))
                replies = [self._obey(part) for part in parts]
                self._connection.sendall(frames.encode_reply(replies))
        except (OSError, frames.FrameError) as error:
            _say(f"host: the connection is broken: {error}")
            return False

    def _frame(self) -> bytes | None:
        """Take a whole frame's payload from what was received."""
        if len(self._buffer) < frames.HEADER.size:
            return None
        (size,) = frames.HEADER.unpack_from(self._buffer)
        if size > frames.MAX_FRAME_BYTES:
            raise frames.FrameError(f"A frame of {size} bytes is too large.")
        end = frames.HEADER.size + size
        if len(self._buffer) < end:
            return None
        frame = bytes(self._buffer[frames.HEADER.size : end])
        del self._buffer[:end]
        return frame

    def _obey(self, part: frames.RequestPart) -> frames.Reply:
        try:
            order = orders.read(part)
            if part.kind == frames.FORK:
                told = self._fork(part, order)
            elif part.kind == frames.END:
                told = self._forgotten(_text(part, order, "socket"))
            elif part.kind == frames.LOAD:
                told = {"imports": self._import(part, order), "threads": _threads()}
            elif part.kind == frames.METADATA:
                told = {"pid": os.getpid(), "children": [*map(_shown, self._children.values())]}
            else:
                raise orders.refused(part, "a host does not know it", "It knows FORK and END.")
        except orders.OrderError as error:
            return orders.reply(part, error.status, error.told)
        return orders.reply(part, 200, told)

    # ---- what is ordered ----

    def _import(self, part: frames.RequestPart, order: dict[str, Any]) -> list[str]:
        """Import ahead what can be; whatever fails to is left to the child, who will say so."""
        wanted: Any = order.get("imports") or []
        if not _are_names(wanted):
            raise orders.refused(part, "imports must be a list of names", "Send module names.")
        there: list[str] = []
        for name in cast("list[str]", wanted):
            if name.split(".")[0] not in NOT_AHEAD and name not in there:
                try:
                    importlib.import_module(name)
                except (Exception, SystemExit) as error:  # noqa: BLE001
                    _say(f"host: {name} is not imported ahead: {type(error).__name__}: {error}")
                    continue
                there.append(name)
        if wanted:
            gc.collect()
            gc.freeze()  # a collection in a child would copy every page that is shared
        return there

    def _fork(self, part: frames.RequestPart, order: dict[str, Any]) -> dict[str, Any]:
        path, most = _text(part, order, "socket"), order.get("memory_bytes")
        if most is not None and (type(most) is not int or most <= 0):
            raise orders.refused(part, "memory_bytes must be a positive number", "Or null.")
        known = self._children.get(path)
        if known is not None and known.lives:
            what = f"A child listens at {path} already."
            raise orders.OrderError(409, "PS524", what, "End it first.")
        self._forgotten(path)
        self._import(part, order)
        words, wrote = os.pipe()
        ready, listens = os.pipe()
        host, clean = os.getpid(), _threads() == 1
        try:
            pid = os.fork()
        except OSError as error:
            for end in (words, wrote, ready, listens):
                os.close(end)
            what = f"No process could be forked: {error.strerror}."
            hint = "Run fewer workers, or raise the limit of processes."
            raise orders.OrderError(503, "PS524", what, hint) from None
        if pid == 0:
            self._open += [os.fdopen(words, "rb", 0), os.fdopen(ready, "rb", 0)]
            _alone(lambda: self._become(path, _Bonds(host, wrote, listens), clean=clean))
        os.close(wrote)
        os.close(listens)
        os.set_blocking(words, False)
        child = self._children[path] = Child(pid, path, most, words)
        self._selector.register(words, selectors.EVENT_READ, lambda: self._listen_to(child))
        if not _came(ready):
            reason = self._forgotten(path)["reason"] or "it did not begin to listen"
            what = f"The child at {path} did not start: {reason}."
            raise orders.OrderError(500, "PS524", what, "Is the folder of the socket writable?")
        return {"pid": pid}

    def _forgotten(self, path: str) -> dict[str, Any]:
        """End a child if it lives; say why it had ended if it did not, and what it wrote last."""
        self._reap()
        child = self._children.pop(path, None)
        if child is None:
            return {"reason": "", "words": ""}
        self._end(child)
        _remove(path)
        return {"reason": child.reason, "words": child.last.decode("utf-8", "replace")}

    def _end(self, child: Child) -> None:
        if child.lives:
            _kill(child.pid)
            self._wait_for(child, killed=True)

    def _wait_for(self, child: Child, *, killed: bool) -> None:
        """Take leave of a child that ends: how it did, and what it wrote last."""
        _, status = os.waitpid(child.pid, 0)
        child.lives = False
        self._listen_to(child)
        self._deaf(child)
        # One that was about to end by itself when it was killed has its own status.
        by_us = killed and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not child.reason and not by_us:
            child.reason = _how(status, child.last)

    # ---- the children ----

    def _become(self, path: str, bonds: _Bonds, *, clean: bool) -> None:
        """Be a worker: no trace of the host but what it imported."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()  # so that what the model starts ends with it
        _die_with(bonds.host)
        os.dup2(bonds.words, 2)
        os.dup2(bonds.words, 1)
        os.close(bonds.words)
        for one in self._open:
            one.close()
        for child in self._children.values():
            if child.words is not None:
                os.close(child.words)
        if not clean:
            argv = [sys.executable, "-I", *(["-S"] if sys.flags.no_site else [])]
            argv += [str(self._program), "--socket", path, "--listens", str(bonds.listens)]
            os.set_inheritable(bonds.listens, True)
            os.execv(sys.executable, argv)  # noqa: S606  ourselves
        random = sys.modules.get("numpy.random")
        if random is not None:  # as in a process of its own
            random.seed()
        self._serve(path, lambda: tell_listening(bonds.listens))

    def _listen_to(self, child: Child) -> None:
        """Keep the last of what a child wrote, and pass it on."""
        chunk = b""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_AT_ONCE):
                if child.words is None:
                    break
                chunk = os.read(child.words, 1 << 16)
                if not chunk:
                    self._deaf(child)
                child.last = (child.last + chunk)[-LAST_WORDS:]
                with contextlib.suppress(OSError):
                    os.write(2, chunk)

    def _deaf(self, child: Child) -> None:
        if child.words is not None:
            self._selector.unregister(child.words)
            os.close(child.words)
            child.words = None

    def _reap(self) -> None:
        """Note which children have ended by themselves, and end what they started."""
        for child in self._children.values():
            if child.lives and os.waitid(os.P_PID, child.pid, _HAS_ENDED) is not None:
                _kill(child.pid)  # its group: while it is not waited for, the id is its own
                self._wait_for(child, killed=False)

    def _hold_memory(self) -> None:
        for child in self._children.values():
            if child.lives and child.most is not None:
                used = sum(map(_resident, _family(child.pid)))
                if used > child.most:
                    child.reason = f"used {_mb(used)} MB of {_mb(child.most)}"
                    _kill(child.pid)


def _noted(_number: int, _frame: Any) -> None:
    pass


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()


def tell_listening(descriptor: int) -> None:
    """Tell the host that the child listens."""
    os.write(descriptor, b"!")
    os.close(descriptor)


def _alone(action: Callable[[], None]) -> NoReturn:
    """Do what a forked process shall do, and end it whatever happens."""
    code = 1
    try:
        action()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  our program must not run on in two processes
        import traceback  # noqa: PLC0415  in the rare case

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _came(ready: int) -> bool:
    """Wait for a child to listen; False when it ended first, or takes too long."""
    with os.fdopen(ready, "rb", 0) as pipe, selectors.DefaultSelector() as waiting:
        waiting.register(pipe, selectors.EVENT_READ)
        ends_s = time.monotonic() + START_S
        while time.monotonic() < ends_s:
            if waiting.select(1.0):
                return pipe.read(1) == b"!"
    return False


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(type(name) is str for name in cast("list[Any]", value))


def _text(part: frames.RequestPart, order: dict[str, Any], key: str) -> str:
    value = order.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise orders.refused(part, f"{key} must be a path", f"Send {key}.")
    return value


def _shown(child: Child) -> dict[str, Any]:
    return {
        "socket": child.path,
        "pid": child.pid,
        "lives": child.lives,
        "reason": child.reason,
        "rss_bytes": _resident(child.pid) if child.lives else 0,
    }


def _kill(pid: int) -> None:
    """End a child that was not waited for yet, and its group."""
    assert pid > 1, "a child of ours"
    for kill in (os.killpg, os.kill):  # it may not lead its group yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _how(status: int, words: bytes) -> str:
    """Say how a child ended, with the last line that it wrote."""
    number, kind = os.WEXITSTATUS(status), "exit code"
    if os.WIFSIGNALED(status):
        number, kind = os.WTERMSIG(status), "signal"
    lines = words.decode("utf-8", "replace").strip().splitlines()
    return ": ".join([f"{kind} {number}", *lines[-1:]])


def _die_with(host: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != host:  # it died before we asked
        os._exit(1)


def _threads() -> int:
    """Count our threads, but those that set themselves right in a fork."""
    try:
        tasks = os.listdir("/proc/self/task")  # noqa: PTH208
        return sum(_name(task) not in _FORKS_WELL for task in tasks)
    except OSError:  # no /proc: as Python sees it
        import threading  # noqa: PLC0415  in the rare case

        return threading.active_count()


def _name(task: str) -> bytes:
    with open(f"/proc/self/task/{task}/comm", "rb") as file:  # noqa: PTH123
        return file.read().strip()


def _family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found, fresh = [pid], [pid]
    while fresh:
        fresh = [below for above in fresh for below in _below(above)]
        found += fresh
    return found


def _below(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  often asked
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:  # noqa: PTH123
                found += map(int, file.read().split())
    return found


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * _PAGE
    return 0


def _mb(count: int) -> str:
    return str(count >> 20)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
