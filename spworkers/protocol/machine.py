"""What a protocol machine is, and what it talks to.

A machine holds the state of one socket's protocol. It does no I/O, reads no clock and starts nothing: its driver (the
I/O process's hub; in tests `spworkers.testing.Harness`) tells it what happened, by calling the methods of `Machine`,
and it answers, from inside these calls, by calling the methods of `Actions`. Pipes and contexts are numbers.

```
   pipe_message ──▶ ┌─────────┐ ──▶ deliver, fail       to a context's receive lane
   context_message ▶│ Machine │ ──▶ transmit            to a pipe
   timer_due ─────▶ └─────────┘ ──▶ count, close_pipe, resume, set_window ...
```

Rules of the game, for drivers and machines alike:

* Events come one at a time. From inside an action the driver may call `pipe_congested` (from `transmit`),
  `pipe_removed` (from `transmit` and `close_pipe`) and `pipe_message` (from `resume`); nothing else. A machine has its
  state in order before it calls an action.
* A message from a context stays unclaimed, where its sender can take it back, until a ready pipe takes it. `claim()`
  makes the machine its one user; the last `release()` frees it. What was not claimed is not released.
* A machine transmits only to pipes that are attached and not congested.
* Nothing is dropped without `count`.

These modules run interpreted, and compiled by mypyc as they stand.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from spworkers._compiling import mypyc_attr

__all__ = [
    "CANCEL",
    "CAUSES",
    "DATA",
    "DONE",
    "ERROR",
    "LEAVE",
    "MORE",
    "NEVER",
    "Actions",
    "Machine",
    "Obituary",
    "Outgoing",
]

DATA: Final = 0
"""Kind of an ordinary message."""
CANCEL: Final = 1
"""Kind of a message from a context that gives up the request with this serial. Its body, if it has one, is sent to the
peer that has the request."""
ERROR: Final = 2
"""Kind of a message to a context: what it waited for with this serial failed; the body names the error."""
MORE: Final = 3
"""Kind of a worker's answer that more answers will follow, as soon as they are asked for. For dispatchers only."""
LEAVE: Final = 4
"""Kind of a message from a worker that takes no more requests. For dispatchers only."""

DONE: Final = 5
"""Kind of a worker's message that it has run a request, which has no answer. For dispatchers only."""

NEVER: Final = float("inf")
"""The deadline of a machine that has nothing to wait for."""

# The causes of `Actions.count`. Names are for programs (statistics, metrics), the sentences of CAUSES for people.
BAD_HEADER: Final = "bad_header"
BUSY: Final = "busy"
CANCELED: Final = "canceled"
CONGESTED: Final = "congested"
DIED: Final = "died"
DISPLACED: Final = "displaced"
DUPLICATE: Final = "duplicate"
EXPIRED: Final = "expired"
GARBLED: Final = "garbled"
LATE: Final = "late"
NO_PEERS: Final = "no_peers"
NO_PIPE: Final = "no_pipe"
PIPE_LOST: Final = "pipe_lost"
QUARANTINED: Final = "quarantined"
STALLED: Final = "stalled"
STREAM_LOST: Final = "lost"
SUPERSEDED: Final = "superseded"
TIMEOUT: Final = "timeout"
TTL: Final = "ttl"
UNEXPECTED: Final = "unexpected"
UNKNOWN_REPLY: Final = "unknown_reply"
UNSUBSCRIBED: Final = "unsubscribed"
UNWANTED: Final = "unwanted"

