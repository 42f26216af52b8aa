"""A request for a prediction, and why it may not even be asked."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from penstock.domain import Environment
from penstock.inference.gateway.answers import Answer, RefusedError
from penstock.inference.gateway.batching import Failure
from penstock.inference.gateway.routing import ModelRoutes
from penstock.inference.gateway.sticky import customer
from penstock.inference.program.frames import JSON_MEDIA

EXPLICIT = "explicit"
"""Role in the log of a request that named its version: no canary counts it."""
Told = Callable[[Answer], None]
"""Takes the answer of a question, once."""


class Question(NamedTuple):
    """A request for a prediction."""

    environment: Environment
    model: str
    number: int | None
    kind: int
    body: bytes
    wants: int = JSON_MEDIA
    """The media of the answer."""
    customer: str | None = None
    """Whose request it is, where the caller says so; for rollouts that draw customers."""
    within_s: float = inf
    """The caller's own deadline; one later than the version's changes nothing."""


def customer_of(said: bytes | None) -> str | None:
    """Return whose a request is, where the header ``penstock-key`` says so."""
    return None if said is None else customer(said.decode("utf-8", "replace"))


def within_s(said: bytes | None) -> float:
    """Return how many seconds a request may take, by the header ``penstock-deadline-ms``.

    Raises
    ------
    RefusedError
        PS547: that is no number of milliseconds.
    """
    if said is not None and not (said.isdigit() and int(said[:10]) > 0):
        what = f"Penstock-Deadline-Ms is {said.decode('latin-1')[:40]!r}, no time."
        raise RefusedError(Failure(400, "PS547", what, "Send whole milliseconds, from 1 on."))
    return inf if said is None else int(said[:10]) / 1000


def unknown_model(model: str, environment: Environment) -> Failure:
    """Refuse a model that has no version in an environment."""
    what = f"No model named {model!r} runs in {environment.value}."
    return Failure(404, "PS501", what, "See /penstock/workers for what runs.")


def unknown_version(routes: ModelRoutes, number: int) -> Failure:
    """Refuse a version that does not run."""
    running = ", ".join(f"{routes.model}@{n}" for n in sorted(routes.running))
    what = f"{routes.model}@{number} does not run in {routes.environment.value}; {running} does."
    return Failure(404, "PS502", what, "Leave /versions/… out to ask the champion.")


def not_ready(routes: ModelRoutes, number: int | None = None) -> Failure:
    """Refuse because no worker is ready."""
    asked = f"No version of {routes.model}" if number is None else f"{routes.model}@{number}"
    is_ready = "is ready" if number is None else "is not ready"
    what = f"{asked} {is_ready} in {routes.environment.value}."
    return Failure(503, "PS503", what, "Try again in a second.")
