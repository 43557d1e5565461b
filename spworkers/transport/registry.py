"""Which transport serves an address: schemes, and the classes behind them.

Transports are named, `"module:Class"`, and imported at the first use of their scheme: a name crosses to the I/O
process where an object could not, and a program that never dials `wss://` never pays for it. Schemes are
case-sensitive, as in mangos: `TCP://` is unknown.
"""

from __future__ import annotations

import importlib
import re
from typing import Final

from spworkers.errors import BadTranError
from spworkers.schemes import check_names
from spworkers.transport.base import Transport

_HTTP: Final = {"http": "ws", "https": "wss"}


class Registry:
    """A table of schemes. The module's functions work on the one that the I/O process uses."""

    def __init__(self, targets: dict[str, str] | None = None) -> None:
        self._targets: dict[str, str] = dict(targets or {})
        self._made: dict[str, Transport] = {}

    @property
    def schemes(self) -> tuple[str, ...]:
        """All known schemes, sorted."""
        return tuple(sorted(self._targets))

    @property
    def targets(self) -> dict[str, str]:
        """The class of every scheme, as `"module:Class"`: what a child process has to be told."""
        return dict(self._targets)

    def register(self, scheme: str, target: str) -> None:
        """Name the class that serves a scheme; a scheme that is known already gets the new class from now on.

        Args:
            scheme: what stands before `://`, lower case.
            target: `"module:Class"`, a subclass of `Transport` that is called with the scheme.

        Raises:
            BadValueError: a malformed scheme, or a target that is not a name.
        """
        check_names(scheme, target)
        self._targets[scheme] = target
        self._made.pop(scheme, None)

    def transport_for(self, address: str) -> Transport:
        """The transport that serves an address.

        Raises:
            BadTranError: the address has no scheme, an unknown one, or one whose class cannot be loaded.
        """
        scheme, mark, _ = address.partition("://")
        if not mark:
            raise BadTranError(
                f"{address!r} has no scheme; write SCHEME://…, such as {self._nearest(address) or 'tcp'}://…"
            )
        made = self._made.get(scheme)
        if made is None:
            target = self._targets.get(scheme)
            if target is None:
                near = self._nearest(scheme)
                known = f"the nearest is {near}://" if near else f"there are {', '.join(self._named())}"
                raise BadTranError(f"{address!r}: no transport {scheme!r}; {known}")
            made = self._made[scheme] = _load(scheme, target)
        return made

    def _nearest(self, text: str) -> str:
        import difflib  # which only a mistake has to wait for

        head = re.split(r"[:/]", text.lower(), maxsplit=1)[0]
        if head in _HTTP:
            return _HTTP[head]
        near = difflib.get_close_matches(head, self._targets, n=1, cutoff=0.55)
        return near[0] if near else ""

    def _named(self) -> list[str]:
        return sorted(scheme for scheme, target in self._targets.items() if "testing" not in target)


def _load(scheme: str, target: str) -> Transport:
    module, _, path = target.partition(":")
    try:
        found: object = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever a third party's module raises when it is imported
        raise BadTranError(f"transport {scheme}: {target} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Transport)):
        raise BadTranError(f"transport {scheme}: {target} is not a subclass of spworkers.transport.Transport")
    try:
        return found(scheme)
    except Exception as error:  # an abstract class, say, or another signature
        raise BadTranError(f"transport {scheme}: {target}({scheme!r}) failed: {error}") from error


_registry = Registry(
    {
        "abstract": "spworkers.transport.ipc:IpcTransport",
        "asgi": "spworkers.transport.asgi:AsgiTransport",
        "inproc": "spworkers.transport.inproc:InprocTransport",
        "ipc": "spworkers.transport.ipc:IpcTransport",
        "mock": "spworkers.testing.mocktransport:MockTransport",
        "shm": "spworkers.transport.shm:ShmTransport",
        "tcp": "spworkers.transport.tcp:TcpTransport",
        "tcp4": "spworkers.transport.tcp:TcpTransport",
        "tcp6": "spworkers.transport.tcp:TcpTransport",
        "tls+tcp": "spworkers.transport.tls:TLSTransport",
        "tls+tcp4": "spworkers.transport.tls:TLSTransport",
        "tls+tcp6": "spworkers.transport.tls:TLSTransport",
        "unix": "spworkers.transport.ipc:IpcTransport",
        "ws": "spworkers.transport.ws:WsTransport",
        "wss": "spworkers.transport.ws:WssTransport",
    }
)

register = _registry.register
transport_for = _registry.transport_for


def targets() -> dict[str, str]:
    """The class of every scheme, as `"module:Class"`."""
    return _registry.targets
