"""Models in every state that a page can show, put into a house by the pipeline's own functions."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from penstock.check import dossier, dossier_changes
from penstock.deploy import approval, rollout, staging
from penstock.deploy.canary import ArmCounts, Batch, judge
from penstock.deploy.proposing import Here
from penstock.deploy.ways import Traffic
from penstock.domain import CheckResult, Rollout, Run, RunState, Verdict
from penstock.records import approvals, rollouts, runs, watch
from tests.unit.web_rig import House, passed
from tests.unit.web_rig import house as house_in

CARD = """---
benefit: About 41 more defaults found per 10,000 loans.
work: |
  A daily look at the alerts.
  A monthly review, about two hours.
risks: Less sure for customers under 25; labels come 90 days late.
---
# Credit default
"""
LOG = """\
14:02:11 checkout of 9f3c1ae04b22
14:02:12 environment b1d7e09aa310 ready after 0.4 s
14:02:12 $ python train.py
read 41,880 rows, 23 columns
epoch 1  loss 0.4127
epoch 2  loss 0.3811
epoch 3  loss 0.3764
wrote model/model.joblib
"""
GROUPS = {
    "task": "classification",
    "columns": [
        {
            "column": "age_band",
            "groups": [
                {
                    "group": name,
                    "rows": rows,
                    "judged": rows > 100,
                    "selection_rate": {"value": value, "low": value - half, "high": value + half},
                }
                for name, rows, value, half in (
                    ("under 25", 1204, 0.801, 0.055),
                    ("25 to 34", 9877, 0.849, 0.018),
                    ("35 to 49", 17340, 0.868, 0.009),
                    ("over 65", 64, 0.836, 0.16),
                )
            ],
        }
    ],
}
IMPORTANCE = {
    "method": "permutation importance",
    "metric": "roc_auc",
    "rows": 2000,
    "columns": [
        {"column": "payment_history", "mean": 0.084, "sd": 0.004},
        {"column": "income", "mean": 0.041, "sd": 0.003},
        {"column": "age", "mean": 0.012, "sd": 0.002},
    ],
    "skipped": [],
}


def checks() -> list[CheckResult]:
    return [
        passed("smoke.loads", "loads in 0.21 s", value=0.21, question="Does it load?"),
        passed("smoke.deterministic", "200 rows, all alike", question="The same answer twice?"),
        passed("smoke.row_order", "200 rows in any order", question="Does the order matter?"),
        CheckResult(
            "fairness.age_band",
            Verdict.UNDECIDED,
            "age_band: largest difference 0.067 against 0.1 (95 % 0.012 to 0.131)",
            {
                "value": 0.067,
                "low": 0.012,
                "high": 0.131,
                "limit": 0.1,
                "reading": "too close to the limit",
                "question": "How far apart are groups in getting a yes?",
            },
        ),
        passed(
            "quality.measured",
            "roc_auc 0.8421 on 41,880 rows, champion 0.8290",
            metric="roc_auc",
            value=0.8421,
            champion=0.829,
            rows=41880,
            reading="measured",
            question="How good is it on cases that it has not seen?",
        ),
        passed(
            "quality.roc_auc",
            "AUC 0.8421 >= 0.815",
            metric="roc_auc",
            value=0.8421,
            limit=0.815,
            min=0.815,
            max=None,
            champion=0.829,
            low=0.836,
            high=0.848,
            reading="within the limit",
            question="Is its AUC good enough?",
        ),
        passed(
            "quality.not_worse",
            "AUC 0.8421, champion 0.8290, better by 0.0131 (0.008 to 0.018)",
            metric="roc_auc",
            value=0.8421,
            champion=0.829,
            difference=0.0131,
            low=0.008,
            high=0.018,
            margin=0.005,
            reading="better",
            question="Is it better than what we use today?",
        ),
        passed(
            "speed.p95",
            "p95 8.6 ms <= 25 ms (8.1 to 9.3)",
            value=8.6,
            low=8.1,
            high=9.3,
            limit=25,
            champion=9.1,
            reading="within the limit",
            question="Is it fast enough for nearly everybody?",
        ),
    ]


def build(house: House, run: Run) -> Run:
    """Take a run through the stage build."""
    run = house.move(run, RunState.BUILDING, "The stage build runs.")
    house.step(run, ("build", "train"), seconds=96, reason="joblib model, 1 file", log=LOG)
    house.seal(run)
    house.step(run, ("build", "store"), seconds=4, reason="artifact 4be1c0d291f0")
    house.found(run, *checks()[:4])
    house.step(run, ("build", "check"), seconds=9, reason="3 checks passed")
    house.step(run, ("build", "fairness"), "undecided", seconds=26)
    house.step(run, ("build", "explain"), seconds=12)
    return house.move(run, RunState.TESTING, "The stage test runs.")


def check_in_test(house: House, run: Run) -> Run:
    house.step(run, ("test", "deploy"), seconds=11, reason="answers in the test environment")
    house.found(run, *checks()[4:])
    house.step(run, ("test", "quality"), seconds=31, reason="3 checks passed")
    house.step(run, ("test", "speed"), seconds=44, reason="1 check passed")
    return run


def ask(house: House, run: Run, card: str = CARD) -> int:
    """Put the run's dossier to people; return the approval's number."""
    with house.database.read() as connection:
        version = runs.version_of(connection, run.model, run.number)
        champion = rollouts.champion(connection, run.model)
    document = dossier.dossier(
        dossier.Subject(
            model=run.model,
            number=run.number,
            commit=run.commit,
            message=run.message,
            author=run.created_by,
            risk="medium",
            artifact_digest=version.artifact_digest or "",
            lock_digest=version.lock_digest or "",
            data_digest=version.data_digest or "",
            sandbox_level=version.sandbox_level or "",
            champion=champion.number if champion is not None else None,
        ),
        checks(),
        card=card,
        groups=GROUPS,
        importance=IMPORTANCE,
    )
    with house.database.change("penstock") as change:
        fresh = runs.get(change.connection, run.id)
        staging.enter(change, fresh)
        found = runs.results(change.connection, f"run:{fresh.id}:{fresh.attempt}")
        evidence = dossier_changes.evidence_digest(version, found)
        bound = approval.Bound(dossier.digest(document), evidence)
        asked = approval.ask(change, fresh, version, document, bound, needed=1)
    return asked.id


def release(house: House, run: Run) -> Rollout:
    """Approve the run and begin its rollout."""
    with house.database.read() as connection:
        asked = approvals.of_run(connection, run.id)[0]
    house.later(minutes=30)
    house.control.acts.approve("maya", asked.id, "Load test and fairness report are fine.")
    with house.database.read() as connection:
        made = rollouts.of_run(connection, run.id)
    assert made is not None
    with house.database.change("penstock") as change:
        started = rollout.begin(change, made, Traffic(386_000, 25.0))
    house.later(seconds=5)
    with house.database.change("penstock") as change:
        return rollout.first_share(change, house.engine, started)


def look(
    house: House, of: Rollout, *, slow: float = 0.01, errors: float = 0.0, times: int = 1
) -> Rollout:
    """Close batches and act on them, as the engine does."""
    for _ in range(times):
        if of.state.value != "canary":
            return of
        now = house.later(seconds=60)
        until_us = int(now.timestamp() * 1e6)
        asked = 40 * of.share
        bad = {"errors": round(errors * asked), "slow": round(slow * asked) + (of.look % 3 == 0)}
        challenger = {"requests": asked, **bad}
        champion = {"requests": 40 * (100 - of.share), "errors": 2, "slow": 40 + of.look % 7}
        with house.database.write() as connection:
            counts = {"challenger": challenger, "champion": champion}
            window = (until_us - 60_000_000, until_us)
            rollouts.add_batch(connection, of, of.look, window_us=window, counts=counts)
        with house.database.read() as connection:
            rows = rollouts.batches(connection, of.id)
        batches = [_batch(row["counts"]) for row in rows]
        judged = judge(batches)
        results = judged.results()
        with house.database.change("penstock") as change:
            fresh = rollouts.get(change.connection, of.id)
            occasion = f"rollout:{of.id}:{of.look}"
            of_version = (of.model, of.challenger)
            runs.add_results(change.connection, of_version, occasion, results, now=change.now)
            here = [_batch(row["counts"]) for row in rows if row["share"] == of.share]
            of = rollout.decide(change, house.engine, fresh, judged, Here(here))
    return of


def _batch(counts: dict[str, dict[str, int]]) -> Batch:
    def arm(of: dict[str, int]) -> ArmCounts:
        return ArmCounts(of["requests"], of["errors"], of["slow"])

    return Batch(arm(counts["challenger"]), arm(counts["champion"]))


def live(house: House, model: str, **push: Any) -> Run:
    """Bring a first version into production."""
    run = check_in_test(house, build(house, house.push(model, card=CARD, **push)))
    ask(house, run)
    release(house, run)
    with house.database.read() as connection:
        return runs.get(connection, run.id)


def period(
    house: House, model: str, number: int, *, auc: float = 0.829, psi: float = 0.02
) -> None:
    """Check a day of production."""
    due = house.now.isoformat(timespec="microseconds")
    worse = auc < 0.80
    results = [
        CheckResult(
            "drift.age",
            Verdict.FAILED if psi > 0.1 else Verdict.PASSED,
            f"PSI {psi:.3f}",
            {"value": psi, "limit": 0.1, "low": psi * 0.8, "high": psi * 1.2, "rows": 52310},
        ),
        passed("drift.income", "PSI 0.011, at most 0.016 < 0.1", value=0.011, limit=0.1),
        CheckResult(
            "quality.as_before",
            Verdict.FAILED if worse else Verdict.PASSED,
            f"AUC {auc}, was 0.829; 0.02 worse is allowed",
            {
                "metric": "roc_auc",
                "value": auc,
                "low": auc - 0.008,
                "high": auc + 0.008,
                "champion": 0.829,
                "difference": auc - 0.829,
                "margin": 0.02,
                "reading": "worse" if worse else "alike",
                "question": "Is it as good as when it was approved?",
            },
        ),
        passed(
            "service.errors", "0.01 % errors, 5 of 52,310", value=0.0001, limit=0.01, rows=52310
        ),
        passed("service.p95", "p95 9.2 ms; limit 25 ms", value=9.2, limit=25, rows=52310),
    ]
    with house.database.write() as connection:
        occasion = f"monitor:{model}:day:{due}"
        runs.add_results(connection, (model, number), occasion, results, now=house.now)


def alert(house: House, model: str, number: int, kind: str, summary: str) -> None:
    with house.database.change("penstock") as change:
        cause = watch.Cause(house.now, number, summary, ["quality.as_before"])
        watch.open_alert(change, model, kind, cause)


@functools.cache
def shared_town() -> tuple[House, Mapping[str, int]]:
    """Return a town that tests only look at: made once a process."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-town-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = house_in(folder)
    return made, town(made)


