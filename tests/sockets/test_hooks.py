"""Pipe event hooks: what they are told, what they may refuse, and that they hold up nobody."""

from __future__ import annotations

import logging
import threading

import pytest
from helpers import eventually
from sockets.kit import BOUND, REQ, Record, ask, background, inproc, rep_and_req, serve, wait_pipes

import spworkers as sp
from spworkers import PipeEvent
from spworkers.testing import RawPeer


def test_a_pipe_is_announced_attached_and_detached_once_each() -> None:
    hook = Record()
    with sp.Rep(listen=inproc()) as rep:
        assert rep.set_pipe_event_hook(hook) is None
        with sp.Req() as req:
            mine = Record()
            req.set_pipe_event_hook(mine)
            req.dial(rep.listeners[0].address)
            eventually(lambda: hook.counts() == mine.counts() == (1, 1, 0))
            assert hook.events[0][1] == hook.events[1][1] == rep.pipes[0].id
        eventually(lambda: hook.counts() == (1, 1, 1))
        assert [event for event, _ in hook.events] == list(PipeEvent)
        assert len({number for _, number in hook.events}) == 1


def test_the_pipe_of_an_event_tells_where_it_leads() -> None:
    seen: list[tuple[str, str, sp.Listener | None, sp.Dialer | None]] = []
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        rep.set_pipe_event_hook(
            lambda _, pipe: seen.append((pipe.address, pipe.remote_addr, pipe.listener, pipe.dialer))
        )
        with sp.Req(dial=rep.listeners[0].address) as req:
            eventually(lambda: len(seen) == 2)
            expected = (rep.listeners[0].address, req.pipes[0].local_addr, rep.listeners[0], None)
            assert seen == [expected, expected]


def test_set_pipe_event_hook_returns_the_former_one_and_none_turns_it_off() -> None:
    first, second = Record(), Record()
    with sp.Rep(listen=inproc()) as rep:
        rep.set_pipe_event_hook(first)
        assert rep.set_pipe_event_hook(second) is first
        with sp.Req(dial=rep.listeners[0].address):
            eventually(lambda: second.counts() == (1, 1, 0))
            assert rep.set_pipe_event_hook(None) is second
        wait_pipes(rep, 0)
        with sp.Req(dial=rep.listeners[0].address):
            wait_pipes(rep)
        assert (first.events, second.counts()) == ([], (1, 1, 0))


@pytest.mark.parametrize("how", ["close", "raise"])
def test_a_hook_refuses_a_pipe_by_closing_it_or_by_raising(how: str, caplog: pytest.LogCaptureFixture) -> None:
    told = Record()

    def refuse(event: PipeEvent, pipe: sp.Pipe) -> None:
        told(event, pipe)
        if how == "raise":
            raise RuntimeError("not you")
        pipe.close()

    with sp.Rep(listen="tcp://127.0.0.1:0") as rep, caplog.at_level(logging.ERROR):
        rep.set_pipe_event_hook(refuse)
        for count in range(1, 4):
            with RawPeer.dial(rep.listeners[0].address, REQ) as wire:
                assert wire.ended()
            assert told.counts() == (count, 0, 0)
        assert rep.pipes == []
        eventually(lambda: rep.stats()["refused"] == 3)
        assert ("not you" in caplog.text) == (how == "raise")
        rep.set_pipe_event_hook(None)
        with sp.Req(dial=rep.listeners[0].address) as req:
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)


def test_a_dialer_whose_own_hook_refuses_dials_again() -> None:
    refusals = iter([True, True, False])
    told = Record()

    def refuse_twice(event: PipeEvent, pipe: sp.Pipe) -> None:
        told(event, pipe)
        if event is PipeEvent.ATTACHING and next(refusals):
            pipe.close()

    with sp.Rep(listen=inproc()) as rep, sp.Req(reconnect_time=0.01) as req:
        req.set_pipe_event_hook(refuse_twice)
        req.dial(rep.listeners[0].address)
        eventually(lambda: told.counts() == (3, 1, 0))
        served = serve(rep)
        assert ask(req, b"x") == b"X"
        served.result(BOUND)


