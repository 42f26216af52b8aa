"""What a simulation found, kept with its date, versions and whether its promises held."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from penstock import __version__

RESULTS = Path(__file__).parents[1] / "results"


def slack(share: float, runs: int) -> float:
    """Return three standard errors of a share that was simulated so often."""
    return 3 * math.sqrt(share * (1 - share) / runs)


def write(
    name: str, found: Mapping[str, Any], targets: Mapping[str, bool], began_s: float
) -> None:
    """Write ``bench/results/statistics-NAME.json``; `began_s` is of the monotonic clock."""
    told = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "penstock": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "seconds": round(time.monotonic() - began_s),
        "targets": dict(targets),
        "targets_met": all(targets.values()),
        **found,
    }
    place = RESULTS / f"statistics-{name}.json"
    place.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"{place.name}: {sum(targets.values())} of {len(targets)} promises held")
