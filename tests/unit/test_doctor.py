"""What `penstock doctor` says of the database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock import wiring
from penstock.cli.machine import sqlite_seen
from penstock.config import ServerSettings

PENSTOCK = [sys.executable, "-c", "from penstock.cli import main; main()"]


def doctor(home: Path) -> dict[str, dict[str, Any]]:
    """Return what it saw, by subject."""
    done = subprocess.run(
        [*PENSTOCK, "doctor", "--json"],
        env={**os.environ, "PENSTOCK_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return {one["subject"]: one for one in json.loads(done.stdout)["data"]}


def test_a_whole_database_and_a_damaged_one(tmp_path: Path) -> None:
    wiring.database(tmp_path, ServerSettings()).close()
    file = tmp_path / "penstock.db"
    whole = doctor(tmp_path)["database"]
    with file.open("r+b") as raw:
        raw.seek(8192)
        raw.write(b"\xff" * 65536)

    damaged = doctor(tmp_path)["database"]

    assert (whole["verdict"], whole["text"]) == ("passed", f"{file} is whole")
    assert damaged["verdict"] == "failed"
    assert damaged["text"].startswith(f"PS102 {file} is damaged: ")
    assert "A damaged database" in damaged["fix"]


@pytest.mark.parametrize(
    ("version", "verdict"),
    [((3, 34, 1), "failed"), ((3, 40, 1), "warning"), ((3, 51, 3), "passed")],
)
def test_an_sqlite_with_the_race_is_warned_of(version: tuple[int, ...], verdict: str) -> None:
    seen = sqlite_seen(version)

    assert seen.verdict == verdict
    assert (verdict == "warning") == ("WAL-reset" in seen.text and "3.51.3" in seen.fix)
