"""What an operator can set about the gateway."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from penstock.domain import Deployment, Role

LOAD_PATIENCE = 0.5
"""Part of the deadline for which requests wait while another version is loaded beside theirs."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Limits and times of the request path."""

    allowed_hosts: tuple[str, ...] = ()
    """Names, without a port, that callers may use beside those of the loopback."""
    grpc: str | None = None
    """Address for gRPC, ``127.0.0.1:8422``; None serves none."""
    body_bytes: int = 2**20
    """Greatest request body."""
    deadline_s: float = 10.0
    """A request is answered within this time, by a version or by an error, unless the version's
    own block [serving] says else."""
    start_timeout_s: float = 120.0
    """A worker that is not ready by then is started anew."""
    batch_requests: int = 256
    batch_bytes: int = 2**20
    batch_rows: int = 1024
    """Greatest batch; one request alone may be greater. Its rows are a guess by the length of
    the bodies; so many take a forest of 100 trees about 11 ms, a linear model 2 ms."""
    queue_requests: int = 2048
    queue_bytes: int = 64 * 2**20
    """What may wait for one worker; more is refused."""
    held_requests: int = 8192
    held_bytes: int = 256 * 2**20
    """What all callers together may have in the gateway; more is refused unread."""
    turn_bytes: int = 2**16
    """Greatest batch of a version while another waits for the same process."""
    memory_bytes: int = field(default_factory=lambda: psutil.virtual_memory().total * 3 // 4)
    """What all workers may use together."""
    worker_memory_bytes: int | None = None
    """What a worker process of one version may use."""
    idle_s: float = 900.0
    """A version that nobody asked for so long is the first to be unloaded."""
    shared: int = field(default_factory=lambda: max(1, (os.cpu_count() or 1) - 1))
    """Processes that the versions of one environment share."""
    poll_s: float = 0.2
    """How often the routes are read."""
    settle_s: float = 0.0
    """So long a gateway that starts waits for its champions before it accepts requests; they
    wait in the kernel, where they would be refused otherwise."""
    takes_over: bool = False
    """Whether another gateway answers until this one is settled: then it waits for every version
    that it loads, not only for those that serve."""
    seed: int | None = None
    """Of the draws that split the traffic; None for a new one at each start."""
    sockets: Path | None = None
    """Folder for the workers' sockets, with a short path; None for the one of the cache."""

    def deadline_of(self, serving: Mapping[str, Any]) -> float:
        """Return the seconds that a version has, by its block [serving]."""
        stated = serving.get("deadline_ms")
        return self.deadline_s if stated is None else float(stated) / 1000

    def attempt_of(self, deployment: Deployment) -> float:
        """Return how long a version may try; an arm of a canary leaves time for the champion."""
        share = 0.5 if deployment.role in {Role.CHALLENGER, Role.CONTROL} else 1.0
        return self.deadline_of(deployment.serving) * share

    @property
    def shared_load_s(self) -> float:
        """How long a version may take to load where others wait for the same process."""
        return self.deadline_s * LOAD_PATIENCE
