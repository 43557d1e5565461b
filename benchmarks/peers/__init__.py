"""The peers, by name. A peer's module is imported only where it is used; what it needs may not be installed."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from importlib import metadata

from benchmarks.contract import Form


@dataclass(frozen=True)
class Peer:
    """`module`: where its forms are; `needs`: what must be importable; `distribution`: what to ask for its version."""

    name: str
    module: str
    needs: str | None
    distribution: str | None = None

    def missing(self) -> str | None:
        """Why it cannot take part here, or None."""
        if self.needs is None:
            return None
        try:
            found = importlib.util.find_spec(self.needs)
        except ImportError:  # its parent package is not there
            found = None
        return None if found else f"module {self.needs} is not installed for this Python"

    def version(self) -> str:
        """Its version, as far as it has one."""
        if self.distribution is None:
            return ""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return "source tree"

    def forms(self) -> dict[str, Form]:
        """How it plays each case; imports the peer."""
        forms: dict[str, Form] = importlib.import_module(self.module).FORMS
        return forms


PEERS = {
    peer.name: peer
    for peer in (
        Peer("spworkers", "benchmarks.peers.ours", "spworkers.sockets", "spworkers"),
        Peer("pynng", "benchmarks.peers.nng", "pynng", "pynng"),
        Peer("pyzmq", "benchmarks.peers.zmtp", "zmq", "pyzmq"),
        Peer("zero", "benchmarks.peers.zero_rpc", "zero", "zeroapi"),
        Peer("sockets", "benchmarks.peers.plain", None),
    )
}
SUBJECT = "spworkers"
GAUGE = "sockets"
