"""The I/O process is killed: it is back at once, on the same rings; clients see a delay, no loss."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from faults.program import BOUND, Program, gone, killed, stopped, successor
from helpers import eventually
from sockets.kit import (
    PUSH,
    SUB,
    Stranger,
    ask,
    background,
    error_of,
    inproc,
    number_of,
    numbered,
    raw_stream,
    rep_and_req,
    serve,
    wait_blocked,
    wait_pipes,
)

import spworkers as sp
from spworkers import PipeEvent
from spworkers.iolink import PATIENCE
from spworkers.supervisor.client import ChildEvent


@pytest.fixture(autouse=True)
def _expected_deaths(caplog: pytest.LogCaptureFixture) -> None:
    """A warning for each death is as it should be; it need not be on the terminal."""
    caplog.set_level("INFO", "spworkers")


def kill_io(sock: sp.Socket) -> dict[str, object]:
    """Kill a socket's I/O process; returns its last statistics."""
    before = sock.stats()
    os.kill(before["pid"], signal.SIGKILL)
    return before


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "inproc"])
def test_it_is_replaced_at_once_and_everything_is_as_before(address: str) -> None:
    with rep_and_req(None if address == "inproc" else address, req={"reconnect_time": 0.01}) as (rep, req):
        for generation, sock in enumerate((rep, req, rep, req), 4):
            before = kill_io(sock)
            after = successor(sock, before)
            assert after["generation"] == generation // 2
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)
        assert (len(rep.listeners), len(req.dialers)) == (1, 1)


def test_its_death_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Which process, how it died, and what follows."""
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        before = kill_io(rep)
        successor(rep, before)
        told = f"I/O process {before['pid']} of {rep._link.key} died: killed by SIGKILL; a successor takes over"
        eventually(lambda: told in caplog.text, BOUND, what="the record of its death")


def test_deaths_at_its_start_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        key = rep._link.key
        rep._link._happened(ChildEvent("failed", key, reason="exit code 3", retry=0.5))
    (record,) = caplog.records
    told = f"I/O process of {key} dies at its start, again and again: exit code 3; the next attempt is in 0.5 s"
    assert (record.levelname, record.getMessage()) == ("ERROR", told)


def test_how_long_it_takes_is_not_felt() -> None:
    """Within 200 ms on an idle machine; here, where others work as well, a bound that shows a hang."""
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        took = []
        for _ in range(5):
            before = kill_io(rep)
            started = time.monotonic()
            successor(rep, before)
            took.append(time.monotonic() - started)
        assert sorted(took)[2] < 2


def test_what_it_had_read_and_nobody_could_take_is_counted() -> None:
    with sp.Pull(listen="tcp://127.0.0.1:0", readq_len=2) as pull:
        with Stranger(pull.listeners[0].address, PUSH, [b"%d" % number for number in range(50)]):
            eventually(lambda: pull.stats()["received"] == 50, BOUND, what="everything read")
            before = kill_io(pull)
            after = successor(pull, before)
        assert after["drops"] == {"io_died": 48}
        assert [pull.recv(timeout=BOUND) for _ in range(2)] == [b"0", b"1"]
        again = successor(pull, kill_io(pull))
        assert again["drops"] == {"io_died": 48}  # once


def test_copies_that_waited_for_a_peer_are_counted() -> None:
    with sp.Pub(listen="tcp://127.0.0.1:0", writeq_len=5) as pub:
        with Stranger(pub.listeners[0].address, SUB, []):
            wait_pipes(pub)

            def full() -> bool:
                pub.send(bytes(100_000))
                return "congested" in pub.stats()["drops"]

            eventually(full, BOUND, what="a queue that is full")
            after = successor(pub, kill_io(pub))
            assert after["drops"]["io_died"] == 5


@pytest.mark.parametrize("victim", ["rep", "req", "both"])
def test_under_load_no_request_is_lost(victim: str) -> None:
    with rep_and_req("tcp://127.0.0.1:0", req={"reconnect_time": 0.01}) as (rep, req):
        over = threading.Event()
        victims = {"rep": [rep], "req": [req], "both": [rep, req]}[victim]

        def kill_again_and_again() -> None:
            for turn in range(6):
                before = kill_io(victims[turn % len(victims)])
                successor(victims[turn % len(victims)], before)
            over.set()

        def serve_on() -> None:
            while True:
                body = rep.recv(timeout=BOUND)
                rep.send(body.upper())
                if body == b"end":
                    return

        def ask_on(number: int) -> int:
            with req.open_context() as context:
                count = 0
                while not over.is_set() or count < 20:
                    body = b"%d-%dx" % (number, count)
                    assert ask(context, body) == body.upper()
                    count += 1
                return count

        serving = background(serve_on)
        asking = [background(ask_on, number) for number in range(3)]
        killing = background(kill_again_and_again)
        killing.result(60)
        assert all(future.result(60) >= 20 for future in asking)
        assert ask(req, b"end") == b"END"
        serving.result(BOUND)


def test_what_send_accepted_is_sent_by_the_successor() -> None:
    with sp.Rep(raw=True, listen="tcp://127.0.0.1:0") as rep, sp.Req(raw=True) as req:
        for number in range(50):
            req.send_msg(numbered(number))
        before = kill_io(req)
        for number in range(50, 100):  # nobody has to be there for that
            req.send_msg(numbered(number))
        successor(req, before)
        req.dial(rep.listeners[0].address)
        assert [number_of(rep.recv(timeout=BOUND)) for _ in range(100)] == list(range(100))


def test_a_stream_goes_on_with_nothing_lost_that_was_not_on_its_way() -> None:
    """What the kernel had, or the receiver's I/O process, may come twice or (if killed) be lost; the rest may not."""
    with raw_stream("tcp://127.0.0.1:0", sender={"reconnect_time": 0.01}) as (sender, receiver):
        seen: list[int] = []

        def receive() -> None:
            while (number := number_of(receiver.recv(timeout=BOUND))) < 3000:
                seen.append(number)

        receiving = background(receive)
        for number in range(3000):
            if number in (500, 1500):
                kill_io(sender)
            sender.send_msg(numbered(number), timeout=BOUND)
        sender.send_msg(numbered(3000), timeout=BOUND)
        receiving.result(BOUND)
        assert set(seen) == set(range(3000))


