"""Requests that kill workers, known again when they come back.

A request that kills every worker that touches it must not take the whole crew down because its client, or a thousand of
them, ask again and again. So deaths are counted by the request's content, over all its appearances, until it is
answered once.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Quarantine"]

# The number of deaths in a row from which a request is turned away.
_DEATHS: Final = 3

# So many contents are remembered; the one that was met first is forgotten for a new one.
_REMEMBERED: Final = 1024


class Quarantine:
    """Deaths by request."""

    def __init__(self) -> None:
        self._limit: int = _DEATHS
        self._deaths: dict[
            int, int
        ] = {}  # by the content's hash, which is keyed per process: nobody can aim at another's
        self._counted: set[int] = set()  # of those that the worker had which died last

    def set_limit(self, deaths: int) -> None:
        """How many deaths in a row lead here; 0: none do. What was known is forgotten."""
        self._limit = deaths
        self._deaths.clear()

    @property
    def empty(self) -> bool:
        """No request that comes can be known here: the usual case, which is to cost nothing."""
        return len(self._deaths) == 0

    def deaths(self, payload: bytes, begin: int) -> int:
        """How many workers in a row the request with this content killed, if that is enough to turn it away; else 0.

        Args:
            begin: where the content begins, which is what the same request has in common each time that it comes.
        """
        deaths = self._deaths.get(hash(payload[begin:]), 0)
        return deaths if deaths >= self._limit else 0

    def worker_died(self) -> None:
        """A worker has died, of something that it had: `died` says of what, and tells its requests one by one."""
        self._counted.clear()

    def died(self, payload: bytes, begin: int) -> bool:
        """It may have been this one. True: from now on it is turned away.

        A worker may have had it many times, beside each other; it died once.
        """
        if self._limit == 0:
            return False
        key = hash(payload[begin:])
        if key in self._counted:
            return False
        self._counted.add(key)
        if key not in self._deaths and len(self._deaths) >= _REMEMBERED:
            for first in self._deaths:
                del self._deaths[first]
                break
        deaths = self._deaths.get(key, 0) + 1
        self._deaths[key] = deaths
        return deaths == self._limit

    def survived(self, payload: bytes, begin: int) -> None:
        """A worker answered it."""
        self._deaths.pop(hash(payload[begin:]), None)
