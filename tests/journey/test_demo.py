"""The demo is a promise too: it ends by itself, and every expectation in it held."""

from __future__ import annotations

import subprocess

import pytest

from tests.journey.server import PENSTOCK

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]


def test_the_demo_plays_all_acts_and_every_expectation_holds() -> None:
    done = subprocess.run(
        [*PENSTOCK, "demo", "--once", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Every expectation held." in done.stdout
    for sentence in (
        "digits@1 serves",
        "digits@2 passed its canary and took over",
        "digits@3 was stopped at the quality gate",
        "digits@4 was rolled back by its canary",
        "digits is said to drift",
        "diabetes-progression@1 waits for approval",
    ):
        assert f"✓ {sentence}" in done.stdout
