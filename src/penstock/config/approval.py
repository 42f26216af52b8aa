"""Who must say yes: the block [approval] of penstock.toml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from penstock.config.rules import Block, Duration, duration_s


class Approval(Block):
    """Who must say yes."""

    people: Annotated[int, Field(ge=0, le=10)] | None = None
    """Distinct people; by risk 0, 1, 2."""
    expires: Duration = "14 d"

    @property
    def expires_s(self) -> float:
        """Seconds until an unanswered question closes."""
        return duration_s(self.expires)
