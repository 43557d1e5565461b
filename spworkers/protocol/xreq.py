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


class XReq(Queued):
    """The machine of a raw REQ socket."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out)
        self._device = False
        self._went: dict[bytes, int] = {}  # pipes, by the ids of the calls that went by them
        self._streams: set[bytes] = set()  # those of which a part has come, by that pipe
        self._asked: dict[bytes, bytes] = {}  # requests for a next part that have no answer, as they are on the wire
        self._orphans: deque[bytes] = deque()  # such requests whose servers are gone
        self._held: dict[int, deque[Outgoing]] = {}  # what waits for a certain pipe, by it; unclaimed

    def in_device(self, yes: bool) -> None:
        self._device = yes
        if not yes:
            for call in list(self._went):
                self._forget(call)

    def everything_to(self, context: int) -> int:
        return 0  # a header may be wrong

    def context_message(self, context: int, message: Outgoing) -> None:
        if len(message.header) < 4:
            self.discard(message, BAD_HEADER, 0)
            return
        peer = self._server_of(message) if len(self._went) > 0 else None
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
        return self.peers.get(self._went.get(callhead.id_at(head, 0), 0))

    def _send(self, peer: Peer, message: Outgoing) -> None:
        if self._device:
            head = message.beginning(callhead.NEXT_HEAD)
            kind = callhead.kind_at(head, 0)
            if kind == callhead.CALL:
                self._remember(callhead.id_at(head, 0), peer.id)
            elif kind == callhead.NEXT and message.size == callhead.NEXT_HEAD:
                self._note(callhead.id_at(head, 0), message)
        if peer.home is None:  # it was sent to this one, whoever's turn it is
            self.out.transmit(peer.id, self._prefix, message, 0)
            message.release()
        else:
            super()._send(peer, message)

    def _remember(self, call: bytes, pipe: int) -> None:
        if call in self._streams:
            return
        if call not in self._went and len(self._went) >= _REMEMBERED:
            for oldest in self._went:
                self._forget(oldest)
                break
        self._went[call] = pipe

    def _note(self, call: bytes, message: Outgoing) -> None:
        # A copy: what is kept in the lane takes the places of others.
        if call in self._went:
            self._asked[call] = message.payload_bytes()

    def _forget(self, call: bytes) -> None:
        del self._went[call]
        self._streams.discard(call)
        self._asked.pop(call, None)

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
        for call in [call for call, pipe in self._went.items() if pipe == peer.id]:
            asked = self._asked.get(call)
            self._forget(call)
            if asked is not None:  # any other server says that the stream is lost
                self._orphans.append(asked)
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
        if len(self._went) > 0:
            self._answered(payload, peer.id)
        return True

    def _answered(self, payload: bytes, pipe: int) -> None:
        """Forget a call whose last answer this is; of a stream's part note where it came from."""
        begin = backtrace_length(payload, _WORDS)
        if begin <= 0 or len(payload) < begin + callhead.ANSWER_HEAD or payload[begin] != 0xC1:
            return
        call = callhead.id_at(payload, begin)
        if call not in self._went:
            return
        kind = payload[begin + 1]
        if kind in (callhead.VALUE, callhead.ERROR, callhead.LAST_PART):
            if call not in self._streams or self._went[call] == pipe:  # else another one's, of a repeated call
                self._forget(call)
        elif kind == callhead.PART:
            if call not in self._streams:
                self._streams.add(call)
                self._went[call] = pipe
            elif self._went[call] == pipe:
                self._asked.pop(call, None)
