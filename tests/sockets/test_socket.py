"""Sockets as handles: making, naming, closing, misusing and losing them."""

from __future__ import annotations

import copy
import gc
import itertools
import os
import pickle
import resource
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psutil
import pytest
from helpers import alone, eventually
from sockets.kit import BOUND, ask, background, callers_in, error_of, inproc, open_fds, rep_and_req, serve, wait_fds

import spworkers as sp


def test_the_contracts_first_example_works() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep, sp.Req(dial=rep.listeners[0].address) as req:
        req.send(b"ping")
        assert rep.recv(timeout=BOUND) == b"ping"
        rep.send(b"pong")
        assert req.recv() == b"pong"


def test_a_plain_script_without_a_main_guard_opens_sockets_at_its_top_level() -> None:
    script = """
import spworkers as sp
rep = sp.Rep(listen="tcp://127.0.0.1:0")
req = sp.Req(dial=rep.listeners[0].address)
req.send(b"ping"); assert rep.recv() == b"ping"; rep.send(b"pong"); print(req.recv().decode())
req.close(); rep.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=BOUND, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"pong\n", b"")


def test_sockets_that_are_open_at_the_end_of_a_script_are_closed_without_a_word() -> None:
    script = """
import spworkers as sp
rep = sp.Rep(listen="tcp://127.0.0.1:0")
req = sp.Req(dial=rep.listeners[0].address)
req.send(b"ping"); assert rep.recv() == b"ping"; rep.send(b"pong"); print(req.recv().decode())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=BOUND, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"pong\n", b"")


def test_a_socket_can_be_made_and_used_in_any_thread() -> None:
    def client(address: str) -> bytes:
        with sp.Req(dial=address) as req:
            return ask(req, threading.current_thread().name.encode())

    with sp.Rep(listen=inproc()) as rep:
        served = serve(rep, 3)
        answers = [background(client, rep.listeners[0].address) for _ in range(3)]
        assert sorted(future.result(BOUND) for future in answers) == sorted(
            name.upper() for name in served.result(BOUND)
        )


def test_info_tells_numbers_and_names_of_both_sides() -> None:
    with sp.Req() as req, sp.Rep(raw=True) as rep:
        assert req.info == (0x30, 0x31, "req", "rep")
        assert (rep.info.self, rep.info.peer, rep.info.self_name, rep.info.peer_name) == (0x31, 0x30, "rep", "req")


def test_listen_and_dial_take_one_address_or_several() -> None:
    with sp.Rep(listen=[inproc(), "tcp://127.0.0.1:0"]) as rep:
        with sp.Req(dial=[listener.address for listener in rep.listeners]) as req:
            assert [d.address for d in req.dialers] == [listener.address for listener in rep.listeners]
            eventually(lambda: len(req.pipes) == len(rep.pipes) == 2)


# ---- what it says of itself


def test_repr_tells_kind_name_and_what_there_is() -> None:
    with sp.Rep(listen=inproc(), name="calc") as rep, sp.Req(dial=rep.listeners[0].address, raw=True) as req:
        eventually(lambda: repr(rep) == "<Rep calc: 1 listener, 0 dialers, 1 pipe>")
        assert repr(req) == "<raw Req: 0 listeners, 1 dialer, 1 pipe>"
        with rep.open_context() as context:
            assert repr(rep) == "<Rep calc: 1 listener, 0 dialers, 1 pipe, 1 context>"
            assert repr(context) == "<Context 1 of Rep: open>"
        assert repr(context) == "<Context 1 of Rep: closed>"
        assert repr(rep.listeners[0]) == f"<Listener {rep.listeners[0].address}: listening>"
        assert repr(req.dialers[0]) == f"<Dialer {rep.listeners[0].address}: dialing>"
        assert repr(rep.pipes[0]).startswith(f"<Pipe {rep.pipes[0].id}: ")
    assert repr(rep) == "<Rep calc: closed>"
    assert repr(req) == "<raw Req: closed>"


def test_stats_count_messages_bytes_and_connections() -> None:
    with rep_and_req("tcp://127.0.0.1:0") as (rep, req):
        served = serve(rep, 3)
        for _ in range(3):
            ask(req, b"12345678")
        served.result(BOUND)
        asked, answered = req.stats(), rep.stats()
    framed = 3 * (8 + 4 + 8)
    assert (asked["sent"], asked["received"], asked["dialed"], asked["accepted"]) == (3, 3, 1, 0)
    assert (answered["sent"], answered["received"], answered["dialed"], answered["accepted"]) == (3, 3, 0, 1)
    assert (
        asked["sent_bytes"] == asked["received_bytes"] == answered["sent_bytes"] == answered["received_bytes"] == framed
    )
    assert asked["drops"] == answered["drops"] == {}
    assert asked["pipes"] == asked["contexts"] == asked["generation"] == 1
    assert asked["pid"] not in (os.getpid(), answered["pid"])