def test_what_was_lent_to_another_process_is_sent_again() -> None:
    """Large bodies are copied by the receiving process from where they lie: they are the sender's until then."""
    count = 120
    bodies = [number.to_bytes(4, "big") * (16 << 10) for number in range(count)]
    address = inproc()
    with (
        sp.Push(listen=address, writeq_len=20) as push,
        sp.Pull(dial=address, readq_len=2, reconnect_time=0.01) as pull,
    ):
        sending = background(lambda: [push.send(body, timeout=BOUND) for body in bodies])
        found = set()
        for due in (20, 60, count):
            while len(found) < due:
                body = pull.recv(timeout=BOUND)
                assert body == body[:4] * (16 << 10)
                found.add(body[:4])
            if due < count:
                successor(push, kill_io(push))
        sending.result(BOUND)
        assert found == {body[:4] for body in bodies}


def test_a_recv_and_a_send_that_wait_go_on_waiting() -> None:
    address = inproc()
    with sp.Rep(listen=address) as rep, sp.Req() as req:
        receiving, sending = background(rep.recv), background(req.send, b"x")
        wait_blocked(rep)
        wait_blocked(req)
        for sock in (rep, req):
            successor(sock, kill_io(sock))
        assert not receiving.done()
        assert not sending.done()
        req.dial(address)
        sending.result(BOUND)
        assert receiving.result(BOUND) == b"x"
        rep.send(b"y")
        assert req.recv(timeout=BOUND) == b"y"


def test_a_reply_that_is_waited_for_comes_although_both_sides_were_killed() -> None:
    with rep_and_req("tcp://127.0.0.1:0", req={"reconnect_time": 0.01}) as (rep, req):
        req.send(b"x")
        waiting = background(req.recv, timeout=BOUND)
        wait_blocked(req)
        successor(req, kill_io(req))
        successor(rep, kill_io(rep))
        served = background(lambda: [answer_all(rep)])
        assert waiting.result(BOUND) == b"X"
        rep.close()
        served.exception(BOUND)


def answer_all(rep: sp.Rep) -> None:
    for body in rep:
        rep.send(body.upper())


def test_retry_time_zero_is_not_sent_again() -> None:
    with rep_and_req("tcp://127.0.0.1:0", req={"reconnect_time": 0.01, "retry_time": 0}) as (rep, req):
        req.send(b"not idempotent")
        assert rep.recv(timeout=BOUND) == b"not idempotent"
        waiting = background(req.recv)
        wait_blocked(req)
        successor(req, kill_io(req))
        assert isinstance(error_of(waiting), sp.CanceledError)
        wait_pipes(req)
        with pytest.raises(sp.RecvTimeoutError):
            rep.recv(timeout=0.1)


