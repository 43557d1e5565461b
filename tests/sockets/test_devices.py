"""Devices: two raw sockets, each of which sends what the other one receives."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import select
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
import trio
from helpers import aeventually, alone, eventually
from sockets.kit import (
    BOUND,
    REP,
    SOON,
    ask,
    background,
    callers_in,
    drops,
    error_of,
    inproc,
    open_fds,
    request_id,
    serve,
    wait_blocked,
    wait_fds,
    wait_pipes,
)

import spworkers as sp
from spworkers import Bus, Pair, Pair1, Pub, Pull, Push, Rep, Req, Respondent, Star, Sub, Surveyor
from spworkers.testing import RawListener, RawPeer

Make = Callable[..., sp.Socket]

COUPLES: list[tuple[Make, Make]] = [
    (Rep, Req),
    (Sub, Pub),
    (Pull, Push),
    (Respondent, Surveyor),
    (Pair, Pair),
    (Pair1, Pair1),
    (Bus, Bus),
    (Star, Star),
]
couples = pytest.mark.parametrize(("front", "back"), COUPLES, ids=lambda make: make.__name__.lower())

PUSH_NUMBER, PULL_NUMBER, SUB_NUMBER = 0x50, 0x51, 0x21


class Ends:
    """A device with both of its sockets, and a cooked peer on either side of it."""

    def __init__(self, stack: contextlib.ExitStack, front: Make, back: Make, address: Callable[[], str]) -> None:
        self.front = stack.enter_context(front(raw=True, listen=address()))
        self.back = stack.enter_context(back(raw=True, listen=address()))
        self.device = stack.enter_context(sp.device(self.front, self.back))
        self.left: Any = stack.enter_context(back(dial=self.front.listeners[0].address))
        self.right: Any = stack.enter_context(front(dial=self.back.listeners[0].address))
        for sock in (self.front, self.back):
            wait_pipes(sock)


@contextlib.contextmanager
def ends(front: Make, back: Make, address: Callable[[], str] = inproc) -> Iterator[Ends]:
    with contextlib.ExitStack() as stack:
        yield Ends(stack, front, back, address)


def tcp() -> str:
    return "tcp://127.0.0.1:0"


# ---- every couple


@pytest.mark.parametrize("address", [inproc, tcp], ids=["inproc", "tcp"])
@couples
def test_device_of_every_couple(front: Make, back: Make, address: Callable[[], str]) -> None:
    with ends(front, back, address) as these:
        there = range(100)
        if front is Sub:
            these.right.subscribe("")
        for number in there:
            these.left.send(b"%d" % number, timeout=BOUND)
            if front in (Rep, Respondent):
                assert these.right.recv(timeout=BOUND) == b"%d" % number
                these.right.send(b"re %d" % number, timeout=BOUND)
                assert these.left.recv(timeout=BOUND) == b"re %d" % number
        if front not in (Rep, Respondent):
            assert [int(these.right.recv(timeout=BOUND)) for _ in there] == list(there)
        if front is back:
            for number in there:
                these.right.send(b"%d" % number, timeout=BOUND)
            assert [int(these.left.recv(timeout=BOUND)) for _ in there] == list(there)
        back_again = 100 if front not in (Sub, Pull) else 0
        eventually(lambda: these.device.stats() == {"there": 100, "back": back_again, "drops": {}}, BOUND)


@pytest.mark.parametrize(("front", "back"), COUPLES[:4], ids=lambda make: make.__name__.lower())
def test_device_either_way_round(front: Make, back: Make) -> None:
    with ends(back, front) as these:
        asker, answerer = (these.right, these.left)
        if front is Sub:
            answerer.subscribe("")
        asker.send(b"x", timeout=BOUND)
        assert answerer.recv(timeout=BOUND) == b"x"


@pytest.mark.parametrize("size", [0, 1, 150, 5000, 300_000])
def test_device_forwards_every_size_whole(size: int) -> None:
    body = os.urandom(size)
    with ends(Rep, Req) as these:
        served = serve(these.right, 1, lambda body: body[::-1])
        assert ask(these.left, body) == body[::-1]
        assert served.result(BOUND) == [body]


def test_device_forwards_a_body_beyond_the_byte_budget() -> None:
    front, back = Pull(raw=True, max_rcv_size=0), Push(raw=True, byte_budget=1 << 16)
    with front, back, Pull(max_rcv_size=0) as pull, Push() as push, sp.device(front, back):
        push.dial(front.listen(inproc()).address)
        pull.dial(back.listen(inproc()).address)
        bodies = [os.urandom(1 << 20) for _ in range(3)]
        for body in bodies:
            push.send(body, timeout=BOUND)
        assert [pull.recv(timeout=BOUND) for _ in bodies] == bodies


def test_device_keeps_the_headers_that_it_is_sent() -> None:
    """A device puts the pipe's number in front of a request, and takes it off the reply: `[0|pipe id]*, 1|id`."""
    with RawListener() as server, Req(raw=True, dial=server.address, dial_asynch=True) as back:
        with Rep(raw=True, listen=tcp()) as front, sp.device(front, back):
            with server.accept(REP) as right, RawPeer.dial(front.listeners[0].address, 0x30) as left:
                left.send(b"\0\0\0\7" + request_id(1) + b"body")
                payload = right.recv()
                assert payload[4:] == b"\0\0\0\7" + request_id(1) + b"body"
                assert int.from_bytes(payload[:4], "big") == front.pipes[0].id
                right.send(payload[:12] + b"reply")
                assert left.recv() == b"\0\0\0\7" + request_id(1) + b"reply"


