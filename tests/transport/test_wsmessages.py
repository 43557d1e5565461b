"""Messages as WebSocket frames, without a network: any fragments, any cuts, any nonsense, any reluctance to write."""

from __future__ import annotations

import itertools
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol
from websockets.server import ServerProtocol
from websockets.uri import WebSocketURI

from spworkers.errors import GarbledError, SPError, TooLongError
from spworkers.transport.wshead import ClientSide, ServerSide
from spworkers.transport.wsmessages import ANSWERS, BATCH, FRAGMENT, WsReader, WsWriter, limits_of

URI = WebSocketURI(False, "x", 80, "/", "")


class Stub:
    """A stream: what was put there is read, as much as there is room for is written."""

    def __init__(self, *chunks: bytes, room: int = 1 << 40) -> None:
        self.chunks = deque(chunks)
        self.room = room
        self.written = bytearray()

    def fileno(self) -> int:
        return -1

    def recv(self, size: int, /) -> bytes:
        if not self.chunks:
            raise BlockingIOError
        return self.chunks.popleft()

    def send(self, data: memoryview, /) -> int:
        if self.room == 0:
            raise BlockingIOError
        taken = min(self.room, len(data))
        self.room -= taken
        self.written += data[:taken]
        return taken


def server() -> ServerProtocol:
    return ServerProtocol(state=OPEN, max_size=limits_of(0))


def client() -> ClientProtocol:
    return ClientProtocol(URI, state=OPEN, max_size=limits_of(0))


def reading(stub: Stub, limit: int = 0, websocket: Protocol | None = None) -> tuple[WsReader, WsWriter]:
    protocol = websocket or server()
    writer = WsWriter(protocol, stub)
    return WsReader(protocol, stub, writer, limit), writer


def everything(reader: WsReader, stub: Stub) -> list[bytes]:
    found = []
    while stub.chunks and reader.more != 2:
        found += reader.read()
    return found


def fragments(message: bytes, cuts: list[int], opcode: Opcode) -> bytes:
    """A message in frames that end at these places, each of them possibly empty."""
    places = sorted(cut % (len(message) + 1) for cut in cuts)
    parts = [message[a:b] for a, b in zip([0, *places], [*places, len(message)], strict=True)]
    wire = b""
    for number, part in enumerate(parts):
        kind = Opcode.CONT if number else opcode
        wire += Frame(kind, part, number == len(parts) - 1).serialize(mask=True)
        wire += Frame(Opcode.PING, b"p").serialize(mask=True)
    return wire


messages = st.lists(
    st.tuples(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4), st.sampled_from([1, 2])), max_size=6
)


@given(messages, st.lists(st.integers(0, 3000), max_size=8))
def test_any_fragments_cut_anywhere_are_the_same_messages(
    said: list[tuple[bytes, list[int], int]], cuts: list[int]
) -> None:
    wire = b"".join(fragments(message, inner, Opcode(opcode)) for message, inner, opcode in said)
    places = sorted({cut % (len(wire) + 1) for cut in cuts} | {0, len(wire)})
    stub = Stub(*(wire[a:b] for a, b in itertools.pairwise(places)))
    reader, writer = reading(stub)
    assert everything(reader, stub) == [message for message, _, _ in said]
    assert (reader.error, reader.frames) == (None, len(said))
    assert writer.flush()
    pings = sum(len(inner) + 1 for _, inner, _ in said)
    assert stub.written == Frame(Opcode.PONG, b"p").serialize(mask=False) * pings


@given(st.lists(st.binary(max_size=200), max_size=5), st.integers(1, 100))
def test_nonsense_ends_the_reader_and_nothing_else(junk: list[bytes], limit: int) -> None:
    stub = Stub(*(each for each in junk if each))
    reader, writer = reading(stub, limit)
    assert all(len(message) <= limit for message in everything(reader, stub))
    if reader.more == 2 and reader.error is not None:
        assert isinstance(reader.error, SPError)
        assert reader.read() == []
    writer.discard()
    writer.flush()


@given(
    st.lists(st.integers(0, 3 * FRAGMENT), max_size=5),
    st.lists(st.integers(1, 2 * BATCH), min_size=1, max_size=6),
    st.booleans(),
)
@settings(max_examples=50)
def test_what_is_written_by_and_by_is_read_again(sizes: list[int], rooms: list[int], ours_dials: bool) -> None:
    said = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    websocket, other = (client(), server()) if ours_dials else (server(), client())
    stub = Stub(room=0)
    writer = WsWriter(websocket, stub)
    for message in said:
        writer.push_bytes(message)
    assert writer.queued == len(said)
    for room in rooms * 50:
        stub.room = room
        if writer.flush():
            break
        assert writer.queued <= len(said)
        assert len(writer._offered) <= BATCH + FRAGMENT + 100
    else:
        stub.room = 1 << 40
        assert writer.flush()
    assert (writer.queued, writer.frames, writer.sent) == (0, len(said), len(stub.written))
    source = Stub(bytes(stub.written)) if stub.written else Stub()
    reader, _ = reading(source, websocket=other)
    assert everything(reader, source) == said


