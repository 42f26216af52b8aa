import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.inference.program import frames
from penstock.inference.program.frames import HEADER, FrameError, Reply, RequestPart

PARTS = st.lists(
    st.builds(
        RequestPart,
        st.integers(0, 255),
        st.binary(max_size=255),
        st.binary(max_size=300),
        st.integers(0, 2**16 - 1),
        st.integers(0, 255),
    ),
    max_size=5,
)
REPLIES = st.lists(
    st.builds(
        Reply,
        st.integers(100, 599),
        st.text(max_size=60),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=300),
        st.integers(0, 255),
    ),
    max_size=5,
)


@given(PARTS)
def test_a_request_arrives_as_it_was_sent(parts: list[RequestPart]) -> None:
    frame = memoryview(frames.encode_request(parts))

    assert HEADER.unpack_from(frame) == (len(frame) - HEADER.size,)
    assert frames.decode_request(frame[HEADER.size :]) == parts


@given(REPLIES)
def test_a_reply_arrives_as_it_was_sent(replies: list[Reply]) -> None:
    frame = memoryview(frames.encode_reply(replies))

    assert HEADER.unpack_from(frame) == (len(frame) - HEADER.size,)
    assert frames.decode_reply(frame[HEADER.size :]) == replies


def test_the_layout_is_the_agreed_one() -> None:
    frame = frames.encode_request([RequestPart(1, b"ab", b"{}", 258, 2), RequestPart(0, b"", b"")])

    assert frame == (b"\x1a\0\0\0\x02\0\0\0\x09\0\0\0\x05\0\0\0\x01\x02\x02\x02\x01ab{}\0\0\0\0\0")
    assert frames.encode_reply([Reply(404, "q", 7, b"!", 1)]) == (
        b"\x12\0\0\0\x01\0\0\0\x0a\0\0\0\x94\x01\x01\x01q\x07\0\0\0!"
    )


@pytest.mark.parametrize("cut", [1, 5, 9, 13])
def test_a_torn_request_is_an_error_and_not_a_shorter_one(cut: int) -> None:
    payload = frames.encode_request([RequestPart(1, b"id", b"body")])[HEADER.size :]

    with pytest.raises(FrameError):
        frames.decode_request(memoryview(payload)[:-cut])


@given(st.binary(max_size=40))
def test_noise_never_raises_anything_else(noise: bytes) -> None:
    for decode in (frames.decode_request, frames.decode_reply):
        try:
            decode(memoryview(noise))
        except FrameError:
            continue


def test_a_count_beyond_the_frame_reserves_no_memory() -> None:
    with pytest.raises(FrameError, match="cannot hold 4294967295 parts"):
        frames.decode_request(memoryview(b"\xff\xff\xff\xff" + b"\0" * 8))