# ---- the end


def test_a_context_manager_closes_the_socket() -> None:
    with sp.Req() as req:
        process = psutil.Process(req.stats()["pid"])
    eventually(lambda: not process.is_running(), what="the I/O process has left")
    with pytest.raises(sp.ClosedError, match="Req socket is closed"):
        req.send(b"x")


def test_a_socket_that_was_closed_inside_its_context_manager_stays_closed() -> None:
    with sp.Req() as req:
        req.close()


def test_closing_twice_raises_closed_error() -> None:
    req = sp.Req(name="one")
    req.close()
    with pytest.raises(sp.ClosedError, match="Req socket one is closed"):
        req.close()


AFTER_CLOSE: dict[str, Callable[[sp.Socket], Any]] = {
    "send": lambda s: s.send(b"x"),
    "send_msg": lambda s: s.send_msg(sp.Message(b"x")),
    "recv": lambda s: s.recv(),
    "recv_msg": lambda s: s.recv_msg(),
    "recv_into": lambda s: s.recv_into(bytearray(8)),
    "recv_view": lambda s: s.recv_view().__enter__(),
    "reserve": lambda s: s.reserve(8).__enter__(),
    "fileno": lambda s: s.fileno(),
    "dial": lambda s: s.dial("tcp://127.0.0.1:1"),
    "listen": lambda s: s.listen("tcp://127.0.0.1:0"),
    "new_dialer": lambda s: s.new_dialer("tcp://127.0.0.1:1"),
    "new_listener": lambda s: s.new_listener("tcp://127.0.0.1:0"),
    "open_context": lambda s: s.open_context(),
    "set_option": lambda s: s.set_option("RECV-DEADLINE", 1),
    "an attribute": lambda s: setattr(s, "recv_deadline", 1),
    "set_pipe_event_hook": lambda s: s.set_pipe_event_hook(None),
    "pipes": lambda s: s.pipes,
    "stats": lambda s: s.stats(),
}


@pytest.fixture(scope="module")
def closed_rep() -> sp.Rep:
    rep = sp.Rep()
    rep.close()
    return rep


@pytest.mark.parametrize("use", AFTER_CLOSE.values(), ids=AFTER_CLOSE)
def test_a_closed_socket_raises_closed_error(closed_rep: sp.Rep, use: Callable[[sp.Socket], Any]) -> None:
    with pytest.raises(sp.ClosedError, match="Rep socket is closed"):
        use(closed_rep)


def test_options_of_a_closed_socket_can_still_be_read(closed_rep: sp.Rep) -> None:
    assert closed_rep.get_option("RAW") is closed_rep.raw is False


def test_iteration_ends_when_the_socket_is_closed(closed_rep: sp.Rep) -> None:
    assert list(closed_rep) == []


@pytest.mark.parametrize("operation", ["recv", "send"])
def test_close_wakes_calls_that_are_blocked_in_other_threads(operation: str) -> None:
    for _ in range(20):
        rep, req = sp.Rep(), sp.Req()
        calls = [background(rep.recv), background(req.send, b"x")]
        eventually(lambda: callers_in(rep) == callers_in(req) == 1)
        (rep if operation == "recv" else req).close()
        assert isinstance(error_of(calls[operation == "send"]), sp.ClosedError)
        (req if operation == "recv" else rep).close()
        assert isinstance(error_of(calls[operation == "recv"]), sp.ClosedError)


def test_close_wakes_every_thread_that_is_blocked_on_one_raw_socket() -> None:
    with sp.Rep(raw=True) as rep:
        calls = [background(rep.recv) for _ in range(8)]
        eventually(lambda: callers_in(rep) == 8)
        rep.close()
    assert all(isinstance(error_of(call), sp.ClosedError) for call in calls)


def test_a_dropped_socket_warns_and_its_process_leaves() -> None:
    req = sp.Req(name="lost")
    process = psutil.Process(req.stats()["pid"])
    with pytest.warns(ResourceWarning, match="<Req lost: .* was not closed"):
        del req
        gc.collect()
    eventually(lambda: not process.is_running(), what="the I/O process has left")


