"""What the supervisor does for the user's process and for its children: one handler for each message, in two tables."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from spworkers.channel import Channel
from spworkers.errors import ConnRefusedError, SPError
from spworkers.messages import BadPacketError, Message
from spworkers.packet import close_fds
from spworkers.supervisor.claims import ABSTRACT, ClaimDesk
from spworkers.supervisor.inproc import Inproc
from spworkers.supervisor.inspection import Inspections
from spworkers.supervisor.loop import Loop
from spworkers.supervisor.nursery import Nursery
from spworkers.supervisor.peer import LATER, Handler, Peer, WithFds, take
from spworkers.supervisor.record import Child
from spworkers.supervisor.tickets import Tickets

__all__ = ["Service"]

USER_OUTBOX: Final = 8192
"""Messages that may wait for the user's process, half of it for news. It may be stopped for long; then news is lost and
counted."""


class Service:
    """The supervisor behind its channels.

    Args:
        loop: that it runs in.
        channel: to the user's process.
        fd_limit: RLIMIT_NOFILE for the children; None: as it is.
    """

    def __init__(self, loop: Loop, channel: Channel, fd_limit: tuple[int, int] | None = None) -> None:
        self._loop = loop
        self.over: bool = False
        """The user's process hung up."""
        self._user = Peer(loop, channel, handle=self._on_user_message, lost=self._on_user_lost, limit=USER_OUTBOX)
        self._inproc = Inproc()
        self._tickets = Tickets()
        self._desk: ClaimDesk | None = None
        self.nursery = Nursery(
            loop, handler=self._child_handler, notify=self._user.notify, gone=self._on_gone, fd_limit=fd_limit
        )
        self._inspections = Inspections(loop, self.nursery.children)
        self._user_calls: dict[str, Handler] = {
            "spawn": self.nursery.spawn,
            "end": self._end,
            "expect": self._expect,
            "keep": self._keep_for,
            "drop": self._drop_for,
            "kill": self._kill_for,
            "ticket_put": self._ticket_put,
            "ticket_drop": self._ticket_drop,
        }
        self._child_calls: dict[str, Callable[[Child, Message, list[int]], Any]] = {
            "keep": self._keep,
            "drop": self._drop,
            "inproc_listen": self._inproc_listen,
            "inproc_close": self._inproc_close,
            "inproc_dial": self._inproc_dial,
            "kill": self._kill,
            "crash": self._crash,
            "finished": self._finished,
            "recycle": self._recycle,
            "seen": self._seen,
            "settled": self._settled,
        }

    def ready(self) -> None:
        """Tell the user's process that requests are being served; from now on others of this user may look, too."""
        if ABSTRACT:
            with contextlib.suppress(OSError):  # no room, or a sandbox: then nobody looks, and all else is as ever
                self._open_desk()
        self._user.put({"t": "ready", "pid": os.getpid()})

    def close(self) -> None:
        """Kill the children and leave nothing in the file system."""
        self.nursery.kill_all()
        if self._desk is not None:
            self._desk.close()

    # --- The user's process

    def _on_user_message(self, message: Message, fds: list[int]) -> Any:
        call = self._user_calls.get(message["t"])
        if call is None:
            raise BadPacketError(f"a user's process does not send {message['t']!r} to its supervisor")
        return call(message, fds)

    def _on_user_lost(self, error: SPError) -> None:
        if not isinstance(error, EOFError):
            print(f"spworkers: supervisor ends: {error}", file=sys.stderr)
        self.over = True

    def _end(self, message: Message, _fds: list[int]) -> Any:
        def tell(reason: str) -> None:
            if "id" in message:  # else nobody waits
                self._user.reply(message["id"], reason)

        self.nursery.end(message["key"], message["grace"], tell)
        return LATER

    def _expect(self, message: Message, _fds: list[int]) -> None:
        role: str = message["role"]
        if message["after"]:
            self._loop.after(message["after"], lambda: self.nursery.expect(role))
        else:
            self.nursery.expect(role)

    def _keep_for(self, message: Message, fds: list[int]) -> None:
        self._keep(self._addressed(message), message, fds)

    def _drop_for(self, message: Message, fds: list[int]) -> None:
        self._drop(self._addressed(message), message, fds)

    def _addressed(self, message: Message) -> Child:
        if "key" not in message:
            raise BadPacketError(
                f"{message['t']!r} from a user's process without its key: whose is {message['name']!r}?"
            )
        return self.nursery.get(message["key"])

    def _kill_for(self, message: Message, _fds: list[int]) -> None:
        self.nursery.kill(message["key"], message.get("pid", 0), message["reason"])

    def _ticket_put(self, message: Message, fds: list[int]) -> str:
        self.nursery.get(message["key"])
        desk = self._open_desk()
        self._tickets.put(message["token"], message["key"], message["blob"], take(fds))
        return desk.address

    def _open_desk(self) -> ClaimDesk:
        if self._desk is None:
            self._desk = ClaimDesk(self._loop, self._tickets.claim, self._inspections.begin)
        return self._desk

    def _ticket_drop(self, message: Message, _fds: list[int]) -> None:
        self._tickets.drop(message["token"])

    def _on_gone(self, key: str) -> None:
        self._inproc.forget(key)
        self._tickets.forget(key)

    # --- The children

    def _child_handler(self, child: Child) -> Handler:
        def handle(message: Message, fds: list[int]) -> Any:
            call = self._child_calls.get(message["t"])
            if call is None or (call in (self._keep, self._drop) and "key" in message):
                raise BadPacketError(f"child {child.key!r} may not send {message['t']!r} for {message.get('key')!r}")
            return call(child, message, fds)

        return handle

    def _keep(self, child: Child, message: Message, fds: list[int]) -> None:
        child.store.keep(message["name"], message["blob"], take(fds))

    def _drop(self, child: Child, message: Message, _fds: list[int]) -> None:
        child.store.drop(message["name"])

    def _inproc_listen(self, child: Child, message: Message, _fds: list[int]) -> None:
        self._inproc.listen(message["name"], child.key)

    def _inproc_close(self, child: Child, message: Message, _fds: list[int]) -> None:
        self._inproc.close(message["name"], child.key)

    def _inproc_dial(self, child: Child, message: Message, _fds: list[int]) -> WithFds:
        name = message["name"]
        key = self._inproc.find(name)
        try:
            ours, theirs = (sock.detach() for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
        except OSError as error:
            raise ConnRefusedError(f"dial inproc://{name}: {error.strerror}") from error
        try:
            self.nursery.connect(key, name, theirs)
        except BaseException:
            close_fds([ours])
            raise
        finally:
            close_fds([theirs])
        return WithFds(None, [ours])

    def _crash(self, child: Child, message: Message, _fds: list[int]) -> None:
        self.nursery.crashed(child, message["reason"], message["traceback"])

    def _kill(self, child: Child, message: Message, _fds: list[int]) -> None:
        self.nursery.kill_client(child, message["key"], message["reason"])

    def _finished(self, child: Child, _message: Message, _fds: list[int]) -> None:
        if child.process is not None:
            child.process.finished = True

    def _seen(self, child: Child, message: Message, _fds: list[int]) -> None:
        self._inspections.seen(child, message["facts"])

    def _recycle(self, child: Child, _message: Message, _fds: list[int]) -> None:
        if child.process is not None:
            child.process.recycled = True

    def _settled(self, child: Child, _message: Message, _fds: list[int]) -> None:
        if child.process is not None:
            child.process.settled = True
