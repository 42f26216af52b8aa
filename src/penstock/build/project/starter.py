"""`penstock init`: a model repository that runs as it is. Never overwrites a file.

In an empty folder it writes a complete project on sample data, ready to push. Where there is
training code already, it adds only what Penstock needs and leaves the rest to be filled in.
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.build.project import dependency_files, suggest
from penstock.build.project.detect import look
from penstock.build.project.entry import has_code
from penstock.config import ModelConfig, parse
from penstock.errors import UsageError

CONFIG = """\
# Settings of this model. All of them: penstock config schema. What they do: penstock plan.
[model]
name = {name}
owner = {owner}
risk = {risk}                  # low | medium | high: how much harm a wrong answer does
"""
EVALUATE = """
[evaluate]
data = "data/holdout.csv"        # rows that training never sees
label = "late"
positive = 1
"""
RUN_TODO = """
# TODO: {what}
# [build]
# run = "{run}"
"""
EVALUATE_TODO = """
# TODO: without [evaluate], versions get smoke checks only. Name rows that training never sees.
{why}# [evaluate]
# data = {data}
# label = {label}                # the column with the right answers
"""
TRAIN = '''\
"""Train the model: replace the data and the pipeline by your own."""

from pathlib import Path

import joblib
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

rows = pd.read_csv("data/train.csv")
features, label = rows.drop(columns="late"), rows["late"]
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, label)

Path("models").mkdir(exist_ok=True)
joblib.dump(model, "models/model.joblib")
print(f"trained on {len(rows)} rows, accuracy on them {model.score(features, label):.3f}")
'''
REQUIREMENTS = "joblib\npandas\nscikit-learn\n"
CARD = """\
---
benefit:
work:
risks:
---
# {name}

<!-- The head above is read by the people who approve a version. Write one sentence each:
benefit: what gets better, and by how much
work:    what it costs, in hours and money
risks:   whom a wrong answer harms, and how it would be noticed -->

## Intended use

## Limitations
"""
IGNORED = "__pycache__/\n.venv/\nmodels/\n"


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one file."""

    made: bool
    """False: it was there and was kept."""
    file: str
    why: str


def init(project: Path, name: str, *, owner: str = "", risk: str = "medium") -> list[Written]:
    """Write what a model repository lacks.

    Raises
    ------
    ConfigurationError
        The name or the risk is not allowed.
    UsageError
        PS050: a file stands where a folder is needed, or the folder cannot be written.
    """
    values = {"name": name, "owner": owner, "risk": risk}
    config = CONFIG.format_map({key: json.dumps(text) for key, text in values.items()})
    settings = parse(config)  # a bad name is refused before anything is written
    fresh = not has_code(project)
    rest = EVALUATE if fresh else _found(project, settings)
    files = {"penstock.toml": (config + rest, "its settings")}
    if fresh:
        files |= {
            "train.py": (TRAIN, "writes a fitted model; runs as it is on sample data"),
            "data/train.csv": (sample(2000, seed=1), "sample data, for training"),
            "data/holdout.csv": (sample(600, seed=2), "sample data, to judge on"),
        }
        if not any((project / other).exists() for other in dependency_files.FILES):
            files["requirements.txt"] = (REQUIREMENTS, "what train.py imports")
    files["CARD.md"] = (CARD.format(name=name), "what it is for, benefit, work, risks")
    files[".gitignore"] = (IGNORED, "built models stay out of git")
    return [_write(project, file, text, why) for file, (text, why) in files.items()]


def _found(project: Path, config: ModelConfig) -> str:
    """Return what was found in a project as comments, and what is left to be said."""
    facts, errors = look(project, config)
    told = [fact for fact in facts if fact.name != "evaluate"]
    lines = [f"#   {fact.name:<13} {_one_line(fact.value)}  ({fact.source})" for fact in told]
    text = "\n".join(["", "# Found here, and used; penstock.toml overrules each:", *lines, ""])
    for error in errors:
        if named := re.search(r'run = "([^"]+)"', error.hint):
            text += RUN_TODO.format(what=f"{error.what} {error.hint}", run=named[1])
        else:
            text += f"\n# TODO: {error.what} {error.hint}\n"
    likely = suggest.candidates(project)
    names = ", ".join(one.path for one in likely)
    seen = f"# These files look like it, by their names: {_one_line(names)}\n" if likely else ""
    first = likely[0] if likely else suggest.Candidate("data/holdout.csv", None, "")
    return text + EVALUATE_TODO.format(
        why=seen, data=json.dumps(first.path), label=json.dumps(first.label or "…")
    )


def _one_line(text: str) -> str:
    """Return a text as it may stand in a comment."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


def name_for(folder: Path) -> str:
    """Return a model's name made from a folder's.

    Examples
    --------
    >>> name_for(Path("/home/mia/Credit Default_v2"))
    'credit-default-v2'
    """
    words = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")
    return words[:63].strip("-") or "my-model"


def sample(rows: int, *, seed: int) -> str:
    """Make up customers who pay late or not, as CSV."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, rows)
    income = np.round(rng.lognormal(10.3, 0.5, rows), 2)
    debt = np.round(income * rng.beta(2, 5, rows), 2)
    months = rng.integers(1, 120, rows)
    odds = 5 * debt / income - 0.02 * months - 0.01 * (age - 45) - 0.8
    late = rng.random(rows) < 1 / (1 + np.exp(-odds))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["age", "income", "debt", "months_as_customer", "late"])
    columns = (age, income, debt, months, late.astype(int))
    writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
    return text.getvalue()


def _write(project: Path, file: str, text: str, why: str) -> Written:
    path = project / file
    if path.exists():
        return Written(made=False, file=file, why="was there")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise UsageError(
            "PS050",
            f"{path} cannot be written: {error.strerror}.",
            hint="Choose a folder that you may write to.",
        ) from error
    return Written(made=True, file=file, why=why)
