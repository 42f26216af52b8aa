"""The program that holds a command; `start` takes what to hold from its command line, as JSON.

Two uses. Where bubblewrap works, it stands between a step's command and its log: keeps the
log's size and the memory within their limits. Where bubblewrap does not, it also restricts the
command (Landlock, seccomp, a user of its own) and ends all that the command leaves behind:

    holder       leads the process group that the starter kills
      guard      in a session of its own: adopts what the command orphans, outlives the holder
        command

Standard library, and of that what is light: every start pays for it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

TYPE_CHECKING = False  # importing typing would cost each start some milliseconds
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn, TypedDict

    from pyseccomp import SyscallFilter

    class Held(TypedDict):
        """What to hold, and how."""

        line: list[str]
        env: dict[str, str] | None
        """None: the holder's own."""
        cwd: str
        starter: int | None
        """Whose child the holder must be when it begins; None: not asked."""
        memory_bytes: int | None
        output_bytes: int | None
        guard: bool
        user: int | None
        """Whom to become; None: stay."""
        rules: Rules | None
        """None: no Landlock and no seccomp."""
        home: str | None
        """A private folder of the command, removed afterwards."""
        away: list[tuple[str, str]]
        """What lies elsewhere while the command runs: from, to."""

    class Rules(TypedDict):
        """What Landlock and seccomp shall allow."""

        packages: str
        """Where the two libraries lie."""
        read: list[str]
        write: list[str]
        devices: list[str]
        network: bool


EVERY_S = 0.5
"""Between two looks at the memory."""
LAST_BYTES = 64 << 10
"""Of the output that is kept behind the place where the log was cut."""
_DRAIN_MS = 5000
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 1, 38, 36
_NEW_USER = 0x10000000
_FORBIDDEN = (
    *("ptrace", "mount", "umount2", "setns", "unshare", "bpf", "keyctl", "add_key"),
    *("request_key", "perf_event_open", "kexec_load", "init_module", "finit_module"),
    *("delete_module", "userfaultfd", "process_vm_readv", "process_vm_writev", "pivot_root"),
    *("chroot", "reboot", "swapon", "quotactl", "io_uring_setup", "open_tree", "move_mount"),
    *("fsopen", "mount_setattr", "pidfd_getfd"),
)
_INET = (2, 10, 16, 17, 40)  # IPv4, IPv6, netlink, packets, virtual machines


# ---- what a command and its descendants use ----


def parents() -> dict[int, int]:
    """Map every process to its parent."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  half the time
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                # The name of the program stands in brackets and may hold anything.
                found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    return found


def tree(root: int, above: dict[int, int]) -> list[int]:
    """Return a process and its descendants, given everybody's parents."""
    below: dict[int, list[int]] = {}
    for pid, parent in above.items():
        below.setdefault(parent, []).append(pid)
    found, fresh = [root], [root]
    while fresh:
        fresh = [pid for parent in fresh for pid in below.get(parent, ())]
        found += fresh
    return found


def resident(pids: Iterable[int], most: int) -> int:
    """Return the bytes in memory of some processes.

    A page that several of them share counts once; that is looked up only when the cheap sum,
    where it counts for each, exceeds `most`.
    """
    pids = list(pids)
    total = sum(_resident(pid) for pid in pids)
    return total if total <= most else sum(_share(pid) for pid in pids)


def too_much(used: int, most: int) -> str:
    """Say that a command was ended for its memory."""
    return (
        f"\nsandbox: ended, for it used {used >> 20:,} MB of memory with all its processes; "
        f"{most >> 20:,} MB are allowed.\n"
    )


def _resident(pid: int) -> int:
    with suppress(OSError), open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * _PAGE
    return 0


def _share(pid: int) -> int:
    """Return the proportional share (Pss) of a process; its resident size if that is hidden."""
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return _resident(pid)


# ---- holding ----


