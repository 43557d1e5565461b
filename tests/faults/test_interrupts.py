"""Ctrl-C ends a wait at once, and a program quietly."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from faults.program import BOUND, Program, gone
from helpers import eventually
from sockets.kit import ask

import spworkers as sp

BLOCKED = """
rep = sp.Rep(listen="tcp://127.0.0.1:0", name="rep")
req = sp.Req(name="req")
raw = sp.Req(raw=True, writeq_len=1)
raw.send_msg(sp.Message(b"x", b"\\x80\\0\\0\\1"))
context = rep.open_context()
"""

WAITS = {
    "recv": "rep.recv()",
    "recv with a timeout": "rep.recv(timeout=60)",
    "recv on one of several contexts": "context.recv()",
    "recv_view": "rep.recv_view().__enter__()",
    "send": "req.send(b'x')",
    "send into a full queue": "raw.send_msg(sp.Message(b'y', b'\\x80\\0\\0\\2'))",
    "reserve": "raw.reserve(5).__enter__()",
    "iteration": "list(rep)",
    "dial": "req.dial(sys.argv[1])",
    "close": "raw.close(linger=60)",
}


@pytest.mark.slow
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_it_interrupts_a_blocked_call_at_once(wait: str) -> None:
    program = f"""{BLOCKED}
say(ready=True)
try:
    {wait}
except KeyboardInterrupt:
    say(interrupted=time.monotonic())
"""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        with Program(program, f"tcp://127.0.0.1:{silent.getsockname()[1]}") as user:
            user.hear()
            eventually(lambda: _sleeps(user.pid))
            before = time.monotonic()
            user.signal(signal.SIGINT, group=True)
            assert user.hear()["interrupted"] - before < 2


@pytest.mark.parametrize("then", ["raise", "say(interrupted=True)"])
def test_after_an_interrupted_close_the_programs_end_does_not_wait_either(then: str) -> None:
    program = f"""{BLOCKED}
say(ready=True)
try:
    raw.close(linger=60)
except KeyboardInterrupt:
    {then}
"""
    with Program(program) as user:
        user.hear()
        eventually(lambda: _sleeps(user.pid))
        family = user.family()
        before = time.monotonic()
        user.signal(signal.SIGINT, group=True)
        user.wait()
        gone(family)
        assert time.monotonic() - before < 20


@pytest.mark.slow
def test_a_second_one_ends_the_wait_for_a_pools_tasks_without_a_word() -> None:
    """A pool without `with`: at the program's end what was submitted is waited for, and that can be given up too."""
    program = """
def within(name):
    frame = sys._current_frames()[threading.main_thread().ident]
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return frame is not None

def tell():  # not at the exit itself: Ctrl-C there would end what tells, and nothing else
    while not within("_finish_all"):
        time.sleep(0.01)
    say(ending=True)

pool = sp.Pool(1)
assert pool.submit(abs, -1).result() == 1
threading.Thread(target=tell, daemon=True).start()
future = pool.submit(time.sleep, 60)
say(ready=True)
future.result()
"""
    with Program(program) as user:
        user.hear()
        eventually(lambda: _sleeps(user.pid))
        family = user.family()
        user.signal(signal.SIGINT, group=True)
        assert user.hear() == {"ending": True}
        eventually(lambda: _sleeps(user.pid))
        user.signal(signal.SIGINT, group=True)
        assert user.wait() == -signal.SIGINT
        gone(family)
        assert user.stderr.count("Traceback") == 1, user.stderr
        assert "Exception ignored" not in user.stderr


