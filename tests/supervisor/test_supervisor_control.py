"""The thread that listens: requests from any thread, answers, interruptions, and channels that end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import eventually
from supervising import open_fds, run_script

from spworkers.channel import Channel
from spworkers.errors import (
    AddrInUseError,
    ChannelClosedError,
    ClosedError,
    ConnTimeoutError,
    GarbledError,
    InternalError,
    ResourceError,
    SPError,
)
from spworkers.messages import Message, answer, failure
from spworkers.packet import close_fds
from spworkers.supervisor.control import Control

QUESTION = {"t": "stats"}


class Line:
    """A registered channel, and its other end in the hands of the test."""

    def __init__(self, control: Control, **more: Any) -> None:
        self.control = control
        self.channel, self.other = Channel.pair()
        self.heard: list[tuple[Message, int]] = []
        self.closed: list[bool] = []
        control.register(self.channel, self.hear, lambda: self.closed.append(True), **more)

    def hear(self, message: Message, fds: list[int]) -> None:
        self.heard.append((message, len(fds)))
        close_fds(fds)

    def ask(self, **more: Any) -> Any:
        return self.control.ask(self.channel, QUESTION, **more)[0]

    def asking(self, **more: Any) -> Asking:
        return Asking(lambda: self.ask(**more))


class Asking:
    """A thread that asks, and what came of it."""

    def __init__(self, ask: Any) -> None:
        self.result: Any = None
        self.error: SPError | None = None
        self._thread = threading.Thread(target=self._run, args=(ask,))
        self._thread.start()

    def _run(self, ask: Any) -> None:
        try:
            self.result = ask()
        except SPError as error:
            self.error = error

    def join(self) -> Any:
        self._thread.join(20.0)
        assert not self._thread.is_alive()
        return self.error if self.error is not None else self.result


@pytest.fixture
def control() -> Iterator[Control]:
    made = Control()
    yield made
    made.stop()
    made.close_in_child()


def test_an_answer_wakes_who_asked(control: Control) -> None:
    line = Line(control)
    one, two = line.asking(), line.asking()
    ids = [line.other.recv(timeout=10).message["id"] for _ in range(2)]
    for number in reversed(ids):
        line.other.send(answer(number, number))
    assert {one.join(), two.join()} == set(ids)


def test_an_error_is_raised_as_it_was(control: Control) -> None:
    line = Line(control)
    asking = line.asking()
    line.other.send(failure(line.other.recv(timeout=10).message["id"], AddrInUseError("taken")))
    error = asking.join()
    assert isinstance(error, AddrInUseError)
    assert str(error) == "taken"


def test_descriptors_go_along(control: Control) -> None:
    line = Line(control)
    read, write = os.pipe()
    asking = Asking(
        lambda: control.ask(line.channel, {"t": "open_context", "index": 1, "options": {}}, [read, write])[0]
    )
    message, fds = line.other.recv(timeout=10)
    line.other.send(answer(message["id"]), fds)  # an answer's are closed: nobody asked for them
    assert asking.join() is None
    close_fds([*fds, read, write])


def test_what_is_no_answer_goes_to_the_callback(control: Control) -> None:
    line = Line(control)
    line.other.send({"t": "client", "key": "k"}, [0])
    eventually(lambda: line.heard == [({"t": "client", "key": "k"}, 1)])


def test_an_answer_that_nobody_waits_for_is_dropped(control: Control) -> None:
    line = Line(control)
    before = open_fds()
    line.other.send(answer(77), [0, 1])
    line.other.send({"t": "stop", "grace": 0})
    eventually(lambda: line.heard)
    assert open_fds() <= before


def test_a_timeout(control: Control) -> None:
    line = Line(control)
    with pytest.raises(ConnTimeoutError, match=r"no answer to 'stats' within 0\.05 s"):
        line.ask(timeout=0.05)
    with pytest.raises(ConnTimeoutError):
        line.ask(timeout=0)
    first = line.other.recv(timeout=10).message["id"]
    line.other.send(answer(first))  # too late: dropped
    eventually(lambda: "0 requests" in repr(control))


def test_an_interruption_ends_the_waiting_at_once(control: Control) -> None:
    line = Line(control)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        line.other.recv(timeout=10)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        line.ask()
    assert time.monotonic() - began < 5.0
    thread.join()
    eventually(lambda: "0 requests" in repr(control))


def test_a_signals_handler_may_ask_too(control: Control) -> None:
    line = Line(control)
    answers: list[Any] = []

    def serve() -> None:
        for number in range(2):
            message = line.other.recv(timeout=10).message
            if number == 0:
                os.kill(os.getpid(), signal.SIGUSR1)
                outer = message["id"]
            else:
                line.other.send(answer(message["id"], "inner"))
        line.other.send(answer(outer, "outer"))

    former = signal.signal(signal.SIGUSR1, lambda *_: answers.append(line.ask()))
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        answers.append(line.ask())
    finally:
        signal.signal(signal.SIGUSR1, former)
        thread.join()
    assert answers == ["inner", "outer"]


def test_a_callback_that_asks_is_told_so(control: Control) -> None:
    errors: list[Exception] = []
    line = Line(control)

    def hear(message: Message, fds: list[int]) -> None:
        try:
            line.ask()
        except InternalError as error:
            errors.append(error)

    other, theirs = Channel.pair()
    control.register(other, hear)
    theirs.send({"t": "stop", "grace": 0})
    eventually(lambda: errors)
    assert "which would wait for itself" in str(errors[0])


def test_a_callback_that_fails_hinders_nobody(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    def hear(message: Message, fds: list[int]) -> None:
        raise ZeroDivisionError("in the callback")

    bad, theirs = Channel.pair()
    control.register(bad, hear)
    line = Line(control)
    theirs.send({"t": "stop", "grace": 0})
    line.other.send({"t": "stop", "grace": 0})
    eventually(lambda: line.heard)
    eventually(lambda: "in the callback" in caplog.text)


def test_the_end_of_a_channel_fails_its_requests(control: Control) -> None:
    line = Line(control)
    asking = line.asking()
    line.other.recv(timeout=10)
    line.other.close()
    assert isinstance(asking.join(), ChannelClosedError)
    eventually(lambda: line.closed == [True])
    with pytest.raises((ChannelClosedError, ClosedError)):
        line.ask()


def test_garbage_is_the_end_too(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    line = Line(control)
    asking = line.asking()
    line.other.recv(timeout=10)
    os.write(line.other.fileno(), b"\xc1")
    assert isinstance(asking.join(), GarbledError)
    eventually(lambda: line.closed)
    assert "no msgpack" in caplog.text


def test_unregister_fails_what_is_not_answered(control: Control) -> None:
    line = Line(control)
    asking = line.asking()
    line.other.recv(timeout=10)
    control.unregister(line.channel)
    control.unregister(line.channel)
    assert type(asking.join()) is ClosedError
    line.channel.close()
    with pytest.raises(ChannelClosedError):
        line.other.recv(timeout=10)
    assert not line.closed


def test_each_waiter_has_an_error_of_its_own(control: Control) -> None:
    line = Line(control)
    askings = [line.asking() for _ in range(3)]
    for _ in askings:
        line.other.recv(timeout=10)
    line.other.close()
    assert len({id(asking.join()) for asking in askings}) == 3


def test_a_channel_that_was_closed_behind_our_back(control: Control) -> None:
    line = Line(control)
    eventually(lambda: line.other.try_send({"t": "stop", "grace": 0}) and line.heard)
    asking = line.asking()
    line.other.recv(timeout=10)
    number = line.channel.fileno()
    line.channel.close()
    second = Line(control)  # it has the first one's number
    assert second.channel.fileno() == number
    second.other.send({"t": "stop", "grace": 0})
    eventually(lambda: second.heard)
    assert isinstance(asking.join(), (ChannelClosedError, ClosedError))
    eventually(lambda: line.closed)
    control.unregister(line.channel)
    second.other.send({"t": "stop", "grace": 0})
    eventually(lambda: len(second.heard) == 2)


def test_a_successor_is_asked_again(control: Control) -> None:
    line = Line(control)
    askings = [line.asking() for _ in range(3)]
    first = [line.other.recv(timeout=10).message for _ in range(3)]
    line.other.send({"t": "hello", "generation": 1})
    line.other.send({"t": "hello", "generation": 2})
    again = [line.other.recv(timeout=10).message for _ in range(3)]
    assert again == sorted(first, key=lambda message: message["id"])
    assert line.other.recv_ready() is None  # the hello of a first generation asks for nothing
    for message in again:
        line.other.send(answer(message["id"]))
    assert [asking.join() for asking in askings] == [None] * 3
    assert [message["generation"] for message, _ in line.heard] == [1, 2]


def test_a_successor_is_told_again_what_is_to_be_done(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever was told first may have died over it."""
    line = Line(control)
    read, write = os.pipe()
    control.entrust(line.channel, {"t": "client", "key": "x"}, [write])
    control.entrust(line.channel, {"t": "pipes"})
    first = [line.other.recv(timeout=10) for _ in range(2)]
    line.other.send(answer(first[1].message["id"]))
    line.other.send({"t": "hello", "generation": 2})
    again = line.other.recv(timeout=10)
    assert again.message == first[0].message
    line.other.send(failure(again.message["id"], ResourceError("it cannot be done")))
    eventually(lambda: "it cannot be done" in caplog.text)
    line.other.send({"t": "hello", "generation": 3})
    eventually(lambda: len(line.heard) == 2)
    assert line.other.recv_ready() is None
    close_fds([write, *first[0].fds, *again.fds])
    assert os.read(read, 1) == b""  # nobody holds what went along any more
    os.close(read)


