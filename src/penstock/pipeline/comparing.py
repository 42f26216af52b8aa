"""Two versions of a model beside each other: what is better, what is other, and how sure that is.

Everything comes from what the runs kept. Where both answered the same rows the measures are
compared pairwise, as at the gate; else their figures stand beside each other, and why.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from penstock.build import checkout
from penstock.check import comparison, quality, supply
from penstock.check.answers import Answers
from penstock.check.comparison import Matched
from penstock.check.evaluation import Evaluation, read_evaluation
from penstock.check.explanation import change as explanation_change
from penstock.check.fairness import change as fairness_change
from penstock.config import ModelConfig
from penstock.deploy import rollout
from penstock.domain import JSON, CheckResult, Run, Version
from penstock.errors import NotFoundError, PenstockError, UsageError
from penstock.pipeline import carding
from penstock.pipeline.answering import answers_of
from penstock.pipeline.contests import terms_of
from penstock.pipeline.tools import read_told
from penstock.records import rollouts, runs
from penstock.records.database import Database

SCHEMA = "penstock.compare/1"
_FIGURES = ("speed.", "supply.size")
"""Checks whose values are shown beside each other."""
_MOST_LATELY = 64
_LATELY: OrderedDict[str, JSON] = OrderedDict()
"""Pairwise comparisons that were asked lately."""
_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class Side:
    """One of two versions, with all that its run kept."""

    version: Version
    run: Run
    results: Sequence[CheckResult]
    config: ModelConfig
    folder: Path

    def report(self, name: str) -> JSON:
        """Return a report of its run; empty where there is none."""
        return carding.report(self.folder.parents[1], self.version, name) or {}

    @property
    def told(self) -> JSON:
        """What identifies it."""
        version = self.version
        return {
            "number": version.number,
            "commit": version.commit,
            "message": self.run.message,
            "author": self.run.created_by,
            "created_at": version.created_at.isoformat(),
            "state": str(self.run.state),
            "artifact_digest": version.artifact_digest,
            "data_digest": version.data_digest,
            "lock_digest": version.lock_digest,
        }


def number_of(database: Database, model: str, word: str) -> int:
    """Return the number of a version that is named by number, or by what it is.

    Raises
    ------
    UsageError
        PS380: the word is neither.
    NotFoundError
        PS381: the model has no such version now.
    """
    word = word.removeprefix("@").removeprefix("v")
    if word.isdecimal() and len(word) < 10:
        return int(word)
    if word not in {"champion", "latest"}:
        raise UsageError(
            "PS380",
            f'"{word[:40]}" names no version.',
            hint="Write a number, champion or latest.",
        )
    with database.read() as connection:
        runs.model_of(connection, model)
        if word == "champion":
            serving = rollouts.champion(connection, model)
            number = None if serving is None else serving.number
        else:
            newest = runs.versions(connection, model, most=1)
            number = newest[0].number if newest else None
    if number is None:
        raise NotFoundError(
            "PS381",
            f"{model} has no {'champion' if word == 'champion' else 'version'} now.",
            hint=f"See its versions: penstock history {model}.",
        )
    return number


def compared(database: Database, home: Path, model: str, numbers: tuple[int, int]) -> JSON:
    """Put two versions beside each other.

    Parameters
    ----------
    numbers
        The first is what the second is held against.

    Returns
    -------
    JSON
        ``a`` and ``b``, ``rows``, ``quality``, ``figures``, ``checks``, ``fairness``,
        ``explanation``, ``parameters``, ``data``, ``code``, ``environment``.
    """
    first, second = (_side(database, home, model, number) for number in numbers)
    evaluation, why = _same_rows(first, second)
    paired: JSON | None = None
    if evaluation is not None:
        paired = _paired(first, second, evaluation)
        why = str(paired.get("why") or "")
    return {
        "schema": SCHEMA,
        "model": model,
        "a": first.told,
        "b": second.told,
        "rows": None if evaluation is None else len(evaluation),
        "why": why,
        "quality": None if paired is None else paired.get("quality"),
        "fairness": None if paired is None else paired.get("fairness"),
        "explanation": _explanation(first, second),
        "figures": _figures(first, second),
        "checks": _checks(first, second),
        "parameters": _parameters(first, second),
        "data": _data(first, second),
        "code": _code(home, first, second),
        "environment": _environment(first, second),
    }


def _side(database: Database, home: Path, model: str, number: int) -> Side:
    with database.read() as connection:
        version = runs.version_of(connection, model, number)
        run = runs.get(connection, version.run_id)
        results = runs.results(connection, f"run:{run.id}:{run.attempt}")
    folder = home / "runs" / str(run.id)
    return Side(version, run, results, rollout.settings(version), folder)


# ---- what is better ------------------------------------------------------------------------


def _same_rows(first: Side, second: Side) -> tuple[Evaluation | None, str]:
    """Return the rows that both answered, or why there are none."""
    spec = second.config.evaluate
    if spec is None or first.config.evaluate is None:
        return None, "one of them has no [evaluate]"
    if first.version.data_digest != second.version.data_digest:
        return None, "they were judged on other evaluation data"
    if first.version.signature is None or second.version.signature is None:
        return None, "one of them never answered"
    answers = [side.folder / "reports" / "answers.json" for side in (first, second)]
    path = second.folder / f"evaluation{spec.ending}"
    if not path.is_file() or not all(one.is_file() for one in answers):
        return None, "their answers are not kept any more"
    try:
        return read_evaluation(path, spec), ""
    except PenstockError as error:
        return None, f"the evaluation data cannot be read: {error.what}"


def _paired(first: Side, second: Side, evaluation: Evaluation) -> JSON:
    """Compare answers to the same rows, by the settings of the second.

    A comparison of two versions never changes, and takes seconds with many rows: what was asked
    lately is remembered, by what it was made from.
    """
    stamps = [
        (side.folder / "reports" / name).stat().st_mtime_ns
        for side in (first, second)
        for name in ("answers.json", "fairness.json")
        if (side.folder / "reports" / name).is_file()
    ]
    key = json.dumps([str(first.folder), str(second.folder), stamps])
    with _LOCK:
        if key in _LATELY:
            return _LATELY[key]
    found = _pairs(first, second, evaluation)
    with _LOCK:
        _LATELY[key] = found
        while len(_LATELY) > _MOST_LATELY:
            _LATELY.popitem(last=False)
    return found


def _pairs(first: Side, second: Side, evaluation: Evaluation) -> JSON:
    before, now = (_answers(side) for side in (first, second))
    if len(before) != len(evaluation) or len(now) != len(evaluation):
        return {"why": "they answered other rows"}
    config, terms = second.config, terms_of(second.config, evaluation)
    assert second.version.signature is not None, f"{second.version} has no signature"
    task = str(second.version.signature["task"])
    matched = Matched(evaluation.label, before, now, terms)
    fairness = _fairness(second, evaluation, before, now)
    probabilities = now.probability is not None
    metric = config.quality.primary or quality.primary_metric(
        task, len(now.classes or ()), probabilities=probabilities
    )
    try:
        champion = quality.value(metric, evaluation.label, before, terms)
        margin = config.quality.margin
        if margin is None:
            margin = quality.default_margin(metric, config.model.risk, champion)
        judged = comparison.compare(
            metric, matched, margin=margin, slices=slices_of(config, evaluation)
        )
        kept = comparison.guardrails(config.quality.guardrails, matched)
        table = comparison.table(task, matched)
    except PenstockError as error:
        return {"why": error.what, "fairness": fairness}
    return {
        "quality": {
            **_of_result(judged),
            "table": table,
            "guardrails": [_of_result(one) for one in kept],
        },
        "fairness": fairness,
    }


def slices_of(config: ModelConfig, evaluation: Evaluation) -> Mapping[str, Any]:
    """Return the columns by whose values rows are compared on their own."""
    return {
        name: evaluation.features.column(name).to_numpy(zero_copy_only=False)
        for name in config.quality.slices
    }


def _answers(side: Side) -> Answers:
    return answers_of(read_told(side.folder / "reports" / "answers.json"), side.version.signature)


def _of_result(result: CheckResult) -> JSON:
    return {
        "check": result.check,
        "verdict": str(result.verdict),
        "summary": result.summary,
        **result.evidence,
    }


def _fairness(second: Side, evaluation: Evaluation, before: Answers, now: Answers) -> JSON | None:
    report = second.report("fairness")
    if not report.get("columns"):
        return None
    settings = second.config.fairness
    return fairness_change.compare(evaluation, before, now, report, champion=0, settings=settings)


def _explanation(first: Side, second: Side) -> JSON | None:
    before, now = first.report("explain"), second.report("explain")
    if not before.get("columns") or not now.get("columns"):
        return None
    numbers = (first.version.number, second.version.number)
    changed = explanation_change.compare(before, now, versions=numbers)
    size = {
        side: {str(one["column"]): one for one in report["columns"]}
        for side, report in (("a", before), ("b", now))
    }
    moved = {str(one["column"]): str(one["change"]) for one in changed["columns"]}
    names = dict.fromkeys([*size["b"], *size["a"]])
    return {
        "text": changed["text"],
        "metric": now.get("metric"),
        "columns": [
            {
                "column": name,
                "a": size["a"].get(name, {}).get("mean"),
                "b": size["b"].get(name, {}).get("mean"),
                "change": moved.get(name, "same"),
            }
            for name in names
        ],
    }


def _figures(first: Side, second: Side) -> list[JSON]:
    """Return values that both checks measured, of speed and size."""
    known = {one.check: one for one in first.results}
    found: list[JSON] = []
    for one in second.results:
        before = known.get(one.check)
        if not one.check.startswith(_FIGURES) or "difference" in one.evidence:
            continue
        values = [None if r is None else r.evidence.get("value") for r in (before, one)]
        if not any(_is_number(value) for value in values):
            continue
        found.append(
            {
                "check": one.check,
                "question": one.evidence.get("question"),
                "unit": one.evidence.get("unit"),
                "a": values[0],
                "b": values[1],
                "a_says": "" if before is None else before.summary,
                "b_says": one.summary,
            }
        )
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _checks(first: Side, second: Side) -> list[JSON]:
    """Return the checks whose verdicts differ, or that only one of them had."""
    both = [{one.check: one for one in side.results} for side in (first, second)]
    names = dict.fromkeys([*both[1], *both[0]])
    found: list[JSON] = []
    for name in names:
        before, now = both[0].get(name), both[1].get(name)
        if before is not None and now is not None and before.verdict is now.verdict:
            continue
        found.append(
            {
                "check": name,
                "a": None if before is None else str(before.verdict),
                "b": None if now is None else str(now.verdict),
                "a_says": "" if before is None else before.summary,
                "b_says": "" if now is None else now.summary,
            }
        )
    return found


# ---- what is other -------------------------------------------------------------------------


def _parameters(first: Side, second: Side) -> list[JSON]:
    """Return settings and tracked parameters that differ."""
    found = _differing(
        *(_flat(side.config.model_dump(mode="json")) for side in (first, second)),
        source="penstock.toml",
    )
    return found + _differing(*(_tracked(side) for side in (first, second)), source="tracked")


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in document.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            found |= _flat(cast("Mapping[str, Any]", value), f"{name}.")
        else:
            found[name] = value
    return found


def _tracked(side: Side) -> dict[str, Any]:
    """Return the parameters of the run that made the model, else of all runs."""
    told = side.report("tracking")
    tracked = cast("Sequence[JSON]", told.get("runs") or ())
    chosen = cast("JSON", told.get("chosen") or {}).get("run")
    of = [run for run in tracked if run.get("id") == chosen] or tracked
    found: dict[str, Any] = {}
    for run in of:
        found = dict(run.get("params") or {}) | found
    return found


def _differing(before: JSON, now: JSON, *, source: str) -> list[JSON]:
    return [
        {"name": name, "a": before.get(name), "b": now.get(name), "source": source}
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def _data(first: Side, second: Side) -> JSON:
    inputs = [
        {
            str(one["path"]): one.get("sha256")
            for one in cast("Sequence[JSON]", side.report("inputs").get("files") or ())
        }
        for side in (first, second)
    ]
    return {
        "evaluation": {
            "a": first.version.data_digest,
            "b": second.version.data_digest,
            "a_rows": _rows(first),
            "b_rows": _rows(second),
        },
        "columns": _columns(first, second),
        "inputs": [
            {"path": one["name"], "a": one["a"], "b": one["b"]}
            for one in _differing(inputs[0], inputs[1], source="")
        ],
        "known": bool(inputs[0] and inputs[1]),
    }


def _rows(side: Side) -> int | None:
    rows = side.report("quality").get("rows")
    return rows if isinstance(rows, int) else None


def _columns(first: Side, second: Side) -> list[JSON]:
    types = [
        {
            str(one["name"]): str(one["datatype"])
            for one in (side.version.signature or {"columns": []})["columns"]
        }
        for side in (first, second)
    ]
    return [
        {"column": one["name"], "a": one["a"], "b": one["b"]}
        for one in _differing(types[0], types[1], source="")
    ]


def _code(home: Path, first: Side, second: Side) -> JSON:
    repository = home / "repositories" / f"{second.version.model}.git"
    try:
        found = checkout.changes(repository, first.version.commit, second.version.commit)
    except PenstockError as error:
        return {
            "why": error.what,
            "commits": [],
            "back": 0,
            "files": [],
            "patch": "",
            "cut": False,
        }
    return {
        "why": "",
        "commits": [asdict(one) | {"at": one.at.isoformat()} for one in found.commits],
        "back": found.back,
        "files": [
            {"path": path, "added": added, "removed": removed}
            for path, added, removed in found.files
        ],
        "patch": found.patch,
        "cut": found.cut,
    }


def _environment(first: Side, second: Side) -> JSON:
    packages: list[dict[str, str]] = []
    for side in (first, second):
        lock = side.folder / "requirements.lock"
        if not lock.is_file():
            return {"why": "a lock is not kept any more", "python": None, "packages": []}
        _, pinned = supply.pins(lock.read_text(encoding="utf-8"))
        packages.append({one.name.lower(): one.version for one in pinned})
    pythons = [side.report("environment").get("python") for side in (first, second)]
    return {
        "why": "",
        "python": None if pythons[0] == pythons[1] else {"a": pythons[0], "b": pythons[1]},
        "packages": [
            {"package": one["name"], "a": one["a"], "b": one["b"]}
            for one in _differing(packages[0], packages[1], source="")
        ],
    }
