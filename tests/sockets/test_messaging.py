"""Sending and receiving, whatever the protocol: buffers, sizes, views, reservations, timeouts."""

from __future__ import annotations

import array
import asyncio
import itertools
import math
import os
import socket
import time
from datetime import timedelta
from typing import Any

import pytest
from helpers import alone, eventually
from sockets.kit import (
    BOUND,
    SOON,
    ask,
    background,
    error_of,
    inproc,
    number_of,
    numbered,
    open_fds,
    raw_stream,
    rep_and_req,
    request_id,
    serve,
    wait_blocked,
    wait_fds,
    wait_pipes,
)

import spworkers as sp

HEADER = request_id(1)


# ---- what can be sent


@pytest.mark.parametrize(
    "body",
    [
        b"bytes",
        bytearray(b"bytes"),
        memoryview(b"xbytesx")[1:-1],
        array.array("b", b"bytes"),
        memoryview(b"bytes").cast("B"),
    ],
    ids=lambda body: type(body).__name__,
)
def test_any_contiguous_buffer_can_be_sent(body: Any) -> None:
    with rep_and_req() as (rep, req):
        req.send(body)
        assert rep.recv(timeout=BOUND) == b"bytes"


def test_a_numpy_array_is_sent_as_its_bytes_and_received_into_another() -> None:
    numpy = pytest.importorskip("numpy")
    with rep_and_req() as (rep, req):
        sent = numpy.arange(1000, dtype="<f8").reshape(10, 100)
        req.send(sent)
        got = numpy.zeros_like(sent)
        assert rep.recv_into(got, timeout=BOUND) == 8000
        assert (got == sent).all()
        with pytest.raises(sp.BadValueError, match="contiguous"):
            rep.send(sent.T)


@pytest.mark.parametrize(
    ("body", "words"),
    [("text", "encode"), (5, "int"), (None, "NoneType"), (memoryview(b"123456")[::2], "contiguous"), ([1], "list")],
)
def test_what_is_no_buffer_is_refused_in_words(body: Any, words: str) -> None:
    with rep_and_req() as (rep, req):
        with pytest.raises(sp.BadValueError, match=words):
            req.send(body)
        assert ask_and_serve(rep, req, b"still alive") == b"STILL ALIVE"


def ask_and_serve(rep: sp.Rep, req: sp.Req, body: bytes) -> bytes:
    served = serve(rep)
    answer = ask(req, body)
    served.result(BOUND)
    return answer


def test_a_rep_whose_reply_was_no_buffer_can_still_reply() -> None:
    with rep_and_req() as (rep, req):
        req.send(b"x")
        rep.recv(timeout=BOUND)
        with pytest.raises(sp.BadValueError, match="encode"):
            rep.send("text")  # type: ignore[arg-type]
        rep.send(b"bytes")
        assert req.recv(timeout=BOUND) == b"bytes"


def test_a_message_that_was_sent_is_a_copy() -> None:
    with rep_and_req() as (rep, req):
        body = bytearray(b"before")
        req.send(body)
        body[:] = b"after!"
        assert rep.recv(timeout=BOUND) == b"before"


def test_send_msg_takes_messages_only() -> None:
    with sp.Req() as req, pytest.raises(sp.BadValueError, match="send_msg takes a Message, not bytes"):
        req.send_msg(b"x")  # type: ignore[arg-type]


def test_recv_msg_tells_the_pipe_and_of_cooked_sockets_no_header() -> None:
    with rep_and_req("tcp://127.0.0.1:0") as (rep, req):
        req.send_msg(sp.Message(b"x", header=b"ignored"))
        message = rep.recv_msg(timeout=BOUND)
        assert (message.body, message.header) == (b"x", b"")
        assert message.pipe == rep.pipes[0]
        rep.send_msg(sp.Message(b"y"))
        answer = req.recv_msg(timeout=BOUND)
        assert (answer.body, answer.header, answer.pipe) == (b"y", b"", req.pipes[0])


# ---- sizes


SIZES = [0, *(1 << n for n in range(21))]


