"""The user's half of each protocol: what a context checks and remembers before the I/O process sees a message.

The other half is the machine in `spworkers.protocol`. Between them lie the two lanes of the context's ring: a message
published in lane 0 stays revocable until the machine has claimed it, so whatever is given up here (a deadline, a new
request, a cancelled task) is taken back there and then.

    class            who                    sending                                    receiving
    RawHalf          raw REQ, PULL, raw SUB a place in the window (WRITEQ-LEN)         whatever comes
    QueuedHalf       PUSH, PAIR, PAIR1      the same, or a hand-off to a ready peer    whatever comes
    FanoutHalf       PUB, BUS, STAR         at once                                    whatever comes
    PerPipeHalf      raw REP, raw RESP.     a place in the window of that pipe         whatever comes
    RepHalf          REP                    back where the request came from           keeps the backtrace
    RespondentHalf   RESPONDENT             as REP                                     keeps the backtrace
    ReqHalf          REQ                    hand-off to a ready pipe; cancels before   the answer to its own request
    SubHalf          SUB                    nothing                                    what is of its topics
    SurveyorHalf     SURVEYOR               at once; ends the former survey            answers to its own survey
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spworkers.halves.fanout import FanoutHalf
from spworkers.halves.queued import QueuedHalf
from spworkers.halves.raw import RawHalf
from spworkers.halves.replying import PerPipeHalf, RepHalf, RespondentHalf
from spworkers.halves.req import ReqHalf
from spworkers.halves.sub import SubHalf
from spworkers.halves.surveyor import SurveyorHalf

if TYPE_CHECKING:
    from spworkers.port import Port

__all__ = [
    "FanoutHalf",
    "PerPipeHalf",
    "QueuedHalf",
    "RawHalf",
    "RepHalf",
    "ReqHalf",
    "RespondentHalf",
    "SubHalf",
    "SurveyorHalf",
    "half_for",
]

COOKED: dict[str, type[RawHalf]] = {
    "pair": QueuedHalf,
    "pair1": QueuedHalf,
    "push": QueuedHalf,
    "pub": FanoutHalf,
    "bus": FanoutHalf,
    "star": FanoutHalf,
    "req": ReqHalf,
    "rep": RepHalf,
    "sub": SubHalf,
    "surveyor": SurveyorHalf,
    "respondent": RespondentHalf,
}
RAW: dict[str, type[RawHalf]] = {
    "pair": QueuedHalf,
    "pair1": QueuedHalf,
    "push": QueuedHalf,
    "pub": FanoutHalf,
    "bus": FanoutHalf,
    "star": FanoutHalf,
    "surveyor": FanoutHalf,
    "rep": PerPipeHalf,
    "respondent": PerPipeHalf,
}


def half_for(protocol: str, raw: bool, port: Port) -> RawHalf:
    """The user's half of a protocol."""
    half = (RAW if raw else COOKED).get(protocol, RawHalf)(port)
    half.keeps_header = raw
    return half
