"""Pipe event hooks run on a thread of their own, so that a slow one holds up neither messages nor control answers."""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spworkers.errors import SPError
from spworkers.pipe import Pipe, PipeEvent

if TYPE_CHECKING:
    from spworkers.socket import Socket

Hook = Callable[[PipeEvent, Pipe], None]

log = logging.getLogger("spworkers")

__all__ = ["Hook", "HookRunner"]


class HookRunner:
    """Calls a socket's hook for what its I/O process reports; answers for ATTACHING whether the pipe is welcome."""

    def __init__(self, socket: Socket) -> None:
        self.socket = weakref.ref(socket)
        self.hook: Hook | None = None
        self.queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
        self.attached: dict[int, dict[str, Any]] = {}  # pipes whose end is to be told of

    def set(self, hook: Hook | None) -> Hook | None:
        """Use this hook from now on; returns the former one."""
        former, self.hook = self.hook, hook
        if hook is not None and self.thread is None:
            self._start()
        return former

    def hand_over(self) -> None:
        """The hook is about to wait for what has events of its own, a dial: another thread tells them from now on."""
        if self.thread is threading.current_thread():
            self._start()

    def _start(self) -> None:
        self.thread = threading.Thread(target=self._run, name="spworkers-hooks", daemon=True)
        self.thread.start()

    def event(self, message: dict[str, Any]) -> None:
        """A message from the I/O process, on the control thread."""
        if message["t"] == "pipe_event":
            self._note(message)
            self.queue.put(message)
        elif message["t"] == "hello" and message["generation"] > 1:
            self.lost()
        elif message["t"] == "log":
            extra = message.get("extra")
            logging.getLogger(message["logger"]).log(message["level"], "%s", message["message"], extra=extra)

    def _note(self, message: dict[str, Any]) -> None:
        if message["kind"] == "attached":
            self.attached[message["pipe"]["id"]] = message["pipe"]
        elif message["kind"] == "detached":
            self.attached.pop(message["pipe"]["id"], None)

    def lost(self) -> None:
        """Another I/O process has taken over: the pipes of the former one went with it."""
        gone, self.attached = self.attached, {}
        for pipe in gone.values():
            self.queue.put({"t": "pipe_event", "event": 0, "kind": "detached", "pipe": pipe})

    def stop(self) -> None:
        """End the thread once it has told what is queued."""
        self.queue.put(None)

    def _run(self) -> None:
        while self.thread is threading.current_thread():
            message = self.queue.get()
            socket = self.socket()
            if message is None or socket is None:
                return
            self._tell(socket, message)
            del socket

    def _tell(self, socket: Socket, message: dict[str, Any]) -> None:
        pipe, event = Pipe(socket, message["pipe"]["id"], message["pipe"]), PipeEvent(message["kind"])
        accept = True
        try:
            if self.hook is not None:
                self.hook(event, pipe)
        except Exception:
            accept = False
            log.exception("the pipe event hook of %r failed for %r", socket, pipe)
        if event is PipeEvent.ATTACHING:
            try:
                socket._link.reply(
                    "verdict", event=message["event"], accept=accept and not pipe._refused, **pipe._refusal
                )
            except SPError:
                return  # the socket was closed meanwhile
