"""The project's own checks: what one is told, and how its answer is read.

A check of the project is a command, or a function of it, that runs in the model's environment
and the sandbox. Its answer is foreign text: it is read as plain JSON of a bounded size, and can
neither take the name of a built-in check nor write into another result.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.check.answers import Answers
from penstock.check.evaluation import Evaluation
from penstock.config.schema import OWN_NAME, Evaluate, OwnCheck
from penstock.domain import CheckResult, Verdict

RUNNER = Path(__file__).with_name("own_runner.py")
"""The program that calls ``module:function``; it runs in the model's environment."""
MAX_RESULT_BYTES = 64 << 10
MAX_RESULTS = 50
_MAX_SUMMARY, _TAIL_LINES, _TAIL_BYTES = 300, 5, 16 << 10
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a check's command ended."""

    returncode: int
    timed_out: bool
    log: Path
    """What it printed, stdout and stderr."""
    result: Path
    """Where it may have written its answer."""


def command(check: OwnCheck, python: Path) -> list[str]:
    """Return what runs: a shell for a command, our small program for ``module:function``."""
    if _FUNCTION.fullmatch(check.run):
        return [str(python), str(RUNNER), check.run]
    return ["/bin/sh", "-c", check.run]


def write_answers(
    folder: Path, evaluation: Evaluation, answers: Answers, spec: Evaluate
) -> tuple[Path, Path]:
    """Write the evaluation rows with the served answers, as Parquet and as JSON.

    Columns: those of the evaluation data, label, id and time under their own names, then
    ``prediction`` and, where the model gives them, ``probability`` (of the positive one of two
    classes) or ``probability_<class>``. JSON is one object of lists, for environments that
    cannot read Parquet.
    """
    columns: dict[str, Any] = {
        name: evaluation.features.column(name) for name in evaluation.features.column_names
    }
    roles = (
        (spec.label, evaluation.label),
        (spec.id, evaluation.id),
        (spec.time, evaluation.time),
    )
    for name, values in roles:
        if name is not None and values is not None:
            columns[name] = pa.array(values.tolist())
    columns["prediction"] = pa.array(answers.prediction.tolist())
    if answers.score is not None:
        columns["probability"] = pa.array(answers.score)
    elif answers.probability is not None:
        for index, of in enumerate(answers.classes or range(answers.probability.shape[1])):
            columns[f"probability_{of}"] = pa.array(answers.probability[:, index])
    table = pa.table(columns)
    folder.mkdir(parents=True, exist_ok=True)
    parquet, plain = folder / "answers.parquet", folder / "answers.json"
    pq.write_table(table, parquet)
    plain.write_text(json.dumps(table.to_pydict(), default=str), encoding="utf-8")
    return parquet, plain


def judged(check: OwnCheck, ended: Ended) -> list[CheckResult]:
    """Read the answer of a check.

    Its JSON decides where it gave one: in its result file, else as the last line that it
    printed. Else exit code 0 passed and 1 failed. A timeout, any other exit code and JSON that
    is not an answer are failed, with the last lines.

    Returns
    -------
    list
        ``own.<name>``, or for a list of answers ``own.<name>.<its name>`` each; never empty.
    """
    if ended.timed_out:
        return [_failed(check, f"did not end within {check.timeout_s:g} s", ended)]
    if ended.returncode not in (0, 1):
        how = f"ended with {ended.returncode}"
        if ended.returncode < 0 or ended.returncode > 128:
            number = ended.returncode - 128 if ended.returncode > 128 else -ended.returncode
            how = f"was ended by signal {number}"
        return [_failed(check, how, ended)]
    try:
        told = _told(ended)
        if told is not None:
            return _answers(check, told, ended.returncode)
    except ValueError as error:
        return [_failed(check, f"gave no answer that can be read: {error}", ended)]
    if ended.returncode == 0:
        return [_result(check, check.name, Verdict.PASSED, "ended well", {"exit_code": 0})]
    return [_failed(check, "failed", ended)]


