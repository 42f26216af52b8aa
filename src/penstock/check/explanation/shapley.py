"""Shapley values through the `Ask`: what each column adds to the answer to one row.

The game: columns of the row replace those of a background row, one after the other, and a
column's share is how much the answer moves when its turn comes, in the mean over all orders and
all background rows (interventional: the others are not made to fit). Orders are drawn in pairs,
one the reverse of the other, which cancels most of the noise of pairwise effects.

A pair is one sample of every column's share, so it can stop at any time with a standard error.
What a row's shares must sum to is known, its answer less the base; what the samples miss of it
is dealt out by the variances, so that the sum is exact at any time.

References
----------
E. Strumbelj and I. Kononenko, *Explaining prediction models and individual predictions with
feature contributions*, 2014. R. Mitchell et al., *Sampling Permutations for Shapley Value
Estimation*, JMLR 23, 2022 (antithetic pairs). S. Lundberg and S.-I. Lee, *A Unified Approach to
Interpreting Model Predictions*, 2017 (the game).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.check.explanation.asking import BATCH_ROWS, Floats, Meter, Target

Numbers = NDArray[np.int64]
_DUST = 1e-13
_NUMBERS = 1 << 24
"""Columns of a batch times its rows, at most, so that wide models take no more memory."""


@dataclass(frozen=True, slots=True)
class Player:
    """Columns that move together: one, or the many that are too many to tell apart."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """Shapley values of n rows, p players and an answer of w numbers."""

    effects: Floats
    """Shape ``(n, p, w)``; over p they sum to `answers` less `base`, exactly."""
    error: Floats
    """Standard errors by the samples, shape ``(n, p, w)``; NaN below two pairs."""
    answers: Floats
    """Shape ``(n, w)``."""
    base: Floats
    """Mean answer to the background rows, shape ``(w,)``."""
    pairs: Numbers
    """Pairs of orders that were sampled, shape ``(n,)``."""


class Sampler:
    """Samples pairs of orders, as many as there is time for.

    Parameters
    ----------
    explained, background
        Rows with the model's columns; each of the players' columns is one of them.
    """

    def __init__(
        self,
        meter: Meter,
        target: Target,
        tables: tuple[pa.Table, pa.Table],
        players: Sequence[Player],
        random: np.random.Generator,
    ) -> None:
        explained, background = tables
        self._meter, self._target, self._random = meter, target, random
        self._players = list(players)
        self._all = pa.concat_tables([explained, background]).combine_chunks()
        self._rows, self._behind = explained.num_rows, background.num_rows
        known = meter.numbers(self._all, target)
        self._answers, self._before = known[: self._rows], known[self._rows :]
        shape = (self._rows, len(self._players), known.shape[1])
        self._sum, self._squares = np.zeros(shape), np.zeros(shape)
        self._pairs = np.zeros(self._rows, dtype=np.int64)
        self._codes = _codes(self._all, self._players)
        # Each row meets every background row once before it meets one a second time.
        self._turns = np.stack(
            [random.permutation(self._behind) for _ in range(self._rows)]
        ) if self._rows else np.zeros((0, self._behind), dtype=np.int64)  # fmt: skip

    @property
    def players(self) -> Sequence[Player]:
        """The players, in the order of the values."""
        return self._players

    @property
    def background_rows(self) -> int:
        """How many rows say what is usual."""
        return self._behind

    def round(self, rows: Numbers) -> None:
        """Sample one pair more of each of some rows; raises what `Meter.answers` does."""
        each = max(2 * (len(self._players) - 1), 1)
        width = max(len(self._all.column_names), 1)
        most = max(1, min(BATCH_ROWS, _NUMBERS // width) // each)
        for start in range(0, len(rows), most):
            self._sample(rows[start : start + most])

    def values(self) -> Values:
        """Return what is known by now."""
        pairs = np.maximum(self._pairs, 1)[:, None, None]
        mean = self._sum / pairs
        base = self._before.mean(axis=0)
        spread = np.maximum(self._squares / pairs - mean**2, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.sqrt(spread / (pairs - 1))
        missed = self._answers - base - mean.sum(axis=1)
        effects = mean + missed[:, None, :] * _weights(spread, mean)
        error = np.where(pairs > 1, error, np.nan)
        # What is left of sums that cancel is no effect.
        effects[np.abs(effects) < _DUST * (np.abs(self._answers).max() + np.abs(base).max())] = 0.0
        return Values(effects, error, self._answers, base, self._pairs.copy())

    def _sample(self, rows: Numbers) -> None:
        count, players = len(rows), len(self._players)
        behind = self._turns[rows, self._pairs[rows] % self._behind] + self._rows
        order = np.argsort(self._random.random((count, players)), axis=1)
        pair = np.stack([order, order[:, ::-1]])  # 2 x rows x players
        same = self._codes[rows] == self._codes[behind]
        walked = self._walk(rows, behind, pair, same)
        share = np.zeros((2, count, players, walked.shape[-1]))
        np.put_along_axis(share, pair[..., None], np.diff(walked, axis=2), axis=2)
        mean = share.mean(axis=0)
        self._sum[rows] += mean
        self._squares[rows] += mean**2
        self._pairs[rows] += 1

    def _walk(
        self, rows: Numbers, behind: Numbers, pair: Numbers, same: NDArray[np.bool_]
    ) -> Floats:
        """Return the answers along each order, shape ``(2, rows, players + 1, w)``."""
        _, count, players = pair.shape
        walked = np.zeros((2, count, players + 1, self._answers.shape[1]))
        walked[:, :, 0] = self._before[behind - self._rows]
        walked[:, :, -1] = self._answers[rows]
        # A player whose value is the background's moves nothing: that state needs no answer.
        moves = ~np.take_along_axis(np.broadcast_to(same, pair.shape), pair, axis=2)
        asked = np.argwhere(moves[:, :, :-1])  # way, row, step: the state after that step
        if len(asked):
            place = np.argsort(pair, axis=2)
            is_in = place[asked[:, 0], asked[:, 1]] <= asked[:, 2][:, None]
            source = np.where(is_in, rows[asked[:, 1]][:, None], behind[asked[:, 1]][:, None])
            told = self._meter.numbers(self._mixed(source), self._target)
            walked[asked[:, 0], asked[:, 1], asked[:, 2] + 1] = told
        for step in range(players - 1):
            still = ~moves[:, :, step]
            walked[:, :, step + 1][still] = walked[:, :, step][still]
        return walked

    def _mixed(self, source: Numbers) -> pa.Table:
        """Build rows whose every player comes from a row of its own, shape ``(m, players)``."""
        columns: dict[str, Any] = {}
        for number, player in enumerate(self._players):
            taken = pa.array(source[:, number])
            for name in player.columns:
                columns[name] = self._all.column(name).take(taken)
        return pa.table({name: columns[name] for name in self._all.column_names})


def _weights(spread: Floats, mean: Floats) -> Floats:
    """Return who takes what share of what the samples missed; sums to 1 over the players."""
    players = spread.shape[1]
    for sizes in (spread, np.abs(mean)):
        total = sizes.sum(axis=1, keepdims=True)
        if (total > 0).all():
            return cast("Floats", sizes / total)
    first, second = spread.sum(axis=1, keepdims=True), np.abs(mean).sum(axis=1, keepdims=True)
    by_mean = np.full_like(mean, 1 / players)
    np.divide(np.abs(mean), second, out=by_mean, where=second > 0)
    found = by_mean.copy()
    np.divide(spread, first, out=found, where=first > 0)
    return found


def _codes(table: pa.Table, players: Sequence[Player]) -> Numbers:
    """Give equal values of a player equal numbers, shape ``(rows, players)``."""
    found = [_code(table, player.columns) for player in players]
    return np.stack(found, axis=1) if found else np.zeros((table.num_rows, 0), dtype=np.int64)


def _code(table: pa.Table, names: Sequence[str]) -> Numbers:
    every = np.arange(table.num_rows)
    if len(names) > 1:
        return every  # a crowd is never the same
    column = table.column(names[0])
    if pa.types.is_nested(column.type):
        return every
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return cast("Numbers", encoded.indices.to_numpy().astype(np.int64))


def sampling(sampler: Sampler, rows: int, favoured: int) -> Generator[int]:
    """Sample round after round; yield the number of each.

    The first `favoured` rows, which are shown one by one, get five pairs a round and the others
    one.
    """
    every, first = np.arange(rows), np.arange(min(favoured, rows))
    number = 0
    while True:
        sampler.round(every)
        for _ in range(4):
            sampler.round(first)
        number += 1
        yield number
