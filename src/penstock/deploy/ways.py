"""The ways of a rollout, all from the block [canary]: what it keeps from its push to its end.

canary       shares that rise, each looked at; full traffic after the last
blue/green   ``steps = []``: full traffic as soon as it is loaded; the old champion stays warm
shadow       ``only = "shadow"``: copies of the requests for a time; then a person decides
A/B          ``only = "ab"``: one fixed share for a time; then a person decides
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from penstock.config import Canary
from penstock.config.canary import BATCH_S
from penstock.deploy.planning import STEP_REQUESTS_MIN
from penstock.domain import JSON, Rollout

WIDE_BATCH_S = 300.0
LOW_REQUESTS_PER_S = 5.0
"""At no more than so many requests a second of both versions a batch is wide."""
AB_SHARE = 50
HORIZON_S = 24 * 3600.0


class Way(StrEnum):
    """How a version comes to its traffic."""

    CANARY = "canary"
    BLUE_GREEN = "blue_green"
    SHADOW = "shadow"
    AB = "ab"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the last days' requests to the champion say before a canary starts."""

    requests_per_day: float
    slow_ms: float
    """A request that takes longer counts as slow; fixed for the whole canary."""

    @property
    def requests_per_s(self) -> float:
        """On average."""
        return self.requests_per_day / 86_400


def settings(canary: Canary) -> JSON:
    """Return what a rollout keeps of the block, as plain JSON."""
    return {
        "way": str(_way(canary)),
        "batch_s": canary.batch_s or BATCH_S,
        "batch_by_traffic": canary.batch_s is None and canary.low_traffic == "widen",
        "horizon_s": canary.horizon_s,
        "hold_s": canary.hold_s or canary.horizon_s,
        "p_max_errors": canary.p_max_errors,
        "p_max_slow": canary.p_max_slow,
        "control": canary.control,
        "min_requests": canary.min_requests,
        "min_time_s": canary.min_time_s,
        "min_labels": canary.min_labels,
        "low_traffic": canary.low_traffic,
        "shadow_s": canary.shadow_s,
        "lasts_s": canary.lasts_s,
    }


def _way(canary: Canary) -> Way:
    if canary.only is not None:
        return Way(canary.only)
    return Way.BLUE_GREEN if canary.steps is not None and not canary.steps else Way.CANARY


def of(rollout: Rollout) -> Way:
    """Return the way of a rollout."""
    return Way(rollout.settings.get("way", Way.CANARY))


def first_settings(kept: JSON, traffic: Traffic) -> JSON:
    """Return a rollout's settings with what its champion's traffic decides."""
    batch_s = batch_by(kept, traffic.requests_per_s)
    return {**kept, "slow_ms": traffic.slow_ms, "batch_s": batch_s}


def batch_by(kept: JSON, requests_per_s: float | None) -> float:
    """Return the seconds between two looks at this traffic; None: nobody knows it."""
    if not kept.get("batch_by_traffic") or requests_per_s is None:
        return float(kept["batch_s"])
    return WIDE_BATCH_S if requests_per_s <= LOW_REQUESTS_PER_S else BATCH_S


def shares(stated: Sequence[int], way: Way, traffic: Traffic) -> tuple[int, ...]:
    """Return the shares of a rollout whose block names these, or none."""
    if stated or way is Way.BLUE_GREEN:
        return tuple(stated)
    return (AB_SHARE,) if way is Way.AB else default_shares(traffic.requests_per_day)


def default_shares(requests_per_day: float) -> tuple[int, ...]:
    """Return the steps of a canary that names none: the more traffic, the more careful."""
    if requests_per_day > 100_000:
        return (1, 5, 25, 50)
    return (5, 25, 50) if requests_per_day > 10_000 else (50,)


def next_share(rollout: Rollout) -> int | None:
    """Return the share after the present one; None where full traffic follows."""
    return next((share for share in rollout.shares if share > rollout.share), None)


def requests_min(rollout: Rollout) -> int:
    """Return how many requests the challenger must have had at a share."""
    return int(rollout.settings.get("min_requests", STEP_REQUESTS_MIN))