@pytest.mark.parametrize("address", ["inproc", "tcp://127.0.0.1:0"])
def test_every_size_arrives_as_it_was_sent(address: str) -> None:
    with rep_and_req(None if address == "inproc" else address, rep={"max_rcv_size": 0}, req={"max_rcv_size": 0}) as (
        rep,
        req,
    ):
        sizes = [*SIZES, *reversed(SIZES), 5 << 20]
        served = serve(rep, len(sizes), lambda body: body)
        for size in sizes:
            body = os.urandom(size)
            assert ask(req, body) == body
        served.result(BOUND)


def test_a_message_beyond_the_byte_budget_has_memory_of_its_own() -> None:
    small = {"byte_budget": 1 << 16, "max_rcv_size": 0}
    with rep_and_req(rep=small, req=small) as (rep, req):
        for size in (1 << 16, (1 << 16) + 1, 1 << 20, 3 << 20, 100):
            body = os.urandom(size)
            served = serve(rep, 1, lambda body: body[::-1])
            assert ask(req, body) == body[::-1]
            assert served.result(BOUND) == [body]


def test_a_full_byte_budget_blocks_send_until_there_is_room() -> None:
    with sp.Req(raw=True, byte_budget=1 << 16) as req:
        for number in range(2):
            req.send_msg(numbered(number, 25_000), timeout=BOUND)
        with pytest.raises(sp.SendTimeoutError, match="no room"):
            req.send_msg(numbered(2, 25_000), timeout=SOON)
        req.send_msg(numbered(2, 10), timeout=0)  # a small one has its room in its slot
        blocked = background(req.send_msg, numbered(3, 25_000))
        wait_blocked(req)
        with sp.Rep(raw=True, listen=inproc()) as rep:
            req.dial(rep.listeners[0].address)
            assert [number_of(rep.recv_msg(timeout=BOUND)) for _ in range(4)] == [0, 1, 2, 3]
        blocked.result(BOUND)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "ipc"])
def test_max_rcv_size_is_exact(address: str, tmp_path: Any) -> None:
    address = f"ipc://{tmp_path}/s" if address == "ipc" else address
    with sp.Rep(listen=address, max_rcv_size=100, recv_deadline=BOUND) as rep:
        for size, fits in ((94, True), (95, True), (96, True), (97, False), (98, False)):  # and 4 bytes of header
            with sp.Req(dial=rep.listeners[0].address, reconnect_time=BOUND, retry_time=0) as req:
                req.send(bytes(size))
                if fits:
                    assert rep.recv() == bytes(size)
                else:
                    with pytest.raises(sp.CanceledError):
                        req.recv(timeout=BOUND)
        assert rep.stats()["drops"]["too_long"] == 2


def test_max_rcv_size_zero_is_no_limit_and_a_change_holds_for_the_next_connection() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0", max_rcv_size=1000) as rep:
        with sp.Req(dial=rep.listeners[0].address, retry_time=0, reconnect_time=0.01) as req:
            req.send(bytes(2000))
            with pytest.raises(sp.CanceledError):
                req.recv(timeout=BOUND)
            rep.max_rcv_size = 0
            for pipe in rep.pipes:  # one that was made before the change
                pipe.close()
            req.send(bytes(2 << 20), timeout=BOUND)
            assert len(rep.recv(timeout=BOUND)) == 2 << 20


# ---- buffers of one's own


def test_recv_into_fills_a_buffer_and_tells_the_length() -> None:
    with rep_and_req() as (rep, req):
        req.send(b"12345")
        buffer = bytearray(b"........")
        assert rep.recv_into(buffer, timeout=BOUND) == 5
        assert buffer == b"12345..."


