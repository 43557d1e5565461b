"""The supervisor is killed, and all of its children with it: another one is started, and everything is made anew."""

from __future__ import annotations

import os
import pickle
import signal

import psutil
import pytest
from faults.program import BOUND, Program, gone, lives, successor
from helpers import eventually
from sockets.kit import (
    ask,
    background,
    inproc,
    number_of,
    numbered,
    rep_and_req,
    serve,
    wait_blocked,
    wait_pipes,
)

import spworkers as sp
from spworkers import PipeEvent
from spworkers.supervisor.client import get_supervisor


@pytest.fixture(autouse=True)
def _expected_deaths(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "spworkers")


def kill_supervisor() -> None:
    """Kill it; its successor starts by itself. One that dies within its first second died of its start, as it seems."""
    life = get_supervisor().start()
    eventually(lambda: life.ready and life.age > 1)
    os.kill(life.pid, signal.SIGKILL)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "inproc", "ipc"])
def test_sockets_are_made_anew_and_connect_again(address: str, tmp_path: object) -> None:
    address = {"inproc": inproc(), "ipc": f"ipc://{tmp_path}/s"}.get(address, address)
    with rep_and_req(address, req={"reconnect_time": 0.01}) as (rep, req):
        bound = rep.listeners[0].address
        before = [rep.stats(), req.stats()]
        kill_supervisor()
        for sock, each in zip((rep, req), before, strict=True):
            successor(sock, each)
        assert rep.listeners[0].address == bound
        served = serve(rep, 2)
        assert ask(req, b"x") == b"X"
        with sp.Req(dial=bound) as other:
            assert ask(other, b"y") == b"Y"
        served.result(BOUND)


def test_calls_that_wait_go_on_waiting() -> None:
    with sp.Rep(listen=inproc()) as rep, sp.Req() as req:
        receiving, sending = background(rep.recv), background(req.send, b"x")
        wait_blocked(rep)
        wait_blocked(req)
        before = [rep.stats(), req.stats()]
        kill_supervisor()
        for sock, each in zip((rep, req), before, strict=True):
            successor(sock, each)
        assert not receiving.done()
        assert not sending.done()
        req.dial(rep.listeners[0].address, dial_asynch=True)  # nobody may listen there yet
        sending.result(BOUND)
        assert receiving.result(BOUND) == b"x"


@pytest.mark.slow
def test_requests_under_load_are_delayed_and_not_lost() -> None:
    with rep_and_req("tcp://127.0.0.1:0", req={"reconnect_time": 0.01}) as (rep, req):

        def serve_on() -> None:
            while True:
                body = rep.recv(timeout=BOUND)
                rep.send(body.upper())
                if body == b"end":
                    return

        serving = background(serve_on)
        for number in range(300):
            if number in (100, 200):
                kill_supervisor()
            assert ask(req, b"x%d" % number) == b"X%d" % number
        assert ask(req, b"end") == b"END"
        serving.result(BOUND)


def test_what_was_accepted_and_not_sent_is_sent_afterwards() -> None:
    with sp.Rep(raw=True, listen="tcp://127.0.0.1:0") as rep, sp.Req(raw=True) as req:
        for number in range(50):
            req.send_msg(numbered(number))
        before = req.stats()
        kill_supervisor()
        for number in range(50, 100):
            req.send_msg(numbered(number))
        successor(req, before)
        req.dial(rep.listeners[0].address, dial_asynch=True)  # nobody may listen there yet
        assert [number_of(rep.recv(timeout=BOUND)) for _ in range(100)] == list(range(100))


def test_contexts_options_dialers_and_hooks_are_as_before() -> None:
    events: list[PipeEvent] = []
    with sp.Rep(listen=inproc()) as rep, sp.Req(reconnect_time=0.01) as req:
        contexts = [req.open_context() for _ in range(3)]
        contexts[1].close()
        idle = req.new_dialer(inproc())
        req.set_pipe_event_hook(lambda event, pipe: events.append(event))
        dialer = req.dial(rep.listeners[0].address)
        req.retry_time = 3
        rep.ttl = 1
        eventually(lambda: events == [PipeEvent.ATTACHING, PipeEvent.ATTACHED])
        before = [rep.stats(), req.stats()]
        kill_supervisor()
        for sock, each in zip((rep, req), before, strict=True):
            successor(sock, each)
        eventually(
            lambda: (
                sorted(events, key=list(PipeEvent).index)
                == sorted(2 * list(PipeEvent)[:2] + [PipeEvent.DETACHED], key=list(PipeEvent).index)
            )
        )
        assert (req.dialers, req.retry_time, rep.ttl) == ([idle, dialer], 3, 1)
        served = serve(rep, 3)
        for context in (contexts[0], contexts[2], req):
            assert ask(context, b"x") == b"X"
        served.result(BOUND)
        with pytest.raises(sp.ConnRefusedError):
            idle.dial()
        for context in (contexts[0], contexts[2]):
            context.close()


def reborn(*sockets: sp.Socket) -> None:
    """Kill the supervisor, and wait until another I/O process serves each of these."""
    before = [sock.stats() for sock in sockets]
    kill_supervisor()
    for sock, each in zip(sockets, before, strict=True):
        successor(sock, each)


