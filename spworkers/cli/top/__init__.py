"""`spworkers top`: the sockets, pipes, rings and workers of running programs, live."""

from __future__ import annotations

from spworkers.cli.top.command import top

__all__ = ["top"]
