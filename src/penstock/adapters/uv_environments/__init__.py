"""Python environments by uv; start reading in `environments`."""

from penstock.adapters.uv_environments.environments import UvEnvironments
from penstock.adapters.uv_environments.locks import lock_digest

__all__ = ["UvEnvironments", "lock_digest"]
