"""The promotion gate on real data: what is better passes, what is worse is stopped.

Four challengers against one champion, by the same recipe: more to learn from, the same from
another draw of the training rows, less to learn from; and the second again on few rows.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from penstock.check.answers import Answers
from penstock.check.comparison import Matched, compare
from penstock.check.quality import default_margin
from penstock.check.rows import Terms
from penstock.domain import JSON, CheckResult, Verdict
from penstock.pipeline.answering import answers_of
from tests.unit.packed_versions import asking, pack

DATA = Path(__file__).parents[3] / "shared" / "data"
Table = NDArray[np.float64]


@dataclass(frozen=True)
class Show:
    """One data set: its rows, split, and what the three versions learn from."""

    metric: str
    champion: tuple[str, ...]
    better: tuple[str, ...]
    worse: tuple[str, ...]
    read: Callable[[], tuple[pa.Table, pa.Table]]
    label: str
    terms: Terms
    few: int


def table(folder: str, file: str) -> pa.Table:
    if not DATA.is_dir():
        assert not os.environ.get("CI"), f"CI must have the data at {DATA}"
        pytest.skip(f"NOT RUN: the data is not at {DATA}")
    return pq.read_table(DATA / folder / file)


def adult() -> tuple[pa.Table, pa.Table]:
    return table("adult", "train.parquet").slice(0, 8000), table("adult", "test.parquet")


def bank() -> tuple[pa.Table, pa.Table]:
    """In the order of time: the first calls to learn from, the calls after them to judge by."""
    rows = table("bank_marketing", "bank_full.parquet")
    return rows.slice(0, 27_000), rows.slice(27_000, 14_000)


def bikes() -> tuple[pa.Table, pa.Table]:
    rows = table("bike_sharing_hourly", "hour.parquet")
    return rows.slice(4_000, 6_000), rows.slice(10_000, 4_000)


SHOWS: Mapping[str, Show] = {
    "adult": Show(
        "roc_auc",
        ("age", "education_num", "hours_per_week", "capital_gain", "occupation"),
        ("age", "education_num", "hours_per_week", "capital_gain", "occupation", "marital_status"),
        ("age", "hours_per_week", "capital_gain"),
        adult,
        "income_over_50k",
        Terms(rows_are="people", positives_are="high incomes"),
        150,
    ),
    "bank marketing": Show(
        "roc_auc",
        ("age", "balance", "campaign", "housing", "loan", "contact", "marital"),
        ("age", "balance", "campaign", "housing", "loan", "contact", "marital", "poutcome", "job"),
        ("age", "balance", "campaign"),
        bank,
        "subscribed",
        Terms(rows_are="calls", positives_are="subscriptions"),
        200,
    ),
    "bike sharing": Show(
        "mae",
        ("hr", "temp", "hum"),
        ("hr", "temp", "hum", "workingday", "season"),
        ("temp", "hum"),
        bikes,
        "cnt",
        Terms(rows_are="hours"),
        100,
    ),
}
WORDS = {"hr", "season"}
"""Numbers that name something."""


def matrix(rows: pa.Table, columns: Sequence[str], like: pa.Table) -> Table:
    """Numbers as they are, words as a column a word, all of one size."""
    found: list[Table] = []
    for name in columns:
        values = rows.column(name).to_pylist()
        if name in WORDS or isinstance(values[0], str):
            texts = np.array([str(one) for one in values])
            words = sorted({str(one) for one in like.column(name).to_pylist()})[1:]
            found.extend((texts == word).astype(np.float64) for word in words)
        else:
            found.append(np.array(values, dtype=np.float64))
    return np.column_stack(found)


@functools.cache
def answers(name: str, which: str) -> tuple[NDArray[Any], Answers]:
    """Train a version and let it answer the evaluation rows."""
    show = SHOWS[name]
    training, holdout = show.read()
    columns = {"better": show.better, "worse": show.worse}.get(which, show.champion)
    draw = np.random.default_rng(5).permutation(training.num_rows)[: training.num_rows * 9 // 10]
    learnt = training.take(draw) if which == "equal" else training
    scale: Any = cast("Any", StandardScaler()).fit(matrix(learnt, columns, training))
    x, z = (scale.transform(matrix(rows, columns, training)) for rows in (learnt, holdout))
    truth = [np.array(rows.column(show.label).to_pylist()) for rows in (learnt, holdout)]
    if show.metric == "mae":
        regression: Any = cast("Any", Ridge(alpha=1.0)).fit(x, truth[0])
        return truth[1], Answers(regression.predict(z))
    model: Any = cast("Any", LogisticRegression(max_iter=400)).fit(x, truth[0])
    shares = model.predict_proba(z)
    said = model.classes_[shares.argmax(axis=1)]
    return truth[1], Answers(said, shares, tuple(model.classes_.tolist()))


def judged(name: str, which: str, rows: int | None = None) -> CheckResult:
    show = SHOWS[name]
    truth, champion = answers(name, "champion")
    _, challenger = answers(name, which)
    some = slice(0, rows)

    def cut(of: Answers) -> Answers:
        shares = None if of.probability is None else of.probability[some]
        return Answers(of.prediction[some], shares, of.classes)

    value = 0.0
    if show.metric == "mae":
        value = float(np.abs(truth - champion.prediction).mean())
    return compare(
        show.metric,
        Matched(truth[some], cut(champion), cut(challenger), show.terms),
        margin=default_margin(show.metric, "medium", value),
    )


@pytest.mark.parametrize("name", SHOWS)
def test_a_truly_better_challenger_passes_and_is_said_to_be_better(name: str) -> None:
    result = judged(name, "better")

    assert (result.verdict, result.evidence["reading"]) == (Verdict.PASSED, "better")
    assert result.evidence["lay"]["text"]


@pytest.mark.parametrize("name", SHOWS)
def test_the_same_recipe_from_other_rows_is_not_worse(name: str) -> None:
    result = judged(name, "equal")

    assert (result.verdict, result.evidence["reading"]) == (Verdict.PASSED, "not worse")


@pytest.mark.parametrize("name", SHOWS)
def test_a_worse_challenger_is_stopped(name: str) -> None:
    result = judged(name, "worse")

    assert (result.verdict, result.evidence["reading"]) == (Verdict.FAILED, "worse")


@pytest.mark.parametrize("name", SHOWS)
def test_too_few_rows_leave_it_undecided(name: str) -> None:
    result = judged(name, "equal", SHOWS[name].few)

    assert result.verdict is Verdict.UNDECIDED
    assert result.evidence["low"] < -result.evidence["margin"] < result.evidence["high"]
    assert "cannot exclude more than the allowed" in result.summary


ADAPTER = """
import math

