"""Entry points for the supervisor's tests. A `remote` child does what its test tells it, expression by expression."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from spworkers.channel import Channel
from spworkers.errors import ChannelClosedError
from spworkers.messages import answer, failure
from spworkers.packet import close_fds
from spworkers.supervisor.boot import Boot

# What expressions may use, beside `boot`, `notes` and `received`.
TOOLS = (os, resource, signal, subprocess, sys, threading, time)


def idle(boot: Boot) -> None:
    """Wait to be told to stop."""
    while boot.channel.recv().message["t"] != "stop":
        pass


def stubborn(boot: Boot) -> None:
    """Be told nothing."""
    signal.pause()


def busy(boot: Boot) -> None:
    """Hold the GIL for ever, and never look at anything."""
    while True:
        sum(range(100_000))


def fails(boot: Boot) -> None:
    raise ValueError(f"generation {boot.generation} of {boot.key}")


def exits(boot: Boot) -> int:
    return int(boot.spec["code"])


def leaves(boot: Boot) -> None:
    os._exit(int(boot.spec["code"]))


def quits(boot: Boot) -> None:
    raise SystemExit(boot.spec["code"])


def prints(boot: Boot) -> None:
    print("from the child", flush=False)


def recycles(boot: Boot) -> None:
    boot.channel.send({"t": "recycle"})


def mute(boot: Boot) -> None:
    """Close the channel to the supervisor and live on."""
    boot.channel.close()
    signal.pause()


def garbles(boot: Boot) -> None:
    if boot.generation == 1:
        os.write(boot.channel.fileno(), b"\xc1 this is no msgpack")
    idle(boot)


def remote(boot: Boot) -> int | None:
    """Evaluate what comes on the first descriptor, and on every client's channel; `stop(code)` ends it."""
    return Remote(boot).run()


def attached(boot: Boot) -> int | None:
    """As `remote`, on the second descriptor: the first one is a channel to an I/O process, of which `ask_io` asks."""
    return Remote(boot, own=1).run()


class Remote:
    def __init__(self, boot: Boot, own: int = 0) -> None:
        self.boot = boot
        self.notes: list[dict[str, Any]] = []
        self.received: list[int] = []
        self.ended: list[int | None] = []
        self.poll = select.poll()
        self.channels: dict[int, Channel] = {}
        self.poll.register(boot.channel, select.POLLIN)
        self.add(boot.fds[own])
        self.io = Channel.from_fd(boot.fds[0]) if own else None

    def add(self, fd: int) -> None:
        channel = Channel.from_fd(fd)
        self.channels[fd] = channel
        self.poll.register(fd, select.POLLIN)
        with contextlib.suppress(ChannelClosedError):  # it died before we came to know it
            channel.send({"t": "hello", "generation": self.boot.generation})

    def run(self) -> int | None:
        while not self.ended:
            for fd, _ in self.poll.poll():
                if fd in self.channels:
                    self.serve(fd, self.channels[fd])
                else:
                    self.hear()
        return self.ended[0]

    def serve(self, fd: int, channel: Channel) -> None:
        try:
            message, fds = channel.recv()
        except ChannelClosedError:
            self.poll.unregister(fd)
            self.notes.append({"t": "closed"})
            return
        close_fds(fds)
        try:
            reply = answer(message["id"], eval(message["name"], self.names(message)))
        except Exception as error:
            reply = failure(message["id"], error)
        with contextlib.suppress(ChannelClosedError):  # who asked has died meanwhile
            if not self.ended:
                channel.send(reply)

    def hear(self) -> None:
        message, fds = self.boot.channel.recv()
        if message["t"] == "client":
            self.add(fds.pop())
        if message["t"] == "stop":
            self.ended.append(None)
        self.received += fds
        self.notes.append(message)

    def names(self, message: dict[str, Any]) -> dict[str, Any]:
        tools = {tool.__name__: tool for tool in TOOLS}
        own = {"boot": self.boot, "notes": self.notes, "received": self.received, "stop": self.ended.append}
        return {
            **tools,
            **own,
            "say": self.boot.channel.send,
            "ask": self.ask,
            "ask_io": self.ask_io,
            "grandchild": grandchild,
            "errno_of_terminal": errno_of_terminal,
        }

    def ask(self, message: dict[str, Any]) -> list[int]:
        """Ask the supervisor, and wait for its answer's descriptors; what it says meanwhile is noted."""
        self.boot.channel.send({**message, "id": 1})
        while True:
            found, fds = self.boot.channel.recv()
            if found["t"] == "answer":
                return fds
            if found["t"] == "error":
                raise RuntimeError(found["name"], *found["args"])
            if found["t"] == "stop":
                self.ended.append(None)
            self.received += fds
            self.notes.append(found)

    def ask_io(self, expression: str) -> Any:
        """The value of an expression in the I/O process."""
        assert self.io is not None
        self.io.send({"t": "get_option", "id": 1, "place": "socket", "key": 0, "name": expression})
        while True:
            found = self.io.recv(timeout=20.0).message
            if found["t"] == "answer":
                return found["value"]


def errno_of_terminal() -> int:
    """What comes of opening it; 0: it was there."""
    try:
        with open("/dev/tty"):
            return 0
    except OSError as error:
        return error.errno or -1


def grandchild(*, session: bool = False, group: bool = False) -> int:
    """Fork a process that does nothing, for ever; returns its pid."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        if session:
            os.setsid()
        if group:
            os.setpgid(0, 0)
        os.write(write, b"!")
        while True:
            signal.pause()
    os.read(read, 1)
    close_fds([read, write])
    return pid
