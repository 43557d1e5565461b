"""Raw REQ."""

from __future__ import annotations

import pytest
from wire import ID, request_id, word

from spworkers.protocol.xreq import XReq
from spworkers.testing import FakeMessage, FakePipe, Harness


@pytest.fixture
def harness() -> Harness:
    harness = Harness(XReq)
    harness.open()
    return harness


def send(harness: Harness, body: bytes, header: bytes = ID) -> FakeMessage:
    return harness.send(0, body, header=header)


def test_the_programs_header_goes_on_the_wire(harness: Harness) -> None:
    pipe = harness.connect()
    message = send(harness, b"ping", word(5) + ID)
    assert pipe.sent == [word(5) + ID + b"ping"]
    assert message.state == "freed"


@pytest.mark.parametrize("header", [b"", b"\x80", b"\x80\x00\x00"])
def test_a_header_without_a_word_is_dropped_quietly(harness: Harness, header: bytes) -> None:
    pipe = harness.connect()
    message = send(harness, b"body", header)
    assert message.state == "freed"
    assert pipe.sent == []
    assert harness.counts == {"bad_header": 1}


def test_a_reply_comes_with_its_first_word_as_header(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, ID + b"pong")
    reply = harness.recv()
    assert reply is not None
    assert (reply.header, reply.body, reply.pipe, reply.serial) == (ID, b"pong", pipe.id, 0)


@pytest.mark.parametrize("junk", [b"", b"{", b"\x80\x00\x00"])
def test_a_reply_without_a_word_is_dropped_and_the_pipe_kept(harness: Harness, junk: bytes) -> None:
    pipe = harness.connect()
    harness.feed(pipe, junk, ID + b"pong")
    assert harness.recv_all() == [b"pong"]
    assert harness.pipe_counts == {(pipe.id, "garbled"): 1}
    assert pipe.attached


def test_requests_go_round_robin(harness: Harness) -> None:
    """B17: the RFC demands it."""
    pipes = [harness.connect() for _ in range(3)]
    for number in range(9):
        send(harness, str(number).encode())
    assert [[frame[4:] for frame in pipe.sent] for pipe in pipes] == [
        [b"0", b"3", b"6"],
        [b"1", b"4", b"7"],
        [b"2", b"5", b"8"],
    ]


def test_a_congested_pipe_is_passed_over_and_comes_back_last(harness: Harness) -> None:
    one, two, three = (harness.connect() for _ in range(3))
    harness.congest(one)
    for number in range(4):
        send(harness, str(number).encode())
    assert (len(one.sent), len(two.sent), len(three.sent)) == (0, 2, 2)
    harness.drain(one)
    for number in range(3):
        send(harness, str(number).encode())
    assert (len(one.sent), len(two.sent), len(three.sent)) == (1, 3, 3)


def test_without_a_ready_pipe_requests_wait_unclaimed_and_in_order(harness: Harness) -> None:
    first, second, third = (send(harness, body) for body in (b"1", b"2", b"3"))
    assert {message.state for message in (first, second, third)} == {"waiting"}
    assert second.take_back()
    pipe = harness.connect()
    assert pipe.sent == [ID + b"1", ID + b"3"]
    assert harness.leaks() == []


def test_a_pipe_that_fills_up_leaves_the_rest_to_others(harness: Harness) -> None:
    for number in range(5):
        send(harness, str(number).encode())
    one = harness.connect(room=2)
    assert len(one.sent) == 2
    assert one.congested
    two = harness.connect()
    assert [frame[4:] for frame in two.sent] == [b"2", b"3", b"4"]


def test_a_new_message_does_not_overtake_those_that_wait(harness: Harness) -> None:
    one = harness.connect(room=1)
    for number in range(3):
        send(harness, str(number).encode())
    harness.drain(one, room=1)
    send(harness, b"3")
    harness.drain(one)
    assert [frame[4:] for frame in one.sent] == [b"0", b"1", b"2", b"3"]