def test_recv_into_a_buffer_that_is_too_small_loses_that_message_only() -> None:
    with raw_stream() as (sender, receiver):
        for number in (1, 2222, 3):
            sender.send_msg(numbered(number))
        buffer = bytearray(3)
        assert receiver.recv_into(buffer, timeout=BOUND) == 1
        with pytest.raises(sp.TooLongError, match="4 bytes does not fit a buffer of 3"):
            receiver.recv_into(buffer, timeout=BOUND)
        assert receiver.recv_into(buffer, timeout=BOUND) == 1
        assert buffer[:1] == b"3"
        assert receiver.stats()["drops"]["buffer_too_small"] == 1


def test_recv_into_needs_a_writable_buffer_in_one_piece_and_takes_no_message_without() -> None:
    with rep_and_req() as (rep, req):
        req.send(b"x")
        wrong: Any
        for wrong, why in (
            (b"read only", "writable"),
            (memoryview(b"read only"), "writable"),
            ("no buffer", "not str"),
            (memoryview(bytearray(8))[::2], "in one piece"),
        ):
            with pytest.raises(sp.BadValueError, match=f"^recv_into needs.*{why}"):
                rep.recv_into(wrong, timeout=BOUND)
        assert rep.recv(timeout=BOUND) == b"x"


@pytest.mark.parametrize("size", [10, 10_000, 3 << 20])
def test_recv_view_shows_the_message_for_the_length_of_its_block(size: int) -> None:
    options = {"max_rcv_size": 0, "byte_budget": 1 << 20}
    with rep_and_req(rep=options, req=options) as (rep, req):
        body = os.urandom(size)
        req.send(body)
        with rep.recv_view(timeout=BOUND) as view:
            assert view.readonly
            assert view == body
            rep.send(view[:5])
        with pytest.raises(ValueError, match="released"):
            bytes(view)
        assert req.recv(timeout=BOUND) == body[:5]


def test_a_lease_takes_no_place_in_the_queue() -> None:
    with raw_stream(receiver={"readq_len": 1}) as (sender, receiver):
        for number in range(5):
            sender.send_msg(numbered(number, 5000))
        with receiver.recv_view(timeout=BOUND) as first:
            assert [number_of(receiver.recv(timeout=BOUND)) for _ in range(4)] == [1, 2, 3, 4]
            assert number_of(bytes(first)) == 0


@pytest.mark.parametrize("size", [100, 100_000, 3 << 20])
def test_a_lease_stays_readable_after_its_socket_was_closed(size: int) -> None:
    options = {"max_rcv_size": 0, "byte_budget": 1 << 20}
    body = os.urandom(size)
    with rep_and_req(rep=options, req=options) as (rep, req):
        req.send(body)
        lease = rep.recv_view(timeout=BOUND)
        view = lease.__enter__()
        kept = memoryview(view)
    assert rep._port.closed
    assert view == body
    lease.__exit__(None, None, None)
    assert kept == body  # a view of the view is a lease as well
    kept.release()


def test_a_lease_that_ends_after_close_touches_no_descriptor_that_was_opened_since() -> None:
    """The doorbell's number may be another file's by then."""
    with raw_stream(receiver={"readq_len": 1}) as (sender, receiver):
        for number in range(4):  # the I/O process waits for room in the queue
            sender.send_msg(numbered(number, 5000))
        lease = receiver.recv_view(timeout=BOUND)
        lease.__enter__()
        eventually(lambda: sender.stats()["sent"] >= 3)
    pairs = [socket.socketpair() for _ in range(64)]
    try:
        lease.__exit__(None, None, None)
        for end in itertools.chain(*pairs):
            with pytest.raises(BlockingIOError):
                end.recv(8, socket.MSG_DONTWAIT)
    finally:
        for end in itertools.chain(*pairs):
            end.close()


def test_many_leases_do_not_leak() -> None:
    with raw_stream(receiver={"byte_budget": 1 << 20}) as (sender, receiver):
        for number in range(200):
            sender.send_msg(numbered(number, 50_000))
            with receiver.recv_view(timeout=BOUND) as view:
                assert number_of(bytes(view)) == number


