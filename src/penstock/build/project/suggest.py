"""Which rows could judge a model, and what kind of answers they hold: suggested, never assumed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from penstock.build.project.entry import python_files
from penstock.build.project.facts import Fact, text_of
from penstock.config import Evaluate, ModelConfig

MOST_CLASSES = 20
"""The same number as in check.evaluation, which this package may not import; a test compares."""

TABLE_ENDINGS = (".csv", ".csv.gz", ".parquet")
OVERRULE = "Set [evaluate] data and label in penstock.toml."

_WORDS = "hold_?out|test|eval|evaluation|valid|validation"
_NAMED = re.compile(rf"(?:.*[._-])?(?:{_WORDS})(?:[._-].*)?", re.IGNORECASE)
_IN_CODE = (
    r"""drop\(\s*(?:columns\s*=\s*)?\[?\s*['"]([^'"]+)['"]""",
    r"""\.pop\(\s*['"]([^'"]+)['"]\s*\)""",
    r"""(?im)^\s*(?:\w*_)?(?:target|label)(?:_col(?:umn)?)?\s*=\s*['"]([^'"]+)['"]""",
    r"""(?m)\by(?:_\w+)?\s*=\s*\w+\[\s*['"]([^'"]+)['"]\s*\]""",
)
_USUAL = ("target", "label", "y", "class", "outcome", "default", "churn", "price")
_SKIPPED = frozenset({"tests", "venv", "env", "node_modules", "site-packages"})
_MOST_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that looks like evaluation data."""

    path: str
    label: str | None
    """The likely column with the right answers; None when nothing speaks for one."""
    why: str
    """Where the label comes from, ``train.py`` or ``its name``."""


def evaluation_facts(project: Path, config: ModelConfig) -> tuple[Fact, ...]:
    """Return what is known of the evaluation data, or what might be meant, and the task."""
    spec = config.evaluate
    if spec is not None:
        told = Fact("evaluate", f"{spec.data}, label {spec.label}", "penstock.toml", OVERRULE)
        task = _task(project, config, spec)
        return (told, task) if task is not None else (told,)
    return tuple(
        Fact(
            "evaluate",
            f"perhaps {one.path}" + (f", label {one.label} ({one.why})" if one.label else ""),
            one.path,
            f"Not used by itself. {OVERRULE}",
        )
        for one in candidates(project)
    )


def candidates(project: Path) -> tuple[Candidate, ...]:
    """Return files that look like evaluation data, the likeliest first, at most five."""
    found = [_candidate(project, path) for path in _tables(project)]
    labelled = sorted((one for one in found if one is not None), key=lambda one: not one.label)
    return tuple(labelled[:_MOST_CANDIDATES])


def task_of(labels: pa.ChunkedArray) -> str:
    """Tell classes from amounts: text, yes/no, and few distinct whole numbers are classes.

    The same rule as `check.evaluation.label_task`; a test holds the two together.
    """
    if not (pa.types.is_integer(labels.type) or pa.types.is_floating(labels.type)):
        return "classification"
    distinct = np.unique(labels.drop_null().unique().to_numpy())  # -0.0 is 0.0
    if distinct.dtype.kind == "f":
        whole = bool((distinct == np.round(distinct)).all())
        return "classification" if whole and len(distinct) <= 2 else "regression"
    return "classification" if len(distinct) <= MOST_CLASSES else "regression"


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a CSV (compressed too) or Parquet file; some columns or all."""
    if path.name.lower().endswith(".parquet"):
        return pq.read_table(path, columns=columns, partitioning=None)
    options = pyarrow.csv.ConvertOptions(include_columns=columns or [])
    return pyarrow.csv.read_csv(path, convert_options=options)


def _task(project: Path, config: ModelConfig, spec: Evaluate) -> Fact | None:
    overrule = "Set [model] task in penstock.toml."
    if config.model.task is not None:
        return Fact("task", config.model.task, "penstock.toml", overrule)
    path = project / spec.data
    try:
        labels = read_table(path, [spec.label]).column(0) if path.is_file() else None
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return None
    return None if labels is None else Fact("task", task_of(labels), spec.data, overrule)


def _tables(project: Path) -> Iterator[Path]:
    for depth in ("*", "*/*", "*/*/*"):
        for path in sorted(project.glob(depth)):
            folders = path.relative_to(project).parts[:-1]
            ending = next((e for e in TABLE_ENDINGS if path.name.lower().endswith(e)), None)
            if ending is None or any(f in _SKIPPED or f[0] == "." for f in folders):
                continue
            if _NAMED.fullmatch(path.name[: -len(ending)]) and path.is_file():
                yield path


def _candidate(project: Path, path: Path) -> Candidate | None:
    try:
        names = _columns(path)
    except (pa.ArrowException, OSError, ValueError):
        return None
    name = path.relative_to(project).as_posix()
    for code in python_files(project):
        text = text_of(code)
        for pattern in _IN_CODE:
            said = next((word for word in re.findall(pattern, text) if word in names), None)
            if said is not None:
                return Candidate(name, said, code.relative_to(project).as_posix())
    usual = [one for word in _USUAL for one in names if one.lower() == word]
    return Candidate(name, usual[0], "its name") if usual else Candidate(name, None, "")


def _columns(path: Path) -> list[str]:
    if path.name.lower().endswith(".parquet"):
        return list(pq.read_schema(path).names)
    with pyarrow.csv.open_csv(path) as reader:
        return list(reader.schema.names)