def test_what_is_to_be_done_ends_with_its_channel(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    line = Line(control, carry=True)
    control.entrust(line.channel, QUESTION)
    line.other.recv(timeout=10)
    line.other.close()
    eventually(lambda: line.closed)
    eventually(lambda: "0 requests" in repr(control))
    with pytest.raises(ChannelClosedError):
        control.entrust(line.channel, QUESTION)
    assert not caplog.text


def test_what_is_carried_waits_for_another_channel(control: Control) -> None:
    line = Line(control, carry=True)
    asking = line.asking()
    line.other.recv(timeout=10)
    line.other.close()
    eventually(lambda: line.closed)
    late = line.asking()
    eventually(lambda: "2 requests" in repr(control))
    second = Line(control)
    control.transfer(line.channel, second.channel)
    for _ in range(2):
        message = second.other.recv(timeout=10).message
        second.other.send(answer(message["id"], "there"))
    assert (asking.join(), late.join()) == ("there", "there")
    with pytest.raises(ClosedError):
        line.ask()


def test_what_is_not_carried_fails(control: Control) -> None:
    line = Line(control, carry=True)
    asking = line.asking(carried=False)
    line.other.recv(timeout=10)
    line.other.close()
    assert isinstance(asking.join(), ChannelClosedError)


def test_what_is_abandoned_fails(control: Control) -> None:
    line = Line(control, carry=True)
    asking = line.asking()
    line.other.recv(timeout=10)
    line.other.close()
    eventually(lambda: line.closed)
    control.abandon(line.channel, ResourceError("no more"))
    assert isinstance(asking.join(), ResourceError)


def test_what_there_is_no_room_for_is_sent_later(control: Control) -> None:
    line = Line(control)
    verdict = {"t": "verdict", "event": 1, "accept": True}
    for _ in range(1000):
        control.post(line.channel, verdict)
    asking = line.asking()
    for _ in range(1000):
        assert line.other.recv(timeout=10).message == verdict
    line.other.send(answer(line.other.recv(timeout=10).message["id"], "last"))
    assert asking.join() == "last"


def test_who_never_reads_is_told_nothing_more(control: Control) -> None:
    line = Line(control)
    with pytest.raises(ResourceError, match="does not read"):
        for _ in range(10_000):
            control.post(line.channel, {"t": "verdict", "event": 1, "accept": True})


def test_a_post_to_nobody(control: Control) -> None:
    line = Line(control)
    line.other.close()
    eventually(lambda: line.closed)
    with pytest.raises((ChannelClosedError, ClosedError)):
        while True:
            control.post(line.channel, {"t": "verdict", "event": 1, "accept": True})


def test_many_threads_and_channels(control: Control) -> None:
    lines = [Line(control) for _ in range(5)]
    over = threading.Event()

    def serve(line: Line) -> None:
        while not over.is_set():
            try:
                message = line.other.recv(timeout=0.1).message
            except ConnTimeoutError:
                continue
            line.other.send(answer(message["id"], message["id"]))

    servers = [threading.Thread(target=serve, args=(line,)) for line in lines]
    for server in servers:
        server.start()
    askings = [Asking(lambda line=line: [line.ask() for _ in range(100)]) for line in lines * 3]
    answers = [number for asking in askings for number in asking.join()]
    over.set()
    for server in servers:
        server.join()
    assert len(set(answers)) == len(answers) == 1500


def test_after_the_end_everything_fails(control: Control) -> None:
    line = Line(control)
    asking = line.asking()
    line.other.recv(timeout=10)
    control.stop()
    assert isinstance(asking.join(), ClosedError)
    with pytest.raises(ClosedError, match="interpreter exits"):
        line.ask()
    with pytest.raises(ClosedError):
        Line(control)
    control.unregister(line.channel)


def test_the_thread_takes_no_signals(control: Control) -> None:
    Line(control)
    thread = control._thread
    assert thread is not None
    assert thread.daemon
    with open(f"/proc/self/task/{thread.native_id}/status") as file:
        [mask] = [int(line.split()[1], 16) for line in file if line.startswith("SigBlk")]
    assert mask & (1 << (signal.SIGINT - 1))


def test_a_request_at_the_interpreters_exit() -> None:
    script = """
        import atexit
        from spworkers.errors import ClosedError
        late = []
        def ask():
            try:
                sup.spawn("late", "test", {"entry": "roles:idle"})
            except ClosedError as error:
                print(error)
        atexit.register(ask)  # before ours, so it is called after it
        from spworkers.supervisor.client import get_supervisor
        sup = get_supervisor()
        sup.spawn("child", "test", {"entry": "roles:idle"})
        atexit.register(lambda: print(sup.end("child", grace=1.0)))
    """
    assert run_script(script) == ("exit code 0\nthe supervisor was closed\n", "")
