from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from penstock.inference.gateway.batching import Backlog, Failure, Ticket


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def ticket(loop: asyncio.AbstractEventLoop, name: bytes, *, deaths: int = 0) -> Ticket:
    return Ticket(1, name, b"x" * 100, loop.create_future(), deaths=deaths)


def filled(loop: asyncio.AbstractEventLoop, names: bytes) -> tuple[Backlog, list[Ticket]]:
    backlog = Backlog(max_requests=5, max_bytes=450)
    tickets = [ticket(loop, bytes([name])) for name in names]
    for each in tickets:
        assert backlog.push(each)
    return backlog, tickets


def test_what_waits_is_the_next_batch_in_the_order_of_arrival(
    loop: asyncio.AbstractEventLoop,
) -> None:
    backlog, tickets = filled(loop, b"abc")

    assert backlog.take(256, 10**6) == tickets
    assert backlog.take(256, 10**6) == []


@pytest.mark.parametrize(
    ("requests", "size", "expected"), [(2, 10**6, 2), (256, 250, 2), (9, 1, 1)]
)
def test_a_batch_is_bounded_in_requests_and_bytes_but_never_empty(
    loop: asyncio.AbstractEventLoop, requests: int, size: int, expected: int
) -> None:
    backlog, tickets = filled(loop, b"abc")

    batch = backlog.take(requests, size)

    assert batch == tickets[:expected]
    assert len(backlog) == 3 - expected


def test_a_request_that_may_have_killed_a_worker_travels_alone(
    loop: asyncio.AbstractEventLoop,
) -> None:
    backlog, tickets = filled(loop, b"ab")
    suspects = [ticket(loop, b"s", deaths=1), ticket(loop, b"t", deaths=1)]
    backlog.give_back(suspects)

    batches = [backlog.take(256, 10**6) for _ in range(3)]

    assert batches == [[suspects[0]], [suspects[1]], tickets]


def test_a_full_backlog_refuses_and_has_room_again_once_requests_have_ended(
    loop: asyncio.AbstractEventLoop,
) -> None:
    backlog, tickets = filled(loop, b"abcd")
    one_more = ticket(loop, b"e")
    refused = backlog.push(one_more)

    tickets[1].future.set_result(Failure(504, "PS504", "late", "again"))
    accepted = backlog.push(one_more)

    assert (refused, accepted) == (False, True)
    assert [each.id for each in backlog.take(256, 10**6)] == [b"a", b"c", b"d", b"e"]


def test_an_ended_request_is_never_sent(loop: asyncio.AbstractEventLoop) -> None:
    backlog, tickets = filled(loop, b"ab")
    for each in tickets:
        each.future.set_result(Failure(504, "PS504", "late", "again"))

    assert backlog.take(256, 10**6) == []
    assert len(backlog) == 0
