"""What a version is doing."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """What the worker of a version is doing."""

    STARTING = "starting"
    READY = "ready"
    UNLOADED = "unloaded"
    """Not in memory; the first request loads it."""
    FAILED = "failed"
    STOPPING = "stopping"
