"""Calls and answers as bytes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spworkers import errors
from spworkers.errors import GarbledError, SerializationError, SPError
from spworkers.workers import callformat
from spworkers.workers.callformat import (
    CALL_ERRORS,
    CALL_HEAD,
    Call,
    Failure,
    call_id_of,
    decode_answer,
    decode_call,
    encode_call,
    encode_failure,
    encode_value,
    handler_of,
    is_call,
)
from spworkers.workers.packing import encode

PAGE = (Path(__file__).parents[2] / "docs" / "call-format.md").read_text(encoding="utf-8")
ID = 0x0123456789ABCDEF
KINDS = ["exception", "arguments", "unknown", "busy", "died", "timeout", "quarantined"]


@pytest.mark.parametrize(
    "message",
    [
        encode_call(ID, "add", [2, 3], {}, 5.0),
        encode_call(7, "digest", ["/etc/hosts"], {"algorithm": "md5"}),
        encode_value(ID, 5),
        encode_failure(ID, Failure("exception", "division by zero", "ZeroDivisionError")),
    ],
)
def test_the_bytes_of_the_page_are_ours(message: bytes) -> None:
    assert message.hex() in "".join(PAGE.split())


def test_every_kind_is_on_the_page() -> None:
    for kind in KINDS:
        assert f"| `{kind}` |" in PAGE


@given(
    st.integers(0, 2**64 - 1),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255),
    st.lists(st.integers() | st.text()),
    st.dictionaries(st.text(), st.integers()),
    st.floats(0, 1e9),
)
def test_a_call_comes_back(number: int, name: str, args: list[Any], kwargs: dict[str, Any], timeout: float) -> None:
    body = encode_call(number, name, args, kwargs, timeout)
    call = decode_call(body)
    assert call == Call(number, name, args, kwargs, call.timeout)
    assert call_id_of(body) == number
    assert is_call(body)
    if timeout <= 0xFFFFFFFF / 1000:
        assert call.timeout == pytest.approx(max(timeout, 0.001), abs=0.0011)
    else:
        assert call.timeout == math.inf


def test_who_waits_for_ever_says_nothing() -> None:
    assert encode_call(1, "f", [], {})[10:14] == bytes(4)
    assert decode_call(encode_call(1, "f", [], {})).timeout == math.inf
    assert decode_call(encode_call(1, "f", [], {}, 0.0)).timeout == 0.001


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\xc1\x10", b"/etc/hosts", encode([1, 2, 3]), "grüße".encode(), b"\xc1\x20" + bytes(20)]
)
def test_other_messages_are_no_calls(body: bytes) -> None:
    assert not is_call(body)
    with pytest.raises(GarbledError):
        decode_call(body)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_call_or_garbled(tail: bytes) -> None:
    try:
        decode_call(callformat.CALL_MARK + tail)
    except GarbledError:
        return


@pytest.mark.parametrize(
    "content",
    [
        [],
        ["f"],
        [1, []],
        ["f", {}],
        ["f", [], []],
        ["f", [], {1: 2}],
        ["f", [], {}, 1],
        {"name": "f"},
        ["", []],
        ["x" * 256, []],
    ],
)
def test_a_broken_call_is_garbled(content: Any) -> None:
    with pytest.raises(GarbledError):
        decode_call(encode_call(1, "f", [], {})[:CALL_HEAD] + encode(content))


def test_a_call_may_be_any_buffer() -> None:
    assert decode_call(memoryview(encode_call(1, "f", [1], {}))).args == [1]


def test_a_value_comes_back() -> None:
    assert decode_answer(encode_value(9, {"a": (1, 2)}), "f", 9) == {"a": (1, 2)}


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure("exception", "no", "OSError", "Traceback"), errors.RemoteError("OSError", "no", "Traceback")),
        (Failure("arguments", "no"), errors.BadArgumentsError("no", "f")),
        (Failure("unknown", "no", detail={"nearest": ["g"]}), errors.UnknownHandlerError("no", "f", ["g"])),
        (Failure("busy", "no"), errors.BusyError("f(): no")),
        (Failure("died", "no", detail={"pid": 5, "status": -9}), errors.WorkerDiedError("f(): no", "f", 5, -9)),
        (Failure("timeout", "no", detail={"seconds": 2.5}), errors.TaskTimeoutError("f(): no", "f", 2.5)),
        (Failure("quarantined", "no", detail={"deaths": 3}), errors.QuarantinedError("f(): no", "f", 3)),
        (Failure("of the future", "no"), errors.RemoteError("of the future", "no")),
    ],
)
def test_a_failure_comes_back_as_its_error(failure: Failure, expected: SPError) -> None:
    with pytest.raises(type(expected)) as caught:
        decode_answer(encode_failure(9, failure), "f", 9)
    assert caught.value.args == expected.args
    assert str(caught.value) == str(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_odd_details_do_no_harm(kind: str) -> None:
    odd = {"nearest": 5, "pid": "x", "status": [], "seconds": None, "deaths": True}
    with pytest.raises(SPError, match="no"):
        decode_answer(encode_failure(9, Failure(kind, "no", detail=odd)), "f", 9)


def test_long_and_odd_texts_are_mended() -> None:
    with pytest.raises(errors.RemoteError) as caught:
        decode_answer(encode_failure(9, Failure("exception", "x" * 100_000, "E", "\ud800" * 5)), "f", 9)
    assert len(caught.value.message) < 20_000
    assert "characters left out" in caught.value.message
    assert "\\ud800" in caught.value.traceback


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"plain",
        b"\xc1\x11",
        encode_call(9, "f", [], {}),
        encode_value(8, 1),
        b"\xc1\x12" + bytes(8) + encode([1]),
        encode_value(9, 1) + b"x",
    ],
)
def test_what_is_no_answer_is_garbled(body: bytes) -> None:
    with pytest.raises(GarbledError):
        decode_answer(body, "f", 9)


def test_an_answer_without_id_is_taken() -> None:
    """Whoever could not read the call could not read its id."""
    assert decode_answer(encode_value(0, 1), "f", 9) == 1


def test_a_value_that_cannot_be_sent_says_so() -> None:
    with pytest.raises(SerializationError):
        encode_value(1, object())


# --- what the dispatcher knows and answers


@pytest.mark.parametrize("name", ["f", "x" * 31, "x" * 32, "x" * 255, "grüße", "ü" * 200])
def test_the_name_is_found_without_decoding(name: str) -> None:
    body = encode_call(1, name, [1], {"a": 2})
    assert handler_of(body) == name
    assert CALL_ERRORS.handler_of(b"head" + body, 4) == name


@given(st.binary(max_size=40))
def test_a_name_is_found_in_any_bytes(tail: bytes) -> None:
    assert isinstance(handler_of(encode_call(1, "f", [], {})[:CALL_HEAD] + tail), str)
    assert handler_of(tail) == ""


@pytest.mark.parametrize("kind", ["busy", "died", "timeout", "quarantined"])
def test_the_dispatcher_answers_calls_in_their_format(kind: str) -> None:
    header = b"\0\0\0\1\x80\0\0\5"
    body = CALL_ERRORS.error_reply(
        header + encode_call(77, "f", [], {}), len(header), kind, {"message": "so it is", "deaths": 2}
    )
    assert body is not None
    assert call_id_of(body) == 77
    with pytest.raises(SPError, match="so it is"):
        decode_answer(body, "f", 77)


def test_raw_requests_wait_when_the_server_is_busy_and_else_get_nothing() -> None:
    assert CALL_ERRORS.error_reply(b"headhello", 4, "busy", {"message": "full"}) is None
    assert CALL_ERRORS.error_reply(b"headhello", 4, "died", {"message": "dead"}) == b""


def test_calls_for_the_same_work_have_their_content_in_common() -> None:
    one, other = (b"head" + encode_call(number, "f", [1], {}, number) for number in (1, 2))
    assert one[CALL_ERRORS.content_at(one, 4) :] == other[CALL_ERRORS.content_at(other, 4) :]
    assert CALL_ERRORS.content_at(b"headhello", 4) == 4