def test_contexts_and_their_options_survive() -> None:
    with rep_and_req(req={"reconnect_time": 0.01}) as (rep, req):
        contexts = [req.open_context() for _ in range(5)]
        contexts[1].close()
        contexts[2].retry_time = 0
        rep.ttl = 3
        before = [kill_io(sock) for sock in (req, rep)]
        for sock, each in zip((req, rep), before, strict=True):
            successor(sock, each)
        wait_pipes(req)
        living = [context for context in contexts if context is not contexts[1]]
        served = serve(rep, 4)
        for number, context in enumerate(living):
            assert ask(context, b"x%d" % number) == b"X%d" % number
        served.result(BOUND)
        contexts[2].send(b"never again")
        rep.recv(timeout=BOUND)
        waiting = background(contexts[2].recv)
        wait_blocked(contexts[2])
        rep.pipes[0].close()
        assert isinstance(error_of(waiting), sp.CanceledError)
        for context in living:
            context.close()


def test_dialers_and_listeners_survive_in_whatever_state_they_are() -> None:
    address = inproc()
    with sp.Req(reconnect_time=0.01) as req:
        idle = req.new_dialer("tcp://127.0.0.1:1", reconnect_time=0.5)
        idle.reconnect_time = 0.7
        waiting = req.dial(address, dial_asynch=True)
        closed = req.dial("tcp://127.0.0.1:1", dial_asynch=True)
        closed.close()
        later = req.new_listener(inproc())
        successor(req, kill_io(req))
        assert (idle.reconnect_time, req.dialers) == (0.7, [idle, waiting])
        with pytest.raises(sp.ConnRefusedError):
            idle.dial()
        later.listen()
        with sp.Rep(listen=address) as rep, sp.Rep(dial=later.address):
            wait_pipes(rep)
            wait_pipes(req, 2)


CALLS: dict[str, Callable[[sp.Req, str], object]] = {
    "dial": lambda req, address: req.dial(address),
    "dial one that exists": lambda req, address: _killed(req, req.new_dialer(address)).dial(),
    "listen": lambda req, address: req.listen("tcp://127.0.0.1:0"),
    "listen on one that exists": lambda req, address: _killed(req, req.new_listener(inproc())).listen(),
    "set an option": lambda req, address: setattr(req, "recv_deadline", 5),
    "open a context": lambda req, address: req.open_context().close(),
    "close a context": lambda req, address: _killed(req, req.open_context()).close(),
    "set a context's option": lambda req, address: setattr(_killed(req, req.open_context()), "retry_time", 5),
    "stats": lambda req, address: req.stats(),
    "pipes": lambda req, address: req.pipes,
    "close a dialer": lambda req, address: _killed(req, req.dial(address)).close(),
    "close a listener": lambda req, address: _killed(req, req.listen(inproc())).close(),
    "hook": lambda req, address: req.set_pipe_event_hook(lambda event, pipe: None),
    "close": lambda req, address: req.close(),
}


def _killed(req: sp.Req, thing: Any) -> Any:
    kill_io(req)
    return thing


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_to_a_dead_process_is_answered_by_its_successor(call: Callable[[sp.Req, str], object]) -> None:
    with sp.Rep(listen=inproc()) as rep, sp.Req() as req:
        kill_io(req)
        call(req, rep.listeners[0].address)
        for context in list(req._contexts.values()):
            context.close()


def test_the_port_of_a_listener_stays_its_own_and_its_backlog_is_served() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        address = rep.listeners[0].address
        before = rep.stats()
        io = psutil.Process(before["pid"])
        io.suspend()
        eventually(lambda: stopped(io))
        with sp.Req() as req:
            dialing = background(req.dial, address)  # accepted by the kernel only
            io.kill()
            dialing.result(BOUND)
            assert rep.listeners[0].address == address
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)


def test_hooks_go_on_and_hear_of_pipes_that_died_with_it() -> None:
    events: list[tuple[PipeEvent, int]] = []
    with sp.Rep(listen=inproc()) as rep:
        rep.set_pipe_event_hook(lambda event, pipe: events.append((event, pipe.id)))
        with sp.Req(dial=rep.listeners[0].address, reconnect_time=0.01):
            eventually(lambda: len(events) == 2)
            successor(rep, kill_io(rep))
            eventually(lambda: [event for event, _ in events].count(PipeEvent.ATTACHED) == 2)
            eventually(lambda: (PipeEvent.DETACHED, events[0][1]) in events)


def test_leases_and_reservations_outlive_it() -> None:
    with rep_and_req(req={"reconnect_time": 0.01}) as (rep, req):
        body = os.urandom(100_000)
        req.send(body)
        with rep.recv_view(timeout=BOUND) as view:
            successor(rep, kill_io(rep))
            assert view == body
        with sp.Req(raw=True, dial=inproc(), dial_asynch=True) as raw, raw.reserve(100_000) as buffer:
            before = kill_io(raw)
            buffer[:] = body
            successor(raw, before)