@pytest.mark.parametrize("size", [0, 10, 10_000, 3 << 20])
def test_reserve_sends_what_was_written_into_the_buffer(size: int) -> None:
    options = {"max_rcv_size": 0, "byte_budget": 1 << 20}
    body = os.urandom(size)
    with rep_and_req(rep=options, req=options) as (rep, req):
        with req.reserve(size) as buffer:
            assert len(buffer) == size
            buffer[:] = body
        assert rep.recv(timeout=BOUND) == body
        with rep.reserve(size) as buffer:
            buffer[:] = body[::-1]
        assert req.recv(timeout=BOUND) == body[::-1]


def test_reserve_sends_nothing_when_its_block_raises() -> None:
    with rep_and_req() as (rep, req):
        with pytest.raises(KeyError), req.reserve(10) as buffer:
            buffer[:5] = b"hello"
            raise KeyError
        with pytest.raises(sp.ProtoStateError):
            req.recv(timeout=0)
        with pytest.raises(sp.RecvTimeoutError):
            rep.recv(timeout=SOON)


@pytest.mark.parametrize("size", [-1, 1.5, True, "10", None])
def test_reserve_refuses_what_is_no_size(size: Any) -> None:
    with sp.Req() as req, pytest.raises(sp.BadValueError, match="number of bytes"), req.reserve(size):
        pass


@pytest.mark.parametrize("size", [1 << 36, 10**13, 2**70])
def test_reserve_refuses_what_no_message_can_have_as_the_callers_own_mistake(size: int) -> None:
    with sp.Push() as push, sp.Rep() as rep:
        for sock in (push, rep):
            with (
                pytest.raises(sp.BadValueError, match=rf"reserve\({size}\) is more than the \d+ bytes"),
                sock.reserve(size),
            ):
                pass


def test_reserve_raises_as_send_does() -> None:
    with sp.Rep() as rep, pytest.raises(sp.ProtoStateError), rep.reserve(10):
        pass
    with sp.Req(send_deadline=SOON) as req, pytest.raises(sp.SendTimeoutError), req.reserve(10):
        pass
    with sp.Req(raw=True, writeq_len=1) as raw:
        raw.send_msg(numbered(0))
        with pytest.raises(sp.SendTimeoutError), raw.reserve(10, timeout=SOON):
            pytest.fail("there was no room")


def test_a_block_is_entered_once() -> None:
    with sp.Push(listen=inproc()) as sender, sp.Pull(dial=sender.listeners[0].address) as receiver:
        room = sender.reserve(3)
        with room as buffer:
            buffer[:] = b"one"
            with pytest.raises(sp.ProtoStateError, match="of its own"), room:
                pytest.fail("it was entered")
        lease = receiver.recv_view(timeout=BOUND)
        with lease as view:
            assert view == b"one"
            with pytest.raises(sp.ProtoStateError, match="of its own"), lease:
                pytest.fail("it was entered")


def test_what_still_looks_into_a_reserved_block_keeps_it_from_being_sent() -> None:
    with sp.Push(listen=inproc()) as sender, sp.Pull(dial=sender.listeners[0].address) as receiver:
        with pytest.raises(BufferError), sender.reserve(3) as buffer:
            kept = memoryview(buffer)
        kept.release()
        sender.send(b"after")
        assert receiver.recv(timeout=BOUND) == b"after"


# ---- iteration


def test_iteration_receives_until_the_socket_is_closed() -> None:
    with raw_stream() as (sender, receiver):
        for number in range(5):
            sender.send_msg(numbered(number))
        seen = []
        for body in receiver:
            seen.append(number_of(body))
            if len(seen) == 5:
                receiver.close()
        assert seen == [0, 1, 2, 3, 4]


# ---- timeouts


def test_timeout_zero_does_not_wait() -> None:
    with sp.Rep() as rep, sp.Req() as req, sp.Req(raw=True, writeq_len=1) as raw:
        before = time.monotonic()
        for _ in range(20):
            with pytest.raises(sp.RecvTimeoutError, match="Rep socket"):
                rep.recv(timeout=0)
            with pytest.raises(sp.SendTimeoutError, match="Req socket"):
                req.send(b"x", timeout=0)
        raw.send_msg(numbered(1), timeout=0)
        with pytest.raises(sp.SendTimeoutError):
            raw.send_msg(numbered(2), timeout=0)
        assert time.monotonic() - before < BOUND / 4


