"""Many at once: contexts, peers, clients. What mangos tests with threads of one process is done by processes here.

A hundred sockets are a hundred I/O processes, of about 5 MB and 20 ms of CPU each.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers import eventually, soak, soaking
from sockets.kit import BOUND, ask, background, drops, inproc, wait_pipes

import spworkers as sp
from spworkers import Bus, Pub, Pull, Push, Rep, Req, Respondent, Sub, Surveyor

pytestmark = [pytest.mark.slow, pytest.mark.once]

MANY = 100
LONG = 60.0
"""Seconds that a load may take on a machine that has other work."""


@contextlib.contextmanager
def crowd(centre: sp.Socket, make: Callable[..., sp.Socket], **options: Any) -> Iterator[list[Any]]:
    """A hundred sockets that are connected to one."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(4) as threads:
        stack.enter_context(centre)
        address = centre.listen(inproc()).address
        found = list(threads.map(lambda _: make(**options), range(MANY)))
        for sock in found:
            stack.enter_context(sock)
        list(threads.map(lambda sock: sock.dial(address), found))
        wait_pipes(centre, MANY)
        yield found


def in_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    """What they return, each called on a thread of its own."""
    return [future.result(LONG) for future in [background(call) for call in calls]]


def collected(sock: sp.Socket, count: int) -> dict[int, list[int]]:
    """So many messages `b"who number"`: the numbers by who sent them, in the order in which they came."""
    found: dict[int, list[int]] = defaultdict(list)
    for _ in range(count):
        who, number = sock.recv(timeout=BOUND).split()
        found[int(who)].append(int(number))
    return found


# ---- contexts


def serve_on(context: Any) -> None:
    with contextlib.suppress(sp.ClosedError):
        while True:
            context.send(b"re " + context.recv())


@pytest.mark.parametrize("address", ["inproc", "tcp://127.0.0.1:0"], ids=["inproc", "tcp"])
def test_300_req_contexts_get_their_own_20_replies(address: str) -> None:
    with Rep(listen=inproc() if address == "inproc" else address) as rep, Req(dial=rep.listeners[0].address) as req:
        servers = [background(serve_on, rep.open_context()) for _ in range(4)]

        def client(number: int) -> int:
            with req.open_context() as context:
                return sum(
                    ask(context, b"%d %d" % (number, turn)) == b"re %d %d" % (number, turn) for turn in range(20)
                )

        assert in_threads([lambda number=number: client(number) for number in range(300)]) == [20] * 300  # type: ignore[misc]
        assert rep.stats()["received"] == 6000
        rep.close()
        for future in servers:
            future.result(BOUND)


def test_300_req_contexts_of_asyncio_get_their_own_20_replies() -> None:
    async def client(req: Req, number: int) -> int:
        count = 0
        async with req.open_context() as context:
            for turn in range(20):
                await context.asend(b"%d %d" % (number, turn))
                count += await context.arecv(timeout=LONG) == b"re %d %d" % (number, turn)
        return count

    async def clients(req: Req) -> list[int]:
        return await asyncio.gather(*(client(req, number) for number in range(300)))

    with Rep(listen=inproc()) as rep, Req(dial=rep.listeners[0].address) as req:
        serving = background(serve_on, rep)
        assert asyncio.run(clients(req)) == [20] * 300
        rep.close()
        serving.result(BOUND)


# ---- surveys


def test_100_respondents_answer_300_surveys_in_order() -> None:
    surveys = 300
    surveyor = Surveyor(survey_time=0, readq_len=MANY)

    def respond(respondent: Respondent, number: int) -> list[int]:
        seen = []
        for _ in range(surveys):
            seen.append(int(respondent.recv(timeout=LONG)))
            respondent.send(b"%d %d" % (number, seen[-1]), timeout=LONG)
        return seen

    with crowd(surveyor, Respondent) as respondents:
        answering = [background(respond, each, number) for number, each in enumerate(respondents)]
        for survey in range(surveys):
            surveyor.send(b"%d" % survey)
            assert collected(surveyor, MANY) == {number: [survey] for number in range(MANY)}
        for future in answering:
            assert future.result(LONG) == list(range(surveys))
        assert drops(surveyor) == {}


# ---- fan-out and fan-in


def test_bus_fan_out_and_fan_in_with_100_in_order() -> None:
    hub = Bus()
    with crowd(hub, Bus) as leaves:
        for number in range(20):
            hub.send(b"0 %d" % number)
        for leaf in leaves:
            assert collected(leaf, 20) == {0: list(range(20))}

        def send_all(leaf: Bus, who: int) -> None:
            for number in range(20):
                leaf.send(b"%d %d" % (who, number))

        sending = [background(send_all, leaf, who) for who, leaf in enumerate(leaves)]
        assert collected(hub, 20 * MANY) == {who: list(range(20)) for who in range(MANY)}
        for future in sending:
            future.result(BOUND)


