from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from penstock.domain import Deployment, Environment, Role
from penstock.inference.gateway.placing import (
    CHILD_BYTES,
    Home,
    Key,
    Memory,
    Room,
    homes,
    is_warm,
    key_of,
    make_room,
    rivals,
    start_rank,
    too_large,
    used_bytes,
)
from tests.unit.gateway_rig import version

GB = 2**30
LOCKS = ("sklearn", "xgboost")


@st.composite
def fleets(draw: st.DrawFn) -> list[Deployment]:
    """Some models in both environments, as the records may have them."""
    found: list[Deployment] = []
    for model in range(draw(st.integers(0, 5))):
        for environment in Environment:
            roles = draw(st.lists(st.sampled_from(list(Role)), max_size=5, unique=True))
            for number, role in enumerate(roles, start=1):
                serving = draw(
                    st.sampled_from([{}, {"isolated": True}, {"workers": 3}, {"workers": 1}])
                )
                found.append(
                    version(
                        number,
                        role,
                        model=f"m{model}",
                        environment=environment,
                        lock_digest=draw(st.sampled_from(LOCKS)),
                        artifact_digest=f"m{model} {number}",
                        serving=serving,
                    )
                )
    return found


def neighbours(placed: dict[Key, tuple[Home, ...]], key: Key) -> set[Key]:
    return {
        other
        for other, theirs in placed.items()
        if other != key and set(theirs) & set(placed[key])
    }


@given(fleets(), st.integers(1, 4))
def test_every_version_has_a_place_in_a_process_of_its_environment(
    deployments: list[Deployment], shared: int
) -> None:
    placed = homes(deployments, shared=shared)

    assert placed.keys() == {key_of(each) for each in deployments}
    for deployment in deployments:
        places = placed[key_of(deployment)]
        assert {home.lock for home in places} == {deployment.lock_digest}
        assert len(set(places)) == deployment.serving.get("workers", 1)
    assert len({home for places in placed.values() for home in places if home.shared}) <= (
        shared * len(LOCKS)
    )


@given(fleets())
def test_rollouts_versions_under_test_and_copies_share_with_nobody(
    deployments: list[Deployment],
) -> None:
    placed = homes(deployments)

    for deployment in deployments:
        alone = (
            key_of(deployment) in rivals(deployments)
            or deployment.environment is Environment.TEST
            or deployment.role is Role.SHADOW
            or deployment.serving.get("isolated")
            or deployment.serving.get("workers", 1) > 1
        )
        if alone:
            assert neighbours(placed, key_of(deployment)) == set()
            assert not any(home.shared for home in placed[key_of(deployment)])


@given(fleets(), st.data())
def test_a_version_set_apart_hurts_nobody_and_moves_nobody_else(
    deployments: list[Deployment], data: st.DataObject
) -> None:
    keys = [key_of(each) for each in deployments]
    apart = set(data.draw(st.lists(st.sampled_from(keys)))) if keys else set[Key]()
    before = homes(deployments)

    after = homes(deployments, apart=apart)

    assert all(neighbours(after, key) == set() for key in apart)
    assert {key: before[key] for key in before.keys() - apart} == {
        key: after[key] for key in after.keys() - apart
    }


def test_both_sides_leave_the_shared_process_while_a_rollout_lasts() -> None:
    champion, other = version(1), version(1, model="other")
    challenger = version(2, Role.CHALLENGER, 5)

    before = homes([champion, other])
    during = homes([champion, challenger, other])
    after = homes([replace(champion, role=Role.PREVIOUS), version(2), other])

    key = key_of(champion)
    assert neighbours(before, key) == neighbours(after, key) - {key_of(version(2))} != set()
    assert neighbours(during, key) == set()
    assert before[key_of(other)] == during[key_of(other)] == after[key_of(other)]


def test_what_is_started_first_is_what_callers_depend_on() -> None:
    rolled = [version(1), version(2, Role.CHALLENGER, 5)]
    plain = [
        version(1, model="a"),
        version(1, model="b", environment=Environment.TEST),
        version(2, Role.PREVIOUS, model="a"),
        version(3, Role.WARM, model="a"),
        version(4, Role.SHADOW, model="a"),
    ]
    deployments = [*reversed(plain), *rolled]

    ranked = sorted(deployments, key=lambda each: start_rank(each, rivals(deployments)))

    assert [(each.model, each.number) for each in ranked[2:]] == [
        (each.model, each.number) for each in plain
    ]


