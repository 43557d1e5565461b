"""Dialers and listeners: their addresses, options, attempts, reconnections and ends."""

from __future__ import annotations

import os
import random
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import eventually
from sockets.kit import BOUND, REP, REQ, SOON, ask, background, drops, error_of, inproc, rep_and_req, serve, wait_pipes

import spworkers as sp
from spworkers.socket import FORMER_KNOWN
from spworkers.testing import RawListener, RawPeer


def exchange(address: str, **options: Any) -> sp.Pipe:
    """One request and its reply over a transport; returns the pipe at the answering side."""
    with rep_and_req(address, **options) as (rep, req):
        served = serve(rep)
        assert ask(req, b"x") == b"X"
        served.result(BOUND)
        return rep.pipes[0]


# ---- addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "", "0.0.0.0", "*", "[::]"])
def test_port_zero_becomes_a_real_port_that_can_be_dialled(host: str) -> None:
    with sp.Rep() as rep:
        listener = rep.new_listener(f"tcp://{host}:0")
        assert listener.address == f"tcp://{host}:0"
        listener.listen()
        scheme, _, rest = listener.address.partition("://")
        name, _, port = rest.rpartition(":")
        assert (scheme, int(port) > 0) == ("tcp", True)
        reachable = f"tcp://{'127.0.0.1' if name in ('[::]', '0.0.0.0') else name}:{port}"
        with sp.Req(dial=reachable) as req:
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)


def test_a_pipe_has_the_address_of_what_made_it_and_mirrors_its_other_end() -> None:
    with rep_and_req("tcp://127.0.0.1:0") as (rep, req):
        [here], [there] = rep.pipes, req.pipes
        assert here.address == rep.listeners[0].address == there.address == req.dialers[0].address
        assert (here.local_addr, here.remote_addr) == (there.remote_addr, there.local_addr)
        assert (here.listener, here.dialer) == (rep.listeners[0], None)
        assert (there.listener, there.dialer) == (None, req.dialers[0])
        assert 0 < here.id < 1 << 31


def test_ipc_takes_a_path_and_leaves_none_behind(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    pipe = exchange(f"ipc://{path}")
    assert pipe.address == f"ipc://{path}"
    assert not path.exists()


def test_ipc_tells_who_the_peer_is(tmp_path: Path) -> None:
    with rep_and_req(f"ipc://{tmp_path}/s") as (rep, req):
        [pipe] = rep.pipes
        assert (pipe.peer_uid, pipe.peer_gid) == (os.getuid(), os.getgid())
        assert pipe.peer_pid == req.stats()["pid"]


def test_ipc_sets_the_files_mode(tmp_path: Path) -> None:
    with sp.Rep(listen=f"ipc://{tmp_path}/s", unix_ipc_chmod=0o642):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o642


def test_an_abstract_ipc_address_needs_no_file() -> None:
    exchange(f"ipc://@spworkers-test-{os.getpid()}-{random.getrandbits(32)}")


def test_ipc_replaces_a_stale_socket_but_neither_a_living_one_nor_a_file(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "s"))
    stale.close()
    exchange(address)
    with sp.Rep(listen=address), sp.Rep() as rep, pytest.raises(sp.AddrInUseError):
        rep.listen(address)
    (tmp_path / "s").write_text("a file")
    with sp.Rep() as rep, pytest.raises(sp.AddrInUseError):
        rep.listen(address)
    assert (tmp_path / "s").read_text() == "a file"


@pytest.mark.parametrize("name", ["", "a b/c?d", "ünï", "x" * 300])
def test_any_inproc_name_is_a_name(name: str) -> None:
    exchange(f"inproc://{name}")


def test_inproc_names_are_of_one_program_only() -> None:
    import subprocess
    import sys

    with sp.Rep(listen="inproc://mine") as rep:
        script = (
            "import spworkers as sp\n"
            "with sp.Req() as req:\n"
            "    try: req.dial('inproc://mine')\n"
            "    except sp.ConnRefusedError as error: print(error)\n"
            "    req.listen('inproc://mine')\n"
        )
        found = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=BOUND, check=True)
        assert b"inproc://mine" in found.stdout
        with sp.Req(dial="inproc://mine") as req:
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)


