"""What the customers of a canary met: the record of one drawing, and the wagers on it.

A rollout with one share has one `Draw`. When the share rises, the units that are the challenger's
already stay so: the next draw is over the others, with the chance ``(w2 - w1) / (1 - w1)``, and
its wagers multiply with those of before. Start reading at `Draw.add`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.deploy.etest import Floats
from penstock.deploy.keytest import (
    CLAIMS,
    HARM,
    SAFE,
    WORST,
    Bools,
    Ints,
    Records,
    Wagers,
    dispersion,
    log_rare,
    log_wagers,
)


@dataclass(frozen=True, slots=True, eq=False)
class Met:
    """What the customers met in one batch; `metrics` are in the caller's order."""

    unit: Ints
    """Shape ``(units,)``, each once, rising."""
    on: Bools
    """Whether the unit was drawn for the challenger."""
    answered: Bools
    """Whether the challenger did answer a request of it."""
    requests: Ints
    """Shape ``(units, metrics)``."""
    events: Ints


@dataclass(slots=True, eq=False)
class Draw:
    """One drawing of customers, and what each has met since: add batches, read `wagers`."""

    chance: float
    """Of a unit to be the challenger's, 0 to 1 exclusive."""
    unit: Ints
    on: Bools
    answered: Bools
    requests: Ints
    """Shape ``(units, metrics)``."""
    events: Ints
    expected: Floats
    """At the rate of both arms in each batch, for harm and for safe: ``(units, metrics, 2)``."""
    window: Floats
    """Events (on the challenger 1/c of them) and expected ones, for harm, in the two worst closed
    windows and the open one: ``(units, metrics, 3, 2)``."""
    excess: Floats
    """Events of the challenger beyond the expected ones in those: ``(metrics, 3)``."""
    open: int
    """The name of the open window."""

    @classmethod
    def of(cls, chance: float, metrics: int) -> Draw:
        """Begin one in which nobody has met anything."""
        assert 0 < chance < 1, chance
        return cls(
            chance,
            np.zeros(0, np.int64),
            np.zeros(0, np.bool_),
            np.zeros(0, np.bool_),
            np.zeros((0, metrics), np.int64),
            np.zeros((0, metrics), np.int64),
            np.zeros((0, metrics, 2)),
            np.zeros((0, metrics, WORST + 1, 2)),
            np.zeros((metrics, WORST + 1)),
            -1,
        )

    def add(self, met: Met, *, window: int, excused: bool = False) -> None:
        """Add a batch.

        Parameters
        ----------
        window
            In which window of time it lies; the windows rise.
        excused
            The worst windows of before are those that do not count; no later one joins them.
        """
        where = self._seat(met)
        if window != self.open:
            self._close()
            self.open = window
        total = np.maximum(met.requests.sum(axis=0), 1)
        counted = [np.where(met.on[:, None], met.events / c, met.events) for c in CLAIMS]
        rates = np.array([one.sum(axis=0) / total for one in counted])
        more = met.requests[:, :, None] * rates.T[None, :, :]
        self.answered[where] |= met.answered
        self.requests[where] += met.requests
        self.events[where] += met.events
        self.expected[where] += more
        if excused:
            return
        self.window[where, :, WORST, 0] += counted[HARM]
        self.window[where, :, WORST, 1] += more[:, :, HARM]
        usual = met.requests * (met.events.sum(axis=0) / total)
        self.excess[:, WORST] += (met.events - usual)[met.on].sum(axis=0)

    def _seat(self, met: Met) -> Ints:
        """Make room for units that are new; return where those of a batch stand."""
        fresh = ~np.isin(met.unit, self.unit)
        if fresh.any():
            both = np.r_[self.unit, met.unit[fresh]]
            order = np.argsort(both, kind="stable")
            self.unit = both[order]
            self.on = np.r_[self.on, met.on[fresh]][order]
            for name in ("answered", "requests", "events", "expected", "window"):
                old: NDArray[Any] = getattr(self, name)
                room = np.zeros((int(fresh.sum()), *old.shape[1:]), old.dtype)
                setattr(self, name, np.concatenate([old, room])[order])
        return np.searchsorted(self.unit, met.unit)

    def _close(self) -> None:
        """Let the open window take the place of a lesser one of the worst."""
        for metric in range(self.excess.shape[0]):
            least = int(np.argmin(self.excess[metric, :WORST]))
            if self.excess[metric, WORST] > self.excess[metric, least]:
                self.excess[metric, least] = self.excess[metric, WORST]
                self.window[:, metric, least] = self.window[:, metric, WORST]
        self.excess[:, WORST] = 0
        self.window[:, :, WORST] = 0

    def to_bytes(self) -> bytes:
        """Return it as bytes that hold numbers only."""
        made = io.BytesIO()
        arrays = {name: getattr(self, name) for name in self.__slots__}
        np.savez_compressed(made, allow_pickle=False, **arrays)
        return made.getvalue()

    @classmethod
    def from_bytes(cls, told: bytes) -> Draw:
        """Return what `to_bytes` was given."""
        with np.load(io.BytesIO(told), allow_pickle=False) as arrays:
            found: dict[str, Any] = {name: arrays[name] for name in cls.__slots__}
        found["chance"], found["open"] = float(found["chance"]), int(found["open"])
        return cls(**found)

    def wagers(self, metric: int, p_max: float) -> Wagers:
        """Return what has been won on one metric."""
        events, requests, on = self.events[:, metric], self.requests[:, metric], self.on
        excess = self.excess[metric]
        worst = [int(one) for one in np.argsort(-excess)[:WORST] if excess[one] > 0]
        counted = [np.where(on, events / c, events) for c in CLAIMS]
        harm: list[Floats] = []
        for dropped in range(WORST + 1):
            gone = self.window[:, metric, worst[:dropped]].sum(axis=1)
            usual = np.maximum(self.expected[:, metric, HARM] - gone[:, 1], 0)
            met = Records.of(np.maximum(counted[HARM] - gone[:, 0], 0), usual, on)
            harm.append(log_wagers(HARM, self.chance, dispersion(met), met))
        met = Records.of(counted[SAFE], self.expected[:, metric, SAFE], on)
        kappa = dispersion(met)
        off_requests = int(requests[~on].sum())
        rate = int(events[~on].sum()) / off_requests if off_requests else 0.0
        return Wagers(
            np.array(harm),
            log_wagers(SAFE, self.chance, kappa, met),
            log_rare(events.astype(np.float64), requests.astype(np.float64), on, p_max),
            excess[worst].astype(np.float64),
            float(requests[on].sum() * rate),
            float(np.sum(met.units * met.expected / (1 + met.expected * kappa))),
            float(np.sum(met.units * met.expected)),
            kappa,
            len(self.unit),
            int(on.sum()),
            int(self.answered.sum()),
        )
