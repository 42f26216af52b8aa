"""A gateway whose versions are real ones, with the real explaining process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
import psutil

from penstock.domain import JSON, Deployment
from penstock.inference.gateway.application import Gateway
from penstock.inference.gateway.explaining import Explainer
from penstock.inference.gateway.settings import GatewaySettings
from tests.unit import packed_versions
from tests.unit.gateway_rig import RealHosts

PROGRAM = (sys.executable, "-m", "penstock.pipeline.local_explainer")


class Explained(RealHosts):
    """A rig whose versions are real ones, with an explainer."""

    background: Path | None = None
    argv: tuple[str, ...] = PROGRAM

    def __init__(
        self, folder: Path, settings: GatewaySettings, code: str, signature: JSON
    ) -> None:
        super().__init__(folder, settings)
        self.code = code
        self.signature = signature

    def pack(self, deployment: Deployment, folder: Path) -> None:
        told = {"model": "m", "number": deployment.number, "task": self.signature["task"]}
        packed_versions.pack(folder, self.code, self.signature, **told)

    def gateway(self) -> Gateway:
        return Gateway(
            self.settings,
            self.routes,
            self,
            self.folder / "log",
            self.folder / "run" / "routes.json",
            self.now,
            Explainer(self.argv, self.background_of),
        )

    def background_of(self, _: Deployment) -> Path | None:
        return self.background

    def why(self, body: dict[str, Any], path: str = "/v2/models/m/explain") -> httpx.Response:
        return self.client.post(self.url + path, json=body, timeout=60)

    def explainers(self) -> list[psutil.Process]:
        mine = psutil.Process().children()
        return [one for one in mine if one.cmdline()[1:] == list(self.argv[1:])]