def test_an_inproc_name_is_free_again_when_its_listener_or_socket_is_closed() -> None:
    address = inproc()
    with sp.Rep(listen=address) as rep:
        with sp.Rep() as other, pytest.raises(sp.AddrInUseError):
            other.listen(address)
        rep.listeners[0].close()
        with sp.Rep() as other:
            eventually(lambda: _listens(other, address))
    with sp.Rep() as other:
        eventually(lambda: _listens(other, address))


def _listens(rep: sp.Rep, address: str) -> bool:
    try:
        rep.listen(address)
    except sp.AddrInUseError:
        return False
    return True


# ---- listeners


def test_listening_twice_is_refused() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        with pytest.raises(sp.AddrInUseError, match="this listener is active"):
            rep.listeners[0].listen()
        with sp.Rep() as other, pytest.raises(sp.AddrInUseError) as caught:
            other.listen(rep.listeners[0].address)
        assert rep.listeners[0].address in str(caught.value)


def test_a_listener_that_failed_may_be_tried_again() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep, sp.Rep() as other:
        listener = other.new_listener(rep.listeners[0].address)
        with pytest.raises(sp.AddrInUseError):
            listener.listen()
        rep.close()
        listener.listen()
        assert repr(listener) == f"<Listener {listener.address}: listening>"


def test_a_closed_listener_accepts_no_more_but_its_pipes_live_on() -> None:
    with rep_and_req("tcp://127.0.0.1:0") as (rep, req):
        listener = rep.listeners[0]
        address = listener.address
        listener.close()
        assert (rep.listeners, listener.closed) == ([], True)
        assert repr(listener) == f"<Listener {address}: closed>"
        served = serve(rep)
        assert ask(req, b"x") == b"X"
        served.result(BOUND)
        with sp.Req() as other, pytest.raises(sp.ConnRefusedError):
            other.dial(address)
        for use in (listener.close, listener.listen):
            with pytest.raises(sp.ClosedError, match="closed"):
                use()


def test_an_address_of_another_machine_cannot_be_bound() -> None:
    with sp.Rep() as rep, pytest.raises(sp.BadAddrError, match=r"192\.0\.2\.1"):
        rep.listen("tcp://192.0.2.1:5555")


# ---- dialers


def test_dialing_nobody_is_refused_in_words() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        address = rep.listeners[0].address
    for nobody in (address, inproc(), f"ipc:///nowhere/{os.getpid()}"):
        with sp.Req() as req, pytest.raises(sp.ConnRefusedError) as caught:
            req.dial(nobody)
        assert nobody in str(caught.value)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "inproc", "ipc"])
def test_dialing_the_wrong_protocol_is_refused_in_words(address: str, tmp_path: Path) -> None:
    address = {"inproc": inproc(), "ipc": f"ipc://{tmp_path}/s"}.get(address, address)
    with sp.Req(listen=address) as one, sp.Req() as two:
        with pytest.raises(sp.BadProtoError, match="req"):
            two.dial(one.listeners[0].address)
        eventually(lambda: one.stats()["bad_handshakes"] == 1)
        assert one.pipes == []


def test_dialing_twice_is_refused() -> None:
    with rep_and_req() as (_, req):
        with pytest.raises(sp.AddrInUseError, match="this dialer is active"):
            req.dialers[0].dial()


def test_two_dialers_to_one_address_make_two_pipes() -> None:
    with rep_and_req() as (rep, req):
        req.dial(rep.listeners[0].address)
        wait_pipes(rep, 2)


def test_dial_asynch_returns_at_once_and_goes_on_trying() -> None:
    address = inproc()
    with sp.Req(reconnect_time=0.01) as req:
        dialer = req.dial(address, dial_asynch=True)
        assert dialer.dial_asynch
        eventually(lambda: drops(req).get("dial_failed", 0) >= 3)
        with sp.Rep(listen=address) as rep:
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)


