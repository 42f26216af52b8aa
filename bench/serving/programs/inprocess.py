"""The model's own call without any server: ``inprocess.py FOLDER NAME SECONDS``.

Prints a line of JSON for each number of rows: a DataFrame of the rows and `predict_proba`.
"""

import json
import sys
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd


def main(folder: Path, name: str, seconds: float) -> None:
    warnings.simplefilter("ignore")
    model = joblib.load(folder / f"{name}.joblib")
    table = json.loads((folder / f"{name}.rows.json").read_text())
    for count in (1, 64):
        rows = table["rows"][:count]
        for _ in range(20):
            model.predict_proba(pd.DataFrame(rows, columns=table["columns"]))
        took, cpu, ends = [], time.process_time(), time.perf_counter() + seconds
        while time.perf_counter() < ends:
            began = time.perf_counter()
            model.predict_proba(pd.DataFrame(rows, columns=table["columns"]))
            took.append(time.perf_counter() - began)
        cpu_us = (time.process_time() - cpu) / len(took) * 1e6
        p50_ms, p99_ms = np.quantile(took, [0.5, 0.99]) * 1000
        print(json.dumps({"rows": count, "p50_ms": p50_ms, "p99_ms": p99_ms, "cpu_us": cpu_us}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
