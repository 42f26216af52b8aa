"""The last routes on disk: what a gateway serves that starts while the database is away."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from penstock.domain import Deployment

_logger = logging.getLogger(__name__)


class RouteCache:
    """One file with all deployments as JSON, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._encoded: dict[int, tuple[Deployment, bytes]] = {}
        """By identity: what has not changed since the last write is not encoded again."""

    def read(self) -> list[Deployment] | None:
        """Return the deployments; None where there are none, or none that can be read."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=list[Deployment])
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            _logger.warning("The cached routes in %s cannot be read: %s", self.path, error)
            return None

    def write(self, deployments: Sequence[Deployment]) -> None:
        """Replace the file, or leave it."""
        known = self._encoded
        self._encoded = {
            id(each): known.get(id(each)) or (each, msgspec.json.encode(each))
            for each in deployments
        }
        text = b"[" + b",\n".join([line for _, line in self._encoded.values()]) + b"]"
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(text)
            new.replace(self.path)
        except OSError as error:
            _logger.warning("The routes cannot be cached in %s: %s", self.path, error)
            with contextlib.suppress(OSError):
                new.unlink()
