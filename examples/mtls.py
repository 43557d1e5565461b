"""Mutual TLS: a server that knows by their certificates who is asking, and lets in whom it likes.

Everything on one machine, in one program, with certificates that are made for it and thrown away:

    python examples/mtls.py

The same with files that stay, and each part where it belongs:

    spworkers cert ca
    spworkers cert server localhost 127.0.0.1
    spworkers cert client alice
    python examples/mtls.py --serve tls+tcp://127.0.0.1:5556 --certs certs --cert localhost --allow alice
    python examples/mtls.py --ask tls+tcp://localhost:5556 --certs certs --cert alice
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import spworkers as sp
from spworkers.certificates import Authority, Role, write_certificate, write_key


def config(certs: Path, name: str) -> sp.TLSConfig:
    """The TLS configuration of one end: its certificate, and whose word counts about the other end."""
    return sp.TLSConfig(certs / f"{name}.pem", certs / f"{name}.key", certs / "ca.pem", verify_peer=True)


def open_door(rep: sp.Rep, address: str, allowed: set[str]) -> str:
    """Listen, and let in whom the name in their certificate allows; returns the address."""

    def only_friends(event: sp.PipeEvent, pipe: sp.Pipe) -> None:
        if event is sp.PipeEvent.ATTACHING and pipe.tls_state.common_name not in allowed:
            print(f"refused: {pipe.tls_state.subject}", flush=True)
            pipe.close()

    rep.set_pipe_event_hook(only_friends)
    bound = rep.listen(address).address
    print(f"listening at {bound}", flush=True)
    return bound


def serve(rep: sp.Rep) -> None:
    """Answer everybody by their name, until the socket is closed."""
    while True:
        try:
            message = rep.recv_msg()
            assert message.pipe is not None
            rep.send(f"hello {message.pipe.tls_state.common_name}".encode())
        except sp.ClosedError:
            return


def ask(address: str, tls: sp.TLSConfig) -> str:
    """What the server says, if it does so within a second."""
    with sp.Req(dial=address, tls_config=tls, recv_deadline=1, reconnect_time=10) as req:
        req.send(b"who am I?")
        answer = req.recv().decode()
        state = req.pipes[0].tls_state
        return f"{answer} ({state.version}; the server is {', '.join(state.names)})"


def demonstrate() -> None:
    """Alice is answered, Mallory is turned away, and so is who has no certificate of ours."""
    with tempfile.TemporaryDirectory() as folder:
        certs = Path(folder)
        authority = make(certs)
        who = {
            "alice": config(certs, "alice"),
            "mallory": config(certs, "mallory"),  # a good certificate, but nobody we know
            "nobody": sp.TLSConfig(ca=certs / "ca.pem"),  # no certificate
            "stranger": sp.TLSConfig(),  # does not know our authority
        }
        with sp.Rep(tls_config=config(certs, "server")) as rep:
            address = open_door(rep, "tls+tcp://127.0.0.1:0", {"alice"})
            serving = threading.Thread(target=serve, args=(rep,))
            serving.start()
            for name, tls in who.items():
                try:
                    print(f"{name}: {ask(address, tls)}")
                except sp.SPError as error:
                    print(f"{name}: {error}")
            issue(authority, certs, "server", "server", "renewed.localhost", "127.0.0.1")
            print(f"alice, after a renewal: {ask(address, who['alice'])}")
        serving.join()


def make(certs: Path) -> Authority:
    """An authority, and what it vouches for; `spworkers cert` does the same."""
    authority = Authority.create("example CA", tomorrow())
    write_certificate(certs / "ca.pem", authority.certificate)
    issue(authority, certs, "server", "server", "localhost", "127.0.0.1")
    for name in ("alice", "mallory"):
        issue(authority, certs, name, "client", name)
    return authority


def issue(authority: Authority, certs: Path, stem: str, role: Role, *names: str) -> None:
    """Write a certificate and its key, over those that are there."""
    made = authority.issue(*names, role=role, end=tomorrow())
    assert made.key is not None
    write_key(certs / f"{stem}.key", made.key)
    write_certificate(certs / f"{stem}.pem", made.certificate)


def tomorrow() -> datetime:
    """When these certificates end."""
    return datetime.now(timezone.utc) + timedelta(days=1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", metavar="ADDRESS")
    parser.add_argument("--ask", metavar="ADDRESS")
    parser.add_argument("--certs", type=Path, default=Path("certs"))
    parser.add_argument("--cert", metavar="NAME", help="which certificate is ours")
    parser.add_argument("--allow", action="append", default=[], metavar="NAME", help="who is answered; may be repeated")
    options = parser.parse_args()
    if (options.serve or options.ask) and not options.cert:
        parser.error("--serve and --ask need --cert NAME")
    for address in filter(None, (options.serve, options.ask)):
        if not address.startswith(("tls+tcp", "wss:")):
            parser.error(f"{address}: only tls+tcp:// and wss:// have certificates")
    if options.serve:
        with sp.Rep(tls_config=config(options.certs, options.cert)) as rep:
            open_door(rep, options.serve, set(options.allow))
            serve(rep)
    elif options.ask:
        print(ask(options.ask, config(options.certs, options.cert)))
    else:
        demonstrate()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C ends it
        try:
            main()
        except sp.SPError as error:
            sys.exit(f"error: {error}")
