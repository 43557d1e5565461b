"""Raw REQ: requests go out with the header that the program gave them, replies come in with theirs.

    send   header = [pipe id of a device's other side ...] ‖ 1|request id, at least one word; shorter: dropped
    wire   header ‖ body
    recv   header = the first word; a message without one is dropped

Requests wait in one queue, unclaimed, and each goes to the next ready pipe.

Two are not for just any server, in a device that has several: who gives up a call of the call format, and who asks for
the next part of a stream, means the server that has the call. So a device remembers by which pipe a call went until its
answer has come, and sends these there; of a call that went to several, as it was repeated, to whose first part came
first. When that server is gone, another one gets the request for the next part: it answers that it has no such stream.
It needs to understand no more of the format than a dispatcher does.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from spworkers import callhead
from spworkers.protocol.backtrace import backtrace_length
from spworkers.protocol.machine import BAD_HEADER, GARBLED, Actions, Outgoing
from spworkers.protocol.peers import Peer
from spworkers.protocol.queued import Queued

__all__ = ["XReq"]

# Calls whose pipes a device remembers; of more the oldest are forgotten.
_REMEMBERED: Final = 65536

# Words of a reply's header that it has to find the end of. TTL has no say about replies.
_WORDS: Final = 256


class _Call:
    """A call that has gone to a server."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe  # the last one that it went by; of a stream the one that its first part came from
        self.is_stream = False
        self.asked = b""  # the request for the next part, while that has no answer, as it is on the wire


class XReq(Queued):
    """The machine of a raw REQ socket."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out)
        self._device = False
        self._calls: dict[bytes, _Call] = {}  # by their ids
        self._orphans: deque[bytes] = deque()  # such requests whose servers are gone
        self._held: dict[int, deque[Outgoing]] = {}  # what waits for a certain pipe, by it; unclaimed

    def in_device(self, yes: bool) -> None:
        self._device = yes
        if not yes:
            self._calls.clear()

    def everything_to(self, context: int) -> int:
        return 0  # a header may be wrong

    def context_message(self, context: int, message: Outgoing) -> None:
        if len(message.header) < 4:
            self.discard(message, BAD_HEADER, 0)
            return
        peer = self._server_of(message) if len(self._calls) > 0 else None
        if peer is None:
            super().context_message(context, message)
        elif peer.congested or peer.id in self._held:
            if peer.id not in self._held:
                self._held[peer.id] = deque()
            self._held[peer.id].append(message)
        elif message.claim():
            self._send(peer, message)

    def _server_of(self, message: Outgoing) -> Peer | None:
        """Who has the call that this message is about; None: it is about none, or nobody knows."""
        if message.size not in (callhead.ANSWER_HEAD, callhead.NEXT_HEAD):
            return None
        # Its sender may take it back in this moment: then what we read is worth nothing, and so is the answer.
        head = message.beginning(callhead.NEXT_HEAD)
        if callhead.kind_at(head, 0) not in (callhead.NEXT, callhead.CANCEL):
            return None
        call = self._calls.get(callhead.id_at(head, 0))
        return None if call is None else self.peers.get(call.pipe)

    def _send(self, peer: Peer, message: Outgoing) -> None:
        if self._device:
            head = message.beginning(callhead.NEXT_HEAD + 1)  # what is longer is none
            kind = callhead.kind_at(head, 0)
            if kind == callhead.CALL:
                self._remember(callhead.id_at(head, 0), peer.id)
            elif kind == callhead.NEXT:
                call = self._calls.get(callhead.id_at(head, 0))
                if call is not None:  # a copy: what is kept in the lane takes the places of others
                    call.asked = message.payload_bytes()
        if peer.home is None:  # it was sent to this one, whoever's turn it is
            self.out.transmit(peer.id, self._prefix, message, 0)
            message.release()
        else:
            super()._send(peer, message)

    def _remember(self, id_: bytes, pipe: int) -> None:
        call = self._calls.get(id_)
        if call is None:
            if len(self._calls) >= _REMEMBERED:
                for oldest in self._calls:
                    del self._calls[oldest]
                    break
            self._calls[id_] = _Call(pipe)
        elif not call.is_stream:
            call.pipe = pipe

    def peer_ready(self, peer: Peer) -> None:
        held = self._held.get(peer.id)
        while held is not None and len(held) > 0 and not peer.congested:
            message = held.popleft()
            if message.claim():
                self._send(peer, message)
        if not peer.congested:
            self._held.pop(peer.id, None)
            super().peer_ready(peer)

    def peer_lost(self, peer: Peer) -> None:
        super().peer_lost(peer)
        for id_, call in list(self._calls.items()):
            if call.pipe == peer.id:
                del self._calls[id_]
                if len(call.asked) > 0:  # any other server says that the stream is lost
                    self._orphans.append(call.asked)
        for message in self._held.pop(peer.id, ()):
            super().context_message(0, message)
        self._pass_on()

    def pump(self) -> None:
        self._pass_on()
        super().pump()

    def _pass_on(self) -> None:
        """Have somebody answer who asks for more of a stream whose server is gone."""
        while len(self._orphans) > 0 and self.ready.head is not None:
            peer = self.ready.head
            self.ready.rotate(peer)
            self.out.transmit_bytes(peer.id, self._orphans.popleft())

    def received(self, peer: Peer, payload: bytes) -> bool:
        if len(payload) < 4:
            self.out.count(GARBLED, peer.id)
            return True
        if not self.deliver(peer, payload, 4, b""):
            return False
        if len(self._calls) > 0:
            self._answered(payload, peer.id)
        return True

    def _answered(self, payload: bytes, pipe: int) -> None:
        """Forget a call whose last answer this is; of a stream's part note where it came from."""
        begin = backtrace_length(payload, _WORDS)
        kind = callhead.OTHER if begin <= 0 else callhead.answer_at(payload, begin)
        if kind == callhead.OTHER:
            return
        id_ = callhead.id_at(payload, begin)
        call = self._calls.get(id_)
        if call is None or (call.is_stream and call.pipe != pipe):  # another one's answer, to a repeated call
            return
        if kind != callhead.PART:
            del self._calls[id_]
            return
        call.pipe = pipe
        call.is_stream = True
        call.asked = b""
