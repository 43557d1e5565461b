"""Headers against nng's raw sockets: what either side puts before a body, the other one finds, and sends back."""

from __future__ import annotations

import importlib.util
import json
import sys
from typing import Any

import pytest
from helpers import eventually
from interop_peers import HERE, PATIENCE, Running

import spworkers as sp

pytestmark = [
    pytest.mark.interop,
    pytest.mark.alike,
    pytest.mark.skipif(importlib.util.find_spec("pynng") is None, reason="pynng is not installed for this Python"),
]

ID = bytes.fromhex("80001234")
HOP = bytes.fromhex("00000005")
LISTENING: dict[str, Any] = {"listen": "tcp://127.0.0.1:0", "recv_deadline": PATIENCE, "send_deadline": PATIENCE}


def theirs(protocol: str, manner: str, ours: sp.Socket, *more: bytes) -> Running:
    address = ours.listeners[0].address
    script = str(HERE / "pynng_raw_peer.py")
    return Running([sys.executable, script, protocol, manner, address, *[each.hex() for each in more]])


def seen(running: Running) -> tuple[bytes, bytes]:
    """Header and body of the first message that it had."""
    eventually(lambda: b"\n" in running.output or running.closed, PATIENCE, what="a message at the other side")
    header, body = json.loads(bytes(running.output).partition(b"\n")[0])
    return bytes.fromhex(header), bytes.fromhex(body)


def once_there(sock: sp.Socket) -> sp.Socket:
    eventually(lambda: len(sock.pipes) == 1, PATIENCE, what="the peer's connection")
    return sock


@pytest.mark.parametrize(("make", "protocol"), [(sp.Req, "rep0"), (sp.Surveyor, "respondent0")])
def test_a_question_has_one_word_and_its_answer_finds_the_way(make: Any, protocol: str) -> None:
    options = {name: value for name, value in LISTENING.items() if name != "send_deadline" or make is sp.Req}
    with make(**options) as sock, theirs(protocol, "echo", sock) as running:
        once_there(sock).send(b"question")
        assert sock.recv() == b"question"
        header, body = seen(running)
        assert body == b"question"
        assert len(header) == 8  # the pipe's number there, then ours
        assert header[4] & 0x80


@pytest.mark.parametrize(("make", "protocol"), [(sp.Req, "rep0"), (sp.Surveyor, "respondent0")])
def test_a_raw_question_has_the_words_that_it_was_given(make: Any, protocol: str) -> None:
    with make(raw=True, listen="tcp://127.0.0.1:0", recv_deadline=PATIENCE) as sock:
        with theirs(protocol, "echo", sock) as running:
            once_there(sock).send_msg(sp.Message(b"question", header=HOP + ID))  # as if it had come by a device
            answer = sock.recv_msg()
            assert bytes(answer.header) + bytes(answer.body) == HOP + ID + b"question"
            header, body = seen(running)
            assert (header[4:], body) == (HOP + ID, b"question")


@pytest.mark.parametrize("raw", [False, True], ids=["cooked", "raw"])
@pytest.mark.parametrize(("make", "protocol"), [(sp.Rep, "req0"), (sp.Respondent, "surveyor0")])
def test_an_answer_has_the_words_of_its_question(make: Any, protocol: str, raw: bool) -> None:
    with make(raw=raw, **LISTENING) as sock, theirs(protocol, "ask", sock, HOP + ID, b"question") as running:
        message = sock.recv_msg()
        assert message.body == b"question"
        if raw:
            assert message.header == message.pipe.id.to_bytes(4, "big") + HOP + ID
            sock.send_msg(sp.Message(b"answer", header=message.header))
        else:
            sock.send(b"answer")
        header, body = seen(running)
        assert header + body == HOP + ID + b"answer"


def test_hops_of_pair1_are_counted_on_the_way() -> None:
    with sp.Pair1(raw=True, **LISTENING) as sock, theirs("pair1", "ask", sock, b"\0\0\0\x02", b"theirs") as running:
        message = sock.recv_msg()
        first = int.from_bytes(message.header, "big")
        assert (first, message.body) == (4, b"theirs")  # nng counts where it sends, we where we receive
        sock.send_msg(sp.Message(b"ours", header=b"\0\0\0\x03"))
        assert seen(running) == (b"\0\0\0\x03", b"ours")


def test_bus_has_no_header_on_the_wire() -> None:
    with sp.Bus(raw=True, listen="tcp://127.0.0.1:0", recv_deadline=PATIENCE) as sock:
        with theirs("bus0", "ask", sock, b"", b"theirs") as running:
            message = sock.recv_msg()
            assert (message.header, message.body) == (message.pipe.id.to_bytes(4, "big"), b"theirs")
            sock.send_msg(sp.Message(b"ours", header=b""))
            header, body = seen(running)
            assert (len(header), body) == (4, b"ours")  # its own number for us, not of the wire
