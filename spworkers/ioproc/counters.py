"""The counters of a socket in shared memory: one word each, so that they survive the I/O process."""

from __future__ import annotations

from typing import Final

from spworkers.protocol.machine import CAUSES as MACHINE_CAUSES
from spworkers.transport.handshake import CAUSES as HANDSHAKE_CAUSES

SENT: Final = 0
SENT_BYTES: Final = 1
RECEIVED: Final = 2
RECEIVED_BYTES: Final = 3
ACCEPTED: Final = 4
DIALED: Final = 5
REFUSED: Final = 6
BAD_HANDSHAKES: Final = 7
FORWARDED: Final = 8

NAMES: Final = (
    "sent",
    "sent_bytes",
    "received",
    "received_bytes",
    "accepted",
    "dialed",
    "refused",
    "bad_handshakes",
    "forwarded",
)
"""By their index."""

IN_HAND: Final = 15
"""Messages that lie in the I/O process's own memory now. Its successor finds there how many were lost with it."""

FIRST_CAUSE: Final = 16

OWN_CAUSES: Final = {
    "other": "a drop for a cause without a counter of its own",
    "unsent": "a message was on its way to a pipe that was lost",
    "too_long": "a peer sent more than MAX-RCV-SIZE, and was disconnected",
    "best_effort": "a message found no room, and BEST-EFFORT is set",
    "closed": "a message was not sent within LINGER when the socket was closed",
    "io_died": "a message was in the hands of an I/O process that was killed: not delivered yet, or a copy for a pipe",
}
"""What the I/O process itself drops; the machines' causes are in `spworkers.protocol.machine`."""

_NAMES: Final = (
    *OWN_CAUSES,
    *MACHINE_CAUSES,
    *HANDSHAKE_CAUSES,
    "dial_failed",
    "handshake_overflow",
    "listener_full",
    "accept_failed",
    "accept_exhausted",
)

CAUSES: Final[dict[str, int]] = {name: FIRST_CAUSE + number for number, name in enumerate(dict.fromkeys(_NAMES))}
"""Cause of a drop → index of its counter."""
