from __future__ import annotations

import array
import pickle
from typing import Any

import pytest

from spworkers.errors import BadValueError
from spworkers.message import Message


def test_parts() -> None:
    message = Message(b"body", b"head", "a pipe")
    assert (message.body, message.header, message.pipe) == (b"body", b"head", "a pipe")
    assert message.size == 8


def test_empty() -> None:
    message = Message()
    assert (message.body, message.header, message.pipe, message.size) == (b"", b"", None, 0)


@pytest.mark.parametrize("body", [b"abcd", bytearray(b"abcd"), memoryview(b"abcd"), array.array("h", [1, 2])])
def test_takes_every_buffer_without_a_copy(body: Any) -> None:
    message = Message(body)
    assert message.body is body
    assert message.size == 4


def test_the_size_is_in_bytes_whatever_the_items() -> None:
    assert Message(memoryview(bytes(24)).cast("I", (2, 3))).size == 24


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("text", "not the text 'text': encode it"),
        (3, "not an object of type int"),
        (None, "not an object of type NoneType"),
        ([1], "not an object of type list"),
        (memoryview(b"abcd")[::2], "contiguous"),
    ],
)
def test_refuses_what_is_no_buffer(body: Any, says: str) -> None:
    with pytest.raises(BadValueError, match=says) as caught:
        Message(body)
    assert "body" in str(caught.value)
    with pytest.raises(BadValueError, match="header"):
        Message(b"", body)


def test_parts_can_be_changed() -> None:
    message = Message(b"body")
    message.header = b"\x00\x00\x00\x01"
    message.body = b""
    assert message.size == 4


def test_dup_shares_no_bytes() -> None:
    body = bytearray(b"abc")
    message = Message(body, b"h", "pipe")
    copy = message.dup()
    body[0] = 0
    assert copy == Message(b"abc", b"h")
    assert copy.pipe == "pipe"


def test_equal_by_content_and_not_hashable() -> None:
    assert Message(bytearray(b"a"), b"h") == Message(b"a", b"h")
    assert Message(b"a", b"h") != Message(b"a")
    assert Message(b"a") != b"a"
    with pytest.raises(TypeError):
        hash(Message())


def test_repr_says_what_it_is() -> None:
    assert repr(Message(b"body")) == "<Message: body of 4 bytes>"
    assert repr(Message(b"", b"head", 7)) == "<Message: body of 0 bytes, header of 4, from 7>"


def test_pickles_without_its_pipe() -> None:
    again = pickle.loads(pickle.dumps(Message(memoryview(b"body"), b"head", object())))
    assert again == Message(b"body", b"head")
    assert again.pipe is None


def test_takes_no_other_attributes() -> None:
    with pytest.raises(AttributeError):
        Message().bodi = b""  # type: ignore[attr-defined]
