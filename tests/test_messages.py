"""The table of control messages: what fits it comes back as it was, and nothing else passes."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spworkers.errors import (
    AddrInUseError,
    GarbledError,
    InternalError,
    SerializationError,
    SPError,
    from_name,
)
from spworkers.messages import (
    FDS_LIMIT,
    MESSAGE_LIMIT,
    MESSAGES,
    BadPacketError,
    DescriptorsLostError,
    Message,
    Shape,
    answer,
    answered_id_in,
    decode,
    encode,
    failure,
    refusal,
    request_id_in,
)

VALUES: dict[str, Any] = {
    "anything": [1, {"a": None}],
    "true or false": True,
    "an integer from 0": 3,
    "seconds, a number from 0": 1.5,
    "a string": "text \udcff",
    "bytes": b"\xff",
    "32 bytes": bytes(32),
    "a map with strings as keys": {"a": [1, 2.5, b"", None]},
    "a list of strings": ["a", ""],
    "a list": [1],
    "one of socket, context, dialer, listener, pipe": "pipe",
    "one of attaching, attached, detached": "attached",
}
WRONG: dict[str, list[Any]] = {
    "anything": [],
    "true or false": [1, None, "true"],
    "an integer from 0": [True, -1, 1.0, "1", None],
    "seconds, a number from 0": [True, -0.1, math.nan, "1", None],
    "a string": [b"", 1, None],
    "bytes": ["", 1, None],
    "32 bytes": [bytes(31), bytes(33), "x" * 32],
    "a map with strings as keys": [{b"a": 1}, [], "", None],
    "a list of strings": [["a", 1], "ab", None],
    "a list": [{}, "ab", None],
    "one of socket, context, dialer, listener, pipe": ["", "pipes", b"pipe", None],
    "one of attaching, attached, detached": ["", 1, None],
}


def kind_name(shape: Shape, field: str) -> str:
    return shape.fields[field].name.removesuffix(", or nothing")


def example(name: str) -> Message:
    shape = MESSAGES[name]
    message: Message = {"t": name, **{field: VALUES[kind_name(shape, field)] for field in shape.fields}}
    return message if shape.id == "never" else {**message, "id": 7}


def packed(message: Any, version: Any = 1) -> bytes:
    return bytes(msgpack.packb({"v": version, **message}, unicode_errors="surrogateescape"))


def refused(message: Any, fds: int) -> str:
    with pytest.raises(BadPacketError) as caught:
        decode(packed(message), fds)
    if isinstance(message, dict) and all(isinstance(key, str) for key in message):
        with pytest.raises((InternalError, SerializationError)):  # its sender would not get that far either
            encode(message, fds)
    return str(caught.value)


@pytest.mark.parametrize("name", MESSAGES)
def test_each_message_comes_back_as_it_was(name: str) -> None:
    for fds in MESSAGES[name].fds:
        assert decode(encode(example(name), fds), fds) == example(name)


@pytest.mark.parametrize("name", MESSAGES)
def test_optional_fields_may_be_absent_and_others_not(name: str) -> None:
    shape, fds = MESSAGES[name], MESSAGES[name].fds[0]
    for field, kind in shape.fields.items():
        message = example(name)
        del message[field]
        if kind.optional:
            assert decode(encode(message, fds), fds) == message
        else:
            assert f"{name!r} without its field {field!r}" in refused(message, fds)


@pytest.mark.parametrize("name", MESSAGES)
def test_each_field_has_its_kind(name: str) -> None:
    shape = MESSAGES[name]
    for field in shape.fields:
        for wrong in WRONG[kind_name(shape, field)]:
            text = refused({**example(name), field: wrong}, shape.fds[0])
            assert f"{name!r} with {field}=" in text
            assert kind_name(shape, field) in text


@pytest.mark.parametrize("name", MESSAGES)
def test_the_number_of_descriptors_is_checked(name: str) -> None:
    least, most = MESSAGES[name].fds
    for wrong in {least - 1, most + 1} - {-1}:
        assert f"with {wrong} descriptors" in refused(example(name), wrong)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_id_is_checked(name: str) -> None:
    shape, fds = MESSAGES[name], MESSAGES[name].fds[0]
    message = {key: value for key, value in example(name).items() if key != "id"}
    if shape.id == "never":
        assert "which it never has" in refused({**message, "id": 1}, fds)
        return
    if shape.id == "always":
        assert "without its id" in refused(message, fds)
    else:
        assert decode(encode(message, fds), fds) == message
    for wrong in (-1, True, "1", None, 1.0):
        assert "with the id" in refused({**message, "id": wrong}, fds)


def test_strangers_are_refused() -> None:
    assert "unknown field 'more'" in refused({**example("dial"), "more": 1}, 0)
    assert "unknown field" in refused({**example("dial"), b"more": 1}, 0)
    for name in ("nonsense", None, 1, ["dial"], b"dial"):
        assert "no message type" in refused({"t": name}, 0)
    assert "no message type None" in refused({}, 0)


@pytest.mark.parametrize("version", [0, 2, True, "1", None, 1.0])
def test_another_version_is_refused(version: Any) -> None:
    with pytest.raises(BadPacketError, match="two versions of spworkers"):
        decode(packed(example("dial"), version))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\xa1x",
        packed(example("dial")) + b"\xc0",
        packed(example("dial"))[:-1],
        b"\xdd\xff\xff\xff\xff",  # an array of 4 thousand million
        b"\xdf\xff\xff\xff\xff",  # a map of as many
        b"\xc6\xff\xff\xff\xff",  # bytes of as many
        b"\x91" * 100_000,  # nested beyond every stack
        b"\x81\xa1t" * 5000,
        b"\x81\x01\x01",
        b"\x81\x90\x01",
        b"\x81\xa1t\xd4\x01x",  # an extension type
        b"\x81\xa1t\xd6\xff\0\0\0\0",  # the one of time stamps, which msgpack knows
    ],
)
def test_what_is_no_message_is_garbled(data: bytes) -> None:
    with pytest.raises(GarbledError):
        decode(data)


@given(st.binary(max_size=200), st.integers(0, 3))
def test_no_bytes_do_harm(data: bytes, fds: int) -> None:
    try:
        decode(data, fds)
    except BadPacketError:
        pass


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_message_with_wrong_fields_does_harm(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(MESSAGES)))
    fields = st.sampled_from([*MESSAGES[name].fields, "id", "t", "v", "other"])
    message = {**example(name), **data.draw(st.dictionaries(fields, ANYTHING, max_size=2))}
    version = message.pop("v", 1)
    try:
        found = decode(bytes(msgpack.packb({"v": version, **message}, unicode_errors="surrogatepass")), 0)
    except BadPacketError as error:
        assert len(str(error)) < 400
    else:
        assert found["t"] in MESSAGES


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ANYTHING)
def test_every_plain_value_comes_back(value: Any) -> None:
    def same(one: Any, other: Any) -> bool:
        return repr(one) == repr(other)  # NaN is not itself

    assert same(decode(encode(answer(1, value)))["value"], value)


def test_what_cannot_be_carried_is_the_senders_error() -> None:
    deep: list[Any] = []
    for _ in range(3000):
        deep = [deep]
    for value in (object(), {1, 2}, 2**64, "\ud800", deep):
        with pytest.raises(SerializationError, match="control message 'answer'"):
            encode(answer(1, value))


def test_a_message_has_a_limit() -> None:
    with pytest.raises(SerializationError, match="hand large data over in a file"):
        encode(answer(1, bytes(MESSAGE_LIMIT)))


def test_answers_and_errors() -> None:
    assert decode(encode(answer(3))) == {"t": "answer", "id": 3, "value": None}
    message = decode(encode(failure(3, AddrInUseError("taken"))))
    assert str(from_name(message["name"], message["args"])) == "taken"
    message = decode(encode(failure(3, ZeroDivisionError("oh"))))
    assert isinstance(from_name(message["name"], message["args"]), InternalError)


def test_a_refused_request_is_answered() -> None:
    def answer_to(message: Message) -> SPError | None:
        with pytest.raises(BadPacketError) as caught:
            decode(packed(message))
        found = refusal(caught.value)
        if found is None:
            return None
        assert found["id"] == 7
        return from_name(found["name"], found["args"])

    assert type(answer_to({**example("dial"), "key": -1})) is GarbledError
    assert answer_to({**example("answer"), "more": 1}) is None  # answers are not answered
    assert answer_to({"t": "dial", "key": -1}) is None
    assert refusal(ValueError()) is None
    lost = refusal(DescriptorsLostError("lost", 9))
    assert lost is not None
    assert (lost["id"], lost["name"]) == (9, "ResourceError")


def test_which_id_is_which() -> None:
    assert (request_id_in({"t": "dial", "id": 1}), answered_id_in({"t": "dial", "id": 1})) == (1, None)
    assert (request_id_in({"t": "error", "id": 1}), answered_id_in({"t": "error", "id": 1})) == (None, 1)
    assert (request_id_in({"id": -1}), answered_id_in({"t": "answer"})) == (None, None)


def test_descriptors_fit_a_packet() -> None:
    assert FDS_LIMIT + 1 <= 253  # SCM_MAX_FD
