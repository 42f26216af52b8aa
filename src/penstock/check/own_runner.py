"""Call a project's own check: ``python own_runner.py module:function``.

It runs in the model's environment and needs the standard library of Python 3.9 alone. The
function gets the table of answers (a DataFrame where pandas is there, else a dict of lists) and
returns a verdict: a dict, a list of dicts, or true or false.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Call the function and write what it returned; 1 for a plain False."""
    module, _, name = sys.argv[1].partition(":")
    sys.path[0] = os.getcwd()  # noqa: PTH109 -- not the folder of this file
    function = getattr(importlib.import_module(module), name)
    told = function(_table(Path(os.environ["PENSTOCK_ANSWERS_JSON"])))
    if told is None:
        sys.stderr.write(f"{sys.argv[1]} returned None; return a dict with a verdict\n")
        return 3
    if not isinstance(told, (dict, list)):
        return 0 if told else 1
    Path(os.environ["PENSTOCK_RESULT"]).write_text(json.dumps(told, default=_plain), "utf-8")
    return 0


def _table(path: Path) -> Any:
    columns = json.loads(path.read_text("utf-8"))
    try:
        pandas = importlib.import_module("pandas")
    except ModuleNotFoundError:
        return columns
    return pandas.DataFrame(columns)


def _plain(value: Any) -> Any:
    """Turn a number of numpy into one of Python."""
    return value.item() if hasattr(value, "item") else str(value)


if __name__ == "__main__":
    sys.exit(main())
