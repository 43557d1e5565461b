"""What tests need, ours and yours: peers under the test's control, faults on demand, time that is moved by hand.

| what | for |
|---|---|
| `RawPeer`, `RawListener` | the other end of a real connection, byte by byte |
| `Mock` | a transport whose far end is the test: dial, listen, accept and connections fail when told to |
| `CertificateAuthority` | certificates for TLS, good ones and bad ones |
| `Harness` and its fakes | a protocol machine without I/O, sockets, processes or time |
| `VirtualClock` | time that passes only when told to |
| `eventually`, `aeventually` | waiting for a condition, with a deadline |

`spworkers.testing.fixtures` has some of them as fixtures of pytest. docs/testing.md shows how they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from spworkers.testing.certificates import CertificateAuthority as CertificateAuthority
    from spworkers.testing.certificates import CertificateFiles as CertificateFiles
    from spworkers.testing.clock import VirtualClock as VirtualClock
    from spworkers.testing.harness import Harness as Harness
    from spworkers.testing.messages import Delivery as Delivery
    from spworkers.testing.messages import FakeLane as FakeLane
    from spworkers.testing.messages import FakeMessage as FakeMessage
    from spworkers.testing.mock import Mock as Mock
    from spworkers.testing.peer import RawListener as RawListener
    from spworkers.testing.peer import RawPeer as RawPeer
    from spworkers.testing.peer import greeting as greeting
    from spworkers.testing.pipes import FakePipe as FakePipe
    from spworkers.testing.waiting import aeventually as aeventually
    from spworkers.testing.waiting import eventually as eventually

_HOMES: Final = {
    "CertificateAuthority": "certificates",
    "CertificateFiles": "certificates",
    "Delivery": "messages",
    "FakeLane": "messages",
    "FakeMessage": "messages",
    "FakePipe": "pipes",
    "Harness": "harness",
    "Mock": "mock",
    "RawListener": "peer",
    "RawPeer": "peer",
    "VirtualClock": "clock",
    "aeventually": "waiting",
    "eventually": "waiting",
    "greeting": "peer",
}
"""Name → the module that it lives in, which is imported when the name is first used: an I/O process that serves `mock://`
needs one of them, and not cryptography."""

__all__ = [  # noqa: PLE0604 - the keys are strings
    *sorted(_HOMES)
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'spworkers.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"spworkers.testing.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
