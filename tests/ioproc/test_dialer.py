"""The dialer: its states, its waits, what ends it. Time is virtual, peers are scripted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers import aeventually
from hypothesis import given, settings
from hypothesis import strategies as st
from transport.support import LOOPS, PAIR, PULL, PUSH, ScriptedTransport, VirtualClock, greeting, on_loops, run, turns

from spworkers.errors import (
    AddrInUseError,
    BadAddrError,
    BadHeaderError,
    BadTranError,
    ClosedError,
    ConnRefusedError,
    ConnResetError,
    ConnTimeoutError,
    InternalError,
    NetworkError,
)
from spworkers.ioproc.dialer import SHORTEST_WAIT, DialerDriver, State
from spworkers.transport.base import Link

GOOD = greeting(PULL)
REFUSED = ConnRefusedError("fake://x: refused")


class Rig:
    """A dialer with everything around it faked."""

    def __init__(self, *answers: Any, jitter: float = 1.3, **options: object) -> None:
        self.transport = ScriptedTransport(*answers)
        self.clock = VirtualClock()
        self.links: list[Link] = []
        self.causes: list[str] = []
        self.verdicts: list[Any] = []
        self.options: dict[str, object] = {"RECONNECT-TIME": 0.05, **options}
        self.jitters: list[tuple[float, float]] = []
        self.jitter = jitter
        self.driver = DialerDriver(
            7,
            "fake://x",
            self.options,
            own=PUSH,
            peer=PULL,
            on_link=self.on_link,
            loop=asyncio.get_running_loop(),
            count=self.causes.append,
            transport=self.transport,
            clock=self.clock,
            jitter=self.draw,
        )

    def draw(self, low: float, high: float) -> float:
        self.jitters.append((low, high))
        return self.jitter

    def on_link(self, link: Link, driver: DialerDriver) -> Any:
        assert driver is self.driver
        self.links.append(link)
        verdict = self.verdicts.pop(0) if self.verdicts else True
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict

    async def reaches(self, state: State) -> None:
        await aeventually(lambda: self.driver.state is state)

    def lose_pipe(self) -> None:
        self.links[-1].close()
        self.driver.pipe_closed()

    async def fail(self, *answers: BaseException) -> None:
        """Let so many attempts fail, one after the other."""
        for answer in answers:
            self.transport.answers.append(answer)
            self.clock.advance()
            await self.reaches(State.WAITING)


@contextlib.asynccontextmanager
async def rig(*answers: Any, **options: Any) -> AsyncIterator[Rig]:
    made = Rig(*answers, **options)
    try:
        yield made
    finally:
        made.driver.close()
        await made.driver.wait_closed()
        assert made.clock.pending == 0
        for link in made.links:
            link.close()
        made.transport.close()


# --- A synchronous dial


@on_loops
async def test_dial_returns_when_the_pipe_is_attached() -> None:
    async with rig(GOOD) as it:
        assert (it.driver.state, it.driver.address, it.driver.key) == (State.IDLE, "fake://x", 7)
        await it.driver.dial()
        assert it.driver.state is State.ATTACHED
        assert it.links[0].sock.fileno() >= 0
        assert it.transport.peers[0].recv(100) == greeting(PUSH)
        assert (it.clock.waits, it.causes, it.driver.failure) == ([], [], None)


@on_loops
async def test_dial_waits_for_the_verdict() -> None:
    async with rig(GOOD) as it:
        verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        it.verdicts.append(verdict)
        dialing = asyncio.ensure_future(it.driver.dial())
        await it.reaches(State.ATTACHING)
        await turns()
        assert not dialing.done()
        verdict.set_result(True)
        await dialing
        assert it.driver.state is State.ATTACHED


@on_loops
async def test_the_first_failure_is_final_and_it_can_be_dialled_again() -> None:
    async with rig(REFUSED, REFUSED, GOOD) as it:
        for _ in range(2):
            with pytest.raises(ConnRefusedError) as caught:
                await it.driver.dial()
            assert caught.value is REFUSED
            assert it.driver.state is State.IDLE
            assert it.driver.failure is REFUSED
        assert it.clock.waits == []
        await it.driver.dial()
        assert it.driver.state is State.ATTACHED
        assert it.driver.failure is None
        assert it.causes == ["dial_failed"] * 2


@on_loops
async def test_a_bad_handshake_is_a_failure_like_others() -> None:
    async with rig(b"HTTP/1.1", b"\0SP", GOOD) as it:
        with pytest.raises(BadHeaderError, match="handshake with there"):
            await it.driver.dial()
        dialing = asyncio.ensure_future(it.driver.dial())
        await aeventually(lambda: len(it.transport.peers) == 2)
        it.transport.peers[1].close()
        with pytest.raises(ConnResetError):
            await dialing
        assert it.causes == ["bad_header", "handshake_closed"]
        assert it.links == []
        await it.driver.dial()


@on_loops
async def test_handshake_timeout_bounds_the_connecting_too() -> None:
    never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    async with rig(never, b"", **{"HANDSHAKE-TIMEOUT": 0.02}) as it:
        with pytest.raises(ConnTimeoutError, match=r"dial fake://x: no connection after 0.02 s \(HANDSHAKE-TIMEOUT\)"):
            await it.driver.dial()
        assert it.transport.cancelled == 1
        with pytest.raises(ConnTimeoutError, match="connected, but no handshake"):
            await it.driver.dial()
        assert it.causes == ["dial_failed", "handshake_timeout"]


@on_loops
async def test_twice_is_once_too_often() -> None:
    never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    async with rig(never) as it:
        dialing = asyncio.ensure_future(it.driver.dial())
        await it.reaches(State.DIALING)
        with pytest.raises(AddrInUseError, match="dial fake://x: this dialer is active"):
            await it.driver.dial()
        never.set_result(GOOD)
        await dialing
        with pytest.raises(AddrInUseError):
            await it.driver.dial()
        it.lose_pipe()
        with pytest.raises(AddrInUseError):  # waiting
            await it.driver.dial()


@on_loops
async def test_a_caller_that_gives_up_leaves_an_idle_dialer() -> None:
    never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    async with rig(never, GOOD) as it:
        dialing = asyncio.ensure_future(it.driver.dial())
        await it.reaches(State.DIALING)
        await turns()
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
        assert it.driver.state is State.IDLE
        await it.driver.dial()
        assert it.transport.cancelled == 1
        assert it.driver.state is State.ATTACHED


@on_loops
async def test_a_caller_that_gives_up_when_the_attempt_fails() -> None:
    answer: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    async with rig(answer) as it:
        dialing = asyncio.ensure_future(it.driver.dial())
        await it.reaches(State.DIALING)
        await turns()
        answer.set_result(REFUSED)
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
        await turns()
        assert it.driver.state is State.IDLE  # and not trying in the background for nobody


@on_loops
async def test_a_caller_that_gives_up_while_the_hub_decides_does_not_disturb_it() -> None:
    async with rig(GOOD) as it:
        verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        it.verdicts.append(verdict)
        dialing = asyncio.ensure_future(it.driver.dial())
        await it.reaches(State.ATTACHING)
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
        verdict.set_result(True)
        await it.reaches(State.ATTACHED)
        assert it.links[0].sock.fileno() >= 0


# --- In the background


@on_loops
async def test_dial_asynch_returns_at_once_and_goes_on_trying() -> None:
    async with rig(REFUSED, **{"DIAL-ASYNCH": True}) as it:
        await it.driver.dial()
        assert it.driver.state is State.DIALING
        await it.reaches(State.WAITING)
        await it.fail(REFUSED, NetworkError("no route"))
        assert isinstance(it.driver.failure, NetworkError)
        it.transport.answers.append(GOOD)
        it.clock.advance()
        await it.reaches(State.ATTACHED)
        assert it.clock.waits == [0.05] * 3
        assert it.transport.dials == 4


@on_loops
async def test_a_lost_pipe_is_dialled_again_after_the_wait() -> None:
    async with rig(GOOD, GOOD) as it:
        await it.driver.dial()
        it.lose_pipe()
        assert (it.driver.state, it.clock.waits, it.transport.dials) == (State.WAITING, [0.05], 1)
        it.clock.advance()
        await it.reaches(State.ATTACHED)
        assert len(it.links) == 2


@on_loops
async def test_failures_after_the_first_pipe_are_not_final() -> None:
    async with rig(GOOD) as it:
        await it.driver.dial()
        it.lose_pipe()
        await it.fail(REFUSED, REFUSED)
        assert it.clock.waits == [0.05] * 3


@on_loops
async def test_the_back_off() -> None:
    async with rig(GOOD, **{"MAX-RECONNECT-TIME": 0.1}) as it:
        await it.driver.dial()
        it.lose_pipe()
        await it.fail(*[REFUSED] * 5)
        # The current wait after the pipe, the current wait after the first failure, and from then on it grows.
        assert it.clock.waits == pytest.approx([0.05, 0.05, 0.065, 0.0845, 0.1, 0.1])
        assert set(it.jitters) == {(1.1, 1.5)}
        it.transport.answers.append(GOOD)
        it.clock.advance()
        await it.reaches(State.ATTACHED)
        it.lose_pipe()  # a success has reset it
        assert it.clock.waits[-1] == 0.05


@on_loops
async def test_the_back_off_of_the_reference() -> None:
    """RECONNECT-TIME 50 ms, MAX-RECONNECT-TIME 2 s: 51 63 91 111 161 184 274 313 366 503 ms were measured."""
    async with rig(REFUSED, **{"MAX-RECONNECT-TIME": 2.0, "DIAL-ASYNCH": True}) as it:
        it.driver._jitter = random.Random(1).uniform
        await it.driver.dial()
        await it.reaches(State.WAITING)
        await it.fail(*[REFUSED] * 20)
        waits = it.clock.waits
        assert waits[0] == 0.05
        for before, after in itertools.pairwise(waits):
            assert before * 1.1 <= after <= before * 1.5 or after == 2.0
        assert waits[-1] == 2.0


@on_loops
async def test_a_peer_that_accepts_and_closes_is_dialled_without_back_off() -> None:
    async with rig(*[GOOD] * 12, **{"MAX-RECONNECT-TIME": 2.0}) as it:
        await it.driver.dial()
        for _ in range(11):
            it.lose_pipe()
            it.clock.advance()
            await it.reaches(State.ATTACHED)
        assert it.clock.waits == [0.05] * 11


@on_loops
async def test_options_are_live() -> None:
    async with rig(REFUSED, **{"DIAL-ASYNCH": True}) as it:
        assert it.driver.options is it.options
        await it.driver.dial()
        await it.reaches(State.WAITING)
        it.options["RECONNECT-TIME"] = 0.5
        await it.fail(REFUSED)
        it.options["MAX-RECONNECT-TIME"] = 100.0
        await it.fail(REFUSED, REFUSED)
        assert it.clock.waits == pytest.approx([0.05, 0.5, 0.5, 0.65])
        it.options["MAX-RECONNECT-TIME"] = 0.0
        await it.fail(REFUSED)
        assert it.clock.waits[-1] == 0.5


@on_loops
async def test_a_reconnect_time_of_nothing_does_not_spin() -> None:
    async with rig(REFUSED, **{"DIAL-ASYNCH": True, "RECONNECT-TIME": 0.0}) as it:
        await it.driver.dial()
        await it.reaches(State.WAITING)
        it.options["MAX-RECONNECT-TIME"] = 1.0
        await it.fail(REFUSED, REFUSED)
        assert it.clock.waits == pytest.approx([SHORTEST_WAIT, SHORTEST_WAIT, SHORTEST_WAIT * 1.3])


# --- Refusals


@on_loops
async def test_a_refused_link_is_closed_and_dialled_again() -> None:
    async with rig(GOOD, GOOD, **{"MAX-RECONNECT-TIME": 2.0}) as it:
        it.verdicts += [False, True]
        await it.driver.dial()  # as in mangos: the dial has succeeded
        assert it.driver.state is State.WAITING
        assert it.links[0].sock.fileno() == -1
        it.transport.peers[0].settimeout(10)
        assert it.transport.peers[0].recv(100) == greeting(PUSH)
        assert it.transport.peers[0].recv(100) == b""
        it.clock.advance()
        await it.reaches(State.ATTACHED)
        assert it.clock.waits == [0.05]


@on_loops
async def test_a_refusal_does_not_reset_the_back_off() -> None:
    async with rig(REFUSED, **{"MAX-RECONNECT-TIME": 2.0, "DIAL-ASYNCH": True}) as it:
        await it.driver.dial()
        await it.reaches(State.WAITING)
        await it.fail(REFUSED)
        it.verdicts.append(False)
        it.transport.answers.append(GOOD)
        it.clock.advance()
        await aeventually(lambda: it.links)
        await it.reaches(State.WAITING)
        assert it.clock.waits == pytest.approx([0.05, 0.065, 0.0845])


@on_loops
async def test_a_hub_that_raises_has_refused() -> None:
    async with rig(GOOD) as it:
        it.verdicts.append(RuntimeError("our bug"))
        it.driver.transport = it.transport
        with recorded("spworkers.ioproc.offering") as records:
            await it.driver.dial()
        assert it.driver.state is State.WAITING
        assert it.links[0].sock.fileno() == -1
        assert records[0].exc_info


@contextlib.contextmanager
def recorded(name: str) -> Any:
    """The log records of one logger."""
    records: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger, handler = logging.getLogger(name), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@on_loops
async def test_a_pipe_that_goes_before_the_verdict_has_come() -> None:
    async with rig(GOOD) as it:
        verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        it.verdicts.append(verdict)
        dialing = asyncio.ensure_future(it.driver.dial())
        await it.reaches(State.ATTACHING)
        it.lose_pipe()
        verdict.set_result(True)
        await dialing
        assert it.driver.state is State.WAITING
        assert it.clock.waits == [0.05]
        it.transport.answers.append(GOOD)
        it.clock.advance()
        await it.reaches(State.ATTACHED)  # the next one is not taken for lost
        assert it.clock.waits == [0.05]


@on_loops
async def test_a_pipe_that_is_refused_and_gone_is_dialled_once() -> None:
    async with rig(GOOD) as it:
        verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        it.verdicts.append(verdict)
        dialing = asyncio.ensure_future(it.driver.dial())
        await it.reaches(State.ATTACHING)
        it.lose_pipe()
        verdict.set_result(False)
        await dialing
        it.driver.pipe_closed()
        assert it.clock.waits == [0.05]


# --- The end


@on_loops
async def test_close_ends_a_pending_dial_at_once() -> None:
    never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    for answer in (never, b""):  # connecting; shaking hands
        async with rig(answer) as it:
            dialing = asyncio.ensure_future(it.driver.dial())
            await it.reaches(State.DIALING)
            await turns()
            it.driver.close()
            with pytest.raises(ClosedError, match="dial fake://x: this dialer is closed"):
                await dialing
            await it.driver.wait_closed()
            assert it.causes == []
            for peer in it.transport.peers:
                peer.settimeout(10)
                assert peer.recv(100) == greeting(PUSH)
                assert peer.recv(100) == b""


@on_loops
async def test_close_before_the_first_step() -> None:
    async with rig(GOOD) as it:
        dialing = asyncio.ensure_future(it.driver.dial())
        await asyncio.sleep(0)
        it.driver.close()
        with pytest.raises(ClosedError):
            await dialing
        assert it.transport.dials == 0


@on_loops
async def test_close_stops_the_timer_and_leaves_the_pipe() -> None:
    async with rig(GOOD) as it:
        await it.driver.dial()
        it.driver.close()
        assert it.links[0].sock.fileno() >= 0
        it.lose_pipe()
        assert it.clock.waits == []
    async with rig(GOOD) as it:
        await it.driver.dial()
        it.lose_pipe()
        assert it.clock.pending == 1
        it.driver.close()
        assert it.clock.pending == 0


@on_loops
async def test_close_while_the_hub_decides() -> None:
    for accepted in (True, False):
        async with rig(GOOD) as it:
            verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            it.verdicts.append(verdict)
            dialing = asyncio.ensure_future(it.driver.dial())
            await it.reaches(State.ATTACHING)
            it.driver.close()
            with pytest.raises(ClosedError):
                await dialing
            verdict.set_result(accepted)
            await it.driver.wait_closed()
            assert it.driver.state is State.CLOSED
            assert (it.links[0].sock.fileno() >= 0) == accepted
            assert it.clock.waits == []


@on_loops
async def test_a_closed_dialer_stays_closed() -> None:
    async with rig() as it:
        it.driver.close()
        it.driver.close()
        with pytest.raises(ClosedError):
            await it.driver.dial()
        it.driver.pipe_closed()
        assert it.driver.state is State.CLOSED


# --- The rest


@on_loops
async def test_wrong_addresses_are_refused_when_it_is_made() -> None:
    def make(address: str) -> None:
        DialerDriver(1, address, {}, own=PAIR, peer=PAIR, on_link=lambda *_: True, loop=asyncio.get_running_loop())

    with pytest.raises(BadTranError):
        make("nowhere")
    with pytest.raises(BadAddrError):
        make("tcp://localhost")


@on_loops
async def test_errors_of_a_transport_become_ours() -> None:
    async with rig(OSError(101, "Network is unreachable"), ZeroDivisionError("a bug")) as it:
        with pytest.raises(NetworkError, match="dial fake://x: Network is unreachable") as caught:
            await it.driver.dial()
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(InternalError, match="ZeroDivisionError: a bug") as other:
            await it.driver.dial()
        assert isinstance(other.value.__cause__, ZeroDivisionError)


@on_loops
async def test_what_it_says() -> None:
    with recorded("spworkers.ioproc.dialer") as records:
        async with rig(b"HTTP/1.1", REFUSED) as it:
            with pytest.raises(BadHeaderError):
                await it.driver.dial()
            assert repr(it.driver) == "<DialerDriver 7 fake://x: idle after BadHeaderError>"
            it.options["DIAL-ASYNCH"] = True
            await it.driver.dial()
            await it.reaches(State.WAITING)
            assert repr(it.driver) == "<DialerDriver 7 fake://x: waiting after ConnRefusedError>"
    assert "handshake with there" in records[0].getMessage()
    assert "next attempt in 0.050 s" in records[1].getMessage()
    assert {record.levelno for record in records} == {logging.DEBUG}


# --- Anything in any order

EVENTS = ("dial", "fails", "succeeds", "garbage", "refused", "time", "pipe_closed", "close")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(EVENTS), max_size=25),
    st.booleans(),
    st.floats(0, 10),
    st.floats(0, 10),
)
def test_any_order_of_events(events: list[str], asynch: bool, shortest: float, longest: float) -> None:
    async def play() -> None:
        options = {"DIAL-ASYNCH": asynch, "RECONNECT-TIME": shortest, "MAX-RECONNECT-TIME": longest}
        async with rig(**options) as it:
            pending: asyncio.Future[Any] | None = None
            callers: list[asyncio.Future[None]] = []
            for event in events:
                state = it.driver.state
                if state is State.DIALING and event in ("fails", "succeeds", "garbage", "refused") and pending:
                    it.verdicts = [event == "succeeds"] if event != "garbage" else []
                    pending.set_result({"fails": REFUSED, "garbage": b"junkjunk"}.get(event, GOOD))
                    await aeventually(lambda: it.driver.state not in (State.DIALING, State.ATTACHING))
                elif (event, state) in (("dial", State.IDLE), ("time", State.WAITING)):
                    pending = asyncio.get_running_loop().create_future()
                    it.transport.answers = [pending]
                    if event == "dial":
                        callers.append(asyncio.ensure_future(it.driver.dial()))
                    else:
                        it.clock.advance()
                elif event == "pipe_closed":
                    it.driver.pipe_closed()
                elif event == "close":
                    it.driver.close()
                await turns()
                now = it.driver.state
                assert it.clock.pending == (now is State.WAITING)
                assert state is not State.CLOSED or now is State.CLOSED
                assert it.transport.dials <= it.transport.cancelled + len(it.links) + len(it.causes) + (
                    now is State.DIALING
                )
            limit = max(shortest, longest, SHORTEST_WAIT)
            assert all(SHORTEST_WAIT <= wait <= limit for wait in it.clock.waits)
            it.driver.close()
            await asyncio.gather(*callers, return_exceptions=True)

    run(LOOPS["asyncio"], play())