@pytest.mark.parametrize("parts", [[101], [100, 1], [50, 51], [1] * 101])
def test_what_is_too_long_in_the_sum_is_refused(parts: list[int]) -> None:
    wire = b"".join(
        Frame(Opcode.CONT if number else Opcode.BINARY, bytes(part), number == len(parts) - 1).serialize(mask=True)
        for number, part in enumerate(parts)
    )
    stub = Stub(Frame(Opcode.BINARY, bytes(100)).serialize(mask=True) + wire, b"\0" * 100)
    reader, writer = reading(stub, 100)
    assert everything(reader, stub) == [bytes(100)]
    assert isinstance(reader.error, TooLongError)
    assert reader.more == 2
    assert writer.flush()
    assert stub.written[:4] == b"\x88\x02\x03\xf1" or stub.written[2:4] == b"\x03\xf1"  # close, 1009


@pytest.mark.parametrize(("limit", "said"), [(100, "which is MAX-RCV-SIZE"), (0, "the most that there is room for")])
def test_a_length_that_no_message_has_is_refused_before_its_bytes(limit: int, said: str) -> None:
    stub = Stub(b"\x82\xff" + b"\x7f" + b"\xff" * 7 + bytes(4))
    reader, _ = reading(stub, limit, websocket=ServerProtocol(state=OPEN, max_size=limits_of(limit)))
    assert everything(reader, stub) == []
    assert isinstance(reader.error, TooLongError)
    assert said in str(reader.error)


def test_what_came_with_the_handshake_is_read_first() -> None:
    stub = Stub(Frame(Opcode.BINARY, b"second").serialize(mask=True))
    websocket = server()
    writer = WsWriter(websocket, stub)
    reader = WsReader(websocket, stub, writer, 0, Frame(Opcode.BINARY, b"first").serialize(mask=True))
    assert reader.read() == [b"first"]
    assert reader.more == 1
    assert reader.read() == [b"second"]


def test_an_answer_goes_between_two_fragments() -> None:
    stub = Stub(Frame(Opcode.PING, b"?").serialize(mask=True), room=FRAGMENT)
    reader, writer = reading(stub)
    writer.push_bytes(bytes(10 * FRAGMENT))
    assert not writer.flush()
    assert reader.read() == []
    assert reader.more == 3
    stub.room = 1 << 40
    assert writer.flush()
    source = Stub(bytes(stub.written))
    other, _ = reading(source, websocket=client())
    assert everything(other, source) == [bytes(10 * FRAGMENT)]
    pong = Frame(Opcode.PONG, b"?").serialize(mask=False)
    assert 0 < stub.written.index(pong) < len(stub.written) - len(pong)


def test_pings_of_a_peer_that_does_not_read_are_not_all_answered() -> None:
    stub = Stub(*[Frame(Opcode.PING, bytes(125)).serialize(mask=True) * 100] * 100, room=0)
    reader, writer = reading(stub)
    everything(reader, stub)
    assert ANSWERS < writer._next_size < ANSWERS + BATCH + 100 * 127
    assert reader.error is None


def test_a_peer_that_closes_is_told_so_and_no_error() -> None:
    stub = Stub(Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True))
    reader, writer = reading(stub)
    writer.push_bytes(b"too late")
    assert reader.read() == []
    assert (reader.more, reader.error) == (2, None)
    assert writer.flush()
    assert stub.written == Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=False)
    assert writer.farewell
    assert writer.discard() == 1


@pytest.mark.parametrize("begun", [b"", b"\x82", Frame(Opcode.BINARY, b"x", False).serialize(mask=True)])
def test_a_peer_that_hangs_up_without_a_word_is_no_error_either(begun: bytes) -> None:
    stub = Stub(*([begun] if begun else []), b"")
    reader, _ = reading(stub)
    assert everything(reader, stub) == []
    assert (reader.more, reader.error, reader.hung_up) == (2, None, True)


def test_garbage_is_named() -> None:
    stub = Stub(b"\x82\x01x")
    reader, _ = reading(stub)
    reader.read()
    assert isinstance(reader.error, GarbledError)
    assert "masking" in str(reader.error)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (b"\x82\x01x", 1002),  # not masked
        (b"\x83\x80" + bytes(4), 1002),  # no such kind
        (b"\x82\xff" + bytes(2) + b"\x01" + bytes(5) + bytes(4), 1009),  # too long by its head
        (Frame(Opcode.BINARY, bytes(60), False).serialize(mask=True) * 1 + b"\x80\xbc" + bytes(64), 1009),  # in the sum
        (b"\x88\x83" + bytes(4) + b"\x03\xe8\xff", 1007),  # goodbye in no text
    ],
)
def test_who_breaks_the_rules_learns_a_code_and_no_words(words: bytes, code: int) -> None:
    stub = Stub(words)
    reader, writer = reading(stub, 100, ServerSide(state=OPEN, max_size=limits_of(100)))
    everything(reader, stub)
    assert reader.error is not None
    writer.flush()
    assert bytes(stub.written) == b"\x88\x02" + code.to_bytes(2, "big")


def test_nor_does_a_dialer_say_more() -> None:
    stub = Stub(b"\x82\x7f" + bytes(2) + b"\x01" + bytes(5))
    reader, writer = reading(stub, 100, ClientSide(URI, state=OPEN, max_size=limits_of(100)))
    everything(reader, stub)
    assert isinstance(reader.error, TooLongError)
    writer.flush()
    assert stub.written[:2] == b"\x88\x82"  # masked, and of two bytes
