"""The call format: how a call of a handler and its answer look as bytes. docs/call-format.md is its specification.

A message of the format is a head of fixed size, which a dispatcher reads without understanding the rest, and one value
in the codec's msgpack:

    call       C1 10  id:8  patience:4  [name, args]  or  [name, args, kwargs]
    value      C1 11  id:8  any value
    error      C1 12  id:8  {kind, type, message, traceback, ...}
    part       C1 13  id:8  [item, ...]     of a stream, which goes on
    last part  C1 14  id:8  [item, ...]
    next       C1 15  id:8  patience:4  number:4
    cancel     C1 16  id:8

The first byte is C1, which msgpack never uses and which no UTF-8 text contains: so whatever else people send to a raw
handler, it is not mistaken for a call. The second byte is the version (high half) and the kind of message (low half).
`spworkers.callhead` is the part of this that a dispatcher reads too.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from spworkers import callhead
from spworkers.callhead import ANSWER_HEAD, CALL_HEAD
from spworkers.errors import (
    BadArgumentsError,
    BusyError,
    GarbledError,
    QuarantinedError,
    RemoteError,
    SPError,
    StreamLostError,
    TaskTimeoutError,
    UnknownHandlerError,
    WorkerDiedError,
)
from spworkers.ring import answer_bytes, call_bytes, call_head_of
from spworkers.workers.packing import decode, encode

__all__ = [
    "ANSWER_HEAD",
    "CALL_HEAD",
    "CALL_ERRORS",
    "Call",
    "CallErrors",
    "Failure",
    "Next",
    "Part",
    "call_of",
    "call_id_of",
    "content_of_call",
    "decode_answer",
    "decode_call",
    "decode_next",
    "encode_call",
    "encode_cancel",
    "encode_failure",
    "encode_next",
    "encode_part",
    "encode_value",
    "fields_of_call",
    "handler_of",
    "is_busy",
    "is_call",
    "is_next",
    "is_part",
    "patience_on_wire",
]

CALL_MARK: Final = bytes((0xC1, callhead.CALL))
VALUE_MARK: Final = bytes((0xC1, callhead.VALUE))
ERROR_MARK: Final = bytes((0xC1, callhead.ERROR))
PART_MARK: Final = bytes((0xC1, callhead.PART))
LAST_PART_MARK: Final = bytes((0xC1, callhead.LAST_PART))
NEXT_MARK: Final = bytes((0xC1, callhead.NEXT))
CANCEL_MARK: Final = bytes((0xC1, callhead.CANCEL))

_NEXT: Final = struct.Struct(">2sQII")
_ANSWER: Final = struct.Struct(">2sQ")

_MAX_PATIENCE: Final = 0xFFFFFFFF  # ms: 49 days; who waits longer waits for ever
_MAX_NAME: Final = 255  # characters
_COPIED: Final = 4096  # bytes; what is shorter is copied sooner than looked at in its place
_MAX_MESSAGE: Final = 16 << 10  # characters of an exception's text; an exception may hold a whole document
_MAX_TRACEBACK: Final = 64 << 10


class Call(NamedTuple):
    """A call as it arrived.

    Attributes:
        id: the caller's number for it; a repeated request has the same one.
        timeout: how many seconds the caller waits, counted from when it sent the call; `math.inf`: for ever.
    """

    id: int
    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    timeout: float


class Next(NamedTuple):
    """A request for the next part of a stream.

    Attributes:
        id: of the call that began it.
        number: of the part, counted from 1; the answer to the call itself was 0.
    """

    id: int
    number: int


class Part(NamedTuple):
    """Some items of a stream; `last`: there are no more."""

    items: list[Any]
    last: bool


@dataclass(frozen=True)
class Failure:
    """Why a call has no value: the error half of an answer.

    Attributes:
        kind: one of the kinds of docs/call-format.md: exception, arguments, unknown, busy, died, timeout, quarantined,
            lost.
        message: what went wrong, for a person.
        type: kind `exception` only: the exception's class.
        traceback: kind `exception` only: the worker's traceback.
        detail: further fields of that kind: nearest, pid, status, seconds, deaths.
    """

    kind: str
    message: str
    type: str = ""
    traceback: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    def as_error(self, handler: str) -> SPError:
        """The exception that the caller of `handler` gets."""
        detail = self.detail
        named = f"{handler}(): {self.message}"
        match self.kind:
            case "arguments":
                return BadArgumentsError(self.message, handler)
            case "unknown":
                return UnknownHandlerError(self.message, handler, _names(detail.get("nearest")))
            case "busy":
                return BusyError(named)
            case "died":
                return WorkerDiedError(named, handler, _whole(detail.get("pid")) or 0, _whole(detail.get("status")))
            case "timeout":
                return TaskTimeoutError(named, handler, _seconds(detail.get("seconds")))
            case "quarantined":
                return QuarantinedError(named, handler, _whole(detail.get("deaths")) or 0)
            case "lost":
                return StreamLostError(named)
            case "exception":
                return RemoteError(self.type or "Exception", self.message, self.traceback)
        return RemoteError(self.kind, self.message, self.traceback)  # a kind of a later version


# What a server says beside the message is used where it is what it should be, and left out where it is not.


def _names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _whole(value: object) -> int | None:
    return value if type(value) is int else None


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


# --- calls ------------------------------------------------------------------------------------------------------------


def encode_call(
    call_id: int, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], timeout: float = math.inf
) -> bytes:
    """A call as bytes.

    Args:
        call_id: a number of 64 bits, the same only in repetitions of this very call.
        timeout: seconds that the caller waits; `math.inf`: for ever.

    Raises:
        SerializationError: an argument cannot be carried.
    """
    return call_of(call_id, patience_on_wire(timeout), content_of_call(name, args, kwargs))


def call_of(call_id: int, patience: int, content: bytes) -> bytes:
    """A call; `patience` is in milliseconds, as `patience_on_wire` has it."""
    return call_bytes(CALL_MARK, call_id, patience, content)


def content_of_call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """What is behind a call's head; raises as `encode_call`."""
    content: list[Any] = [name, list(args), dict(kwargs)] if kwargs else [name, list(args)]
    return encode(content)