def test_a_lost_connection_is_dialled_again() -> None:
    with sp.Req(reconnect_time=0.01) as req:
        with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
            address = rep.listeners[0].address
            req.dial(address)
            wait_pipes(req)
        wait_pipes(req, 0)
        with sp.Rep(listen=address) as rep:
            served = serve(rep)
            assert ask(req, b"again") == b"AGAIN"
            served.result(BOUND)
        assert req.stats()["dialed"] == 2


def test_a_pipe_that_was_closed_by_hand_is_dialled_again() -> None:
    with rep_and_req(req={"reconnect_time": 0.01}) as (rep, req):
        for dialed in range(2, 5):
            before = req.pipes[0].id
            req.pipes[0].close()
            eventually(lambda: req.stats()["dialed"] == dialed)
            wait_pipes(rep)
            assert req.pipes[0].id != before


def test_reconnect_time_is_waited_and_grows_up_to_its_maximum() -> None:
    with sp.Req(reconnect_time=0.01, max_reconnect_time=0.05) as req:
        req.dial(inproc(), dial_asynch=True)
        before = time.monotonic()
        eventually(lambda: drops(req).get("dial_failed", 0) >= 12)
        took = time.monotonic() - before
        assert took > 11 * 0.01


def test_a_closed_dialer_dials_no_more_but_its_pipe_lives_on() -> None:
    with rep_and_req(req={"reconnect_time": 0.01}) as (rep, req):
        dialer = req.dialers[0]
        dialer.close()
        served = serve(rep)
        assert ask(req, b"x") == b"X"
        served.result(BOUND)
        req.pipes[0].close()
        time.sleep(0.1)  # nothing shall come: there is no event to wait for
        assert req.pipes == rep.pipes == []
        for use in (dialer.close, dialer.dial):
            with pytest.raises(sp.ClosedError, match="closed"):
                use()


def test_closing_a_dialer_ends_its_pending_dial_at_once() -> None:
    with RawListener() as silent, sp.Req(handshake_timeout=0) as req:
        dialer = req.new_dialer(silent.address)
        pending = background(dialer.dial)
        with silent.accept():
            dialer.close()
            assert isinstance(error_of(pending), sp.ClosedError)


def test_closing_the_socket_ends_a_pending_dial_at_once() -> None:
    with RawListener() as silent, sp.Req(handshake_timeout=0) as req:
        pending = background(req.dial, silent.address)
        with silent.accept():
            req.close()
            assert isinstance(error_of(pending), sp.ClosedError)


def test_context_managers_close_dialers_and_listeners() -> None:
    with sp.Rep() as rep, sp.Req() as req:
        with rep.listen(inproc()) as listener, req.dial(listener.address) as dialer:
            pass
        assert (listener.closed, dialer.closed, rep.listeners, req.dialers) == (True, True, [], [])


def test_everything_of_a_closed_dialer_or_socket_raises_closed_error() -> None:
    with sp.Rep() as rep, sp.Req() as req:
        dialer, listener = req.new_dialer(inproc()), rep.new_listener(inproc())
        for endpoint, start in ((dialer, dialer.dial), (listener, listener.listen)):
            endpoint.close()
            with pytest.raises(sp.ClosedError):
                endpoint.set_option("HANDSHAKE-TIMEOUT", 1)
            with pytest.raises(sp.ClosedError):
                start()
        dialer, listener = req.new_dialer(inproc()), rep.new_listener(inproc())
    for use in (dialer.dial, listener.listen, lambda: dialer.set_option("RECONNECT-TIME", 1)):
        with pytest.raises(sp.ClosedError):
            use()
    dialer.close()  # it is not closed yet, whatever its socket is
    with pytest.raises(sp.ClosedError):
        dialer.close()


# ---- options