SLEEPING = {
    "a pool's shutdown": "pool = sp.Pool(1); pool.submit(time.sleep, 60); say(ready=True); pool.shutdown()",
    "a task that another thread waits for": """
pool = sp.Pool(1)
future = pool.submit(time.sleep, 60)
threading.Thread(target=future.exception, daemon=True).start()
while not pool._engine._reading.locked():
    pass
say(ready=True)
future.result()
""",
    "a call beyond what may be in flight": """
client = sp.Client("tcp://127.0.0.1:1", in_flight=1, dial_asynch=True)
client.submit("sleep")
say(ready=True)
client.call("sleep")
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("wait", SLEEPING.values(), ids=SLEEPING)
def test_one_that_another_thread_took_ends_the_wait_too(wait: str) -> None:
    """The system may give a signal to any thread, and to this one just before it sleeps: then nothing wakes it."""
    program = f"""
ear = threading.Thread(target=time.sleep, args=(600,), daemon=True)
ear.start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
try:
    {wait.strip().replace(chr(10), chr(10) + "    ")}
except KeyboardInterrupt:
    say(interrupted=time.monotonic())
    os._exit(0)
"""
    with Program(program) as user:
        user.hear()
        eventually(lambda: _sleeps(user.pid))
        before = time.monotonic()
        user.signal(signal.SIGINT)
        assert user.hear()["interrupted"] - before < 5


def _sleeps(pid: int) -> bool:
    """Whether the main thread sleeps in poll or on a lock, and not in the midst of its way there."""
    with open(f"/proc/{pid}/wchan", encoding="ascii") as file:
        where = file.read()
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0] == "S" and bool(where)


def test_an_interrupted_call_can_be_made_again_and_nothing_is_lost() -> None:
    program = """
rep = sp.Rep(listen="tcp://127.0.0.1:0")
say(address=rep.listeners[0].address)
interrupts = 0
while True:
    try:
        body = rep.recv()
        rep.send(body.upper())
        if body == b"end":
            break
    except KeyboardInterrupt:
        interrupts += 1
say(interrupts=interrupts)
rep.close()
"""
    with Program(program) as user, sp.Req(retry_time=0.5) as req:
        req.dial(user.hear()["address"])
        for number in range(60):
            req.send(b"x%d" % number)
            if number % 2:
                user.signal(signal.SIGINT)
            try:
                assert req.recv(timeout=BOUND) == b"X%d" % number
            except sp.RecvTimeoutError:
                pytest.fail(f"request {number} was lost; {user.stderr}")
        assert ask(req, b"end") == b"END"
        assert user.hear()["interrupts"] > 0
        assert user.wait() == 0


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("closing", ["with", "at exit"])
def test_it_ends_a_server_with_a_clean_and_quiet_exit(group: bool, closing: str) -> None:
    program = """
rep = sp.Rep(listen="tcp://127.0.0.1:0")
say(address=rep.listeners[0].address)
try:
    for body in rep:
        rep.send(body.upper())
except KeyboardInterrupt:
    pass
"""
    if closing == "with":
        program = program.replace("try:", "with rep:\n  try:").replace("    for", "      for")
        program = program.replace("        rep.send", "          rep.send").replace("except", "  except")
        program = program.replace("    pass", "      pass")
    with Program(program) as user, sp.Req(dial=user.hear()["address"]) as req:
        assert ask(req, b"x") == b"X"
        family = user.family()
        user.signal(signal.SIGINT, group=group)
        assert user.wait() == 0
        assert user.stderr == ""
        gone(family)


def test_sigterm_is_the_programs_own_business() -> None:
    program = """
class Stop(Exception): pass
def stop(*_): raise Stop
signal.signal(signal.SIGTERM, stop)
with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
    say(address=rep.listeners[0].address)
    try:
        for body in rep:
            rep.send(body.upper())
    except Stop:
        say(stopped=True)
"""
    with Program(program) as user, sp.Req(dial=user.hear()["address"]) as req:
        assert ask(req, b"x") == b"X"
        user.signal(signal.SIGTERM, group=True)
        assert user.hear() == {"stopped": True}
        assert user.wait() == 0
        assert user.stderr == ""


def test_a_signal_handler_may_use_sockets() -> None:
    program = """
rep = sp.Rep(listen="tcp://127.0.0.1:0")
req = sp.Req(dial=rep.listeners[0].address)
def ask(*_):
    req.send(b"from the handler", timeout=20)
signal.signal(signal.SIGUSR1, ask)
say(ready=True)
say(got=rep.recv(timeout=20).decode())
rep.send(b"reply")
say(got=req.recv(timeout=20).decode())
signal.signal(signal.SIGUSR1, lambda *_: rep.close())
say(ready=True)
try:
    rep.recv()
except sp.ClosedError:
    say(closed=True)
req.close()
"""
    with Program(program) as user:
        user.hear()
        user.signal(signal.SIGUSR1)
        assert [user.hear(), user.hear()] == [{"got": "from the handler"}, {"got": "reply"}]
        user.hear()
        user.signal(signal.SIGUSR1)
        assert user.hear() == {"closed": True}
        assert user.wait() == 0
        assert user.stderr == ""


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_it_ends_an_async_server(library: str) -> None:
    program = f"""
import asyncio, sys
import anyio
async def main():
    async with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        say(address=rep.listeners[0].address)
        async for body in rep:
            await rep.asend(body.upper())
try:
    anyio.run(main, backend={library!r})
except KeyboardInterrupt:
    say(interrupted=True)
except asyncio.CancelledError:  # what anyio makes of it on Python 3.10
    say(interrupted=sys.version_info < (3, 11))
"""
    with Program(program) as user, sp.Req(dial=user.hear()["address"]) as req:
        assert ask(req, b"x") == b"X"
        # asyncio's loop misses a signal that comes just before it waits, until something else wakes it.
        eventually(lambda: _sleeps(user.pid))
        user.signal(signal.SIGINT, group=True)
        assert user.hear() == {"interrupted": True}
        assert user.wait() == 0
        assert user.stderr == ""


def test_an_uncaught_one_is_pythons_own_traceback_and_nothing_of_ours() -> None:
    script = (
        "import spworkers as sp\nrep = sp.Rep(listen='tcp://127.0.0.1:0')\nprint('ready', flush=True)\nrep.recv()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=BOUND)
    assert process.returncode == -signal.SIGINT
    assert errors.count(b"Traceback") == 1
    assert errors.rstrip().endswith(b"KeyboardInterrupt")
