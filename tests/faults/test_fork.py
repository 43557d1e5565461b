"""A user's process that forks with sockets open: the child cannot use them, and harms neither side."""

from __future__ import annotations

import multiprocessing
import os
from textwrap import indent
from typing import Any

import pytest
from faults.program import Program, gone
from sockets.kit import BOUND, ask, background, rep_and_req, serve

import spworkers as sp

USES = """
uses = {
    "send": lambda: req.send(b"x"),
    "recv": lambda: rep.recv(timeout=5),
    "fileno": lambda: rep.fileno(),
    "dial": lambda: req.dial("tcp://127.0.0.1:1"),
    "listen": lambda: req.listen("tcp://127.0.0.1:0"),
    "open_context": lambda: rep.open_context(),
    "context recv": lambda: context.recv(timeout=5),
    "claimed send": lambda: claimed.send(b"x", timeout=5),
    "set_option": lambda: setattr(rep, "recv_deadline", 1),
    "stats": lambda: rep.stats(),
    "pipes": lambda: rep.pipes,
    "dialer": lambda: req.dialers[0].set_option("RECONNECT-TIME", 1),
    "close": lambda: rep.close(),
    "context close": lambda: context.close(),
}
"""


USED = """
for name, use in uses.items():
    try:
        use()
        say(name=name, error=None)
    except sp.SPError as error:
        say(name=name, error=type(error).__name__, words=str(error))
"""


def heard(user: Program) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What a program says until it is done, and its last words."""
    said = []
    while "done" not in (last := user.hear()):
        said.append(last)
    return said, last


def test_every_use_in_the_child_raises_forked_error_and_the_parents_work_on() -> None:
    program = f"""
import pickle
rep = sp.Rep(listen="tcp://127.0.0.1:0")
req = sp.Req(dial=rep.listeners[0].address)
context = rep.open_context()
claimed = pickle.loads(pickle.dumps(req.open_context()))
{USES}
child = os.fork()
if child == 0:
{indent(USED, "    ")}    repr(rep), repr(context), list(req.dialers)
    with rep: pass
    sys.exit(0)  # with everything that atexit and the garbage collector do
assert os.waitpid(child, 0) == (child, 0)
for number in range(20):
    req.send(b"%d" % number)
    assert rep.recv(timeout=20) == b"%d" % number
    rep.send(b"yes")
    assert req.recv(timeout=20) == b"yes"
claimed.send(b"claimed")
assert rep.recv(timeout=20) == b"claimed"
rep.send(b"yes")
assert claimed.recv(timeout=20) == b"yes"
for each in (claimed, context, req, rep):
    each.close()
say(done=True)
"""
    with Program(program) as user:
        answers, _ = heard(user)
        assert user.wait() == 0
        assert user.stderr == ""
    assert len(answers) == 14
    for answer in answers:
        assert answer["error"] == "ForkedError", answer
        assert str(user.pid) in answer["words"]
        if answer["name"] in ("context recv", "claimed send"):
            assert "pickle.dumps(context) in the parent, pickle.loads in the child" in answer["words"]


def test_the_child_opens_sockets_of_its_own_with_a_supervisor_of_its_own() -> None:
    program = """
rep = sp.Rep(listen="tcp://127.0.0.1:0")
address = rep.listeners[0].address
child = os.fork()
if child == 0:
    with sp.Req(dial=address) as req, sp.Rep(listen="inproc://child") as mine:
        req.send(b"from the child")
        say(reply=req.recv(timeout=20).decode(), supervisors=2)
    sys.exit(0)
body = rep.recv(timeout=20)
rep.send(body.upper())
assert os.waitpid(child, 0) == (child, 0)
rep.close()
say(done=True)
"""
    with Program(program) as user:
        assert user.hear()["reply"] == "FROM THE CHILD"
        assert user.hear() == {"done": True}
        assert user.wait() == 0
        assert user.stderr == ""


def test_a_client_says_in_the_child_that_it_is_another_processs() -> None:
    program = f"""
import asyncio
app = sp.App("calc")
app.handler(name="add")(lambda a, b: a + b)
rep = sp.Rep(listen="tcp://127.0.0.1:0")
pool = sp.ContextPool(rep, app, workers=1)
client = sp.Client(rep.listeners[0].address)
assert client.add(1, 2) == 3
uses = {{
    "call": lambda: client.add(1, 2),
    "acall": lambda: asyncio.run(client.acall("add", 1, 2)),
    "submit": lambda: client.submit("add", 1, 2),
    "map": lambda: list(client.map("add", [1], [2])),
}}
child = os.fork()
if child == 0:
{indent(USED, "    ")}    client.close()
    sys.exit(0)
