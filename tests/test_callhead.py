"""What a dispatcher reads of the call format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spworkers import callhead
from spworkers.workers import callformat


def test_every_message_of_a_client_is_known() -> None:
    call = callformat.encode_call(7, "render", [1], {"size": 2}, 1.5)
    next_ = callformat.encode_next(8, 3, 0.25)
    cancel = callformat.encode_cancel(9)
    for begin in (0, 4):
        payloads = [b"head"[:begin] + each for each in (call, next_, cancel)]
        assert [callhead.kind_at(each, begin) for each in payloads] == [callhead.CALL, callhead.NEXT, callhead.CANCEL]
        assert [callhead.id_at(each, begin) for each in payloads] == [n.to_bytes(8, "big") for n in (7, 8, 9)]
        assert [callhead.patience_at(each, begin) for each in payloads[:2]] == [1.5, 0.25]
        assert callhead.name_at(payloads[0], begin) == "render"
    assert callhead.patience_at(callformat.encode_call(7, "f", [], {}), 0) == 0.0
    assert callformat.decode_next(next_) == callformat.Next(8, 3)


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"\xc1\x10", b"\xc1\x10" + bytes(11), b"\xc1\x11" + bytes(20), b"\xc1\x15" + bytes(20)]
)
def test_all_else_is_not(body: bytes) -> None:
    assert callhead.kind_at(body, 0) == callhead.OTHER


@given(st.binary(max_size=40))
def test_nothing_breaks_it(tail: bytes) -> None:
    for kind in (callhead.CALL, callhead.NEXT, callhead.CANCEL):
        body = bytes((0xC1, kind)) + tail
        if callhead.kind_at(body, 0) == callhead.CALL:
            assert isinstance(callhead.name_at(body, 0), str)