def test_ready_pipes_are_told(harness: Harness) -> None:
    assert harness.ready == 0
    one, two = harness.connect(), harness.connect()
    assert harness.ready == 2
    harness.congest(one)
    assert harness.ready == 1
    harness.congest(one)  # again
    assert harness.ready == 1
    harness.disconnect(two)
    assert harness.ready == 0
    harness.drain(one)
    assert harness.ready == 1
    harness.disconnect(one)
    assert harness.ready == 0


@pytest.mark.parametrize("prompt", [True, False])
def test_a_pipe_that_breaks_while_it_is_used(prompt: bool) -> None:
    harness = Harness(XReq, prompt=prompt)
    harness.open()
    for number in range(3):
        send(harness, str(number).encode())
    harness.connect(breaks=True)
    good = harness.connect()
    assert good.sent == ([ID + b"1", ID + b"2"] if prompt else [])
    assert harness.leaks() == []


def test_a_device_gets_requests_through(harness: Harness) -> None:
    """REQ → xrep/xreq → REP: the word that xrep put in front travels, and comes back."""
    pipe = harness.connect()
    send(harness, b"ping", word(77) + request_id(5))
    assert pipe.sent == [word(77) + request_id(5) + b"ping"]
    harness.feed(pipe, word(77) + request_id(5) + b"pong")
    reply = harness.recv()
    assert reply is not None
    assert reply.header + reply.body == word(77) + request_id(5) + b"pong"


def test_the_receive_queue_pushes_back(harness: Harness) -> None:
    harness.configure("READQ-LEN", 2)
    pipe = harness.connect()
    harness.feed(pipe, *(ID + str(number).encode() for number in range(5)))
    assert len(pipe.unread) == 3
    assert harness.recv_all() == [b"0", b"1", b"2", b"3", b"4"]


def test_closing_drops_nothing_that_waits(harness: Harness) -> None:
    """LINGER: what was accepted goes out after the socket was closed."""
    message = send(harness, b"last words")
    harness.close()
    assert message.state == "waiting"
    pipe = harness.connect()
    assert pipe.sent == [ID + b"last words"]


# --- a device, which has calls of the call format go to several servers

CALL_ID = b"callid.1"
CALL = b"\xc1\x10" + CALL_ID + bytes(4) + b"\x92\xa3add\x90"
NEXT = b"\xc1\x15" + CALL_ID + bytes(8)
CANCEL = b"\xc1\x16" + CALL_ID


def called(device: Harness) -> tuple[FakePipe, FakePipe]:
    """Two servers, the first of which has the call."""
    pipes = [device.connect() for _ in range(2)]
    send(device, CALL)
    [where] = [pipe for pipe in pipes if pipe.sent]
    [other] = [pipe for pipe in pipes if not pipe.sent]
    return where, other


@pytest.fixture
def device(harness: Harness) -> Harness:
    harness.machine.in_device(True)
    return harness


@pytest.mark.parametrize("about", [NEXT, CANCEL])
@pytest.mark.parametrize("others", range(4))
def test_what_is_about_a_call_goes_where_the_call_went(device: Harness, about: bytes, others: int) -> None:
    pipes = [device.connect() for _ in range(3)]
    send(device, CALL, word(5) + ID)
    [where] = [pipe for pipe in pipes if pipe.sent]
    for number in range(others):
        send(device, b"other %d" % number)
    message = send(device, about, word(5) + request_id(77))
    assert where.sent[-1] == word(5) + request_id(77) + about
    assert message.state == "freed"


@pytest.mark.parametrize("about", [NEXT, CANCEL])
def test_without_a_device_everything_goes_round_robin(harness: Harness, about: bytes) -> None:
    pipes = [harness.connect() for _ in range(2)]
    send(harness, CALL)
    send(harness, about)
    assert sorted(len(pipe.sent) for pipe in pipes) == [1, 1]


@pytest.mark.parametrize("kind", [0x11, 0x12, 0x14])
def test_a_call_that_is_answered_is_forgotten(device: Harness, kind: int) -> None:
    where, other = called(device)
    device.feed(where, word(9) + ID + b"\xc1\x13" + CALL_ID)  # a part: the stream goes on
    send(device, NEXT)
    assert len(where.sent) == 2
    device.feed(where, word(9) + ID + bytes((0xC1, kind)) + CALL_ID)
    for _ in range(2):
        send(device, NEXT)
    assert sorted(len(pipe.sent) for pipe in (where, other)) == [1, 3]


