"""A child's life: what it is given, how it is replaced, how it ends."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from pathlib import Path

import psutil
import pytest
from helpers import eventually
from supervising import Remote, dead, gone, open_fds

from spworkers.errors import BadValueError, ClosedError, ConnTimeoutError, GarbledError, SupervisorError
from spworkers.supervisor.handle import ChildEvent, Supervisor


def spawn(sup: Supervisor, entry: str, key: str = "child", *, restart: bool = True, **spec: object) -> list[ChildEvent]:
    events: list[ChildEvent] = []
    sup.spawn(key, "test", {"entry": f"roles:{entry}", **spec}, restart=restart, on_event=events.append)
    return events


def await_event(events: list[ChildEvent], kind: str) -> ChildEvent:
    return eventually(lambda: [event for event in events if event.kind == kind], what=kind)[0]


# --- What it is given


def test_the_answer_to_spawn_is_its_pid(sup: Supervisor) -> None:
    child = Remote(sup)
    assert child("os.getpid()") == child.pid
    assert child("boot.key") == "remote"
    assert child("boot.generation") == 1
    assert child.heard == [{"t": "hello", "generation": 1}]


def test_it_leads_its_own_process_group_in_the_session_of_its_user(sup: Supervisor) -> None:
    child = Remote(sup)
    assert child("os.getpgid(0)") == child.pid
    assert os.getpgid(sup.pid) == sup.pid != os.getpgid(0)
    if sys.platform.startswith("linux"):  # elsewhere in their own, which tells them from others
        assert child("os.getsid(0)") == os.getsid(sup.pid) == os.getsid(0)
    assert child("os.getppid()") == sup.pid


def test_it_has_its_specification(sup: Supervisor) -> None:
    child = Remote(sup, answer=42, nested={"list": [1, None, b"\xff", 2.5]})
    assert child("boot.spec['answer']") == 42
    assert child("boot.spec['nested']") == {"list": [1, None, b"\xff", 2.5]}


def test_it_has_the_surroundings_of_the_moment_of_spawn(
    sup: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sup.start()
    monkeypatch.setenv("SPW_TEST_NEW", "wörld\udcff")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "more")])
    former = os.umask(0o027)
    try:
        child = Remote(sup)
    finally:
        os.umask(former)
    assert child("os.environ['SPW_TEST_NEW']") == "wörld\udcff"
    assert child("'HOME' in os.environ") is False
    assert child("os.getcwd()") == str(tmp_path)
    assert child("(os.umask(0), )") == [0o027]
    assert child("sys.path[-1]") == str(tmp_path / "more")


def test_it_has_no_descriptors_but_its_own(sup: Supervisor) -> None:
    read, write = os.pipe()
    os.set_inheritable(read, True)
    other = Remote(sup, "other")
    child = Remote(sup, fds=[write])
    os.close(read)
    os.close(write)
    own = child("[boot.channel.fileno(), *boot.fds]")
    assert len(own) == 3
    assert open_fds(child.pid) == {0, 1, 2, *own}
    assert os.readlink(f"/proc/{child.pid}/fd/0") == os.devnull
    assert other.pid != child.pid


def test_its_signals_are_pythons_defaults(sup: Supervisor) -> None:
    child = Remote(sup)
    assert child("signal.getsignal(signal.SIGINT) is signal.default_int_handler")
    for name in ("SIGTERM", "SIGHUP", "SIGCHLD"):
        assert child(f"signal.getsignal(signal.{name}) is signal.SIG_DFL")
    assert child("list(signal.pthread_sigmask(signal.SIG_BLOCK, []))") == []


def test_an_io_process_ignores_what_is_sent_to_a_whole_program(sup: Supervisor) -> None:
    child = Remote(sup, role="io")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(child.pid, number)
    assert child("os.getpid()") == child.pid
    assert Path(f"/proc/{child.pid}/comm").read_text() == "spw-io\n"


def test_its_limit_of_descriptors_is_ours(sup: Supervisor) -> None:
    assert tuple(Remote(sup)("resource.getrlimit(resource.RLIMIT_NOFILE)")) == resource.getrlimit(
        resource.RLIMIT_NOFILE
    )


def test_an_entry_point_is_needed(sup: Supervisor) -> None:
    with pytest.raises(BadValueError, match=r"entry point None; known roles are .*io,.* worker"):
        sup.spawn("child", "juggler", {})
    with pytest.raises(BadValueError, match="'roles'"):
        sup.spawn("child", "test", {"entry": "roles"})


def test_the_same_spawn_again_does_nothing_and_another_of_its_key_is_refused(sup: Supervisor) -> None:
    spec = {"entry": "roles:idle"}
    pid = sup.spawn("child", "test", spec)
    assert sup.spawn("child", "test", spec) == pid
    with pytest.raises(SupervisorError, match="there is a child 'child' already"):
        sup.spawn("child", "test", {**spec, "other": 1})


def test_a_closed_descriptor_is_the_callers_error(sup: Supervisor) -> None:
    sup.start()
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    with pytest.raises(ClosedError, match="a descriptor that goes with it"):
        sup.spawn("child", "test", {"entry": "roles:idle"}, fds=[read])


def test_a_spawn_that_is_interrupted_leaves_no_child(sup: Supervisor) -> None:
    sup.start()
    os.kill(sup.pid, signal.SIGSTOP)
    with pytest.raises(ConnTimeoutError):
        sup.spawn("child", "test", {"entry": "roles:stubborn"}, timeout=0.05)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        sup.spawn("other", "test", {"entry": "roles:stubborn"})
    timer.join()
    os.kill(sup.pid, signal.SIGCONT)
    assert Remote(sup)("os.getppid()") == sup.pid
    eventually(lambda: len(psutil.Process(sup.pid).children()) == 1)


INSIDE = "'spworkers.workers.pool.inside' in sys.modules"


def test_what_a_role_needs_is_imported_when_it_is_expected(sup: Supervisor) -> None:
    sup.expect("pool")  # there is none yet, who would do it
    child = Remote(sup)
    assert not child(INSIDE)
    sup.expect("pool")
    sup.expect("nobody's role")
    assert Remote(sup, "later")(INSIDE)
    assert not child(INSIDE)


def test_what_a_module_of_ours_foretells_a_supervisor_expects_from_its_start(
    sup: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spworkers.supervisor.handle._FORETOLD", {"spworkers.errors": "pool", "no.such": "worker"})
    monkeypatch.setattr("spworkers.supervisor.handle.PATIENCE", 0.0)
    child = Remote(sup)
    assert child(INSIDE)
    assert not child("'spworkers.workers.worker' in sys.modules")


def test_a_long_specification(sup: Supervisor) -> None:
    assert Remote(sup, blob=os.urandom(2_000_000))("len(boot.spec['blob'])") == 2_000_000


def test_a_user_does_not_say_everything(sup: Supervisor) -> None:
    with pytest.raises(GarbledError, match="does not send 'pipes'"):
        sup._ask({"t": "pipes"})
    with pytest.raises(GarbledError, match="without its key"):
        sup._ask({"t": "keep", "name": "x", "blob": b""})
    assert Remote(sup)("boot.generation") == 1


# --- Replacement


def test_a_killed_child_is_replaced_with_what_it_was_given(sup: Supervisor) -> None:
    read, write = os.pipe()
    child = Remote(sup, fds=[write], answer=1)
    os.close(write)
    assert child("boot.generation") == 1
    os.kill(child.pid, signal.SIGKILL)
    assert child.saw("died") == ChildEvent("died", "remote", child.pid, 1, "killed by SIGKILL")
    started = child.saw("started")
    assert started.generation == 2
    assert child("os.getpid()") == started.pid != child.pid
    assert child("boot.generation, boot.spec['answer'], os.write(boot.fds[1], b'here')") == [2, 1, 4]
    assert os.read(read, 10) == b"here"
    assert [message["generation"] for message in child.heard] == [1, 2]
    assert not child.closed
    os.close(read)


def test_what_it_asked_to_be_kept_its_successor_finds(sup: Supervisor) -> None:
    child = Remote(sup)
    child("say({'t': 'keep', 'name': 'a', 'blob': b'1'})")
    child("say({'t': 'keep', 'name': 'pipe', 'blob': b'old'}, os.pipe())")
    child("say({'t': 'keep', 'name': 'pipe', 'blob': b'new'}, os.pipe()[:1])")
    child("say({'t': 'keep', 'name': 'gone', 'blob': b''})")
    child("say({'t': 'drop', 'name': 'gone'})")
    os.kill(child.pid, signal.SIGKILL)
    child.saw("started")
    assert child("sorted(boot.kept)") == ["a", "pipe"]
    assert child("boot.kept['a']") == [b"1", []]
    assert child("boot.kept['pipe'][0], len(boot.kept['pipe'][1])") == [b"new", 1]
    fds = child("[boot.channel.fileno(), *boot.fds, *boot.kept['pipe'][1]]")
    assert open_fds(child("os.getpid()")) == {0, 1, 2, *fds}


@pytest.mark.slow
def test_what_it_kept_in_its_last_moment_is_kept(sup: Supervisor) -> None:
    child = Remote(sup)
    with pytest.raises(Exception, match="no answer"):
        child(
            "[say({'t': 'keep', 'name': str(i), 'blob': b'x' * 1000}) for i in range(100)]"
            " and os.kill(os.getpid(), signal.SIGKILL)",
            timeout=1.0,
        )
    child.saw("started")
    assert child("len(boot.kept)") == 100


def test_the_user_may_keep_things_for_it_too(sup: Supervisor) -> None:
    child = Remote(sup)
    with open(os.devnull) as file:
        sup.keep("remote", "null", b"blob", [file.fileno()])
    sup.keep("remote", "other", b"")
    sup.drop("remote", "other")
    os.kill(child.pid, signal.SIGKILL)
    child.saw("started")
    assert child("boot.kept['null'][0], [os.readlink(f'/proc/self/fd/{fd}') for fd in boot.kept['null'][1]]") == [
        b"blob",
        [os.devnull],
    ]
    assert child("len(boot.kept)") == 1
    with pytest.raises(SupervisorError, match="no child 'nobody'"):
        sup.keep("nobody", "x", b"")


@pytest.mark.parametrize(
    ("entry", "code", "reason"),
    [
        ("leaves", 3, "exit code 3"),
        ("leaves", 0, "exit code 0"),  # foreign code may call os._exit: that is a death
        ("quits", 4, "exit code 4"),
        ("quits", None, "exit code 0"),
        ("exits", 5, "exit code 5"),
    ],
)
def test_whoever_leaves_unasked_is_replaced(sup: Supervisor, entry: str, code: int | None, reason: str) -> None:
    events = spawn(sup, entry, code=code)
    assert await_event(events, "died").reason == reason
    assert await_event(events, "started").generation == 2
    sup.end("child")


def test_whoever_returns_has_finished(sup: Supervisor) -> None:
    events = spawn(sup, "exits", code=0)
    assert await_event(events, "ended").reason == "exit code 0"
    assert [event.kind for event in events] == ["died", "ended"]
    assert sup.end("child") == "ended before"


def test_whoever_asks_for_it_is_replaced_without_a_pause(sup: Supervisor) -> None:
    events = spawn(sup, "recycles")
    eventually(lambda: len([event for event in events if event.kind == "started"]) >= 20)
    assert {event.kind for event in events} == {"died", "started"}
    sup.end("child")


def test_without_restart_it_is_not_replaced(sup: Supervisor) -> None:
    events = spawn(sup, "leaves", restart=False, code=7)
    assert await_event(events, "ended") == ChildEvent("ended", "child", events[0].pid, 1, "exit code 7")
    assert [event.kind for event in events] == ["died", "ended"]


def test_an_exception_is_printed_once_and_reported(sup: Supervisor, capfd: pytest.CaptureFixture[str]) -> None:
    events = spawn(sup, "fails", restart=False)
    assert await_event(events, "died").reason == "ValueError: generation 1 of child (exit code 1)"
    err = capfd.readouterr().err
    assert err.count("ValueError: generation 1 of child") == 1
    assert "in fails" in err
    assert "test 'child'" in err


def test_an_entry_point_that_is_not_there_is_reported(sup: Supervisor) -> None:
    events = spawn(sup, "nonsense", restart=False)
    assert "has no attribute 'nonsense' (exit code 1)" in await_event(events, "died").reason


def test_a_child_that_dies_of_its_start_again_and_again_is_started_more_slowly(
    sup: Supervisor, capfd: pytest.CaptureFixture[str]
) -> None:
    events = spawn(sup, "leaves", code=9)
    failed = await_event(events, "failed")
    assert (failed.generation, failed.reason) == (6, "exit code 9")
    assert 0 < failed.retry < 0.1
    second = eventually(lambda: [event for event in events if event.kind == "failed"][1:])[0]
    assert second.retry == 2 * failed.retry
    assert sup.end("child") in ("ended while it had no process", "exit code 9")
    assert not capfd.readouterr().err


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="no prlimit")
def test_a_system_without_room_for_a_successor(sup: Supervisor) -> None:
    child = Remote(sup)
    limits = resource.prlimit(sup.pid, resource.RLIMIT_NOFILE)
    os.kill(sup.pid, signal.SIGSTOP)
    os.kill(child.pid, signal.SIGKILL)
    resource.prlimit(sup.pid, resource.RLIMIT_NOFILE, (6, limits[1]))  # it needs that many by itself
    os.kill(sup.pid, signal.SIGCONT)
    assert "no descriptor is left for a control channel" in child.saw("failed").reason
    resource.prlimit(sup.pid, resource.RLIMIT_NOFILE, limits)
    assert child.saw("started").generation == 2
    assert child("boot.generation") == 2


def test_the_same_exception_is_not_printed_again(sup: Supervisor, capfd: pytest.CaptureFixture[str]) -> None:
    events = spawn(sup, "nonsense")
    await_event(events, "failed")
    sup.end("child")
    assert capfd.readouterr().err.count("Traceback") == 1


def test_a_child_that_garbles_its_channel_is_replaced(sup: Supervisor, capfd: pytest.CaptureFixture[str]) -> None:
    events = spawn(sup, "garbles")
    assert (
        "killed by its supervisor: control message of 20 bytes that is no msgpack: FormatError"
        in await_event(events, "died").reason
    )
    await_event(events, "started")


def test_a_child_that_closed_its_channel_lives_on(sup: Supervisor) -> None:
    pid = sup.spawn("child", "test", {"entry": "roles:mute"})
    Remote(sup)
    assert not dead(pid)
    assert sup.end("child") == "killed by SIGKILL"


# --- End


def test_end_returns_when_it_is_gone(sup: Supervisor) -> None:
    pid = sup.spawn("child", "test", {"entry": "roles:idle"})
    assert sup.end("child", grace=10.0) == "exit code 0"
    assert gone(pid)
    assert sup.end("child") == "ended before"


def test_a_child_that_does_not_stop_is_killed_after_the_grace(sup: Supervisor) -> None:
    pid = sup.spawn("child", "test", {"entry": "roles:stubborn"})
    assert sup.end("child", grace=0.05) == "killed by SIGKILL"
    assert gone(pid)


def test_end_without_waiting(sup: Supervisor) -> None:
    pid = sup.spawn("child", "test", {"entry": "roles:stubborn"})
    assert not sup.end("child", 0.0, wait=False)
    eventually(lambda: gone(pid))


def test_its_process_group_goes_with_it(sup: Supervisor) -> None:
    child = Remote(sup)
    grandchildren = [child("grandchild()") for _ in range(3)]
    free = child("grandchild(session=True)")
    os.kill(child.pid, signal.SIGKILL)
    child.saw("started")
    eventually(lambda: all(gone(pid) for pid in grandchildren))
    assert not dead(free)  # who leaves the group on purpose is not ours
    os.kill(free, signal.SIGKILL)
    eventually(lambda: gone(free))  # reaped all the same


def test_an_ended_child_closes_the_channel_of_its_user(sup: Supervisor) -> None:
    child = Remote(sup)
    sup.end("remote")
    eventually(lambda: child.closed)


def test_nothing_is_left_open_in_the_supervisor(sup: Supervisor) -> None:
    Remote(sup, "warm-up")
    sup.end("warm-up")
    before = open_fds(sup.pid)
    for _ in range(5):
        child = Remote(sup)
        child("say({'t': 'keep', 'name': 'pipe', 'blob': b''}, os.pipe())")
        child("say({'t': 'keep', 'name': 'pipe', 'blob': b''}, os.pipe())")
        os.kill(child.pid, signal.SIGKILL)
        child.saw("started")
        sup.end("remote")
    assert open_fds(sup.pid) == before


def test_nobody_is_left_when_the_supervisor_is_closed(sup: Supervisor) -> None:
    child = Remote(sup)
    pids = [child.pid, child("grandchild()"), child("grandchild(group=True)"), sup.pid]
    sup.close()
    assert all(gone(pid) for pid in pids)
    with pytest.raises(ClosedError):
        sup.spawn("child", "test", {"entry": "roles:idle"})


def test_an_idle_supervisor_needs_no_cpu(sup: Supervisor) -> None:
    child = Remote(sup)
    process = psutil.Process(sup.pid)
    before = process.cpu_times()
    child("time.sleep(1.0)")
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system <= 0.02
    switches = process.num_ctx_switches()
    child("time.sleep(0.3)")
    assert process.num_ctx_switches().voluntary - switches.voluntary <= 2


def test_a_child_can_be_killed_with_a_reason(sup: Supervisor) -> None:
    child = Remote(sup, "child")
    sup.kill("child", child.pid + 1, "another process")
    sup.kill("nobody", child.pid, "another key")
    assert child("boot.key") == "child"
    sup.kill("child", child.pid, "it was too large")
    died = child.saw("died")
    assert died.reason == "it was too large (killed by SIGKILL)"
    child.saw("started")
