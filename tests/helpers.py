"""What many tests need: waiting for a condition with a deadline."""

from __future__ import annotations

from spworkers.testing.waiting import PAUSE, aeventually, eventually

__all__ = ["PAUSE", "aeventually", "eventually"]
