"""The questions that pages ask of all models at once: where does each stand, worst first?

State, order, filter and paging are decided in SQL, so that a page costs the same with ten models
and with ten thousand. A model shows the worst of what is true of it; a model in production about
which nothing was found out lately is "Check overdue", never "Healthy".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from penstock.domain import (
    ROLLOUT_ENDED,
    Alert,
    Approval,
    CheckResult,
    Environment,
    JournalEntry,
    Role,
    RolloutState,
    RunState,
    Verdict,
)
from penstock.errors import NotFoundError, UsageError
from penstock.records import approvals, runs, watch
from penstock.records.schema import (
    alert,
    approval,
    check_result,
    deployment,
    journal,
    model,
    monitor,
    rollout,
    run,
)

STATES = (
    "Degraded",
    "Failed",
    "Rolled back",
    "Approval",
    "Paused",
    "Drifting",
    "Check overdue",
    "Queued",
    "Building",
    "Testing",
    "Canary",
    "Healthy",
    "Not in production",
)
"""Worst first; a row's rank is the index."""
NEEDS_A_PERSON = STATES[: STATES.index("Check overdue") + 1]
LATE = timedelta(hours=2)
"""A check is overdue when it should have begun this long ago."""
BLIND_PERIODS = 3
"""So many periods without one decided check are as bad as no check."""
PAGE = 100
_PERIODS = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    "month": timedelta(days=30),
}


@dataclass(frozen=True, slots=True)
class Standing:
    """One line of the fleet."""

    name: str
    owner: str
    team: str
    risk: str
    state: str
    """One of `STATES`."""
    reason: str
    """Why, as a sentence."""
    since: datetime | None
    """Since when it waits, where it waits."""
    champion: int | None
    """The version in production."""
    champion_since: datetime | None
    next_number: int | None
    """The version on its way."""
    next_state: str | None
    """Where that is, a word of `RunState`."""
    next_run: int | None
    share: int | None
    """Percent of the requests that the version on its way gets."""
    approval: int | None
    rollout: int | None
    alerts: tuple[Alert, ...]
    next_due: datetime | None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which models are shown; empty texts let all through."""

    text: str = ""
    """A part of the name, owner or team."""
    state: str = ""
    team: str = ""
    risk: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Some models, worst first."""

    rows: list[Standing]
    next: str | None
    """The cursor of the next page; None at the end."""
    total: int
    """How many the filter lets through."""


def fleet(
    connection: sa.Connection,
    *,
    now: datetime,
    which: Filter | None = None,
    after: str | None = None,
    most: int = PAGE,
) -> Page:
    """Return one page of the fleet; `after` is the cursor that the page before gave."""
    ranked = _ranked(now)
    wanted = sa.select(ranked, sa.func.count().over().label("total"))
    let_through = wanted.where(*_where(ranked, which or Filter())).subquery("let_through")
    query = sa.select(let_through).order_by(let_through.c.rank, let_through.c.name)
    if after is not None:
        rank, name = _cursor(after)
        later = (let_through.c.rank > rank) | (
            (let_through.c.rank == rank) & (let_through.c.name > name)
        )
        query = query.where(later)
    found = connection.execute(query.limit(most + 1)).mappings().all()
    shown = found[:most]
    cursor = f"{shown[-1]['rank']}.{shown[-1]['name']}" if len(found) > most else None
    return Page(_standings(connection, shown), cursor, found[0]["total"] if found else 0)


def counts(connection: sa.Connection, *, now: datetime) -> dict[str, int]:
    """Count the models in each state."""
    ranked = _ranked(now)
    query = sa.select(ranked.c.rank, sa.func.count()).group_by(ranked.c.rank)
    return {STATES[int(rank)]: int(count) for rank, count in connection.execute(query)}


def of_model(connection: sa.Connection, name: str, *, now: datetime) -> Standing:
    """Return where one model stands."""
    ranked = _ranked(now)
    found = connection.execute(sa.select(ranked).where(ranked.c.name == name)).mappings().all()
    if not found:
        runs.model_of(connection, name)
        raise NotFoundError("PS105", f"There is no model {name!r}.", hint="Look: penstock list.")
    return _standings(connection, found)[0]


