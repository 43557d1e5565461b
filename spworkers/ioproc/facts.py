"""What an I/O process tells somebody who looks at the program from outside (`spworkers top`)."""

from __future__ import annotations

import itertools
from typing import Any, Final

from spworkers.ioproc.control import Control
from spworkers.ioproc.ports import ContextPort

__all__ = ["PIPES_TOLD", "facts_of"]

PIPES_TOLD: Final = 256
"""Pipes that are described; of more, only their number is told."""
_OF_A_PIPE: Final = ("id", "address", "local", "remote", "sent", "received", "sent_bytes", "received_bytes")


def facts_of(control: Control) -> dict[str, Any]:
    """Statistics, endpoints, pipes, and the rings of each context; nothing that is secret."""
    living = (pipe for pipe in control.hub.pipes.values() if not pipe.hung_up)
    pipes = [pipe.info() for pipe in itertools.islice(living, PIPES_TOLD)]
    return {
        "stats": control.do_stats(),
        "listeners": [_endpoint(driver) for driver in control.listeners.values()],
        "dialers": [_endpoint(driver) for driver in control.dialers.values()],
        "pipes": [{name: pipe[name] for name in _OF_A_PIPE} for pipe in pipes],
        "contexts": [_context(port) for port in control.hub.contexts.values()],
    }


def _endpoint(driver: Any) -> dict[str, str]:
    return {"address": driver.address, "state": driver.state.value}


def _context(port: ContextPort) -> dict[str, Any]:
    """Its two rings: what waits to be sent, and what waits to be received."""
    return {
        "index": port.index,
        "client": port.client,
        "sending": port.outlet.unclaimed(),
        "receiving": getattr(port.inlet, "queued", 0),  # in a device it goes over a bridge, which has no queue
        "window": port.inlet.window,
    }
