import asyncio
import time

from penstock.inference.gateway.deadlines import Deadlines

WAITS_S = (0.0, 0.004, 0.011, 0.0501, 0.0502, 0.12)


def test_a_deadline_is_acted_upon_in_its_grain_and_never_early() -> None:
    late: dict[float, float] = {}

    async def play() -> None:
        began = time.monotonic()
        deadlines = Deadlines[float](
            lambda wait_s: late.update({wait_s: time.monotonic() - began - wait_s})
        )
        for wait_s in WAITS_S:
            deadlines.add(wait_s, began + wait_s)
        while len(late) < len(WAITS_S):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(play(), 20))

    assert sorted(late) == sorted(WAITS_S)
    assert all(each >= 0 for each in late.values()), late


def test_a_deadline_that_was_met_is_not_acted_upon_and_others_of_its_grain_are() -> None:
    acted: list[str] = []

    async def play() -> None:
        deadlines, soon = Deadlines[str](acted.append), time.monotonic() + 0.01
        among = deadlines.add("met in time", soon)
        deadlines.add("missed", soon)
        among.discard("met in time")
        while not acted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(play(), 20))

    assert acted == ["missed"]


def test_a_deadline_missed_may_set_the_next_one() -> None:
    acted: list[str] = []

    async def play() -> None:
        def miss(name: str) -> None:
            acted.append(name)
            if name == "first":
                deadlines.add("second", time.monotonic())

        deadlines = Deadlines[str](miss)
        deadlines.add("first", time.monotonic())
        while len(acted) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(play(), 20))

    assert acted == ["first", "second"]