def test_device_many_requesters_get_their_own_replies() -> None:
    with ends(Rep, Req) as these:
        others = [Req(dial=these.front.listeners[0].address) for _ in range(5)]
        served = serve(these.right, 60)
        for turn in range(10):
            for number, req in enumerate([these.left, *others]):
                req.send(b"%d %dx" % (number, turn))
            for number, req in enumerate([these.left, *others]):
                assert req.recv(timeout=BOUND) == b"%d %dX" % (number, turn)
        served.result(BOUND)
        for req in others:
            req.close()


def test_device_between_two_buses_sends_nothing_back() -> None:
    with ends(Bus, Bus) as these, Bus(dial=these.front.listeners[0].address) as other:
        wait_pipes(these.front, 2)
        these.left.send(b"x")
        assert these.right.recv(timeout=BOUND) == b"x"
        for sock in (these.left, other):  # the other neighbour of a raw Bus gets nothing: it is no hub
            with pytest.raises(sp.RecvTimeoutError):
                sock.recv(timeout=SOON)


# ---- loopback


@pytest.mark.parametrize("make", [Pair, Pair1])
@pytest.mark.parametrize("how", ["one argument", "None", "twice the same"])
def test_device_loopback_echoes(make: Make, how: str) -> None:
    with make(raw=True, listen=inproc()) as echo, make(dial=echo.listeners[0].address) as sock:
        arguments = {"one argument": (echo,), "None": (None, echo), "twice the same": (echo, echo)}[how]
        with sp.device(*arguments) as device:
            for number in range(300):
                sock.send(b"%d" % number, timeout=BOUND)
            assert [int(sock.recv(timeout=BOUND)) for _ in range(300)] == list(range(300))
            assert device.stats() == {"there": 300, "back": 0, "drops": {}}


def test_device_loopback_of_a_bus_is_a_hub() -> None:
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(Bus(raw=True, listen=inproc()))
        stack.enter_context(sp.device(hub))
        leaves = [stack.enter_context(Bus(dial=hub.listeners[0].address)) for _ in range(3)]
        wait_pipes(hub, 3)
        leaves[0].send(b"x")
        assert [leaf.recv(timeout=BOUND) for leaf in leaves[1:]] == [b"x", b"x"]
        with pytest.raises(sp.RecvTimeoutError):
            leaves[0].recv(timeout=SOON)


