"""Step fairness: groups compared, and held against the champion's gaps on the same rows."""

from __future__ import annotations

import json
from typing import Any, cast

from penstock.check.answers import Answers
from penstock.check.evaluation import Evaluation
from penstock.check.fairness import change, report
from penstock.domain import CheckResult, Version
from penstock.pipeline import keeping, surroundings
from penstock.pipeline.answering import answers_of
from penstock.pipeline.tools import Work, read_told, reasons, worst


def fairness(work: Work, evaluation: Evaluation) -> None:
    """Do the step: the report beside the run, the document of the version, the checks."""
    work.begin("fairness")
    version, config = work.version(), work.config()
    assert version.signature is not None, f"{version} has no signature"
    if config.evaluate is None or not config.evaluate.sensitive:
        work.end("fairness", "skipped", "[evaluate] sensitive names no column")
        return
    answers = answers_of(read_told(work.report("answers")), version.signature)
    key = keeping.key(work, "fairness", config.fairness.model_dump(mode="json"))
    kept = keeping.found(work, "fairness", key, "fairness")
    path = work.report("fairness")
    if kept is not None:
        told = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        found = report.FairnessReport(kept.results, told)
    else:
        found = report.fairness(
            evaluation,
            evaluation.label,
            answers,
            task=str(version.signature["task"]),
            settings=config.fairness,
            label=config.evaluate.label,
        )
        path.write_text(json.dumps(found.report), encoding="utf-8")
        keeping.keep(work, "fairness", key, found.results, "fairness")
    results = found.results + _change(work, version, evaluation, answers, found)
    path.write_text(json.dumps(found.report), encoding="utf-8")
    work.document("fairness", path, "application/json")
    work.keep(results)
    for one in found.report["skipped"]:
        work.say("fairness", f"skipped {one['what']}: {one['why']}")
    said = reasons(results) if kept is None else f"{kept.sentence(work)}; {reasons(results)}"
    work.end("fairness", worst(results), said)


def _change(
    work: Work,
    version: Version,
    evaluation: Evaluation,
    answers: Answers,
    found: report.FairnessReport,
) -> list[CheckResult]:
    """Hold the gaps against the champion's, where there is one."""
    known = surroundings.champion_of(work)
    if known is None:
        return []
    champion = known.version
    kept = work.tools.home / "runs" / str(champion.run_id) / "reports" / "answers.json"
    before: Answers | None = None
    if champion.data_digest == version.data_digest and kept.exists():
        before = answers_of(read_told(kept), champion.signature)
    settings = work.config().fairness
    told = change.compare(
        evaluation, before, answers, found.report, champion=champion.number, settings=settings
    )
    cast("dict[str, object]", found.report)["change"] = told
    return change.results(told)
