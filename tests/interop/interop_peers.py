"""Other implementations as processes: nngcat, nanocat and pynng, each told by the same few words what to do."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pytest

PATIENCE = 20.0  # seconds that anything may take before it counts as never
MIB = 1 << 20
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Peer:
    """One implementation. `largest`: bytes of the largest body that it takes from us by default."""

    name: str
    command: tuple[str, ...]
    listen: str
    dial: str
    missing: str | None
    largest: int = 64 * MIB

    def __str__(self) -> str:
        return self.name

    def arguments(self, protocol: str, listens: bool, address: str, file: Path) -> list[str]:
        """Play `protocol`: send the file's bytes, as request or as reply; what comes in goes to standard output."""
        where = self.listen if listens else self.dial
        return [*self.command, f"--{protocol}", where, address, "--raw", "--file", str(file)]


def not_found(tool: str) -> str | None:
    return None if shutil.which(tool) else f"{tool} is not installed"


PEERS = [
    Peer("nngcat", ("nngcat",), "--listen", "--dial", not_found("nngcat")),
    # nanomsg counts the request's id in its limit of 1 MiB, and nanocat has no option to raise it.
    Peer("nanocat", ("nanocat",), "--bind", "--connect", not_found("nanocat"), largest=MIB - 4),
    Peer(
        "pynng",
        (sys.executable, str(HERE / "pynng_peer.py")),
        "--listen",
        "--dial",
        None if importlib.util.find_spec("pynng") else "pynng is not installed for this Python",
    ),
]


def each_peer() -> list[object]:
    """For parametrize: every peer, those that are not installed skipped with the reason."""
    return [
        pytest.param(peer, id=peer.name, marks=[pytest.mark.skip(reason=peer.missing)] if peer.missing else [])
        for peer in PEERS
    ]


class Running:
    """A peer's process. Its output is drained as it comes, so that it never blocks on a full pipe."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = arguments
        self.output = bytearray()
        self.complaints = b""
        self.changed = threading.Condition()
        self.closed = False
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.threads = [threading.Thread(target=drain, daemon=True) for drain in (self.drain_output, self.drain_errors)]
        for thread in self.threads:
            thread.start()

    def drain_output(self) -> None:
        assert self.process.stdout
        while data := self.process.stdout.read1():  # type: ignore[attr-defined]
            with self.changed:
                self.output += data
                self.changed.notify_all()
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def drain_errors(self) -> None:
        assert self.process.stderr
        self.complaints = self.process.stderr.read()

    def read(self, size: int) -> bytes:
        """The first `size` bytes of its output; fewer when it ended before, or took too long."""
        deadline = time.monotonic() + PATIENCE
        with self.changed:
            self.changed.wait_for(lambda: len(self.output) >= size or self.closed, deadline - time.monotonic())
            return bytes(self.output[:size])

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for thread in self.threads:
            thread.join(PATIENCE)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        if kind is not None:  # shown with the failure
            status, complaints = self.process.returncode, self.complaints.decode(errors="replace")
            print(f"{' '.join(self.arguments)}\nended with status {status}; it said: {complaints or '(nothing)'}")


def free_port() -> int:
    """A tcp port that was free a moment ago, for peers that cannot say which one the system chose."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Place:
    """Where to meet on one transport: an address to listen on for us, and one for a peer."""

    ours: str
    theirs: str


@contextmanager
def place(transport: str, directory: Path, peer: Peer | None = None) -> Iterator[Place]:
    if transport == "tcp":
        yield Place(ours="tcp://127.0.0.1:0", theirs=f"tcp://127.0.0.1:{free_port()}")
    elif transport == "ws":
        # nanocat cannot bind with a path; with nngcat there is one, as it asks for an empty one without.
        path = "" if peer is not None and peer.name == "nanocat" else "/sp"
        yield Place(ours="ws://127.0.0.1:0/sp", theirs=f"ws://127.0.0.1:{free_port()}{path}")
    else:
        path = directory / "s"
        yield Place(ours=f"ipc://{path}", theirs=f"ipc://{path}")