def teams(connection: sa.Connection) -> list[str]:
    """Return the names of all teams."""
    query = sa.select(model.c.team).where(model.c.team != "").distinct().order_by(model.c.team)
    return list(connection.scalars(query))


def latest_results(
    connection: sa.Connection, versions: Mapping[str, int], checks: Sequence[str]
) -> dict[str, dict[str, CheckResult]]:
    """Return by model the newest result of each named check of the version given with it."""
    if not versions:
        return {}
    query = (
        sa.select(check_result)
        .where(
            sa.tuple_(check_result.c.model, check_result.c.number).in_(list(versions.items())),
            check_result.c.check_name.in_(checks),
        )
        .order_by(check_result.c.id)
    )
    found: dict[str, dict[str, CheckResult]] = {}
    for row in connection.execute(query):
        result = CheckResult(row.check_name, Verdict(row.verdict), row.summary, row.evidence)
        found.setdefault(row.model, {})[row.check_name] = result
    return found


def recent_approvals(connection: sa.Connection, *, most: int = PAGE) -> list[Approval]:
    """Return approvals of every state, newest first."""
    query = sa.select(approval.c.id).order_by(approval.c.id.desc()).limit(most)
    return [approvals.get(connection, found) for found in connection.scalars(query)]


def count_asked(connection: sa.Connection) -> int:
    """Count the approvals that wait for people."""
    query = sa.select(sa.func.count()).where(approval.c.state == "asked")
    return connection.scalar(query) or 0


def journal_after(
    connection: sa.Connection, after: int, *, most: int = PAGE
) -> list[JournalEntry]:
    """Return journal entries behind a number, oldest first."""
    query = sa.select(journal).where(journal.c.seq > after).order_by(journal.c.seq).limit(most)
    return [JournalEntry(**row) for row in connection.execute(query).mappings()]


# ---- the query -----------------------------------------------------------------------------


def _ranked(now: datetime) -> sa.Subquery:
    """Return one row a model, with all that its state depends on, and its rank."""
    alerts, asked, live = _alerts(), _asked(), _live_rollout()
    at_work, working, newest = _at_work(), run.alias("working"), run.alias("newest")
    champion, released, due = _champion(), _released(), _due()
    newest_id = (
        sa.select(run.c.id)
        .where(run.c.model == model.c.name, run.c.trigger == "push")
        .order_by(run.c.seq.desc())
        .limit(1)
        .correlate(model)
        .scalar_subquery()
    )
    serves = champion.c.number.is_not(None)
    overdue = serves & sa.or_(
        due.c.next_due.is_(None),
        due.c.next_due < now - LATE,
        sa.func.coalesce(alerts.c.overdue, 0) > 0,
        (released.c.at < now - BLIND_PERIODS * _PERIODS["day"]) & ~_decided(now),
    )
    newer = newest.c.number > sa.func.coalesce(champion.c.number, 0)
    given_back = sa.or_(
        newest.c.state == RunState.ROLLED_BACK,
        (newest.c.state == RunState.SUCCEEDED) & serves,
    )
    rules = (
        (alerts.c.bad > 0, "Degraded"),
        ((newest.c.state == RunState.FAILED) & newer, "Failed"),
        # What serves now drifts: that is the news, not the version that has left.
        (given_back & newer & (sa.func.coalesce(alerts.c.drift, 0) == 0), "Rolled back"),
        (asked.c.id.is_not(None), "Approval"),
        (live.c.state == RolloutState.PAUSED, "Paused"),
        (alerts.c.drift > 0, "Drifting"),
        (overdue, "Check overdue"),
        (working.c.state == RunState.QUEUED, "Queued"),
        (working.c.state == RunState.BUILDING, "Building"),
        (working.c.state == RunState.TESTING, "Testing"),
        (live.c.id.is_not(None), "Canary"),
        (serves, "Healthy"),
    )
    rank = sa.case(
        *((condition, STATES.index(state)) for condition, state in rules),
        else_=STATES.index("Not in production"),
    )
    query = (
        sa.select(
            model.c.name,
            model.c.owner,
            model.c.team,
            model.c.risk,
            rank.label("rank"),
            champion.c.number.label("champion"),
            released.c.at.label("champion_since"),
            asked.c.id.label("approval"),
            asked.c.asked_at,
            live.c.id.label("rollout"),
            live.c.share,
            live.c.state.label("rollout_state"),
            live.c.reason.label("rollout_reason"),
            newest.c.id.label("newest"),
            newest.c.number.label("newest_number"),
            newest.c.state.label("newest_state"),
            newest.c.reason.label("newest_reason"),
            newest.c.updated_at.label("newest_at"),
            due.c.next_due,
        )
        .select_from(model)
        .outerjoin(newest, newest.c.id == newest_id)
    )
    for part in (alerts, asked, live, at_work, champion, released, due):
        query = query.outerjoin(part, part.c.model == model.c.name)
    return query.outerjoin(working, working.c.id == at_work.c.id).subquery("ranked")


