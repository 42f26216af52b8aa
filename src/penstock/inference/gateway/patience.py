"""How long a version is waited for: by other versions, and by its own next requests."""

from __future__ import annotations

PATIENCE = 0.25
"""Share of its deadline that a version lets another have the process that they share. Who takes
longer gets a process of its own, and there his whole time."""
SUSPECT = 0.1
"""Share of its deadline after which a version's next requests wait no longer behind a batch."""
SUSPECT_LEAST_S = 0.25
"""No pause of a busy machine or of a collector is suspected."""
UNUSUAL = 2.0
"""So many times the longest batch of late is unusual."""
_FORGET = 0.999
"""Of the longest batch, with each further one."""


class Usual:
    """What a version's batches take, and from when on one is suspected never to come back.

    Examples
    --------
    >>> usual = Usual()
    >>> usual.took(0.004)
    >>> usual.suspect_s(10.0)
    1.0
    >>> usual.took(3.0)
    >>> usual.suspect_s(10.0)
    6.0
    """

    def __init__(self) -> None:
        self._longest_s = 0.0

    def took(self, seconds: float) -> None:
        """Note what a batch took that came back."""
        self._longest_s = max(seconds, self._longest_s * _FORGET)

    def suspect_s(self, attempt_s: float) -> float:
        """Return the seconds after which a batch is suspect, of those that a version may try."""
        return max(attempt_s * SUSPECT, SUSPECT_LEAST_S, self._longest_s * UNUSUAL)