def test_a_dropped_socket_with_everything_on_it_warns_and_its_process_leaves() -> None:
    rep = sp.Rep(listen=inproc(), name="lost")
    rep.dial(rep.listeners[0].address, dial_asynch=True)
    rep.set_pipe_event_hook(lambda event, pipe: None)
    contexts = [rep.open_context(), rep.open_context()]
    process = psutil.Process(rep.stats()["pid"])
    seen: list[tuple[type[Warning], str]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # recorded warnings would keep their sources alive
        warnings.showwarning = lambda message, category, *_, **__: seen.append((category, str(message)))
        del rep, contexts
        eventually(lambda: gc.collect() < 0 or not process.is_running(), what="the I/O process has left")
    assert any("<Rep lost" in words for _, words in seen)
    assert {category for category, _ in seen} == {ResourceWarning}


@alone
def test_a_dropped_socket_gives_its_descriptors_back() -> None:
    with sp.Req():  # whatever the first socket of a program opens for good
        pass
    before = open_fds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(5):
            sp.Req()
            gc.collect()
    wait_fds(before)


@alone
def test_a_program_that_may_have_no_more_addresses_is_told_so() -> None:
    with sp.Req():  # the supervisor is to have no such limit
        limit = psutil.Process().memory_info().vms + (100 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        try:
            with pytest.raises(sp.ResourceError, match=r"map \d+ bytes for a context.*ulimit -v"):
                sp.Req()
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@alone
def test_a_closed_socket_gives_its_descriptors_back() -> None:
    with sp.Req():
        pass
    before = open_fds()
    for _ in range(5):
        with sp.Rep(listen=inproc()) as rep, rep.open_context():
            pass
    del rep  # whoever still has it has its memory
    gc.collect()
    wait_fds(before)


def test_a_closed_socket_and_its_memory_go_without_a_collection() -> None:
    gc.disable()  # as it may be for long, in a program with few objects of its own
    try:
        with sp.Rep(listen=inproc()) as rep, rep.open_context():
            rep._pipe(7)  # as a message's: it knows the socket, and the socket knows it
            rep.new_listener(inproc()).close()
        gone = weakref.ref(rep)
        del rep
        eventually(lambda: gone() is None)
    finally:
        gc.enable()


# ---- mistakes


@pytest.mark.parametrize("verb", ["dial", "listen", "new_dialer", "new_listener"])
@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("127.0.0.1:5555", sp.BadTranError, "127.0.0.1:5555"),
        ("nonsense://x", sp.BadTranError, "nonsense"),
        ("TCP://127.0.0.1:5555", sp.BadTranError, "TCP"),
        ("", sp.BadTranError, "''"),
        ("tcp://127.0.0.1", sp.BadAddrError, "127.0.0.1"),
        ("tcp://127.0.0.1:http", sp.BadAddrError, "http"),
        ("tcp://127.0.0.1:65536", sp.BadAddrError, "65536"),
        ("ipc://\udcff", sp.BadAddrError, r"'ipc://\\udcff' is no text"),
        ("shm://\udcff", sp.BadAddrError, r"'shm://\\udcff' is no text"),
        ("inproc://\ud800", sp.BadAddrError, r"'inproc://\\ud800' is no text"),
        (5555, sp.BadValueError, "5555"),
        (None, sp.BadValueError, "None"),
    ],
)
def test_a_bad_address_is_refused_in_words(verb: str, address: Any, error: type[sp.SPError], words: str) -> None:
    with sp.Req() as req:
        with pytest.raises(error, match=words):
            getattr(req, verb)(address)
        assert (req.dialers, req.listeners) == ([], [])


def test_an_address_list_that_is_none_is_refused() -> None:
    with pytest.raises(sp.BadValueError, match=r"listen takes an address such as .*, or a list of them, not 7"):
        sp.Rep(listen=7)  # type: ignore[arg-type]


@alone
def test_a_constructor_that_cannot_listen_or_dial_leaves_nothing_behind() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        before = open_fds()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for keywords in ({"listen": rep.listeners[0].address}, {"dial": ["tcp://127.0.0.1:1"]}):
                with pytest.raises((sp.AddrInUseError, sp.ConnRefusedError)):
                    sp.Rep(**keywords)  # type: ignore[arg-type]
            gc.collect()
        wait_fds(before)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_socket_is_neither_copied_nor_pickled(copied: Callable[[Any], Any]) -> None:
    with sp.Req() as req, pytest.raises(sp.SerializationError, match=r"<Req.* belongs to this process"):
        copied(req)