def town(house: House) -> dict[str, int]:
    """Fill a house with a model in every state; return numbers of interest by name."""
    numbers: dict[str, int] = {}
    for model, team in (
        ("churn-telecom", "Marketing"),
        ("claims-triage", "Customer Care"),
        ("credit-default", "Credit Risk"),
        ("fraud-card", "Fraud"),
        ("lead-scoring-sme", "Marketing"),
        ("price-elasticity-de", "Pricing"),
        ("stock-level", "Supply Chain"),
    ):
        live(house, model, team=team, message="First version", risk="medium")
    house.later(days=6)
    for day in range(6):
        house.later(days=1)
        for model in ("churn-telecom", "claims-triage", "credit-default", "fraud-card"):
            auc = 0.829 - (0.011 * day if model == "churn-telecom" else 0.001 * (day % 3))
            psi = 0.05 * day if model == "claims-triage" else 0.02
            period(house, model, 1, auc=round(auc, 4), psi=psi)
        for model in ("price-elasticity-de", "stock-level"):
            period(house, model, 1)
    alert(house, "churn-telecom", 1, "quality", "as_before: AUC 0.774, was 0.829")
    alert(house, "claims-triage", 1, "drift", "age: PSI 0.250, at least 0.200 > 0.1")
    for model in ("churn-telecom", "claims-triage", "credit-default", "fraud-card", "stock-level"):
        _due(house, model)
    _due(house, "price-elasticity-de")
    house.later(minutes=5)

    waiting = check_in_test(house, build(house, house.push("credit-default", card=CARD)))
    numbers["approval"] = ask(house, waiting)
    numbers["waiting"] = waiting.id

    canary = house.push("fraud-card", message="New merchant feature", team="Fraud")
    canary = check_in_test(house, build(house, canary))
    ask(house, canary)
    numbers["canary"] = look(house, release(house, canary), times=4).id
    numbers["canary_run"] = canary.id

    failed = house.push("stock-level", message="Try gradient boosting", team="Supply Chain")
    failed = house.move(failed, RunState.BUILDING, "The stage build runs.")
    log = LOG.replace("wrote model/model.joblib", "ValueError: could not convert 'n/a' to float")
    why = "The command ended with 1: ValueError: could not convert 'n/a' to float."
    house.step(failed, ("build", "train"), "failed", seconds=48, reason=why, log=log)
    house.move(failed, RunState.FAILED, f"PS210 {why}", ended_by="check")
    numbers["failed"] = failed.id

    bad = house.push("price-elasticity-de", message="Cheaper features", team="Pricing")
    bad = check_in_test(house, build(house, bad))
    ask(house, bad)
    numbers["rolled_back"] = look(house, release(house, bad), slow=0.02, errors=0.25, times=9).id

    going = house.push("demand-forecast-fr", message="Start with store level", team="Supply Chain")
    going = house.move(going, RunState.BUILDING, "The stage build runs.")
    house.step(going, ("build", "train"), None, log=LOG)
    house.later(seconds=42)
    numbers["building"] = going.id
    return numbers


def _due(house: House, model: str) -> None:
    with house.database.read() as connection:
        found = watch.monitors(connection, model)[0]
    with house.database.write() as connection:
        watch.advance(connection, found, house.now + timedelta(hours=18))
