"""What CI says at its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TELL = Path(__file__).parents[2] / ".ci" / "tell.py"
RESULTS = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="tests.unit.test_a" name="test_slow" time="12.5"/>
<testcase classname="tests.unit.test_a" name="test_red" time="0.1"><failure message="short">{trace}
E   assert 1 == 2</failure></testcase>
<testcase classname="tests.unit.test_b" name="test_torn"><error message="no rig"/></testcase>
</testsuite></testsuites>"""


def told(results: Path) -> list[str]:
    command = [sys.executable, str(TELL), str(results)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_ci_ends_with_the_last_lines_of_each_failure_and_the_slowest_tests(tmp_path: Path) -> None:
    results = tmp_path / "results.xml"
    results.write_text(RESULTS.format(trace="\n".join(f"line {n}" for n in range(100))))

    lines = told(results)

    assert lines[:2] == ["The slowest 3 of 3 tests:", "    12.5 s  tests.unit.test_a::test_slow"]
    start = lines.index("==== failure: tests.unit.test_a::test_red")
    assert lines[start + 1 : start + 31] == [
        *(f"line {n}" for n in range(71, 100)),
        "E   assert 1 == 2",
    ]
    assert lines[-2:] == ["==== error: tests.unit.test_b::test_torn", "no rig"]


def test_ci_says_when_pytest_left_no_results(tmp_path: Path) -> None:
    (line,) = told(tmp_path / "none.xml")

    assert "ended without" in line
