"""The sockets that users make: a class for each protocol."""

from __future__ import annotations

from spworkers.socket import Socket

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


class Rep(Socket):
    """Receives requests and sends replies."""

    _protocol_name = "rep"


class Pair(Socket):
    """Talks to one peer, both ways; a second one is turned away."""

    _protocol_name = "pair"


class Pair1(Socket):
    """As Pair, with a count of hops (TTL), so that a loop of devices ends; another protocol on the wire."""

    _protocol_name = "pair1"


class Pub(Socket):
    """Sends every message to every subscriber; a slow one loses messages, and holds up nobody."""

    _protocol_name = "pub"


class Sub(Socket):
    """Receives messages that begin with one of its topics; of a full queue the oldest is lost.

    It has no topics to begin with, unless `subscribe` names one or several; `b""` is all messages.
    """

    _protocol_name = "sub"

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


class Pull(Socket):
    """Receives from all of its peers, in turn."""

    _protocol_name = "pull"


class Surveyor(Socket):
    """Asks all respondents at once, and receives their answers for as long as SURVEY-TIME says."""

    _protocol_name = "surveyor"


class Respondent(Socket):
    """Receives surveys and answers them."""

    _protocol_name = "respondent"


class Bus(Socket):
    """Sends every message to all neighbours, and to nobody beyond."""

    _protocol_name = "bus"


class Star(Socket):
    """Sends every message to everybody: each socket passes on what it receives to its other neighbours."""

    _protocol_name = "star"
