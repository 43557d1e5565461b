"""The supervisor's process: set-up, the poll loop, and the end of everybody in it.

It ends when the process that started it is dead (seen by pidfd or kqueue) or has hung up, and then takes every process
of its brood with it: children, and what they forked. SIGINT and SIGTERM are the user's process' business; here they
are ignored.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Final

from spworkers._descriptors import raise_limit
from spworkers.channel import Channel
from spworkers.supervisor.boot import preload
from spworkers.supervisor.brood import MARK, Brood, Origin, set_apart
from spworkers.supervisor.forking import repairs_left_out
from spworkers.supervisor.loop import Loop
from spworkers.supervisor.service import Service
from spworkers.supervisor.sharing import prepare_memory
from spworkers.supervisor.system import close_all_but, name_process, subreaper
from spworkers.supervisor.watch import ProcessWatch, watch_process

__all__ = ["main"]

PARENT_INTERVAL: Final = 0.25
"""Seconds between two looks at the parent, on systems that tell nobody of a parent's end."""
BURIAL: Final = 1.0
"""Seconds to wait for killed processes, at the end."""


def main(arguments: Sequence[str]) -> None:
    """Be a supervisor.

    Args:
        arguments: descriptor of the channel; descriptor of a pidfd of the parent, or -1; the parent's pid; modules to
            import before the first fork.
    """
    channel_fd, parent_fd, parent = (int(text) for text in arguments[:3])
    close_all_but({0, 1, 2, channel_fd, parent_fd})
    for fd in {channel_fd, parent_fd} - {-1}:
        os.set_inheritable(fd, False)
    _become_supervisor()
    loop = Loop()
    wake = _wake_on_death()
    watch = ProcessWatch(parent_fd) if parent_fd >= 0 else watch_process(parent)
    service = Service(loop, Channel.from_fd(channel_fd), raise_limit())
    loop.watch(wake, lambda _mask: _on_wake(wake, service))
    try:
        _watch_parent(loop, watch, parent, service)
        _preload(arguments[3:])
        service.ready()
        while not service.over:
            loop.step()
    except BaseException:
        traceback.print_exc()  # a bug; the children go with us, and the user's process starts another supervisor
        raise
    finally:
        service.close()
        _bury(service, wake)
        sys.stderr.flush()
        os._exit(0 if service.over else 1)  # nothing here is worth an interpreter's slow farewell


def _become_supervisor() -> None:
    set_apart()
    os.chdir("/")  # pin nobody's file system
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    name_process("spw-supervisor")
    subreaper()
    for stream in (sys.stdout, sys.stderr):  # a pipe's default holds a child's lines back until its end, even SIGKILL
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    gc.disable()  # it makes no cycles, and no collection shall copy pages that it shares with its children


def _wake_on_death() -> int:
    """A descriptor that is readable once a child, or an orphan that came to us, has died."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # without a handler, nothing is written
    return reader


def _on_wake(wake: int, service: Service) -> None:
    _drain(wake)
    service.nursery.reap()


def _drain(wake: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(wake, 4096):
            pass


def _watch_parent(loop: Loop, watch: ProcessWatch | None, parent: int, service: Service) -> None:
    def end() -> None:
        service.over = True

    def look() -> None:
        if os.getppid() != parent:
            end()
        else:
            loop.after(PARENT_INTERVAL, look)

    if watch is None:
        look()
    else:
        loop.watch(watch.fileno(), lambda _mask: end())


def _preload(names: Sequence[str]) -> None:
    for name in names:
        preload(name)
    repairs_left_out(False)
    gc.collect()
    prepare_memory()
    gc.freeze()


def _bury(service: Service, wake: int) -> None:
    """Kill the whole brood, and wait until nobody of it is left."""
    me = os.getpid()
    brood = Brood(me, Origin.of(me, os.environ.get(MARK, "")))
    deadline = time.monotonic() + BURIAL
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    while brood.kill() and time.monotonic() < deadline:
        poll.poll(20)  # SIGCHLD ends it; so does time, for who is an orphan's child and not ours yet
        _drain(wake)
        service.nursery.bury_all()
    service.nursery.bury_all()  # who died last: left to init, a corpse would outlive us for as long as init likes


if __name__ == "__main__":
    main(sys.argv[1:])
