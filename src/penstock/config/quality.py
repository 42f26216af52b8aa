"""The block [quality] of penstock.toml: how good a version must be, and when it may go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from penstock.config.rules import (
    Block,
    Broken,
    Columns,
    clash,
    did_you_mean,
    refuse,
    wrong,
)

METRICS: Mapping[str, tuple[float | None, float | None]] = MappingProxyType(
    {
        "roc_auc": (0, 1),
        "roc_auc_ovr": (0, 1),
        "average_precision": (0, 1),
        "accuracy": (0, 1),
        "precision": (0, 1),
        "recall": (0, 1),
        "f1": (0, 1),
        "f1_macro": (0, 1),
        "brier": (0, 1),
        "ece": (0, 1),
        "ndcg": (0, 1),
        "cost": (0, None),
        "log_loss": (0, None),
        "mae": (0, None),
        "rmse": (0, None),
        "r2": (None, 1),
    }
)
"""Each measure of quality with its least and its greatest possible value; None = unbounded."""


def _metric(name: str) -> str:
    if name not in METRICS:
        near = did_you_mean(name, METRICS)
        fix = f'Did you mean "{near}"?' if near else f"Choose from {', '.join(METRICS)}."
        refuse([wrong(f'"{name}" is no measure of quality.', fix)])
    return name


Metric = Annotated[str, AfterValidator(_metric)]


def _limit_rules(name: str, limit: Limit) -> Iterator[Broken]:
    least, greatest = METRICS[name]
    if limit.min is not None and greatest is not None and limit.min > greatest:
        reason = f"min {limit.min:g} is above {greatest:g}, the best possible value."
        yield wrong(reason, f"Set min at or below {greatest:g}.", name, "min")
    if limit.max is not None and least is not None and limit.max < least:
        reason = f"max {limit.max:g} is below {least:g}, the least possible value."
        yield wrong(reason, f"Set max at or above {least:g}.", name, "max")


class Limit(Block):
    """A least and a greatest value that pass; one of the two is enough."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.min is None and self.max is None:
            refuse([wrong("has neither min nor max.", "Write { min = 0.80 }.")])
        if self.min is not None and self.max is not None and self.min > self.max:
            reason = f"min {self.min:g} is above max {self.max:g}: nothing can pass."
            refuse([clash(reason, "Exchange them, or take one out.")])
        return self


class MistakeCost(Block):
    """What mistakes of two classes cost, in a unit of the project's own."""

    fp: Annotated[float, Field(ge=0)] = 1
    """A row said positive that is not."""
    fn: Annotated[float, Field(ge=0)] = 1
    """A positive row that was not said so."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.fp == self.fn == 0:
            refuse([wrong("says that no mistake costs anything.", "Write { fp = 1, fn = 5 }.")])
        return self


class Quality(Block):
    """How good a version must be, by itself and beside the champion."""

    primary: Metric | None = None
    """The measure for "is it better?"; by kind of model roc_auc, accuracy or mae."""
    limits: dict[Metric, Limit] = Field(default_factory=dict)
    """Limit by measure: { roc_auc = { min = 0.80 } }."""
    margin: Annotated[float, Field(ge=0)] | None = None
    """How much worse than the champion is still "not worse"; the default depends on the risk."""
    slices: Columns = ()
    """Columns; no group of theirs may become provably worse."""

    guardrails: dict[Metric, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Margin by measure that must not suffer besides the primary one: { log_loss = 0.02 }."""
    cost: MistakeCost | None = None
    """What mistakes cost, for the measure ``cost``: { fp = 1, fn = 5 }."""
    promote: Literal["better", "not_worse", "ask"] | None = None
    """When a version goes on without a person: when it is provably better than the champion,
    when it is not worse, or never. By [approval] people; at risk high always a person."""

    @model_validator(mode="after")
    def _priced(self) -> Self:
        named: list[tuple[str, ...]] = [("primary",)] if self.primary == "cost" else []
        named += [("limits", "cost")] if "cost" in self.limits else []
        named += [("guardrails", "cost")] if "cost" in self.guardrails else []
        refuse(
            clash("what mistakes cost is not said.", "Add cost = { fp = 1, fn = 5 }.", *key)
            for key in named
            if self.cost is None
        )
        return self

    @field_validator("limits")
    @classmethod
    def _possible(cls, limits: dict[str, Limit]) -> dict[str, Limit]:
        refuse(broken for name, limit in limits.items() for broken in _limit_rules(name, limit))
        return limits
