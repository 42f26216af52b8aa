"""Python environments by uv; start reading in `environments`."""

from penstock.adapters.uv_environments.dependency_files import NOT_YET, SUPPORTED
from penstock.adapters.uv_environments.environments import UvEnvironments, lock_digest

__all__ = ["NOT_YET", "SUPPORTED", "UvEnvironments", "lock_digest"]
