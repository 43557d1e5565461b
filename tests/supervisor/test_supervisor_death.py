"""Who dies, and what happens then: the parent, the supervisor, both children and their children."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from helpers import eventually
from supervising import Remote, dead, gone, open_fds, run_script, start_script, supervisor

from spworkers.errors import ChannelClosedError, SPError, SupervisorError
from spworkers.supervisor.control import Control
from spworkers.supervisor.handle import QUICK_LIMIT, Supervisor

PARENT = """
    import os, signal, sys
    from spworkers.supervisor.client import get_supervisor
    from supervising import Remote
    sup = get_supervisor()
    child = Remote(sup)
    pids = [sup.pid, child.pid, child("grandchild()"), child("grandchild(group=True)")]
    pids.append(sup.spawn("busy", "test", {"entry": "roles:busy"}))
    print(*pids, flush=True)
    """


def pids_of(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


# --- The parent


def test_nobody_outlives_the_parent() -> None:
    with start_script(PARENT + "signal.pause()") as process:
        pids = pids_of(process)
        assert len(pids) == 5
        process.kill()
        process.wait()
        killed = time.monotonic()
        eventually(lambda: all(dead(pid) for pid in pids), timeout=1.0)
        took = time.monotonic() - killed
        eventually(lambda: all(gone(pid) for pid in pids))
        out, err = process.communicate()  # end-of-file: nobody holds the other end
    assert (out, err) == ("", "")
    assert took < 1.0


def test_nobody_outlives_a_parent_that_a_forked_child_outlives() -> None:
    # The child has its parent's channel too, so no end-of-file tells of the parent's death.
    script = PARENT + "pid = os.fork() or signal.pause()\n    print(pid, flush=True)\n    signal.pause()"
    with start_script(script) as process:
        pids, [child] = pids_of(process), pids_of(process)
        process.kill()
        process.wait()
        eventually(lambda: all(dead(pid) for pid in pids), timeout=1.0)
        assert not dead(child)
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("how", ["", "sys.exit(0)", "os._exit(0)", "os.execlp('true', 'true')"])
def test_nobody_outlives_a_parent_that_ends(how: str) -> None:
    out, err = run_script(PARENT + how)
    pids = [int(word) for word in out.split()]
    assert len(pids) == 5
    eventually(lambda: all(gone(pid) for pid in pids))
    assert not err


def test_an_exit_takes_no_time() -> None:
    script = """
        import atexit, time
        from spworkers.supervisor.client import get_supervisor
        from supervising import Remote
        Remote(get_supervisor())
        began = time.monotonic()
        import spworkers.supervisor.client as client
        client._finish()
        print(time.monotonic() - began)
    """
    out, err = run_script(script)
    assert float(out) < 1.0
    assert not err


def test_a_stopped_parents_children_are_replaced() -> None:
    script = """
        import os
        from spworkers.supervisor.client import get_supervisor
        from supervising import Remote
        sup = get_supervisor()
        child = Remote(sup)
        print(sup.pid, child.pid, flush=True)
        input()
        child.saw("started")
        print([event.kind for event in child.events], child("boot.generation"))
    """
    with start_script(script, stdin=subprocess.PIPE) as process:
        sup, child = pids_of(process)
        os.kill(process.pid, signal.SIGSTOP)
        os.kill(child, signal.SIGKILL)
        successor = eventually(lambda: children_of(sup) - {child})
        os.kill(process.pid, signal.SIGCONT)
        out, err = process.communicate("\n", timeout=20.0)
    assert out == "['died', 'started'] 2\n"
    assert not err
    assert len(successor) == 1


def children_of(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


# --- The supervisor


def test_a_dead_supervisor_is_replaced_and_its_children_have_gone(
    sup: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    child = Remote(sup)
    former = sup.pid
    pids = [child.pid, child("grandchild()"), child("grandchild(group=True)")]
    again: list[Remote] = []
    sup.on_restart(lambda: again.append(Remote(sup)))
    os.kill(former, signal.SIGKILL)
    eventually(lambda: again)
    assert all(dead(pid) for pid in pids), "another supervisor began before the children of the first had gone"
    assert sup.pid != former
    assert again[0]("boot.generation") == 1
    eventually(lambda: child.closed)
    assert gone(former)
    assert len(again) == 1
    died = f"the supervisor, process {former}, died: killed by SIGKILL; another one"
    eventually(lambda: died in caplog.text)
    assert [record.levelname for record in caplog.records if record.name == "spworkers.supervisor"] == ["WARNING"]


def test_what_was_not_answered_is_asked_of_the_next_one(sup: Supervisor) -> None:
    sup.spawn("child", "test", {"entry": "roles:stubborn"})
    order: list[str] = []
    sup.on_restart(lambda: order.append("restart"))
    os.kill(sup.pid, signal.SIGSTOP)
    waiter = threading.Thread(target=lambda: order.append(sup.end("child")))
    waiter.start()
    eventually(lambda: "1 requests" in repr(sup._control))
    os.kill(sup.pid, signal.SIGKILL)
    waiter.join(20.0)
    assert order == ["restart", "ended before"]


def test_a_request_to_a_child_fails_with_the_supervisor(sup: Supervisor) -> None:
    child = Remote(sup)
    failed: list[type[BaseException]] = []

    def ask() -> None:
        try:
            child("time.sleep(60)")
        except SPError as error:
            failed.append(type(error))

    waiter = threading.Thread(target=ask)
    waiter.start()
    eventually(lambda: "1 requests" in repr(sup._control))
    os.kill(sup.pid, signal.SIGKILL)
    waiter.join(20.0)
    assert failed == [ChannelClosedError]


def test_a_channel_may_be_carried_over_to_another(sup: Supervisor) -> None:
    from spworkers.channel import Channel

    def serve(channel: Channel) -> None:
        sup.spawn("io", "test", {"entry": "roles:remote"}, fds=[channel.fileno()])
        channel.close()

    first, theirs = Channel.pair()
    sup.register(first, lambda message, fds: None, carry=True)
    serve(theirs)
    second, theirs = Channel.pair()

    def rebuild() -> None:
        sup.register(second, lambda message, fds: None)
        serve(theirs)
        sup.transfer(first, second)

    sup.on_restart(rebuild)
    answers: list[object] = []
    question = {"t": "get_option", "place": "socket", "key": 0, "name": "time.sleep(0.3) or os.getppid()"}
    waiter = threading.Thread(target=lambda: answers.append(sup.request(first, question)))
    waiter.start()
    eventually(lambda: "1 requests" in repr(sup._control))
    os.kill(sup.pid, signal.SIGKILL)
    waiter.join(20.0)
    assert answers == [sup.pid]


def test_a_restart_callback_that_fails_hinders_nobody(sup: Supervisor, caplog: pytest.LogCaptureFixture) -> None:
    called: list[int] = []

    def fails() -> None:
        raise ValueError("no good")

    def forgotten() -> None:
        called.append(2)

    for callback in (fails, lambda: called.append(1), forgotten):
        sup.on_restart(callback)
    sup.forget_restart(forgotten)
    sup.forget_restart(forgotten)
    os.kill(sup.pid, signal.SIGKILL)
    eventually(lambda: called)
    assert called == [1]
    assert "no good" in caplog.text


def test_a_supervisor_that_dies_while_everything_is_set_up_again(sup: Supervisor) -> None:
    calls: list[int] = []

    def rebuild() -> None:
        calls.append(sup.pid)
        if len(calls) < 3:
            os.kill(calls[-1], signal.SIGKILL)
        Remote(sup, f"child-{len(calls)}")

    sup.on_restart(rebuild)
    os.kill(sup.pid, signal.SIGKILL)
    eventually(lambda: len(calls) == 3)
    assert len(set(calls)) == 3
    assert sup.spawn("other", "test", {"entry": "roles:idle"})


def test_each_is_set_up_once_by_each_supervisor(sup: Supervisor) -> None:
    """Who comes after another death is not set up by the next one yet: it would be a second time in the next round."""
    mortal: list[int] = []
    set_up: list[int] = []

    def dies() -> None:
        if not mortal:
            mortal.append(sup.pid)
            os.kill(mortal[0], signal.SIGKILL)
            eventually(lambda: sup.pid != mortal[0])

    def rebuild() -> None:
        sup.spawn("child", "test", {"entry": "roles:idle"})
        set_up.append(sup.pid)

    sup.on_restart(dies)
    sup.on_restart(rebuild)
    os.kill(sup.pid, signal.SIGKILL)
    eventually(lambda: mortal and sup._recovery._thread is None and set_up)
    assert set_up == [sup.pid]


def test_who_says_too_late_that_it_wants_to_be_called_is_called_at_once(sup: Supervisor) -> None:
    called: list[int] = []
    sup.spawn("child", "test", {"entry": "roles:idle"})
    former = sup.pid
    os.kill(former, signal.SIGKILL)
    eventually(lambda: sup.pid != former)
    sup.on_restart(lambda: called.append(1), of="child")
    sup.on_restart(lambda: called.append(2))
    eventually(lambda: called)
    eventually(lambda: sup._recovery._thread is None)
    assert called == [1]


def test_a_supervisor_that_cannot_live_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spworkers.supervisor.launch._STUB", "raise SystemExit(7)")
    with supervisor() as broken:
        with pytest.raises(SupervisorError, match="died 4 times in a row at its start, the last time with exit code 7"):
            broken.spawn("child", "test", {"entry": "roles:idle"})
        with pytest.raises(SupervisorError, match="died 5 times"):
            broken.spawn("child", "test", {"entry": "roles:idle"})
        again: list[int] = []
        broken.on_restart(lambda: again.append(broken.spawn("old", "test", {"entry": "roles:idle"})))
        monkeypatch.undo()
        assert broken.spawn("child", "test", {"entry": "roles:idle"})
        eventually(lambda: again)  # who was there before is set up again, late as it is


def test_who_was_given_up_is_set_up_again_after_a_pause(sup: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that waits for messages asks for nothing."""
    monkeypatch.setattr("spworkers.supervisor.handle.PAUSE", 0.1)
    sup.start()
    set_up: list[int] = []
    sup.on_restart(lambda: set_up.append(sup._recovery.here.pid))  # type: ignore[union-attr]
    killed: set[int] = set()
    for _ in range(QUICK_LIMIT + 3):
        life = eventually(lambda: sup._life if sup._life is not None and sup._life.pid not in killed else None)
        killed.add(life.pid)
        os.kill(life.pid, signal.SIGKILL)
    last = eventually(lambda: sup._life if sup._life is not None and sup._life.pid not in killed else None)
    eventually(lambda: last.pid in set_up)