sizes = st.integers(1, 40).map(lambda n: n * 2**25)
moments = st.floats(0, 10_000)


@st.composite
def rooms(draw: st.DrawFn) -> list[Room]:
    found: list[Room] = []
    for number in range(draw(st.integers(1, 12))):
        lock = draw(st.sampled_from(LOCKS))
        own = draw(st.booleans())
        home = Home(lock, f"own {number}" if own else "shared 0", not own)
        fixed, warm, busy = (draw(st.booleans()) for _ in range(3))
        key = ("production", f"m{number}", 1, str(number), "")
        found.append(Room(key, (home,), draw(sizes), fixed, warm, busy, draw(moments)))
    return found


@given(rooms(), st.integers(1, 20), st.integers(0, 300))
def test_making_room_never_ends_above_the_budget_nor_unloads_a_rollout_or_who_works(
    found: list[Room], budget: int, host: int
) -> None:
    coming, *loaded = found
    memory = Memory(budget * GB // 4, dict.fromkeys(LOCKS, host * 2**20), idle_s=900)

    go = make_room(loaded, coming, memory, now_s=10_000)

    movable = {room.key: room for room in loaded if not room.fixed and not room.busy}
    if go is None:  # not even without all that may go
        least = [room for room in loaded if room.key not in movable]
        assert used_bytes([*least, coming], memory) > memory.budget_bytes
        return
    assert movable.keys() >= set(go)
    staying = [room for room in loaded if room.key not in go]
    assert used_bytes([*staying, coming], memory) <= memory.budget_bytes
    if go:  # no more than needed
        *_, last = go
        one_less = [*staying, movable[last]]
        assert used_bytes([*one_less, coming], memory) > memory.budget_bytes


@given(rooms(), st.integers(1, 20))
def test_warm_versions_go_last_and_the_long_idle_first(found: list[Room], budget: int) -> None:
    coming, *loaded = found
    memory = Memory(budget * GB // 4, {}, idle_s=900)

    go = make_room(loaded, coming, memory, now_s=10_000) or []

    by_key = {room.key: room for room in loaded}
    gone = [by_key[key] for key in go]
    kept = [r for r in loaded if r.key not in go and not r.fixed and not r.busy]
    assert [room.warm for room in gone] == sorted(room.warm for room in gone)
    for one in gone:
        for other in kept:
            if one.warm == other.warm:
                assert one.used_s <= other.used_s or one.used_s < 10_000 - 900
            else:
                assert other.warm


def test_a_rollout_too_large_is_told_in_one_sentence() -> None:
    champion = Room(("production", "m", 1, "a", ""), (Home("l", "m 1", shared=False),), GB)
    challenger = Room(("production", "m", 2, "b", ""), (Home("l", "m 2", shared=False),), GB)
    other = Room(("production", "x", 1, "c", ""), (Home("l", "x 1", shared=False),), GB // 2)
    memory = Memory(3 * GB // 2, {"l": 0})

    assert too_large([champion], challenger, memory) == (
        "champion and challenger need 2.1 GB of 1.5"
    )
    assert too_large([champion, other], challenger, memory) == (
        "champion and challenger need 2.1 GB of 1.0 that other rollouts leave"
    )
    assert too_large([other], challenger, memory) == (
        "it needs 1.0 GB of 1.0 that other rollouts leave"
    )
    assert too_large([], challenger, memory) == ""


def test_a_shared_process_and_a_host_are_counted_once() -> None:
    home = Home("l", "shared 0", shared=True)
    loaded = [Room(("production", f"m{n}", 1, "", ""), (home,), 1000) for n in range(5)]

    assert used_bytes(loaded, Memory(GB, {"l": 7, "idle": 9})) == 5 * 1000 + CHILD_BYTES + 7


def test_who_serves_production_stays_warm() -> None:
    roles = [role for role in Role if is_warm(version(1, role))]

    assert roles == [Role.CHAMPION, Role.CHALLENGER, Role.PREVIOUS]
    assert not is_warm(version(1, environment=Environment.TEST))