def load(folder):
    return {weights}

def predict(model, frame):
    a, b, c = model
    rows = zip(frame["education_num"], frame["capital_gain"], frame["marital_status"])
    return [
        1 / (1 + math.exp(-(a * (years - 13) + b * gain + c * (word == "{word}"))))
        for years, gain, word in rows
    ]
"""


@pytest.mark.parametrize(
    ("weights", "reading"),
    [((0.35, 0.0003, 2.0), "better"), ((0.1, 0.0, 0.0), "not worse"), ((0.0, 0.0, 0.0), "worse")],
)
def test_real_workers_answers_lead_to_the_same_verdicts(
    tmp_path: Path, weights: tuple[float, float, float], reading: str
) -> None:
    rows = adult()[1].slice(0, 3000)
    columns = rows.select(["education_num", "capital_gain", "marital_status"])
    kinds = zip(columns.column_names, ("INT64", "INT64", "BYTES"), strict=True)
    signature: JSON = {
        "columns": [{"name": name, "datatype": kind, "optional": False} for name, kind in kinds],
        "task": "classification",
        "classes": [0, 1],
        "positive": 1,
    }

    def told(name: str, of: tuple[float, float, float]) -> Answers:
        code = ADAPTER.format(weights=of, word="Married-civ-spouse")
        folder = pack(tmp_path / name, code, signature)
        with asking(folder) as worker:
            return answers_of(worker.predict(columns, signature), signature)

    truth = np.array(rows.column("income_over_50k").to_pylist())
    matched = Matched(truth, told("champion", (0.35, 0.0, 0.0)), told("challenger", weights))

    # Weights of .1 keep the order of the rows, and so the AUC.
    assert compare("roc_auc", matched, margin=0.005).evidence["reading"] == reading
