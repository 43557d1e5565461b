"""The sockets that users make: a class for each protocol.

To type checkers and editors each constructor names what it takes, with the options of its protocol; to the interpreter
all are `Socket`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spworkers.socket import Socket

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from spworkers._optionkeywords import (
        BusKeywords,
        Pair1Keywords,
        PairKeywords,
        PubKeywords,
        PullKeywords,
        PushKeywords,
        RepKeywords,
        ReqKeywords,
        RespondentKeywords,
        StarKeywords,
        SubKeywords,
        SurveyorKeywords,
    )

__all__ = [
    "Bus",
    "Pair",
    "Pair1",
    "Pub",
    "Pull",
    "Push",
    "Rep",
    "Req",
    "Respondent",
    "Star",
    "Sub",
    "Surveyor",
]


class Req(Socket):
    """Sends requests and receives their replies; resends what is not answered, to another peer if there is one."""

    _protocol_name = "req"

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[ReqKeywords]) -> None: ...


class Rep(Socket):
    """Receives requests and sends replies."""

    _protocol_name = "rep"

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[RepKeywords]) -> None: ...


class Pair(Socket):
    """Talks to one peer, both ways; a second one is turned away."""

    _protocol_name = "pair"

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[PairKeywords]) -> None: ...


class Pair1(Socket):
    """As Pair, with a count of hops (TTL), so that a loop of devices ends; another protocol on the wire."""

    _protocol_name = "pair1"

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[Pair1Keywords]) -> None: ...


class Pub(Socket):
    """Sends every message to every subscriber; a slow one loses messages, and holds up nobody."""

    _protocol_name = "pub"

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[PubKeywords]) -> None: ...


class Sub(Socket):
    """Receives messages that begin with one of its topics; of a full queue the oldest is lost.

    It has no topics to begin with, unless `subscribe` names one or several; `b""` is all messages.
    """

    _protocol_name = "sub"

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[SubKeywords]) -> None: ...

    def subscribe(self, topic: bytes | str) -> None:
        """Receive messages that begin with these bytes, too; the same topic twice is once (mangos: SUBSCRIBE).

        Raises:
            BadValueError: it is neither bytes nor str.
            BadOptionError: the socket is raw, and receives everything.
        """
        self.set_option("SUBSCRIBE", topic)

    def unsubscribe(self, topic: bytes | str) -> None:
        """Take a topic away, and what is queued and of no other topic (mangos: UNSUBSCRIBE).

        Raises:
            BadValueError: it is none of the topics.
            BadOptionError: the socket is raw, and receives everything.
        """
        self.set_option("UNSUBSCRIBE", topic)


class Push(Socket):
    """Sends each message to one of its peers, in turn."""

    _protocol_name = "push"

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[PushKeywords]) -> None: ...


class Pull(Socket):
    """Receives from all of its peers, in turn."""

    _protocol_name = "pull"

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[PullKeywords]) -> None: ...


class Surveyor(Socket):
    """Asks all respondents at once, and receives their answers for as long as SURVEY-TIME says."""

    _protocol_name = "surveyor"

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[SurveyorKeywords]) -> None: ...


class Respondent(Socket):
    """Receives surveys and answers them."""

    _protocol_name = "respondent"

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[RespondentKeywords]) -> None: ...


class Bus(Socket):
    """Sends every message to all neighbours, and to nobody beyond."""

    _protocol_name = "bus"

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[BusKeywords]) -> None: ...


class Star(Socket):
    """Sends every message to everybody: each socket passes on what it receives to its other neighbours."""

    _protocol_name = "star"

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[StarKeywords]) -> None: ...
