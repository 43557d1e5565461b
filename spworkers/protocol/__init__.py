"""The protocols: state machines without I/O, driven by the I/O process, by tests and by hypothesis, all the same way.

`machine.py` says what a machine is and what it talks to; every other protocol file is one of them, or what they share.
"""

from __future__ import annotations

from typing import Final

from spworkers.errors import BadProtoError
from spworkers.protocol.bus import Bus
from spworkers.protocol.machine import Actions, Machine, Outgoing
from spworkers.protocol.pair import Pair
from spworkers.protocol.pair1 import Pair1
from spworkers.protocol.pub import Pub
from spworkers.protocol.pull import Pull
from spworkers.protocol.push import Push
from spworkers.protocol.rep import Rep
from spworkers.protocol.req import Req
from spworkers.protocol.respondent import Respondent
from spworkers.protocol.star import Star
from spworkers.protocol.sub import Sub
from spworkers.protocol.surveyor import Surveyor
from spworkers.protocol.xbus import XBus
from spworkers.protocol.xpair1 import XPair1
from spworkers.protocol.xrep import XRep
from spworkers.protocol.xreq import XReq
from spworkers.protocol.xrespondent import XRespondent
from spworkers.protocol.xstar import XStar
from spworkers.protocol.xsub import XSub
from spworkers.protocol.xsurveyor import XSurveyor

__all__ = ["MACHINES", "Actions", "Machine", "Outgoing", "machine_for"]

MACHINES: Final[dict[str, tuple[type[Machine], type[Machine]]]] = {
    "pair": (Pair, Pair),
    "pair1": (Pair1, XPair1),
    "pub": (Pub, Pub),
    "sub": (Sub, XSub),
    "req": (Req, XReq),
    "rep": (Rep, XRep),
    "push": (Push, Push),
    "pull": (Pull, Pull),
    "surveyor": (Surveyor, XSurveyor),
    "respondent": (Respondent, XRespondent),
    "bus": (Bus, XBus),
    "star": (Star, XStar),
}
"""The machines of every protocol, cooked and raw. Each is made with the driver's actions as its only argument."""


def machine_for(name: str, raw: bool) -> type[Machine]:
    """The class of machine for a socket.

    Args:
        name: the protocol's name, as in `spworkers.protocols`.
        raw: whether the socket is raw.

    Raises:
        BadProtoError: there is no protocol of that name.
    """
    try:
        cooked_and_raw = MACHINES[name]
    except KeyError:
        known = ", ".join(sorted(MACHINES))
        raise BadProtoError(f"there is no protocol {name!r}; there are {known}") from None
    return cooked_and_raw[1 if raw else 0]
