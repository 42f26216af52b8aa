"""How many rows a body holds, without reading it: learned from the replies to bodies like it.

A body says in its length how many rows it has, once a few of about its length were answered. The
names in it weigh more in a short one than in a long one; so what a row takes is kept for each
doubling of the length.
"""

from __future__ import annotations

_WEIGHT = 0.125
"""Of the newest reply: what callers send may change."""


class RowsOfBodies:
    """Bytes a row of one version, by kind and length of a body."""

    def __init__(self) -> None:
        self.most = 1
        """The most rows that a body had."""
        self._bytes_a_row: dict[tuple[int, int], float] = {}

    def learn(self, kind: int, size: int, rows: int) -> None:
        """Take in what a reply said about a body of `size` bytes."""
        if rows < 1:
            return
        self.most = max(self.most, rows)
        place = kind, size.bit_length()
        now = size / rows
        before = self._bytes_a_row.get(place, now)
        self._bytes_a_row[place] = before + _WEIGHT * (now - before)

    def guess(self, kind: int, size: int) -> float:
        """Return about how many rows a body has; 1 while none of its length was answered.

        Examples
        --------
        >>> bodies = RowsOfBodies()
        >>> bodies.learn(1, 12_800, 64)
        >>> bodies.guess(1, 12_600), bodies.guess(1, 300)
        (63.0, 1.0)
        """
        found = self._bytes_a_row.get((kind, size.bit_length()))
        return 1.0 if found is None else max(size / found, 1.0)
