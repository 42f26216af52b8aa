"""What a look of a canary leads to: pure decisions over a judgement and what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from penstock.deploy import ways
from penstock.deploy.canary import Batch, Judgement, may_step
from penstock.deploy.ways import Way
from penstock.domain import Rollout, Verdict


class Next(StrEnum):
    """What a look may lead to."""

    BACK = "back"
    STEP = "step"
    RELEASE = "release"
    HOLD = "hold"
    LOOK = "look"
    REST = "rest"


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a look leads to, and why."""

    next: Next
    reason: str
    share: int | None = None
    """Of a step."""


@dataclass(frozen=True, slots=True)
class Here:
    """What was seen at the present share since it was given."""

    batches: Sequence[Batch]
    labels: int = 0
    """True answers to the challenger's predictions."""
    requests_per_s: float | None = None
    """Of both versions; None where no time has passed."""


def propose(of: Rollout, judgement: Judgement, here: Here, *, now: datetime) -> Proposal:
    """Say what a judgement leads to; nothing is changed."""
    if judgement.verdict is Verdict.FAILED:
        return Proposal(Next.BACK, judgement.sentence)
    if ways.of(of) is Way.AB:
        return _rested(of, judgement) or _compared(of, judgement, now)
    proposed = _rested(of, judgement) or _forward(of, judgement, here, now)
    if proposed is not None:
        return proposed
    if now >= _window_ends(of):
        reason = f"Undecided at the end of its window: {judgement.needs} A person decides."
        return Proposal(Next.HOLD, reason)
    return Proposal(Next.LOOK, f"{judgement.sentence} {judgement.needs}".strip())


def _rested(of: Rollout, judgement: Judgement) -> Proposal | None:
    """Let a challenger rest once after a burst of harm, and then go on."""
    if (resting := of.settings.get("resting")) is not None:
        return Proposal(Next.STEP, "It has rested; whatever comes now counts.", int(resting))
    if not judgement.burst or of.settings.get("rested"):
        return None
    reason = "Harm is proven only with its two worst times of five minutes: it rests once."
    return Proposal(Next.REST, f"{judgement.sentence} {reason}")


def _compared(of: Rollout, judgement: Judgement, now: datetime) -> Proposal:
    """Let a comparison have its time, and then ask a person."""
    if now < since(of) + timedelta(seconds=of.settings["lasts_s"]):
        return Proposal(Next.LOOK, judgement.sentence)
    reason = f"The comparison has had its time. {judgement.sentence} A person decides."
    return Proposal(Next.HOLD, reason)


def _forward(of: Rollout, judgement: Judgement, here: Here, now: datetime) -> Proposal | None:
    enough, following = _enough(of, here, now), ways.next_share(of)
    if following is None:
        passed = enough and judgement.verdict is Verdict.PASSED
        return Proposal(Next.RELEASE, judgement.sentence) if passed else None
    if enough:
        return Proposal(Next.STEP, f"No harm seen; now {following} %.", following)
    if not _too_few(of, here, now):
        return None
    few = f"Too few requests at {of.share} % to judge it"
    if of.settings["low_traffic"] == "raise":
        return Proposal(Next.STEP, f"{few}; now {following} %.", following)
    return Proposal(Next.HOLD, f"{few}. A person decides.")


def _enough(of: Rollout, here: Here, now: datetime) -> bool:
    kept = of.settings
    return (
        may_step(here.batches, ways.requests_min(of))
        and here.labels >= kept.get("min_labels", 0)
        and now >= since(of) + timedelta(seconds=kept.get("min_time_s", 0))
    )


def _too_few(of: Rollout, here: Here, now: datetime) -> bool:
    """Whether a share has had its part of the horizon, and too few requests all the same."""
    if of.settings.get("low_traffic", "widen") == "widen":
        return False
    part = of.settings["horizon_s"] / (len(of.shares) + 1)
    few = not may_step(here.batches, ways.requests_min(of))
    return few and now >= since(of) + timedelta(seconds=part)


def since(of: Rollout) -> datetime:
    """Return from when on the present share is seen."""
    given = of.settings.get("since")
    return of.started_at if given is None else datetime.fromisoformat(given)


def _window_ends(of: Rollout) -> datetime:
    """Return when an undecided canary is held; what a person moved has a whole window again."""
    given = of.settings.get("window_since")
    began = of.started_at if given is None else datetime.fromisoformat(given)
    return began + timedelta(seconds=of.settings["horizon_s"])