def test_the_base_class_is_no_socket() -> None:
    with pytest.raises(sp.BadValueError, match="make a Req, a Rep"):
        sp.Socket()


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"recv_dedline": 1}, sp.BadOptionError, "did you mean recv_deadline"),
        ({"survey_time": 1}, sp.BadOptionError, "SURVEY-TIME"),
        ({"recv_deadline": "soon"}, sp.BadValueError, "'soon'"),
        ({"retry_time": -1}, sp.BadValueError, "-1"),
        ({"byte_budget": 1}, sp.BadValueError, "BYTE-BUDGET"),
        ({"max_rcv_size": True}, sp.BadValueError, "True"),
        ({"best_effort": 1}, sp.BadValueError, "1"),
        ({"raw": 5}, sp.BadValueError, "raw is True or False, not 5"),
        ({"name": 5}, sp.BadValueError, "name is a text, or None, not 5"),
        ({"name": "half a \ud83d"}, sp.BadValueError, "name is a text, or None, not 'half a"),
    ],
)
def test_wrong_options_are_refused_by_the_constructor(
    keywords: dict[str, Any], error: type[sp.SPError], words: str
) -> None:
    with pytest.raises(error, match=words):
        sp.Req(**keywords)


def test_options_have_one_name_in_three_spellings() -> None:
    with sp.Req(recv_deadline=1.5) as req:
        assert req.recv_deadline == req.get_option("RECV-DEADLINE") == 1.5
        req.set_option("RECV-DEADLINE", timedelta(milliseconds=250))
        assert req.recv_deadline == 0.25
        req.recv_deadline = None
        assert req.get_option("RECV-DEADLINE") == 0.0


def test_wrong_options_are_refused_by_name_and_as_attributes() -> None:
    with sp.Rep() as rep:
        with pytest.raises(sp.BadOptionError, match="did you mean RECV-DEADLINE"):
            rep.set_option("RECV-DEDLINE", 1)
        with pytest.raises(sp.BadOptionError, match="RETRY-TIME"):
            rep.get_option("RETRY-TIME")
        with pytest.raises(sp.BadOptionError):
            _ = rep.retry_time
        assert not hasattr(rep, "survey_time")
        for value in (0, -1, 256, "junk", None):
            with pytest.raises(sp.BadValueError, match="TTL"):
                rep.set_option("TTL", value)
        with pytest.raises(sp.BadValueError, match="WRITEQ-LEN"):
            rep.writeq_len = -1
        with pytest.raises(sp.BadOptionError, match="raw=True"):
            rep.set_option("RAW", True)
        with pytest.raises(sp.BadOptionError, match="constructor"):
            rep.set_option("BYTE-BUDGET", 1 << 20)
        assert rep.ttl == 8


def test_raw_is_an_option_that_can_only_be_read() -> None:
    with sp.Req() as cooked, sp.Req(raw=True) as raw:
        assert (cooked.raw, raw.raw) == (False, True)
        assert raw.get_option("RAW") is True


def test_options_are_inherited_by_contexts_dialers_and_listeners_until_they_have_their_own() -> None:
    with sp.Rep(recv_deadline=3, max_rcv_size=500) as rep:
        context, listener, dialer = rep.open_context(), rep.new_listener(inproc()), rep.new_dialer("tcp://127.0.0.1:1")
        with context:
            assert (context.recv_deadline, dialer.max_rcv_size) == (3, 500)
            context.recv_deadline = 4
            rep.recv_deadline, rep.max_rcv_size, rep.reconnect_time = 5, 600, 0.7
            assert (context.recv_deadline, dialer.max_rcv_size, dialer.reconnect_time) == (4, 600, 0.7)
            dialer.reconnect_time = 0.9
            rep.reconnect_time = 0.2
            assert dialer.reconnect_time == 0.9
            with pytest.raises(sp.BadOptionError):
                listener.get_option("MAX-RCV-SIZE")  # inproc has none


def test_no_option_of_a_protocol_is_refused_by_its_socket() -> None:
    from spworkers.options import OPTIONS, Place

    for kind, raw in itertools.product((sp.Req, sp.Rep), (False, True)):
        with kind(raw=raw) as sock:
            place = Place.socket(sock.info.self_name, raw=raw)
            for option in OPTIONS.values():
                if option.applies(place) and option.gettable and option.settable and not option.fixed:
                    value = sock.get_option(option.name)
                    if value is not None:
                        sock.set_option(option.name, value)
                        assert sock.get_option(option.name) == value