assert os.waitpid(child, 0) == (child, 0)
assert client.add(3, 4) == 7
client.close()
pool.close()
rep.close()
say(done=True)
"""
    with Program(program) as user:
        answers, _ = heard(user)
        assert user.wait() == 0
    assert [answer["name"] for answer in answers] == ["call", "acall", "submit", "map"]
    for answer in answers:
        assert answer["error"] == "ForkedError"
        assert answer["words"].startswith("add(): the client of tcp://127.0.0.1:")
        assert answer["words"].endswith(f" is process {user.pid}'s: a forked child makes one of its own")


def test_a_child_that_a_handler_forks_in_the_middle_of_a_wait_takes_nothing() -> None:
    """It comes back into its parent's wait, on the same bells and rings."""
    program = """
import signal
app = sp.App("calc")

@app.handler
def slow(n: int) -> int:
    time.sleep(0.1)
    return n

rep = sp.Rep(listen="tcp://127.0.0.1:0")
pool = sp.ContextPool(rep, app, workers=1)
me = os.getpid()
children = []

def fork(number, frame):
    child = os.fork()
    if child:
        children.append(child)

signal.signal(signal.SIGALRM, fork)
plain = sp.Rep(listen="tcp://127.0.0.1:0")
with sp.Client(rep.listeners[0].address, timeout=20) as client, sp.Req(dial=plain.listeners[0].address) as req:
    for round in range(5):
        for name in ("call", "recv"):
            if name == "recv":
                req.send(b"x")
                assert plain.recv(timeout=20) == b"x"
                threading.Timer(0.1, lambda: plain.send(b"y")).start()
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            try:
                got = client.slow(round) if name == "call" else req.recv(timeout=20).decode()
            except sp.SPError as error:
                got = type(error).__name__
            if os.getpid() != me:
                say(child=name, got=got)
                os._exit(0)
            say(parent=name, got=got)
for child in children:
    os.waitpid(child, 0)
pool.close()
rep.close()
plain.close()
say(done=len(children))
"""
    with Program(program) as user:
        answers, last = heard(user)
        assert user.wait() == 0
    children = [answer for answer in answers if "child" in answer]
    assert {(each["child"], each["got"]) for each in children} == {("call", "ForkedError"), ("recv", "ForkedError")}
    assert last == {"done": len(children)}
    assert [each["got"] for each in answers if each.get("parent") == "call"] == list(range(5))
    assert [each["got"] for each in answers if each.get("parent") == "recv"] == ["y"] * 5


@pytest.mark.slow
def test_a_fork_while_other_threads_use_sockets_harms_neither() -> None:
    program = """
rep = sp.Rep(listen="tcp://127.0.0.1:0")
req = sp.Req(dial=rep.listeners[0].address)
over = threading.Event()

def serve():
    for body in rep:
        rep.send(body)

def ask(context):
    count = 0
    while not over.is_set():
        body = b"%d" % count
        context.send(body)
        assert context.recv(timeout=20) == body
        rep.stats()
        count += 1
    results.append(count)

results = []
threading.Thread(target=serve, daemon=True).start()
threads = [threading.Thread(target=ask, args=(req.open_context(),)) for _ in range(3)]
for thread in threads:
    thread.start()
for number in range(15):
    child = os.fork()
    if child == 0:
        with sp.Rep(listen="inproc://mine") if number % 5 == 0 else open(os.devnull):
            pass
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
over.set()
for thread in threads:
    thread.join(20)
    assert not thread.is_alive()
assert len(results) == 3 and min(results) > 0, results
say(done=True)
os._exit(0)
"""
    with Program(program) as user:
        assert user.hear() == {"done": True}
        assert user.stderr == ""


def test_a_child_that_dies_or_lives_on_does_not_matter() -> None:
    program = """
rep = sp.Rep(listen="tcp://127.0.0.1:0")
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        os.closerange(0, 3)  # else the test would wait for its words
        if number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60 if number == 1 else 0)
        os._exit(0)
    children.append(child)
say(address=rep.listeners[0].address, children=children)
for body in rep:
    rep.send(body.upper())
    if body == b"end":
        break
rep.close()
say(done=True)
"""
    with Program(program) as user:
        words = user.hear()
        try:
            with sp.Req(dial=words["address"]) as req:
                assert ask(req, b"x") == b"X"
                assert ask(req, b"end") == b"END"
            assert user.hear() == {"done": True}
            family = [process for process in user.family() if process.pid not in words["children"]]
            assert user.wait() == 0
            gone(family)
        finally:
            os.kill(words["children"][1], 9)


def _echo_once(address: str) -> None:
    with sp.Req(dial=address) as req:
        assert ask(req, b"from a forked worker") == b"FROM A FORKED WORKER"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_multiprocessing_by_fork_works_beside_open_sockets() -> None:
    with rep_and_req("tcp://127.0.0.1:0") as (rep, req):
        served = serve(rep, 3)
        process = multiprocessing.get_context("fork").Process(target=_echo_once, args=(rep.listeners[0].address,))
        process.start()
        assert ask(req, b"x") == b"X"
        process.join(BOUND)
        assert process.exitcode == 0
        assert ask(req, b"y") == b"Y"
        served.result(BOUND)
        process.close()


def test_blocked_calls_of_the_parent_go_on_through_a_fork() -> None:
    with rep_and_req() as (rep, req):
        waiting = background(rep.recv, timeout=BOUND)
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0) == (child, 0)
        req.send(b"x")
        assert waiting.result(BOUND) == b"x"
