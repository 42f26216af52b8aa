"""Tells what failed in a run of the tests, so that the end of a long log suffices.

    python .ci/tell.py RESULTS      a JUnit file, as `pytest --junitxml` writes it

For each test that failed: the last lines of its traceback. Before them the slowest tests.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

LINES = 30
SLOWEST = 10


def _name(case: ET.Element) -> str:
    return f"{case.get('classname')}::{case.get('name')}"


def tell(results: Path) -> list[str]:
    """Return the lines to print."""
    if not results.exists():
        return [f"The tests ended without {results}: pytest itself was stopped or did not start."]
    cases = list(ET.parse(results).iter("testcase"))  # noqa: S314
    slowest = sorted(cases, key=lambda case: -float(case.get("time", 0)))[:SLOWEST]
    lines = [f"The slowest {len(slowest)} of {len(cases)} tests:"]
    lines += [f"{float(case.get('time', 0)):8.1f} s  {_name(case)}" for case in slowest]
    for case in cases:
        for fault in [*case.findall("failure"), *case.findall("error")]:
            lines += ["", f"==== {fault.tag}: {_name(case)}"]
            lines += (fault.text or fault.get("message") or "").splitlines()[-LINES:]
    return lines


if __name__ == "__main__":
    print("\n".join(tell(Path(sys.argv[1]))))  # noqa: T201
