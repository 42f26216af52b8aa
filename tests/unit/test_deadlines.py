import asyncio
import time

from penstock.inference.gateway.deadlines import GRAIN_S, Deadlines

WAITS_S = (0.0, 0.004, 0.011, 0.0501, 0.0502, 0.12)


def test_a_deadline_is_acted_upon_in_its_grain_and_never_early() -> None:
    late: dict[float, float] = {}

    async def play() -> None:
        deadlines, began = Deadlines(), time.monotonic()
        for wait_s in WAITS_S:
            deadlines.at(
                began + wait_s,
                lambda wait_s=wait_s: late.update({wait_s: time.monotonic() - began - wait_s}),
            )
        await asyncio.sleep(max(WAITS_S) + 0.1)

    asyncio.run(play())

    assert sorted(late) == sorted(WAITS_S)
    assert all(0 <= each < GRAIN_S + 0.09 for each in late.values()), late


def test_a_deadline_that_was_met_is_not_acted_upon_and_others_of_its_grain_are() -> None:
    acted: list[str] = []

    async def play() -> None:
        deadlines, soon = Deadlines(), time.monotonic() + 0.01
        first = deadlines.at(soon, lambda: acted.append("met in time"))
        second = deadlines.at(soon, lambda: acted.append("missed"))
        first.met()
        await asyncio.sleep(0.05)
        assert not first.missed
        assert second.missed
        second.met()

    asyncio.run(play())

    assert acted == ["missed"]


def test_a_deadline_missed_may_set_the_next_one() -> None:
    acted: list[str] = []

    async def play() -> None:
        deadlines = Deadlines()

        def again() -> None:
            acted.append("first")
            deadlines.at(time.monotonic(), lambda: acted.append("second"))

        deadlines.at(time.monotonic(), again)
        await asyncio.sleep(0.05)

    asyncio.run(play())

    assert acted == ["first", "second"]
