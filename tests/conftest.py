"""Every test leaves the machine as it found it: no process of ours, and nothing in /dev/shm."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hypothesis
import psutil
import pytest
from helpers import eventually, shared_memory

# A check that somebody waits for gives the same result each time; `tox -e chance` looks further, by chance.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

GRACE = 10.0
"""Seconds that processes have to leave after the test is over."""


# Where a file's tests need not run everywhere; tox.ini says which marks run where. What these test lies on the wire, in
# shared memory or in a browser, and whether the protocols are compiled is tested by others through the same paths.
ONCE = ("interop", "docs", "cli/test_bench.py", "cli/test_macat.py", "cli/test_top.py")
ONCE += ("sockets/test_asgi.py", "sockets/test_webserver.py", "sockets/test_wss.py")
ONCE += ("ring/test_corrupt.py", "ring/test_memory.py", "ring/test_processes.py")

# These know nothing of the Python they run on, but each of them may find what compiling has changed.
ALIKE = ("conformance", "faults/test_hostile_network.py", "faults/test_death_of_a_device.py")
ALIKE += ("faults/test_death_of_supervisor.py", "ring/test_asking.py", "ring/test_heads.py")
ALIKE += ("sockets/test_devices.py", "sockets/test_websocket.py", "examples/test_originals.py")
ALIKE += tuple(f"examples/test_{name}.py" for name in ("digest", "mtls_example", "websocket_example", "batch_examples"))

# What a version of Python may change in these, its neighbours change too: 3.12 leaves them to 3.11 and 3.13.
EDGES = ("cli", "faults", "supervisor/test_supervisor_death.py")
EDGES += tuple(f"workers/test_{name}.py" for name in ("server_life", "beside", "harm"))

# Nothing of what these test is compiled by mypyc (the list is in setup.py).
PLAIN = ("supervisor", "transport", "ring", "test_channel.py", "test_options.py", "test_option_matrix.py")
PLAIN += ("test_errors.py", "test_exports.py", "test_imports.py", "test_tlsconfig.py", "testing/test_certificates.py")
PLAIN += (
    "cli/test_cli.py",
    "cli/test_cert.py",
    "cli/test_tls_options.py",
    "workers/test_codec.py",
    "workers/test_arguments.py",
)

# By this, which every descendant inherits, an orphan is found that is nobody's child any more.
MARK = "SPWORKERS_TEST_SESSION"

# These outlive a test by design: our supervisor (one for the program), and the standard library's own helpers.
LASTING = ("spworkers-supervisor", "multiprocessing.resource_tracker", "multiprocessing.forkserver")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what need not run everywhere."""
    here = Path(__file__).parent
    for item in items:
        file = item.path.relative_to(here).as_posix()
        for mark, files in (("once", ONCE), ("alike", ALIKE), ("edges", EDGES), ("plain", PLAIN)):
            if file.startswith(files):
                item.add_marker(mark)


def pytest_collection_finish() -> None:
    """Thousands of tests, and all that they import, are there to the end: no search for litter need look at them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    before = set(_descendants())
    yield

    def new() -> list[psutil.Process]:
        return [process for pid in _descendants() if pid not in before and (process := _left_over(pid))]

    with contextlib.suppress(AssertionError):
        eventually(lambda: not new(), 0.5)  # what was closed is about to end
        return
    gc.collect()  # a pool or socket that nobody holds any more, but in a cycle, goes now
    _expect_nothing(new, "processes left")


@pytest.fixture(autouse=True, scope="module")
def _no_litter_of_others() -> None:
    """What an earlier file's tests left in cycles shall not be counted as this one's, in whatever order they run."""
    gc.collect()


@pytest.fixture(autouse=True, scope="session")
def _nothing_left_at_the_end() -> Iterator[None]:
    mark = os.environ[MARK] = uuid.uuid4().hex
    shm = shared_memory()
    yield
    ours = {os.getpid(), *(pid for pid in _descendants() if not _left_over(pid))}
    _expect_nothing(
        lambda: [*(p for p in _marked(mark) if p.pid not in ours), *(shared_memory() - shm)],
        "left at the end",
    )


def _expect_nothing(find: Callable[[], Sequence[object]], what: str) -> None:
    with contextlib.suppress(AssertionError):
        eventually(lambda: not find(), GRACE)
    if found := find():
        pytest.fail(f"{what}: {', '.join(_describe(thing) for thing in found)}", pytrace=False)


def _descendants() -> list[int]:
    """All processes below this one. Twice for each test, so not by psutil, which reads every process of the machine."""
    if not list(_lists(os.getpid())):  # not Linux, or a kernel without them
        return [process.pid for process in psutil.Process().children(recursive=True)]
    found: list[int] = []
    parents = [os.getpid()]
    while parents:
        for file in _lists(parents.pop()):
            with contextlib.suppress(OSError):  # the thread, or the process, has just ended
                children = [int(pid) for pid in file.read_bytes().split()]
                found += children
                parents += children
    return found


def _lists(pid: int) -> Iterator[Path]:
    """The files that name a process's children; there are none where the system is not Linux, or it has just ended."""
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            yield Path(f"/proc/{pid}/task/{thread}/children")


def _left_over(pid: int) -> psutil.Process | None:
    """The process, unless it is one that outlives a test by design, or is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return None if _lasting(process) else process
    return None


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.Error, OSError):  # it has just ended, or it is somebody else's
            continue
    return found


def _lasting(process: psutil.Process) -> bool:
    try:
        line = " ".join(process.cmdline())
        # The supervisor's children are forked, so they have its command line: only our own child is the supervisor.
        return any(name in line for name in LASTING) and process.ppid() == os.getpid()
    except psutil.ZombieProcess:  # dead, but nobody has asked for its status: somebody must
        return False
    except psutil.NoSuchProcess:
        return True


def _describe(thing: object) -> str:
    if not isinstance(thing, psutil.Process):
        return str(thing)
    try:
        return f"{thing.pid} ({thing.status()}, child of {thing.ppid()}): {' '.join(thing.cmdline())[:100]!r}"
    except psutil.Error as problem:
        return f"{thing.pid} ({problem})"
