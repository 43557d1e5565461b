"""Workers attached to I/O processes, inproc connections, and what becomes of both when somebody is replaced."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
from helpers import eventually
from supervising import Remote, dead, open_fds

from spworkers.errors import BadValueError, SupervisorError
from spworkers.supervisor.handle import Supervisor


def link(sup: Supervisor) -> tuple[Remote, Remote]:
    """An I/O process, and a worker attached to it that is told what to do by its second descriptor."""
    io = Remote(sup, "io")
    worker = Remote(sup, "worker", attach=["io"], entry="roles:attached")
    eventually(lambda: {"t": "client", "key": "worker#1"} in io("notes"))
    return io, worker


def test_a_worker_has_a_channel_to_its_io_process(sup: Supervisor) -> None:
    _, worker = link(sup)
    assert worker("ask_io('boot.key')") == "io"


def test_the_io_process_is_told_of_the_end_of_its_client(sup: Supervisor) -> None:
    io, worker = link(sup)
    os.kill(worker.pid, signal.SIGKILL)
    worker.saw("started")
    eventually(lambda: {"t": "client", "key": "worker#2"} in io("notes"))
    notes = [note for note in io("notes") if note["t"] != "closed"]
    assert notes[1:] == [
        {
            "t": "client_gone",
            "key": "worker#1",
            "pid": worker.pid,
            "reason": "killed by SIGKILL",
            "status": signal.SIGKILL,
            "ended": False,
        },
        {"t": "client", "key": "worker#2"},
    ]
    assert worker("ask_io('boot.generation')") == 1


def test_the_io_process_is_told_of_a_client_that_was_to_end(sup: Supervisor) -> None:
    io, _ = link(sup)
    sup.end("worker", grace=0.0)
    eventually(lambda: any(note["t"] == "client_gone" for note in io("notes")))
    (gone,) = [note for note in io("notes") if note["t"] == "client_gone"]
    assert gone["ended"] is True


def test_the_successor_of_an_io_process_has_its_clients(sup: Supervisor) -> None:
    io, worker = link(sup)
    other = Remote(sup, "other", attach="io", entry="roles:attached")
    assert other("ask_io('boot.generation')") == 1
    os.kill(io.pid, signal.SIGKILL)
    io.saw("started")
    assert worker("ask_io('boot.generation')") == 2
    assert other("ask_io('boot.generation')") == 2
    assert sorted(io("boot.clients")) == ["other#1", "worker#1"]
    assert worker("boot.generation") == 1


def test_both_die_at_once(sup: Supervisor) -> None:
    io, worker = link(sup)
    os.kill(sup.pid, signal.SIGSTOP)
    eventually(lambda: psutil.Process(sup.pid).status() == psutil.STATUS_STOPPED)
    os.kill(io.pid, signal.SIGKILL)
    os.kill(worker.pid, signal.SIGKILL)
    eventually(lambda: dead(io.pid) and dead(worker.pid))
    os.kill(sup.pid, signal.SIGCONT)
    io.saw("started")
    worker.saw("started")
    assert worker("ask_io('boot.generation')") == 2
    assert "worker#1" not in io("boot.clients")


def test_an_io_process_can_have_its_client_killed(sup: Supervisor) -> None:
    io, worker = link(sup)
    stranger = Remote(sup, "stranger")
    with pytest.raises(Exception, match="no client of it"):
        stranger("ask({'t': 'kill', 'key': 'worker#1', 'reason': 'malice'})")
    io("ask({'t': 'kill', 'key': 'worker#1', 'reason': 'past its timeout of 1 s'})")
    assert worker.saw("died").reason == "past its timeout of 1 s (killed by SIGKILL)"
    worker.saw("started")
    io("ask({'t': 'kill', 'key': 'worker#1', 'reason': 'too late'})")
    assert worker("boot.generation") == 2


def test_there_must_be_somebody_to_attach_to(sup: Supervisor) -> None:
    spec = {"entry": "roles:idle"}
    with pytest.raises(SupervisorError, match="no child 'io'"):
        sup.spawn("worker", "test", {**spec, "attach": "io"})
    for attach in (7, [7], ["worker"], ["io", "io"]):
        with pytest.raises(BadValueError, match="attach in the specification"):
            sup.spawn("worker", "test", {**spec, "attach": attach})


def test_a_worker_whose_io_process_has_ended_is_not_replaced(sup: Supervisor) -> None:
    _, worker = link(sup)
    sup.end("io")
    assert not worker.of("ended")
    os.kill(worker.pid, signal.SIGKILL)
    assert "no child 'io'" in worker.saw("ended").reason


def test_no_channel_is_left_open(sup: Supervisor) -> None:
    io = Remote(sup, "io")
    before = open_fds(sup.pid)
    for key in ("one", "two"):
        worker = Remote(sup, key, attach="io", entry="roles:attached")
        os.kill(worker.pid, signal.SIGKILL)
        worker.saw("started")
        worker("ask_io('boot.key')")
        sup.end(key)
    assert open_fds(sup.pid) == before
    assert io("boot.generation") == 1


# --- inproc


def listener(sup: Supervisor, name: str = "name") -> Remote:
    child = Remote(sup, "listener")
    child(f"ask({{'t': 'inproc_listen', 'name': {name!r}}})")
    return child


def test_two_children_are_connected(sup: Supervisor) -> None:
    server, client = listener(sup), Remote(sup, "client")
    assert client("os.write(ask({'t': 'inproc_dial', 'name': 'name'})[0], b'hello')") == 5
    eventually(lambda: server("len(received)") == 1)
    assert server("os.read(received[0], 10)") == b"hello"
    assert {"t": "inproc_incoming", "name": "name"} in server("notes")


def test_a_child_may_dial_itself(sup: Supervisor) -> None:
    server = listener(sup)
    assert server("os.write(ask({'t': 'inproc_dial', 'name': 'name'})[0], b'self')") == 4
    eventually(lambda: server("len(received)") == 1)


def test_nobody_listens(sup: Supervisor) -> None:
    child = Remote(sup)
    with pytest.raises(Exception, match="ConnRefusedError"):
        child("ask({'t': 'inproc_dial', 'name': 'name'})")


def test_one_listener_a_name(sup: Supervisor) -> None:
    server, other = listener(sup), Remote(sup, "other")
    server("ask({'t': 'inproc_listen', 'name': 'name'})")  # again, as a successor does
    with pytest.raises(Exception, match="AddrInUseError"):
        other("ask({'t': 'inproc_listen', 'name': 'name'})")
    other("ask({'t': 'inproc_close', 'name': 'name'})")  # not its own
    with pytest.raises(Exception, match="AddrInUseError"):
        other("ask({'t': 'inproc_listen', 'name': 'name'})")
    server("ask({'t': 'inproc_close', 'name': 'name'})")
    other("ask({'t': 'inproc_listen', 'name': 'name'})")


def test_the_successor_keeps_the_name_and_the_end_frees_it(sup: Supervisor) -> None:
    server, client = listener(sup), Remote(sup, "client")
    os.kill(server.pid, signal.SIGKILL)
    server.saw("started")
    client("ask({'t': 'inproc_dial', 'name': 'name'})")
    eventually(lambda: server("len(received)") == 1)
    sup.end("listener")
    with pytest.raises(Exception, match="ConnRefusedError"):
        client("ask({'t': 'inproc_dial', 'name': 'name'})")


def test_a_child_does_not_speak_for_others(sup: Supervisor) -> None:
    child = Remote(sup)
    Remote(sup, "other")
    with pytest.raises(Exception, match="may not send 'keep' for 'other'"):
        child("ask({'t': 'keep', 'key': 'other', 'name': 'x', 'blob': b''})")
    with pytest.raises(Exception, match="may not send 'end'"):
        child("ask({'t': 'end', 'key': 'other', 'grace': 0})")
    assert child("boot.generation") == 1


def test_a_child_that_does_not_read_is_replaced(sup: Supervisor) -> None:
    io = Remote(sup, "io")
    client = Remote(sup, "client")
    io("ask({'t': 'inproc_listen', 'name': 'name'})")
    os.kill(io.pid, signal.SIGSTOP)
    client("[os.close(ask({'t': 'inproc_dial', 'name': 'name'})[0]) for _ in range(1600)] and None")
    assert "its receiver does not read" in io.saw("died").reason
    assert io("boot.generation") == 2