def test_a_user_who_has_left_its_surroundings(sup: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    sup.start()
    asked: list[SPError] = []
    os.kill(sup.pid, signal.SIGSTOP)

    def ask() -> None:
        try:
            sup.end("child")
        except SPError as error:
            asked.append(error)

    waiter = threading.Thread(target=ask)
    waiter.start()
    eventually(lambda: "1 requests" in repr(sup._control))
    monkeypatch.setattr("spworkers.supervisor.handle.whereabouts", lambda: (1, 2, 3))
    os.kill(sup.pid, signal.SIGKILL)
    waiter.join(20.0)
    assert "has left its surroundings" in str(asked[0])


def test_other_surroundings_have_another_supervisor() -> None:
    script = """
        from spworkers.supervisor import client
        one = client.get_supervisor()
        assert client.get_supervisor() is one
        here = client.whereabouts()
        client.whereabouts = lambda: (*here[:-1], 12345)
        other = client.get_supervisor()
        assert other is not one and other.pid != one.pid
        client.whereabouts = lambda: here
        assert client.get_supervisor() is one
        print(repr(one) == f"<Supervisor: process {one.pid}>")
    """
    assert run_script(script) == ("True\n", "")


def test_it_has_one_thread_when_it_forks_io_processes() -> None:
    script = """
        import os
        from spworkers.supervisor.client import get_supervisor
        from supervising import Remote
        sup = get_supervisor()
        child = Remote(sup)
        print(os.listdir(f"/proc/{sup.pid}/task") == [str(sup.pid)])
    """
    assert run_script(script) == ("True\n", "")


def test_a_program_that_reaps_everybody() -> None:
    script = """
        import os, signal
        from helpers import eventually
        from spworkers.supervisor.client import get_supervisor
        from supervising import Remote
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        sup = get_supervisor()
        Remote(sup)
        again = []
        sup.on_restart(lambda: again.append(Remote(sup)))
        os.kill(sup.pid, signal.SIGKILL)
        print(eventually(lambda: again)[0]("boot.generation"))
    """
    output, errors = run_script(script)
    assert output == "1\n"
    assert "died: ended, and somebody else took note of how;" in errors
    assert errors.count("\n") == 1


def test_no_descriptor_is_left_open() -> None:
    control = Control()
    first = Supervisor(control, ["roles"])
    Remote(first).close()
    first.close()
    before = open_fds()
    for _ in range(3):
        made = Supervisor(control, ["roles"])
        child = Remote(made)
        os.kill(made.pid, signal.SIGKILL)
        eventually(lambda: child.closed)
        made.spawn("child", "test", {"entry": "roles:idle"})
        child.close()
        made.close()
    eventually(lambda: open_fds() <= before)  # less: what earlier tests forgot may be collected meanwhile
    control.stop()
    control.close_in_child()


# --- A forked child of the user's

FORKING = ["-Wignore::DeprecationWarning"]  # Pythons from 3.12 on warn of forks among threads


def test_a_forked_child_has_a_supervisor_of_its_own() -> None:
    script = """
        import os, sys
        from spworkers.supervisor.client import get_supervisor
        from spworkers.errors import ForkedError
        from supervising import Remote, open_fds
        sup = get_supervisor()
        before = open_fds()
        child = Remote(sup)
        former = sup.pid
        pid = os.fork()
        if pid == 0:
            try:
                sup.spawn("x", "test", {"entry": "roles:idle"})
            except ForkedError as error:
                print(error)
            other = get_supervisor()
            assert other is not sup and other.pid != former
            assert Remote(other)("os.getppid()") == other.pid
            assert repr(sup) == f"<Supervisor of process {os.getppid()}>"
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert child("boot.generation") == 1 and sup.pid == former
        print("fine")
    """
    out, err = run_script(script, options=FORKING)
    assert out.splitlines()[0].endswith("a forked child gets its own by get_supervisor()")
    assert out.splitlines()[-1] == "fine"
    assert not err


def test_a_forked_child_keeps_nothing_of_its_parents_channels() -> None:
    script = """
        import os
        from spworkers.supervisor.client import get_supervisor
        from supervising import Remote, open_fds
        before = len(open_fds())
        child = Remote(get_supervisor())
        pid = os.fork()
        if pid == 0:
            print(len(open_fds()) - before, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
    """
    assert run_script(script, options=FORKING) == ("0\n", "")


def test_forks_among_threads_that_ask() -> None:
    script = """
        import os, threading
        from spworkers.supervisor.client import get_supervisor
        from supervising import Remote
        child = Remote(get_supervisor())
        over = threading.Event()
        def ask():
            while not over.is_set():
                assert child("1 + 1") == 2
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads: thread.start()
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                get_supervisor
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        over.set()
        for thread in threads: thread.join()
        print("fine")
    """
    assert run_script(script, options=FORKING) == ("fine\n", "")
