import asyncio
from typing import Any, cast

from penstock.inference.gateway.one_write import OneWrite


class Kept:
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.ended = ""

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def is_closing(self) -> bool:
        return bool(self.ended)

    def get_extra_info(self, name: str) -> str:
        return f"the transport's {name}"

    def pause_reading(self) -> str:
        return "paused"


def written(kept: Kept, loop: asyncio.AbstractEventLoop) -> OneWrite:
    return OneWrite(cast("asyncio.Transport", cast("Any", kept)), loop)


def test_what_is_written_in_one_turn_is_sent_at_once_and_in_order() -> None:
    async def play() -> list[bytes]:
        kept = Kept()
        transport = written(kept, asyncio.get_running_loop())
        transport.write(b"head ")
        transport.write(b"body")
        assert kept.sent == []
        await asyncio.sleep(0)
        transport.write(b"next")
        await asyncio.sleep(0)
        return kept.sent

    assert asyncio.run(play()) == [b"head body", b"next"]


def test_a_transport_that_is_closed_sends_first_and_one_that_is_aborted_does_not() -> None:
    async def play(end: str) -> Kept:
        kept = Kept()
        transport = written(kept, asyncio.get_running_loop())
        transport.write(b"last words")
        getattr(transport, end)()
        await asyncio.sleep(0)
        return kept

    closed, aborted = asyncio.run(play("close")), asyncio.run(play("abort"))

    assert (closed.ended, closed.sent) == ("closed", [b"last words"])
    assert (aborted.ended, aborted.sent) == ("aborted", [])


def test_all_else_is_the_transports_own() -> None:
    async def play() -> None:
        transport = written(Kept(), asyncio.get_running_loop())
        assert transport.get_extra_info("socket") == "the transport's socket"
        assert transport.pause_reading() == "paused"
        assert not transport.is_closing()
        transport.close()
        assert transport.is_closing()

    asyncio.run(play())
