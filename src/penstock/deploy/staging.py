"""The test environment: the version under test, beside the champion that it must equal."""

from __future__ import annotations

from penstock.domain import Environment, Role, Run
from penstock.records import rollouts
from penstock.records.database import Change
from penstock.records.rollouts import Place


def enter(change: Change, of: Run) -> int | None:
    """Let the run's version serve in the test environment; return the champion beside it.

    The champion runs there too, in a worker of its own, so that both are asked in the same
    place. A version left there by an earlier run makes room.
    """
    champion = rollouts.champion(change.connection, of.model)
    if champion is None or champion.number == of.number:
        places = [Place(of.number, Role.CHALLENGER, 100)]
    else:
        places = [
            Place(champion.number, Role.CHAMPION, 100),
            Place(of.number, Role.CHALLENGER, 0),
        ]
    rollouts.split(
        change, of.model, Environment.TEST, places, reason=f"{of.version} is to be tested"
    )
    return champion.number if champion is not None and champion.number != of.number else None


def leave(change: Change, of: Run, *, keep: bool, reason: str) -> None:
    """Clear the test environment; with `keep`, leave the version there for people to try.

    The champion stays beside it then, without requests of its own: people compare the two.
    """
    present = rollouts.deployments(
        change.connection, model_name=of.model, environment=Environment.TEST
    )
    if not any(found.number == of.number for found in present):
        return
    places: list[Place] = []
    if keep:
        others = [found for found in present if found.role is Role.CHAMPION]
        places = [Place(of.number, Role.CHALLENGER, 100)]
        places += [Place(other.number, Role.CHAMPION, 0) for other in others]
    rollouts.split(change, of.model, Environment.TEST, places, reason=reason)