def patience_on_wire(timeout: float) -> int:
    """Milliseconds, as they are on the wire: 0 is for ever, and who has no time left at all gets the shortest."""
    return max(math.ceil(timeout * 1000), 1) if timeout * 1000 <= _MAX_PATIENCE else 0


def encode_next(call_id: int, number: int, timeout: float = math.inf) -> bytes:
    """The request for a part of a stream.

    Args:
        call_id: of the call that began the stream.
        number: of the part, counted from 1.
        timeout: as for `encode_call`.
    """
    return _NEXT.pack(NEXT_MARK, call_id, patience_on_wire(timeout), number & 0xFFFF_FFFF)


def encode_cancel(call_id: int) -> bytes:
    """What gives a call, or a stream, up."""
    return answer_bytes(CANCEL_MARK, call_id, b"")


def is_next(body: bytes | memoryview) -> bool:
    """Whether a request is one for the next part of a stream."""
    return len(body) == callhead.NEXT_HEAD and body[:2] == NEXT_MARK


def decode_next(body: bytes | memoryview) -> Next:
    """What `is_next` has found."""
    _, call_id, _, number = _NEXT.unpack(body)
    return Next(call_id, number)


def is_call(body: bytes | memoryview) -> bool:
    """Whether a request begins as a call of this version; all else is a raw handler's."""
    if isinstance(body, bytes):  # compiled, this makes no slice
        return len(body) >= CALL_HEAD and body[0] == 0xC1 and body[1] == callhead.CALL
    return len(body) >= CALL_HEAD and body[:2] == CALL_MARK


