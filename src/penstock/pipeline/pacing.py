"""Telling how far an environment is, while another program makes it."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from penstock.pipeline.tools import Work

LOOK_S = 0.7


@contextmanager
def environment(work: Work, lock_digest: str, packages: int) -> Generator[None]:
    """Tell how many packages are in place while an environment is made.

    Parameters
    ----------
    packages
        That its lock names.
    """
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(LOOK_S):
            made = work.tools.environments.made()
            folder = next((one.folder for one in made if one.lock_digest == lock_digest), None)
            there = min(0 if folder is None else installed(folder), packages)
            work.progress(
                "train", None, doing=f"makes the environment: {there} of {packages} packages"
            )

    telling = threading.Thread(target=tell, name="pacing")
    telling.start()
    try:
        yield
    finally:
        ended.set()
        telling.join()


def installed(folder: Path) -> int:
    """Count the packages that an environment has so far."""
    return sum(1 for _ in folder.glob("lib/python3*/site-packages/*.dist-info"))
