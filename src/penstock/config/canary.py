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

BATCH_S = 60.0
ONLY_LASTS = "7 d"


class Canary(Block):
    """How a version takes over the traffic, and when it is sent back."""

    steps: Several[int] | None = None
    """Percent of the requests, rising; full traffic follows the last. Empty: full at once."""
    only: Literal["shadow", "ab"] | None = None
    """Not to take over by itself, but to find out: shadow, copies of the requests; ab, a fixed
    share. After `lasts` a person decides."""
    lasts: Duration | None = None
    """How long `only` lasts; 7 d."""
    shadow_first: Duration | None = None
    """So long the version gets copies of the requests before its first share."""
    min_requests: Annotated[int, Field(ge=1)] = 100
    """That the version has answered at a share before it gets the next one."""
    min_time: Duration | None = None
    """That passes at a share before the next one."""
    min_labels: Annotated[int, Field(ge=0)] = 0
    """True answers to the version's predictions at a share before the next one."""
    low_traffic: Literal["widen", "raise", "ask"] = "widen"
    """When a share gets too few requests to be judged: look less often and wait, go to the next
    share, or ask a person."""
    batch_s: Positive | None = None
    """Seconds between two looks; 60, or 300 at no more than 5 requests a second."""
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

    control: bool | None = None
    """Whether a second worker of the champion gets as many requests as the challenger, and is
    what it is compared with; unset: where memory allows."""

    @property
    def horizon_s(self) -> float:
        """The horizon in seconds."""
        return duration_s(self.horizon)

    @property
    def hold_s(self) -> float | None:
        """The hold in seconds; None before `resolve`."""
        return None if self.hold is None else duration_s(self.hold)

    @property
    def lasts_s(self) -> float:
        """How long a rollout lasts that only finds out, in seconds."""
        return duration_s(self.lasts or ONLY_LASTS)

    @property
    def shadow_s(self) -> float:
        """How long the version is a shadow, in seconds; 0: not at all."""
        if self.only == "shadow":
            return self.lasts_s
        return 0.0 if self.shadow_first is None else duration_s(self.shadow_first)

    @property
    def min_time_s(self) -> float:
        """The least time at a share in seconds."""
        return 0.0 if self.min_time is None else duration_s(self.min_time)

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: Sequence[int] | None) -> Sequence[int] | None:
        broken: list[Broken] = []
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
        batch_s = self.batch_s or BATCH_S
        for key, text in (("horizon", self.horizon), ("lasts", self.lasts)):
            if text is not None and duration_s(text) < batch_s:
                reason = f'"{text}" is shorter than one batch, {batch_s:g} s.'
                broken.append(clash(reason, f"Make {key} several batches long.", key))
        if self.min_time_s > self.horizon_s:
            reason = f'"{self.min_time}" is longer than the horizon, "{self.horizon}".'
            broken.append(clash(reason, "Make the horizon longer.", "min_time"))
        if self.only is None and self.lasts is not None:
            fix = 'Add only = "shadow" or only = "ab", or take it out.'
            broken.append(clash("only says what lasts so long, and is not set.", fix, "lasts"))
        if self.only == "ab" and self.steps is not None and len(self.steps) != 1:
            fix = "Write one share, such as steps = [50]."
            broken.append(clash("an A/B comparison has one fixed share.", fix, "steps"))
        if self.only == "shadow" and self.shadow_first is not None:
            fix = "Say how long by lasts."
            broken.append(clash("it is a shadow only.", fix, "shadow_first"))
        if self.redraw != "never" and self.key is None:
            reason = "there is no key, so each request is drawn by itself."
            broken.append(clash(reason, 'Name the column: key = "customer_id".', "redraw"))
        refuse(broken)
        return self
