"""Measuring beside production: it waits while production is slower than it was before.

What production was before is what the gateway saw in the five minutes before the measurement.
While a champion's last seconds are slower than that, nothing is sent to the test environment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.domain import Environment

LOOK_S = 0.5
PATIENCE_S = 60.0
"""How long one pause may take; after that the measurement ends, undecided."""
SLOWER, SLOWER_MS = 1.5, 5.0
"""Slower than before: by this factor and by so many milliseconds."""
KNOWN_REQUESTS, RECENT_REQUESTS = 100, 20
"""A version with fewer in five minutes is not guarded, with fewer just now is not slow."""

Workers = Callable[[], list[dict[str, Any]]]
"""Returns the gateway's list of worker processes."""


class ProductionSlowError(Exception):
    """Production was slow for as long as a measurement waits."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(slots=True)
class Guard:
    """Pauses a measurement while production is slow."""

    workers: Workers
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    paused_s: float = 0.0
    """In all."""
    pauses: list[str] = field(default_factory=list[str])
    """Why, once a pause."""
    _before: dict[tuple[str, int], float] = field(default_factory=dict[tuple[str, int], float])
    _looked: float = float("-inf")

    def begin(self) -> None:
        """Note how fast production is before anything is measured."""
        for key, figures in self._production():
            if figures["requests"] >= KNOWN_REQUESTS and figures["p95_ms"] is not None:
                self._before[key] = float(figures["p95_ms"])

    def wait(self) -> None:
        """Return at once while production is as fast as before, else when it is again.

        Raises
        ------
        ProductionSlowError
            It stayed slow for `PATIENCE_S`.
        """
        if not self._before or self.now() < self._looked + LOOK_S:
            return
        why = self._slow()
        if why is None:
            return
        self.pauses.append(why)
        began = self.now()
        while why is not None:
            if self.now() - began > PATIENCE_S:
                self.paused_s += self.now() - began
                raise ProductionSlowError(why)
            self.sleep(LOOK_S)
            why = self._slow()
        self.paused_s += self.now() - began

    def told(self) -> dict[str, Any]:
        """Return what a report says of it."""
        return {
            "guarded": len(self._before),
            "paused_s": round(self.paused_s, 1),
            "pauses": self.pauses[:20],
        }

    def _slow(self) -> str | None:
        self._looked = self.now()
        for key, figures in self._production():
            before = self._before.get(key)
            recent: Mapping[str, Any] = figures.get("now") or {}
            if before is None or int(recent.get("requests") or 0) < RECENT_REQUESTS:
                continue
            p95_ms = float(recent["p95_ms"])
            if p95_ms > max(SLOWER * before, before + SLOWER_MS):
                return f"{key[0]}@{key[1]} answered at p95 {p95_ms:.3g} ms, {before:.3g} before"
        return None

    def _production(self) -> list[tuple[tuple[str, int], dict[str, Any]]]:
        return [
            ((str(one["model"]), int(one["number"])), one["figures"])
            for one in self.workers()
            if one["environment"] == Environment.PRODUCTION and one.get("figures")
        ]
