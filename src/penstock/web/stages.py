"""A run as people see it: five marks on a rail, and a list of all its steps, to come included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from penstock.domain import RunState
from penstock.web.charts import Bar, gantt
from penstock.web.events import Standing
from penstock.web.words import APPROVAL_LOOKS, ROLLOUT_LOOKS, STEP_LOOKS, Look, duration

STEPS = (
    ("build", "train"),
    ("build", "store"),
    ("build", "check"),
    ("build", "fairness"),
    ("build", "explain"),
    ("test", "deploy"),
    ("test", "quality"),
    ("test", "speed"),
)
TITLES = {
    "train": "Train",
    "store": "Store",
    "check": "Check: smoke and sanity",
    "fairness": "Fairness",
    "explain": "Explain",
    "deploy": "Deploy to test",
    "quality": "Quality",
    "speed": "Speed",
}
_STOPPED = {
    RunState.FAILED,
    RunState.REJECTED,
    RunState.EXPIRED,
    RunState.SUPERSEDED,
    RunState.ABORTED,
}


@dataclass(frozen=True, slots=True)
class Mark:
    """One of the five marks of the rail."""

    stage: str
    title: str
    look: Look
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the list of steps."""

    stage: str
    name: str
    title: str
    look: Look
    bar: Bar | None
    text: str
    reason: str
    link: str | None
    current: bool
    running: bool = False


def rail(at: Standing, now: datetime) -> list[Mark]:
    """Return the five marks."""
    build = _stage(at, "build", now)
    test = _stage(at, "test", now)
    return [
        Mark("Build", "Build and check", *build),
        Mark("Test", "Quality and speed", *test),
        Mark("", "Approve", *_approve(at)),
        Mark("Production", "Canary", *_canary(at)),
        Mark("", "Release", *_release(at)),
    ]


def lines(at: Standing, now: datetime) -> list[Line]:
    """Return every step, those to come included."""
    known = {(step.stage, step.name): step for step in at.steps}
    bars = gantt(at.steps, now)
    told: list[Line] = []
    for key in dict.fromkeys((*STEPS, *known)):
        step = known.get(key)
        look = STEP_LOOKS.get("to come" if step is None else step.state, STEP_LOOKS["to come"])
        took = "" if step is None else _took(step.started_at, step.ended_at or now)
        told.append(
            Line(
                stage=key[0],
                name=key[1],
                title=TITLES.get(key[1], key[1]),
                look=look,
                bar=bars.get(key),
                text=took,
                reason="" if step is None else step.reason,
                link=None if step is None or step.log is None else f"?step={key[0]}/{key[1]}",
                current=at.shown is step and step is not None,
                running=step is not None and step is at.running,
            )
        )
    return [*told, *_people_and_traffic(at, now)]


def _people_and_traffic(at: Standing, now: datetime) -> list[Line]:
    """Return the parts that are no step of the engine: they wait for people and requests."""
    approve, approve_text = _approve(at)
    canary, canary_text = _canary(at)
    link = f"/approvals/{at.approval.id}" if at.approval is not None else None
    rollout = at.rollout
    took = "" if rollout is None else _took(rollout.started_at, rollout.ended_at or now)
    return [
        Line("test", "approve", "Approve", approve, None, "", approve_text, link, current=False),
        Line(
            "production",
            "canary",
            "Canary",
            canary,
            None,
            took,
            canary_text,
            None if rollout is None else f"/rollouts/{rollout.id}",
            current=False,
        ),
        Line(
            "production", "release", "Release", _release(at)[0], None, "", "", None, current=False
        ),
    ]


def _took(begin: datetime, end: datetime) -> str:
    return duration((end - begin).total_seconds())


def _stage(at: Standing, stage: str, now: datetime) -> tuple[Look, str]:
    steps = [step for step in at.steps if step.stage == stage]
    working = {"build": RunState.BUILDING, "test": RunState.TESTING}[stage]
    if not steps:
        if at.run.state is RunState.QUEUED and stage == "build":
            return Look("idle", "Queued"), at.run.reason
        return STEP_LOOKS["to come"], ""
    spent = _took(steps[0].started_at, max(s.ended_at or now for s in steps))
    if any(step.state == "failed" for step in steps):
        failed = next(step.name for step in steps if step.state == "failed")
        return STEP_LOOKS["failed"], f"{failed}, {spent}"
    if at.run.state is working:
        return STEP_LOOKS["running"], f"{spent} so far"
    if at.run.state in _STOPPED and _last_stage(at) == stage and at.run.ended_by is not None:
        return STEP_LOOKS["failed"], spent
    return STEP_LOOKS["passed"], f"{spent}, {len(steps)} steps"


def _last_stage(at: Standing) -> str:
    return at.steps[-1].stage if at.steps else "build"


def _approve(at: Standing) -> tuple[Look, str]:
    if at.approval is None:
        if at.rollout is not None:
            return STEP_LOOKS["skipped"], "nobody was asked"
        return STEP_LOOKS["to come"], "" if at.run.releases else "not for this branch"
    needed = at.approval.needed
    people = "1 person" if needed == 1 else f"{needed} people"
    return APPROVAL_LOOKS[at.approval.state], f"by {people}"


def _canary(at: Standing) -> tuple[Look, str]:
    if at.rollout is None:
        return STEP_LOOKS["to come"], "" if at.run.releases else "not for this branch"
    look = ROLLOUT_LOOKS[at.rollout.state]
    if look.word in {"Canary", "Paused"}:
        return look, f"{at.rollout.share} % of the requests"
    if at.run.state is RunState.SUCCEEDED:
        return STEP_LOOKS["passed"], _shares(at.rollout.shares)
    return look, _shares(at.rollout.shares)


def _shares(shares: Sequence[int]) -> str:
    return ", ".join(map(str, shares)) + " %" if shares else "no champion to compare with"


def _release(at: Standing) -> tuple[Look, str]:
    if at.run.state is RunState.SUCCEEDED and at.rollout is not None:
        return STEP_LOOKS["passed"], "it serves all requests"
    return STEP_LOOKS["to come"], ""
