"""Who lets a version go on: itself, by its checks, or people.

risk high          people, always
a check undecided  people: what is not known is theirs to judge
promote ask        people
promote not_worse  nobody, when it is not worse than the champion, or is the first
promote better     nobody, when it is provably better than the champion

Never fewer people than the server asks for at this risk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.config import ModelConfig
from penstock.domain import CheckResult, Verdict


@dataclass(frozen=True, slots=True)
class Promotion:
    """How many people are asked, and why."""

    people: int
    """0: nobody."""
    reason: str


def promotion(
    config: ModelConfig, results: Sequence[CheckResult], verdict: Verdict, *, least: int = 0
) -> Promotion:
    """Decide who is asked about a version that nothing stops.

    Parameters
    ----------
    config
        Of the version, resolved.
    results
        Of all its checks; whether it was compared, and how that went, stands in
        ``quality.not_worse``.
    verdict
        Of the gate over them; not failed.
    least
        The fewest people, by the server's own policy.
    """
    assert verdict is not Verdict.FAILED, "what failed is not promoted"
    own = _own(config, results, verdict)
    if own.people >= least:
        return own
    return Promotion(least, f"the server asks at least {least} at risk {config.model.risk}")


def _own(config: ModelConfig, results: Sequence[CheckResult], verdict: Verdict) -> Promotion:
    """Decide by the version's own configuration."""
    people = max(config.approval.people or 0, 1)
    promote = config.quality.promote or ("ask" if config.approval.people else "not_worse")
    if config.model.risk == "high":
        return Promotion(people, "at risk high a person is always asked")
    if verdict is Verdict.UNDECIDED:
        return Promotion(people, "a check is undecided")
    if promote == "ask":
        return Promotion(people, "a person is asked about each version")
    compared = next((one for one in results if one.check == "quality.not_worse"), None)
    reading = None if compared is None else compared.evidence.get("reading")
    if promote == "not_worse":
        told = "there is no champion to be worse than" if compared is None else "it is not worse"
        return Promotion(0, f"All checks passed, and {told}; [quality] promote asks nobody then.")
    if reading == "better":
        return Promotion(
            0, "All checks passed, and it is provably better; [quality] promote asks nobody then."
        )
    told = (
        "there is no champion to be better than"
        if compared is None
        else "it is not provably better"
    )
    return Promotion(people, f"{told}, and [quality] promote asks for that")