def test_counters_survive_it() -> None:
    with rep_and_req(req={"reconnect_time": 0.01}) as (rep, req):
        served = serve(rep, 5)
        for _ in range(5):
            ask(req, b"x")
        served.result(BOUND)
        rep.pipes[0].close()
        wait_pipes(req)
        before = rep.stats()
        after = successor(rep, kill_io(rep))
        assert after["sent"] >= before["sent"] == 5
        assert after["generation"] == 2


def test_many_deaths_in_a_row_end_in_a_living_process() -> None:
    with rep_and_req("tcp://127.0.0.1:0", req={"reconnect_time": 0.01}) as (rep, req):
        for _ in range(8):
            before = kill_io(rep)
            successor(rep, before)
        served = serve(rep)
        assert ask(req, b"x") == b"X"
        served.result(BOUND)


def test_closing_a_socket_whose_process_is_dead_works() -> None:
    for _ in range(5):
        rep = sp.Rep(listen=inproc())
        process = psutil.Process(rep.stats()["pid"])
        kill_io(rep)
        rep.close()
        gone([process])


@pytest.mark.slow
def test_closing_a_socket_whose_process_is_stopped_kills_it_in_the_end() -> None:
    rep = sp.Rep(listen=inproc())
    process = psutil.Process(rep.stats()["pid"])
    process.suspend()
    rep.close(linger=0)
    gone([process])


def test_closing_a_client_whose_process_is_stopped_does_not_take_long() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        client = sp.Client(rep.listeners[0].address)
        future = client.submit("work")
        rep.recv(timeout=BOUND)
        process = psutil.Process(client._req.stats()["pid"])
        process.suspend()
        began = time.monotonic()
        client.close()
        assert time.monotonic() - began < PATIENCE
        with pytest.raises(sp.ClosedError):
            future.result(BOUND)
        gone([process])


def test_what_waits_to_be_drained_is_drained_by_the_successor() -> None:
    with sp.Rep(raw=True, listen="tcp://127.0.0.1:0") as rep:
        req = sp.Req(raw=True, dial=rep.listeners[0].address, reconnect_time=0.01, linger=BOUND)
        process = psutil.Process(req.stats()["pid"])
        process.suspend()
        for number in range(20):
            req.send_msg(numbered(number))
        closing = background(req.close)
        process.kill()
        closing.result(BOUND)
        assert [number_of(rep.recv(timeout=BOUND)) for _ in range(20)] == list(range(20))


def test_it_is_replaced_while_the_parent_is_stopped() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        program = """
req = sp.Req(dial=sys.argv[1], reconnect_time=0.01)
say(io=req.stats()["pid"])
req.send(b"x")
say(reply=req.recv().decode())
told()
req.close()
"""
        with Program(program, rep.listeners[0].address) as user:
            io = psutil.Process(user.hear()["io"])
            assert rep.recv(timeout=BOUND) == b"x"
            user.signal(signal.SIGSTOP)
            eventually(lambda: stopped(psutil.Process(user.pid)))
            killed(io.pid)
            # Its successor connects and asks again, though nobody at the other side of its rings can do anything.
            assert rep.recv(timeout=BOUND) == b"x"
            rep.send(b"y")
            eventually(lambda: rep.stats()["sent"] == 1)
            assert stopped(psutil.Process(user.pid))
            user.signal(signal.SIGCONT)
            assert user.hear() == {"reply": "y"}
            eventually(lambda: "died" in user.stderr)  # of a socket that is being closed, it would not be told
            user.tell()
            assert user.wait() == 0
            assert user.stderr.count("\n") == 1  # one warning, and nothing else


def test_a_stopped_parents_server_accepts_and_keeps_requests() -> None:
    program = """
rep = sp.Rep(listen="tcp://127.0.0.1:0")
say(address=rep.listeners[0].address)
for body in rep:
    rep.send(body.upper())
    if body == b"end":
        break
rep.close()
"""
    with Program(program) as user:
        address = user.hear()["address"]
        user.signal(signal.SIGSTOP)
        eventually(lambda: stopped(psutil.Process(user.pid)))
        with sp.Req(dial=address) as req:
            req.send(b"x", timeout=BOUND)
            user.signal(signal.SIGCONT)
            assert req.recv(timeout=BOUND) == b"X"
            assert ask(req, b"end") == b"END"
        assert user.wait() == 0
        assert user.stderr == ""
