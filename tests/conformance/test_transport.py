"""What every transport does alike; each one's own rules are tested in tests/transport."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import eventually
from sockets.kit import BOUND, Record, drops, inproc, joined, wait_pipes

import spworkers as sp
from conformance.common import Far
from spworkers import Pair, Pull, Push, Rep, Req, Respondent
from spworkers.testing import Mock, RawPeer, greeting


def where(address: str) -> str:
    return inproc() if address == "inproc" else address


def test_bad_schemes_are_refused() -> None:
    with Pair() as pair:
        for wrong in ("", "nothing", "TCP://127.0.0.1:0", "carrier-pigeon://roof", "://x"):
            for call in (pair.dial, pair.listen, pair.new_dialer, pair.new_listener):
                with pytest.raises(sp.BadTranError):
                    call(wrong)


def test_nobody_there_is_refused(address: str) -> None:
    with Pair() as pair, pytest.raises(sp.ConnRefusedError):
        pair.dial("tcp://127.0.0.1:1" if address.startswith("tcp") else where(address))


def test_listening_twice_is_refused(address: str) -> None:
    with Pair() as pair, Pair() as other:
        listener = pair.listen(where(address))
        for sock in (pair, other):
            with pytest.raises(sp.AddrInUseError):
                sock.listen(listener.address)
        with pytest.raises(sp.AddrInUseError):
            listener.listen()


def test_a_closed_listener_accepts_nobody(address: str) -> None:
    with Pair() as pair, Pair(reconnect_time=0.01) as other:
        listener = pair.listen(where(address))
        listener.close()
        with pytest.raises(sp.ClosedError):
            listener.listen()
        with pytest.raises(sp.ConnRefusedError):
            other.dial(listener.address)
        other.dial(listener.address, dial_asynch=True)  # and goes on trying
        pair.listen(listener.address)
        wait_pipes(pair)


def test_the_wrong_protocol_is_bad_proto_at_the_dialer(address: str) -> None:
    with Req() as req, Respondent() as respondent:
        listener = respondent.listen(where(address))
        with pytest.raises(sp.BadProtoError):
            req.dial(listener.address)
        assert respondent.pipes == []


def test_ten_round_trips(address: str) -> None:
    req, rep = Req(), Rep()
    with joined(rep, req, address=address):
        for number in range(10):
            req.send(b"%d" % number, timeout=BOUND)
            assert rep.recv(timeout=BOUND) == b"%d" % number
            rep.send(b"reply %d" % number)
            assert req.recv(timeout=BOUND) == b"reply %d" % number


def test_every_size_up_and_down(address: str) -> None:
    one, other = Pair(), Pair()
    with joined(one, other, address=address):
        for power in range(21):
            body = bytes([power]) * (1 << power)
            other.send(body, timeout=BOUND)
            assert one.recv(timeout=BOUND) == body
            one.send(body[::-1], timeout=BOUND)
            assert other.recv(timeout=BOUND) == body


@pytest.mark.parametrize("wildcard", ["tcp://*:0", "tcp://:0", "tcp://0.0.0.0:0"])
def test_a_wildcard_listens_and_cannot_be_dialled(wildcard: str) -> None:
    with Pair() as pair, Pair() as other:
        address = pair.listen(wildcard).address
        port = int(address.rpartition(":")[2])
        assert address != wildcard
        assert port
        with pytest.raises(sp.SPError):
            other.dial(wildcard)
        other.dial(f"tcp://127.0.0.1:{port}")
        wait_pipes(pair)


def test_header_and_body_are_joined(address: str) -> None:
    one, other = Pair(raw=True), Pair(raw=True)
    with joined(one, other, address=address):
        other.send_msg(sp.Message(b"body", b"head"))
        message = one.recv_msg(timeout=BOUND)
        assert (message.header, message.body) == (b"", b"headbody")


def test_pipe_addresses_mirror_each_other(address: str) -> None:
    one, other = Pair(), Pair()
    with joined(one, other, address=address):
        wait_pipes(other)
        ours, theirs = one.pipes[0], other.pipes[0]
        assert ours.local_addr == theirs.remote_addr
        assert ours.remote_addr == theirs.local_addr
        assert ours.address == one.listeners[0].address == theirs.address
        assert (ours.listener, ours.dialer) == (one.listeners[0], None)
        assert (theirs.listener, theirs.dialer) == (None, other.dialers[0])


@pytest.mark.parametrize("size", [98, 99, 100, 101])
def test_max_rcv_size_is_exact(size: int, far: Far) -> None:
    with Pull(max_rcv_size=100) as pull:
        hook = Record()
        pull.set_pipe_event_hook(hook)
        peer = far.meet(pull)
        peer.send(bytes(size))
        if size <= 100:
            assert pull.recv(timeout=BOUND) == bytes(size)
            assert drops(pull) == {}
        else:
            assert peer.ended()
            eventually(lambda: hook.counts() == (1, 1, 1), BOUND)
            assert drops(pull) == {"too_long": 1}
            far.meet(pull).send(b"another peer")
            assert pull.recv(timeout=BOUND) == b"another peer"


BAD_GREETINGS = [
    b"",
    b"\0",
    b"\0SP\0",
    greeting("push")[:7],
    b"\0SP\1\0\x50\0\0",
    b"\0SP\0\0\x50\0\1",
    b"\0SP\0\0\x50\1\0",
    b"\1SP\0\0\x50\0\0",
    b"\0sP\0\0\x50\0\0",
    b"\0Sp\0\0\x50\0\0",
    bytes(8),
    b"\xff" * 8,
    greeting("pull"),
    greeting(0xFFFF),
]
BAD_MESSAGES = {
    "tcp": [b"\x80", b"\xff" * 8, (101).to_bytes(8, "big"), (1 << 62).to_bytes(8, "big"), b"\0\0\0\0\0\0\0\7half"],
    "ipc": [b"\0", b"\2", b"\1\xff", b"\1" + (101).to_bytes(8, "big"), b"\1\0\0\0\0\0\0\0\7half"],
}


def test_fourteen_bad_handshakes_do_not_harm_the_listener(far: Far) -> None:
    assert len(BAD_GREETINGS) == 14
    if far.kind == "mock":
        with Mock() as mock, Pull(listen=mock.address, handshake_timeout=0.5) as pull:
            peers = [mock.connect() for _ in BAD_GREETINGS]
            harmed_by_none(pull, peers)
            good = mock.connect()
            good.shake("push")
            good.send(b"good")
            assert pull.recv(timeout=BOUND) == b"good"
        return
    with Pull(handshake_timeout=0.5) as pull:
        far.meet(pull)
        peers = [RawPeer.dial(pull.listeners[0].address) for _ in BAD_GREETINGS]
        harmed_by_none(pull, peers)
        far.meet(pull).send(b"good")
        assert pull.recv(timeout=BOUND) == b"good"


def harmed_by_none(pull: Pull, peers: list[RawPeer]) -> None:
    for peer, words in zip(peers, BAD_GREETINGS, strict=True):
        peer.write(words)
    for peer in peers:
        assert peer.ended()
        peer.close()
    eventually(lambda: pull.stats()["bad_handshakes"] == 14, BOUND)


def test_five_bad_messages_do_not_harm_the_listener(far: Far) -> None:
    with Pull(max_rcv_size=100) as pull:
        for words in BAD_MESSAGES["ipc" if far.kind == "ipc" else "tcp"]:
            peer = far.meet(pull)
            peer.write(words)
            peer.finish()
            assert peer.ended()
            wait_pipes(pull, 0)
        far.meet(pull).send(b"good")
        assert pull.recv(timeout=BOUND) == b"good"


def test_two_mebibytes_twice_to_a_peer_that_stops_reading_and_closes(far: Far) -> None:
    with Push(max_rcv_size=0) as push:
        hook = Record()
        push.set_pipe_event_hook(hook)
        peer = far.meet(push)
        for _ in range(2):
            push.send(bytes(2 << 20), timeout=BOUND)
        assert peer.read(1000) == (b"\1" if far.kind == "ipc" else b"") + (2 << 20).to_bytes(8, "big") + bytes(
            991 if far.kind == "ipc" else 992
        )
        peer.close()
        eventually(lambda: hook.counts() == (1, 1, 1), BOUND)
        another = far.meet(push)
        push.send(b"goes on", timeout=BOUND)
        while (body := another.recv()) != b"goes on":
            assert len(body) == 2 << 20, "what was not on its way yet"


def test_a_hook_that_refuses_sees_attaching_only(far: Far, tmp_path: Path) -> None:
    with Pull() as pull:
        told = Record()

        def refuse(event: sp.PipeEvent, pipe: sp.Pipe) -> None:
            told(event, pipe)
            pipe.close()

        pull.set_pipe_event_hook(refuse)
        for count in range(1, 4):
            assert far.meet(pull, attached=False).ended()
            eventually(lambda: told.counts()[0] == count, BOUND)
        eventually(lambda: pull.stats()["refused"] == 3, BOUND)
        assert told.counts() == (3, 0, 0)
