"""Table 0 of the reference: what mangos gets wrong, and must not come back here. REQ's and REP's rows."""

from __future__ import annotations

import errno
import logging
import threading
import time

import psutil
import pytest
from helpers import eventually
from sockets.kit import (
    BOUND,
    REQ,
    SOON,
    ask,
    background,
    drops,
    error_of,
    inproc,
    number_of,
    numbered,
    rep_and_req,
    request_id,
    serve,
    wait_blocked,
    wait_pipes,
)

import spworkers as sp
from spworkers import PipeEvent
from spworkers.testing import RawListener, RawPeer


def test_b1_closing_a_pipe_in_attaching_blocks_neither_the_listener_nor_the_dialer() -> None:
    refuse = threading.Event()
    refuse.set()

    def hook(event: PipeEvent, pipe: sp.Pipe) -> None:
        if event is PipeEvent.ATTACHING and refuse.is_set():
            pipe.close()

    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        rep.set_pipe_event_hook(hook)
        with sp.Req(dial=rep.listeners[0].address, reconnect_time=0.01) as req:  # dial returned
            eventually(lambda: rep.stats()["refused"] >= 2)
            refuse.clear()
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)
    with sp.Rep(listen=inproc()) as rep, sp.Req(reconnect_time=0.01) as req:
        refuse.set()
        req.set_pipe_event_hook(hook)
        background(req.dial, rep.listeners[0].address).result(BOUND)
        refuse.clear()
        served = serve(rep)
        assert ask(req, b"x") == b"X"
        served.result(BOUND)


def test_b1_a_hook_that_raises_refuses_the_pipe_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def hook(event: PipeEvent, pipe: sp.Pipe) -> None:
        raise ZeroDivisionError("in the hook")

    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        rep.set_pipe_event_hook(hook)
        with RawPeer.dial(rep.listeners[0].address, REQ) as wire:
            assert wire.ended()
    assert "ZeroDivisionError: in the hook" in caplog.text


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "inproc", "ipc"])
def test_b3_twenty_sends_and_a_close_lose_nothing(address: str, tmp_path: object) -> None:
    address = {"inproc": inproc(), "ipc": f"ipc://{tmp_path}/s"}.get(address, address)
    with sp.Rep(raw=True, listen=address, max_rcv_size=0) as rep:
        for size in (0, 100_000):
            with sp.Req(raw=True, dial=rep.listeners[0].address) as req:
                for number in range(20):
                    req.send_msg(numbered(number, size))
            assert [number_of(rep.recv(timeout=BOUND)) for _ in range(20)] == list(range(20))


def test_b3_a_reply_before_a_close_arrives() -> None:
    for _ in range(10):
        with sp.Rep(listen="tcp://127.0.0.1:0") as rep, sp.Req(dial=rep.listeners[0].address) as req:
            req.send(b"x")
            rep.recv(timeout=BOUND)
            rep.send(b"last words")
            rep.close()
            assert req.recv(timeout=BOUND) == b"last words"


def test_b3_close_returns_as_soon_as_all_is_with_the_kernel() -> None:
    with RawListener() as server:
        req = sp.Req(raw=True, dial=server.address, dial_asynch=True, linger=BOUND)
        with server.accept(0x31) as wire:
            for number in range(20):
                req.send_msg(numbered(number))
            before = time.monotonic()
            req.close()
            assert time.monotonic() - before < BOUND / 2
            assert [wire.recv()[4:] for _ in range(20)] == [str(number).encode() for number in range(20)]


@pytest.mark.parametrize(("sends", "receives"), [(sp.Push, sp.Pull), (sp.Pair, sp.Pair), (sp.Pair1, sp.Pair1)])
def test_b3_who_comes_while_a_listener_lingers_gets_it(sends: type[sp.Socket], receives: type[sp.Socket]) -> None:
    sender = sends(listen=inproc(), linger=BOUND)
    address = sender.listeners[0].address
    sender.send(b"x")
    closing = background(sender.close)
    eventually(lambda: "closed" in repr(sender))
    with receives(dial=address) as receiver:
        assert receiver.recv(timeout=BOUND) == b"x"
    closing.result(BOUND)


