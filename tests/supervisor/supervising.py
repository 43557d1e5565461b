"""What the supervisor's tests share: one to test with, a child that does as it is told, what is left of processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from helpers import eventually

from spworkers.channel import Channel
from spworkers.messages import Message
from spworkers.packet import close_fds
from spworkers.supervisor.control import Control
from spworkers.supervisor.handle import ChildEvent, Supervisor

HERE = Path(__file__).parent


@contextmanager
def supervisor(*preload: str) -> Iterator[Supervisor]:
    """A supervisor of one's own, which is not the program's."""
    control = Control()
    made = Supervisor(control, preload)
    try:
        yield made
    finally:
        made.close()
        control.stop()
        control.close_in_child()  # closes what a process keeps until its end


class Remote:
    """A child of the role `remote`, and the channel to it."""

    def __init__(self, supervisor: Supervisor, key: str = "remote", role: str = "test", **spec: Any) -> None:
        self.supervisor = supervisor
        self.key = key
        self.events: list[ChildEvent] = []
        self.heard: list[Message] = []
        self.closed = False
        self.channel, theirs = Channel.pair()
        supervisor.register(self.channel, self._on_message, self._on_closed)
        with theirs:
            self.fds = [theirs.fileno(), *spec.pop("fds", [])]
            self.pid = supervisor.spawn(
                key,
                role,
                {"entry": "roles:remote", **spec},
                restart=True,
                fds=self.fds,
                on_event=self.events.append,
                timeout=20.0,
            )

    def __call__(self, expression: str, timeout: float = 20.0) -> Any:
        """The value of an expression, over there."""
        message = {"t": "get_option", "place": "socket", "key": 0, "name": expression}
        return self.supervisor.request(self.channel, message, timeout=timeout)

    def _on_message(self, message: Message, fds: list[int]) -> None:
        close_fds(fds)
        self.heard.append(message)

    def _on_closed(self) -> None:
        self.closed = True

    def saw(self, kind: str, n: int = 1) -> ChildEvent:
        """Wait for the n-th event of a kind."""
        return eventually(lambda: self.of(kind)[n - 1 : n], what=f"{kind} number {n}")[0]

    def of(self, kind: str) -> list[ChildEvent]:
        return [event for event in self.events if event.kind == kind]

    def close(self) -> None:
        self.supervisor.unregister(self.channel)
        self.channel.close()


def gone(pid: int) -> bool:
    """Whether there is no such process, not even a dead one that nobody has reaped."""
    return not psutil.pid_exists(pid)


def dead(pid: int) -> bool:
    """Whether it runs no more."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def open_fds(pid: int | str = "self") -> set[int]:
    """The numbers of the open descriptors of a process."""
    directory = f"/proc/{pid}/fd"
    found = {int(name) for name in os.listdir(directory)}
    return {fd for fd in found if os.path.lexists(f"{directory}/{fd}")}  # not the one that listed them


def start_script(
    text: str, *arguments: object, options: Sequence[str] = (), wrapper: Sequence[str] = (), **more: Any
) -> subprocess.Popen[str]:
    """A program of its own that has a supervisor.

    Args:
        text: the program.
        arguments: for it.
        options: for the interpreter.
        wrapper: the beginning of the command line.
        more: for Popen.
    """
    path = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    env = {**os.environ, "PYTHONPATH": path}
    command = [*wrapper, sys.executable, *options, "-c", textwrap.dedent(text), *map(str, arguments)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def run_script(text: str, *arguments: object, **more: Any) -> tuple[str, str]:
    """Run a program to its end; returns stdout and stderr. It has to end with exit code 0. See `start_script`."""
    with start_script(text, *arguments, **more) as process:
        out, err = process.communicate(timeout=60.0)
    assert process.returncode == 0, err
    return out, err
