"""Contexts: opened, closed, dropped, and moved to another process by pickling."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

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
    rep_and_req,
    request_id,
    serve,
    wait_blocked,
)

import spworkers as sp
from spworkers.testing import RawPeer


def test_closing_twice_or_after_the_socket_raises_closed_error() -> None:
    with sp.Rep() as rep:
        one, two = rep.open_context(), rep.open_context()
        one.close()
        with pytest.raises(sp.ClosedError, match=r"Rep socket: context 1 is closed|rep context 1 is closed"):
            one.close()
    for use in (two.close, two.recv, two.fileno, lambda: two.send(b"x"), lambda: two.set_option("RECV-DEADLINE", 1)):
        with pytest.raises(sp.ClosedError):
            use()


def test_a_context_that_was_closed_inside_its_context_manager_stays_closed() -> None:
    with sp.Rep() as rep, rep.open_context() as context:
        context.close()


def test_a_dropped_context_warns_and_is_closed() -> None:
    with rep_and_req() as (rep, req):
        context = rep.open_context()
        assert rep.stats()["contexts"] == 2
        with pytest.warns(ResourceWarning, match="<Context 1 of Rep: open> was not closed"):
            del context
            gc.collect()
        eventually(lambda: rep.stats()["contexts"] == 1)
        served = serve(rep)
        assert ask(req, b"x") == b"X"
        served.result(BOUND)


def test_the_options_of_a_context_are_its_own_and_some_are_no_options_of_contexts() -> None:
    with sp.Req() as req, req.open_context() as one, req.open_context() as two:
        one.retry_time = 1
        assert (one.retry_time, two.retry_time, req.retry_time) == (1, 60, 60)
        with pytest.raises(sp.BadOptionError):
            one.set_option("RECONNECT-TIME", 1)
        with pytest.raises(sp.BadOptionError):
            one.get_option("RAW")


def test_what_a_context_dropped_is_counted_when_it_is_closed_too() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0", best_effort=True) as rep:
        with RawPeer.dial(rep.listeners[0].address, REQ) as wire, rep.open_context() as context:
            for number in range(200):
                wire.send(request_id(number))
                context.recv(timeout=BOUND)
                context.send(bytes(100_000))
            before = drops(rep)
            assert before
        assert drops(rep)["best_effort"] == before["best_effort"]


def test_what_a_context_sent_before_it_was_closed_still_goes_out() -> None:
    with rep_and_req() as (rep, req):
        for _ in range(20):
            with rep.open_context() as context:
                req.send(b"x")
                assert context.recv(timeout=BOUND) == b"x"
                context.send(b"y")
            assert req.recv(timeout=BOUND) == b"y"


# ---- moving


def serve_in_child(context: sp.Context, times: int) -> None:
    """What runs in the other process."""
    with context:
        for _ in range(times):
            body = context.recv(timeout=BOUND)
            context.send(b"%d %s" % (os.getpid(), body))


def ask_in_child(context: sp.Context, body: bytes, answer: Any) -> None:
    with context:
        answer.send(ask(context, body))


@contextlib.contextmanager
def child(target: Any, *args: Any) -> Iterator[multiprocessing.process.BaseProcess]:
    """A process that multiprocessing has spawned; it must end well."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=args)
    process.start()
    try:
        yield process
        process.join(BOUND)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        process.close()


def test_a_rep_context_moves_to_a_spawned_process_and_serves_there() -> None:
    with rep_and_req("tcp://127.0.0.1:0") as (rep, req):
        context = rep.open_context()
        with child(serve_in_child, context, 20) as process:
            for number in range(20):
                assert ask(req, b"%d" % number) == b"%d %d" % (process.pid, number)
        served = serve(rep)
        assert ask(req, b"x") == b"X"
        served.result(BOUND)
        eventually(lambda: rep.stats()["contexts"] == 1)


