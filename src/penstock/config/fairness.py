"""The block [fairness] of penstock.toml: how far groups of people may differ."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from penstock.config.rules import Block, Columns, Several, clash, refuse, wrong

FairnessMetric = Literal[
    "demographic_parity_difference",
    "equalized_odds_difference",
    "equal_opportunity_difference",
    "predictive_parity_difference",
    "accuracy_difference",
    "calibration_difference",
    "mean_error_difference",
    "mean_absolute_error_difference",
]


class GroupLimit(Block):
    """How far the groups of one column may differ."""

    max: Annotated[float, Field(ge=0)] | None = None
    min_ratio: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.max is None and self.min_ratio is None:
            refuse([wrong("has neither max nor min_ratio.", "Write { max = 0.1 }.")])
        return self


class Fairness(Block):
    """How far groups may differ. Without a limit it is a report, not a gate."""

    metric: FairnessMetric | None = None
    """What the limits speak of; else what fits the task."""
    max: Annotated[float, Field(ge=0)] | None = None
    """Largest difference between two groups that passes."""
    min_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """Smallest ratio of a group's rate to the highest group's that passes."""
    limits: dict[str, GroupLimit] = Field(default_factory=dict)
    """By sensitive column; they take the place of `max` and `min_ratio` there."""
    intersections: Several[Columns] | None = None
    """Columns that are crossed, and held to `max` and `min_ratio`; else pairs are reported."""
    bands: dict[str, Several[float]] = Field(default_factory=dict)
    """Edges of a numeric column's groups, rising; else round numbers are chosen."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(
            clash(f"{list(edges)} does not rise.", "Write the edges from low to high.", "bands", c)
            for c, edges in self.bands.items()
            if not edges or list(edges) != sorted(set(edges))
        )
        refuse(
            clash("one column is no intersection.", "Name two or more.", "intersections", n)
            for n, columns in enumerate(self.intersections or ())
            if len(set(columns)) < 2
        )
        ratio = "min_ratio" if self.min_ratio is not None else None
        with_ratio = [c for c, one in self.limits.items() if one.min_ratio is not None]
        if self.metric in _WITHOUT_RATIO and (ratio or with_ratio):
            where = (ratio,) if ratio else ("limits", with_ratio[0], "min_ratio")
            reason = f"there is no ratio for {self.metric}; it compares no shares of rows."
            refuse([clash(reason, "Set max, or another metric.", *where)])
        return self


_WITHOUT_RATIO = (
    "calibration_difference",
    "mean_error_difference",
    "mean_absolute_error_difference",
)