def test_timeout_zero_takes_what_is_there() -> None:
    with raw_stream() as (sender, receiver):
        sender.send_msg(numbered(7))

        def take() -> bytes | None:
            try:
                return receiver.recv(timeout=0)
            except sp.RecvTimeoutError:
                return None

        assert eventually(take) == b"7"


@pytest.mark.parametrize("timeout", [SOON, timedelta(seconds=SOON)])
def test_a_timeout_is_seconds_or_a_timedelta(timeout: Any) -> None:
    with sp.Rep() as rep:
        before = time.monotonic()
        with pytest.raises(sp.RecvTimeoutError):
            rep.recv(timeout=timeout)
        assert SOON <= time.monotonic() - before < BOUND


def test_a_negative_timeout_does_not_wait() -> None:
    with sp.Rep(recv_deadline=0) as rep, pytest.raises(sp.RecvTimeoutError):
        rep.recv(timeout=-3)


def test_infinity_waits_whatever_the_option_says() -> None:
    with rep_and_req(rep={"recv_deadline": SOON}) as (rep, req):
        waiting = background(rep.recv, timeout=math.inf)
        wait_blocked(rep)
        with pytest.raises(sp.RecvTimeoutError), sp.Rep(recv_deadline=2 * SOON) as other:
            other.recv()
        assert not waiting.done()
        req.send(b"at last")
        assert waiting.result(BOUND) == b"at last"


@pytest.mark.parametrize("timeout", ["1", math.nan, True, object()])
def test_what_is_no_time_is_refused(timeout: Any) -> None:
    with sp.Rep() as rep, pytest.raises(sp.BadValueError, match="timeout"):
        rep.recv(timeout=timeout)
    with sp.Pair() as pair:  # which has room, and would not have to wait
        for send in (pair.send, pair.asend):
            with pytest.raises(sp.BadValueError, match="timeout"):
                asyncio.run(_of(send(b"x", timeout=timeout)))
        for send_msg in (pair.send_msg, pair.asend_msg):
            with pytest.raises(sp.BadValueError, match="timeout"):
                asyncio.run(_of(send_msg(sp.Message(b"x"), timeout=timeout)))


async def _of(awaitable: Any) -> None:
    await awaitable


def test_the_deadline_options_hold_where_no_timeout_is_given() -> None:
    with sp.Req(send_deadline=SOON) as req, sp.Rep(recv_deadline=SOON) as rep:
        for call in (lambda: req.send(b"x"), rep.recv):
            before = time.monotonic()
            with pytest.raises(TimeoutError):
                call()
            assert SOON <= time.monotonic() - before < BOUND


def test_a_timeout_that_ended_a_wait_lets_the_next_message_through() -> None:
    with raw_stream() as (sender, receiver):
        for number in range(10):
            with pytest.raises(sp.RecvTimeoutError):
                receiver.recv(timeout=0.001)
            sender.send_msg(numbered(number))
            assert number_of(receiver.recv(timeout=BOUND)) == number


# ---- best effort, back-pressure


def test_a_full_queue_blocks_send_until_its_deadline() -> None:
    with sp.Req(raw=True, writeq_len=3, send_deadline=SOON) as req:
        for number in range(3):
            req.send_msg(numbered(number))
        with pytest.raises(sp.SendTimeoutError):
            req.send_msg(numbered(3))
        with sp.Rep(raw=True, listen=inproc()) as rep:
            req.dial(rep.listeners[0].address)
            assert [number_of(rep.recv(timeout=BOUND)) for _ in range(3)] == [0, 1, 2]
            with pytest.raises(sp.RecvTimeoutError):
                rep.recv(timeout=SOON)