class Log:
    """The output of a command: its head, a line that says what is left out, and its end."""

    def __init__(self, source: int, most: int) -> None:
        self.source = source
        self._most = most
        self._left = max(most - LAST_BYTES, 0)
        self._beyond = 0
        self._last = b""

    def take(self) -> bool:
        """Take what is there; False at the end."""
        chunk = os.read(self.source, 1 << 16)
        head, rest = chunk[: self._left], chunk[self._left :]
        self._left -= len(head)
        _write(head)
        if rest:
            self._beyond += len(rest)
            self._last = (self._last + rest)[-LAST_BYTES:]
        return bool(chunk)

    def finish(self) -> None:
        """Take the rest, and write the end of what was left out."""
        waiting = select.poll()
        waiting.register(self.source, select.POLLIN)
        while waiting.poll(_DRAIN_MS) and self.take():
            pass
        left_out = self._beyond - len(self._last)
        if left_out:
            line = f"\nsandbox: {left_out:,} bytes of output are left out here; "
            _write(f"{line}the log keeps {self._most:,}.\n".encode())
        _write(self._last)


def main(held: Held) -> int:
    """Run the command to its end; return its exit code, 128 and the signal if one ended it."""
    if held["starter"] is not None:
        _die_with(held["starter"], signal.SIGKILL)
    if not held["guard"]:
        return _hold(held)
    me = os.getpid()
    guard = os.fork()
    if guard == 0:
        _child(lambda: _guard(held, me))
    return _code(guard)


def _guard(held: Held, holder: int) -> NoReturn:
    os.setsid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, _told)
    _die_with(holder, signal.SIGTERM)
    code = 128 + signal.SIGTERM
    try:
        _prepare(held)
        code = _hold(held)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _sweep()
        _tidy(held)
        os._exit(code)


def _told(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit


def _hold(held: Held) -> int:
    log, sink = None, None
    if held["output_bytes"] is not None:
        source, sink = os.pipe()
        log = Log(source, held["output_bytes"])
    command = os.fork()
    if command == 0:
        _child(lambda: _become(held, sink))
    if sink is not None:
        os.close(sink)
    code = _watch(command, log, held["memory_bytes"])
    if held["guard"]:
        _sweep()
    if log is not None:
        log.finish()
    return code


def _watch(command: int, log: Log | None, most: int | None) -> int:
    """Wait for the command, keeping its log and looking at its memory meanwhile."""
    waiting = select.poll()
    handle = os.pidfd_open(command)
    waiting.register(handle, select.POLLIN)
    if log is not None:
        waiting.register(log.source, select.POLLIN)
    look_at = time.monotonic() + EVERY_S
    while True:
        left_ms = max(look_at - time.monotonic(), 0) * 1000 if most is not None else None
        ready = {number for number, _ in waiting.poll(left_ms)}
        if log is not None and log.source in ready and not log.take():
            waiting.unregister(log.source)
        if handle in ready:
            os.close(handle)
            return _code(command)
        if most is not None and time.monotonic() >= look_at:
            look_at = time.monotonic() + EVERY_S
            _hold_memory(most)


def _hold_memory(most: int) -> None:
    pids = tree(os.getpid(), parents())[1:]
    used = resident(pids, most)
    if used > most:
        _say(too_much(used, most))
        _send(pids, signal.SIGKILL)


def _sweep() -> None:
    """End all descendants; stopped first, so that they do not multiply meanwhile."""
    while _reap():
        for number in (signal.SIGSTOP, signal.SIGKILL):
            _send(tree(os.getpid(), parents())[1:], number)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)  # one that was sent the signal ends now


def _reap() -> bool:
    """Wait for what has ended; False when no child is left, and so no descendant."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    return False


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        assert pid > 1, "a descendant of ours"
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _prepare(held: Held) -> None:
    """Make the command's private folder, and take away what it must not read."""
    for source, target in held["away"]:
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
        os.rename(source, target)  # noqa: PTH104
    if held["home"] is not None:
        os.mkdir(held["home"], 0o700)  # noqa: PTH102
        if held["user"] is not None:
            os.chown(held["home"], held["user"], held["user"])


def _tidy(held: Held) -> None:
    for source, target in held["away"]:
        with suppress(OSError):
            os.rename(target, source)  # noqa: PTH104
            os.rmdir(os.path.dirname(target))  # noqa: PTH106, PTH120
    if held["home"] is not None:
        try:
            os.rmdir(held["home"])  # noqa: PTH106
        except OSError:
            import shutil  # noqa: PLC0415  3 ms, and mostly nothing is left

            shutil.rmtree(held["home"], ignore_errors=True)


