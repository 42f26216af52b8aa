"""Step quality: how good a version is, and whether it is better than the champion.

Both answer the same rows, the challenger's, through the test environment's endpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from penstock.check import comparison, quality
from penstock.check.answers import Answers
from penstock.check.comparison import Matched
from penstock.check.evaluation import Evaluation
from penstock.domain import JSON, CheckResult, Environment, Verdict, Version
from penstock.pipeline.answering import answers_of
from penstock.pipeline.contests import Contest, can_ask, contest, terms_of, wanted
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
    labels, terms = found.evaluation.label, terms_of(found.config, found.evaluation)
    values = quality.measure(task, labels, challenger, terms)
    matched: Matched | None = None
    if found.champion is not None and can_ask(found.champion, found.evaluation):
        before = _answers(work, found.champion, found.evaluation)
        matched = Matched(labels, before, challenger, terms)
    metric = found.config.quality.primary or quality.primary_metric(
        task,
        len(challenger.classes or ()),
        probabilities=challenger.probability is not None,
    )
    champion = (
        quality.measure(task, labels, matched.champion, terms) if matched is not None else {}
    )

    def bounds(name: str) -> tuple[float, float] | None:
        return quality.interval(name, labels, challenger, terms=terms) if name in values else None

    report = {
        "metric": metric,
        "values": values,
        "interval": bounds(metric),
        "champion": champion,
        "rows": len(labels),
        "against": None if found.champion is None else found.champion.number,
        "table": [] if matched is None else comparison.table(task, matched),
    }
    work.report("quality").write_text(json.dumps(report), encoding="utf-8")
    results = [_measured(metric, values, champion, rows=len(labels))]
    results += quality.limits(
        values,
        {name: (limit.min, limit.max) for name, limit in found.config.quality.limits.items()},
        rows=len(labels),
        intervals={name: bounds(name) for name in found.config.quality.limits},
        champion=champion,
    )
    if found.champion is not None:
        results += _against(found, metric, matched, champion)
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


def _against(
    found: Contest, metric: str, matched: Matched | None, champion: Mapping[str, float]
) -> list[CheckResult]:
    """Ask whether it is not worse, and whether a guardrail suffers; on the challenger's rows."""
    assert found.champion is not None, "a comparison without a champion"
    stated, risk = found.config.quality, found.config.model.risk
    if matched is None:
        question = {"question": "Is it better than what we use today?", "metric": metric}
        summary = f"{found.champion} needs columns that this evaluation data lacks"
        told = f"{summary}; a person decides"
        return [CheckResult("quality.not_worse", Verdict.UNDECIDED, told, question)]
    margin = stated.margin
    if margin is None:
        margin = quality.default_margin(metric, risk, champion.get(metric, 0.0))
    results = [
        comparison.compare(
            metric,
            matched,
            margin=margin,
            slices={
                name: found.evaluation.features.column(name).to_numpy(zero_copy_only=False)
                for name in stated.slices
            },
        ),
        *comparison.guardrails(stated.guardrails, matched),
    ]
    if found.champion.data_digest != found.version.data_digest:
        return [_on_other_rows(found.champion, result) for result in results]
    return results


def _on_other_rows(champion: Version, result: CheckResult) -> CheckResult:
    """Take a verdict back: the champion was let in on other rows than these."""
    return CheckResult(
        result.check,
        Verdict.UNDECIDED,
        f"the evaluation data changed since {champion} was judged; on the new rows: "
        + result.summary,
        {**result.evidence, "judged": str(result.verdict)},
    )


def _answers(work: Work, version: Version, evaluation: Evaluation) -> Answers:
    endpoint = work.tools.endpoint(version.model, version.number, Environment.TEST)
    try:
        told = endpoint.predict(wanted(version, evaluation), version.signature)
    finally:
        endpoint.close()
    return answers_of(told, version.signature)
