"""Users of their own for commands, where the server is root.

A user is only a number: nothing stands in /etc/passwd. Numbers are handed out in turn, so that
no two commands that run at the same time share one, not even those of two servers.
"""

from __future__ import annotations

import fcntl
import os
import stat
import zlib
from contextlib import suppress
from pathlib import Path

from penstock.errors import StoppedError

FIRST = 1_900_000_000
"""Above what distributions, systemd and containers give out."""
COUNT = 100_000


class Users:
    """Hands out users.

    Parameters
    ----------
    folder
        Where the next number is kept.
    first
        The first user: the one that makes environments. The `COUNT` behind it are for the rest.
    """

    def __init__(self, folder: Path, first: int = FIRST) -> None:
        self._file = folder / "next-user"
        self._first = first
        self.pool = range(first, first + COUNT + 1)

    def fetching(self) -> int:
        """Return the user that owns the package cache and the environments."""
        return self._first

    def take(self) -> int:
        """Return a user that no process runs as."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        living = _living()
        with self._file.open("a+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            # Servers on one machine begin at different places.
            turn = int(file.read() or zlib.crc32(bytes(self._file)) % COUNT)
            while self._first + 1 + turn in living:
                turn = (turn + 1) % COUNT
            file.truncate(0)
            file.write(str((turn + 1) % COUNT))
        return self._first + 1 + turn

    def hand_over(self, path: Path, user: int) -> None:
        """Give a file, or a folder with all that lies in it, to a user.

        The folder itself comes last: what was begun and not ended is done again.
        """
        if path.lstat().st_uid == user:
            return
        if path.is_dir():
            for _, folders, files, at in os.fwalk(path):
                for name in (*folders, *files):
                    self._give(name, user, at)
        os.chown(path, user, user, follow_symlinks=False)

    def _give(self, name: str, user: int, at: int) -> None:
        with suppress(FileNotFoundError):
            facts = os.stat(name, dir_fd=at, follow_symlinks=False)
            # A second name of somebody else's file may have been made to have it given away.
            shared = stat.S_ISREG(facts.st_mode) and facts.st_nlink > 1
            if facts.st_uid != user and not (shared and facts.st_uid not in self.pool):
                os.chown(name, user, user, dir_fd=at, follow_symlinks=False)


def open_for_reading(path: Path, home: Path, user: int) -> None:
    """Make sure that a user can read what it is shown.

    Below PENSTOCK_HOME, which is closed to others as a whole, the right is given; elsewhere it
    must be there.

    Raises
    ------
    StoppedError
        PS207: it is private.
    """
    facts = path.stat()
    wanted = 0o005 if path.is_dir() else 0o004
    if facts.st_uid == user or facts.st_mode & wanted == wanted:
        return
    if not path.is_relative_to(home):
        raise private(path, path)
    path.chmod(stat.S_IMODE(facts.st_mode) | wanted)


def require_reachable(path: Path, user: int) -> None:
    """Refuse what lies below a folder that the user may not pass through (PS207)."""
    for folder in path.parents:
        facts = folder.stat()
        if not facts.st_mode & 0o001 and facts.st_uid != user:
            raise private(path, folder)


def private(path: Path, folder: Path) -> StoppedError:
    """Say that the sandbox's user cannot reach a path."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    where = "It" if path == folder else str(folder)
    return StoppedError(
        "PS207",
        f"The sandbox's own user cannot read {path}: {where} is private (mode {mode:04o}).",
        hint=f"Open it, chmod o+rx {folder}, or move what lies there outside private folders.",
    )


def _living() -> set[int]:
    found = set[int]()
    for name in os.listdir("/proc"):  # noqa: PTH208  half the time
        if name.isdigit():
            with suppress(OSError):
                found.add(os.stat(f"/proc/{name}").st_uid)  # noqa: PTH116  one call a process
    return found
