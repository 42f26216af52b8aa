"""Fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything loads it: threads of OpenMP that wait busily for each other on a machine that
# others use too take ten times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("calm", deadline=None)  # a busy machine is no fault of an example
settings.load_profile("calm")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """Let a sandbox's own user into the folder, where root runs the tests."""
    if os.geteuid() == 0:
        tmp_path.chmod(0o755)
    return tmp_path