def test_topics_are_as_before() -> None:
    with sp.Pub(listen="tcp://127.0.0.1:0") as pub, sp.Sub(subscribe=["a", "b"], reconnect_time=0.01) as sub:
        sub.dial(pub.listeners[0].address)
        with sub.open_context() as context, sub.open_context() as silent:
            sub.unsubscribe("b")
            context.subscribe("c")
            context.subscribe("d")
            context.unsubscribe("d")
            reborn(pub, sub)
            wait_pipes(pub)
            wait_pipes(sub)
            for body in (b"b", b"d", b"a1", b"c1", b"a2", b"c2"):
                pub.send(body)
            assert [sub.recv(timeout=BOUND) for _ in range(2)] == [b"a1", b"a2"]
            assert [context.recv(timeout=BOUND) for _ in range(2)] == [b"c1", b"c2"]
            for handle in (sub, context, silent):
                with pytest.raises(sp.RecvTimeoutError):
                    handle.recv(timeout=0)
            with pytest.raises(sp.BadValueError):
                context.unsubscribe("d")
            context.unsubscribe("c")
            pub.send(b"c3")
            eventually(lambda: sub.stats()["drops"].get("unwanted") == 3)


def test_what_a_sub_had_queued_is_still_there() -> None:
    with sp.Pub(listen=inproc()) as pub, sp.Sub(subscribe="", dial=pub.listeners[0].address) as sub:
        wait_pipes(pub)
        for number in range(50):
            pub.send(b"%d" % number)
        eventually(lambda: sub.stats()["received"] == 50)
        reborn(pub, sub)
        assert [int(sub.recv(timeout=BOUND)) for _ in range(50)] == list(range(50))


def test_a_survey_is_asked_again() -> None:
    with sp.Surveyor(survey_time=0, reconnect_time=0.01) as surveyor, sp.Respondent(listen="tcp://127.0.0.1:0") as one:
        surveyor.dial(one.listeners[0].address)
        with surveyor.open_context() as context:
            surveyor.send(b"who?")
            context.send(b"what?")
            assert {one.recv(timeout=BOUND) for _ in range(2)} == {b"who?", b"what?"}
            waiting = background(surveyor.recv, timeout=BOUND)
            wait_blocked(surveyor)
            reborn(surveyor, one)
            for _ in range(2):
                one.send(b"re " + one.recv(timeout=BOUND), timeout=BOUND)
            assert waiting.result(BOUND) == b"re who?"
            assert context.recv(timeout=BOUND) == b"re what?"


@pytest.mark.slow
def test_a_survey_ends_in_time_nevertheless() -> None:
    """SURVEY-TIME counts anew from then on."""
    with sp.Surveyor(survey_time=2) as surveyor:
        surveyor.send(b"nobody hears it")
        waiting = background(surveyor.recv, timeout=BOUND)
        wait_blocked(surveyor)
        reborn(surveyor)
        assert isinstance(waiting.exception(BOUND), sp.RecvTimeoutError)
        with pytest.raises(sp.ProtoStateError):
            surveyor.recv(timeout=BOUND)


@pytest.mark.slow
def test_calls_at_the_moment_of_its_death_are_answered_by_its_successor() -> None:
    with sp.Rep(listen=inproc()) as rep, sp.Req() as req:
        kill_supervisor()
        req.dial(rep.listeners[0].address, dial_asynch=True)  # nobody may listen there yet
        wait_pipes(rep)
        wait_pipes(req)
    kill_supervisor()
    with sp.Rep(listen=inproc()) as rep:
        kill_supervisor()
        with rep.open_context() as context:
            kill_supervisor()
            with pytest.raises(sp.RecvTimeoutError):
                context.recv(timeout=0.1)


def test_closing_at_that_moment_waits_for_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no I/O process any more, and for a socket that is being closed there will be none."""
    monkeypatch.setattr(sp.Rep, "_closing_patience", 10 * BOUND)
    for _ in range(3):
        rep = sp.Rep(listen=inproc())
        psutil.Process(rep.stats()["pid"]).suspend()  # else it might answer before it is killed
        closing = background(rep.close)
        kill_supervisor()
        closing.result(BOUND)


def test_a_ticket_of_the_former_one_is_void_and_says_so() -> None:
    with sp.Rep() as rep:
        data = pickle.dumps(rep.open_context())
        before = rep.stats()
        kill_supervisor()
        successor(rep, before)
        with pytest.raises((sp.ConnRefusedError, sp.ContextMovedError)):
            pickle.loads(data)


def test_none_of_its_children_is_left() -> None:
    with sp.Rep() as rep, sp.Req() as req:
        before = [rep.stats(), req.stats()]
        old = [psutil.Process(each["pid"]) for each in before]
        kill_supervisor()
        gone(old)
        for sock, each in zip((rep, req), before, strict=True):
            successor(sock, each)


@pytest.mark.slow
def test_a_program_that_is_stopped_meanwhile_recovers_when_it_goes_on() -> None:
    program = """
rep = sp.Rep(listen="tcp://127.0.0.1:0")
say(address=rep.listeners[0].address)
for body in rep:
    rep.send(body.upper())
    if body == b"end":
        break
rep.close()
"""
    with Program(program) as user, sp.Req(reconnect_time=0.01) as req:
        req.dial(user.hear()["address"])
        assert ask(req, b"x") == b"X"
        family = user.family()
        supervisor = next(process for process in family if process.ppid() == user.pid)
        user.signal(signal.SIGSTOP)
        supervisor.kill()
        gone([process for process in family if process != supervisor])  # the kernel sees to it
        user.signal(signal.SIGCONT)
        assert ask(req, b"y") == b"Y"
        assert ask(req, b"end") == b"END"
        assert user.wait() == 0
        assert not any(lives(process) for process in family)