CAUSES: Final = {
    BAD_HEADER: "a message to send had a header that its protocol cannot route",
    BUSY: "a request found the backlog full, or its server draining, and was turned away",
    CANCELED: "a request or a reply was replaced or given up before it was sent, or before it was taken",
    CONGESTED: "a message found its pipe full, and could not or was not to wait",
    DIED: "a request's workers died, more often than it may be tried again",
    DISPLACED: "a message that nobody had taken made room for a newer one",
    DUPLICATE: "a request came again while it was in progress, and joined that",
    EXPIRED: "a request was not answered before its asker stopped waiting, and was given up here too",
    GARBLED: "a message from a peer did not follow its protocol",
    LATE: "an answer came for a request that nobody waits for any more",
    NO_PEERS: "a message for every peer found none",
    NO_PIPE: "a message to send was for a pipe that is gone",
    PIPE_LOST: "a message waited for or from a pipe that went",
    QUARANTINED: "a request that had killed several workers in a row was turned away",
    STALLED: "a peer read none of its answers while there was no room for those of others, and was disconnected",
    STREAM_LOST: "a request asked for more of a stream that is not, or no longer, here",
    SUPERSEDED: "a request took the place of another one of the same peer and id",
    TIMEOUT: "a request ran longer than its time, more often than it may be tried again",
    TTL: "a message from a peer had passed more devices than TTL allows",
    UNEXPECTED: "a message came where its protocol has none, or by a pipe that is gone",
    UNKNOWN_REPLY: "a reply's id belongs to no request that is outstanding",
    UNSUBSCRIBED: "a message that nobody had taken was of a topic that was given up",
    UNWANTED: "a message was of no topic that is subscribed to",
}
"""Every cause for which a machine drops something, and what it means."""


_NOBODY: Final[list[int]] = []


class Outgoing(Protocol):
    """A message that a context gave to the machine; in real life a record in shared memory."""

    @property
    def kind(self) -> int:
        """`DATA` or `CANCEL`."""

    @property
    def serial(self) -> int:
        """The context's number for the request that this is, answers or gives up; 0 where there is none."""

    @property
    def pipe(self) -> int:
        """The pipe that its sender wants; 0: any."""

    @property
    def header(self) -> bytes:
        """The first part of the payload."""

    @property
    def size(self) -> int:
        """Bytes of the body, the second part."""

    @property
    def begun(self) -> bool:
        """A predecessor of this I/O process had claimed it, and died before it was done with it."""

    def beginning(self, most: int) -> bytes:
        """A copy of the body's first bytes."""

    def payload_bytes(self) -> bytes:
        """A copy of header and body."""

    def claim(self) -> bool:
        """Take it for good. False: its sender took it back, it does not exist any more and is not to be released."""

    def retain(self) -> None:
        """One more user."""

    def release(self) -> None:
        """One user fewer; the last one frees it."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Actions:
    """What a machine may do. A driver inherits this: so compiled machines call a compiled driver directly."""

    def transmit(self, pipe: int, prefix: bytes, message: Outgoing, skip: int) -> None:
        """Send `prefix` and the message's payload without its first `skip` bytes; retain it until the kernel has it."""
        raise NotImplementedError

    def transmit_bytes(self, pipe: int, payload: bytes) -> None:
        """Send a message that the machine itself made."""
        raise NotImplementedError

    def deliver(self, context: int, pipe: int, payload: bytes, header_length: int, serial: int, prefix: bytes) -> int:
        """Put a message into a context's receive lane; header: `prefix` and the payload's first `header_length` bytes.

        Returns:
            A ticket; 0: there is neither room nor demand. When that changes the driver tells so by `context_wants`.
        """
        raise NotImplementedError

    def revoke(self, context: int, ticket: int) -> bool:
        """Take a delivery back. False: the user has it. A demand that it was delivered against counts again."""
        raise NotImplementedError

    def waits(self, context: int, ticket: int) -> bool:
        """Whether the user has not taken a delivery yet; he may do so any moment."""
        raise NotImplementedError

    def displace(self, context: int) -> bool:
        """Take back the oldest delivery that the user has not taken. False: there is none."""
        raise NotImplementedError

    def untaken(self, context: int, most: int) -> list[tuple[int, bytes]]:
        """The deliveries that the user has not taken, oldest first: tickets, and the first `most` bytes of payloads."""
        raise NotImplementedError

    def fail(self, context: int, serial: int, error: str) -> None:
        """Let the receiver (or sender) that waits for `serial` raise this error class. It passes over windows.

        Where the request was not sent yet this comes before its message is claimed, so that its sender, when it finds
        the message taken, can find the error too.
        """
        raise NotImplementedError

    def resume(self, pipe: int) -> None:
        """Offer the message that was refused again, at once or later, and go on reading from this pipe."""
        raise NotImplementedError

    def close_pipe(self, pipe: int, cause: str) -> None:
        """Disconnect this peer; `pipe_removed` follows."""
        raise NotImplementedError

    def taken(self, pipe: int) -> int:
        """What a pipe has taken so far, in bytes, say: it grows with whatever leaves. For `Stalls` only."""
        raise NotImplementedError

    def starved(self, context: int) -> bool:
        """Whether who owns this context, a worker or a device, waits for room for what it sends. For `Stalls` only."""
        raise NotImplementedError

    def count(self, cause: str, pipe: int = 0, n: int = 1) -> None:
        """`n` messages were dropped for this cause, one of `CAUSES`; `pipe` 0: none in particular."""
        raise NotImplementedError

    def set_ready(self, n: int) -> None:
        """So many pipes take a message at once; 0: senders must wait until their message is taken."""
        raise NotImplementedError

    def set_window(self, context: int, n: int) -> None:
        """A context's receive lane takes `n` messages that nobody waits for; 0: only messages that are waited for."""
        raise NotImplementedError

    def report(self, cause: str, handler: str, call: bytes, seconds: float, text: str) -> None:
        """Tell people of a request that no worker has answered. For dispatchers only.

        Args:
            cause: as for `count`.
            handler: whose it was; empty: not known.
            call: its id; empty: it has none.
            seconds: how long it was here.
            text: more, for a person; empty: there is no more to say.
        """

    def cancel(self, context: int, serial: int) -> None:
        """Tell the worker that owns this context to stop what it does for this request. For dispatchers only.

        It answers with a message for that serial, of any kind; or, should it not listen, with nothing.
        """
        raise NotImplementedError

    def kill(self, context: int, reason: str) -> None:
        """Kill the worker that owns this context; `context_closed` follows when it is dead. For dispatchers only."""
        raise NotImplementedError


