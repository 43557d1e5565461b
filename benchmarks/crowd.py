"""What a crowd of callers that stall in their handshakes costs a listener, and whether others are answered meanwhile.

    python -m benchmarks.crowd [--callers 3000]

For each kind of handshake: memory (USS) of the I/O process before, with all callers there, and two seconds after they
have gone; and how long one request of a good client took while they were there. More than MAX-HANDSHAKES (1024) at once
are never there: of more callers the oldest are given up.

Then the same of a `WebServer`: 300 callers that ask for 20 MB and read nothing of it, and how long a page took another.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import socket
import ssl
import tempfile
import time
from typing import Any, Final

import psutil

import spworkers as sp
from spworkers.testing import CertificateAuthority, eventually

HEAD: Final = b"GET /x HTTP/1.1\r\n"
PATIENCE: Final = 30.0


def main() -> None:
    """Measure every kind, a line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--callers", type=int, default=3000, help="of each kind (3000)")
    callers = parser.parse_args().callers
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(f"{'MiB of the I/O process':40} before   with {callers} callers   after   a request meanwhile")
    with CertificateAuthority() as authority:
        server = authority.server("localhost", "127.0.0.1")
        there = sp.TLSConfig(server.cert, server.key)
        here = sp.TLSConfig(ca=authority.cert)
        hello = client_hello()
        large = HEAD + (b"A: " + b"b" * 7000 + b"\r\n") * 4
        many = HEAD + b"".join(b"A%03d: %s\r\n" % (n, b"b" * 240) for n in range(126))
        measure("tcp: half a greeting", "tcp://127.0.0.1:0", b"\0SP\0", callers)
        measure("tls+tcp: half a hello", "tls+tcp://127.0.0.1:0", hello[:50], callers, there, here)
        measure("tls+tcp: a hello", "tls+tcp://127.0.0.1:0", hello, callers, there, here)
        measure("ws: a request of 28 KiB, not ended", "ws://127.0.0.1:0/x", large, callers)
        measure("ws: a request of 126 headers, not ended", "ws://127.0.0.1:0/x", many, callers)
        measure("wss: TLS, and 126 headers, not ended", "wss://127.0.0.1:0/x", many, 1024, there, here, wrap=True)
        show("http: a page of 20 MB, unread", "http", "/page")
        show("http: a file of 20 MB, unread", "http", "/file")
        show("https: a page of 20 MB, unread", "https", "/page", there)
        show("https: a file of 20 MB, unread", "https", "/file", there)


def measure(
    what: str,
    address: str,
    first: bytes,
    callers: int,
    there: sp.TLSConfig | None = None,
    here: sp.TLSConfig | None = None,
    *,
    wrap: bool = False,
) -> None:
    """One kind.

    Args:
        first: what each caller sends.
        there, here: what the listener and the good client have of TLS.
        wrap: the callers do their TLS handshakes.
    """
    with sp.Rep(listen=address, **secured(there)) as rep, contextlib.ExitStack() as stack:
        known = rep.listeners[0].address
        port = int(known.partition("//")[2].partition("/")[0].rpartition(":")[2])
        good = stack.enter_context(sp.Req(dial=known, **secured(here)))
        process = psutil.Process(rep.stats()["pid"])
        request(good, rep)
        before = mebibytes(process)
        for _ in range(callers):
            with contextlib.suppress(OSError):
                caller: socket.socket = socket.create_connection(("127.0.0.1", port))
                if wrap:
                    caller = unsafe().wrap_socket(caller)
                stack.callback(caller.close)
                caller.sendall(first)
        time.sleep(0.5)
        took = request(good, rep)
        peak = mebibytes(process)
        good.close(linger=0)
        stack.pop_all().close()
        eventually(lambda: len(rep.pipes) == 0, PATIENCE)
        time.sleep(2.0)
        print(f"{what:40} {before:6.1f} {peak:14.1f} {mebibytes(process):15.1f} {took * 1000:14.1f} ms", flush=True)


def show(what: str, scheme: str, path: str, there: sp.TLSConfig | None = None, callers: int = 300) -> None:
    """One kind of answer, that nobody reads."""
    with tempfile.NamedTemporaryFile() as file, contextlib.ExitStack() as stack:
        file.write(bytes(20_000_000))
        file.flush()
        pages = {"/page": bytes(20_000_000), "/small": "small"}
        address = f"{scheme}://127.0.0.1:0"
        web = stack.enter_context(sp.WebServer(address, pages=pages, static={"/file": file.name}, **secured(there)))
        process = psutil.Process(web.stats()["pid"])
        port = int(web.address.rpartition(":")[2])

        def ask(target: str) -> socket.socket:
            caller: socket.socket = socket.create_connection(("127.0.0.1", port))
            if there is not None:
                caller = unsafe().wrap_socket(caller)
            caller.sendall(b"GET %s HTTP/1.1\r\n\r\n" % target.encode())
            return caller

        def page() -> float:
            begin = time.monotonic()
            with ask("/small") as caller:
                while caller.recv(65536):
                    pass
            return time.monotonic() - begin

        page()
        before = mebibytes(process)
        waiting = [ask(path) for _ in range(callers)]
        for caller in waiting:
            caller.recv(1)
        took = page()
        peak = mebibytes(process)
        for caller in waiting:
            caller.close()
        eventually(lambda: web.stats()["connections"] == 0, PATIENCE)
        time.sleep(2.0)
        print(f"{what:40} {before:6.1f} {peak:14.1f} {mebibytes(process):15.1f} {took * 1000:14.1f} ms", flush=True)


def secured(config: sp.TLSConfig | None) -> dict[str, Any]:
    """What a socket is told of TLS."""
    return {"tls_config": config} if config else {}


def request(req: sp.Req, rep: sp.Rep) -> float:
    """Seconds that one request takes."""
    begin = time.monotonic()
    req.send(b"question", timeout=PATIENCE)
    rep.recv(timeout=PATIENCE)
    rep.send(b"answer")
    req.recv(timeout=PATIENCE)
    return time.monotonic() - begin


def mebibytes(process: psutil.Process) -> float:
    return float(process.memory_full_info().uss / 2**20)


def unsafe() -> ssl.SSLContext:
    """A client's that asks nothing of whom it meets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def client_hello() -> bytes:
    """What a TLS client says first."""
    outgoing = ssl.MemoryBIO()
    connection = unsafe().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


if __name__ == "__main__":
    main()