def test_it_waits_for_a_pipe_that_is_congested_and_keeps_nobody_else_waiting(device: Harness) -> None:
    where, other = called(device)
    device.congest(where)
    first, second = send(device, NEXT), send(device, CANCEL)
    taken_back = send(device, CANCEL)
    taken_back.state = "taken back"
    send(device, b"other")
    assert other.sent == [ID + b"other"]
    assert (first.state, second.state) == ("waiting", "waiting")
    device.drain(where)
    assert where.sent[1:] == [ID + NEXT, ID + CANCEL]
    send(device, b"once more")
    assert len(where.sent) + len(other.sent) == 5


def test_what_waited_for_a_pipe_that_is_lost_goes_to_another(device: Harness) -> None:
    """Which knows nothing of the call, and says so."""
    where, other = called(device)
    device.congest(where)
    send(device, NEXT)
    device.disconnect(where)
    assert other.sent == [ID + NEXT]
    send(device, CANCEL)
    assert other.sent == [ID + NEXT, ID + CANCEL]


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\xc1\x10" + CALL_ID, b"\xc1\x15" + CALL_ID, bytes(10), bytes(18)])
def test_other_formats_are_nobodys_business(device: Harness, body: bytes) -> None:
    pipes = [device.connect() for _ in range(2)]
    send(device, CALL)
    for _ in range(3):
        send(device, body)
    assert sorted(len(pipe.sent) for pipe in pipes) == [2, 2]


def test_no_more_calls_are_remembered_than_so_many(device: Harness) -> None:
    pipes = [device.connect() for _ in range(2)]
    send(device, CALL)
    for number in range(65536):
        send(device, b"\xc1\x10" + number.to_bytes(8, "big") + bytes(4))
    before = [len(pipe.sent) for pipe in pipes]
    for _ in range(2):
        send(device, NEXT)
    assert [len(pipe.sent) for pipe in pipes] == [count + 1 for count in before]


PART = b"\xc1\x13" + CALL_ID
LOST = b"\xc1\x12" + CALL_ID


def test_a_repeated_call_is_where_the_first_part_came_from(device: Harness) -> None:
    first, second = device.connect(), device.connect()
    send(device, CALL)
    send(device, CALL)  # the client has waited for RETRY-TIME
    assert len(first.sent) == len(second.sent) == 1
    device.feed(first, word(9) + ID + PART)
    device.feed(second, word(9) + ID + PART)
    for number in range(3):
        send(device, NEXT)
        assert len(first.sent) == 2 + number
        device.feed(first, word(9) + ID + PART)
    device.feed(second, word(9) + ID + LOST)
    send(device, NEXT)
    assert len(first.sent) == 5
    assert len(second.sent) == 1


def test_who_asks_a_server_that_dies_is_answered_by_another(device: Harness) -> None:
    where, other = called(device)
    device.feed(where, word(9) + ID + PART)
    asked = send(device, NEXT, word(5) + request_id(8))
    assert where.sent[-1] == word(5) + request_id(8) + NEXT
    assert asked.state == "freed"  # it takes no place in the lane
    device.disconnect(where)
    assert other.sent == [word(5) + request_id(8) + NEXT]


def test_or_by_the_first_that_comes(device: Harness) -> None:
    pipe = device.connect()
    send(device, CALL)
    device.feed(pipe, word(9) + ID + PART)
    send(device, NEXT)
    device.disconnect(pipe)
    later = device.connect()
    assert later.sent == [ID + NEXT]
    device.disconnect(later)
    assert device.connect().sent == []


def test_what_was_answered_is_not_asked_again(device: Harness) -> None:
    pipe = device.connect()
    send(device, CALL)
    device.feed(pipe, word(9) + ID + PART)
    send(device, NEXT)
    device.feed(pipe, word(9) + ID + PART)
    device.disconnect(pipe)
    assert device.connect().sent == []