class Obituary:
    """How the owner of a context died.

    Args:
        reason: in words, `killed by SIGKILL` say; empty: it did not die, or nobody knows.
        pid: of its process.
        status: its exit code; minus the signal's number if a signal killed it; None: nobody knows.
        ended: it was told to end, and killed if it did not in time: that is no request's fault.
    """

    def __init__(self, reason: str = "", pid: int = 0, status: int | None = None, ended: bool = False) -> None:
        self.reason: Final = reason
        self.pid: Final = pid
        self.status: Final = status
        self.ended: Final = ended


class Machine:
    """The base of all machines. Events that mean nothing to a protocol do nothing, but no message vanishes uncounted.

    Args:
        out: the driver's actions.

    `now` is the time of the event, in seconds of any clock that never goes back; the driver sets it before every event.
    `deadline` is when `timer_due` is to be called. It may be early, never late: a machine that is called early does
    nothing. `obituary` is of the owner of the context that is closed, if it died.
    """

    out: Actions
    now: float
    deadline: float

    def __init__(self, out: Actions) -> None:
        self.out = out
        self.now = 0.0
        self.deadline = NEVER
        self.obituary = Obituary()

    def pipe_added(self, pipe: int) -> bool:
        """A peer has connected; it takes messages. False: this protocol wants no more peers, disconnect it."""
        return True

    def pipe_removed(self, pipe: int) -> None:
        """A peer is gone, and its number will not come again soon."""

    def pipe_hung_up(self, pipe: int) -> None:
        """Its peer is gone; messages that it had sent are still to come, then `pipe_removed`.

        What is sent to it until then is lost: what others can have does not go there.
        """
        self.pipe_congested(pipe)

    def pipe_congested(self, pipe: int) -> None:
        """The pipe takes no more messages for the time being."""

    def pipe_ready(self, pipe: int) -> None:
        """The pipe takes messages again."""

    def pipe_message(self, pipe: int, payload: bytes) -> bool:
        """A message has come. False: not now; the driver keeps it and stops reading from this pipe until `resume`."""
        self.out.count(UNEXPECTED, pipe)
        return True

    def context_opened(self, context: int) -> None:
        """A context exists; 0 is the socket's own, a raw socket's only one. Its options are set before it sends."""

    def context_closed(self, context: int) -> None:
        """A context is gone, but its lanes are not yet.

        All that it had sent was told before; what of that still waits to be sent remains valid. Deliveries that it did
        not take can be revoked during this call.
        """

    def context_message(self, context: int, message: Outgoing) -> None:
        """A context sends a message, which is not claimed yet."""
        self.discard(message, UNEXPECTED, 0)

    def everything_to(self, context: int) -> int:
        """The pipe to which whatever this context sends goes now, as it stands behind `prefix()`; 0: it depends.

        While it says so, and until the next event, the driver may claim, transmit and release the context's messages
        itself, in their order, instead of telling of each: there is nothing to decide.
        """
        return 0

    def copies_to(self, context: int) -> list[int]:
        """The pipes each of which gets a copy, now, of whatever this context sends, as it stands behind `prefix()`.

        No pipes: it depends. While it says so the driver may claim, copy, release and transmit the context's messages
        itself, as with `everything_to`. When something has changed it is another list; nobody else changes it.
        """
        return _NOBODY

    def prefix(self) -> bytes:
        """What the messages of `everything_to` and `copies_to` have before them on the wire."""
        return b""

    def takes_all(self, pipe: int) -> bool:
        """Whether whatever comes from this pipe goes to context 0 now, as it stands, as long as there is room.

        While it says so, the driver may deliver messages itself, in their order, up to the first that finds no room;
        it tells of that one.
        """
        return False

    def sole_subscriber(self) -> int:
        """The one context to which whatever comes goes now, if it begins with one of its `topics`; -1: it depends.

        While it says so, the driver may deliver messages itself, in their order: one that finds no room displaces the
        oldest ones; where there are none, it is dropped, as CONGESTED. Those of no topic are dropped, as UNWANTED.
        """
        return -1

    def topics(self) -> dict[int, set[bytes]]:
        """What `sole_subscriber` wants, by length; the driver does not change it."""
        raise NotImplementedError

    def context_wants(self, context: int) -> None:
        """There may be room or demand in this context's receive lane; too often does no harm."""

    def undelivered(self) -> list[tuple[int, bytes]]:
        """Pipe and payload of what it took from pipes and gave to no context: for a machine that takes its place."""
        return []

    def hand_over(self) -> None:
        """Another machine takes its place: transmit what it keeps for congested pipes, which the driver queues."""

    def in_device(self, yes: bool) -> None:
        """The socket is part of a device, which sends by context 0 from now on; or not any more."""

    def one_queue(self) -> bool:
        """Whether all that is sent waits in one queue for whichever pipe is ready. What a pipe has got is not in it."""
        return False

    def sole_route(self) -> int:
        """The pipe to which whatever its contexts ask goes now, and from which the answers come; 0: it depends.

        While it says so, and until the next event, the driver may send requests itself, under ids of its own
        (`numbers`), and deliver their replies; before the next event it tells of those that were not answered yet
        (`adopt`).
        """
        return 0

    def many_requests(self) -> bool:
        """Context 0 has many requests at a time, each known by its serial; another context has one."""
        return False

    def patience(self) -> float:
        """For so many seconds, from when they were sent, the driver may keep requests of its own from the machine."""
        return 0.0

    def numbers(self, count: int) -> int:
        """Give away request ids: so many, from behind the one that is returned."""
        raise NotImplementedError

    def adopt(self, context: int, message: Outgoing, key: bytes, pipe: int, sent: float) -> None:
        """The driver has claimed and sent this request, which is the machine's from now on; it only takes note.

        Args:
            context: that asks.
            message: the request.
            key: its id, as it is on the wire.
            pipe: that has it.
            sent: when.
        """
        raise NotImplementedError

    def held(self) -> int:
        """How many messages it took from contexts and keeps for pipes that do not take them yet; LINGER is for them."""
        return 0

    def configure(self, context: int | None, name: str, value: Any) -> None:
        """An option has this canonical value now. Context None: the socket's, and of contexts without their own."""

    def timer_due(self) -> None:
        """`now` has reached `deadline`."""

    def discard(self, message: Outgoing, cause: str, pipe: int) -> None:
        """Drop a message that was not claimed yet, and count it unless its sender had taken it back."""
        if message.claim():
            self.out.count(cause, pipe)
            message.release()
