"""Penstock: from a data scientist's push to a model in production, safely.

`penstock.Client` is the Python interface for notebooks and scripts.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the client on its first use, so that importing penstock costs nothing."""
    if name == "Client":
        from penstock.client import Client  # noqa: PLC0415  start-up time

        return Client
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")
