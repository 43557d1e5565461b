"""BUS: every message to all neighbours, and only to them.

    send   no header
    wire   body
    recv   no header

A full receive queue pushes back, as in mangos (nng and nanomsg drop).
"""

from __future__ import annotations

from spworkers.protocol.fanout import Fanout
from spworkers.protocol.machine import NO_PEERS, Outgoing

__all__ = ["Bus"]


class Bus(Fanout):
    """The machine of a BUS socket."""

    def context_message(self, context: int, message: Outgoing) -> None:
        payload = self.copied(message, b"", 0)
        if payload is not None and self.broadcast(payload, 0) == 0:
            self.out.count(NO_PEERS)

    def copies_to(self, context: int) -> list[int]:
        return self.recipients()