def test_b3_who_has_nothing_to_send_listens_no_more() -> None:
    """A reply belongs to who has asked: nobody who comes is of any help."""
    with sp.Rep(listen=inproc()) as rep:
        address = rep.listeners[0].address
    with pytest.raises(sp.ConnRefusedError):
        sp.Req(dial=address)


def test_b3_what_linger_could_not_drain_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with sp.Req(raw=True) as req:
        for number in range(5):
            req.send_msg(numbered(number))
        before = time.monotonic()
        req.close(linger=SOON)
        assert SOON <= time.monotonic() - before < BOUND / 2
    eventually(
        lambda: "req socket: 5 messages were not sent within its LINGER of 0.05 s: nobody took them" in caplog.text
    )


def test_b3_a_linger_that_does_not_wait_is_not_said_to_be_0(caplog: pytest.LogCaptureFixture) -> None:
    """As an option, 0 is for ever and a negative time not at all."""
    with sp.Push(linger=-1) as push:
        push.send(b"x")
    eventually(lambda: "1 message was not sent within its LINGER, which was not to wait for it" in caplog.text)


def test_b4_a_send_that_cancels_a_blocked_recv_does_not_kill_the_new_request() -> None:
    with rep_and_req() as (rep, req):
        for turn in range(20):
            req.send(b"old")
            assert rep.recv(timeout=BOUND) == b"old"
            waiting = background(req.recv)
            wait_blocked(req)
            req.send(b"new")
            fresh = background(req.recv, timeout=BOUND) if turn % 2 else None  # also while the old one still wakes up
            assert isinstance(error_of(waiting), sp.CanceledError)
            served = serve(rep)
            assert (fresh.result(BOUND) if fresh else req.recv(timeout=BOUND)) == b"NEW"
            assert served.result(BOUND) == [b"new"]


def test_b5_of_two_blocked_sends_the_first_is_cancelled() -> None:
    for _ in range(20):
        with sp.Req() as req:
            first = background(req.send, b"first")
            wait_blocked(req)
            second = background(req.send, b"second")
            error = error_of(first)
            assert isinstance(error, sp.CanceledError)
            assert "newer request" in str(error)
            with sp.Rep(listen=inproc()) as rep:
                req.dial(rep.listeners[0].address)
                second.result(BOUND)
                served = serve(rep)
                assert req.recv(timeout=BOUND) == b"SECOND"
                assert served.result(BOUND) == [b"second"]


def test_b8_a_silent_peer_is_given_up_after_handshake_timeout() -> None:
    with RawListener() as silent, sp.Req(handshake_timeout=SOON) as req:
        with pytest.raises(sp.ConnTimeoutError, match="no handshake"):
            req.dial(silent.address)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "ipc"])
def test_b8_a_silent_caller_is_given_up_after_handshake_timeout(address: str, tmp_path: object) -> None:
    address = {"ipc": f"ipc://{tmp_path}/s"}.get(address, address)
    with sp.Rep(listen=address, handshake_timeout=SOON) as rep:
        with RawPeer.dial(rep.listeners[0].address) as wire:
            assert wire.read(8) == b"\0SP\0\0\x31\0\0"
            assert wire.ended()
        eventually(lambda: rep.stats()["bad_handshakes"] == 1)


def test_b8_close_ends_a_pending_dial_at_once() -> None:
    with RawListener() as silent, sp.Req(handshake_timeout=0) as req:
        pending = background(req.dial, silent.address)
        with silent.accept():
            before = time.monotonic()
            req.close()
            assert isinstance(error_of(pending), sp.ClosedError)
            assert time.monotonic() - before < BOUND / 2