def call_id_of(body: bytes | memoryview) -> int:
    """The id of a call or of an answer; 0 for what is neither."""
    return int.from_bytes(body[2:ANSWER_HEAD], "big") if len(body) >= ANSWER_HEAD and body[:1] == b"\xc1" else 0


def decode_call(body: bytes | memoryview) -> Call:
    """A call from its bytes.

    Raises:
        GarbledError: it is not a call, or a broken one; no other exception, whatever the bytes.
    """
    return Call(*fields_of_call(body))


def fields_of_call(body: bytes | memoryview) -> tuple[int, str, list[Any], dict[str, Any], float]:
    """The fields of `Call`, for a worker, which looks at each once; raises as `decode_call`."""
    if not is_call(body):
        raise GarbledError(f"{bytes(body[:16])!r} does not begin as a call; the call format is in docs/call-format.md")
    call_id, patience = call_head_of(body if isinstance(body, bytes) else bytes(body[:CALL_HEAD]))
    content = decode(body[CALL_HEAD:] if len(body) < _COPIED else memoryview(body)[CALL_HEAD:])
    if type(content) is not list or not 2 <= len(content) <= 3:
        raise GarbledError(
            "a call is an array of a name, an array of arguments and, if there are any, a map of keywords"
        )
    name, args = content[0], content[1]
    kwargs = content[2] if len(content) == 3 else {}
    if type(name) is not str or not 0 < len(name) <= _MAX_NAME:
        raise GarbledError(f"a handler's name is text of 1 to {_MAX_NAME} characters, not {name!r:.80}")
    if type(args) is not list:
        raise GarbledError(f"the arguments of a call are an array, not a {type(args).__name__}")
    if type(kwargs) is not dict or (kwargs and not all(type(key) is str for key in kwargs)):
        raise GarbledError("the keywords of a call are a map whose keys are text")
    return call_id, name, args, kwargs, patience / 1000 if patience else math.inf


_ANSWERS: Final = (VALUE_MARK, ERROR_MARK, PART_MARK, LAST_PART_MARK)

# --- answers ----------------------------------------------------------------------------------------------------------


def encode_value(call_id: int, value: object) -> bytes:
    """The answer of a handler that returned.

    Raises:
        SerializationError: the value cannot be carried.
    """
    return answer_bytes(VALUE_MARK, call_id, encode(value))


def encode_part(call_id: int, items: Sequence[bytes], last: bool) -> bytes:
    """A part of a stream.

    Args:
        items: as the codec has encoded each of them.
        last: no more will follow.
    """
    count = struct.pack(">BI", 0xDD, len(items))  # array 32
    return answer_bytes(LAST_PART_MARK if last else PART_MARK, call_id, count + b"".join(items))


def encode_failure(call_id: int, failure: Failure) -> bytes:
    """The answer of a call that has no value. It never fails: text that is too long or no Unicode is mended."""
    content = {
        "kind": failure.kind,
        "message": _mended(failure.message, _MAX_MESSAGE),
        **({"type": _mended(failure.type, _MAX_NAME)} if failure.type else {}),
        **({"traceback": _mended(failure.traceback, _MAX_TRACEBACK)} if failure.traceback else {}),
        **failure.detail,
    }
    return answer_bytes(ERROR_MARK, call_id, encode(content))


