"""What a judgement is told of a canary that draws customers, and what it says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.deploy.keytest import Evidence
from penstock.deploy.planning import events_needed

ROUTING_P = 0.001
"""Customers that are drawn as they should be look worse than this once in a thousand looks."""
_APART = 3000
"""Up to so many of 10,000 groups, nearly each is one customer."""


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """What one arm did in one batch."""

    requests: int
    errors: int
    slow: int
    """Slower than a threshold that was fixed before the canary."""

    def __post_init__(self) -> None:
        for events in (self.errors, self.slow):
            assert 0 <= events <= self.requests, f"impossible counts: {self}"


@dataclass(frozen=True, slots=True)
class Customers:
    """What the wagers on customers say after a batch.

    What is drawn is one of 10,000 groups of customers, by a hash of their key: with few
    customers, each is a group of his own.
    """

    metrics: Mapping[str, Evidence]
    """By name, of everything up to this batch."""
    units: int
    """Of both arms."""
    on: int
    """That the challenger has answered."""
    routing_p: float
    """How likely the number on the challenger is if customers are drawn as they should be."""
    redraw: bool
    """Whether they are drawn anew each hour."""
    challenger: ArmCounts
    """Requests of this batch without a customer: each was drawn by itself."""
    champion: ArmCounts

    @classmethod
    def from_json(
        cls, told: Mapping[str, Any], challenger: ArmCounts, champion: ArmCounts
    ) -> Customers:
        """Return what was kept of a look, with the requests of nobody."""
        metrics = {name: Evidence(**one) for name, one in told["metrics"].items()}
        rest = {name: told[name] for name in ("units", "on", "routing_p", "redraw")}
        return cls(metrics, **rest, challenger=challenger, champion=champion)

    def named(self) -> str:
        """Return how many the challenger answered, such as ``1,741 customers``."""
        drawn = ", drawn anew each hour" if self.redraw else ""
        return f"{self._count(self.on)}{drawn}"

    def misrouted(self) -> str | None:
        """Say that too few or too many customers met the challenger; None when all is well."""
        if self.routing_p >= ROUTING_P:
            return None
        times = f"{1 / max(self.routing_p, 1e-9):,.0f}"
        return (
            f"Routing is broken: {self.on:,} of {self._count(self.units)} met the challenger, "
            f"which by chance happens less than once in {times} canaries."
        )

    def needs(self, missing: Mapping[str, tuple[str, float]]) -> str:
        """Say what would decide: more time, or more customers than there are.

        Parameters
        ----------
        missing
            For each undecided metric, the word for its events, and how far the proof that they
            are rare has come, 1 being all the way.
        """
        share = self.on / max(self.units, 1)
        if not 0 < share < 1:
            return "One arm has no customer yet."
        told: list[tuple[float, str]] = []
        needed = events_needed(share)
        for name, (words, rare) in missing.items():
            found = self.metrics[name]
            if rare > 0.05:
                many = _rounded(math.ceil(self.on / rare))
                text = f"That {words} are rare, about {many:,} customers of the challenger's show"
                told.append((1 / rare, f"{text}; it has {self.on:,}."))
            elif found.most is not None and found.most < needed and not self.redraw:
                return (
                    f"{self._count(self.units)} in all: a {100 * share:.0f} % canary cannot "
                    f"decide about {words} at any traffic; draw customers anew each hour "
                    '([canary] redraw = "hour"), or raise the share.'
                )
            else:
                text = f"The {words} of both count like {found.effective:,.0f} independent ones"
                gap = needed / max(found.effective, 1e-9)
                told.append((gap, f"{text}; about {needed:,.0f} would decide."))
        return max(told)[1] if told else ""

    def _count(self, number: int) -> str:
        return f"{number:,} {'customers' if self.units <= _APART else 'groups of customers'}"


def _rounded(number: int) -> int:
    unit = 10 ** max(0, len(str(number)) - 2)
    return -(-number // unit) * unit
