"""The thread that listens: one per process, for all control channels of all sockets, pools and supervisors.

    any thread                                  "spworkers-control"
    request ─▶ packet ─▶ job ───────────────▶  outbox ─▶ channel
       └─ waits (Ctrl-C ends it at once) ◀───  answer, error ◀─ channel
                                               on_message  ◀─ the rest

Everything is done by the thread; the others only leave jobs, and wait. So there is no lock that a thread could hold
while it waits: a signal's handler, which runs in the middle of whatever its thread was doing, may make requests like
anybody else. Sending never waits: what a channel has no room for stays in its outbox. Callbacks run on the thread and
must not wait, nor make requests: those would wait for their own thread (`request` raises there).

Races, and where they are closed:
* a channel is closed, and its number used again, while the thread still polls it: every event asks its own link, and a
  new link with the number of an old one ends that (`_listen`);
* a process that was replaced may have lost what was asked of it: on its `hello` everything unanswered is sent again, in
  order. Its predecessor may have done it already: requests have keys, so that twice is as good as once;
* who waits gives up, and closes its descriptors, before its request was sent: the packet has duplicates of its own;
* a job is left while the thread ends: whoever leaves it does it then (`run`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from spworkers.channel import Channel
from spworkers.errors import (
    ChannelClosedError,
    ClosedError,
    ConnTimeoutError,
    InternalError,
    ResourceError,
    SPError,
    from_name,
)
from spworkers.messages import DescriptorsLostError
from spworkers.packet import Packet, close_fds
from spworkers.supervisor.link import OUTBOX, Errand, Link, OnClosed, OnMessage, Pending, fail
from spworkers.supervisor.loop import ERROR, READ, WRITE, Loop

__all__ = ["Control", "OnClosed", "OnMessage"]

_BATCH: Final = 64  # messages of one channel before the others have their turn
_EXITING: Final = "spworkers is shut down: the interpreter exits"


class Control:
    """All channels of this process, and the thread that listens to them.

    Raises:
        ResourceError: there is no room for a thread.
    """

    def __init__(self) -> None:
        self._loop = Loop()
        self._links: dict[Channel, Link] = {}
        self._polled: dict[int, Link] = {}  # by descriptor; the thread's own
        self._ids = itertools.count(1)
        self._jobs: deque[Callable[[], object]] = deque()
        self._packets: weakref.WeakSet[Packet] = weakref.WeakSet()  # for a forked child, to close
        self._over = False
        self._busy = threading.RLock()  # held by the thread unless it waits for events: for who wants to fork
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._loop.watch(self._wake_read, self._on_wake)
        self._thread = threading.Thread(target=self._main, name="spworkers-control", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system has no room; or the interpreter exits
            close_fds([self._wake_read, self._wake_write])
            raise ResourceError(f"cannot start the thread of the control channels: {error}") from error

    # --- Channels

    def register(
        self, channel: Channel, on_message: OnMessage, on_closed: OnClosed | None = None, *, carry: bool = False
    ) -> None:
        """Listen to a channel; it stays the caller's, who unregisters it before closing it.

        Args:
            channel: to listen to.
            on_message: called on the control thread with each message that is no answer, and its descriptors, which are
                the callback's own from then on.
            on_closed: called on the control thread once when the other end is gone.
            carry: keep what is not answered then, for `transfer` or `abandon`; else it fails with ChannelClosedError.

        Raises:
            ClosedError: the interpreter is about to exit.
        """
        link = self._links[channel] = Link(channel, on_message, on_closed, carry=carry)
        self.run(lambda: self._listen(link))

    def unregister(self, channel: Channel) -> None:
        """Listen to it no more; requests on it fail with ClosedError. Not registered: nothing happens.

        A callback that runs on the control thread at this moment ends a little later.
        """
        self.abandon(channel, ClosedError("the channel was closed while a request on it was not answered yet"))

    def abandon(self, channel: Channel, error: SPError) -> None:
        """As `unregister`; requests on it fail with `error`."""
        link = self._links.pop(channel, None)
        if link is not None and not self._over:
            link.mute = True
            self.run(lambda: self._abandon(link, error))

    def transfer(self, old: Channel, new: Channel) -> None:
        """Send everything that is not answered on `old` again on `new`; `old` is unregistered.

        Args:
            old: registered with `carry`.
            new: registered too, or unregistered meanwhile: then the requests fail with ClosedError.
        """
        link = self._links.pop(old, None)
        if link is not None:
            link.mute = True
            self.run(lambda: self._transfer(link, new))

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        """Call `call()` on the control thread when a descriptor is readable, until `unwatch`."""
        self.run(lambda: self._loop.watch(fd, lambda _mask: call()))

    def unwatch(self, fd: int) -> None:
        """Stop that; at once on the control thread, soon on another."""
        if threading.get_ident() == self._thread.ident:
            self._loop.unwatch(fd)
        elif not self._over:
            self.run(lambda: self._loop.unwatch(fd))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call `call()` on the control thread when that time is over."""
        self.run(lambda: self._loop.after(seconds, call))

    def run(self, job: Callable[[], object]) -> None:
        """Call `job()` on the control thread, soon, and after the jobs that were left before.

        Raises:
            ClosedError: the interpreter is about to exit.
        """
        if self._over:
            raise ClosedError(_EXITING)
        self._jobs.append(job)
        if self._over:
            self._do_jobs()
        with contextlib.suppress(OSError):  # it is full: then the thread will wake anyway
            os.write(self._wake_write, b"\0")

    # --- Messages

    def ask(
        self,
        channel: Channel,
        message: Mapping[str, Any],
        fds: Sequence[int] = (),
        timeout: float | None = None,
        *,
        carried: bool = True,
    ) -> tuple[Any, Channel]:
        """Ask, and wait for the answer. A signal's exception (KeyboardInterrupt) ends the waiting at once.

        Args:
            channel: a registered one.
            message: without its id.
            fds: to send along; they stay the caller's.
            timeout: seconds to wait at most; None: for ever.
            carried: it may wait through the end of the channel, if that was registered with `carry`.

        Returns:
            The answer's value; and the channel by which it came: `transfer` may have led to another.

        Raises:
            The error that the other end answered.
            ChannelClosedError: the other end is gone.
            ClosedError: the channel is not registered (any more), or a descriptor is closed.
            ConnTimeoutError: no answer in time.
            ResourceError: too many messages wait for the other end already.
            InternalError: called on the control thread.
        """
        if threading.get_ident() == self._thread.ident:
            raise InternalError(
                f"request {message.get('t')!r} from a callback of the control thread, which would wait for itself;"
                " make it from another thread"
            )
        number = next(self._ids)
        pending = Pending(self._packet({**message, "id": number}, fds), carried=carried)
        try:
            self.run(lambda: self._ask(channel, number, pending))
            answered = pending.wait(timeout)
        except BaseException:
            self._give_up(number, pending)
            raise
        if not answered:
            self._give_up(number, pending)
            raise ConnTimeoutError(f"no answer to {message.get('t')!r} within {timeout} s from the other process")
        if pending.error is not None:
            raise pending.error
        assert pending.link is not None
        return pending.value, pending.link.channel

    def post(self, channel: Channel, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message that has no answer; it never waits. The descriptors stay the caller's.

        Raises:
            ClosedError: the channel is not registered, or a descriptor is closed.
            ChannelClosedError: the other end is known to be gone.
            ResourceError: OUTBOX messages wait for it already.
        """
        link = self._open_link(channel, message)
        packet = self._packet(message, fds)
        self.run(lambda: self._post(link, packet))

    def entrust(self, channel: Channel, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """As `post`, for what is to be done whoever reads it: a successor on this channel is told it again, until one
        has answered. That it could not be done is logged. It is over with the channel's end.
        """
        self._open_link(channel, message)
        number = next(self._ids)
        errand = Errand(self._packet({**message, "id": number}, fds), carried=False)
        self.run(lambda: self._ask(channel, number, errand))

    def _open_link(self, channel: Channel, message: Mapping[str, Any]) -> Link:
        """Where a message that nobody waits for may be left; else raise."""
        link = self._links.get(channel)
        if link is None or self._over:
            raise ClosedError(_EXITING if self._over else "the control channel is not in use any more")
        if link.closed:
            raise ChannelClosedError(f"{message.get('t')!r} not sent: the control channel's other end is gone")
        if link.outbox.waiting + len(self._jobs) >= OUTBOX:
            raise ResourceError(f"{message.get('t')!r} not sent: {OUTBOX} messages wait, their receiver does not read")
        return link

    def _packet(self, message: Mapping[str, Any], fds: Sequence[int]) -> Packet:
        """A packet that owns duplicates of its descriptors."""
        packet = Packet(message, fds)
        try:
            packet.adopt()
        except BaseException:
            packet.close()
            raise
        self._packets.add(packet)
        return packet

    def _give_up(self, number: int, pending: Pending) -> None:
        try:
            self.run(lambda: self._withdraw(number, pending))
        except ClosedError:  # then nobody is there who would send it
            pending.packet.close_all()

    # --- On the thread: jobs

    def _listen(self, link: Link) -> None:
        former = self._polled.get(link.fd)
        if former is not None and former is not link:  # closed by its owner: only so can we have its number
            self._on_end(former, ChannelClosedError("the control channel was closed"))
        if link.mute or link.channel.fileno() != link.fd:
            return
        self._polled[link.fd] = link
        self._loop.watch(link.fd, lambda mask: self._on_event(link, mask), READ)

    def _abandon(self, link: Link, error: SPError) -> None:
        self._close_link(link)
        pending, link.pending = link.pending, {}
        fail(pending, error)

    def _transfer(self, link: Link, new: Channel) -> None:
        self._close_link(link)
        pending, link.pending = link.pending, {}
        target = self._links.get(new)
        if target is None:
            fail(pending, ClosedError("the control channel is not in use any more"))
            return
        target.pending = {**pending, **target.pending}
        for each in pending.values():
            each.link = target
            self._send(target, each.packet)

    def _ask(self, channel: Channel, number: int, pending: Pending) -> None:
        link = self._links.get(channel)
        if link is None:
            pending.complete(None, ClosedError("the control channel is not in use any more"))
            return
        patient = link.carry and pending.carried
        if link.closed and not patient:
            pending.complete(None, ChannelClosedError("the control channel's other end is gone"))
            return
        link.pending[number] = pending
        pending.link = link
        if link.closed:
            return
        try:
            self._put(link, pending.packet)
        except SPError as error:
            if not (patient and isinstance(error, ChannelClosedError)):
                del link.pending[number]
                pending.complete(None, error)

    def _withdraw(self, number: int, pending: Pending) -> None:
        if pending.link is not None:
            pending.link.pending.pop(number, None)
        pending.packet.close_all()

    def _post(self, link: Link, packet: Packet) -> None:
        self._send(link, packet)
        packet.close_all()

    def _put(self, link: Link, packet: Packet) -> None:
        link.outbox.put_packet(packet)
        if link.outbox.waiting:
            self._loop.change(link.fd, READ | WRITE)

    def _send(self, link: Link, packet: Packet) -> None:
        """As `_put`, where there is nobody to tell: a dead end is seen when it is read."""
        try:
            if not link.closed:
                self._put(link, packet)
        except (ChannelClosedError, ClosedError):
            return
        except SPError as error:
            _log(error)

    # --- On the thread: events

    def _main(self) -> None:
        # Signals are for the main thread: one that came here would not interrupt what it waits for.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not self._over:
            events = self._loop.wait()
            with self._busy:
                try:
                    self._loop.serve(events)
                except Exception as error:  # a bug, or a callback's: the other channels still have to be served
                    _log(error)

    def _on_wake(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass
        self._do_jobs()

    def _do_jobs(self) -> None:
        while self._jobs:
            with contextlib.suppress(IndexError):  # at the end, several threads may do this
                job = self._jobs.popleft()
                try:
                    job()
                except Exception as error:
                    _log(error)

    def _on_event(self, link: Link, mask: int) -> None:
        if link.closed:
            return
        if mask & WRITE:
            self._flush(link)
        if mask & (READ | ERROR):
            for _ in range(_BATCH):
                if link.closed or not self._receive(link):
                    return

    def _flush(self, link: Link) -> None:
        with contextlib.suppress(ChannelClosedError, ClosedError, ResourceError):
            if link.outbox.flush():
                self._loop.change(link.fd, READ)

    def _receive(self, link: Link) -> bool:
        """Handle one message; False: there was none."""
        try:
            received = link.channel.recv_ready()
        except DescriptorsLostError as error:
            _log(error)
            self._complete(link, error.answered_id, None, error)
            return True
        except SPError as error:  # the end; or garbage, after which nothing it says is worth anything
            self._on_end(link, error)
            return False
        if received is None:
            return False
        message, fds = received
        if message["t"] == "answer":
            close_fds(fds)
            self._complete(link, message["id"], message["value"])
        elif message["t"] == "error":
            self._complete(link, message["id"], None, from_name(message["name"], message["args"]))
        elif link.mute:
            close_fds(fds)
        else:
            if message["t"] == "hello" and message["generation"] > 1:
                for pending in link.pending.values():
                    self._send(link, pending.packet)
            link.on_message(message, fds)
        return True

    def _complete(self, link: Link, number: int | None, value: Any, error: SPError | None = None) -> None:
        pending = link.pending.pop(number, None) if number is not None else None
        if pending is not None:
            pending.complete(value, error)

    def _on_end(self, link: Link, error: SPError) -> None:
        if not isinstance(error, (ChannelClosedError, ClosedError)):
            _log(error)
        if link.closed:
            return
        self._close_link(link)
        kept = {number: each for number, each in link.pending.items() if link.carry and each.carried}
        failed = {number: each for number, each in link.pending.items() if number not in kept}
        link.pending = kept
        if not link.carry and self._links.get(link.channel) is link:
            del self._links[link.channel]
        fail(failed, error)
        if link.on_closed is not None and not link.mute:
            link.on_closed()

    def _close_link(self, link: Link) -> None:
        if not link.closed:
            link.closed = True
            link.outbox.close()
        if self._polled.get(link.fd) is link:
            del self._polled[link.fd]
            self._loop.unwatch(link.fd)

    # --- The end, and forks

    def stop(self, timeout: float = 1.0) -> None:
        """End the thread; every request fails. For the interpreter's exit.

        Args:
            timeout: seconds to wait for the thread.
        """
        self._over = True
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"\0")
        if threading.get_ident() != self._thread.ident:
            self._thread.join(timeout)
        self._do_jobs()
        while self._links:
            _, link = self._links.popitem()
            pending, link.pending = link.pending, {}
            fail(pending, ClosedError(_EXITING))

    def before_fork(self) -> None:
        """Wait until the thread is in the middle of nothing, and keep it there."""
        self._busy.acquire()

    def after_fork(self) -> None:
        """In the parent: let it go on."""
        self._busy.release()

    def close_in_child(self) -> None:
        """In a forked child: close the copies of the parent's descriptors. Nothing of this is used there any more."""
        self._over = True
        for link in self._links.values():
            link.outbox.close()
            link.channel.close_in_child()
        for packet in list(self._packets):
            packet.close_all()
        close_fds([self._wake_read, self._wake_write])

    def __repr__(self) -> str:
        links = list(self._links.values())
        return f"<Control: {len(links)} channels, {sum(len(link.pending) for link in links)} requests>"


def _log(error: Exception) -> None:
    import logging  # slow to import, and hardly ever needed

    logging.getLogger("spworkers.supervisor").error("control channel: %s", error, exc_info=error)
