"""What a version may take: the block [speed] of penstock.toml."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from penstock.config.rules import Block, Positive, clash, refuse


class Speed(Block):
    """What a version may take, and what is measured. Without limits it is a report, not a gate."""

    p50_ms: Positive | None = None
    p95_ms: Positive | None = None
    max_memory_mb: Positive | None = None
    """Of its process under the requests of the measurement."""
    cold_start_s: Positive | None = None
    min_rps: Positive | None = None
    """Requests of one row a second that it must sustain; asks for `load`."""
    margin: Annotated[float, Field(ge=1, le=100)] | None = None
    """Times as long as the champion that is still "not slower"; without it a person judges 1.5."""
    load: bool = False
    """Whether throughput is measured, with more and more connections at once."""
    budget_s: Annotated[float, Field(ge=1, le=600)] = 30
    """Seconds of measuring at most, pauses for production not counted."""
    replay_rows: Annotated[int, Field(ge=0, le=100_000)] = 1000
    """Recent production requests that champion and challenger both answer; 0: none."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.p50_ms is not None and self.p95_ms is not None and self.p50_ms > self.p95_ms:
            reason = f"{self.p50_ms:g} ms is above p95_ms, {self.p95_ms:g} ms."
            refuse([clash(reason, "Set p50_ms at or below p95_ms.", "p50_ms")])
        return self