def test_device_loopback_of_a_star_sends_to_all_what_it_passes_on_anyway() -> None:
    with Star(raw=True, listen=inproc()) as star, sp.device(star):
        with Star(dial=star.listeners[0].address) as one, Star(dial=star.listeners[0].address) as other:
            wait_pipes(star, 2)
            one.send(b"x")
            assert [other.recv(timeout=BOUND) for _ in range(2)] == [b"x", b"x"]
            assert one.recv(timeout=BOUND) == b"x"
            for leaf in (one, other):
                with pytest.raises(sp.RecvTimeoutError):
                    leaf.recv(timeout=SOON)


# ---- ttl


def hops(front: Make, ttl: int) -> dict[str, int]:
    """The option, where a socket has it."""
    return {"ttl": ttl} if front in (Rep, Respondent, Pair1, Star) else {}


@contextlib.contextmanager
def chain(front: Make, back: Make, length: int, ttl: int) -> Iterator[tuple[str, str]]:
    """Devices in a row, whose sockets pass up to `ttl` hops. Yields the addresses of both of its ends."""
    with contextlib.ExitStack() as stack:
        first = last = ""
        for number in range(length):
            one = stack.enter_context(front(raw=True, listen=inproc(), **hops(front, ttl)))
            other = stack.enter_context(back(raw=True, listen=inproc(), **hops(back, ttl)))
            if number:
                one.dial(last)
            else:
                first = one.listeners[0].address
            last = other.listeners[0].address
            stack.enter_context(sp.device(one, other))
        yield first, last


COUNTING = [(Rep, Req), (Respondent, Surveyor), (Pair1, Pair1), (Star, Star)]
counting = pytest.mark.parametrize(("front", "back"), COUNTING, ids=lambda make: make.__name__.lower())


@counting
def test_device_ttl_counts_devices_and_the_last_socket(front: Make, back: Make) -> None:
    """TTL n is n - 1 devices, for every protocol that has it (B16)."""
    with chain(front, back, 2, 8) as (first, last), back(dial=first) as left, front(dial=last, ttl=3) as right:
        wait_pipes(right)
        wait_pipes(left)
        left.send(b"x")
        assert right.recv(timeout=BOUND) == b"x"
        right.ttl = 2
        left.send(b"y")
        eventually(lambda: drops(right) == {"ttl": 1}, BOUND)


@counting
def test_device_ttl_holds_for_its_own_sockets(front: Make, back: Make) -> None:
    """The second device's socket is the second that a message comes to."""
    with front(raw=True, listen=inproc(), ttl=1) as third, back(raw=True, listen=inproc()) as fourth:
        with chain(front, back, 1, 8) as (first, middle), sp.device(third, fourth), back(dial=first) as left:
            with front(dial=fourth.listeners[0].address) as right:
                third.dial(middle)
                wait_pipes(third)
                wait_pipes(left)
                wait_pipes(right)
                left.send(b"x")
                eventually(lambda: drops(third) == {"ttl": 1}, BOUND)
                third.ttl = 2
                left.send(b"y")
                assert right.recv(timeout=BOUND) == b"y"


LENGTH = 25


@pytest.mark.slow
def test_device_chain_of_25_buses_both_ways() -> None:
    with chain(Bus, Bus, LENGTH, 0) as (first, last), Bus(dial=first) as left, Bus(dial=last) as right:
        wait_pipes(left)
        wait_pipes(right)
        for one, other in ((left, right), (right, left)):
            for number in range(100):
                one.send(b"%d" % number)
            assert [int(other.recv(timeout=BOUND)) for _ in range(100)] == list(range(100))