def _mended(text: str, limit: int) -> str:
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def decode_answer(body: bytes | memoryview, handler: str, call_id: int | None = None) -> Any:
    """The value of an answer; the `Part` of a stream, if it is one.

    Args:
        handler: the name that was called, for the errors.
        call_id: what it must be the answer to; None: anything.

    Raises:
        RemoteError, BadArgumentsError, UnknownHandlerError, BusyError, WorkerDiedError, TaskTimeoutError,
            QuarantinedError, StreamLostError: the server's answer is this error.
        GarbledError: it is no answer, or that of another call.
    """
    if (
        call_id is not None
        and isinstance(body, bytes)
        and body[:ANSWER_HEAD] == VALUE_MARK + call_id.to_bytes(8, "big")
    ):
        return decode(body[ANSWER_HEAD:])
    mark, answered = _ANSWER.unpack_from(body) if len(body) >= ANSWER_HEAD else (b"", 0)
    if mark not in _ANSWERS:
        raise GarbledError(
            f"the server answered {handler}() with {bytes(body[:16])!r}, which is no answer of the call format:"
            " is what answers there an App, and not a raw handler?"
        )
    if call_id is not None and answered not in (call_id, 0):
        raise GarbledError(f"the server answered {handler}() with the answer of another call")
    content = decode(body[ANSWER_HEAD:])
    if mark == VALUE_MARK:
        return content
    if mark != ERROR_MARK:
        if type(content) is not list:
            raise GarbledError(f"a part of the stream of {handler}() is no array but {type(content).__name__}")
        return Part(content, mark == LAST_PART_MARK)
    raise _failure(content).as_error(handler)


def is_part(body: bytes) -> bool:
    """Whether this is a part of a stream after which others come."""
    return body[:2] == PART_MARK


def is_busy(body: bytes | memoryview) -> bool:
    """Whether an answer says that the server has no room for the call, or is about to end."""
    if body[:2] != ERROR_MARK:
        return False
    try:
        content = decode(body[ANSWER_HEAD:])
    except GarbledError:
        return False
    return isinstance(content, dict) and content.get("kind") == "busy"


def _failure(content: object) -> Failure:
    match content:
        case {"kind": str(kind), "message": str(message), **rest}:
            detail = {str(key): value for key, value in rest.items()}
            type_, traceback = detail.pop("type", ""), detail.pop("traceback", "")
            if isinstance(type_, str) and isinstance(traceback, str):
                return Failure(kind, message, type_, traceback, detail)
    raise GarbledError(f"the server's error has no kind and message: {content!r:.200}")


def handler_of(body: bytes) -> str:
    """The name in a call, found without decoding the rest; empty for what is no call, or a broken one."""
    return callhead.name_at(body, 0) if is_call(body) else ""


class CallErrors:
    """What the dispatcher in the I/O process has to know of requests (its `ErrorFormat`).

    It answers on a worker's behalf. A call is answered with an error of the call format. A raw handler's peer (nngcat,
    say) has no form for errors:

    * `busy` has no answer there: the request then waits in its connection, as SP does about overload;
    * all else is answered with an empty body. Sent again it would fail again, and a peer that waits for ever learns
      less than one that gets nothing back.
    """

    def handler_of(self, payload: bytes, header_length: int) -> str:
        """Whose the request is, for limits of its own: a handler's name, empty for the raw handler."""
        is_call = callhead.kind_at(payload, header_length) == callhead.CALL
        return callhead.name_at(payload, header_length) if is_call else ""

    def content_at(self, payload: bytes, header_length: int) -> int:
        """Where the part begins that two calls for the same work have in common: behind id and patience."""
        return (
            header_length + CALL_HEAD if is_call(payload[header_length : header_length + CALL_HEAD]) else header_length
        )

    def error_reply(self, payload: bytes, header_length: int, kind: str, detail: Mapping[str, Any]) -> bytes | None:
        """The body of an error's answer.

        Args:
            payload: the request; its body begins at `header_length`.
            kind: busy, died, timeout, quarantined or lost.
            detail: `message`, for a person, and further fields of `Failure`.

        Returns:
            The body; None: this request has no answer for such an error.
        """
        head = payload[header_length : header_length + CALL_HEAD]
        if callhead.kind_at(payload, header_length) not in (callhead.CALL, callhead.NEXT):
            return None if kind == "busy" else b""
        more = {name: value for name, value in detail.items() if name != "message"}
        return encode_failure(call_id_of(head), Failure(kind, detail.get("message", kind), detail=more))


CALL_ERRORS: Final = CallErrors()
"""What the I/O process loads by name; it knows nothing of handlers itself."""
