"""The small parts: loop, watches, store, inproc names, surroundings, back-off, entry points, launching."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from supervising import open_fds, run_script

from spworkers.channel import Channel
from spworkers.errors import AddrInUseError, BadValueError, ConnRefusedError, ResourceError, SupervisorError
from spworkers.supervisor import launch, main, surroundings, watch
from spworkers.supervisor.boot import PRELOAD, Boot, entry_of, load_entry
from spworkers.supervisor.inproc import Inproc
from spworkers.supervisor.loop import READ, WRITE, Loop
from spworkers.supervisor.record import Backoff
from spworkers.supervisor.store import ENTRIES_LIMIT, Store

# --- Loop


def test_a_loop_calls_what_is_ready() -> None:
    loop, calls = Loop(), []
    read, write = os.pipe()
    loop.watch(read, calls.append)
    os.write(write, b"x")
    loop.step()
    assert calls == [READ]
    loop.change(read, 0)
    loop.after(0.0, lambda: calls.append(0))
    loop.step()
    assert calls == [READ, 0]
    loop.unwatch(read)
    loop.unwatch(read)
    loop.change(read, WRITE)
    os.close(read)
    os.close(write)


def test_timers_fire_in_order_unless_they_are_cancelled() -> None:
    loop, calls = Loop(), []
    loop.after(0.02, lambda: calls.append("second"))
    cancelled = loop.after(0.01, lambda: calls.append("never"))
    loop.after(0.01, lambda: calls.append("first"))
    loop.after(float("inf"), lambda: calls.append("never"))
    cancelled.cancel()
    while len(calls) < 2:
        loop.step()
    assert calls == ["first", "second"]
    assert loop._patience() is None


def test_a_call_may_forget_another() -> None:
    loop, calls = Loop(), []
    pipes = [os.pipe(), os.pipe()]

    def forget(_mask: int) -> None:
        calls.append(1)
        for read, _ in pipes:
            loop.unwatch(read)

    for read, write in pipes:
        loop.watch(read, forget)
        os.write(write, b"x")
    loop.step()
    assert calls == [1]
    for fd in [*pipes[0], *pipes[1]]:
        os.close(fd)


def test_a_descriptor_that_somebody_closed_does_not_make_it_spin() -> None:
    loop, calls = Loop(), []
    read, write = os.pipe()
    loop.watch(read, calls.append)
    os.close(read)
    os.close(write)
    loop.step()
    assert calls == [select.POLLNVAL]
    loop.after(0.01, lambda: calls.append(0))
    loop.step()
    assert calls[1:] == [0]


def test_what_was_told_of_a_closed_descriptor_does_not_meet_the_next_file_of_its_number() -> None:
    """The thread polls a number whose file another thread has closed, and serves the job that watches a new file."""
    loop, calls = Loop(), []
    waker, wake = os.pipe()
    first, other = os.pipe()
    os.close(other)

    def job(_mask: int) -> None:
        os.read(waker, 1)
        loop.unwatch(first)
        loop.watch(first, lambda mask: calls.append(mask))

    loop.watch(waker, job)
    loop.watch(first, lambda _mask: calls.append("the former's"))
    os.close(first)
    os.write(wake, b"x")
    events = loop.wait()
    assert (first, select.POLLNVAL) in events
    reader, writer = os.pipe()
    if reader != first:  # else it has the number already
        os.dup2(reader, first)
        os.close(reader)
    loop.serve(events)
    assert calls == []
    os.write(writer, b"x")
    loop.step()
    assert calls == [READ]
    for fd in (waker, wake, first, writer):
        os.close(fd)


# --- Watches and reaping


def test_a_watch_tells_the_end_of_a_process() -> None:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    seen = watch.watch_process(process.pid)
    assert seen is not None
    assert not seen.ended()
    process.communicate()
    assert seen.ended()
    assert seen.fileno() in open_fds()
    seen.close()
    seen.close()
    assert seen.fileno() == -1


def test_nobody_is_watched_who_is_not_there() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert watch.watch_process(process.pid) is None


def test_systems_without_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    assert watch.watch_process(os.getpid()) is None
    assert watch.own_pidfd() is None


def test_sandboxes_without_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(pid: int) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", forbidden)
    assert watch.watch_process(os.getpid()) is None
    assert watch.own_pidfd() is None


def test_systems_with_kqueue(monkeypatch: pytest.MonkeyPatch) -> None:
    class Queue:
        def __init__(self) -> None:
            self.events: list[Any] = []
            self.closed = False

        def control(self, events: list[Any], n: int) -> None:
            if events[0][0] == 1:
                raise ProcessLookupError
            self.events += events

        def fileno(self) -> int:
            return 99

        def close(self) -> None:
            self.closed = True

    made: list[Queue] = []
    monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.setattr(select, "kqueue", lambda: made.append(Queue()) or made[-1], raising=False)
    monkeypatch.setattr(select, "kevent", lambda *args: args, raising=False)
    for number, name in enumerate(("KQ_FILTER_PROC", "KQ_EV_ADD", "KQ_NOTE_EXIT")):
        monkeypatch.setattr(select, name, number, raising=False)
    seen = watch.watch_process(1234)
    assert seen is not None
    assert (seen.fileno(), made[0].events) == (99, [(1234, 0, 1, 2)])
    seen.close()
    assert made[0].closed
    assert watch.watch_process(1) is None
    assert made[1].closed


@pytest.mark.parametrize("waitid", [True, False])
def test_reaping(waitid: bool) -> None:
    # In a process of its own: it reaps every child that it finds.
    script = """
        import os, signal, sys
        from spworkers.supervisor.watch import reap, reason_of
        if sys.argv[1] == "False":
            del os.waitid
        read, write = os.pipe()
        pids = []
        for code in (0, 3):
            pids.append(os.fork())
            if not pids[-1]:
                os._exit(code)
        pids.append(os.fork())
        if not pids[-1]:
            os.close(write)
            os.read(read, 1)
        seen, found = [], {}
        os.kill(pids[-1], signal.SIGKILL)
        while len(found) < 3:
            found.update(reap(seen.append))
        assert sorted(seen) == sorted(found) == sorted(pids)
        print([reason_of(found[pid]) for pid in pids], list(reap(seen.append)))
    """
    assert run_script(script, waitid)[0] == "['exit code 0', 'exit code 3', 'killed by SIGKILL'] []\n"


def test_reasons() -> None:
    assert watch.reason_of(3 << 8) == "exit code 3"
    assert watch.reason_of(signal.SIGSEGV) == "killed by SIGSEGV"
    assert watch.reason_of(50) == "killed by signal 50"


# --- What is asked of the system


def test_closing_all_but_some() -> None:
    script = """
        import os, sys
        from spworkers.supervisor import system
        def gone(*_):
            raise OSError
        if sys.argv[1] == "no close_range":
            system._close_range = None
        elif sys.argv[1] == "an old kernel":
            system._close_range = lambda *_: -1
        elif sys.argv[1] == "no /proc either":
            system._close_range = None
            os.listdir = gone
        read, write = os.pipe()
        far = os.dup2(read, 500)
        system.close_all_but({1, 2, write, far})
        for fd in (0, read):
            try:
                os.fstat(fd)
            except OSError:
                continue
            print("open:", fd)
        os.fstat(write), os.fstat(far)
        print("fine")
    """
    for kind in ("as it is", "no close_range", "an old kernel", "no /proc either"):
        assert run_script(script, kind)[0] == "fine\n"


# --- Store


def test_a_store_owns_its_descriptors() -> None:
    before = open_fds()
    store = Store()
    store.keep("a", b"1", list(os.pipe()))
    store.keep("a", b"2", list(os.pipe()))
    store.keep("b", b"", [])
    assert sorted(store.descriptors()) == sorted(store.entries()["a"][1])
    assert repr(store) == "<Store: 2 entries, 2 descriptors>"
    store.drop("a")
    store.drop("a")
    assert open_fds() <= before
    assert store.entries() == {"b": (b"", [])}


def test_a_store_is_bounded() -> None:
    store = Store()
    for number in range(ENTRIES_LIMIT):
        store.keep(str(number), b"", [])
    before = open_fds()
    with pytest.raises(ResourceError, match="drop some"):
        store.keep("more", b"", list(os.pipe()))
    assert open_fds() <= before
    store.keep("0", b"again", [])
    store.clear()
    assert not store.entries()


# --- inproc names


def test_inproc_names() -> None:
    names = Inproc()
    names.listen("x", "a")
    names.listen("x", "a")
    with pytest.raises(AddrInUseError, match="inproc://x"):
        names.listen("x", "b")
    assert names.find("x") == "a"
    names.close("x", "b")
    assert repr(names) == "<Inproc: x>"
    names.forget("a")
    with pytest.raises(ConnRefusedError, match="nobody listens"):
        names.find("x")


# --- Back-off


def test_back_off_after_the_fifth_quick_death() -> None:
    backoff = Backoff()
    assert [backoff.next(0.1) for _ in range(12)] == [0.0] * 5 + [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    assert backoff.next(1.5) == 0.0
    assert backoff.next(0.5) == 0.0
    for _ in range(5000):
        assert backoff.next(0.0) <= 2.0


# --- Entry points


def test_entry_points() -> None:
    assert entry_of("io", {}) == "spworkers.ioproc.main:run"
    assert entry_of("worker", {"entry": "a:b"}) == "a:b"
    assert load_entry("os.path:join") is os.path.join
    assert load_entry("os:path.join") is os.path.join
    assert PRELOAD == ("spworkers.ioproc.main",)
    for wrong in ("", "module", ":function", "module:", 7):
        with pytest.raises(BadValueError):
            entry_of("io", {"entry": wrong})
    with pytest.raises(TypeError, match="is no function"):
        load_entry("os:sep")


def test_a_boot_does_not_show_its_channel() -> None:
    one, other = Channel.pair()
    with one, other:
        assert "channel" not in repr(Boot("key", 1, {}, [], {}, (), one))


# --- Surroundings


def test_the_umask_is_found_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    former = os.umask(0o037)
    try:
        assert surroundings.current_umask() == 0o037

        def missing(*args: object, **more: object) -> None:
            raise FileNotFoundError

        monkeypatch.setattr("builtins.open", missing)
        assert surroundings.current_umask() == 0o037
        assert os.umask(0o037) == 0o037
    finally:
        os.umask(former)


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", ["", "relative", "/absolute"])
    assert launch.absolute_path() == [str(place), str(place / "relative"), "/absolute"]
    place.rmdir()
    assert "cwd" not in surroundings.surroundings()
    assert launch.absolute_path() == ["/absolute"]


def test_whereabouts_differ_between_users(monkeypatch: pytest.MonkeyPatch) -> None:
    here = surroundings.whereabouts()
    assert here == surroundings.whereabouts()
    assert all(here[3:]) or not sys.platform.startswith("linux")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert surroundings.whereabouts() != here
    monkeypatch.setattr(os, "stat", lambda path: (_ for _ in ()).throw(FileNotFoundError))
    assert surroundings.whereabouts()[3:] == (0, 0)


# --- Launching


def test_a_program_without_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_fds()
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(SupervisorError, match=r"sys\.executable is not set"):
        launch.launch(())
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(SupervisorError, match="cannot start the supervisor with /no/such/python"):
        launch.launch(())
    assert open_fds() <= before


def test_the_interpreters_options_go_along() -> None:
    script = """
        import sys
        from spworkers.supervisor.client import get_supervisor
        from supervising import Remote
        child = Remote(get_supervisor())
        names = ("optimize", "dont_write_bytecode", "utf8_mode", "dev_mode", "bytes_warning")
        for name in names:
            assert child(f"sys.flags.{name}") == getattr(sys.flags, name), name
        assert child("sys.warnoptions[-1]") == "error::ResourceWarning"
        print(child("sys._xoptions"))
        child.close()
    """
    options = ["-O", "-B", "-b", "-Xdev", "-Xutf8=1", "-Werror::ResourceWarning"]
    assert run_script(script, options=options) == ("{'dev': True, 'utf8': '1'}\n", "")


def test_closed_standard_streams(tmp_path: Path) -> None:
    script = """
        import os, sys
        from spworkers.supervisor.client import get_supervisor
        from supervising import Remote
        names = Remote(get_supervisor())("[os.readlink(f'/proc/self/fd/{fd}') for fd in (0, 1, 2)]")
        with open(sys.argv[1], "w") as file:
            file.write(repr(names))
    """
    result = tmp_path / "names"
    run_script(script, result, wrapper=["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-'])
    assert result.read_text() == repr([os.devnull] * 3)


def test_standard_streams_that_are_not_inheritable() -> None:
    script = """
        import os
        from spworkers.supervisor.client import get_supervisor
        os.set_inheritable(1, False)
        from helpers import eventually
        events = []
        get_supervisor().spawn("child", "test", {"entry": "roles:prints"}, restart=False, on_event=events.append)
        eventually(lambda: len(events) == 2)
    """
    assert run_script(script) == ("from the child\n", "")


def test_low_descriptors_are_no_obstacle() -> None:
    # The new process wants 3, 4 and 5; here they are in use, by files that it is given as something else.
    script = """
        import os
        for fd in (0, 3, 4, 5, 6):
            try:
                os.close(fd)
            except OSError:
                pass
        from spworkers.supervisor.client import get_supervisor
        from supervising import Remote
        print(Remote(get_supervisor())("boot.generation"))
    """
    assert run_script(script) == ("1\n", "")


def test_another_interpreter_finds_the_same_package(sup: Any) -> None:
    from supervising import Remote

    import spworkers

    assert Remote(sup)("sys.modules['spworkers'].__file__") == spworkers.__file__


# --- The main loop's fall-backs


def test_without_pidfds_the_parent_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    class Service:
        over = False

    monkeypatch.setattr(main, "PARENT_INTERVAL", 0.01)
    parent = [os.getppid()]
    loop, service = Loop(), Service()
    monkeypatch.setattr(os, "getppid", lambda: parent[0])
    main._watch_parent(loop, None, parent[0], service)  # type: ignore[arg-type]
    loop.step()
    assert not service.over
    parent[0] += 1
    while not service.over:
        loop.step()


def test_a_supervisor_without_pidfds() -> None:
    script = """
        import os, signal
        from helpers import eventually
        del os.pidfd_open
        from spworkers.supervisor.client import get_supervisor
        from supervising import Remote
        sup = get_supervisor()
        child = Remote(sup)
        os.kill(child.pid, signal.SIGKILL)
        child.saw("started")
        again = []
        sup.on_restart(lambda: again.append(Remote(sup)))
        os.kill(sup.pid, signal.SIGKILL)
        print(eventually(lambda: again)[0]("boot.generation"))
    """
    output, errors = run_script(script)
    assert output == "1\n"
    assert errors.startswith("the supervisor, process ")
    assert errors.count("\n") == 1


def test_what_cannot_be_imported_in_advance_does_no_harm() -> None:
    script = """
        from supervising import Remote, supervisor
        with supervisor("no.such.module", "roles") as sup:
            print(Remote(sup)("boot.generation"))
    """
    assert run_script(script) == ("1\n", "")


def test_threads_may_start_it_at_once() -> None:
    script = """
        import threading
        from spworkers.supervisor.client import get_supervisor
        pids = []
        threads = [threading.Thread(target=lambda: pids.append(get_supervisor().pid)) for _ in range(10)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(pids), len(set(pids)))
    """
    assert run_script(script) == ("10 1\n", "")
