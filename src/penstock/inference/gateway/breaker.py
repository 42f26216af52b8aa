"""Keeps callers away from a version whose processes keep dying, until one of them lives."""

from __future__ import annotations

from enum import StrEnum

OPEN_AFTER = 3
"""Deaths in a row, each soon after the start, until requests are refused."""
SETTLED_S = 10.0
"""A process that lived so long was well: its death begins a new row."""
PAUSES_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Before the next process, by the deaths in a row."""


class Flow(StrEnum):
    """What may travel."""

    CLOSED = "closed"
    """Everything, as in an electric circuit."""
    HALF_OPEN = "half open"
    """One request at a time: its answer closes the breaker, a death opens it again."""
    OPEN = "open"
    """Nothing."""


class Breaker:
    """One version's; times are monotonic seconds.

    Examples
    --------
    >>> breaker = Breaker()
    >>> for _ in range(3):
    ...     breaker.died(lived_s=0.1)
    >>> breaker.flow.value, breaker.pause_s
    ('open', 0.5)
    >>> breaker.started()
    >>> breaker.flow.value
    'half open'
    >>> breaker.answered()
    >>> breaker.flow.value
    'closed'
    """

    def __init__(self) -> None:
        self.flow = Flow.CLOSED
        self._deaths = 0
        self._started_once = False

    @property
    def pause_s(self) -> float:
        """How long to wait before the next process."""
        return PAUSES_S[min(max(self._deaths, 1), len(PAUSES_S)) - 1]

    def started(self) -> None:
        """Note that a process is ready and warm."""
        self._started_once = True
        if self.flow is Flow.OPEN:
            self.flow = Flow.HALF_OPEN if self._deaths >= OPEN_AFTER else Flow.CLOSED

    def answered(self) -> None:
        """Note that a request was answered, whatever the answer."""
        if self.flow is Flow.HALF_OPEN:
            self.flow, self._deaths = Flow.CLOSED, 0

    def died(self, *, lived_s: float) -> None:
        """Note that a process ended that should not have, or did not get ready."""
        self._deaths = 1 if lived_s > SETTLED_S else self._deaths + 1
        again = self.flow is not Flow.CLOSED
        if again or self._deaths >= OPEN_AFTER or not self._started_once:
            self.flow = Flow.OPEN
