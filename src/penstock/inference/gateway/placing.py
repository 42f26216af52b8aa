"""Which version lives in which worker process: pure decisions over the deployments of one moment.

Versions of one environment lock share a process, whose libraries are then loaded once. A process
of its own, forked from the same host, has who must not be slowed or hurt by others: both sides of
a rollout and its control arm, every version under test, copies, whoever asks for it, and whoever
hurt others before.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from penstock.domain import Deployment, Environment, Role

Key = tuple[str, str, int, str, str]
"""Environment, model, number, digest of the artifact, and ``control`` for a control arm, which
runs beside the champion that it is."""

CHILD_BYTES = 28 * 2**20
"""What a fork of a warm host has for itself before a model is in it; measured on scikit-learn."""

_START_ORDER = (Role.CHAMPION, Role.PREVIOUS, Role.WARM)


class Home(NamedTuple):
    """A worker process, whether it runs or not."""

    lock: str
    """Digest of the environment lock: which host it is forked from."""
    name: str
    shared: bool
    turn: int = 0
    """How often it was replaced by a fresh one."""


class Room(NamedTuple):
    """What one loaded version takes."""

    key: Key
    homes: tuple[Home, ...]
    size_bytes: int
    """In each of its homes."""
    fixed: bool = False
    """Whether it is a side of a rollout, which nobody may push out."""
    warm: bool = False
    """Whether it is the last to go: who serves production, and who served before."""
    busy: bool = False
    """Whether requests wait for it or are in its hands."""
    used_s: float = 0.0
    """When it was asked last."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What there is."""

    budget_bytes: int
    hosts: Mapping[str, int]
    """Bytes of each lock's host, which its children share."""
    idle_s: float = 900.0


def key_of(deployment: Deployment) -> Key:
    """Name what a deployment runs; the role may change, the process need not."""
    arm = Role.CONTROL.value if deployment.role is Role.CONTROL else ""
    where, digest = deployment.environment.value, deployment.artifact_digest
    return where, deployment.model, deployment.number, digest, arm


def rivals(deployments: Iterable[Deployment]) -> set[Key]:
    """Return champions and challengers of the models that have both."""
    sides: defaultdict[tuple[str, str], dict[Role, Key]] = defaultdict(dict)
    for deployment in deployments:
        where = (deployment.environment.value, deployment.model)
        sides[where][deployment.role] = key_of(deployment)
    return {
        side[role]
        for side in sides.values()
        if Role.CHALLENGER in side
        for role in (Role.CHAMPION, Role.CHALLENGER)
        if role in side
    }


def homes(
    deployments: Sequence[Deployment], *, apart: Collection[Key] = (), shared: int = 1
) -> dict[Key, tuple[Home, ...]]:
    """Give each version its processes.

    Parameters
    ----------
    apart
        Versions that hurt others in a shared process.
    shared
        How many shared processes a lock may have; more than one pays on more than two cores.
    """
    alone = rivals(deployments) | set(apart)
    placed: dict[Key, tuple[Home, ...]] = {}
    for deployment in deployments:
        key = key_of(deployment)
        lock, serving = deployment.lock_digest, deployment.serving
        workers = int(serving.get("workers") or 1)
        own = key in alone or deployment.environment is Environment.TEST or workers > 1
        if own or serving.get("isolated") or deployment.role not in _SHARING:
            name = _name(key)
            placed[key] = tuple(Home(lock, f"{name} {n}", shared=False) for n in range(workers))
        else:
            # By name, so that a version stays where it is when others come and go.
            number = zlib.crc32(_name(key).encode()) % shared if shared > 1 else 0
            placed[key] = (Home(lock, f"shared {number}", shared=True),)
    return placed


def _name(key: Key) -> str:
    return " ".join(map(str, key))


_SHARING = frozenset(_START_ORDER) | {Role.CHALLENGER}
"""Roles whose versions may share; a challenger without a champion is its model's only version."""


def start_rank(deployment: Deployment, rivals: Collection[Key]) -> int:
    """Return the place in the order of starts: rollouts first, then by who serves."""
    if key_of(deployment) in rivals:
        return 0
    if deployment.environment is Environment.TEST:
        return 2
    order = {Role.CONTROL: 1, Role.CHALLENGER: 1, Role.CHAMPION: 1}
    order |= {Role.PREVIOUS: 3, Role.WARM: 4}
    return order.get(deployment.role, 5)


def is_warm(deployment: Deployment) -> bool:
    """Say whether a version is among the last to be unloaded."""
    production = deployment.environment is Environment.PRODUCTION
    return production and deployment.role in {Role.CHAMPION, Role.CHALLENGER, Role.PREVIOUS}


def used_bytes(loaded: Iterable[Room], memory: Memory) -> int:
    """Return what all of these need together."""
    rooms = list(loaded)
    processes = {home for room in rooms for home in room.homes}
    locks = {home.lock for home in processes}
    return (
        sum(room.size_bytes * len(room.homes) for room in rooms)
        + CHILD_BYTES * len(processes)
        + sum(memory.hosts.get(lock, 0) for lock in locks)
    )


def make_room(
    loaded: Iterable[Room], coming: Room, memory: Memory, now_s: float
) -> list[Key] | None:
    """Return who must be unloaded, in this order, before `coming` is loaded; None: not now.

    Those go first that nobody asked for `idle_s`, then the least recently used. Of both, the
    warm ones go after all others. Rollouts and versions at work stay.
    """
    staying = {room.key: room for room in loaded if room.key != coming.key}
    total = used_bytes([*staying.values(), coming], memory)
    if total <= memory.budget_bytes:
        return []
    living = Counter(home for room in staying.values() for home in room.homes)
    living.update(coming.homes)
    processes = Counter(home.lock for home in living)
    go: list[Key] = []
    candidates = [room for room in staying.values() if not room.fixed and not room.busy]
    for room in sorted(candidates, key=lambda room: _last(room, now_s, memory.idle_s)):
        total -= room.size_bytes * len(room.homes)
        for home in room.homes:
            living[home] -= 1
            if living[home] == 0:
                total -= CHILD_BYTES
                processes[home.lock] -= 1
                if processes[home.lock] == 0:
                    total -= memory.hosts.get(home.lock, 0)
        go.append(room.key)
        if total <= memory.budget_bytes:
            return go
    return None


def _last(room: Room, now_s: float, idle_s: float) -> tuple[bool, bool, float]:
    return room.warm, now_s - room.used_s < idle_s, room.used_s


def too_large(fixed: Iterable[Room], coming: Room, memory: Memory) -> str:
    """Say why a version can never be loaded beside those that stay; empty when it can."""
    beside = [room for room in fixed if room.key != coming.key]
    own = [room for room in beside if room.key[:2] == coming.key[:2]]
    others = [room for room in beside if room.key[:2] != coming.key[:2]]
    if used_bytes([*beside, coming], memory) <= memory.budget_bytes:
        return ""
    need = used_bytes([*own, coming], memory)
    left = memory.budget_bytes - (used_bytes(others, memory) if others else 0)
    who = "champion and challenger need" if own else "it needs"
    beside_others = " that other rollouts leave" if others else ""
    return f"{who} {_gb(need)} GB of {_gb(max(left, 0))}{beside_others}"


def _gb(size: int) -> str:
    return f"{size / 2**30:.1f}" if size >= 2**29 else f"{size / 2**30:.2g}"
