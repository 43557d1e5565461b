"""The codec of streams that are no mere sockets: what was not accepted is offered again, nothing is kept back."""

from __future__ import annotations

import os

import pytest

from spworkers.errors import GarbledError, TLSError, TooLongError
from spworkers.transport.frames import encode
from spworkers.transport.stream import GRAIN, READ_SIZE, WRITE_SIZE, StreamReader, StreamWriter


class Scripted:
    """A stream that gives and takes as it is told."""

    def __init__(self, *incoming: bytes | Exception, takes: tuple[int, ...] = ()) -> None:
        self.incoming = list(incoming)
        self.takes = list(takes)
        self.sent = b""
        self.pending = False
        self.offers: list[bytes] = []

    def fileno(self) -> int:
        return -1

    def recv(self, size: int, /) -> bytes:
        if not self.incoming:
            raise BlockingIOError
        first = self.incoming.pop(0)
        if isinstance(first, Exception):
            raise first
        if len(first) > size:
            self.incoming.insert(0, first[size:])
        return first[:size]

    def recv_into(self, buffer: memoryview, /) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def send(self, data: bytes, /) -> int:  # type: ignore[override]
        self.offers.append(bytes(data))
        if not self.takes:
            raise BlockingIOError
        taken = min(self.takes.pop(0), len(data))
        self.sent += bytes(data)[:taken]
        return taken

    def shutdown(self, how: int, /) -> None: ...

    def close(self) -> None: ...


def test_messages_however_they_are_cut() -> None:
    words = b"".join(encode("stream", body) for body in (b"one", b"", b"three" * 20_000))
    reader = StreamReader(Scripted(words[:5], words[5:30], words[30:]))
    assert reader.more == 1, "what the handshake left is nothing that a poll would tell of"
    assert reader.read() == []
    assert (reader.more, reader.got) == (0, 5)
    assert reader.read() == [b"one", b""]
    assert reader.read() == [b"three" * 20_000]
    assert reader.read() == []
    assert (reader.frames, reader.received, reader.more, reader.got) == (3, len(words), 0, 0)


def test_a_stream_that_gave_all_that_was_asked_for_has_more() -> None:
    reader = StreamReader(Scripted(bytes(READ_SIZE + 10)))
    assert len(reader.read()) == READ_SIZE // 8
    assert reader.more == 1
    reader.read()
    assert reader.more == 0


def test_a_stream_that_knows_more_is_asked_again() -> None:
    stream = Scripted(encode("stream", b"last"), b"")
    stream.pending = True
    reader = StreamReader(stream)
    assert reader.read() == [b"last"]
    assert reader.more == 1
    reader.read()
    assert reader.more == 2


def test_the_end() -> None:
    reader = StreamReader(Scripted(encode("stream", b"last"), b""))
    assert reader.read() == [b"last"]
    assert reader.read() == []
    assert (reader.more, reader.error) == (2, None)


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ((11).to_bytes(8, "big"), TooLongError),
        (b"\xff", GarbledError),
        (TLSError("no TLS"), TLSError),
    ],
)
def test_what_is_wrong_ends_it_after_what_was_right(bad: bytes | Exception, kind: type[Exception]) -> None:
    incoming = [encode("stream", b"good")] + ([bad] if isinstance(bad, Exception) else [])
    if isinstance(bad, bytes):
        incoming[0] += bad
    reader = StreamReader(Scripted(*incoming), 10)
    assert reader.read() == [b"good"]
    reader.read()
    assert isinstance(reader.error, kind)
    assert reader.more == 2
    assert reader.read() == []


def test_a_lost_connection_is_the_callers() -> None:
    with pytest.raises(ConnectionResetError):
        StreamReader(Scripted(ConnectionResetError())).read()


def test_what_was_not_taken_is_offered_again_first() -> None:
    stream = Scripted(takes=(3,))
    writer = StreamWriter(stream)
    assert writer.push_bytes(b"hello") == 13
    assert writer.flush() is False
    writer.push_bytes(b"world")
    first, second = stream.offers
    assert first[3:] == second
    assert (writer.sent, writer.frames, writer.queued) == (3, 0, 2)
    stream.takes += [1, 100, 100]
    assert writer.flush() is True
    assert stream.sent == encode("stream", b"hello") + encode("stream", b"world")
    assert (writer.sent, writer.frames, writer.queued) == (26, 2, 0)
    assert stream.offers[2] == second


def test_much_goes_in_pieces_of_whole_records() -> None:
    stream = Scripted(takes=(1 << 20,) * 20)
    writer = StreamWriter(stream)
    body = os.urandom(3 * WRITE_SIZE)
    writer.push_bytes(body)
    writer.push_bytes(b"small")
    writer.push_bytes(body)
    assert writer.flush()
    assert stream.sent == encode("stream", body) + encode("stream", b"small") + encode("stream", body)
    sizes = [len(offer) for offer in stream.offers]
    assert sizes == [GRAIN, WRITE_SIZE, WRITE_SIZE, WRITE_SIZE - GRAIN] * 2 + [29], "the head with a record's worth"


def test_a_large_message_that_was_not_taken_whole_is_offered_on() -> None:
    body = os.urandom(200_000)
    stream = Scripted(takes=(5, GRAIN, 1, GRAIN + 7))
    writer = StreamWriter(stream)
    writer.push_bytes(body)
    assert not writer.flush()
    while not writer.flush():
        stream.takes.append(30_000)
    assert stream.sent == encode("stream", body)
    assert (writer.sent, writer.frames, writer.queued) == (200_008, 1, 0)


def test_a_large_message_is_read_where_it_belongs() -> None:
    body = os.urandom(100_000)
    words = encode("stream", body) + encode("stream", b"next")
    reader = StreamReader(Scripted(words[:20], words[20:50_000], words[50_000:]))
    assert reader.read() == reader.read() == []
    assert reader.read() == [body, b"next"]
    assert (reader.frames, reader.received) == (2, len(words))


def test_what_was_not_sent_is_given_back() -> None:
    stream = Scripted(takes=(1,))
    writer = StreamWriter(stream)
    for _ in range(3):
        writer.push_bytes(b"x")
    assert not writer.flush()
    assert writer.discard() == 3
    assert writer.flush() is True, "there is nothing left to send"
