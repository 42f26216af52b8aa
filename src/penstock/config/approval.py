"""Who must say yes: the block [approval] of penstock.toml, and what no push can loosen."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from penstock.config.rules import Block, Duration, duration_s

People = Annotated[int, Field(ge=0, le=10)]


class Approval(Block):
    """Who must say yes."""

    people: People | None = None
    """Distinct people; by risk 0, 1, 2. The server may ask for more: `approval.least`."""
    expires: Duration = "14 d"

    @property
    def expires_s(self) -> float:
        """Seconds until an unanswered question closes."""
        return duration_s(self.expires)


class LeastPeople(Block):
    """The fewest people who approve a version, by its risk, whatever its penstock.toml says."""

    low: People = 0
    medium: People = 0
    high: People = 1


class ApprovalSettings(Block):
    """Policy that no push can loosen."""

    by_author: bool = True
    """Whether, while the server has no accounts, the author may approve; it is recorded."""
    least: LeastPeople = LeastPeople()
    """The fewest people who approve a version: { medium = 1, high = 2 }."""
