"""The socket of a client: a REQ whose own context has many requests at once."""

from __future__ import annotations

from typing import Any, ClassVar

from spworkers.sockets import Req

__all__ = ["CallSocket"]


class CallSocket(Req):
    """A REQ socket whose own context has many requests at once.

    Args:
        in_flight: how many.
    """

    _closing_patience: ClassVar[float] = 1.0  # what its client sends at its end is only what spares a server some work

    def __init__(self, in_flight: int, **arguments: Any) -> None:
        self._many = in_flight
        super().__init__(**arguments)

    def _warn_of_drop(self) -> None:
        """Its client does, whose name the user knows."""

    def _spec(self) -> dict[str, Any]:
        spec = super()._spec()
        return {**spec, "options": {**spec["options"], "IN-FLIGHT": self._many}}