def _alerts() -> sa.Subquery:
    def any_of(*kinds: str) -> Any:
        return sa.func.sum(sa.case((alert.c.kind.in_(kinds), 1), else_=0))

    return (
        sa.select(
            alert.c.model,
            any_of("quality", "service").label("bad"),
            any_of("drift").label("drift"),
            any_of("overdue").label("overdue"),
        )
        .where(alert.c.state != "closed")
        .group_by(alert.c.model)
        .subquery("alerts")
    )


def _asked() -> sa.Subquery:
    return (
        sa.select(
            approval.c.model,
            sa.func.max(approval.c.id).label("id"),
            sa.type_coerce(sa.func.min(approval.c.asked_at), approval.c.asked_at.type).label(
                "asked_at"
            ),
        )
        .where(approval.c.state == "asked")
        .group_by(approval.c.model)
        .subquery("asked")
    )


def _live_rollout() -> sa.Subquery:
    return (
        sa.select(
            rollout.c.model, rollout.c.id, rollout.c.state, rollout.c.share, rollout.c.reason
        )
        .where(
            rollout.c.environment == Environment.PRODUCTION,
            rollout.c.state.not_in(sorted(ROLLOUT_ENDED)),
        )
        .subquery("live")
    )


def _at_work() -> sa.Subquery:
    # Grouped and joined by its key: joined by the model, SQLite looks at every run of each.
    return (
        sa.select(run.c.model, sa.func.max(run.c.id).label("id"))
        .where(run.c.state.in_([RunState.QUEUED, RunState.BUILDING, RunState.TESTING]))
        .group_by(run.c.model)
        .subquery("at_work")
    )


def _champion() -> sa.Subquery:
    return (
        sa.select(deployment.c.model, deployment.c.number)
        .where(
            deployment.c.environment == Environment.PRODUCTION,
            deployment.c.role == Role.CHAMPION,
        )
        .subquery("champion")
    )


def _released() -> sa.Subquery:
    at = sa.type_coerce(sa.func.max(rollout.c.ended_at), rollout.c.ended_at.type)
    return (
        sa.select(rollout.c.model, at.label("at"))
        .where(
            rollout.c.state == RolloutState.FULL,
            rollout.c.environment == Environment.PRODUCTION,
        )
        .group_by(rollout.c.model)
        .subquery("released")
    )


def _due() -> sa.Subquery:
    at = sa.type_coerce(sa.func.min(monitor.c.next_due), monitor.c.next_due.type)
    return (
        sa.select(monitor.c.model, at.label("next_due"))
        .where(monitor.c.enabled)
        .group_by(monitor.c.model)
        .subquery("due")
    )


