"""RESPONDENT: REP, for surveys.

    recv   header = [0|pipe id of a device]* ‖ 1|survey id, with the pipe it came by
    send   the same header and pipe; a pipe that is gone meanwhile: dropped, a congested one: waits for it
    wire   header ‖ body

A sole context has a queue for surveys (READQ-LEN); of several each gets a survey when it waits for one, and the others
wait in their pipes.
"""

from __future__ import annotations

from typing import Any, Final

from spworkers.protocol.machine import Actions
from spworkers.protocol.rep import Rep

__all__ = ["Respondent"]

# READQ-LEN's default; mangos has the same.
_READQ: Final = 128


class Respondent(Rep):
    """The machine of a RESPONDENT socket."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out, _READQ)

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "READQ-LEN":
            self.set_standing(int(value))
        else:
            super().configure(context, name, value)
