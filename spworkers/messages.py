"""What may be said on a control channel: one table of every message, and the codec that holds every message to it.

A message is a msgpack map `{"v": 1, "t": type, ...fields}`. The table `MESSAGES` says which fields a type has, of which
kind each is, whether it may carry an `id` (then it is a request, and is answered with `answer` or `error` under the
same id), and how many descriptors travel beside it. Both ends look it up: a sender that breaks it has a bug
(`InternalError`); what a receiver finds broken is a `GarbledError`, and nothing of it reaches the code behind the
channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgpack

from spworkers.errors import GarbledError, InternalError, ResourceError, SerializationError, to_wire
from spworkers.lean import lean

__all__ = [
    "FDS_LIMIT",
    "MESSAGES",
    "MESSAGE_LIMIT",
    "VERSION",
    "BadPacketError",
    "DescriptorsLostError",
    "Message",
    "Shape",
    "answer",
    "decode",
    "encode",
    "failure",
    "pack_facts",
    "refusal",
    "unpack_facts",
]

_NAMES_OF_FILES: Final = "surrogateescape"
"""Paths and environments hold bytes that are no UTF-8; they have to come back as they were."""

Message = dict[str, Any]

VERSION: Final = 1
MESSAGE_LIMIT: Final = 64 << 20
"""Bytes of one message. Specifications carry pickled functions, so it is generous; bulk data has shared memory of its
own."""
FDS_LIMIT: Final = 250
"""Descriptors beside one message. Linux takes 253 (SCM_MAX_FD); one is ours when the message is carried in a file."""


class BadPacketError(GarbledError):
    """A packet that breaks the table.

    Args:
        message: what is wrong with it.
        request_id: its id, if that much could be read: its sender waits for an answer.
    """

    def __init__(self, message: str = "", request_id: int | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id
        self._fill(message, request_id)


class DescriptorsLostError(ResourceError):
    """A message whose descriptors the system could not install here, since this process has no numbers left for them.

    Args:
        message: as in `SPError`.
        request_id: the id of the request that they came with; None if it was none.
        answered_id: the id of the answer that they came with; None if it was none.
    """

    def __init__(self, message: str = "", request_id: int | None = None, answered_id: int | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.answered_id = answered_id
        self._fill(message, request_id, answered_id)


# --- Kinds of values


@lean
class Kind:
    """What a field may hold.

    Args:
        name: in words, for the error.
        fits: says whether a value, as msgpack decoded it, is of this kind.
        optional: the field may be absent.
    """

    name: str
    fits: Callable[[Any], bool]
    optional: bool = False


def _is_map(value: Any) -> bool:
    return type(value) is dict and all(type(key) is str for key in value)


# `type(x) is`, not isinstance: True is an int to Python, not to us. NaN fails `>= 0`.
ANY = Kind("anything", lambda _value: True)
FLAG = Kind("true or false", lambda value: type(value) is bool)
COUNT = Kind("an integer from 0", lambda value: type(value) is int and value >= 0)
SECONDS = Kind("seconds, a number from 0", lambda value: type(value) in (int, float) and value >= 0)
TEXT = Kind("a string", lambda value: type(value) is str)
BLOB = Kind("bytes", lambda value: type(value) is bytes)
TOKEN = Kind("32 bytes", lambda value: type(value) is bytes and len(value) == 32)
MAP = Kind("a map with strings as keys", _is_map)
TEXTS = Kind("a list of strings", lambda value: type(value) is list and all(type(item) is str for item in value))
LIST = Kind("a list", lambda value: type(value) is list)


def _one_of(*names: str) -> Kind:
    return Kind(f"one of {', '.join(names)}", lambda value: type(value) is str and value in names)


def _maybe(kind: Kind) -> Kind:
    return Kind(f"{kind.name}, or nothing", kind.fits, optional=True)


PLACE = _one_of("socket", "context", "dialer", "listener", "pipe")
PIPE_EVENT = _one_of("attaching", "attached", "detached")


# --- The table

IdRule = Literal["always", "maybe", "never"]


@lean
class Shape:
    """One row of the table.

    Args:
        fields: the kind of each field beside `v`, `t` and `id`.
        fds: the least and the greatest number of descriptors.
        id: whether the message bears an id; with one it is a request, or an answer.
    """

    fields: Mapping[str, Kind]
    fds: tuple[int, int]
    id: IdRule


def _shape(id: IdRule = "never", fds: int | tuple[int, int] = 0, **fields: Kind) -> Shape:
    return Shape(fields, (fds, fds) if isinstance(fds, int) else fds, id)


_SOME = (0, FDS_LIMIT)

MESSAGES: Final[dict[str, Shape]] = {
    # Both ways, on every channel.
    "answer": _shape("always", _SOME, value=ANY),
    "error": _shape("always", name=TEXT, args=LIST),
    # A client (the user's process, a worker) to an I/O process.
    "open_context": _shape("maybe", 2, index=COUNT, options=MAP),
    "close_context": _shape("maybe", index=COUNT),
    "join": _shape("always"),
    "dispatch": _shape("maybe", errors=TEXT, options=MAP),
    "set_option": _shape("maybe", place=PLACE, key=COUNT, name=TEXT, value=ANY),
    "get_option": _shape("always", place=PLACE, key=COUNT, name=TEXT),
    "new_dialer": _shape("maybe", key=COUNT, address=TEXT, options=MAP),
    "dial": _shape("maybe", key=COUNT),
    "close_dialer": _shape("maybe", key=COUNT),
    "new_listener": _shape("maybe", key=COUNT, address=TEXT, options=MAP),
    "listen": _shape("maybe", key=COUNT),
    "close_listener": _shape("maybe", key=COUNT),
    "connection": _shape("maybe", 1, key=COUNT, facts=MAP),
    "close_pipe": _shape("maybe", key=COUNT),
    "pipes": _shape("always"),
    "hook": _shape("maybe", on=FLAG),
    "verdict": _shape(event=COUNT, accept=FLAG, status=_maybe(COUNT), reason=_maybe(TEXT)),
    "stats": _shape("always"),
    "close": _shape("maybe", linger=SECONDS),
    "device": _shape("maybe", (0, 3), best_effort=FLAG, fail_no_peers=FLAG),
    "device_options": _shape("maybe", best_effort=FLAG, fail_no_peers=FLAG),
    "end_device": _shape("maybe"),
    # An I/O process to its clients.
    "hello": _shape(generation=COUNT),
    "pipe_event": _shape(event=COUNT, kind=PIPE_EVENT, pipe=MAP),
    "log": _shape(level=COUNT, logger=TEXT, message=TEXT, extra=_maybe(MAP)),
    # The user's process to its supervisor.
    "spawn": _shape(
        "always",
        _SOME,
        key=TEXT,
        role=TEXT,
        spec=MAP,
        restart=FLAG,
        env=BLOB,
        cwd=_maybe(TEXT),
        umask=COUNT,
        path=TEXTS,
    ),
    "end": _shape("maybe", key=TEXT, grace=SECONDS),
    "expect": _shape(role=TEXT, after=SECONDS),
    "ticket_put": _shape("always", _SOME, key=TEXT, token=TOKEN, blob=BLOB),
    "ticket_drop": _shape("maybe", token=TOKEN),
    # The supervisor to the user's process.
    "ready": _shape(pid=COUNT),
    "child_ended": _shape(key=TEXT, pid=COUNT, generation=COUNT, reason=TEXT),
    "child_started": _shape(key=TEXT, pid=COUNT, generation=COUNT),
    "child_died": _shape(key=TEXT, pid=COUNT, generation=COUNT, reason=TEXT),
    "child_failed": _shape(key=TEXT, pid=COUNT, generation=COUNT, reason=TEXT, retry=SECONDS),
    "notices_lost": _shape(count=COUNT),
    # A child to the supervisor; keep and drop also from the user's process, then with the child's key.
    "keep": _shape("maybe", _SOME, key=_maybe(TEXT), name=TEXT, blob=BLOB),
    "drop": _shape("maybe", key=_maybe(TEXT), name=TEXT),
    "inproc_listen": _shape("maybe", name=TEXT),
    "inproc_close": _shape("maybe", name=TEXT),
    "inproc_dial": _shape("always", name=TEXT),
    "kill": _shape("maybe", key=TEXT, reason=TEXT, pid=_maybe(COUNT)),  # also from the user's process, with the pid
    "crash": _shape(reason=TEXT, traceback=TEXT),
    "recycle": _shape(),
    "settled": _shape(),
    "finished": _shape(),
    "seen": _shape(facts=MAP),
    # The supervisor to a child; client also from a client that lets another process have a context.
    "client": _shape("maybe", fds=1, key=TEXT),
    "client_gone": _shape(key=TEXT, pid=COUNT, reason=_maybe(TEXT), status=_maybe(COUNT), ended=_maybe(FLAG)),
    "cancel": _shape(serial=COUNT),
    "inproc_incoming": _shape(fds=1, name=TEXT),
    "stop": _shape(grace=SECONDS),
    "look": _shape(),
    # Any process of the same user to the supervisor's claim socket.
    "claim": _shape("always", token=TOKEN),
    "inspect": _shape("always"),
    # Inside channel.py only: the message is in the file that is the first descriptor.
    "@file": _shape("never", (1, FDS_LIMIT + 1), size=COUNT),
}


_ANSWERS: Final = ("answer", "error")


# --- The codec


def encode(message: Mapping[str, Any], fds: int = 0) -> bytes:
    """A message as bytes.

    Args:
        message: `{"t": type, ...}`, without the version.
        fds: how many descriptors go along.

    Raises:
        SerializationError: it holds a value that msgpack does not carry, or is longer than MESSAGE_LIMIT.
        InternalError: it does not fit the table.
    """
    problem = _problem(message, fds)
    if problem:
        raise InternalError(f"a control message was built wrongly: {problem}")
    try:
        data = msgpack.packb({"v": VERSION, **message}, use_bin_type=True, unicode_errors=_NAMES_OF_FILES)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise SerializationError(f"control message {message['t']!r}: {error}; it carries plain values only") from error
    if len(data) > MESSAGE_LIMIT:
        raise SerializationError(
            f"control message {message['t']!r} of {len(data)} bytes: {MESSAGE_LIMIT} is the limit;"
            " hand large data over in a file"
        )
    return bytes(data)


def decode(data: bytes, fds: int = 0) -> Message:
    """The message in `data`, checked against the table; the version is taken out.

    Args:
        data: one packet's bytes, from whoever they are.
        fds: how many descriptors came along.

    Raises:
        BadPacketError: it is no message of the table.
    """
    message = unpack(data)
    version = message.pop("v", None)
    if type(version) is not int or version != VERSION:
        raise BadPacketError(
            f"control message of version {_brief(version)}, this is version {VERSION}:"
            " two versions of spworkers in one program; restart it"
        )
    problem = _problem(message, fds)
    if problem:
        raise BadPacketError(f"control message refused: {problem}", request_id_in(message))
    return message


def pack_facts(facts: Mapping[str, Any]) -> bytes:
    """Plain values that one process of ours says to another beside the table, what it keeps for its successor say."""
    data: bytes = msgpack.packb(facts, use_bin_type=True, unicode_errors=_NAMES_OF_FILES)
    return data


def unpack_facts(data: bytes) -> dict[str, Any]:
    """What `pack_facts` has packed.

    Raises:
        ValueError: it is incomplete.
    """
    facts: dict[str, Any] = msgpack.unpackb(data, raw=False, unicode_errors=_NAMES_OF_FILES)
    return facts


def unpack(data: bytes) -> Message:
    """The map in `data`, whatever it holds.

    Raises:
        BadPacketError: it holds no map. Lengths beyond the data, extension types, deep nesting count as none.
    """
    try:
        # unpackb bounds every declared length by the length of the data itself, so a few bytes cannot claim gigabytes.
        message = msgpack.unpackb(data, raw=False, max_ext_len=0, unicode_errors=_NAMES_OF_FILES)
    except (ValueError, TypeError, RecursionError) as error:  # all of msgpack's own are ValueErrors
        reason = str(error) or type(error).__name__
        raise BadPacketError(f"control message of {len(data)} bytes that is no msgpack: {reason}") from error
    if type(message) is not dict:
        raise BadPacketError(f"control message that is no map but {_brief(message)}")
    return message


def _problem(message: Mapping[str, Any], fds: int) -> str:
    """What is wrong with a message (without its version), in words; empty if nothing is."""
    name = message.get("t")
    shape = MESSAGES.get(name) if type(name) is str else None
    if shape is None:
        return f"there is no message type {_brief(name)}"
    least, most = shape.fds
    if not least <= fds <= most:
        return f"{name!r} with {fds} descriptors, not {least if least == most else f'{least} to {most}'}"
    return _id_problem(message, shape) or _field_problem(message, shape)


def _id_problem(message: Mapping[str, Any], shape: Shape) -> str:
    if "id" not in message:
        return f"{message['t']!r} without its id" if shape.id == "always" else ""
    if shape.id == "never":
        return f"{message['t']!r} with an id, which it never has"
    return (
        "" if COUNT.fits(message["id"]) else f"{message['t']!r} with the id {_brief(message['id'])}, not {COUNT.name}"
    )


def _field_problem(message: Mapping[str, Any], shape: Shape) -> str:
    for field, kind in shape.fields.items():
        if field not in message:
            if kind.optional:
                continue
            return f"{message['t']!r} without its field {field!r}"
        if not kind.fits(message[field]):
            return f"{message['t']!r} with {field}={_brief(message[field])}, not {kind.name}"
    strangers = message.keys() - shape.fields.keys() - {"t", "id"}
    return f"{message['t']!r} with the unknown field {_brief(min(strangers, key=repr))}" if strangers else ""


def request_id_in(message: Message) -> int | None:
    """The id of a message that cannot be used, if it is a request: then its sender waits for an answer."""
    return None if message.get("t") in _ANSWERS else _id_in(message)


def answered_id_in(message: Message) -> int | None:
    """The id of a message that cannot be used, if it is an answer: then somebody here waits for it."""
    return _id_in(message) if message.get("t") in _ANSWERS else None


def _id_in(message: Message) -> int | None:
    found = message.get("id")
    return found if COUNT.fits(found) else None


def _brief(value: Any) -> str:
    """A value for an error's text: hostile values are long, and reprs of deep ones recurse."""
    if type(value) in (dict, list):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- Answers


def answer(id: int, value: Any = None) -> Message:
    """The message that answers request `id` with `value`."""
    return {"t": "answer", "id": id, "value": value}


def failure(id: int, error: BaseException) -> Message:
    """The message that answers request `id` with an error; `errors.from_name` rebuilds it over there."""
    name, args = to_wire(error)
    return {"t": "error", "id": id, "name": name, "args": args}


def refusal(error: BaseException) -> Message | None:
    """The answer to a packet that a channel's `recv` refused with `error`; None if its sender waits for none."""
    request_id = getattr(error, "request_id", None)
    if request_id is None:
        return None
    cls = ResourceError if isinstance(error, DescriptorsLostError) else GarbledError
    return failure(request_id, cls(str(error)))
