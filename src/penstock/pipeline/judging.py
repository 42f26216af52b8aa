"""Step quality: how good a version is, and whether it is better than the champion.

Both answer the same rows, the challenger's, through the test environment's endpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from penstock.check import comparison, quality
from penstock.check.answers import Answers
from penstock.check.evaluation import Evaluation
from penstock.domain import JSON, CheckResult, Environment, Verdict, Version
from penstock.pipeline.answering import answers_of
from penstock.pipeline.contests import Contest, can_ask, contest, wanted
from penstock.pipeline.tools import Work, reasons, worst


def judge_quality(work: Work) -> JSON:
    """Recompute the version's quality through its endpoint, and compare it with the champion."""
    found = contest(work)
    if found is None:
        result = CheckResult(
            "quality.measured",
            Verdict.UNDECIDED,
            "no [evaluate]: quality is not known",
            {"question": "How good is it?"},
        )
        work.keep([result])
        return {"state": "undecided", "reason": result.summary}
    results = _quality(work, found)
    work.keep(results)
    return {"state": worst(results), "reason": reasons(results)}


def _quality(work: Work, found: Contest) -> list[CheckResult]:
    challenger = _answers(work, found.version, found.evaluation)
    assert found.version.signature is not None, f"{found.version} has no signature"
    task = str(found.version.signature["task"])
    labels = found.evaluation.label
    values = quality.measure(task, labels, challenger)
    before: Answers | None = None
    if found.champion is not None and can_ask(found.champion, found.evaluation):
        before = _answers(work, found.champion, found.evaluation)
    metric = found.config.quality.primary or quality.primary_metric(
        task,
        len(challenger.classes or ()),
        probabilities=challenger.probability is not None,
    )
    champion = quality.measure(task, labels, before) if before is not None else {}
    report = {
        "metric": metric,
        "values": values,
        "interval": quality.interval(metric, labels, challenger) if metric in values else None,
        "champion": champion,
        "rows": len(labels),
    }
    work.report("quality").write_text(json.dumps(report), encoding="utf-8")
    results = [_measured(metric, values, champion, rows=len(labels))]
    results += quality.limits(
        values,
        {name: (limit.min, limit.max) for name, limit in found.config.quality.limits.items()},
        rows=len(labels),
        intervals={
            name: quality.interval(name, labels, challenger)
            for name in found.config.quality.limits
            if name in values
        },
        champion=champion,
    )
    if found.champion is not None:
        results.append(_not_worse(found, metric, before, challenger, champion))
    return results


def _measured(
    metric: str, values: Mapping[str, float], champion: Mapping[str, float], *, rows: int
) -> CheckResult:
    """Say the value of the main measure; no limit, so known is passed."""
    evidence: dict[str, Any] = {
        "metric": metric,
        "value": values.get(metric),
        "champion": champion.get(metric),
        "values": dict(values),
        "rows": rows,
        "reading": "measured",
        "question": "How good is it on cases that it has not seen?",
    }
    if metric not in values:
        return CheckResult(
            "quality.measured", Verdict.UNDECIDED, f"{rows} rows do not define {metric}", evidence
        )
    told = f"{metric} {quality.number(values[metric])} on {rows:,} rows"
    if metric in champion:
        told += f", champion {quality.number(champion[metric])}"
    return CheckResult("quality.measured", Verdict.PASSED, told, evidence)


def _not_worse(
    found: Contest,
    metric: str,
    before: Answers | None,
    challenger: Answers,
    champion: Mapping[str, float],
) -> CheckResult:
    question = {"question": "Is it better than what we use today?", "metric": metric}
    if before is None:
        return CheckResult(
            "quality.not_worse",
            Verdict.UNDECIDED,
            f"{found.champion} needs columns that this evaluation data lacks; a person decides",
            question,
        )
    assert found.champion is not None, "a comparison without a champion"
    config = found.config
    margin = config.quality.margin
    if margin is None:
        margin = quality.default_margin(metric, config.model.risk, champion.get(metric, 0.0))
    result = comparison.compare(
        metric,
        found.evaluation.label,
        before,
        challenger,
        margin=margin,
        slices={
            name: found.evaluation.features.column(name).to_numpy(zero_copy_only=False)
            for name in config.quality.slices
        },
    )
    if found.champion.data_digest != found.version.data_digest:
        return CheckResult(
            result.check,
            Verdict.UNDECIDED,
            f"the evaluation data changed since {found.champion} was judged; on the new rows: "
            + result.summary,
            {**result.evidence, "judged": str(result.verdict)},
        )
    return result


def _answers(work: Work, version: Version, evaluation: Evaluation) -> Answers:
    endpoint = work.tools.endpoint(version.model, version.number, Environment.TEST)
    try:
        told = endpoint.predict(wanted(version, evaluation), version.signature)
    finally:
        endpoint.close()
    return answers_of(told, version.signature)