def test_best_effort_drops_what_finds_no_room_and_counts_it() -> None:
    with sp.Req(raw=True, writeq_len=3, best_effort=True) as req:
        for number in range(10):
            req.send_msg(numbered(number))
        assert req.stats()["drops"] == {"best_effort": 7}
        with sp.Rep(raw=True, listen=inproc()) as rep:
            req.dial(rep.listeners[0].address)
            assert [number_of(rep.recv(timeout=BOUND)) for _ in range(3)] == [0, 1, 2]


def test_back_pressure_reaches_the_sender_and_nothing_is_lost() -> None:
    """The receiver's queue, both kernels' buffers and the sender's queue are bounded; then send blocks."""
    with raw_stream("tcp://127.0.0.1:0", sender={"writeq_len": 4}, receiver={"readq_len": 4}) as (sender, receiver):
        sent = 0
        while True:
            try:
                sender.send_msg(numbered(sent, 60_000), timeout=0.2)
            except sp.SendTimeoutError:
                break
            sent += 1
        assert sent >= 8
        assert [number_of(receiver.recv(timeout=BOUND)) for _ in range(sent)] == list(range(sent))
        sender.send_msg(numbered(sent), timeout=BOUND)
        assert number_of(receiver.recv(timeout=BOUND)) == sent


def test_a_resized_queue_keeps_what_was_accepted() -> None:
    with sp.Req(raw=True, writeq_len=10) as req:
        for number in range(10):
            req.send_msg(numbered(number))
        req.writeq_len = 3
        with pytest.raises(sp.SendTimeoutError):
            req.send_msg(numbered(10), timeout=0)
        req.writeq_len = 11
        req.send_msg(numbered(10), timeout=BOUND)
        with sp.Rep(raw=True, listen=inproc(), readq_len=2) as rep:
            req.dial(rep.listeners[0].address)
            wait_pipes(rep)
            seen = [number_of(rep.recv(timeout=BOUND)) for _ in range(4)]
            rep.readq_len = 1
            seen += [number_of(rep.recv(timeout=BOUND)) for _ in range(4)]
            rep.readq_len = 100
            seen += [number_of(rep.recv(timeout=BOUND)) for _ in range(3)]
            assert seen == list(range(11))


def test_a_larger_queue_lets_a_blocked_send_through() -> None:
    with sp.Req(raw=True, writeq_len=1) as req:
        req.send_msg(numbered(0))
        blocked = background(req.send_msg, numbered(1))
        wait_blocked(req)
        req.writeq_len = 2
        blocked.result(BOUND)


@pytest.mark.parametrize("raw", [False, True])
def test_without_a_queue_a_message_is_handed_over(raw: bool) -> None:
    with raw_stream(receiver={"readq_len": 0}) as (sender, receiver):
        for number in range(3):
            sender.send_msg(numbered(number))
        for number in range(3):
            assert number_of(receiver.recv(timeout=BOUND)) == number
        with pytest.raises(sp.RecvTimeoutError):
            receiver.recv(timeout=SOON)


def test_a_write_queue_of_zero_hands_over_to_a_peer_that_is_ready() -> None:
    with sp.Req(raw=True, writeq_len=0) as req:
        with pytest.raises(sp.SendTimeoutError, match="no peer took"):
            req.send_msg(numbered(0), timeout=SOON)
        waiting = background(req.send_msg, numbered(1))
        wait_blocked(req)
        with sp.Rep(raw=True, listen=inproc()) as rep:
            req.dial(rep.listeners[0].address)
            waiting.result(BOUND)
            assert number_of(rep.recv(timeout=BOUND)) == 1
            req.send_msg(numbered(2), timeout=BOUND)
            assert number_of(rep.recv(timeout=BOUND)) == 2


@alone
def test_blocked_calls_hold_no_descriptor_afterwards() -> None:
    with sp.Rep() as rep:
        calls = [background(rep.open_context().recv) for _ in range(3)]
        before = open_fds()
        for context in list(rep._contexts.values()):
            wait_blocked(context)
            context.close()
        assert all(isinstance(error_of(call), sp.ClosedError) for call in calls)
        del context
        wait_fds(before, -6)
