"""What a model's endpoint says about itself, in the words of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from penstock import __version__
from penstock.inference.gateway.routing import ModelRoutes
from penstock.inference.gateway.state import State
from penstock.inference.gateway.workers import Worker

EXTENSIONS = ("binary_tensor_data", "model_repository_index")
"""What is there beyond the protocol, by the names that others gave it."""


class IndexRequest(msgspec.Struct):
    """What may be said of the versions that an index shall have."""

    ready: bool = False
    """Whether only those that answer are wanted."""


def server_metadata() -> dict[str, Any]:
    """Describe the gateway."""
    return {"name": "penstock", "version": __version__, "extensions": list(EXTENSIONS)}


def model_index(workers: Iterable[Worker], *, only_ready: bool) -> list[dict[str, Any]]:
    """List versions with their state, by name and number."""
    listed = sorted(workers, key=lambda each: (each.deployment.model, each.deployment.number))
    return [
        {
            "name": worker.deployment.model,
            "version": str(worker.deployment.number),
            "state": "READY" if worker.state is State.READY else "UNAVAILABLE",
            "reason": worker.reason or ("" if worker.state is State.READY else worker.state.value),
        }
        for worker in listed
        if worker.state is State.READY or not only_ready
    ]


def version_of(routes: ModelRoutes) -> dict[str, Any]:
    """Say which version of a model answers who names none."""
    asked = routes.champion or routes.challenger
    return {
        "name": routes.model,
        "version": None if asked is None else str(asked.number),
        "server": f"penstock {__version__}",
    }


def model_metadata(routes: ModelRoutes, number: int | None) -> dict[str, Any]:
    """Describe a version's inputs and outputs by its signature; the champion's for None."""
    asked = routes.champion or routes.challenger
    if number is not None:
        asked = routes.running[number]
    signature: dict[str, Any] = {} if asked is None else dict(asked.signature or {})
    inputs = [
        {
            "name": column["name"],
            "datatype": column["datatype"],
            "shape": [-1, *column.get("shape", ())],
        }
        for column in signature.get("columns", [])
    ]
    classes: list[object] = signature.get("classes") or []
    outputs = [{"name": "prediction", "datatype": _datatype(classes), "shape": [-1]}]
    if classes:
        outputs.append({"name": "probability", "datatype": "FP64", "shape": [-1, len(classes)]})
    return {
        "name": routes.model,
        "versions": [str(running) for running in sorted(routes.running)],
        "platform": "penstock",
        "inputs": inputs,
        "outputs": outputs,
        "parameters": {"path": "own" if asked is None else asked.serving.get("path", "own")},
    }


def _datatype(classes: list[object]) -> str:
    """Return the protocol's word for what a model predicts: a class, or else a number."""
    for kind, word in ((bool, "BOOL"), (int, "INT64"), (int | float, "FP64")):
        if all(isinstance(each, kind) for each in classes) and classes:
            return word
    return "BYTES" if classes else "FP64"
