"""The user's process is killed: none of ours is left, nor anything in /dev/shm, whatever goes on."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest
from faults.program import BOUND, Program, gone, lives
from helpers import eventually, shared_memory
from sockets.kit import ask, background, serve

import spworkers as sp
from spworkers.ring import CONDUIT

WITHIN = 5.0
"""Seconds; one is what is promised, on a machine that does nothing else."""

SOCKETS = """
rep = sp.Rep(listen="tcp://127.0.0.1:0")
req = sp.Req(dial=rep.listeners[0].address)
req.send(b"x"); rep.recv(); rep.send(b"y"); req.recv()
"""


@pytest.fixture(autouse=True)
def _nothing_in_shared_memory() -> object:
    before = shared_memory()
    yield
    eventually(lambda: shared_memory() <= before)


def test_killing_it_leaves_nothing() -> None:
    with Program(SOCKETS + "say(ready=True)\ntold()") as user:
        user.hear()
        family = user.family()
        assert len(family) == 3
        user.process.kill()
        assert gone(family, WITHIN) < WITHIN


@pytest.mark.skipif(not CONDUIT, reason="no memory that could be shared")
def test_killing_it_while_it_writes_into_memory_that_we_share(tmp_path: Path) -> None:
    pushing = """
push = sp.Push(dial=sys.argv[1])
for number in range(1 << 30):
    push.send(number.to_bytes(4, "big") * 10_000)
"""
    with sp.Pull(listen=f"shm://{tmp_path}/x") as pull, Program(pushing, pull.listeners[0].address) as user:
        first = [pull.recv(timeout=BOUND) for _ in range(100)]
        family = user.family()
        user.process.kill()
        gone(family, WITHIN)

        def ended() -> bool:
            """Whoever has no room for more does not look whether there is an end behind it."""
            with contextlib.suppress(sp.RecvTimeoutError):
                while True:
                    first.append(pull.recv(timeout=0))
            return not pull.pipes

        eventually(ended, BOUND)
        ended()
        assert first == [number.to_bytes(4, "big") * 10_000 for number in range(len(first))]


def test_killing_it_under_load_leaves_nothing() -> None:
    load = """
def load(context):
    while True:
        context.send(os.urandom(200_000))
        context.recv()
for _ in range(3):
    threading.Thread(target=load, args=(req.open_context(),), daemon=True).start()
say(ready=True)
for body in rep:
    rep.send(body)
"""
    with Program(SOCKETS + load) as user:
        user.hear()
        family = user.family()
        user.process.kill()
        gone(family, WITHIN)


def test_a_forked_child_of_the_users_that_lives_on_keeps_nothing_alive() -> None:
    """It has duplicates of every descriptor, so no end-of-file tells anybody that the parent is dead."""
    fork = """
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
say(child=child)
told()
"""
    with Program(SOCKETS + fork) as user:
        child = psutil.Process(user.hear()["child"])
        try:
            family = [process for process in user.family() if process != child]
            assert len(family) == 3
            user.process.kill()
            gone(family, WITHIN)
            assert lives(child)
        finally:
            child.kill()


def test_a_process_with_a_context_of_it_that_is_busy_keeps_nothing_alive() -> None:
    """A worker of the user's own: it runs on, and what it has of ours is of no use any more."""
    fork = """
import pickle
moved = pickle.dumps(rep.open_context())
child = os.fork()
if child == 0:
    context = pickle.loads(moved)
    os.write(1, b'{"ready": true}\\n')
    try:
        context.recv(timeout=60)
    except sp.SPError as error:
        os.write(1, b'{"error": "%s"}\\n' % type(error).__name__.encode())
    while True:
        pass
say(child=child)
told()
"""
    with Program(SOCKETS + fork) as user:
        words = {**user.hear(), **user.hear()}
        child = psutil.Process(words["child"])
        try:
            family = [process for process in user.family() if process != child]
            user.process.kill()
            gone(family, WITHIN)
            assert lives(child)
        finally:
            child.kill()


def test_killing_it_while_its_processes_are_stopped_leaves_nothing() -> None:
    with Program(SOCKETS + "say(ready=True)\ntold()") as user:
        user.hear()
        family = user.family()
        io = [process for process in family if process.ppid() != user.pid]
        for process in io:
            process.suspend()
        user.process.kill()
        gone(family, WITHIN)


def test_killing_the_whole_process_group_leaves_nothing() -> None:
    with Program(SOCKETS + "say(ready=True)\ntold()") as user:
        user.hear()
        family = user.family()
        user.signal(signal.SIGKILL, group=True)
        gone(family, WITHIN)


@pytest.mark.slow
def test_killing_it_while_it_opens_sockets_leaves_nothing() -> None:
    opening = """
say(ready=True)
while True:
    sp.Rep(listen="tcp://127.0.0.1:0").close()
"""
    for _ in range(3):
        with Program(opening) as user:
            user.hear()
            eventually(lambda: len(user.family()) >= 2, BOUND)
            family = user.family()
            user.process.kill()
            gone(family, WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize(
    "end",
    [
        "sys.exit(3)",
        "raise SystemExit(3)",
        "os._exit(3)",
        "raise KeyError('x')",
        "os.kill(os.getpid(), 15)",
        "os.abort()",
    ],
)
def test_however_it_ends_nothing_is_left(end: str) -> None:
    with Program(SOCKETS + f"say(ready=True)\ntold()\n{end}") as user:
        user.hear()
        family = user.family()
        user.tell()
        assert user.wait() != 0
        gone(family, WITHIN)


def test_its_port_is_free_again() -> None:
    with Program(SOCKETS + "say(address=rep.listeners[0].address)\ntold()") as user:
        address = user.hear()["address"]
        family = user.family()
        user.process.kill()
        gone(family, WITHIN)
        with sp.Rep(listen=address) as rep, sp.Req(dial=address) as req:
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)


def test_its_peers_see_a_closed_connection_and_go_on() -> None:
    program = """
rep = sp.Rep(listen="tcp://127.0.0.1:0")
say(address=rep.listeners[0].address)
rep.recv()
say(got=True)
told()
"""
    with sp.Rep(listen="tcp://127.0.0.1:0") as other, Program(program) as user:
        with sp.Req(dial=[user.hear()["address"]]) as req:
            req.send(b"x")
            user.hear()
            user.process.kill()
            waiting = background(req.recv, timeout=BOUND)
            req.dial(other.listeners[0].address)
            served = serve(other)
            assert waiting.result(BOUND) == b"X"
            served.result(BOUND)
    assert os.getpid()
