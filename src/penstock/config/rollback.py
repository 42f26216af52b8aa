"""How far back a model can go in under a second, and at all: the block [rollback]."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from penstock.config.rules import Block, Duration, duration_s


class Rollback(Block):
    """How long versions that have served can be gone back to, and how many stay loaded."""

    window: Duration = "7 d"
    """So long after it served last a version can be gone back to; the one before, always."""
    warm: Annotated[int, Field(ge=0, le=20)] = 1
    """Versions inside the window that stay loaded besides the one before."""

    @property
    def window_s(self) -> float:
        """The window in seconds."""
        return duration_s(self.window)
