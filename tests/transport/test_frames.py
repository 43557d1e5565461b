"""The reference codec of frames."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spworkers.errors import BadValueError, GarbledError, SPError, TooLongError
from spworkers.transport.frames import MAX_LENGTH, NUMBERS, Decoder, encode, header

FRAMINGS = ("stream", "ipc")
framings = st.sampled_from(FRAMINGS)
payloads = st.lists(st.binary(max_size=300), max_size=8)


def cut(data: bytes, points: list[int]) -> list[bytes]:
    """The data in pieces, some of them empty."""
    edges = [0, *sorted(point % (len(data) + 1) for point in points), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def decode(decoder: Decoder, pieces: list[bytes]) -> tuple[list[bytes], type[SPError] | None]:
    """All messages of all pieces, and the error that came after them."""
    messages: list[bytes] = []
    for piece in pieces:
        try:
            messages += decoder.feed(piece)
        except SPError:
            break
    return messages, None if decoder.error is None else type(decoder.error)


def test_the_bytes_on_the_wire_are_those_of_the_captures() -> None:
    assert encode("stream", b"hello") == bytes.fromhex("0000000000000005 68656c6c6f")
    assert encode("ipc", b"hello") == bytes.fromhex("01 0000000000000005 68656c6c6f")
    assert encode("stream", b"") == bytes(8)
    assert header("stream", MAX_LENGTH) == b"\x7f" + b"\xff" * 7
    assert NUMBERS == {"stream": 0, "ipc": 1}


@given(framings, payloads, st.lists(st.integers(0, 4000), max_size=20))
def test_messages_survive_any_cutting(framing: str, messages: list[bytes], points: list[int]) -> None:
    data = b"".join(encode(framing, each) for each in messages)
    decoder = Decoder(framing)
    assert decode(decoder, cut(data, points)) == (messages, None)
    assert decoder.idle


@given(framings, payloads, st.binary(max_size=60), st.lists(st.integers(0, 4000), max_size=20), st.integers(0, 200))
def test_hostile_bytes_give_the_same_however_they_are_cut(
    framing: str, messages: list[bytes], garbage: bytes, points: list[int], limit: int
) -> None:
    data = b"".join(encode(framing, each) for each in messages) + garbage
    whole = decode(Decoder(framing, limit), [data])
    assert decode(Decoder(framing, limit), cut(data, points)) == whole
    assert whole[1] in (None, TooLongError, GarbledError)
    assert all(len(each) <= limit for each in whole[0]) or not limit


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("size", [98, 99, 100, 101])
def test_the_limit_is_exact(framing: str, size: int) -> None:
    decoder = Decoder(framing, 100)
    if size <= 100:
        assert decoder.feed(encode(framing, bytes(size))) == [bytes(size)]
        return
    with pytest.raises(TooLongError, match=r"101 bytes.*MAX-RCV-SIZE is 100"):
        decoder.feed(encode(framing, bytes(size)))


@pytest.mark.parametrize("framing", FRAMINGS)
def test_the_default_limit_of_mangos_includes_its_value(framing: str) -> None:
    size = 1 << 20
    assert Decoder(framing, size).feed(encode(framing, bytes(size))) == [bytes(size)]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("length", [1 << 40, MAX_LENGTH])
@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_a_huge_length_allocates_nothing(framing: str, length: int, limit: int) -> None:
    decoder = Decoder(framing, limit)
    tracemalloc.start()
    try:
        if limit:
            with pytest.raises(TooLongError):
                decoder.feed(header(framing, length))
        else:
            assert decoder.feed(header(framing, length)) == []
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_length_with_its_highest_bit_is_refused_at_once(framing: str) -> None:
    prefix = header(framing, 0)[:-8]
    for data in (prefix + b"\x80", prefix + b"\xff" * 8, prefix + b"\x80" + bytes(7)):
        with pytest.raises(GarbledError, match="highest bit"):
            Decoder(framing).feed(data)


@pytest.mark.parametrize("kind", [0, 2, 0x80, 0xFF])
def test_another_ipc_type_is_refused_at_its_first_byte(kind: int) -> None:
    with pytest.raises(GarbledError, match=f"{kind:#04x}"):
        Decoder("ipc").feed(bytes([kind]))


def test_messages_before_an_error_are_not_lost() -> None:
    decoder = Decoder("stream", 10)
    assert decoder.feed(encode("stream", b"one") + encode("stream", b"") + encode("stream", bytes(11))) == [b"one", b""]
    assert isinstance(decoder.error, TooLongError)
    assert not decoder.idle
    assert not decoder._buffer  # nothing of a lost stream is kept
    for data in (b"", encode("stream", b"never seen")):
        with pytest.raises(TooLongError):
            decoder.feed(data)


def test_idle_tells_a_clean_end() -> None:
    decoder = Decoder("ipc")
    assert decoder.idle
    data = encode("ipc", b"xyz")
    for byte in data[:-1]:
        assert decoder.feed(bytes([byte])) == []
        assert not decoder.idle
    assert decoder.feed(data[-1:]) == [b"xyz"]
    assert decoder.idle


def test_buffers_of_other_kinds_are_taken() -> None:
    data = encode("stream", b"abc")
    assert Decoder("stream").feed(bytearray(data)) == [b"abc"]
    assert Decoder("stream").feed(memoryview(data)) == [b"abc"]


@pytest.mark.parametrize("length", [-1, MAX_LENGTH + 1])
def test_what_is_no_length_is_not_encoded(length: int) -> None:
    with pytest.raises(BadValueError):
        header("stream", length)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(BadValueError, match="'tcp'"):
        Decoder("tcp")
    with pytest.raises(BadValueError, match="-1"):
        Decoder("stream", -1)
