"""A channel in the supervisor's poll loop: what comes is dispatched and answered, what goes never makes the loop
wait."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from spworkers.channel import Channel
from spworkers.errors import ChannelClosedError, ResourceError, SerializationError, SPError
from spworkers.messages import BadPacketError, DescriptorsLostError, Message, answer, failure, refusal
from spworkers.outbox import Outbox
from spworkers.packet import close_fds
from spworkers.supervisor.loop import ERROR, READ, WRITE, Loop

__all__ = ["LATER", "Handler", "Peer", "WithFds", "take"]

Handler = Callable[[Message, list[int]], Any]
"""Handles one message; what it returns is the answer's value, if the message was a request. It takes (see `take`) the
descriptors that it wants to keep out of the list; the others are closed."""
LATER: Final = object()
"""Returned by a handler that will answer by itself."""
_BATCH = 64  # messages of one channel before the others have their turn


class WithFds:
    """A handler's answer that carries descriptors, which are closed once they were sent."""

    __slots__ = ("fds", "value")

    def __init__(self, value: Any, fds: Sequence[int]) -> None:
        self.value = value
        self.fds = list(fds)


def take(fds: list[int]) -> list[int]:
    """The descriptors in the list, which is empty afterwards: their ownership goes to the caller."""
    taken = fds[:]
    fds.clear()
    return taken


class Peer:
    """One channel, its outbox and its handlers.

    Args:
        loop: that waits for it.
        channel: belongs to the peer from now on.
        handle: gets every message; an `SPError` that it raises is the answer.
        lost: called once with what is wrong when no more messages come: `ChannelClosedError` (the other end is gone),
            `GarbledError` (it said what it must not say), `ResourceError` (it does not read what it is told).
        limit: messages that may wait for it.
    """

    def __init__(
        self, loop: Loop, channel: Channel, *, handle: Handler, lost: Callable[[SPError], None], limit: int
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._handle = handle
        self._lost = lost
        self._outbox = Outbox(channel, limit=limit)
        self._open = True
        self._deaf = False  # the other end reads no more, but what it sent before is still to be received
        self._fd = channel.fileno()
        loop.watch(self._fd, self._on_event)

    def put(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message; it is not lost while the peer lives and reads."""
        self._send(lambda: self._outbox.put(message, fds))

    def notify(self, message: Mapping[str, Any]) -> None:
        """Send news that may be lost (and is then counted) if the peer does not read."""
        self._send(lambda: self._outbox.notify(message))

    def _send(self, send: Callable[[], object]) -> None:
        if not self._open or self._deaf:
            return
        try:
            send()
        except ChannelClosedError:
            self._deafen()
        except ResourceError as error:
            self._end(error)
            return
        if self._outbox.waiting:
            self._loop.change(self._fd, READ | WRITE)

    def receive(self) -> None:
        """Handle what is there."""
        for _ in range(_BATCH):
            if not self._open or not self._receive_one():
                return

    def drain(self) -> None:
        """Handle everything that is there, as the other end is dead and sends no more."""
        while self._open and self._receive_one():
            pass

    def close(self) -> None:
        """Forget what waits, and close the channel. Twice does no harm."""
        if self._open:
            self._open = False
            self._loop.unwatch(self._fd)
            self._outbox.close()
            self._channel.close()

    def _on_event(self, mask: int) -> None:
        if mask & WRITE:
            self._flush()
        if mask & (READ | ERROR):
            self.receive()

    def _flush(self) -> None:
        try:
            if not self._outbox.flush():
                return
        except ChannelClosedError:
            self._deafen()
        except ResourceError as error:
            self._end(error)
            return
        self._loop.change(self._fd, READ)
        if self._outbox.dropped:
            count, self._outbox.dropped = self._outbox.dropped, 0
            self.notify({"t": "notices_lost", "count": count})

    def _deafen(self) -> None:
        self._deaf = True
        self._outbox.close()

    def _receive_one(self) -> bool:
        """Whether there was one."""
        try:
            received = self._channel.recv_ready()
        except DescriptorsLostError as error:
            if not self._refuse(error):
                print(f"spworkers: supervisor: {error}", file=sys.stderr)
            return True
        except BadPacketError as error:
            self._refuse(error)
            self._end(error)
            return False
        except SPError as error:
            self._end(error)
            return False
        if received is None:
            return False
        message, fds = received
        try:
            self._dispatch(message, fds)
        finally:
            close_fds(fds)
        return True

    def _dispatch(self, message: Message, fds: list[int]) -> None:
        id: int | None = message.get("id")
        try:
            value = self._handle(message, fds)
        except SPError as error:
            if id is not None:
                self.put(failure(id, error))
            else:
                print(f"spworkers: supervisor could not {message['t']}: {error}", file=sys.stderr)
        except Exception as error:  # a bug of ours: this one request fails, the children live on
            traceback.print_exc()
            if id is not None:
                self.put(failure(id, error))
        else:
            if id is not None and value is not LATER:
                self.reply(id, value)

    def reply(self, id: int, value: Any) -> None:
        """Answer request `id`."""
        fds: list[int] = []
        if isinstance(value, WithFds):
            value, fds = value.value, value.fds
        try:
            self.put(answer(id, value), fds)
        except SerializationError as error:
            self.put(failure(id, error))
        finally:
            close_fds(fds)

    def _refuse(self, error: SPError) -> bool:
        """Whether there was somebody to tell."""
        message = refusal(error)
        if message is not None:
            self.put(message)
        return message is not None

    def _end(self, error: SPError) -> None:
        if self._open:
            self.close()
            self._lost(error)
