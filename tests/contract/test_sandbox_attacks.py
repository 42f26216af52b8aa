"""What a hostile program achieves at each level, against the table of sandbox_attacks.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.contract import sandbox_attacks
from tests.contract.sandbox_attacks import AS_ROOT, AS_USER, EVERYWHERE, LEVELS

ROOT = Path(__file__).parents[2]
SOMEBODY = 61_001
SYSTEM_PYTHON = Path("/usr/bin/python3")


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pst-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def require(found: Mapping[str, list[str]], expected: Mapping[str, frozenset[str]]) -> None:
    for level in LEVELS:
        achieved = set(found[level])
        assert achieved >= EVERYWHERE, f"{level}: honest programs must work, {achieved}"
        assert achieved <= expected[level], f"{level}: {achieved - expected[level]}"


def test_a_hostile_program_gets_no_further_than_its_level_says(place: Path) -> None:
    found = sandbox_attacks.attack(place)

    require(found, AS_USER if os.geteuid() else AS_ROOT)
    assert "loopback" in found["none"], "the attacks themselves must work"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_same_holds_where_the_server_is_not_root(place: Path) -> None:
    os.chown(place, SOMEBODY, SOMEBODY)
    found = subprocess.run(
        [
            *("setpriv", "--reuid", str(SOMEBODY), "--regid", str(SOMEBODY), "--clear-groups"),
            *(str(SYSTEM_PYTHON), "-B", "-m", "tests.contract.sandbox_attacks", str(place)),
        ],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": _packages()},
        check=True,
        capture_output=True,
        text=True,
    )

    told = json.loads(found.stdout)
    require(told, AS_USER)
    assert {"secret", "end others"} <= set(told["none"]), "the attacks themselves must work"


def _packages() -> str:
    if not SYSTEM_PYTHON.exists() or shutil.which("setpriv") is None:
        pytest.skip("NOT RUN: no Python of the system, or no setpriv")
    version = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import sys; print('.'.join(map(str, sys.version_info[:2])))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    site = ROOT / ".venv" / "lib" / f"python{version}" / "site-packages"
    if not site.is_dir() or any(not f.stat().st_mode & 1 for f in (ROOT, *ROOT.parents)):
        pytest.skip("NOT RUN: our packages are for another Python, or in a private folder")
    return f"{ROOT / 'src'}:{ROOT}:{site}"