@pytest.mark.parametrize("make", [sp.Rep, sp.Req, lambda **o: sp.Rep(raw=True, **o), lambda **o: sp.Req(raw=True, **o)])
def test_b10_a_deadline_of_zero_is_none_and_a_negative_one_does_not_wait(make: type[sp.Socket]) -> None:
    with make(recv_deadline=-1, send_deadline=-0.001) as sock:
        if sock.info.self_name == "rep" or sock.raw:
            with pytest.raises(sp.RecvTimeoutError):
                sock.recv()
        else:
            with pytest.raises(sp.SendTimeoutError):
                sock.send(b"x")
        for never in (0, None):
            sock.recv_deadline = sock.send_deadline = never
            call = background(sock.recv) if sock.info.self_name == "rep" or sock.raw else background(sock.send, b"x")
            wait_blocked(sock)
            assert not call.done()
            if never is None:
                sock.close()
                assert isinstance(error_of(call), sp.ClosedError)
            elif sock.info.self_name == "req" and not sock.raw:
                background(sock.send, b"y", timeout=0).exception(BOUND)  # supersedes it
                assert isinstance(error_of(call), sp.CanceledError)
            else:
                break


def test_b10_contexts_of_rep_take_a_deadline_of_zero() -> None:
    with sp.Rep(recv_deadline=1) as rep, rep.open_context() as context:
        context.recv_deadline = 0
        assert context.recv_deadline == 0
        waiting = background(context.recv)
        wait_blocked(context)
        assert not waiting.done()
        context.close()
        assert isinstance(error_of(waiting), sp.ClosedError)


def test_b14_after_a_failed_dial_it_can_be_dialled_again() -> None:
    address = inproc()
    with sp.Req() as req:
        dialer = req.new_dialer(address)
        for _ in range(3):
            with pytest.raises(sp.ConnRefusedError):
                dialer.dial()
        with sp.Rep(listen=address) as rep:
            dialer.dial()
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)


def test_b17_sequential_requests_go_round_the_idle_peers() -> None:
    with sp.Req() as req:
        servers = [sp.Rep(listen=inproc(), name=str(number)) for number in range(4)]
        served = []
        for number, rep in enumerate(servers):
            req.dial(rep.listeners[0].address)
            served.append(serve(rep, 25, lambda _, n=number: str(n).encode()))  # type: ignore[misc]
        wait_pipes(req, 4)
        answers = [ask(req, b"who?") for _ in range(100)]
        assert answers == answers[:4] * 25
        assert sorted(answers[:4]) == [b"0", b"1", b"2", b"3"]
        for each, rep in zip(served, servers, strict=True):
            each.result(BOUND)
            rep.close()


def test_b17_a_peer_that_takes_nothing_is_passed_over_while_another_is_ready() -> None:
    with RawListener() as lazy, sp.Rep(listen=inproc(), max_rcv_size=0) as rep, sp.Req(max_rcv_size=0) as req:
        req.dial(lazy.address, dial_asynch=True)
        with lazy.accept(0x31):
            contexts = []
            with pytest.raises(sp.SendTimeoutError):
                while True:  # until its kernel takes no more
                    contexts.append(req.open_context())
                    contexts[-1].send(bytes(1 << 20), timeout=0.2)

            def serve_all() -> None:
                for body in rep:  # also those that the lazy one had not taken
                    rep.send(body.upper())

            serving = background(serve_all)
            req.dial(rep.listeners[0].address)
            for _ in range(10):
                assert ask(req, b"x") == b"X"
            for context in contexts:
                context.close()
            rep.close()
            serving.result(BOUND)


def test_b20_contexts_inherit_the_options_of_their_socket() -> None:
    with sp.Rep(recv_deadline=-1, best_effort=True) as rep, rep.open_context() as context:
        assert (context.recv_deadline, context.best_effort) == (-1, True)
        with pytest.raises(sp.RecvTimeoutError):
            context.recv()
        rep.recv_deadline = SOON
        before = time.monotonic()
        with pytest.raises(sp.RecvTimeoutError):
            context.recv()
        assert time.monotonic() - before >= SOON


