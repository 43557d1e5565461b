"""Whom a supervisor takes along: who is told by his mark, his parent or his group, and who is left alone."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import eventually
from supervising import HERE, Remote, dead, gone, run_script

from spworkers.supervisor import brood
from spworkers.supervisor.brood import MARK, Brood, Origin, mark
from spworkers.supervisor.handle import Supervisor

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere it is a session")

LEADER = """
import os, signal, subprocess, sys
if os.getsid(0) != os.getpid():
    os.setpgid(0, 0)
def member(*, group=False, plain=False, session=False, orphan=False):
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        found = int(os.read(read, 20))
        if orphan:
            os.waitpid(pid, 0)
        return found
    if orphan and os.fork():
        os._exit(0)
    if session:
        os.setsid()
    if group:
        os.setpgid(0, 0)
    os.write(write, b"%d" % os.getpid())
    if plain:
        os.execvpe("sleep", ["sleep", "1000"], {"PATH": os.environ["PATH"]})
    signal.pause()
"""


class Leader:
    """A process with a mark, that starts others as it is told."""

    def __init__(self, code: str, **more: object) -> None:
        self.mark = mark()
        self.process = subprocess.Popen(
            [sys.executable, "-c", LEADER + code],
            env={**os.environ, MARK: self.mark},
            stdout=subprocess.PIPE,
            text=True,
            **more,  # type: ignore[call-overload]
        )
        assert self.process.stdout is not None
        self.members = [int(word) for word in self.process.stdout.readline().split()]

    def kill(self, *groups: int) -> set[int]:
        return Brood(self.process.pid, Origin.of(self.process.pid, self.mark), groups).kill()


@pytest.fixture
def leaders() -> Iterator[list[Leader]]:
    """Those that are put here are ended, and all of their members."""
    made: list[Leader] = []
    yield made
    for leader in made:
        for pid in leader.members:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)
        leader.process.kill()
        leader.process.communicate()
        eventually(lambda leader=leader: all(dead(pid) for pid in leader.members))


@linux_only
def test_a_brood_is_told_by_mark_parent_or_group(leaders: list[Leader]) -> None:
    code = """
print(
    member(), member(group=True), member(group=True, orphan=True),  # by their mark
    member(plain=True), member(plain=True, group=True),  # they have none: by their parent
    member(plain=True, orphan=True),  # by its group
    flush=True,
)
signal.pause()
"""
    leader = Leader(code)
    leaders.append(leader)
    assert len(leader.members) == 6
    assert leader.kill() == set(leader.members)
    eventually(lambda: all(dead(pid) for pid in leader.members))
    assert not leader.kill()  # corpses do not count
    assert not dead(leader.process.pid)


@linux_only
def test_a_dead_leaders_brood_is_found_too(leaders: list[Leader]) -> None:
    code = "print(member(), member(group=True), member(plain=True), flush=True); signal.pause()"
    leader = Leader(code)
    leaders.append(leader)
    os.kill(leader.process.pid, signal.SIGKILL)
    eventually(lambda: dead(leader.process.pid))
    assert leader.kill() == set(leader.members)
    eventually(lambda: all(dead(pid) for pid in leader.members))


@linux_only
def test_others_are_left_alone(leaders: list[Leader]) -> None:
    """Who has left the session, whoever is of another brood, and we."""
    one = Leader("print(member(session=True), member(session=True, orphan=True), flush=True); signal.pause()")
    two = Leader("print(member(), member(group=True), flush=True); signal.pause()")
    leaders += [one, two]
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        assert not one.kill()
        assert not any(dead(pid) for pid in [*one.members, *two.members, bystander.pid, one.process.pid])
    finally:
        bystander.kill()
        bystander.wait()


def test_elsewhere_a_session_is_killed_but_for_its_leader(
    leaders: list[Leader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brood, "LINUX", False)
    code = "print(member(), member(group=True), member(plain=True), flush=True); signal.pause()"
    leader = Leader(code, start_new_session=True)
    leaders.append(leader)
    assert leader.kill() == set(leader.members)
    eventually(lambda: all(dead(pid) for pid in leader.members))
    assert not dead(leader.process.pid)
    assert brood.apart() == {"setsid": True}


@linux_only
def test_a_child_has_its_supervisors_mark_in_whatever_environment(
    sup: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, "an outer one's")
    monkeypatch.setenv("SPW_TEST_NEW", "1")
    child = Remote(sup)
    found = child(f"os.environ[{MARK!r}]")
    assert len(found) == 16
    assert child("os.environ['SPW_TEST_NEW']") == "1"
    assert child("__import__('subprocess').check_output(['env']).decode()").count(f"{MARK}={found}\n") == 1
    assert os.environ[MARK] == "an outer one's"


@linux_only
def test_what_a_child_has_started_goes_when_the_supervisor_is_killed(sup: Supervisor) -> None:
    child = Remote(sup)
    start = "__import__('subprocess').Popen(['sleep', '1000'], process_group=0).pid"
    if sys.version_info < (3, 11):
        start = "__import__('subprocess').Popen(['sleep', '1000'], preexec_fn=lambda: os.setpgid(0, 0)).pid"
    sleeper = child(start)
    os.kill(sup.pid, signal.SIGKILL)
    eventually(lambda: dead(sleeper) and dead(child.pid))


@linux_only
def test_a_dead_childs_group_is_found_too(leaders: list[Leader]) -> None:
    """Nobody in it has the mark, and none of their parents is left."""
    leader = Leader("""
