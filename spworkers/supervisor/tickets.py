"""Tickets: bytes and descriptors that another process of this user may claim, once, who knows the token."""

from __future__ import annotations

from typing import Final

from spworkers.errors import ContextMovedError, ResourceError, SupervisorError
from spworkers.lean import lean
from spworkers.packet import close_fds

__all__ = ["TICKETS_LIMIT", "Tickets"]

TICKETS_LIMIT: Final = 4096
"""Tickets that may be unclaimed at once; each holds descriptors."""


@lean
class _Ticket:
    key: str
    blob: bytes
    fds: list[int]


class Tickets:
    """Token → what is to be had for it. It owns the descriptors."""

    def __init__(self) -> None:
        self._tickets: dict[bytes, _Ticket] = {}

    def put(self, token: bytes, key: str, blob: bytes, fds: list[int]) -> None:
        """Leave something to be claimed. The descriptors belong to the tickets from now on, come what may.

        Args:
            token: 32 random bytes.
            key: the child with whose end the ticket ends.
            blob: for who claims it.
            fds: likewise.

        Raises:
            ResourceError: too many tickets are unclaimed.
            SupervisorError: there is a ticket of this token.
        """
        if token in self._tickets or len(self._tickets) >= TICKETS_LIMIT:
            close_fds(fds)
            if token in self._tickets:
                raise SupervisorError("a ticket of this token exists already; tokens are 32 random bytes")
            raise ResourceError(f"{TICKETS_LIMIT} tickets are unclaimed; claim or drop some")
        self._tickets[token] = _Ticket(key, blob, fds)

    def claim(self, token: bytes) -> tuple[bytes, list[int]]:
        """What was left for the token; its descriptors are the caller's from now on, and the ticket is used.

        Raises:
            ContextMovedError: there is no such ticket (any more).
        """
        ticket = self._tickets.pop(token, None)
        if ticket is None:
            raise ContextMovedError("this ticket was used already, or its socket is closed; pickle the context again")
        return ticket.blob, ticket.fds

    def drop(self, token: bytes) -> None:
        """Forget a ticket; nothing happens if there is none."""
        ticket = self._tickets.pop(token, None)
        if ticket is not None:
            close_fds(ticket.fds)

    def forget(self, key: str) -> None:
        """`key` is gone for good: drop its tickets."""
        for token in [token for token, ticket in self._tickets.items() if ticket.key == key]:
            self.drop(token)

    def __repr__(self) -> str:
        return f"<Tickets: {len(self._tickets)} unclaimed>"