def _decided(now: datetime) -> Any:
    """Say whether one of the last periods decided anything; the occasion names its period."""
    since = sa.case(
        *(
            (
                monitor.c.name == name,
                (now - BLIND_PERIODS * period).isoformat(timespec="microseconds"),
            )
            for name, period in _PERIODS.items()
        ),
        else_="",
    )
    prefix = sa.literal("monitor:") + monitor.c.model + ":" + monitor.c.name
    return (
        sa.select(check_result.c.id)
        .select_from(monitor)
        .join(
            check_result,
            (check_result.c.occasion >= prefix + ":" + since)
            & (check_result.c.occasion < prefix + ";"),
        )
        .where(monitor.c.model == model.c.name, check_result.c.verdict != Verdict.UNDECIDED.value)
        .correlate(model)
        .exists()
    )


def _where(ranked: sa.Subquery, which: Filter) -> list[sa.ColumnElement[bool]]:
    wanted: list[sa.ColumnElement[bool]] = []
    if which.text:
        everything = ranked.c.name + " " + ranked.c.owner + " " + ranked.c.team
        wanted.append(everything.icontains(which.text, autoescape=True))
    if which.state:
        named = [STATES.index(one) for one in which.state.split(",") if one in STATES]
        wanted.append(ranked.c.rank.in_(named))
    if which.team:
        wanted.append(ranked.c.team == which.team)
    if which.risk:
        wanted.append(ranked.c.risk == which.risk.lower())
    return wanted


def _cursor(after: str) -> tuple[int, str]:
    rank, _, name = after.partition(".")
    if not rank.isdigit():
        raise UsageError(
            "PS124", f"{after!r} is no cursor.", hint='Take it from "next" of the page before.'
        )
    return int(rank), name


# ---- rows ----------------------------------------------------------------------------------


def _standings(connection: sa.Connection, rows: Sequence[Any]) -> list[Standing]:
    alerts: dict[str, list[Alert]] = {}
    names = [row["name"] for row in rows]
    if names:
        query = sa.select(alert.c.model).where(alert.c.state != "closed", alert.c.model.in_(names))
        for name in sorted(set(connection.scalars(query))):
            alerts[name] = watch.open_alerts(connection, name)
    return [_standing(row, tuple(alerts.get(row["name"], ()))) for row in rows]


def _standing(row: Any, alerts: tuple[Alert, ...]) -> Standing:
    state: str = STATES[int(row["rank"])]
    reason, since = _why(state, row, alerts)
    on_its_way = row["newest"] is not None and (row["newest_number"] or 0) > (row["champion"] or 0)
    return Standing(
        name=row["name"],
        owner=row["owner"],
        team=row["team"],
        risk=row["risk"],
        state=state,
        reason=reason,
        since=since,
        champion=row["champion"],
        champion_since=row["champion_since"] if row["champion"] is not None else None,
        next_number=row["newest_number"] if on_its_way else None,
        next_state=row["newest_state"] if on_its_way else None,
        next_run=row["newest"] if on_its_way else None,
        share=row["share"],
        approval=row["approval"],
        rollout=row["rollout"],
        alerts=alerts,
        next_due=row["next_due"],
    )


def _why(state: str, row: Any, alerts: Sequence[Alert]) -> tuple[str, datetime | None]:
    """Say why the model is in its state, and since when."""
    if state in {"Degraded", "Drifting"}:
        kinds = {"Degraded": {"quality", "service"}, "Drifting": {"drift"}}[state]
        about = [one for one in alerts if one.kind in kinds]
        since = min((one.first_due for one in about), default=None)
        return "; ".join(one.summary for one in about), since
    if state == "Check overdue":
        return _overdue(row), row["next_due"]
    if state in {"Paused", "Canary"}:
        return row["rollout_reason"] or "", None
    if state == "Approval":
        return "Waits for people; all evidence is in.", row["asked_at"]
    if row["newest_state"] == RunState.SUCCEEDED:
        by_hand = "A person went back to the version before." if state == "Rolled back" else ""
        return by_hand, None
    return ("", None) if state == "Healthy" else (row["newest_reason"] or "", row["newest_at"])


def _overdue(row: Any) -> str:
    due = row["next_due"]
    if due is None:
        return "No monitor looks at it."
    return f"No check has decided anything lately; the next was due {due:%d %B %H:%M} UTC."