@pytest.mark.slow
@pytest.mark.parametrize(("front", "back"), [(Rep, Req), (Pair1, Pair1), (Star, Star)])
def test_device_chain_of_25_with_ttl(front: Make, back: Make) -> None:
    """25 devices and the last socket are 26 hops: TTL 26 takes them, 25 does not."""
    with chain(front, back, LENGTH, 255) as (first, last), back(dial=first, **hops(back, 26)) as left:
        with front(ttl=26) as right:
            right.dial(last)
            wait_pipes(right)
            wait_pipes(left)
            for number in range(20):
                left.send(b"%d" % number, timeout=BOUND)
                assert right.recv(timeout=BOUND) == b"%d" % number
                right.send(b"re %d" % number, timeout=BOUND)
                assert left.recv(timeout=BOUND) == b"re %d" % number
            right.ttl = 25
            left.send(b"x", timeout=BOUND)
            eventually(lambda: drops(right) == {"ttl": 1}, BOUND)


# ---- back-pressure


def test_device_pushes_back_and_loses_nothing() -> None:
    front, back = Pull(raw=True, readq_len=2), Push(raw=True, writeq_len=4)
    with front, back, Push(writeq_len=2) as push, sp.device(front, back) as device:
        push.dial(front.listen(tcp()).address)
        sent = 0
        with pytest.raises(sp.SendTimeoutError):
            while True:
                push.send(b"%d" % sent + bytes(200_000), timeout=1)
                sent += 1
        assert device.stats()["there"] == 4  # no more than the queue of the socket that is to send
        with Pull(dial=back.listen(tcp()).address) as pull:
            assert [int(pull.recv(timeout=BOUND).rstrip(b"\0")) for _ in range(sent)] == list(range(sent))
            push.send(b"end", timeout=BOUND)
            assert pull.recv(timeout=BOUND) == b"end"
        assert device.stats()["drops"] == {}


def test_device_pushes_back_for_replies_too() -> None:
    """A requester that does not read its replies holds up the device in the end; until then others are served."""
    with Rep(raw=True, listen=tcp()) as front, Req(raw=True, listen=tcp()) as back, sp.device(front, back) as device:
        with (
            RawPeer.dial(back.listeners[0].address, REP) as right,
            RawPeer.dial(front.listeners[0].address, 0x30) as left,
        ):
            left.send(request_id(1))
            header = right.recv()[:8]
            frame = (8 + 100_000).to_bytes(8, "big") + header + bytes(100_000)
            right.sock.settimeout(1)
            with pytest.raises(TimeoutError):
                for _ in range(3000):
                    right.write(frame)
            assert device.stats()["back"] <= 2000
            assert device.stats()["drops"] == {}


def test_device_best_effort_drops_what_does_not_fit_and_counts_it() -> None:
    front, back = Pull(raw=True), Push(raw=True, writeq_len=4, best_effort=True)
    with front, back, Push() as push, sp.device(front, back) as device:
        push.dial(front.listen(inproc()).address)
        for number in range(50):
            push.send(b"%d" % number, timeout=BOUND)
        eventually(lambda: drops(back) == {"best_effort": 46}, BOUND)
        assert device.stats() == {"there": 4, "back": 0, "drops": {"best_effort": 46}}
        with Pull(dial=back.listen(inproc()).address) as pull:
            assert [int(pull.recv(timeout=BOUND)) for _ in range(4)] == [0, 1, 2, 3]


def test_device_fail_no_peers_drops_what_nobody_is_there_for() -> None:
    with Pull(raw=True, listen=inproc()) as front, Push(raw=True) as back, Push() as push:
        push.dial(front.listeners[0].address)
        with sp.device(front, back) as device:
            push.send(b"waits")
            eventually(lambda: device.stats()["there"] == 1, BOUND)
            back.fail_no_peers = True  # options go on to be heard of
            eventually(lambda: push.send(b"goes") or drops(back).get("no_peers", 0) > 0, BOUND)
            with Pull(dial=back.listen(inproc()).address) as pull:
                assert pull.recv(timeout=BOUND) == b"waits"
                wait_pipes(back)
                eventually(lambda: push.send(b"again") or device.stats()["there"] > 1, BOUND)
                assert pull.recv(timeout=BOUND) == b"again"


