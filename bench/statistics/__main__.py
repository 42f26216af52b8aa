"""``make bench-statistics``: how often gates and canaries are wrong, all by simulation, seeded.

canary   the e-tests of a canary, by request and by customer
gate     the promotion gate: error rates at the margin, power, slices, needed rows, groups
speed    the ratio of two versions' latencies on a noisy machine

Each writes ``bench/results/statistics-NAME.json`` with its date, versions and targets.
"""

from __future__ import annotations

import sys

from bench.statistics import canary, gate, speed

RUNS = {"canary": canary.write, "gate": gate.write, "speed": speed.write}

if __name__ == "__main__":
    for name in sys.argv[1:] or RUNS:
        RUNS[name]()
