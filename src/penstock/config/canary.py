"""How a version takes over the traffic: the block [canary] of penstock.toml."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from penstock.config.rules import (
    Block,
    Broken,
    Duration,
    Positive,
    Several,
    clash,
    duration_s,
    refuse,
    wrong,
)


class Canary(Block):
    """How a version takes over the traffic, and when it is sent back."""

    steps: Several[int] | None = None
    """Percent of the requests, rising; full traffic follows the last."""
    batch_s: Positive = 60
    """Seconds between two looks."""
    horizon: Duration = "24 h"
    """When a share that stays undecided is held."""
    hold: Duration | None = None
    """How long a held rollout waits for a person before it is rolled back; 24 h, high: 72 h."""
    p_max_errors: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Share of failed requests that is harm, whatever the champion does."""
    p_max_slow: Annotated[float, Field(gt=0, lt=1)] = 0.10
    """Share of slow requests that is harm, whatever the champion does."""
    key: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Customers stay with one version: by the header Penstock-Key, else by this column."""
    redraw: Literal["never", "hour"] = "never"
    """When customers are drawn anew."""

    @property
    def horizon_s(self) -> float:
        """The horizon in seconds."""
        return duration_s(self.horizon)

    @property
    def hold_s(self) -> float | None:
        """The hold in seconds; None before `resolve`."""
        return None if self.hold is None else duration_s(self.hold)

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: Sequence[int] | None) -> Sequence[int] | None:
        broken: list[Broken] = []
        if steps is not None and not steps:
            broken.append(wrong("is empty.", "Write steps = [5, 25, 50]."))
        if any(not 0 < share < 100 for share in steps or ()):
            reason = f"{list(steps or ())} holds a share that is not from 1 to 99."
            fix = "Name percents below 100; full traffic follows by itself."
            broken.append(wrong(reason, fix))
        elif list(steps or ()) != (rising := sorted(set(steps or ()))):
            broken.append(wrong(f"{list(steps or ())} does not rise.", f"Write steps = {rising}."))
        refuse(broken)
        return steps

    @model_validator(mode="after")
    def _rules(self) -> Self:
        broken: list[Broken] = []
        if self.horizon_s < self.batch_s:
            reason = f'"{self.horizon}" is shorter than one batch, {self.batch_s:g} s.'
            broken.append(clash(reason, "Make the horizon several batches long.", "horizon"))
        if self.redraw != "never" and self.key is None:
            reason = "there is no key, so each request is drawn by itself."
            broken.append(clash(reason, 'Name the column: key = "customer_id".', "redraw"))
        refuse(broken)
        return self
