"""What the supervisor keeps for a child, so that its successor finds it: bytes and descriptors, by name."""

from __future__ import annotations

from typing import Final

from spworkers.errors import ResourceError
from spworkers.packet import close_fds

__all__ = ["ENTRIES_LIMIT", "Store"]

ENTRIES_LIMIT: Final = 4096
"""Names that one child may keep: its listeners, and a few words of its state; more is a leak."""


class Store:
    """Name → (blob, descriptors). It owns the descriptors."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[bytes, list[int]]] = {}

    def keep(self, name: str, blob: bytes, fds: list[int]) -> None:
        """Keep an entry, in place of one of the same name. The descriptors belong to the store from now on, come what
        may.

        Raises:
            ResourceError: there are too many entries.
        """
        if name not in self._entries and len(self._entries) >= ENTRIES_LIMIT:
            close_fds(fds)
            raise ResourceError(f"cannot keep {name!r}: {ENTRIES_LIMIT} entries are kept already; drop some")
        self.drop(name)
        self._entries[name] = (blob, fds)

    def drop(self, name: str) -> None:
        """Forget an entry and close its descriptors; nothing happens if there is none."""
        _, fds = self._entries.pop(name, (b"", []))
        close_fds(fds)

    def entries(self) -> dict[str, tuple[bytes, list[int]]]:
        """Everything that is kept; the descriptors stay the store's."""
        return {name: (blob, list(fds)) for name, (blob, fds) in self._entries.items()}

    def descriptors(self) -> list[int]:
        """All descriptors that are kept."""
        return [fd for _, fds in self._entries.values() for fd in fds]

    def clear(self) -> None:
        """Forget everything."""
        for name in list(self._entries):
            self.drop(name)

    def __repr__(self) -> str:
        return f"<Store: {len(self._entries)} entries, {len(self.descriptors())} descriptors>"
