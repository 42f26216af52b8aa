"""What pages and API answers are made of: records, put together for one reader."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.deploy import shadow
from penstock.domain import (
    Alert,
    Approval,
    CheckResult,
    Deployment,
    Environment,
    JournalEntry,
    Monitor,
    Rollout,
    Run,
    Version,
    Vote,
)
from penstock.records import approvals, conditions, fleet, journal, rollouts, runs, watch
from penstock.records.approvals import Comment
from penstock.records.conditions import Condition
from penstock.web.control import Control
from penstock.web.events import Standing, standing
from penstock.web.words import quality_of

FLEET_CHECKS = ("quality.measured", "quality.as_before", "service.errors", "service.p95")


@dataclass(frozen=True, slots=True)
class FleetRow:
    """One line of the fleet, with what its champion was last measured at."""

    at: fleet.Standing
    results: Mapping[str, CheckResult]

    @property
    def quality(self) -> CheckResult | None:
        """The newest measurement of the primary measure."""
        found = self.results.get("quality.as_before") or self.results.get("quality.measured")
        return found if found is not None and found.evidence.get("value") is not None else None

    def told(self, name: str, key: str) -> Any:
        """Return a value that a check found; None without it."""
        found = self.results.get(name)
        return None if found is None else found.evidence.get(key)


@dataclass(frozen=True, slots=True)
class FleetPage:
    """One page of the fleet."""

    rows: list[FleetRow]
    next: str | None
    total: int


def fleet_page(
    control: Control, which: fleet.Filter, after: str | None, *, most: int = fleet.PAGE
) -> FleetPage:
    """Read one page of the fleet."""
    with control.database.read() as connection:
        page = fleet.fleet(connection, now=control.clock(), which=which, after=after, most=most)
        versions = {row.name: row.champion for row in page.rows if row.champion is not None}
        results = fleet.latest_results(connection, versions, FLEET_CHECKS)
    rows = [FleetRow(row, results.get(row.name, {})) for row in page.rows]
    return FleetPage(rows, page.next, page.total)


def fleet_json(row: FleetRow) -> dict[str, Any]:
    """Return a line of the fleet as the API tells it."""
    at, quality = row.at, row.quality
    return {
        "name": at.name,
        "owner": at.owner,
        "team": at.team,
        "risk": at.risk,
        "state": at.state,
        "reason": at.reason,
        "since": at.since,
        "champion": at.champion,
        "challenger": at.next_number,
        "challenger_state": at.next_state,
        "share": at.share,
        "quality": "" if quality is None else quality_of(quality.evidence),
        "waits_for": waits_for(at),
        "run": at.next_run,
        "approval": at.approval,
        "rollout": at.rollout,
        "next_due": at.next_due,
    }


def waits_for(at: fleet.Standing) -> str:
    """Say what ends the state, with the command that does."""
    acts = {
        "Approval": f"people: penstock approve {at.approval}",
        "Paused": f"a person: penstock resume {at.name}, or penstock rollback {at.name}",
        "Failed": f"a push, or penstock retry {at.next_run}",
        "Degraded": f"a person: {at.reason}",
        "Drifting": f"a look: penstock monitor {at.name}",
        "Check overdue": f"penstock monitor {at.name} --run day",
    }
    return acts.get(at.state, at.reason)


@dataclass(frozen=True, slots=True)
class Period:
    """One period of a monitor, with what it found."""

    name: str
    due: str
    number: int
    results: list[CheckResult]


@dataclass(frozen=True, slots=True)
class ModelView:
    """All that one model's page tells."""

    row: FleetRow
    model: Any
    deployments: list[Deployment]
    versions: list[Version]
    runs: list[Run]
    rollouts: list[Rollout]
    monitors: list[Monitor]
    alerts: list[Alert]
    periods: list[Period]
    """Newest first."""


def model_view(control: Control, name: str) -> ModelView:
    """Read everything about one model."""
    with control.database.read() as connection:
        at = fleet.of_model(connection, name, now=control.clock())
        versions = {name: at.champion} if at.champion is not None else {}
        results = fleet.latest_results(connection, versions, FLEET_CHECKS)
        return ModelView(
            row=FleetRow(at, results.get(name, {})),
            model=runs.model_of(connection, name),
            deployments=rollouts.deployments(connection, model_name=name),
            versions=runs.versions(connection, name),
            runs=runs.runs(connection, model_name=name),
            rollouts=rollouts.of_model(connection, name),
            monitors=watch.monitors(connection, name),
            alerts=watch.alerts(connection, name),
            periods=_periods(
                runs.occasions(connection, f"monitor:{name}:", model_name=name, most=2000)
            ),
        )


def _periods(found: Sequence[tuple[str, Any, int, CheckResult]]) -> list[Period]:
    periods: dict[str, Period] = {}
    for occasion, _at, number, result in found:
        _, _, name, due = occasion.split(":", 3)
        periods.setdefault(occasion, Period(name, due, number, [])).results.append(result)
    for period in periods.values():
        period.results.reverse()
    return sorted(periods.values(), key=lambda one: one.due, reverse=True)


@dataclass(frozen=True, slots=True)
class RunView:
    """All that one run's page tells."""

    at: Standing
    version: Version
    champion: Deployment | None
    ahead: list[Run]
    """Runs that wait before this one."""


