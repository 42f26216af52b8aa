"""How a version is served: the block [serving] of penstock.toml, and that of server.toml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from penstock.config.rules import Block, Duration, Several


class Serving(Block):
    """How the gateway serves a version."""

    accelerate: Literal["auto", "off"] = "auto"
    """auto: the fastest call that is proven to answer as the model's own; off: its own."""
    tolerance: Annotated[float, Field(ge=0, lt=0.01)] = 0
    """How far a faster call's numbers may be from the model's own; decisions must be the same."""
    golden_rows: Annotated[int, Field(ge=0, le=64)] = 8
    """Evaluation rows, kept with their answers, that each start must answer again; 0: none."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share the version's requests."""
    isolated: bool = False
    """Whether it never shares a process with other versions."""
    deadline_ms: Annotated[float, Field(ge=10, le=60_000)] | None = None
    """A request is answered by then, by a version or by an error; default: the server's."""
    cache_mb: Annotated[float, Field(ge=0, le=1024)] = 0
    """Memory for answers to requests that were asked before, byte for byte; 0 keeps none."""
    log_without: Several[str] = ()
    """Columns whose values the prediction log must not hold."""
    load: Literal["first request", "start"] | None = None
    """When it is loaded; default: as the server's memory allows, champions first."""


class ServingSettings(Block):
    """What serving may use of this machine."""

    memory_mb: Annotated[int, Field(ge=64)] | None = None
    """For all workers together; default: three quarters of the machine's memory."""
    deadline_ms: Annotated[float, Field(ge=10, le=60_000)] = 10_000
    """A request is answered by then, by a version or by an error."""
    batch_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """About so many rows a worker is given at once; one request may have more."""
    idle: Duration = "15 min"
    """A version that nobody asked for so long is unloaded when others need its memory."""
    log_mb: Annotated[int, Field(ge=16)] = 10_000
    """Prediction log of one model, Parquet included; above it the oldest hours are dropped."""
    log_url: str | None = None
    """Where Parquet goes, such as s3://lake/predictions; default: in the home."""
