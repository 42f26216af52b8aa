"""The proof of a faster call: what must pass passes, and every way to cheat is found out."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.check import fast_path
from penstock.check.fast_path import Question, Reply
from penstock.domain import JSON, CheckResult, Verdict

COLUMNS: list[JSON] = [
    {"name": "age", "datatype": "FP64", "optional": True},
    {"name": "visits", "datatype": "INT64", "optional": False},
    {"name": "city", "datatype": "BYTES", "optional": False},
]
RANDOM = np.random.default_rng(5)
ROWS = pa.table(
    {
        "age": RANDOM.normal(40, 9, 400),
        "visits": RANDOM.integers(0, 9, 400),
        "city": RANDOM.choice(["Bern", "Chur"], 400),
    }
)

Score = Callable[[list[dict[str, Any]]], list[float]]


def _honest(rows: list[dict[str, Any]]) -> list[float]:
    return [
        0.5 + 0.4 * math.tanh((row["age"] or 0.0) / 1e3 - 0.04 + (row["city"] == "Bern") * 0.01)
        for row in rows
    ]


@cache
def _questions() -> list[Question]:
    return list(fast_path.questions(ROWS, COLUMNS))


@cache
def _listed(what: str) -> list[dict[str, Any]]:
    return next(one.rows.to_pylist() for one in _questions() if one.what == what)


def _reply(score: Score, question: Question) -> tuple[int, JSON]:
    rows = _listed(question.what)
    if any(row["visits"] is None for row in rows):
        return 422, {"error": "Column 'visits' is null.", "code": "PS552"}
    shares = score(rows)
    return 200, {
        "outputs": [
            {"name": "prediction", "data": ["yes" if share > 0.5 else "no" for share in shares]},
            {"name": "probability", "data": [p for share in shares for p in (1 - share, share)]},
        ]
    }


def _judged(
    path: Score, own: Score = _honest, *, tolerance: float = 0.0, seconds: float = 0.001
) -> CheckResult:
    def ask(by: str, question: Question) -> Reply:
        status, told = _reply(own if by == "own" else path, question)
        took = 0.01 if by == "own" else seconds
        return Reply(status, json.dumps(told).encode(), took)

    asked = _questions()
    limits = fast_path.Limits(tolerance=tolerance)
    found, cut = fast_path.prove(ask, asked, ["flat"], limits=limits)
    return fast_path.judged(found, {}, rows=400, tolerance=tolerance, cut=cut)


def test_a_path_that_answers_to_the_last_bit_serves_with_its_gain() -> None:
    result = _judged(_honest)

    assert result.verdict is Verdict.PASSED
    assert result.evidence["path"] == "flat"
    assert result.evidence["gate"] is False
    assert result.summary.startswith("flat serves: 400 rows in ")
    assert "to the last bit; 10 times as fast on one row, 10 times on 64" in result.summary


def test_a_path_that_is_no_faster_does_not_serve() -> None:
    result = _judged(_honest, seconds=0.0095)

    assert result.verdict is Verdict.PASSED
    assert result.evidence["path"] == "own"


def test_every_evaluation_row_is_asked_and_two_hundred_alone() -> None:
    asked = _questions()
    alone = {one.what for one in asked if one.what.startswith("row ") and "with" not in one.what}
    whole = [one for one in asked if one.what == "rows 1 to 400"]

    assert len(alone) >= 200
    assert whole[0].rows.equals(ROWS)
    assert {one.rows.num_rows for one in asked} >= {1, 2, 3, 5, 8, 17, 31, 64, 100, 257, 400}


def _by_size(rows: list[dict[str, Any]]) -> list[float]:
    return [share + (1e-15 if len(rows) == 17 else 0) for share in _honest(rows)]


def _remembers() -> Score:
    calls = itertools.count()
    return lambda rows: [share + (1e-12 if next(calls) > 270 else 0) for share in _honest(rows)]


def _random() -> Score:
    random = np.random.default_rng(1)
    return lambda rows: [share + random.normal() * 1e-9 for share in _honest(rows)]


def _mixes(rows: list[dict[str, Any]]) -> list[float]:
    """Answer a row by the row before it, where that is another."""
    shares = _honest(rows)
    return shares[:1] * len(rows) if len(rows) == 3 else shares


def _unseen_as_known(rows: list[dict[str, Any]]) -> list[float]:
    return _honest([{**row, "city": "Bern" if not row["city"] else row["city"]} for row in rows])


def _null_as_mean(rows: list[dict[str, Any]]) -> list[float]:
    return _honest([{**row, "age": 40.0 if row["age"] is None else row["age"]} for row in rows])


def _single(rows: list[dict[str, Any]]) -> list[float]:
    return _honest([{**row, "age": float(np.float32(row["age"] or 0.0))} for row in rows])


def _one_row(rows: list[dict[str, Any]]) -> list[float]:
    return [
        share + (1e-3 if row["age"] == ROWS["age"][333].as_py() else 0)
        for row, share in zip(rows, _honest(rows), strict=True)
    ]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(
    ("sneaky", "where"),
    [
        (_by_size, "rows "),
        (_remembers(), ""),
        (_random(), "row "),
        (_mixes, "rows "),
        (_unseen_as_known, "in city"),
        (_null_as_mean, "with null in age"),
        (_single, "row "),
        (_one_row, "row"),
    ],
    ids=["size", "state", "random", "mixes", "unseen", "null", "single", "one row"],
)
def test_a_path_that_answers_otherwise_anywhere_never_serves(sneaky: Score, where: str) -> None:
    result = _judged(sneaky)

    assert result.verdict is Verdict.FAILED
    assert result.evidence["path"] == "own"
    example = result.evidence["paths"]["flat"]["examples"][0]
    assert where in example["asked"]
    assert example["own"] != example["answered"] or example["apart"] > 0
    assert "its own call serves" in result.summary


def test_a_model_that_does_not_answer_alike_twice_keeps_its_own_call() -> None:
    random = np.random.default_rng(2)

    def own(rows: list[dict[str, Any]]) -> list[float]:
        return [share + random.normal() * 1e-9 for share in _honest(rows)]

    result = _judged(_honest, own)

    assert result.verdict is Verdict.FAILED
    assert result.evidence["path"] == "own"


def test_a_path_that_answers_what_the_model_refuses_does_not_serve() -> None:
    def ask(by: str, question: Question) -> Reply:
        status, told = _reply(_honest, question)
        if status != 200 and by != "own":
            status, told = 200, dict[str, Any](outputs=[])
        return Reply(status, json.dumps(told).encode(), 0.01 if by == "own" else 0.001)

    asked = _questions()
    found, cut = fast_path.prove(ask, asked, ["flat"])
    result = fast_path.judged(found, {}, rows=400, tolerance=0, cut=cut)

    assert result.verdict is Verdict.FAILED
    assert "null in visits" in result.summary


def test_within_the_declared_tolerance_numbers_may_differ_and_decisions_may_not() -> None:
    def near(rows: list[dict[str, Any]]) -> list[float]:
        return [share + 1e-7 for share in _honest(rows)]

    def tipped(rows: list[dict[str, Any]]) -> list[float]:
        return [share + (1e-7 if len(rows) > 1 else 0) for share in _on_threshold(rows)]

    passed, strict = _judged(near, tolerance=1e-6), _judged(near)
    flipped = _judged(tipped, _on_threshold, tolerance=1e-6)

    assert passed.verdict is Verdict.PASSED
    assert "within 1e-07" in passed.summary
    assert strict.verdict is Verdict.FAILED
    assert flipped.verdict is Verdict.FAILED
    assert flipped.evidence["paths"]["flat"]["decisions"] > 0
    assert flipped.evidence["paths"]["flat"]["furthest"] < 1e-6


def _on_threshold(rows: list[dict[str, Any]]) -> list[float]:
    return [0.5 for _ in rows]


def test_a_proof_that_takes_too_long_is_undecided() -> None:
    moments = itertools.count(step=1)

    def ask(by: str, question: Question) -> Reply:
        status, told = _reply(_honest, question)
        return Reply(status, json.dumps(told).encode(), 0.01 if by == "own" else 0.001)

    asked = _questions()
    limits = fast_path.Limits(budget_s=50, clock=lambda: float(next(moments)))
    found, cut = fast_path.prove(ask, asked, ["flat"], limits=limits)
    result = fast_path.judged(found, {}, rows=400, tolerance=0, cut=cut)

    assert result.verdict is Verdict.UNDECIDED
    assert result.evidence["path"] == "own"
    assert result.summary.startswith("only 50 of ")
