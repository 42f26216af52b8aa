from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from penstock.inference.gateway import batching
from penstock.inference.gateway.batching import (
    Backlog,
    Batch,
    Failure,
    Lane,
    Outcome,
    Ticket,
    linger_s,
)
from penstock.inference.program.frames import Reply, encode_reply
from penstock.pipeline.releasing import SLOW_LEAST_MS
from tests.unit.gateway_rig import version


def nobody(_: Ticket, __: Outcome) -> None:
    """Take an outcome."""


def ticket(name: bytes, *, deaths: int = 0) -> Ticket:
    made = Ticket(1, name, b"x" * 100, nobody)
    made.deaths = deaths
    return made


def filled(names: bytes) -> tuple[Backlog, list[Ticket]]:
    backlog = Backlog(max_requests=5, max_bytes=450)
    tickets = [ticket(bytes([name])) for name in names]
    for each in tickets:
        assert backlog.push(each)
    return backlog, tickets


def test_what_waits_is_the_next_batch_in_the_order_of_arrival() -> None:
    backlog, tickets = filled(b"abc")

    assert backlog.take(256, 10**6) == tickets
    assert backlog.take(256, 10**6) == []


@pytest.mark.parametrize(
    ("requests", "size", "expected"), [(2, 10**6, 2), (256, 250, 2), (9, 1, 1)]
)
def test_a_batch_is_bounded_in_requests_and_bytes_but_never_empty(
    requests: int, size: int, expected: int
) -> None:
    backlog, tickets = filled(b"abc")

    batch = backlog.take(requests, size)

    assert batch == tickets[:expected]
    assert len(backlog) == 3 - expected


def test_a_batch_is_bounded_in_rows_once_a_reply_said_what_a_row_takes() -> None:
    backlog, tickets = filled(b"abc")
    first = backlog.take(256, 10**6, 100)
    backlog.learn([(one, Reply(200, "", 64, b"")) for one in first])
    for each in tickets:
        assert backlog.push(each)

    second = [backlog.take(256, 10**6, 130) for _ in range(2)]

    assert first == tickets  # nothing was known yet
    assert second == [tickets[:2], tickets[2:]]


def test_what_a_row_takes_follows_the_replies_and_an_error_teaches_nothing() -> None:
    backlog, tickets = filled(b"abc")
    one = backlog.take(1, 10**6)[0]
    backlog.learn([(one, Reply(200, "", 50, b""))] * 3 + [(one, Reply(400, "", 0, b""))] * 50)
    as_before = backlog.take(256, 10**6, 99)
    backlog.give_back(as_before)

    backlog.learn([(one, Reply(200, "", 1, b""))] * 50)

    assert as_before == tickets[1:2]
    assert backlog.take(256, 10**6, 99) == tickets[1:]


def test_short_bodies_are_not_counted_as_the_long_ones_are() -> None:
    backlog, tickets = filled(b"abc")
    long = Ticket(1, b"l", b"x" * 6400, nobody)
    backlog.learn([(long, Reply(200, "", 640, b""))])

    assert backlog.take(256, 10**6, 3) == tickets


def test_a_request_that_may_have_killed_a_worker_travels_alone() -> None:
    backlog, tickets = filled(b"ab")
    suspects = [ticket(b"s", deaths=1), ticket(b"t", deaths=1)]
    backlog.give_back(suspects)

    batches = [backlog.take(256, 10**6) for _ in range(3)]

    assert batches == [[suspects[0]], [suspects[1]], tickets]


def test_a_full_backlog_refuses_and_has_room_again_once_requests_have_ended() -> None:
    backlog, tickets = filled(b"abcd")
    one_more = ticket(b"e")
    refused = backlog.push(one_more)

    tickets[1].end(Failure(504, "PS504", "late", "again"))
    accepted = backlog.push(one_more)

    assert (refused, accepted) == (False, True)
    assert [each.id for each in backlog.take(256, 10**6)] == [b"a", b"c", b"d", b"e"]


def test_an_ended_request_is_never_sent() -> None:
    backlog, tickets = filled(b"ab")
    for each in tickets:
        each.end(Failure(504, "PS504", "late", "again"))

    assert backlog.take(256, 10**6) == []
    assert len(backlog) == 0


