"""A project's own checks: how they are called, and how little their answers can do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.check import own
from penstock.check.answers import Answers
from penstock.check.evaluation import Evaluation
from penstock.check.gate import gate
from penstock.check.own import Ended
from penstock.config import Evaluate, OwnCheck
from penstock.domain import CheckResult, Verdict

CHECK = OwnCheck(name="reject.rate", run="python checks/reject_rate.py", timeout_s=5)


def ended(
    folder: Path, code: int = 0, printed: str = "", result: str | None = None, late: bool = False
) -> Ended:
    log, place = folder / "output.log", folder / "result.json"
    log.write_text(printed)
    if result is not None:
        place.write_text(result)
    return Ended(code, late, log, place)


def one(of: Ended, check: OwnCheck = CHECK) -> CheckResult:
    (found,) = own.judged(check, of)
    return found


def test_the_exit_code_decides_where_nothing_is_said(tmp_path: Path) -> None:
    good, bad = one(ended(tmp_path, 0)), one(ended(tmp_path, 1, "3 failed, 2 passed in 0.1s\n"))

    assert (good.check, good.verdict) == ("own.reject.rate", Verdict.PASSED)
    assert (bad.verdict, bad.summary) == (Verdict.FAILED, "failed: 3 failed, 2 passed in 0.1s")
    assert good.evidence["own"] is True


def test_json_decides_as_the_last_line_or_in_the_result_file(tmp_path: Path) -> None:
    told = {"verdict": "undecided", "summary": "12 rejected", "value": 12, "evidence": {"n": 40}}

    printed = one(ended(tmp_path, 0, "reading\n" + json.dumps(told) + "\n"))
    written = one(ended(tmp_path, 0, '{"verdict": "failed"}\n', json.dumps(told)))

    for found in (printed, written):
        assert (found.verdict, found.summary) == (Verdict.UNDECIDED, "12 rejected")
        assert (found.evidence["value"], found.evidence["told"]) == (12, {"n": 40})


def test_a_list_of_answers_is_a_result_each(tmp_path: Path) -> None:
    told = [
        {"name": "men", "verdict": "passed", "value": 0.1},
        {"name": "women", "verdict": "failed", "summary": "rejected 40 %"},
    ]

    found = own.judged(CHECK, ended(tmp_path, 1, result=json.dumps(told)))

    assert {result.check: result.verdict.value for result in found} == {
        "own.reject.rate.men": "passed",
        "own.reject.rate.women": "failed",
    }


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("{", "gave no answer that can be read"),
        ("[]", "a list of 1 to 50 objects"),
        ('"passed"', "a list of 1 to 50 objects"),
        ('{"verdict": "green"}', "`verdict` is not"),
        ('{"verdict": "passed", "value": NaN}', "NaN is no JSON value"),
        ('{"verdict": "passed", "value": 1e999}', "`value` is not a finite number"),
        ('{"verdict": "passed", "value": true}', "`value` is not a finite number"),
        ('{"verdict": "passed", "summary": 3}', "`summary` is not text"),
        ('{"verdict": "passed", "evidence": [1]}', "`evidence` is not an object"),
        ('[{"verdict": "passed"}]', "no `name`"),
        ('[{"name": "../x", "verdict": "passed"}]', "no `name`"),
        ('[{"name": "a", "verdict": "passed"}, {"name": "a", "verdict": "passed"}]', "two rows"),
        ("[" * 100_000, "larger than"),
        ("[" * 50_000, "nested too deeply"),
    ],
)
def test_an_answer_that_is_none_fails_and_says_why(
    result: str, words: str, tmp_path: Path
) -> None:
    found = one(ended(tmp_path, 0, "the last line\n", result))

    assert found.verdict is Verdict.FAILED
    assert words in found.summary
    assert found.summary.endswith("the last line")


@pytest.mark.parametrize("told", ['{"verdict": "passed"}', '[{"name": "a", "verdict": "passed"}]'])
def test_passed_with_a_failing_exit_code_is_not_believed(told: str, tmp_path: Path) -> None:
    found = one(ended(tmp_path, 1, result=told))

    assert found.verdict is Verdict.FAILED
    assert "says passed and ends with 1" in found.summary


@pytest.mark.parametrize(
    ("code", "late", "words"),
    [
        (2, False, "ended with 2"),
        (5, False, "ended with 5"),
        (-9, False, "ended by signal 9"),
        (139, False, "ended by signal 11"),
        (0, True, "did not end within 5 s"),
    ],
)
def test_a_crash_or_a_timeout_fails_with_the_last_lines(
    code: int, late: bool, words: str, tmp_path: Path
) -> None:
    found = one(ended(tmp_path, code, "a\nMemoryError\n\n", '{"verdict": "passed"}', late))

    assert found.verdict is Verdict.FAILED
    assert words in found.summary
    assert found.summary.endswith("MemoryError")
    assert found.evidence["last_lines"] == ["a", "MemoryError"]


def test_an_answer_can_neither_take_another_name_nor_leave_its_own_mark(tmp_path: Path) -> None:
    told = {
        "name": "smoke.loads",
        "check": "smoke.loads",
        "verdict": "passed",
        "summary": "fine\x1b[31m\n  FAIL everything" + "x" * 1000,
        "evidence": {"gate": False, "own": False, "question": "Is it good?"},
    }

    found = one(ended(tmp_path, 0, result=json.dumps(told)))

    assert found.check == "own.reject.rate"
    assert (found.evidence["gate"], found.evidence["own"]) == (True, True)
    assert "\x1b" not in found.summary
    assert "\n" not in found.summary
    assert len(found.summary) <= 300


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["verdict", "name", "summary", "value", "x"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(told=JSON_VALUES)
def test_whatever_a_check_writes_becomes_results_that_json_can_hold(
    told: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("own")

    found = own.judged(CHECK, ended(folder, 0, result=json.dumps(told)))

    assert found
    assert all(result.check.startswith("own.reject.rate") for result in found)
    json.dumps([dict(result.evidence) for result in found], allow_nan=False)


def test_a_report_that_fails_is_shown_and_stops_nothing(tmp_path: Path) -> None:
    report = OwnCheck(name="tone", run="false", gate=False)
    failed = one(ended(tmp_path, 1, "no"), report)
    others = [CheckResult("smoke.loads", Verdict.PASSED, "")]

    judged = gate("build", [*others, failed], risk="high")

    assert failed.verdict is Verdict.FAILED
    assert judged.verdict is Verdict.PASSED
    assert judged.summary == "1 of 2 checks passed, 1 failed: own.tone"
    assert gate("build", [*others, one(ended(tmp_path, 1))], risk="low").verdict is Verdict.FAILED


def evaluation() -> Evaluation:
    features = pa.table({"x": [1.0, None], "town": ["Ulm", "Kiel"]})
    times = np.array([10, 20], dtype=object)
    label = np.array(["no", "yes"], dtype=object)
    return Evaluation(features, label, None, times, features.select([]), "d" * 64)


def test_a_check_gets_the_rows_with_label_prediction_and_probability(tmp_path: Path) -> None:
    shares = np.array([[0.75, 0.25], [0.5, 0.5]])
    answers = Answers(np.array(["no", "yes"]), shares, ("no", "yes"), "no")
    spec = Evaluate(data="h.csv", label="y", time="at")

    parquet, plain = own.write_answers(tmp_path, evaluation(), answers, spec)

    wanted = {
        "x": [1.0, None],
        "town": ["Ulm", "Kiel"],
        "y": ["no", "yes"],
        "at": [10, 20],
        "prediction": ["no", "yes"],
        "probability": [0.75, 0.5],
    }
    assert pq.read_table(parquet).to_pydict() == wanted
    assert json.loads(plain.read_text()) == wanted


def test_more_than_two_classes_get_a_column_each(tmp_path: Path) -> None:
    answers = Answers(np.array(["a", "b"]), np.full((2, 3), 1 / 3), ("a", "b", "c"))

    parquet, _ = own.write_answers(
        tmp_path, evaluation(), answers, Evaluate(data="h.csv", label="y")
    )

    names = pq.read_table(parquet).column_names
    assert names[-3:] == ["probability_a", "probability_b", "probability_c"]


FUNCTIONS = """
def count(answers):
    return {"verdict": "passed", "summary": f"{len(answers['x'])} rows", "value": 2}

