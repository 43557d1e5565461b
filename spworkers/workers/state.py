"""What the handlers of one worker have in common."""

from __future__ import annotations

import types

__all__ = ["State"]


class State(types.SimpleNamespace):
    """What `on_start` keeps for the handlers of one worker: an object to put attributes on."""
