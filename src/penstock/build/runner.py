"""Call one function of a project that trains, and save the fitted model that it returns.

    python runner.py package.module:function

Runs in the project's own environment, in the sandbox: standard library, Python 3.9+. What the
function returns decides: a fitted model is saved as models/model.joblib (models/model.pkl where
there is no joblib); ``(model, frame)`` also leaves golden.csv, the rows of the frame with what
the model answers here; anything else means that the function saved its model itself.
"""

from __future__ import annotations

import csv
import importlib
import os
import pickle
import sys
from pathlib import Path
from typing import Any, cast

MOST_GOLDEN_ROWS = 200


def main(target: str) -> None:
    """Import, call, save."""
    # Python puts this program's folder first, where files of ours would hide the project's.
    sys.path[0] = str(Path.cwd())
    module, _, function = target.partition(":")
    returned: Any = getattr(importlib.import_module(module), function)()
    model, frame = _parts(returned)
    if not callable(getattr(model, "predict", None)):
        say(f"{target} returned {type(returned).__name__}: no fitted model, so nothing is saved.")
        return
    save(model)
    if frame is not None:
        golden(model, frame)


def _parts(returned: Any) -> tuple[Any, Any]:
    """Return the model and the rows; None for rows that were not given."""
    if type(returned) is tuple:
        both = cast("tuple[Any, ...]", returned)
        if len(both) == 2:
            return both[0], both[1]
    return cast("Any", returned), None


def save(model: Any) -> None:
    """Write the model where models lie."""
    Path("models").mkdir(exist_ok=True)
    try:
        joblib = importlib.import_module("joblib")
    except ImportError:
        path = Path("models", "model.pkl")
        with path.open("wb") as file:
            pickle.dump(model, file)
    else:
        path = Path("models", "model.joblib")
        joblib.dump(model, path)
    say(f"saved {type(model).__name__} as {path}")


def golden(model: Any, frame: Any) -> None:
    """Write rows with the answers that the model gives here, to be compared in serving."""
    rows = frame.head(MOST_GOLDEN_ROWS) if hasattr(frame, "head") else frame[:MOST_GOLDEN_ROWS]
    columns = getattr(rows, "columns", None)
    if columns is None:
        say("the second value returned has no named columns: no golden.csv")
        return
    names = [str(name) for name in columns]
    added: dict[str, list[Any]] = {"prediction": list(model.predict(rows))}
    if callable(getattr(model, "predict_proba", None)):
        told = model.predict_proba(rows)
        if len(told) and len(told[0]) == 2:
            added["probability"] = [one[1] for one in told]
    with Path("golden.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*names, *added])
        cells = [*(list(rows[name]) for name in columns), *added.values()]
        writer.writerows(zip(*([_cell(value) for value in column] for column in cells)))
    say(f"wrote golden.csv, {len(rows)} rows")


def _cell(value: Any) -> Any:
    """Return a plain value; one that is missing (NaN, NaT) is an empty cell."""
    value = value.item() if hasattr(value, "item") else value
    return "" if value is None or value != value else value  # noqa: PLR0124 (only NaN differs)


def say(line: str) -> None:
    """Print for the step's log."""
    sys.stdout.write(f"{line}{os.linesep}")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
