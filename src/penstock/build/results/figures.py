"""The project's own figures: what it measured of itself. They are shown, and no gate reads them.

MLflow's metrics first, then files that the build wrote (``metrics.json`` and its like, and what
dvc.yaml names), and only where neither is there, what was printed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import yaml

from penstock.build.checkout import FILE_TIME_S
from penstock.build.project import declared
from penstock.build.results.log_reading import tail

MAX_FIGURES = 200
_MAX_FILE_BYTES = 256 << 10
_MAX_FILES = 20
_MAX_DEPTH = 4
_MAX_LEAVES = 10_000
_NAMES = re.compile(
    r"(?i)(.*[_.-])?(metrics?|scores?|evaluation|results?)([_.-].*)?\.(json|ya?ml)"
)
_SKIPPED = {".git", ".venv", "venv", "node_modules", "__pycache__", "mlruns", ".dvc"}
_NUMBER = r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?"
_PRINTED = re.compile(
    r"(?P<name>[A-Za-z][\w@^]*(?:[ _-][A-Za-z][A-Za-z0-9@]*){0,3}?)"
    rf"\s*[:=]\s*(?P<value>{_NUMBER})(?P<percent>\s*%)?(?![\w.:/-])"
)
_WORDS = frozenset(
    [
        "accuracy",
        "acc",
        "auc",
        "auroc",
        "roc",
        "f1",
        "fscore",
        "precision",
        "recall",
        "sensitivity",
        "specificity",
        "loss",
        "logloss",
        "rmse",
        "mse",
        "mae",
        "mape",
        "smape",
        "r2",
        "r^2",
        "brier",
        "gini",
        "ks",
        "score",
        "error",
        "mcc",
        "kappa",
        "ap",
        "map",
        "ndcg",
        "mrr",
        "bleu",
        "rouge",
        "perplexity",
        "iou",
        "dice",
        "silhouette",
        "likelihood",
        "aic",
        "bic",
    ]
)


def figures(
    tracked: Mapping[str, float], project: Path, log: Path
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the figures by name, and where each comes from.

    Parameters
    ----------
    tracked
        The metrics of the run that made the model.
    """
    found = dict(tracked)
    sources = dict.fromkeys(tracked, "MLflow")
    for path in _files(project):
        for name, value in _read(path):
            if name not in found and len(found) < MAX_FIGURES:
                found[name] = value
                sources[name] = path.relative_to(project).as_posix()
    if not found:
        found = printed(tail(log))
        sources = dict.fromkeys(found, "output")
    return found, sources


def printed(lines: Sequence[str]) -> dict[str, float]:
    """Return what lines of output say of quality; the last of a name counts.

    Examples
    --------
    >>> printed(["epoch: 3  loss=0.31", "Test accuracy: 91.5%", "rows: 1000"])
    {'loss': 0.31, 'Test accuracy (%)': 91.5}
    """
    found: dict[str, float] = {}
    for line in lines:
        for match in _PRINTED.finditer(line[:500]):
            words = re.split(r"[\W_]+", match["name"].lower())
            if _WORDS.isdisjoint(words) and match["name"].lower() not in _WORDS:
                continue
            name = f"{match['name']} (%)" if match["percent"] else match["name"]
            found[name] = float(match["value"])
    return dict(list(found.items())[-MAX_FIGURES:])


def _files(project: Path) -> Iterator[Path]:
    """Yield files of figures that the build wrote: those that dvc.yaml names, then by name."""
    seen = set[Path]()
    for path in (*_named_by_dvc(project), *_named_so(project)):
        plain = path.is_file() and path.resolve() == project.resolve() / path.relative_to(project)
        if path in seen or not plain:
            continue
        status = path.stat()
        if status.st_mtime_ns != FILE_TIME_S * 10**9 and status.st_size <= _MAX_FILE_BYTES:
            seen.add(path)
            yield path
        if len(seen) >= _MAX_FILES:
            return


def _named_so(project: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(project, followlinks=False):
        depth = len(Path(parent).relative_to(project).parts)
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and depth < _MAX_DEPTH)
        yield from (Path(parent, name) for name in sorted(names) if _NAMES.fullmatch(name))


def _named_by_dvc(project: Path) -> Iterator[Path]:
    for name in declared.metrics_of(project):
        path = Path(os.path.normpath(project / name))
        if path.is_relative_to(project) and path.suffix in (".json", ".yaml", ".yml"):
            yield path


def _read(path: Path) -> Iterator[tuple[str, float]]:
    told = _parsed(path)
    if not isinstance(told, dict):
        return
    # A YAML file's aliases can stand for more leaves than anybody can walk.
    for name, value in islice(_leaves(cast("dict[Any, Any]", told), "", 0), _MAX_LEAVES):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):
                if math.isfinite(number := float(value)):
                    yield name, number


def _parsed(path: Path) -> object:
    """Return what a JSON or YAML file holds; None where it is neither."""
    try:
        if path.is_symlink() or path.stat().st_size > _MAX_FILE_BYTES:
            return None
        text = path.read_text("utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


def _leaves(told: Mapping[Any, Any], before: str, depth: int) -> Iterator[tuple[str, object]]:
    for key, value in told.items():
        name = f"{before}{key}"[:120]
        if isinstance(value, dict) and depth < _MAX_DEPTH:
            yield from _leaves(cast("dict[Any, Any]", value), f"{name}.", depth + 1)
        else:
            yield name, value
