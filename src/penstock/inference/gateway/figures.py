"""How much each version was asked in the last minutes, and how fast it answered.

Counted as answers go out, in memory, a few hundred bytes a version: nothing reads the log for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from typing import Any

SLOT_S = 5
SLOTS = 60
"""Five minutes."""
GROUP = 4
"""Slots in one point of ``latencies``: 20 s, since quantiles of fewer answers only flicker."""
BOUNDS_MS = tuple(0.1 * 1.12**step for step in range(110))
"""Upper ends of the bins of latency, 12 % apart: from 0.1 ms to 23 s."""

Key = tuple[str | int, ...]
"""Names whom the figures are of."""


@dataclass(slots=True)
class _Slot:
    number: int
    requests: int = 0
    errors: int = 0
    bins: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))


class Figures:
    """Counts of every version; times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._slots: dict[Key, deque[_Slot]] = {}

    def add(self, key: Key, took_s: float, *, failed: bool, now_s: float) -> None:
        """Count one answer."""
        slots = self._slots.get(key)
        if slots is None:
            slots = self._slots[key] = deque(maxlen=SLOTS)
        number = int(now_s) // SLOT_S
        if not slots or slots[-1].number != number:
            slots.append(_Slot(number))
        slot = slots[-1]
        slot.requests += 1
        slot.errors += failed
        slot.bins[bisect_left(BOUNDS_MS, took_s * 1000)] += 1

    def told(self, key: Key, now_s: float) -> dict[str, Any]:
        """Return the figures of the last five minutes.

        Returns
        -------
        dict
            ``requests`` and ``errors`` (counts), ``p50_ms`` and ``p95_ms`` (upper ends of 12 %
            wide bins, None without requests), ``now`` (requests and p95_ms of the last 5 to 10
            seconds), ``rates`` (requests a second, by 5 s, oldest
            first, without the slot that still runs), ``latencies`` (p50 and p95 in ms by 20 s,
            oldest first, None where nobody asked).
        """
        last = int(now_s) // SLOT_S
        slots = [one for one in self._slots.get(key, ()) if last - one.number <= SLOTS]
        by_number = {one.number: one.requests for one in slots}
        groups: dict[int, list[_Slot]] = {}
        for one in slots:
            groups.setdefault((one.number - last + SLOTS) // GROUP, []).append(one)
        summed = {place: _summed([one.bins for one in of]) for place, of in groups.items()}
        bins = _summed(list(summed.values()))
        lately = _summed([one.bins for one in slots if last - one.number <= 1])
        return {
            "requests": sum(bins),
            "errors": sum(one.errors for one in slots),
            "p50_ms": _quantile(bins, 0.50),
            "p95_ms": _quantile(bins, 0.95),
            "now": {"requests": sum(lately), "p95_ms": _quantile(lately, 0.95)},
            "rates": [by_number.get(n, 0) / SLOT_S for n in range(last - SLOTS, last)],
            "latencies": [_latency(summed.get(place)) for place in range(SLOTS // GROUP)],
        }


def _summed(bins: list[list[int]]) -> list[int]:
    return bins[0] if len(bins) == 1 else [sum(column) for column in zip(*bins, strict=True)]


def _latency(bins: list[int] | None) -> list[float | None] | None:
    return None if bins is None else [_quantile(bins, 0.50), _quantile(bins, 0.95)]


def _quantile(bins: list[int], share: float) -> float | None:
    wanted = share * sum(bins)
    seen = 0
    for place, count in enumerate(bins):
        seen += count
        if count and seen >= wanted:
            return round(BOUNDS_MS[min(place, len(BOUNDS_MS) - 1)], 2)
    return None