def _told(ended: Ended) -> object | None:
    """Return the JSON that the check gave; None where it gave none."""
    if ended.result.is_file() and not ended.result.is_symlink():
        if ended.result.stat().st_size > MAX_RESULT_BYTES:
            raise ValueError(f"its result is larger than {MAX_RESULT_BYTES:,} bytes")
        return _json(ended.result.read_text(encoding="utf-8", errors="replace"))
    lines = _tail(ended.log, 1)
    if lines and lines[0].lstrip().startswith(("{", "[")):
        return _json(lines[0])
    return None


def _json(text: str) -> object:
    try:
        return cast("object", json.loads(text, parse_constant=_no_constant))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON value")


def _answers(check: OwnCheck, told: object, code: int) -> list[CheckResult]:
    if isinstance(told, dict):
        return [_answer(check, check.name, cast("dict[str, object]", told), code)]
    rows = cast("Sequence[object]", told) if isinstance(told, list) else ()
    if not rows or len(rows) > MAX_RESULTS:
        raise ValueError(f"a list of 1 to {MAX_RESULTS} objects is wanted, or one object")
    found: dict[str, CheckResult] = {}
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError("a row is not an object")  # noqa: TRY004 -- one class for the caller
        one = cast("dict[str, object]", row)
        name = one.get("name")
        if not isinstance(name, str) or re.fullmatch(OWN_NAME, name) is None:
            raise ValueError("a row has no `name` of small letters, digits and . _ -")
        if name in found:
            raise ValueError(f"two rows are named {name}")
        found[name] = _answer(check, f"{check.name}.{name}", one, code if len(rows) == 1 else 0)
    results = list(found.values())
    if code and all(one.verdict is Verdict.PASSED for one in results):
        raise ValueError("it says passed and ends with 1")
    return results


def _answer(check: OwnCheck, name: str, told: dict[str, object], code: int) -> CheckResult:
    word = told.get("verdict")
    verdict = next((one for one in Verdict if one.value == word), None)
    if verdict is None:
        raise ValueError("`verdict` is not passed, failed or undecided")
    if verdict is Verdict.PASSED and code:
        raise ValueError("it says passed and ends with 1")
    summary, value = told.get("summary", verdict.value), told.get("value")
    if not isinstance(summary, str):
        raise ValueError("`summary` is not text")  # noqa: TRY004 -- one class for the caller
    evidence = told.get("evidence", {})
    if not isinstance(evidence, dict):
        raise ValueError("`evidence` is not an object")  # noqa: TRY004 -- one class for the caller
    if value is not None and not _is_number(value):
        raise ValueError("`value` is not a finite number")
    own: dict[str, object] = {"told": evidence} if evidence else {}
    if value is not None:
        own["value"] = value
    return _result(check, name, verdict, _sentence(summary) or verdict.value, own)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**53


def _failed(check: OwnCheck, how: str, ended: Ended) -> CheckResult:
    lines = _tail(ended.log, _TAIL_LINES)
    said = _sentence(lines[-1]) if lines else "it printed nothing"
    evidence: dict[str, object] = {
        "exit_code": ended.returncode,
        "last_lines": [_sentence(line) for line in lines],
    }
    return _result(check, check.name, Verdict.FAILED, f"{how}: {said}", evidence)


def _result(
    check: OwnCheck, name: str, verdict: Verdict, summary: str, evidence: dict[str, object]
) -> CheckResult:
    return CheckResult(
        f"own.{name}",
        verdict,
        summary,
        {
            **evidence,
            "question": f"What the project itself asks: {name}",
            "own": True,
            "run": check.run,
            "gate": check.gate,
        },
    )


def _tail(log: Path, count: int) -> list[str]:
    """Return the last lines that say something."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - max(_TAIL_BYTES, MAX_RESULT_BYTES)))
        text = file.read().decode("utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()][-count:]


def _sentence(text: str) -> str:
    plain = _CONTROL.sub(" ", text).strip()
    return plain if len(plain) <= _MAX_SUMMARY else f"{plain[: _MAX_SUMMARY - 1]}…"