def test_device_slow_subscriber_loses_and_holds_up_nobody() -> None:
    front, back = Sub(raw=True), Pub(raw=True, writeq_len=2)
    with front, back, Pub(writeq_len=10_000) as pub, sp.device(front, back) as device, Sub(subscribe="") as sub:
        pub.dial(front.listen(tcp()).address)
        where = back.listen(tcp()).address
        sub.dial(where)
        with RawPeer.dial(where, SUB_NUMBER):
            wait_pipes(back, 2)
            for _ in range(100):
                pub.send(bytes(200_000))
                assert len(sub.recv(timeout=BOUND)) == 200_000
            eventually(lambda: drops(back).get("congested", 0) > 10, BOUND)
            assert device.stats()["there"] == 100


def test_device_queue_lengths_change_while_it_works() -> None:
    with Pull(raw=True, listen=inproc()) as front, Push(raw=True, writeq_len=0) as back, Push() as push:
        push.dial(front.listeners[0].address)
        with sp.device(front, back) as device:
            back.writeq_len = 2
            for number in range(20):
                push.send(b"%d" % number)
            eventually(lambda: device.stats()["there"] == 2, BOUND)
            back.writeq_len = 12
            eventually(lambda: device.stats()["there"] == 12, BOUND)
            with Pull(dial=back.listen(inproc()).address) as pull:
                assert [int(pull.recv(timeout=BOUND)) for _ in range(20)] == list(range(20))


@couples
def test_device_without_queues(front: Make, back: Make) -> None:
    with front(raw=True) as one, back(raw=True) as other:
        for sock, name in itertools.product((one, other), ("WRITEQ-LEN", "READQ-LEN")):
            with contextlib.suppress(sp.BadOptionError):  # not all have both
                sock.set_option(name, 0)
        with sp.device(one, other), back(dial=one.listen(inproc()).address) as left:
            with front(dial=other.listen(inproc()).address) as right:
                if front is Sub:
                    right.subscribe("")
                wait_pipes(one)
                wait_pipes(other)
                for number in range(20):
                    left.send(b"%d" % number, timeout=BOUND)
                    assert right.recv(timeout=BOUND) == b"%d" % number


# ---- what was there before, and what is there afterwards


def test_device_takes_along_what_was_received_before() -> None:
    with Pull(raw=True, listen=inproc()) as front, Push(raw=True, writeq_len=10) as back, Push() as push:
        push.dial(front.listeners[0].address)
        for number in range(50):
            push.send(b"%d" % number)
        eventually(lambda: front.stats()["received"] == 50, BOUND)
        assert front.recv(timeout=BOUND) == b"0"
        with sp.device(front, back):
            push.send(b"50")
            with Pull(dial=back.listen(inproc()).address) as pull:
                assert [int(pull.recv(timeout=BOUND)) for _ in range(50)] == list(range(1, 51))


def test_device_takes_along_what_was_sent_before() -> None:
    with (
        Pull(raw=True, listen=inproc()) as front,
        Push(raw=True) as back,
        Push(dial=front.listeners[0].address) as push,
    ):
        for number in range(10):
            back.send(b"%d" % number)
        with sp.device(front, back):
            push.send(b"10")
            with Pull(dial=back.listen(inproc()).address) as pull:
                assert [int(pull.recv(timeout=BOUND)) for _ in range(11)] == list(range(11))


def test_device_gives_its_sockets_back() -> None:
    with ends(Rep, Req) as these:
        for turn in range(3):
            these.left.send(b"by the device")
            assert these.right.recv(timeout=BOUND) == b"by the device"
            these.device.close()
            these.device.close()
            these.left.send(b"by hand %d" % turn)
            request = these.front.recv_msg(timeout=BOUND)
            assert request.body == b"by hand %d" % turn
            these.back.send_msg(request)
            assert these.right.recv(timeout=BOUND) == request.body
            these.right.send(b"reply")
            these.front.send_msg(these.back.recv_msg(timeout=BOUND))
            assert these.left.recv(timeout=BOUND) == b"reply"
            these.device = sp.device(these.back, these.front)
        assert these.front.stats()["forwarded"] == 3
        these.device.close()


