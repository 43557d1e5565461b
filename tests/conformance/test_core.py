"""Pipe ids, dialers and listeners: what mangos' core tests check."""

from __future__ import annotations

import asyncio
import types
from typing import Any

import pytest
from sockets.kit import BOUND, inproc, wait_pipes

from spworkers import Pair
from spworkers.ioproc.attaching import Attaching
from spworkers.testing import Mock


def attaching() -> tuple[Attaching, Any]:
    hub = types.SimpleNamespace(pipes={}, on_pipe_lost=None)
    return Attaching(hub, asyncio.new_event_loop(), {}, lambda _: True), hub  # type: ignore[arg-type]


def test_ids_go_up_by_one_and_wrap_to_1() -> None:
    ids, hub = attaching()
    try:
        ids._ids = 0x7FFFFFFD
        assert [ids._next_id() for _ in range(4)] == [0x7FFFFFFE, 0x7FFFFFFF, 1, 2]
        hub.pipes.update({3: None, 4: None})
        assert ids._next_id() == 5, "those in use are passed over"
    finally:
        ids._loop.close()


def test_ids_begin_at_random() -> None:
    made = [attaching()[0] for _ in range(5)]
    try:
        assert len({each._ids for each in made}) == 5
        assert all(0 < each._next_id() < 1 << 31 for each in made)
    finally:
        for each in made:
            each._loop.close()


def test_an_id_is_not_used_again_soon() -> None:
    with Mock("pair") as mock, Pair(listen=mock.address) as pair:
        seen = []
        for _ in range(10):
            peer = mock.connect()
            wait_pipes(pair)
            seen.append(pair.pipes[0].id)
            peer.close()
            wait_pipes(pair, 0)
        assert len(set(seen)) == 10
        assert all(0 < number < 1 << 31 for number in seen)


@pytest.mark.parametrize("kind", ["late listener", "replacement"])
def test_a_dialer_finds_the_listener_that_comes(kind: str) -> None:
    address = inproc()
    with Pair(reconnect_time=0.01) as pair:
        if kind == "replacement":
            with Pair(listen=address):
                pair.dial(address)
                wait_pipes(pair)
            wait_pipes(pair, 0)
        else:
            pair.dial(address, dial_asynch=True)
        with Pair(listen=address) as late:
            pair.send(b"x", timeout=BOUND)
            assert late.recv(timeout=BOUND) == b"x"