# ---- becoming the command ----


def _child(action: Callable[[], None]) -> NoReturn:
    """Do what a forked process shall do, and end it whatever happens."""
    try:
        action()
    except BaseException as error:  # noqa: BLE001  our program must not run on in two processes
        _say(f"sandbox: the command could not be started: {error}\n")
    os._exit(126)


def _become(held: Held, sink: int | None) -> None:
    if sink is not None:
        os.dup2(sink, 1)
        os.dup2(sink, 2)
    if held["guard"]:
        _restrict(held)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    line = held["line"]
    if held["env"] is None:
        os.execvp(line[0], line)  # noqa: S606
    os.execvpe(line[0], line, held["env"])  # noqa: S606


def _restrict(held: Held) -> None:
    guard = os.getppid()
    os.setsid()
    os.chdir(held["cwd"])
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    rules, user = held["rules"], held["user"]
    if rules is not None:
        sys.path.append(rules["packages"])
        calls = _calls(network=rules["network"])  # before Landlock: it lies in no folder named
        _landlock(rules)
    else:
        calls = None
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    if calls is not None:
        calls.load()
    _die_with(guard, signal.SIGKILL)  # last: a change of user takes it back


def _landlock(rules: Rules) -> None:
    """Allow the named files and nothing else; no TCP, no signals and sockets to the outside."""
    from py_landlock import AccessFs, Landlock  # noqa: PLC0415  at this level only

    read = AccessFs.READ_FILE | AccessFs.EXECUTE
    write = read | AccessFs.WRITE_FILE | AccessFs.TRUNCATE
    special = AccessFs.MAKE_CHAR | AccessFs.MAKE_BLOCK | AccessFs.IOCTL_DEV
    everything = AccessFs(0)
    for access in AccessFs:
        everything |= access
    made = Landlock(strict=False)
    for paths, access, of_folder in (
        (["/proc/self", *rules["read"]], read, read | AccessFs.READ_DIR),
        (rules["write"], write, everything & ~special),
        (rules["devices"], write & ~AccessFs.EXECUTE, AccessFs(0)),
    ):
        for path in paths:
            made.add_path_rule(path, access=of_folder if os.path.isdir(path) else access)  # noqa: PTH112
    if rules["network"]:
        made.allow_all_network()
    made.apply()


def _calls(*, network: bool) -> SyscallFilter:
    """Make the filter that refuses system calls."""
    import errno  # noqa: PLC0415  at this level only

    from pyseccomp import ALLOW, EQ, ERRNO, MASKED_EQ, Arg, SyscallFilter  # noqa: PLC0415

    made = SyscallFilter(ALLOW)
    for name in _FORBIDDEN:
        with suppress(OSError):  # a call that this library does not know, this kernel may not have
            made.add_rule(ERRNO(errno.EPERM), name)
    made.add_rule(ERRNO(errno.EPERM), "clone", Arg(0, MASKED_EQ, _NEW_USER, _NEW_USER))
    # Its flags lie in memory, where no filter sees them; libraries then fall back to clone.
    made.add_rule(ERRNO(errno.ENOSYS), "clone3")
    for family in () if network else _INET:
        made.add_rule(ERRNO(errno.EACCES), "socket", Arg(0, EQ, family))
    return made


def _die_with(parent: int, number: signal.Signals) -> None:
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before we asked
        os._exit(128 + number)


def _prctl(option: int, value: int) -> None:
    import ctypes  # noqa: PLC0415  3 ms, and not needed to keep a log

    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _code(child: int) -> int:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def _say(text: str) -> None:
    with suppress(OSError):
        os.write(2, text.encode())


def _write(content: bytes) -> None:
    with suppress(OSError):  # a full disk: the command itself will say so
        while content:
            content = content[os.write(1, content) :]


def start() -> NoReturn:
    """Begin with what the command line says."""
    import json  # noqa: PLC0415  whoever only imports this has no use for it

    sys.exit(main(json.loads(sys.argv[1])))
