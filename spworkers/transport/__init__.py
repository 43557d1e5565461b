"""Transports: byte streams by address, the SP handshake and the frames on them.

`Transport`, `Acceptor` and `Link` are what a transport of one's own implements; `register` names it.
"""

from __future__ import annotations

from spworkers.transport.base import Acceptor, Address, Link, Transport
from spworkers.transport.registry import register, transport_for

__all__ = ["Acceptor", "Address", "Link", "Transport", "register", "transport_for"]