def test_endpoint_options_are_given_by_keyword_and_checked() -> None:
    with sp.Req() as req:
        dialer = req.new_dialer("tcp://127.0.0.1:1", reconnect_time=0.5, no_delay=False, keepalive=False)
        assert (dialer.reconnect_time, dialer.no_delay, dialer.keepalive, dialer.keepalivetime) == (
            0.5,
            False,
            False,
            -1,
        )
        with pytest.raises(sp.BadOptionError, match="did you mean reconnect_time"):
            req.new_dialer("tcp://127.0.0.1:1", reconect_time=1)
        with pytest.raises(sp.BadValueError, match="RECONNECT-TIME"):
            dialer.reconnect_time = -1
        with pytest.raises(sp.BadOptionError, match="NO-DELAY"):
            req.new_dialer(inproc(), no_delay=True)
        with pytest.raises(sp.BadOptionError):
            req.new_listener("tcp://127.0.0.1:0", unix_ipc_chmod=0o600)


def test_an_option_that_is_set_before_dialling_holds() -> None:
    with RawListener() as silent, sp.Req() as req:
        dialer = req.new_dialer(silent.address)
        dialer.handshake_timeout = SOON
        with pytest.raises(sp.ConnTimeoutError, match=r"0\.05 s \(HANDSHAKE-TIMEOUT\)"):
            dialer.dial()


def test_options_of_a_pipe_are_those_of_what_made_it() -> None:
    with sp.Rep() as rep:
        listener = rep.listen("tcp://127.0.0.1:0", max_rcv_size=1234)
        with sp.Req(dial=listener.address, reconnect_time=0.7) as req:
            wait_pipes(rep)
            assert rep.pipes[0].max_rcv_size == 1234
            assert req.pipes[0].reconnect_time == 0.7
            with pytest.raises(sp.BadOptionError):
                rep.pipes[0].set_option("MAX-RCV-SIZE", 1)
            with pytest.raises(sp.BadOptionError, match="PEER-PID"):
                _ = rep.pipes[0].peer_pid


def test_a_pipe_can_be_closed_by_hand_and_again() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep, RawPeer.dial(rep.listeners[0].address, REQ) as wire:
        wait_pipes(rep)
        [pipe] = rep.pipes
        pipe.close()
        assert wire.ended()
        pipe.close()
        assert rep.pipes == []


def test_a_dialer_sends_its_handshake_before_it_has_seen_the_peers() -> None:
    with RawListener() as server, sp.Req(dial=server.address, dial_asynch=True) as req, server.accept() as wire:
        assert wire.read(8) == b"\0SP\0\0\x30\0\0"
        wire.write(b"\0SP\0\0\x31\0\0")
        wait_pipes(req)
        assert REP == 0x31


def test_a_pipe_knows_what_made_it_when_that_is_closed() -> None:
    with sp.Pair(listen="tcp://127.0.0.1:0") as one, sp.Pair() as other:
        dialer = other.dial(one.listeners[0].address, reconnect_time=7.0)
        listener = one.listeners[0]
        eventually(lambda: one.pipes)
        dialer.close()
        listener.close()
        assert other.pipes[0].dialer is dialer
        assert other.pipes[0].listener is None
        assert one.pipes[0].listener is listener
        assert other.pipes[0].reconnect_time == 7.0


def test_closed_endpoints_without_pipes_are_forgotten() -> None:
    with sp.Pair(listen="tcp://127.0.0.1:0") as one, sp.Pair() as other:
        kept = other.dial(one.listeners[0].address)
        kept.close()
        for _ in range(3 * FORMER_KNOWN):
            other.new_dialer("tcp://127.0.0.1:1").close()
        assert len(other._former) <= FORMER_KNOWN + 1
        assert other.pipes[0].dialer is kept


def test_repr_of_endpoints_of_a_closed_socket() -> None:
    with sp.Pair(listen="tcp://127.0.0.1:0") as one, sp.Pair(dial=one.listeners[0].address) as other:
        ends = [one.listeners[0], other.dialers[0]]
    assert all(repr(end).endswith(": closed>") for end in ends)