def test_closing_the_pipe_in_attached_ends_it_and_the_dialer_dials_again() -> None:
    told = Record()

    def hang_up(event: PipeEvent, pipe: sp.Pipe) -> None:
        told(event, pipe)
        if event is PipeEvent.ATTACHED and told.counts()[1] <= 3:
            pipe.close()

    with sp.Rep(listen=inproc()) as rep, sp.Req(dial=rep.listeners[0].address, reconnect_time=0.01):
        pass
    with sp.Rep(listen=inproc()) as rep:
        rep.set_pipe_event_hook(hang_up)
        with sp.Req(dial=rep.listeners[0].address, reconnect_time=0.01):
            eventually(lambda: told.counts() == (4, 4, 3))


def test_a_slow_hook_holds_up_neither_messages_nor_answers() -> None:
    release = threading.Event()
    entered = threading.Event()

    def slow(event: PipeEvent, pipe: sp.Pipe) -> None:
        if event is PipeEvent.ATTACHING:
            entered.set()
            release.wait(BOUND)

    with rep_and_req() as (rep, req):
        rep.set_pipe_event_hook(slow)
        with sp.Req() as late:
            dialing = background(late.dial, rep.listeners[0].address)
            assert entered.wait(BOUND)
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)
            assert len(rep.pipes) == 1
            dialing.result(BOUND)  # the peer's handshake is done; that it waits for a verdict it cannot see
            release.set()
            wait_pipes(rep, 2)


def test_a_hook_that_takes_longer_than_handshake_timeout_refuses() -> None:
    release = threading.Event()
    with sp.Rep(listen="tcp://127.0.0.1:0", handshake_timeout=0.1) as rep:

        def slow(event: sp.PipeEvent, pipe: sp.Pipe) -> None:
            release.wait(BOUND)

        rep.set_pipe_event_hook(slow)
        with RawPeer.dial(rep.listeners[0].address, REQ) as wire:
            assert wire.ended()
        assert rep.pipes == []
        assert rep.stats()["refused"] == 1
        release.set()


def test_a_hook_may_use_its_socket() -> None:
    seen: list[object] = []
    done = threading.Event()

    def curious(event: PipeEvent, pipe: sp.Pipe) -> None:
        if event is PipeEvent.ATTACHED:
            seen.extend([rep.stats()["pipes"], repr(rep), rep.pipes == [pipe], rep.recv_deadline])
            rep.recv_deadline = 5
            done.set()

    with sp.Rep(listen=inproc()) as rep:
        rep.set_pipe_event_hook(curious)
        with sp.Req(dial=rep.listeners[0].address):
            assert done.wait(BOUND)
            assert seen == [1, repr(rep), True, 0.0]
            eventually(lambda: rep.recv_deadline == 5)


def test_a_hook_may_dial() -> None:
    """Its own dial has events as well, and does not wait for them."""
    told = Record()
    errors: list[BaseException] = []

    def dial_once(event: PipeEvent, pipe: sp.Pipe) -> None:
        told(event, pipe)
        if event is PipeEvent.ATTACHED and len(req.dialers) == 1:
            try:
                req.dial(second.listeners[0].address)
            except BaseException as error:
                errors.append(error)

    with sp.Rep(listen=inproc()) as first, sp.Rep(listen=inproc()) as second, sp.Req() as req:
        req.set_pipe_event_hook(dial_once)
        req.dial(first.listeners[0].address)
        eventually(lambda: told.counts() == (2, 2, 0), 5)
        assert not errors
        wait_pipes(second)


def test_a_hook_may_close_its_socket() -> None:
    closed = threading.Event()

    def close(event: PipeEvent, pipe: sp.Pipe) -> None:
        rep.close()
        closed.set()

    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        rep.set_pipe_event_hook(close)
        with RawPeer.dial(rep.listeners[0].address, REQ) as wire:
            assert closed.wait(BOUND)
            assert wire.ended()
        with pytest.raises(sp.ClosedError):
            rep.stats()


def test_every_pipe_of_a_crowd_is_told_of_once() -> None:
    hook = Record()
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        rep.set_pipe_event_hook(hook)
        wires = [RawPeer.dial(rep.listeners[0].address, REQ) for _ in range(50)]
        eventually(lambda: hook.counts() == (50, 50, 0))
        for wire in wires:
            wire.sock.close()
        eventually(lambda: hook.counts() == (50, 50, 50))
        for event in PipeEvent:
            assert len({number for kind, number in hook.events if kind is event}) == 50


def test_a_hook_that_cannot_be_called_is_refused() -> None:
    with sp.Rep() as rep:
        with pytest.raises(sp.BadValueError, match=r"function of .event, pipe., or None, not 5"):
            rep.set_pipe_event_hook(5)  # type: ignore[arg-type]
        assert rep.set_pipe_event_hook(None) is None
