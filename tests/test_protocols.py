from __future__ import annotations

import pytest

from spworkers.protocols import PROTOCOL_BY_NUMBER, PROTOCOLS

# Reference, section 1.8.
NUMBERS = {
    "pair": 0x10,
    "pair1": 0x11,
    "pub": 0x20,
    "sub": 0x21,
    "req": 0x30,
    "rep": 0x31,
    "push": 0x50,
    "pull": 0x51,
    "surveyor": 0x62,
    "respondent": 0x63,
    "bus": 0x70,
    "star": 0x640,
}
PEERS = {"pub": "sub", "req": "rep", "push": "pull", "surveyor": "respondent"}


def test_all_twelve_with_their_numbers() -> None:
    assert {name: info.number for name, info in PROTOCOLS.items()} == NUMBERS
    assert {number: info.name for number, info in PROTOCOL_BY_NUMBER.items()} == {
        n: name for name, n in NUMBERS.items()
    }


@pytest.mark.parametrize("name", PROTOCOLS)
def test_peers_are_mutual(name: str) -> None:
    info = PROTOCOLS[name]
    wanted = {**PEERS, **{peer: one for one, peer in PEERS.items()}}.get(name, name)
    assert (info.peer_name, info.peer_number) == (wanted, NUMBERS[wanted])
    peer = PROTOCOLS[info.peer_name]
    assert (peer.peer_name, peer.peer_number) == (info.name, info.number)


def test_contexts() -> None:
    assert {n for n, info in PROTOCOLS.items() if info.contexts} == {"req", "rep", "sub", "surveyor", "respondent"}


def test_directions() -> None:
    assert {n for n, info in PROTOCOLS.items() if not info.sends} == {"sub", "pull"}
    assert {n for n, info in PROTOCOLS.items() if not info.receives} == {"pub", "push"}
