"""The command line of bubblewrap: what a command sees at level full, and nothing else.

A server that is root lets bubblewrap arrange the files with root's rights, then becomes the
command's own user, then enters a user namespace of that user, in which none can be made. So
the folders above what is shown may be private, and inside nothing has any right of root's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.ports import Command

TMP_BYTES = 64 << 20
SHARED_BYTES = 1 << 30
"""Of /dev/shm, where frameworks hand arrays between processes."""
NETWORK_FILES = ("resolv.conf", "hosts", "nsswitch.conf", "ssl", "pki", "ca-certificates")
SYSTEM_FILES = ("/etc/alternatives", "/etc/ld.so.cache")
SYSTEM_LINKS = ("bin", "sbin", "lib", "lib64")

_NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts")
_NOBODY = (
    *("--unshare-user", "--uid", "65534", "--gid", "65534", "--disable-userns"),
    *("--cap-drop", "ALL", "--die-with-parent"),
)
_MADE_ALREADY = frozenset(Path(name) for name in ("/", "/tmp", "/usr", "/dev", "/proc", "/etc"))  # noqa: S108


def isolated(
    program: str, command: Command, env: dict[str, str], inside: list[str], user: int | None
) -> list[str]:
    """Return the line that runs `inside` under bubblewrap, as `user` if the server is root."""
    shared = min(SHARED_BYTES, command.limits.memory_bytes or SHARED_BYTES)
    line = [program, *_NAMESPACES, "--unshare-cgroup-try"]
    line += ["--die-with-parent"] if user is not None else _NOBODY
    line += [
        *("--new-session", "--clearenv"),
        *_system(),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--perms", "1777", "--size", str(shared), "--tmpfs", "/dev/shm"),  # noqa: S108
        *("--remount-ro", "/dev"),
        *("--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"),  # noqa: S108 (private)
    ]
    if command.network:
        line.append("--share-net")
        for name in NETWORK_FILES:
            line += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    if user is not None:
        line += _passable(command)
    line += _binds(command)
    for name, value in env.items():
        line += ["--setenv", name, value]
    line += ["--chdir", str(command.cwd), "--"]
    if user is not None:
        line += [
            *("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"),
            *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"),
            *(program, *_NOBODY, "--dev-bind", "/", "/", "--chdir", str(command.cwd), "--"),
        ]
    return [*line, *inside]


def _system() -> Iterator[str]:
    yield from ("--ro-bind", "/usr", "/usr")
    for name in SYSTEM_LINKS:
        path = Path("/", name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        else:
            yield from ("--ro-bind-try", str(path), str(path))
    yield from ("--perms", "0755", "--dir", "/etc")
    for path in SYSTEM_FILES:
        yield from ("--ro-bind-try", path, path)


def _passable(command: Command) -> Iterator[str]:
    """Make the folders above the binds, which bubblewrap itself would make root's alone."""
    binds = {*command.read, *command.write}
    above = {folder for path in binds for folder in path.parents} - _MADE_ALREADY
    for folder in sorted(above, key=lambda path: len(path.parts)):
        if not any(folder.is_relative_to(bind) for bind in (*binds, Path("/usr"))):
            yield from ("--perms", "0755", "--dir", str(folder))


def _binds(command: Command) -> Iterator[str]:
    """Give binds with parents first, so that a nested one wins; masks win over all."""
    ways = dict.fromkeys(command.read, "--ro-bind")
    ways |= dict.fromkeys(command.write, "--bind")
    for path in sorted(ways, key=lambda path: len(path.parts)):
        yield from (ways[path], str(path), str(path))
    for path in command.mask:
        if path.is_dir():
            yield from ("--tmpfs", str(path), "--remount-ro", str(path))
        elif path.exists():
            yield from ("--ro-bind", "/dev/null", str(path))
