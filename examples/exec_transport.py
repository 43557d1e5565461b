"""A transport of one's own: exec://COMMAND speaks SP over the standard input and output of a command.

    exec://ssh host nc localhost 5555      to a socket on a machine that only ssh reaches

Run by itself (python examples/exec_transport.py), this file calls a Rep socket that way; the command is this file too,
as a relay to a tcp port.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import threading

import spworkers as sp
from spworkers.transport import Acceptor, Address, Link, Transport


class ExecTransport(Transport):
    """Only dials: nobody can listen on a command."""

    def parse(self, address: str) -> Address:
        try:
            words = shlex.split(self.rest_of(address))
        except ValueError as error:  # a quotation mark is missing
            raise sp.BadAddrError(f"{address}: {error}") from None
        if not words:
            raise sp.BadAddrError(f"{address}: give the command, as in exec://ssh host nc localhost 5555")
        return Address(address)

    async def dial(self, address: Address, options: object) -> Link:
        words = shlex.split(self.rest_of(address.url))
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                command = subprocess.Popen(words, stdin=theirs, stdout=theirs)  # noqa: ASYNC220 - it is quick enough
            except OSError as error:
                ours.close()
                raise sp.ConnRefusedError(f"{address}: {error}") from error
        return ExecLink(ours, command, address.url)

    async def listen(self, address: Address, options: object, inherited: int | None = None) -> Acceptor:
        raise sp.BadAddrError(f"{address}: can be dialled, not listened on")


class ExecLink(Link):
    """A connection that ends with its command, and the other way round."""

    __slots__ = ("command",)

    def __init__(self, sock: socket.socket, command: subprocess.Popen[bytes], url: str) -> None:
        super().__init__(sock, "stream", remote=url)
        self.command = command

    def close(self) -> None:
        super().close()
        self.command.kill()
        self.command.wait()


def relay(port: int) -> None:
    """Standard input and output ⇄ a tcp port of this machine, as `nc localhost PORT` does it."""
    with socket.create_connection(("127.0.0.1", port)) as peer:

        def back() -> None:
            while data := peer.recv(65536):
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()

        threading.Thread(target=back, daemon=True).start()
        while data := sys.stdin.buffer.raw.read(65536):  # type: ignore[attr-defined]
            peer.sendall(data)


def main() -> None:
    """Send a request through the relay."""
    sp.register_transport("exec", "exec_transport:ExecTransport")
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        port = rep.listeners[0].address.rpartition(":")[2]
        with sp.Req(dial=f"exec://{shlex.join([sys.executable, __file__, 'relay', port])}") as req:
            req.send(b"who is there?")
            request = rep.recv(timeout=10)
            rep.send(request + b" it is " + str(rep.pipes[0].remote_addr).rpartition(":")[0].encode())
            print(req.recv(timeout=10).decode())


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case ["relay", port] if port.isdecimal():
            relay(int(port))
        case _:
            print(__doc__)
