"""penstock.toml and server.toml: one reader, which reports every fault at once.

`schema` says what may stand in penstock.toml, `reading` turns text into it or into faults with
file, line, reason and fix, `server` does the same for the server's own settings.
"""

from penstock.config.addresses import Address, address
from penstock.config.approval import Approval
from penstock.config.canary import Canary
from penstock.config.quality import METRICS, Limit, Quality
from penstock.config.reading import json_schema, parse, read, resolve
from penstock.config.rules import duration_s
from penstock.config.schema import (
    Build,
    DataSource,
    Environment,
    Evaluate,
    Fairness,
    Model,
    ModelConfig,
    Monitor,
    OwnCheck,
)
from penstock.config.server import (
    DataSettings,
    LimitSettings,
    ServerSettings,
    SupplySettings,
    server_settings,
    state_home,
)
from penstock.config.speed import Speed

__all__ = [
    "METRICS",
    "Address",
    "Approval",
    "Build",
    "Canary",
    "DataSettings",
    "DataSource",
    "Environment",
    "Evaluate",
    "Fairness",
    "Limit",
    "LimitSettings",
    "Model",
    "ModelConfig",
    "Monitor",
    "OwnCheck",
    "Quality",
    "ServerSettings",
    "Speed",
    "SupplySettings",
    "address",
    "duration_s",
    "json_schema",
    "parse",
    "read",
    "resolve",
    "server_settings",
    "state_home",
]
