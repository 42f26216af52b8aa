"""Who answers a request: pure decisions over the deployments of one moment.

A challenger gets its share only while its lease lasts and its worker is ready; in every other
case the champion answers. So a process that died can never leave traffic on a version that
nobody judges any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from penstock.domain import Deployment, Environment, Role

Ready = Callable[[Deployment], bool]
"""Whether the worker of a deployment can take a request now."""


@dataclass(frozen=True, slots=True)
class ModelRoutes:
    """The versions of one model that run in one environment."""

    environment: Environment
    model: str
    champion: Deployment | None
    challenger: Deployment | None
    running: Mapping[int, Deployment]
    """By number; a control arm, which has its champion's, is not among them."""
    shadow: Deployment | None = None
    control: Deployment | None = None

    @property
    def generation(self) -> int:
        """Which split this is: it rises with every change."""
        return max((found.generation for found in self.running.values()), default=0)


def table(
    deployments: Iterable[Deployment], before: Mapping[tuple[str, str], ModelRoutes] | None = None
) -> dict[tuple[str, str], ModelRoutes]:
    """Sort deployments by environment and model; `before` gives what has not changed since."""
    grouped: dict[tuple[str, str], dict[int, Deployment]] = {}
    controls: dict[tuple[str, str], Deployment] = {}
    for each in deployments:
        key = (each.environment.value, each.model)
        versions = grouped.get(key)
        if versions is None:
            versions = grouped[key] = {}
        if each.role is Role.CONTROL:
            controls[key] = each
        else:
            versions[each.number] = each
    known = before or {}
    found: dict[tuple[str, str], ModelRoutes] = {}
    for key, versions in grouped.items():
        last, control = known.get(key), controls.get(key)
        same = last is not None and last.running == versions and last.control == control
        found[key] = last if last is not None and same else _routes(versions, control)
    return found


def _routes(versions: Mapping[int, Deployment], control: Deployment | None) -> ModelRoutes:
    one = next(iter(versions.values()))
    return ModelRoutes(
        one.environment,
        one.model,
        _with_role(versions, Role.CHAMPION),
        _with_role(versions, Role.CHALLENGER),
        versions,
        _with_role(versions, Role.SHADOW),
        control,
    )


def challenger_share(routes: ModelRoutes, *, now: datetime, ready: Ready) -> int:
    """Return the percent of requests that the challenger gets at this moment.

    A lease guards a champion that could have the requests instead. In the test environment
    nobody depends on it, and a challenger that is alone, as a first version is until it becomes
    the champion, gets everything.
    """
    challenger = routes.challenger
    if challenger is None or not ready(challenger):
        return 0
    if routes.champion is None:
        return 100
    if routes.environment is Environment.TEST:
        return challenger.share
    leased = challenger.lease_until is not None and now < challenger.lease_until
    return challenger.share if leased else 0


def control_share(routes: ModelRoutes, *, now: datetime, ready: Ready) -> int:
    """Return the percent of requests that the control arm gets at this moment.

    None while the challenger gets none: there is nothing to compare.
    """
    control = routes.control
    if control is None or not ready(control):
        return 0
    return control.share if challenger_share(routes, now=now, ready=ready) else 0


def choose(routes: ModelRoutes, *, drawn: float, now: datetime, ready: Ready) -> Deployment | None:
    """Return the version that answers; None when none can.

    Parameters
    ----------
    drawn
        Uniform in ``[0, 100)``; each request is drawn by itself, or each customer where the
        rollout has a key. The judgement of the canary rests on it. The challenger has the lower
        end, the control arm the upper, so that who is in an arm stays there while shares rise.
    """
    if routes.challenger and drawn < challenger_share(routes, now=now, ready=ready):
        return routes.challenger
    if routes.control and drawn >= 100 - control_share(routes, now=now, ready=ready):
        return routes.control
    champion = routes.champion
    return champion if champion is not None and ready(champion) else None


def share_now(deployment: Deployment, routes: ModelRoutes, *, now: datetime, ready: Ready) -> int:
    """Return the percent of the model's requests that a deployment gets at this moment."""
    challenger = challenger_share(routes, now=now, ready=ready)
    if deployment is routes.challenger:
        return challenger
    control = control_share(routes, now=now, ready=ready)
    if deployment is routes.control:
        return control
    serves = deployment is routes.champion and ready(deployment)
    return 100 - challenger - control if serves else 0


def _with_role(versions: Mapping[int, Deployment], role: Role) -> Deployment | None:
    return next((found for found in versions.values() if found.role is role), None)
