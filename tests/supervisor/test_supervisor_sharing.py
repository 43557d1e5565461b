"""What the supervisor's children share with it, and what is not repaired after its forks."""

from __future__ import annotations

import sys

import pytest
from supervising import Remote, run_script

from spworkers.supervisor.handle import Supervisor

COUNTLESS = (3, 12) <= sys.version_info < (3, 14)
"""This interpreter has objects whose references nobody counts."""

FORKS = """
    import os, threading
    from spworkers.supervisor import forking
    def repair():
        said.append("threading")
    repair.__module__ = "threading"
    def reseed():
        said.append("random")
    reseed.__module__ = "random"
    forking.repairs_left_out(True)
    os.register_at_fork(after_in_child=repair)
    os.register_at_fork(before=lambda: said.append("before"), after_in_child=reseed)
    lock = threading.RLock()  # whose methods do not say whose they are
    def release():
        lock.release()
    release.__module__ = "logging"
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=release)
    forking.repairs_left_out(False)
    later = lambda: said.append("later")
    later.__module__ = "threading"
    os.register_at_fork(after_in_child=later)
    for fork in (forking.fork, os.fork, forking.fork):
        said = []
        if fork() == 0:
            helper = threading.Thread(target=lambda: said.append("free" if lock.acquire(blocking=False) else "held"))
            helper.start()
            helper.join()
            os.write(1, repr(said).encode() + b"\\n")
            os._exit(0)
        os.wait()
"""


def test_only_its_own_forks_do_without_only_those_repairs_that_were_loaded_with_it() -> None:
    ours, other = "['before', 'random', 'later', 'free']", "['before', 'threading', 'random', 'later', 'free']"
    assert run_script(FORKS)[0].splitlines() == [ours, other, ours]


def test_a_child_finds_threads_and_logging_in_order(sup: Supervisor) -> None:
    child = Remote(sup)
    assert child("[each.name for each in threading.enumerate()]") == ["MainThread"]
    assert child("threading.current_thread() is threading.main_thread()")
    assert child("threading.main_thread().is_alive()")
    assert child("__import__('logging').getLogger('x').isEnabledFor(50)")
    child("notes.append(threading.Thread(target=notes.append, args=['it ran']))")
    child("notes[0].start()")
    assert child("notes[0].join(10) or notes[1]") == "it ran"


def test_what_a_child_forks_is_repaired(sup: Supervisor) -> None:
    child = Remote(sup)
    child("notes.append(threading.Event())")
    child("threading.Thread(target=notes[0].wait).start()")
    assert child("threading.active_count()") == 2
    # The forked one says how many threads it knows, by its exit code.
    child("notes.append(os.fork()) or notes[1] or os._exit(threading.active_count())")
    assert child("os.waitstatus_to_exitcode(os.waitpid(notes[1], 0)[1])") == 1
    child("notes[0].set()")


SHARES = """
    import gc, resource, sys, weakref
    from spworkers.supervisor._sharing import fill_heap, make_immortal
    class Thing:
        pass
    def function():
        return "a constant of it"
    kept = Thing()
    print(make_immortal() > 1000)
    counts = [sys.getrefcount(each) for each in (Thing, function, function.__code__, kept)]
    more = [Thing, function, function.__code__, kept] * 10
    print(counts == [sys.getrefcount(each) for each in (Thing, function, function.__code__, kept)])
    print(make_immortal() > 1000)
    seen = weakref.ref(made := Thing())
    before = sys.getrefcount(made)
    again = [made, made]
    print(sys.getrefcount(made) - before)
    cycle = Thing()
    cycle.itself, gone = cycle, weakref.ref(cycle)
    del made, again, cycle
    gc.collect()
    print(seen(), gone(), function(), eval("1 + 1"))
    print(0 <= fill_heap(1 << 20) <= (1 << 20) + (16 << 10))
"""


def test_nobody_counts_references_to_what_was_there_and_the_rest_is_freed_as_ever() -> None:
    was_there, new = ("True", "False") if COUNTLESS else ("False", "False")
    expected = [was_there, was_there, new, "2", "None None a constant of it 2", "True"]
    assert run_script(SHARES)[0].splitlines() == expected


@pytest.mark.skipif(not COUNTLESS, reason="this interpreter counts all references")
def test_a_child_does_not_count_references_to_what_it_shares(sup: Supervisor) -> None:
    child = Remote(sup)
    assert child("sys.getrefcount(threading.Thread)") == child("sys.getrefcount(None)")
