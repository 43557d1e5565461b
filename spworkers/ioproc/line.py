"""A control channel on the loop: messages in by callback, messages out without ever waiting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spworkers.channel import Channel, close_fds
from spworkers.errors import ChannelClosedError, ClosedError, ResourceError
from spworkers.messages import BadPacketError, DescriptorsLostError, refusal
from spworkers.outbox import OUTBOX_LIMIT, Outbox

log = logging.getLogger(__name__)

REMEMBERED = 8192
"""Requests whose numbers are known: more than can wait in a channel and its outbox."""

Receive = Callable[[dict[str, Any], list[int]], None]


class Line:
    """One channel.

    Args:
        receive: gets every message and its descriptors, which are its own from then on.
        ended: called once when the other end is gone.
        limit: messages that may wait for it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: Channel,
        receive: Receive,
        ended: Callable[[], None],
        limit: int = OUTBOX_LIMIT,
    ) -> None:
        self.loop = loop
        self.channel = channel
        self.receive = receive
        self.ended = ended
        self.outbox = Outbox(channel, limit=limit)
        self.fd = channel.fileno()
        self.closed = False
        self.writing = False
        self._asked: set[int] = set()
        loop.add_reader(self.fd, self._readable)

    def asked_before(self, number: int) -> bool:
        """Whether a request of this number has come already.

        Those that nobody had read yet when our predecessor died are still in the channel, and after our `hello` they
        are sent again.
        """
        if number in self._asked:
            return True
        self._asked.add(number)
        if len(self._asked) > REMEMBERED:
            self._asked = set(sorted(self._asked)[REMEMBERED // 2 :])
        return False

    def say(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message as soon as there is room; lost, with a log entry, when the other end does not read."""
        if self.closed:
            return
        try:
            self.outbox.put(message, fds)
        except (ChannelClosedError, ClosedError):
            self.close()
        except ResourceError as error:
            log.warning("%s", error)
        else:
            self._write_later()

    def notify(self, message: Mapping[str, Any]) -> bool:
        """Send news that may be lost: dropped and counted when too much of it waits. False: the channel is closed."""
        if self.closed:
            return False
        try:
            self.outbox.notify(message)
        except (ChannelClosedError, ClosedError):
            self.close()
            return False
        self._write_later()
        return True

    def close(self) -> None:
        """Close this end; `ended` is called."""
        if self.closed:
            return
        self.closed = True
        self.loop.remove_reader(self.fd)
        if self.writing:
            self.loop.remove_writer(self.fd)
        self.outbox.close()
        self.channel.close()
        self.ended()

    def _write_later(self) -> None:
        waits = self.outbox.waiting > 0
        if waits and not self.writing:
            self.loop.add_writer(self.fd, self._writable)
        elif self.writing and not waits:
            self.loop.remove_writer(self.fd)
        self.writing = waits

    def _writable(self) -> None:
        try:
            self.outbox.flush()
        except (ChannelClosedError, ClosedError):
            self.close()
            return
        self._write_later()

    def _readable(self) -> None:
        while not self.closed:
            try:
                received = self.channel.recv_ready()
            except (BadPacketError, DescriptorsLostError) as error:
                log.warning("%s", error)
                answer = refusal(error)
                if answer is not None:
                    self.say(answer)
                continue
            except (ChannelClosedError, ClosedError):
                self.close()
                return
            if received is None:
                return
            message, fds = received
            try:
                self.receive(message, fds)
            except Exception:
                close_fds(fds)
                log.exception("control message %r failed", message.get("t"))
