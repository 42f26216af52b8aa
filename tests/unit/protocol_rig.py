"""A gateway with real worker programs, for callers of every protocol."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from penstock.domain import Deployment, Environment
from tests.unit.gateway_rig import RealHosts, a_rig, running, version
from tests.unit.packed_versions import SIGNATURE, pack


class ModelRig(RealHosts):
    """Its versions are packed models, served by the worker program in this environment."""

    packed: dict[str, Path]
    grpc_port: int

    switches = ("-I",)

    def unpacked(self, deployment: Deployment) -> Path:
        return self.packed[deployment.model]


REGRESSION = """
def load(folder):
    return 2.0

def predict(model, frame):
    return [model * x if x == x else -1.0 for x in frame["x"]]
"""
OF_NUMBERS: dict[str, Any] = {
    "columns": [{"name": "x", "datatype": "FP64", "optional": True}],
    "task": "regression",
}


@contextmanager
def models(folder: Path, **settings: Any) -> Generator[ModelRig]:
    """Serve credit, a classifier, in production and in test, and in production doubled too."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with a_rig(folder, grpc=f"127.0.0.1:{port}", **settings) as plain:
        rig = ModelRig(folder, plain.settings)
        rig.grpc_port = port
        rig.packed = {
            "credit": pack(folder / "credit"),
            "doubled": pack(folder / "doubled", REGRESSION, OF_NUMBERS, model="doubled", number=1),
        }
        with running(rig):
            told: dict[str, Any] = {"model": "credit", "signature": SIGNATURE}
            rig.deployments = [
                version(3, **told),
                version(3, environment=Environment.TEST, **told),
                version(1, model="doubled", signature=OF_NUMBERS),
            ]
            rig.until(lambda: sum(s == "ready" for s in _states(rig)) == 3, timeout_s=60)
            yield rig


def _states(rig: RealHosts) -> list[str]:
    return [worker["state"] for worker in rig.get("/penstock/workers").json()]
