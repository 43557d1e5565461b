"""The twelve scalability protocols: names, numbers, who talks to whom."""

from __future__ import annotations

from typing import Literal, TypeAlias

from spworkers.lean import lean

__all__ = ["PROTOCOLS", "PROTOCOL_BY_NUMBER", "InExchange", "ProtocolInfo"]

InExchange: TypeAlias = Literal["", "asks", "answers"]
"""What a side does where messages are requests and answers; "" where they are not."""


@lean
class ProtocolInfo:
    """One side of a scalability protocol.

    `name` is what appears in `socket.info` and in a WebSocket's subprotocol, `number` what the handshake carries.
    `contexts` holds for cooked sockets only: a raw one never has contexts. `exchange`: whether it asks or answers.
    """

    name: str
    number: int
    peer_name: str
    peer_number: int
    contexts: bool
    sends: bool
    receives: bool
    exchange: InExchange


def _pattern(
    name: str,
    number: int,
    peer_name: str,
    peer_number: int,
    *,
    contexts: str = "",
    sends: bool = True,
    receives: bool = True,
    exchange: bool = False,
) -> list[ProtocolInfo]:
    """Both sides of a pattern; `sends` and `receives` are the first side's, the second one's are the reverse.

    In an `exchange` the first asks and the second answers.
    """
    one, other = (name, number), (peer_name, peer_number)
    asks: InExchange = "asks" if exchange else ""
    answers: InExchange = "answers" if exchange else ""
    first = ProtocolInfo(*one, *other, name in contexts.split(), sends, receives, asks)
    second = ProtocolInfo(*other, *one, peer_name in contexts.split(), receives, sends, answers)
    return [first] if name == peer_name else [first, second]


# The handshake's numbers: the pattern's times 16, plus the side's. Star's (100 * 16) is mangos' own.
PROTOCOLS: dict[str, ProtocolInfo] = {
    info.name: info
    for info in [
        *_pattern("pair", 0x10, "pair", 0x10),
        *_pattern("pair1", 0x11, "pair1", 0x11),
        *_pattern("pub", 0x20, "sub", 0x21, contexts="sub", receives=False),
        *_pattern("req", 0x30, "rep", 0x31, contexts="req rep", exchange=True),
        *_pattern("push", 0x50, "pull", 0x51, receives=False),
        *_pattern("surveyor", 0x62, "respondent", 0x63, contexts="surveyor respondent", exchange=True),
        *_pattern("bus", 0x70, "bus", 0x70),
        *_pattern("star", 0x640, "star", 0x640),
    ]
}
"""Every protocol by its name."""

PROTOCOL_BY_NUMBER: dict[int, ProtocolInfo] = {info.number: info for info in PROTOCOLS.values()}
"""Every protocol by the number that its handshake carries."""
