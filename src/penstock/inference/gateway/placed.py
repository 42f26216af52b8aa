"""What a gateway is given of a version: its folder, how it answers, and what to ask it first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from penstock.domain import Deployment
from penstock.inference.gateway.examples import first_rows

_FAULT = 500
"""From this status on an answer says that worker or model are at fault."""


class First(NamedTuple):
    """A request that a version must answer before it is ready."""

    body: bytes
    """Of the Open Inference Protocol."""
    hindrance: Callable[[int, bytes], str]
    """From status and body of the answer: why the version is not ready; empty when it is."""


class Placed(NamedTuple):
    """A version where its sandbox sees it."""

    folder: Path
    path: str = "own"
    """Which call of its model answers."""
    first: Sequence[First] = ()
    """Rows of which the build saw the answers; where there are none, a typical row is asked."""

    def asked_first(self, deployment: Deployment) -> Sequence[First]:
        """Return what the version is asked before it is ready."""
        return self.first or _typical(deployment)


def _typical(deployment: Deployment) -> Sequence[First]:
    return [
        First(body, _sure if sure else _unsure) for body, sure in first_rows(deployment.signature)
    ]


def _sure(status: int, _: bytes) -> str:
    return "Its first answer was an error" if status >= _FAULT else ""


def _unsure(_status: int, _body: bytes) -> str:
    return ""