def test_device_that_ends_gives_back_what_found_no_room() -> None:
    with Pull(raw=True, listen=inproc()) as front, Push(raw=True, writeq_len=3) as back, Push() as push:
        push.dial(front.listeners[0].address)
        for number in range(20):
            push.send(b"%d" % number)
        eventually(lambda: front.stats()["received"] == 20, BOUND)
        with sp.device(front, back):  # all but 3 that it has taken from the queue are in its hands
            eventually(lambda: front.stats()["forwarded"] == 3, BOUND)
        assert [int(front.recv(timeout=BOUND)) for _ in range(17)] == list(range(3, 20))
        with pytest.raises(sp.SendTimeoutError):
            back.send(b"x", timeout=0)
        with Pull(dial=back.listen(inproc()).address) as pull:
            assert [int(pull.recv(timeout=BOUND)) for _ in range(3)] == [0, 1, 2]
            back.send(b"by hand", timeout=BOUND)
            assert pull.recv(timeout=BOUND) == b"by hand"


def test_device_leaves_a_watched_descriptor_as_it_was() -> None:
    with ends(Pull, Push) as these:
        these.device.close()
        descriptor = these.front.fileno()
        with sp.device(these.front, these.back):
            these.left.send(b"x")
            assert these.right.recv(timeout=BOUND) == b"x"
            with pytest.raises(sp.ProtoStateError):
                these.front.fileno()
        these.left.send(b"y")
        assert select.select([descriptor], [], [], BOUND)[0] == [descriptor]
        assert these.front.recv(timeout=0) == b"y"
        assert select.select([descriptor], [], [], 0)[0] == []


# ---- its life


@pytest.mark.parametrize("which", ["front", "back"])
def test_device_ends_when_either_socket_is_closed(which: str) -> None:
    with ends(Rep, Req) as these:
        waiting = background(these.device.wait)
        assert not these.device.wait(timeout=0)
        assert not these.device.wait(timeout=SOON)
        getattr(these, which).close()
        assert waiting.result(BOUND) is True
        assert these.device.wait() is True
        assert "closed" in repr(these.device)
        if which == "back":
            these.left.send(b"x")
            assert these.front.recv(timeout=BOUND) == b"x"
        else:
            these.back.send_msg(sp.Message(b"x", request_id(1)))
            assert these.right.recv(timeout=BOUND) == b"x"


def test_device_needs_no_variable() -> None:
    """mangos gives no handle at all."""
    with Rep(raw=True, listen=inproc()) as front, Req(raw=True, listen=inproc()) as back:
        sp.device(front, back)
        gc.collect()
        with Req(dial=front.listeners[0].address) as req, Rep(dial=back.listeners[0].address) as rep:
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)


def test_device_keeps_its_sockets() -> None:
    device = sp.device(Pair(raw=True, listen=(address := inproc())))
    gc.collect()
    with Pair(dial=address) as pair:
        pair.send(b"x")
        assert pair.recv(timeout=BOUND) == b"x"
    sock = device._sockets[0]
    gone = weakref.ref(sock)
    sock.close()
    del device, sock
    gc.collect()
    assert gone() is None


def test_device_that_nobody_holds_goes_with_its_sockets() -> None:
    gc.collect()
    with pytest.warns(ResourceWarning, match="was not closed"):
        device: Any = sp.device(Pair(raw=True))
        gone = weakref.ref(device)
        del device
        gc.collect()
    assert gone() is None