def test_a_req_context_moves_to_a_spawned_process_and_asks_there() -> None:
    with rep_and_req() as (rep, req):
        served = serve(rep, 2)
        ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
        with child(ask_in_child, req.open_context(), b"from the child", theirs):
            assert ours.poll(BOUND)
            assert ours.recv() == b"FROM THE CHILD"
        assert ask(req, b"from the parent") == b"FROM THE PARENT"
        served.result(BOUND)
        for end in (ours, theirs):
            end.close()


def test_a_context_moves_to_any_process_that_unpickles_it() -> None:
    script = (
        "import pickle, sys\n"
        "with pickle.load(sys.stdin.buffer) as context:\n"
        "    context.send(context.recv(timeout=20) + b' from ' + repr(context).encode())\n"
    )
    with rep_and_req() as (rep, req):
        process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
        process.communicate(pickle.dumps(rep.open_context()), timeout=0.001) if False else None
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(rep.open_context()))
        process.stdin.close()
        assert ask(req, b"hello") == b"hello from <Context 1 of rep: open>"
        assert process.wait(BOUND) == 0


def test_a_context_that_was_pickled_before_a_fork_can_be_used_by_the_child() -> None:
    script = """
import os, pickle, sys
import spworkers as sp
with sp.Rep(listen="inproc://x") as rep, sp.Req(dial="inproc://x") as req:
    moved = pickle.dumps(rep.open_context())
    child = os.fork()
    if child == 0:
        with pickle.loads(moved) as context:
            context.send(context.recv(timeout=20).upper())
        os._exit(0)
    req.send(b"hello")
    print(req.recv(timeout=20).decode())
    assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
        capture_output=True,
        timeout=BOUND,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"HELLO\n", b"")


def test_the_original_raises_context_moved_error() -> None:
    with sp.Rep() as rep:
        context = rep.open_context()
        data = pickle.dumps(context)
        for use in (
            context.recv,
            context.fileno,
            context.close,
            lambda: context.send(b"x"),
            lambda: context.set_option("RECV-DEADLINE", 1),
            lambda: pickle.dumps(context),
        ):
            with pytest.raises(sp.ContextMovedError, match="moved to another process"):
                use()
        assert repr(context) == "<Context 1 of Rep: moved>"
        with pickle.loads(data) as found:
            assert repr(found) == "<Context 1 of rep: open>"


def test_a_ticket_is_good_for_one_claim() -> None:
    with sp.Rep() as rep:
        data = pickle.dumps(rep.open_context())
        pickle.loads(data).close()
        with pytest.raises(sp.ContextMovedError):
            pickle.loads(data)


def test_a_ticket_ends_with_its_socket() -> None:
    with sp.Rep() as rep:
        data = pickle.dumps(rep.open_context())

    def refused() -> bool:
        try:
            pickle.loads(data).close()
        except sp.ContextMovedError:
            return True
        return False

    eventually(refused)


def test_a_context_that_was_handed_over_cannot_be_handed_on() -> None:
    with sp.Rep() as rep, pickle.loads(pickle.dumps(rep.open_context())) as context:
        with pytest.raises(sp.UnsupportedOptionError, match="cannot be handed on"):
            pickle.dumps(context)


def test_a_moved_context_keeps_its_options() -> None:
    with sp.Rep(recv_deadline=-1) as rep:
        mine = rep.open_context()
        mine.best_effort = True
        with pickle.loads(pickle.dumps(mine)) as context:
            assert (context.recv_deadline, context.best_effort) == (-1, True)
            with pytest.raises(sp.RecvTimeoutError):
                context.recv()


def test_moving_wakes_a_call_that_waits_at_the_original() -> None:
    with sp.Rep() as rep:
        context = rep.open_context()
        waiting = background(context.recv)
        wait_blocked(context)
        with pickle.loads(pickle.dumps(context)):
            assert isinstance(error_of(waiting), (sp.ContextMovedError, sp.ClosedError))


def test_a_moved_context_waits_like_any_other() -> None:
    with rep_and_req() as (rep, req), sp.Req() as lonely:
        with pickle.loads(pickle.dumps(rep.open_context())) as context:
            with pytest.raises(sp.RecvTimeoutError):
                context.recv(timeout=SOON)
            waiting = background(context.recv, timeout=BOUND)
            wait_blocked(context)
            req.send(b"x")
            assert waiting.result(BOUND) == b"x"
            context.send(b"y")
            assert req.recv(timeout=BOUND) == b"y"
        with pickle.loads(pickle.dumps(lonely.open_context())) as context:
            with pytest.raises(sp.SendTimeoutError):
                context.send(b"x", timeout=SOON)
            blocked = background(context.send, b"y")
            wait_blocked(context)
            used = os.times()
            threading.Event().wait(0.3)  # what it does meanwhile is sleep
            now = os.times()
            assert now.user + now.system - used.user - used.system < 0.15
            lonely.dial(rep.listeners[0].address)
            blocked.result(BOUND)
            served = serve(rep)
            assert context.recv(timeout=BOUND) == b"Y"
            served.result(BOUND)


def test_a_moved_rep_context_still_knows_whom_to_answer() -> None:
    with rep_and_req() as (rep, req):
        mine = rep.open_context()
        asking = background(ask, req, b"x")
        assert mine.recv(timeout=BOUND) == b"x"
        with pickle.loads(pickle.dumps(mine)) as context:
            context.send(b"from the other one")
            assert asking.result(BOUND) == b"from the other one"


def test_a_moved_req_context_still_gets_the_reply_to_its_request_and_no_other() -> None:
    with rep_and_req() as (rep, req):
        mine = req.open_context()
        mine.send(b"x")
        assert rep.recv(timeout=BOUND) == b"x"
        rep.send(b"reply")
        eventually(lambda: req.stats()["received"] == 1)
        with pickle.loads(pickle.dumps(mine)) as context:
            assert context.recv(timeout=BOUND) == b"reply"
        mine = req.open_context()
        mine.send(b"first")
        assert rep.recv(timeout=BOUND) == b"first"
        rep.send(b"unwanted")
        eventually(lambda: req.stats()["received"] == 2)
        with pickle.loads(pickle.dumps(mine)) as context:
            context.send(b"second")
            served = serve(rep)
            assert context.recv(timeout=BOUND) == b"SECOND"
            served.result(BOUND)


def test_a_process_that_dies_with_a_context_gives_its_requests_back() -> None:
    script = (
        "import os, pickle, sys\n"
        "context = pickle.load(sys.stdin.buffer)\n"
        "sys.stdout.write('ready\\n'); sys.stdout.flush()\n"
        "context.recv(timeout=20)\n"
        "os._exit(1)\n"
    )
    with rep_and_req(req={"retry_time": 0.2}) as (rep, req):
        process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pickle.dumps(rep.open_context()))
        process.stdin.close()
        assert process.stdout.readline() == b"ready\n"
        req.send(b"x")
        assert process.wait(BOUND) == 1
        process.stdout.close()
        eventually(lambda: rep.stats()["contexts"] == 1)
        served = serve(rep)
        assert req.recv(timeout=BOUND) == b"X"
        served.result(BOUND)
        assert drops(rep) == {}


def test_closing_the_socket_wakes_a_context_in_another_process() -> None:
    script = (
        "import pickle, sys\n"
        "import spworkers as sp\n"
        "context = pickle.load(sys.stdin.buffer)\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    context.recv(timeout=20)\n"
        "except sp.SPError as error:\n"
        "    print(type(error).__name__)\n"
    )
    rep = sp.Rep(listen=inproc())
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(pickle.dumps(rep.open_context()))
    process.stdin.close()
    assert process.stdout.readline() == b"ready\n"
    rep.close()
    assert process.stdout.readline() == b"ClosedError\n"
    assert process.wait(BOUND) == 0
    process.stdout.close()