class Sent:
    """The other end of a lane: keeps how many requests each frame held."""

    def __init__(self) -> None:
        self.frames: list[int] = []

    def write(self, frame: bytes) -> None:
        self.frames.append(int.from_bytes(frame[4:8], "little"))


class Lined:
    """A lane whose process answers when the test says so."""

    def __init__(self) -> None:
        self.backlog = Backlog(max_requests=100, max_bytes=10**6)
        self.sent = Sent()
        self.lane = Lane(self.take, self.settle)
        self.lane.connection_made(cast("Any", self.sent))

    def take(self) -> Batch | None:
        tickets = self.backlog.take(256, 10**6)
        return Batch(tickets, 0, 20.0, is_alone=True) if tickets else None

    def settle(self, batch: Batch, replies: list[Reply], took_s: float) -> None:
        assert took_s > 0
        self.backlog.expect(len(batch.tickets), self.lane.release)
        for one, reply in zip(batch.tickets, replies, strict=True):
            one.end(reply)

    async def come(self, number: int) -> None:
        for _ in range(number):
            made = ticket(b"t")
            made.deployment = version(1)
            self.backlog.push(made)
        self.lane.wake()
        await asyncio.sleep(0.01)

    async def answer(self) -> None:
        await asyncio.sleep(0.01)
        self.lane.data_received(encode_reply([Reply(200, "", 1, b"")] * self.sent.frames[-1]))
        await asyncio.sleep(0.01)


def test_a_slow_process_waits_for_those_who_were_just_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "LINGER", 1e6)
    monkeypatch.setattr(batching, "LINGER_S", 600.0)

    async def play() -> tuple[list[int], list[int], list[int]]:
        lined = Lined()
        await lined.come(3)
        await lined.come(1)
        await lined.answer()
        await lined.come(1)
        early = list(lined.sent.frames)
        await lined.come(2)
        together = list(lined.sent.frames)
        await lined.answer()
        await lined.come(1)
        lined.lane.release()  # as when another version wants the process
        await asyncio.sleep(0.01)
        return early, together, lined.sent.frames

    early, together, at_last = asyncio.run(play())

    assert early == [3]
    assert together == [3, 4]
    assert at_last == [3, 4, 1]


def test_those_who_do_not_come_back_are_not_waited_for_long_nor_at_all_by_a_quick_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play() -> list[int]:
        lined = Lined()
        await lined.come(2)
        await lined.come(1)
        await lined.answer()
        await asyncio.sleep(0.03)
        return lined.sent.frames

    soon = asyncio.run(play())
    monkeypatch.setattr(batching, "LINGER", 1e6)
    monkeypatch.setattr(batching, "LINGER_S", 600.0)
    monkeypatch.setattr(batching, "LINGER_FROM_S", 600.0)
    at_once = asyncio.run(play())

    assert soon == at_once == [2, 1]


@pytest.mark.parametrize(
    ("share", "took_s", "expected_s"),
    [
        (100, 0.01, 0.002),
        (90, 0.01, 0.002),
        (50, 0.01, 0.002),
        (10, 0.003, 0.00375),
        (10, 0.03, 0.005),
        (100, 9.0, 0.005),
    ],
)
def test_who_gets_few_requests_waits_about_a_call_for_more_and_never_more_than_a_bound(
    share: int, took_s: float, expected_s: float
) -> None:
    one = ticket(b"t")
    one.deployment = version(1, share=share)

    assert linger_s(took_s, Batch([one], 0, 20.0)) == pytest.approx(expected_s)


def test_a_canary_waits_a_quarter_of_the_time_that_its_project_allows() -> None:
    one = ticket(b"t")
    one.deployment = replace(version(1, share=10), serving={"p95_ms": 8.0})

    assert linger_s(0.03, Batch([one], 0, 20.0)) == pytest.approx(0.002)


def test_the_wait_of_a_canary_for_more_leaves_most_of_the_time_after_which_it_is_slow() -> None:
    assert 4 * batching.LINGER_S * 1000 <= SLOW_LEAST_MS