def no(answers):
    return False

def nothing(answers):
    pass
"""


@pytest.mark.parametrize(
    ("name", "verdict", "words"),
    [
        ("count", "passed", "2 rows"),
        ("no", "failed", "failed"),
        ("nothing", "failed", "return a dict"),
        ("missing", "failed", "AttributeError"),
    ],
)
def test_a_function_of_the_project_gets_the_answers(
    name: str, verdict: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "checks.py").write_text(FUNCTIONS)
    _, plain = own.write_answers(
        tmp_path, evaluation(), Answers(np.array([1.0, 2.0])), Evaluate(data="h.csv", label="y")
    )
    check = OwnCheck(name="f", run=f"checks:{name}")
    log, result = tmp_path / "output.log", tmp_path / "result.json"

    with log.open("wb") as output:
        done = subprocess.run(
            own.command(check, Path(sys.executable)),
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "PENSTOCK_ANSWERS_JSON": str(plain),
                "PENSTOCK_RESULT": str(result),
            },
            stdout=output,
            stderr=output,
            check=False,
        )

    found = one(Ended(done.returncode, False, log, result), check)
    assert found.verdict.value == verdict
    assert words in found.summary


def test_a_command_goes_to_a_shell_and_a_function_to_our_program() -> None:
    python = Path("/env/bin/python")

    assert own.command(CHECK, python) == ["/bin/sh", "-c", "python checks/reject_rate.py"]
    assert own.command(OwnCheck(name="f", run="a.b:c"), python)[-1] == "a.b:c"
    assert own.command(OwnCheck(name="f", run="a.b:c --x"), python)[0] == "/bin/sh"
