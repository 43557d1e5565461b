"""A peer goes while nobody receives what it had sent: that is seen at once, and what it had sent is kept."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator

import pytest
from helpers import eventually
from sockets.kit import BOUND, PAIR, PUSH, Record, Stranger, drops, inproc, numbered, wait_pipes

import spworkers as sp


@pytest.fixture
def directory() -> Iterator[str]:
    """A short path: a unix socket's may have about a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="spw") as name:
        yield name


def bodies(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def full(sock: sp.Socket, count: int) -> None:
    """Wait until a socket has read so many messages, of which its queue has no room for all."""
    eventually(lambda: sock.stats()["received"] == count, BOUND, what=f"{count} messages read")


@pytest.mark.parametrize("transport", ["tcp", "ipc", "shm", "inproc"])
def test_the_end_is_seen_and_nothing_is_lost(transport: str, directory: str) -> None:
    places = {"tcp": "tcp://127.0.0.1:0", "ipc": f"ipc://{directory}/s", "shm": f"shm://{directory}/s"}
    record = Record()
    with sp.Pull(readq_len=2) as pull:
        pull.set_pipe_event_hook(record)
        address = pull.listen(places.get(transport) or inproc()).address
        with sp.Push(dial=address) as push:
            for body in bodies(50):
                push.send(body)
            eventually(lambda: push.stats()["sent"] == 50, BOUND, what="everything sent")
        eventually(lambda: record.counts() == (1, 1, 1), BOUND, what="its end told")
        assert pull.pipes == []
        assert pull.stats()["pipes"] == 0
        assert [pull.recv(timeout=BOUND) for _ in range(50)] == bodies(50)
        assert record.counts() == (1, 1, 1)  # and not once more
        assert drops(pull) == {}


def test_a_reply_to_one_that_went_does_not_wait() -> None:
    with sp.Rep(listen=inproc(), send_deadline=BOUND) as rep:
        with sp.Req(raw=True, dial=rep.listeners[0].address) as req:
            for number in range(20):
                req.send_msg(numbered(number))
            eventually(lambda: req.stats()["sent"] == 20, BOUND, what="everything sent")
        wait_pipes(rep, 0)
        for number in range(10):  # the last ones may be taken back, once they all lie ready
            assert rep.recv(timeout=BOUND) == b"%d" % number
            rep.send(b"for nobody")
        eventually(lambda: drops(rep).get("unsent") == 10, BOUND, what="every reply counted")


def test_what_is_sent_then_goes_to_the_next_peer() -> None:
    with sp.Pair(listen="tcp://127.0.0.1:0", readq_len=1) as pair:
        address = pair.listeners[0].address
        with Stranger(address, PAIR, bodies(10)):
            full(pair, 10)
        wait_pipes(pair, 0)
        for number in range(3):
            pair.send(b"answer %d" % number)
        assert [pair.recv(timeout=BOUND) for _ in range(10)] == bodies(10)
        with sp.Pair(dial=address, reconnect_time=0.01) as other:
            assert [other.recv(timeout=BOUND) for _ in range(3)] == [b"answer %d" % number for number in range(3)]
        assert drops(pair) == {}


def test_what_a_closed_pipe_had_brought_is_counted() -> None:
    with sp.Pull(listen="tcp://127.0.0.1:0", readq_len=2) as pull:
        with Stranger(pull.listeners[0].address, PUSH, bodies(50)):
            full(pull, 50)
            pull.pipes[0].close()
            wait_pipes(pull, 0)
        assert [pull.recv(timeout=BOUND) for _ in range(2)] == bodies(2)
        assert drops(pull) == {"pipe_lost": 48}


def test_it_counts_against_max_pipes_until_it_is_closed() -> None:
    with sp.Pull(listen="tcp://127.0.0.1:0", readq_len=1, max_pipes=1) as pull:
        address = pull.listeners[0].address
        with Stranger(address, PUSH, bodies(10)):
            full(pull, 10)
        wait_pipes(pull, 0)
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        with socket.create_connection((host, int(port)), BOUND) as another:
            another.settimeout(BOUND)
            assert another.recv(8) == b""  # turned away
        assert [pull.recv(timeout=BOUND) for _ in range(10)] == bodies(10)
        with sp.Push(dial=address, dial_asynch=True, reconnect_time=0.01) as push:
            push.send(b"now")
            assert pull.recv(timeout=BOUND) == b"now"


def test_a_dialer_dials_again_and_leaves_one_descriptor_at_most() -> None:
    """A server that sends and hangs up, again and again, to somebody who does not receive."""
    with socket.create_server(("127.0.0.1", 0)) as server, sp.Pull(readq_len=1, reconnect_time=0.01) as pull:
        server.settimeout(BOUND)
        pull.dial(f"tcp://127.0.0.1:{server.getsockname()[1]}", dial_asynch=True)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(BOUND)
                connection.sendall(b"\0SP\0\0\x50\0\0" + b"".join((1).to_bytes(8, "big") + b"x" for _ in range(5)))
                assert len(connection.recv(8, socket.MSG_WAITALL)) == 8

        serve()
        full(pull, 5)
        serve()
        full(pull, 10)
        wait_pipes(pull, 0)
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            serve()
        server.settimeout(BOUND)
        assert [pull.recv(timeout=BOUND) for _ in range(10)] == [b"x"] * 10
        serve()


def test_raw_rep_keeps_the_order_too(directory: str) -> None:
    with sp.Rep(raw=True, listen=f"ipc://{directory}/s", readq_len=1) as rep:
        with sp.Req(raw=True, dial=rep.listeners[0].address) as req:
            for number in range(10):
                req.send_msg(numbered(number))
            eventually(lambda: req.stats()["sent"] == 10, BOUND, what="everything sent")
        wait_pipes(rep, 0)
        for number in range(10):
            message = rep.recv_msg(timeout=BOUND)
            assert message.body == b"%d" % number
            rep.send_msg(message)
        eventually(lambda: sum(drops(rep).values()) == 10, BOUND, what="every reply counted")
