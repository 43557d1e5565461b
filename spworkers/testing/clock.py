"""A clock that a test moves by hand."""

from __future__ import annotations

__all__ = ["VirtualClock"]


class VirtualClock:
    """Time in seconds that passes only when told to.

    A call gives the time, so that it stands where `time.monotonic` would:

        clock = VirtualClock()
        clock.advance(1.5)
        assert clock() == 1.5
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Let time pass. Returns the new time."""
        if seconds < 0:
            raise ValueError(f"time does not go back: advance({seconds!r})")
        self.now += seconds
        return self.now

    def advance_to(self, time: float) -> float:
        """Let time pass until then; nothing happens if that is over."""
        self.now = max(self.now, time)
        return self.now

    def __repr__(self) -> str:
        return f"<VirtualClock at {self.now:g} s>"