def test_device_drains_what_it_forwarded_when_its_socket_is_closed() -> None:
    """LINGER is for what any user has sent."""
    with (
        Pull(raw=True, listen=inproc()) as front,
        Push(raw=True) as back,
        Push(dial=front.listeners[0].address) as push,
    ):
        with Pull(listen=tcp()) as pull:
            device = sp.device(front, back)
            for number in range(100):
                push.send(b"%d" % number, timeout=BOUND)
            eventually(lambda: device.stats()["there"] == 100, BOUND)
            back.dial(pull.listeners[0].address)
            back.close()
            assert [int(pull.recv(timeout=BOUND)) for _ in range(100)] == list(range(100))


def test_device_waits_in_asyncio_and_trio() -> None:
    async def wait(device: sp.Device) -> bool:
        async with device:
            pass
        return await device

    for run in (asyncio.run, None):
        with Pair(raw=True) as pair:
            device = sp.device(pair)
            assert (asyncio.run(wait(device)) if run else trio.run(wait, device)) is True

    async def cancelled(device: sp.Device) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(until(device), SOON)
        later = asyncio.create_task(until(device))
        await asyncio.sleep(0)
        device.close()
        await asyncio.wait_for(later, BOUND)

    async def until(device: sp.Device) -> None:
        await device

    with Pair(raw=True) as pair:
        asyncio.run(cancelled(sp.device(pair)))


@alone
def test_device_leaves_no_descriptor() -> None:
    with Rep(raw=True) as front, Req(raw=True) as back:
        sp.device(front, back).close()
        gc.collect()
        before = open_fds()
        theirs = f"/proc/{front.stats()['pid']}/fd"
        open_there = len(os.listdir(theirs))
        for _ in range(20):
            sp.device(front, back).close()
        wait_fds(before)
        eventually(lambda: len(os.listdir(theirs)) <= open_there, BOUND)


def test_device_says_what_it_is() -> None:
    with Rep(raw=True, name="front") as front, Req(raw=True) as back:
        with sp.device(front, back) as device:
            assert repr(device) == "<Device of Rep and Req: forwarding>"
            assert "part of a device" in repr(front)
        assert repr(device) == "<Device of Rep and Req: closed>"
        assert "device" not in repr(front)
    with Bus(raw=True) as bus, sp.device(bus) as device:
        assert repr(device) == "<Device of Bus: loopback>"


# ---- what cannot be


def test_device_errors() -> None:
    with Rep(raw=True) as rep, Req(raw=True) as req, Req() as cooked, Pair() as pair, Bus(raw=True) as bus:
        with pytest.raises(sp.ClosedError):
            sp.device(None)
        with pytest.raises(sp.ClosedError):
            sp.device(None, None)
        for one, other in ((rep, rep), (rep, None), (req, bus), (rep, bus), (cooked, cooked)):
            with pytest.raises(sp.BadProtoError):  # before anything is asked of raw
                sp.device(one, other)
        for one, other in ((rep, cooked), (cooked, rep), (pair, None)):
            with pytest.raises(sp.NotRawError):
                sp.device(one, other)
        with pytest.raises(sp.BadValueError, match="a device is made of sockets"):
            sp.device(rep, "req")  # type: ignore[arg-type]
        with sp.device(rep, req) as device:
            with Req(raw=True) as third:
                for one, other in ((rep, third), (third, rep), (req, rep)):
                    with pytest.raises(sp.ProtoStateError, match="part of a device already"):
                        sp.device(one, other)
                third.send_msg(sp.Message(b"x", request_id(1)))  # it was given back
            with pytest.raises(sp.BadValueError):
                device.wait("soon")  # type: ignore[arg-type]
    for one, other in ((rep, req), (req, rep)):
        with pytest.raises(sp.ClosedError):
            sp.device(one, other)
    with pytest.raises(sp.ClosedError):
        device.stats()


