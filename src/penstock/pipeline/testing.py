"""Stage test: deploy, quality, speed, approve.

The version runs in the test environment behind the gateway's own code, beside the champion.
Both answer the same rows through that endpoint; what is judged here is what will serve.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from penstock.build import checkout
from penstock.check import dossier, dossier_changes, gate
from penstock.deploy import approval, promotion, rollout, staging
from penstock.domain import JSON, CheckResult, Environment, RunState, Version
from penstock.pipeline import carding, judging, measuring, replaying
from penstock.pipeline.contests import contest
from penstock.pipeline.tools import Work
from penstock.records import rollouts, runs

READY_S = 120.0


async def test(work: Work) -> None:
    """Do the stage, up to the question to people; what follows is `decide`."""
    await work.step("deploy", lambda: deploy(work))
    await work.step("quality", lambda: judging.judge_quality(work))
    await work.step("speed", lambda: speed(work))
    await work.durable("card", partial(carding.keep, work))


def deploy(work: Work) -> JSON:
    """Let the version serve in the test environment, and wait until it answers."""
    with work.tools.database.change(work.actor) as change:
        champion = staging.enter(change, work.run)
    names = [work.run.number] if champion is None else [work.run.number, champion]
    for number in names:
        endpoint = work.tools.endpoint(work.run.model, number, Environment.TEST)
        endpoint.wait_ready(READY_S)
        endpoint.close()
    beside = "" if champion is None else f", beside @{champion}"
    return {"reason": f"answers in the test environment{beside}", "champion": champion}


def speed(work: Work) -> JSON:
    """Measure, and replay what production was asked."""
    measured, replayed = measuring.judge_speed(work), replaying.replay(work)
    if replayed["state"] == "skipped":
        return measured
    state = replayed["state"] if measured["state"] == "skipped" else measured["state"]
    return {"state": state, "reason": f"{measured['reason']}; replay: {replayed['reason']}"}


def decide(work: Work) -> None:
    """End the stage: fail, ask people, or go on to production, in one transaction."""
    version, config, results = work.version(), work.config(), work.results()
    risk = config.model.risk
    judged = gate.gate("release", results, risk=risk)
    authors = _authors(work, version)
    with work.tools.database.change(work.actor) as change:
        run = runs.get(change.connection, work.run.id)
        if run.state is not RunState.TESTING:
            change.journal("run.passed_over", {"model": run.model, "run": run.id})
            return
        work.tools.reached("test/decide:begun")
        if gate.stops(judged.verdict, risk):
            runs.move(change, run, RunState.FAILED, reason=judged.summary, ended_by="check")
            staging.leave(change, run, keep=False, reason=judged.summary)
            rollout.wake(change, work.tools.engine, run.model)
            return
        if not run.releases:
            runs.move(
                change,
                run,
                RunState.SUCCEEDED,
                reason=f"Built and tested; {run.trigger.removeprefix('branch-')} is not released.",
            )
            staging.leave(change, run, keep=True, reason="a preview to try")
            return
        least = work.tools.least_people.get(risk, 0)
        promoted = promotion.promotion(config, results, judged.verdict, least=least)
        if promoted.people == 0:
            approval.release(
                change,
                work.tools.engine,
                run,
                approval_id=None,
                reason=promoted.reason,
            )
            return
        document = _dossier(work, version, results)
        evidence = dossier_changes.evidence_digest(version, results)
        bound = approval.Bound(dossier.digest(document), evidence, authors)
        approval.ask(change, run, version, document, bound, needed=promoted.people)
        staging.leave(change, run, keep=True, reason="people try it before they approve")


def _dossier(work: Work, version: Version, results: list[CheckResult]) -> JSON:
    found = contest(work)
    champion = found.champion if found is not None else None
    return dossier.dossier(
        dossier.Subject(
            model=version.model,
            number=version.number,
            commit=version.commit,
            message=work.run.message,
            author=work.run.created_by,
            risk=rollout.settings(version).model.risk,
            artifact_digest=version.artifact_digest or "",
            lock_digest=version.lock_digest or "",
            data_digest=version.data_digest or "",
            sandbox_level=version.sandbox_level or "",
            champion=champion.number if champion is not None else None,
            data_made_by_build=found is not None
            and found.config.evaluate is not None
            and found.config.evaluate.made_by_build,
            changed=()
            if champion is None
            else tuple(dossier_changes.since_champion(champion, version)),
            inputs=tuple(_inputs(work)),
        ),
        results,
        card=version.card,
        groups=_report(work, "fairness"),
        importance=_report(work, "explain"),
    )


def _inputs(work: Work) -> Sequence[JSON]:
    told = cast("JSON", _report(work, "inputs") or {})
    return cast("Sequence[JSON]", told.get("files") or ())


def _authors(work: Work, version: Version) -> tuple[str, ...]:
    """Return who wrote what the version has and its champion has not."""
    with work.tools.database.read() as connection:
        champion = rollouts.champion(connection, version.model)
        since = (
            None
            if champion is None
            else runs.version_of(connection, version.model, champion.number).commit
        )
    repository = work.tools.home / "repositories" / f"{version.model}.git"
    return checkout.authors(repository, version.commit, since)


def _report(work: Work, name: str) -> Any:
    path = work.report(name)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