def test_pub_fan_out_to_100_in_order() -> None:
    pub = Pub()
    with crowd(pub, Sub, subscribe="0") as subs:
        for number in range(20):
            pub.send(b"0 %d" % number)
            pub.send(b"1 %d" % number)  # of another topic
        for sub in subs:
            assert collected(sub, 20) == {0: list(range(20))}
        assert drops(pub) == {}


def test_sub_fan_in_of_100_in_order() -> None:
    sub = Sub(subscribe="", readq_len=20 * MANY)  # which drops its oldest else
    with crowd(sub, Pub) as pubs:
        for number in range(20):
            for who, pub in enumerate(pubs):
                pub.send(b"%d %d" % (who, number))
        assert collected(sub, 20 * MANY) == {who: list(range(20)) for who in range(MANY)}
        assert drops(sub) == {}


def test_push_fan_out_to_100_gives_each_20() -> None:
    push = Push()
    with crowd(push, Pull) as pulls:
        for number in range(20 * MANY):
            push.send(b"0 %d" % number, timeout=BOUND)
        shares = [collected(pull, 20)[0] for pull in pulls]
        assert all(share == sorted(share) for share in shares)
        assert sorted(itertools.chain(*shares)) == list(range(20 * MANY))


def test_pull_fan_in_of_100_in_order() -> None:
    pull = Pull(readq_len=10)  # so that they wait for each other
    with crowd(pull, Push) as pushes:
        for number in range(20):
            for who, push in enumerate(pushes):
                push.send(b"%d %d" % (who, number), timeout=BOUND)
        assert collected(pull, 20 * MANY) == {who: list(range(20)) for who in range(MANY)}
        assert drops(pull) == {}


@pytest.mark.parametrize("address", ["inproc", "tcp://127.0.0.1:0"], ids=["inproc", "tcp"])
def test_sub_hears_three_publishers_in_load_each_in_order(address: str) -> None:
    """Those that a full queue of the sub's loses are missing, and counted; none comes twice or out of its turn."""
    each = 5000
    with contextlib.ExitStack() as stack:
        pubs = [stack.enter_context(Pub(listen=inproc() if address == "inproc" else address)) for _ in range(3)]
        sub = stack.enter_context(Sub(subscribe=["0", "1", "2"], readq_len=1000))
        for pub in pubs:
            sub.dial(pub.listeners[0].address)
            wait_pipes(pub)

        def publish(pub: Pub, who: int) -> None:
            for number in range(each):
                pub.send(b"%d %d" % (who, number))

        def hear() -> dict[int, list[int]]:
            seen: dict[int, list[int]] = defaultdict(list)
            while (body := sub.recv(timeout=LONG)) != b"0 end":
                who, number = body.split()
                seen[int(who)].append(int(number))
            return seen

        hearing = background(hear)
        for future in [background(publish, pub, who) for who, pub in enumerate(pubs)]:
            future.result(LONG)
        congested = sum(drops(pub).get("congested", 0) for pub in pubs)
        eventually(lambda: sub.stats()["received"] + congested == 3 * each, LONG)
        pubs[0].send(b"0 end")
        seen = hearing.result(LONG)
        assert sum(map(len, seen.values())) + congested + drops(sub).get("displaced", 0) == 3 * each
        for numbers in seen.values():
            assert numbers == sorted(set(numbers))


# ---- clients that come and go


def clients_in_turn(count: int) -> None:
    """Each opens a socket of its own, asks, is answered, and goes; two at a time, for the sake of the second core."""
    with Rep(listen=inproc()) as rep:
        address = rep.listeners[0].address
        serving = background(serve_on, rep)
        numbers = itertools.count()
        done = threading.Semaphore(0)

        def come_and_go() -> None:
            while (number := next(numbers)) < count:
                with Req(dial=address) as req:
                    assert ask(req, b"%d" % number, timeout=LONG) == b"re %d" % number
                done.release()

        for future in [background(come_and_go) for _ in range(2)]:
            future.result(60.0 * count)
        for _ in range(count):
            assert done.acquire(blocking=False)
        wait_pipes(rep, 0)
        stats = rep.stats()
        assert (stats["accepted"], stats["received"], stats["sent"]) == (count, count, count)
        rep.close()
        serving.result(BOUND)


def test_1000_inproc_clients_in_turn() -> None:
    clients_in_turn(1000)


@soak
def test_inproc_clients_in_turn() -> None:
    """Ten thousand, and again, or as many as there is time for."""
    for _ in soaking():
        clients_in_turn(100)