def test_b20_recv_clears_the_backtrace_also_when_it_fails() -> None:
    with rep_and_req() as (rep, req):
        with rep.open_context() as context:
            for handle, other in ((rep, context), (context, rep)):
                req.send(b"x")
                assert handle.recv(timeout=BOUND) == b"x"
                with pytest.raises(sp.RecvTimeoutError):
                    handle.recv(timeout=SOON)
                with pytest.raises(sp.ProtoStateError):
                    handle.send(b"to whom?")
                with pytest.raises(sp.ProtoStateError):
                    other.send(b"to whom?")


def test_b21_refused_pipes_leave_nothing_behind() -> None:
    def refuse(event: PipeEvent, pipe: sp.Pipe) -> None:
        pipe.close()

    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        rep.set_pipe_event_hook(refuse)
        process = psutil.Process(rep.stats()["pid"])

        def crowd(count: int) -> None:
            for _ in range(count):
                with RawPeer.dial(rep.listeners[0].address, REQ) as wire:
                    assert wire.ended()

        crowd(5)
        before = process.num_fds()
        crowd(100)
        assert rep.pipes == []
        eventually(lambda: process.num_fds() <= before)
        assert rep.stats()["refused"] == 105
        rep.set_pipe_event_hook(None)
        with RawPeer.dial(rep.listeners[0].address, REQ):
            wait_pipes(rep)


def test_b22_a_message_that_is_too_long_is_logged_with_peer_and_size_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0", max_rcv_size=100) as rep, caplog.at_level(logging.WARNING):
        with RawPeer.dial(rep.listeners[0].address, REQ) as wire:
            wait_pipes(rep)
            peer = rep.pipes[0].remote_addr
            wire.write((101).to_bytes(8, "big"))
            assert wire.ended()
        assert drops(rep) == {"too_long": 1}
        eventually(lambda: peer in caplog.text)
        assert "101 bytes" in caplog.text
        assert "MAX-RCV-SIZE" in caplog.text


def test_b24_errors_of_the_system_are_of_our_tree_with_the_systems_as_their_cause() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep, sp.Req() as req:
        address = rep.listeners[0].address
        with pytest.raises(sp.AddrInUseError) as in_use:
            req.listen(address)
        with pytest.raises(sp.AddrInUseError, match="WebServer") as in_use_by_ws:
            req.listen(address.replace("tcp", "ws"))
        rep.listeners[0].close()
        with pytest.raises(sp.ConnRefusedError) as refused:
            req.dial(address)
        with pytest.raises(sp.BadAddrError) as foreign:
            req.listen("tcp://192.0.2.1:0")
        with pytest.raises(sp.SPError) as unknown:
            req.dial("tcp://no-such-host.invalid:1")
    for error in (in_use, in_use_by_ws):
        assert isinstance(error.value.__cause__, OSError)
        assert error.value.__cause__.errno == errno.EADDRINUSE
    assert isinstance(refused.value.__cause__, ConnectionRefusedError)
    assert isinstance(foreign.value.__cause__, OSError)
    assert foreign.value.__cause__.errno == errno.EADDRNOTAVAIL
    assert "no-such-host.invalid" in str(unknown.value)
    assert isinstance(unknown.value.__cause__, OSError)


def test_b24_a_reset_connection_never_reaches_the_user_as_an_error() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        wire = RawPeer.dial(rep.listeners[0].address, REQ)
        wire.send(request_id(1) + b"x")
        assert rep.recv(timeout=BOUND) == b"x"
        wire.reset()
        wait_pipes(rep, 0)
        rep.send(b"to nobody")
        with pytest.raises(sp.RecvTimeoutError):
            rep.recv(timeout=SOON)
