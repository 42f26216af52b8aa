"""The whole fairness report against Fairlearn's MetricFrame on the same columns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import fairlearn.metrics as fm
import numpy as np
import pyarrow as pa

from penstock.check.answers import Answers
from penstock.check.evaluation import Evaluation
from penstock.check.fairness.groups import grouping
from penstock.check.fairness.report import fairness

ROWS, COLUMNS, REPEATS = 100_000, 20, 3
SENSITIVE = ("sex", "region", "nationality", "age", "insured")

library: Any = fm  # its functions are not typed


def share_right(y_true: Any, y_pred: Any) -> float:
    """Accuracy, as Fairlearn asks for it."""
    return float((y_true == y_pred).mean())


def share_of_yes_right(y_true: Any, y_pred: Any) -> float:
    """Precision; Fairlearn has none of its own."""
    return float(y_true[y_pred == 1].mean())


def measure() -> dict[str, Any]:
    """Time both on 100,000 rows, 20 columns, 5 of them sensitive, and hold the values."""
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "sex": random.choice(["f", "m"], ROWS),
        "region": random.choice([f"region {n}" for n in range(9)], ROWS),
        "nationality": random.choice([f"nation {n}" for n in range(40)], ROWS),
        "age": random.integers(18, 90, ROWS),
        "insured": random.choice([True, False], ROWS),
    }
    columns |= {f"x{n}": random.normal(size=ROWS) for n in range(COLUMNS - len(columns))}
    features = pa.table(columns)
    score = random.beta(2, 3, ROWS)
    labels = (random.random(ROWS) < score) * 1
    answers = Answers((score > 0.5) * 1, np.column_stack([1 - score, score]), (0, 1), 1)
    found = Evaluation(features, labels, None, None, features.select(SENSITIVE), "d" * 64)

    def ours() -> Any:
        return fairness(found, labels, answers, task="classification").report

    report = ours()
    groups = {
        one["column"]: _names(found, one["column"], [g["group"] for g in one["groups"]])
        for one in report["columns"]
        if len(one["of"]) == 1
    }

    def theirs() -> dict[str, Any]:
        """Five columns, the five rates that both have, values alone: no pairs, no intervals."""
        metrics: dict[str, Any] = {
            "selection_rate": library.selection_rate,
            "tpr": library.true_positive_rate,
            "fpr": library.false_positive_rate,
            "accuracy": share_right,
            "precision": share_of_yes_right,
        }
        return {
            name: library.MetricFrame(
                metrics=metrics,
                y_true=labels,
                y_pred=answers.prediction,
                sensitive_features=of,
            )
            for name, of in groups.items()
        }

    frames = theirs()
    apart = 0.0
    for one in report["columns"]:
        frame: Any = frames.get(one["column"])
        for group in one["groups"] if frame is not None else ():
            row: Any = cast("Any", frame).by_group.loc[group["group"]]
            apart = max([apart, *(abs(group[m]["value"] - float(row[m])) for m in row.index)])
    ours_s, theirs_s = _seconds(ours), _seconds(theirs)
    return {
        "rows": ROWS,
        "columns": COLUMNS,
        "sensitive": len(SENSITIVE),
        "intersections": sum(len(one["of"]) > 1 for one in report["columns"]),
        "what": "whole report with intervals, pairs and intersections; MetricFrame: values only",
        "seconds": ours_s,
        "median_s": statistics.median(ours_s),
        "metric_frame_s": statistics.median(theirs_s),
        "largest_deviation": apart,
        "targets": {"largest_deviation": 1e-8, "median_s": 10.0},
        "targets_met": apart < 1e-8 and statistics.median(ours_s) < 10.0,
    }


def _names(found: Evaluation, name: str, groups: list[str]) -> Any:
    one = grouping(name, found.sensitive.column(name))
    assert list(one.names) == groups
    return np.array(one.names, dtype=object)[one.codes]


def _seconds(action: Callable[[], Any]) -> list[float]:
    taken: list[float] = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return taken
