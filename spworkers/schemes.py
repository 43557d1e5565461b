"""Transports of a third party: the names under which they are known, kept in the user's process.

A name crosses to the I/O process with every dialer and listener that needs it, and there the class is imported
(`spworkers.transport.registry`); an object could not cross.
"""

from __future__ import annotations

import re
from typing import Final

from spworkers.errors import BadValueError

__all__ = ["TRANSPORT", "check_names", "register_transport", "target_of"]

TRANSPORT: Final = "TRANSPORT"
"""Among a dialer's or listener's options on the control channel: the class that serves its scheme."""

OUR_OWN: Final = frozenset(
    {"abstract", "inproc", "ipc", "shm", "tcp", "tcp4", "tcp6", "tls+tcp", "tls+tcp4", "tls+tcp6", "unix", "ws", "wss"}
)

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*\Z")
_TARGET: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*\Z")
_registered: Final[dict[str, str]] = {}


def register_transport(scheme: str, target: str) -> None:
    """Have a class of yours serve a scheme, at all sockets of this process, from the next dialer or listener on.

    The I/O processes import it by its name, so it lives in a module that they find on this process's `sys.path`. What
    it has to do is told by `spworkers.transport`: the built-in transports have the same interface. A scheme that you
    registered before gets the new class.

    Args:
        scheme: what stands before `://`, lower case.
        target: `"module:Class"`, a subclass of `spworkers.transport.Transport`.

    Raises:
        BadValueError: no such scheme can be, it is one of our own, or the target is not a name.
    """
    check_names(scheme, target)
    if scheme in OUR_OWN:
        raise BadValueError(f"{scheme}:// is a transport of spworkers itself; give yours another scheme")
    if target.startswith("__main__:"):
        raise BadValueError(f"{target!r}: the I/O process has another main module; put the class into one of its own")
    _registered[scheme] = target


def check_names(scheme: str, target: str) -> None:
    """Whether these can be a scheme and the name of a class.

    Raises:
        BadValueError: one cannot.
    """
    if not _fits(_SCHEME, scheme):
        raise BadValueError(f"scheme {scheme!r}: lower-case letters, digits, '+', '-' and '.', a letter first")
    if not _fits(_TARGET, target):
        raise BadValueError(
            f"transport {target!r} of {scheme}: give its name as 'module:Class'; "
            "the I/O process imports it, and an object cannot cross to there"
        )


def target_of(address: str) -> str | None:
    """The class that was registered for an address's scheme."""
    return _registered.get(address.partition("://")[0])


def _fits(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.match(value) is not None