read, write = os.pipe()
child = os.fork()
if not child:
    os.setpgid(0, 0)
    os.write(write, b"%d %d" % (member(plain=True), member(plain=True, orphan=True)))
    os._exit(0)
pids = os.read(read, 100).decode()
os.waitpid(child, 0)
print(child, pids, flush=True)
signal.pause()
""")
    leaders.append(leader)
    child, *plain = leader.members
    os.kill(leader.process.pid, signal.SIGKILL)
    eventually(lambda: dead(leader.process.pid))
    eventually(lambda: all(Path(f"/proc/{pid}/comm").read_text() == "sleep\n" for pid in plain))
    assert not leader.kill()
    assert not any(dead(pid) for pid in plain)
    assert leader.kill(child) == set(plain)
    eventually(lambda: all(dead(pid) for pid in plain))


@linux_only
def test_a_group_whose_number_somebody_else_has_is_left_alone(leaders: list[Leader]) -> None:
    leader = Leader("print(member(), flush=True); signal.pause()")
    leaders.append(leader)
    stranger = subprocess.Popen(["sleep", "1000"], preexec_fn=lambda: os.setpgid(0, 0))
    try:
        assert leader.kill(stranger.pid) == set(leader.members)
        assert not dead(stranger.pid)
    finally:
        stranger.kill()
        stranger.wait()


@linux_only
def test_a_second_look_finds_who_is_new(leaders: list[Leader]) -> None:
    leader = Leader(
        "print(member(), flush=True); sys.stdin.readline(); print(member(), flush=True); signal.pause()",
        stdin=subprocess.PIPE,
    )
    leaders.append(leader)
    brood = Brood(leader.process.pid, Origin.of(leader.process.pid, leader.mark))
    assert brood.kill() == set(leader.members)
    eventually(lambda: all(dead(pid) for pid in leader.members))
    assert not brood.kill()
    assert leader.process.stdin is not None
    assert leader.process.stdout is not None
    leader.process.stdin.write("\n")
    leader.process.stdin.flush()
    leader.members.append(int(leader.process.stdout.readline()))
    assert brood.kill() == {leader.members[-1]}


@linux_only
@pytest.mark.parametrize("how", ["env={}", "env={}, stdin=-3"])
def test_who_has_no_mark_goes_with_the_group_of_a_worker(sup: Supervisor, how: str) -> None:
    """A successor's too: when the supervisor is killed, nobody with the mark is left to be his parent."""
    child = Remote(sup)
    start = f"__import__('subprocess').Popen(['/bin/sleep', '1000'], {how}).pid"
    first = child(start)
    os.kill(child.pid, signal.SIGKILL)
    child.saw("started")
    eventually(lambda: dead(first))
    second = child(start)
    os.kill(sup.pid, signal.SIGKILL)
    eventually(lambda: dead(second))


REAPED = """
    import os, signal, sys, threading
    if sys.argv[1] == "ignored":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    from helpers import eventually
    from supervising import Remote, dead, supervisor
    with supervisor() as sup:
        child = Remote(sup)
        start = "__import__('subprocess').Popen(['/bin/sleep', '1000'], {}).pid"
        ways = ("", "env={}", "preexec_fn=lambda: os.setpgid(0, 0)")
        sleepers = [child(start.format(way)) for way in ways]
        if sys.argv[1] == "waited for":
            def wait():
                while True:
                    os.wait()
            threading.Thread(target=wait, daemon=True).start()
        os.kill(sup.pid, signal.SIGKILL)
        eventually(lambda: all(dead(pid) for pid in sleepers))
        assert not dead(os.getpid())
        print("fine")
"""


@linux_only
@pytest.mark.parametrize("how", ["ignored", "waited for", "as usual"])
def test_a_supervisor_that_somebody_else_has_reaped_leaves_nobody(how: str) -> None:
    """Its number may be taken by then: its mark is not."""
    out, _ = run_script(REAPED, how)
    assert out == "fine\n"


TERMINAL = """
    import os, sys, signal
    from supervising import Remote, supervisor
    with supervisor() as sup:
        child = Remote(sup)
        print("session", child("os.getsid(0)") == os.getsid(0), flush=True)
        print("terminal", child("errno_of_terminal()"), os.ttyname(0) != "", flush=True)
        run = "__import__('subprocess').run({!r}, stdin=-3, capture_output=True, timeout=60).stdout"
        print("shell", child(run.format(["bash", "-ic", "echo hello"])), flush=True)
        print("jobs", child(run.format(["sh", "-c", "set -m; sleep 0.01; echo hello"])), flush=True)
        with open("/dev/tty", "w") as terminal:
            print("ours", file=terminal, flush=True)
        print("done", flush=True)
"""


@linux_only
def test_a_terminal_is_the_users_alone() -> None:
    """What a handler starts finds none: it would be stopped for reading from it, or spin."""
    path = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = path
        os.execv(sys.executable, [sys.executable, "-c", textwrap.dedent(TERMINAL)])
    shown = b""
    deadline = time.monotonic() + 60.0
    try:
        while b"done" not in shown and time.monotonic() < deadline:
            if select.select([terminal], [], [], 1.0)[0]:
                shown += os.read(terminal, 4096)
    except OSError:
        pass  # its end
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    assert shown.decode().split("\r\n")[:6] == [
        "session True",
        "terminal 6 True",  # ENXIO
        "shell b'hello\\n'",
        "jobs b'hello\\n'",
        "ours",
        "done",
    ]
