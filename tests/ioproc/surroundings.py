"""What a hub has around it: a loop and a watch that do nothing by themselves."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from spworkers.ioproc.pipes import READABLE, WRITABLE


class Surroundings:
    """The loop and the watch of a hub. Nothing happens by itself."""

    def __init__(self) -> None:
        self.soon: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.watched: dict[int, tuple[int, Callable[[Any, int], None], Any]] = {}
        self.employed = 0

    def call_soon(self, call: Callable[..., None], *about: Any) -> None:
        self.soon.append((call, about))

    def call_later(self, seconds: float, call: Callable[..., None], *about: Any) -> None:
        raise AssertionError("nothing here has to wait for a slot")

    def call_at(self, when: float, call: Callable[[], None]) -> Surroundings:
        self.timers.append((when, call))
        return self

    def cancel(self) -> None:
        """A timer that is called too often does no harm."""

    def watch(self, fd: int, events: int, call: Callable[[Any, int], None], about: Any) -> None:
        self.watched[fd] = (events, call, about)

    def employ(self, courier: object) -> None:
        self.employed += 1

    def turn(self) -> bool:
        """Call for whatever is ready. False: nothing is."""
        calls, self.soon = self.soon, []
        for call, about in calls:
            call(*about)
        poll = select.poll()
        for fd, (events, _, _) in self.watched.items():
            if events:
                poll.register(
                    fd, (select.POLLIN if events & READABLE else 0) | (select.POLLOUT if events & WRITABLE else 0)
                )
        ready = poll.poll(0)
        for fd, told in ready:
            events, call, about = self.watched[fd]
            if events:
                call(about, told & (events | select.POLLERR | select.POLLHUP))
        return bool(calls or ready)

    def age(self, until: float) -> None:
        """All timers that are due by then."""
        due = [call for when, call in self.timers if when <= until]
        self.timers = [(when, call) for when, call in self.timers if when > until]
        for call in due:
            call()
