"""Files brought to the disk behind the back of who writes them."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

SYNC_S = 1.0
"""What a power cut can take; a killed process takes nothing."""


class Disk:
    """Brings what was written to the disk each second, and closes files behind the writer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: set[int] = set()
        self._retired: set[int] = set()
        self._folders: set[Path] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def touch(self, fd: int) -> None:
        """Note that a file was written to; mostly it was noted already since the last sync."""
        if fd not in self._written:
            with self._lock:
                self._written.add(fd)

    def retire(self, fd: int) -> None:
        """Note that a file is complete: it is synced, then closed."""
        with self._lock:
            self._written.add(fd)
            self._retired.add(fd)

    def opened(self, folder: Path) -> None:
        """Note that a file was made in a folder."""
        with self._lock:
            self._folders.add(folder)

    def stop(self) -> None:
        """Sync everything, and end."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stopping.wait(SYNC_S)
            self._sync()

    def _sync(self) -> None:
        with self._lock:
            written, self._written = self._written, set()
            retired, self._retired = self._retired, set()
            folders, self._folders = self._folders, set()
        for fd in written:
            with suppress(OSError):  # a full disk is said by the writer
                os.fsync(fd)
        for fd in retired:
            os.close(fd)
        for folder in folders:
            with suppress(OSError):
                fd = os.open(folder, os.O_RDONLY)
                os.fsync(fd)
                os.close(fd)
