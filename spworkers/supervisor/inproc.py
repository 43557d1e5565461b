"""Which process listens at which inproc:// name. The connections themselves are socket pairs that the supervisor
makes."""

from __future__ import annotations

from spworkers.errors import AddrInUseError, ConnRefusedError

__all__ = ["Inproc"]


class Inproc:
    """Name → key of the child that listens there. A child keeps its names when it is replaced."""

    def __init__(self) -> None:
        self._listeners: dict[str, str] = {}

    def listen(self, name: str, key: str) -> None:
        """`key` listens at `name`; again does no harm, as a successor does it.

        Raises:
            AddrInUseError: another one listens there.
        """
        if self._listeners.setdefault(name, key) != key:
            raise AddrInUseError(f"listen inproc://{name}: another socket of this program listens there")

    def close(self, name: str, key: str) -> None:
        """`key` listens there no more; nothing happens if it did not."""
        if self._listeners.get(name) == key:
            del self._listeners[name]

    def find(self, name: str) -> str:
        """The key of who listens there.

        Raises:
            ConnRefusedError: nobody does.
        """
        key = self._listeners.get(name)
        if key is None:
            nobody = f"dial inproc://{name}: nobody listens there in this program"
            raise ConnRefusedError(f"{nobody}; {ConnRefusedError.advice}")
        return key

    def forget(self, key: str) -> None:
        """`key` is gone for good."""
        self._listeners = {name: owner for name, owner in self._listeners.items() if owner != key}

    def __repr__(self) -> str:
        return f"<Inproc: {', '.join(sorted(self._listeners)) or 'nobody listens'}>"