def run_view(control: Control, run_id: int) -> RunView:
    """Read everything about one run."""
    at = standing(control, run_id)
    with control.database.read() as connection:
        return RunView(
            at,
            runs.version_of(connection, at.run.model, at.run.number),
            rollouts.champion(connection, at.run.model),
            [r for r in runs.live(connection) if r.id < run_id],
        )


def run_json(at: Standing) -> dict[str, Any]:
    """Return a run as the API tells it."""
    run = at.run
    waiting = at.approval is not None and at.approval.state == "asked"
    return {
        "id": run.id,
        "model": run.model,
        "number": run.number,
        "commit": run.commit,
        "trigger": run.trigger,
        "state": run.state,
        "attempt": run.attempt,
        "reason": run.reason,
        "ended_by": run.ended_by,
        "created_by": run.created_by,
        "message": run.message,
        "created_at": run.created_at,
        "updated_at": run.updated_at,
        "steps": at.steps,
        "pace": at.pace,
        "results": at.results,
        "approval": at.approval.id if at.approval is not None and waiting else None,
        "rollout": at.rollout.id if at.rollout is not None else None,
        "exit_code": at.exit_code,
    }


@dataclass(frozen=True, slots=True)
class ApprovalView:
    """All that one approval's page tells."""

    approval: Approval
    votes: list[Vote]
    comments: list[Comment]
    conditions: list[Condition]
    run: Run
    version: Version
    rollout: Rollout | None
    journal_seq: int | None
    """Number of the journal's entry that asked."""


def approval_view(control: Control, approval_id: int) -> ApprovalView:
    """Read everything about one approval."""
    with control.database.read() as connection:
        asked = approvals.get(connection, approval_id)
        entries = journal.entries(connection, model=asked.model, most=200)
        return ApprovalView(
            asked,
            approvals.votes(connection, approval_id),
            approvals.comments(connection, approval_id),
            conditions.of_approval(connection, approval_id),
            runs.get(connection, asked.run_id),
            runs.version_of(connection, asked.model, asked.number),
            rollouts.of_run(connection, asked.run_id),
            next((e.seq for e in entries if _asks(e, approval_id)), None),
        )


def _asks(entry: JournalEntry, approval_id: int) -> bool:
    if entry.action != "approval.asked":
        return False
    return json.loads(entry.body).get("approval") == approval_id


@dataclass(frozen=True, slots=True)
class RolloutView:
    """All that one rollout's page tells."""

    rollout: Rollout
    batches: list[dict[str, Any]]
    results: list[CheckResult]
    """What the last judged look found."""
    deployments: list[Deployment]
    events: list[JournalEntry]
    """What happened to it, oldest first."""

    @property
    def judged(self) -> list[CheckResult]:
        """The measures by which challenger and champion are compared."""
        return [one for one in self.results if one.check.startswith("canary.")]

    @property
    def copies(self) -> list[CheckResult]:
        """What it said to copies of the requests, over all looks; empty without any."""
        looks = [one["counts"]["copies"] for one in self.batches if "copies" in one["counts"]]
        limit = float(self.rollout.settings.get("p_max_errors", 0.01))
        return shadow.judged(looks, p_max_errors=limit)[2] if looks else []


def rollout_view(control: Control, rollout_id: int) -> RolloutView:
    """Read everything about one rollout."""
    with control.database.read() as connection:
        rollout = rollouts.get(connection, rollout_id)
        looks = runs.occasions(
            connection, f"rollout:{rollout_id}:", model_name=rollout.model, most=4
        )
        last = looks[0][0] if looks else None
        return RolloutView(
            rollout,
            rollouts.batches(connection, rollout_id),
            [result for at, _, _, result in reversed(looks) if at == last],
            rollouts.deployments(
                connection, model_name=rollout.model, environment=Environment.PRODUCTION
            ),
            _events(connection, rollout),
        )


def _events(connection: Any, rollout: Rollout) -> list[JournalEntry]:
    found = journal.entries(connection, model=rollout.model, most=400)
    about = [e for e in found if json.loads(e.body).get("rollout") == rollout.id]
    return [e for e in reversed(about) if e.action.startswith("rollout.")]


def entry_json(entry: JournalEntry) -> dict[str, Any]:
    """Return a journal entry with its body read and a sentence."""
    body = json.loads(entry.body)
    return {
        "seq": entry.seq,
        "at": entry.ts,
        "actor": entry.actor,
        "action": entry.action,
        "text": sentence(entry.action, body),
        "body": body,
        "hash": entry.hash,
    }


def sentence(action: str, body: Mapping[str, Any]) -> str:
    """Say what a journal entry is about in a line.

    Examples
    --------
    >>> sentence("rollout.full", {"model": "spam", "number": 3, "reason": "No harm seen."})
    'rollout full, spam@3: No harm seen.'
    """
    words = action.replace(".", " ").replace("_", " ")
    name, number = body.get("model"), body.get("number")
    about = "" if name is None else f", {name}" + ("" if number is None else f"@{number}")
    if split := body.get("split"):
        shares = ", ".join(f"@{one['number']} {one['role']} {one['share']} %" for one in split)
        return f"{words}{about}: {shares}"
    reason = body.get("reason") or body.get("summary")
    return f"{words}{about}" + (f": {reason}" if reason else "")