def test_device_sends_and_receives_for_its_sockets() -> None:
    with Pair(raw=True) as pair, sp.device(pair):
        calls: list[Callable[[], object]] = [
            lambda: pair.send(b"x"),
            lambda: pair.send_msg(sp.Message(b"x")),
            lambda: pair.recv(),
            lambda: pair.recv(timeout=0),
            lambda: pair.recv_msg(),
            lambda: pair.recv_into(bytearray(10)),
            lambda: pair.fileno(),
            lambda: pair.reserve(3).__enter__(),
            lambda: pair.recv_view().__enter__(),
            lambda: asyncio.run(pair.asend(b"x")),
            lambda: asyncio.run(pair.arecv()),
            lambda: next(iter(pair)),
        ]
        for call in calls:
            with pytest.raises(sp.ProtoStateError, match="part of <Device"):
                call()
        pair.writeq_len = 5  # options and endpoints are ours still
        pair.listen(inproc()).close()


def test_device_ends_the_calls_that_wait_on_its_sockets() -> None:
    with Push(raw=True, writeq_len=1) as back, Pull(raw=True) as front:
        back.send(b"x")
        sending = [background(back.send, b"y") for _ in range(3)]
        receiving = [background(front.recv) for _ in range(3)]
        wait_blocked(back, 3)
        wait_blocked(front, 3)
        with sp.device(front, back):
            for future in (*sending, *receiving):
                assert isinstance(error_of(future), sp.ProtoStateError)
        back.writeq_len = 0
        handing = background(back.send, b"z")
        wait_blocked(back)
        with sp.device(front, back):
            assert isinstance(error_of(handing), sp.ProtoStateError)
        with Pull(dial=back.listen(inproc()).address) as pull:
            assert pull.recv(timeout=BOUND) == b"x"
            with pytest.raises(sp.RecvTimeoutError):
                pull.recv(timeout=SOON)


def test_device_ends_the_tasks_that_wait_on_its_sockets() -> None:
    async def wait(front: sp.Pull, back: sp.Push) -> list[str]:
        ended: list[str] = []

        async def receive() -> None:
            try:
                await front.arecv()
            except sp.ProtoStateError:
                ended.append("receive")

        async def send() -> None:
            try:
                await back.asend(b"y")
            except sp.ProtoStateError:
                ended.append("send")

        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as tasks:
                for call in (receive, receive, send, send):
                    tasks.start_soon(call)
                await aeventually(lambda: callers_in(front) == callers_in(back) == 2)
                with sp.device(front, back):
                    await aeventually(lambda: len(ended) == 4)
        return ended

    for backend in ("asyncio", "trio"):
        with Push(raw=True, writeq_len=1) as back, Pull(raw=True) as front:
            back.send(b"x")
            ended = anyio.run(wait, front, back, backend=backend)
            assert sorted(ended) == ["receive", "receive", "send", "send"]


def test_device_does_not_begin_in_the_midst_of_a_message() -> None:
    with Push(raw=True) as back, Pull(raw=True) as front:
        with back.reserve(3) as buffer:
            buffer[:] = b"abc"
            with pytest.raises(sp.ProtoStateError, match="half written"):
                sp.device(front, back)
        back.send(b"d")
        with sp.device(front, back), Pull(dial=back.listen(inproc()).address) as pull:
            assert [pull.recv(timeout=BOUND) for _ in range(2)] == [b"abc", b"d"]


def test_device_in_a_forked_child_says_so() -> None:
    with Pair(raw=True, listen=inproc()) as pair, sp.device(pair) as device:
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                for call in (device.close, device.wait, device.stats, lambda: sp.device(pair)):
                    with pytest.raises(sp.ForkedError):
                        call()
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with Pair(dial=pair.listeners[0].address) as other:
            other.send(b"x")
            assert other.recv(timeout=BOUND) == b"x"


def test_device_closes_at_once_whoever_does_it() -> None:
    """By both sockets and the handle, from three threads."""
    for _ in range(5):
        with Rep(raw=True) as front, Req(raw=True) as back:
            device = sp.device(front, back)
            started = time.monotonic()
            closing = [background(call) for call in (device.close, front.close, back.close)]
            for future in closing:
                future.result(BOUND)
            assert device.wait(timeout=0)
            assert time.monotonic() - started < BOUND
